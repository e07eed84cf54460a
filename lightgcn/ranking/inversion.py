"""The inverse of a symmetric positive definite matrix, computed in place, for EASE."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.core.memory import available_memory

# Rows that are swept at a time: enough for matrix products at full speed.
_PANEL = 1024


def invert_(matrix: Tensor, *, progress: bool = False, title: str = "inverse") -> Tensor:
    """Overwrite the lower triangle of a matrix with that of its inverse, and return the matrix.

    The upper triangle is not read. This is the sweep operator (Goodnight, The American Statistician
    1979) on blocks. To sweep block k of A is, for all other blocks i and j,

        A_ij ← A_ij − A_ik A_kk⁻¹ A_kj,   A_ik ← A_ik A_kk⁻¹,   A_kk ← −A_kk⁻¹

    and once all are swept A is −A⁻¹. It takes n³ operations, as an inverse by Cholesky does, nearly
    all in matrix products, without a second matrix, and can be interrupted after each block.

    Args:
        matrix: (n, n) floating, symmetric and positive definite.
        progress: show a progress bar on a terminal.
        title: label of the bar.

    Raises:
        ValueError: if the matrix is not positive definite in its precision.
    """
    from tqdm import tqdm

    count = len(matrix)
    for first in tqdm(
        range(0, count, _PANEL), desc=title, unit="panel", disable=None if progress else True
    ):
        end = min(first + _PANEL, count)
        panel = torch.cat([matrix[first:end, :first].T, matrix[first:, first:end]])  # (n, b): A_ik
        factor, failed = torch.linalg.cholesky_ex(panel[first:end])
        if failed:
            raise ValueError(f"the matrix is not positive definite in {matrix.dtype}")
        inverse = torch.cholesky_inverse(factor)
        with torch.autocast(matrix.device.type, enabled=False):
            scaled = panel @ inverse
        for top in range(0, count, _PANEL):
            if top != first:
                bottom = min(top + _PANEL, count)
                matrix[top:bottom, :bottom].addmm_(scaled[top:bottom], panel[:bottom].T, alpha=-1)
        matrix[first:end, :first] = scaled[:first].T
        matrix[end:, first:end] = scaled[end:]
        matrix[first:end, first:end] = -inverse
    return matrix.neg_()


def reflect_(matrix: Tensor) -> Tensor:
    """Mirror the lower triangle of an (n, n) matrix to the upper one, in place; return it."""
    for first in range(0, len(matrix), _PANEL):
        end = first + _PANEL
        corner = matrix[first:end, first:end]
        corner.copy_(corner.tril() + corner.tril(-1).T)
        matrix[:first, first:end] = matrix[first:end, :first].T
    return matrix


def check_memory(num_items: int) -> None:
    """Raise a ValueError if EASE of ``num_items`` items needs more memory than is available."""
    # The matrix, two panels, and the sparse product of a block.
    needed = 4 * num_items * (num_items + 4 * _PANEL)
    available = available_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"EASE of {num_items:,} items needs {needed / 1e9:.1f} GB of memory (num_items² "
            f"float32), {available / 1e9:.1f} GB are available; leave it out, or keep fewer items "
            "(lightgcn.graph.k_core)"
        )
