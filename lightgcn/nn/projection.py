"""Projection of features onto their leading principal directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that are converted to float64 at a time.
_BLOCK_ROWS = 1 << 16


def leading_projection(features: Tensor, width: int) -> Tensor:
    """Return (N, f) float32 features on their ``width`` leading principal directions, followed by
    zeros if f < width."""
    directions = torch.linalg.eigh(gram_matrix(features)).eigenvectors[:, -width:].flip(1).float()
    with torch.autocast(features.device.type, enabled=False):
        projected = features @ directions
    return F.pad(projected, (0, width - directions.shape[1]))


def gram_matrix(rows: Tensor) -> Tensor:
    """Return (d, d) float64 XᵀX of (N, d) floating rows X, on their device."""
    gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for block in rows.split(_BLOCK_ROWS):  # a whole copy in float64 is twice as large
        gram.addmm_(block.double().T, block.double())
    return gram
