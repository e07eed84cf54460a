"""Sorted and distinct numbers: edge keys are sorted whenever a graph is made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sort_values(values: Tensor) -> Tensor:
    """Return (n,) numbers in increasing order, in a new tensor without gradient.

    On a CPU by NumPy, whose vectorised sort is about three times as fast as `torch.sort`, which
    also forms the permutation."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return torch.from_numpy(np.sort(values.detach().numpy()))
    return values.detach().sort().values


def distinct_integers(values: Tensor) -> Tensor:
    """Return the distinct values of (n,) integers, increasing."""
    ordered = sort_values(values)
    if not len(ordered):
        return ordered
    first = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    return ordered if bool(first.all()) else ordered[first]
