"""Scores of links: dot products of the embeddings of their ends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightgcn.adjacency import Pattern

# Links whose rows are gathered at a time: 1 MiB a side at 32 columns, so that they are multiplied while in cache.
_LINKS_AT_A_TIME = 8192


def link_scores(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot products of rows of ``x``, differentiable (once) in it.

    The gradient, for each node the weighted sum of its partners' rows, is one gather-sum: no row of it is formed for
    each link, and it is added up in a fixed order.

    Args:
        x: (N, d) floating.
        left: (B,) int64 row numbers.
        right: (B,) int64 row numbers.

    Returns:
        (B,) of the dtype of ``x``.
    """
    scores: Tensor = _LinkScores.apply(x, left, right)  # type: ignore[no-untyped-call]
    return scores


class _LinkScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(x, left, right)
        scores = x.new_empty(len(left))
        # The step is not for other devices, where few large calls are best.
        step = _LINKS_AT_A_TIME if x.device.type == "cpu" else max(1, len(left))
        for first in range(0, len(left), step):
            links = slice(first, first + step)
            scores[links] = torch.linalg.vecdot(F.embedding(left[links], x), F.embedding(right[links], x))
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, left, right = ctx.saved_tensors
        nodes, order = torch.cat([left, right]).sort(stable=True)
        partners, weights = torch.cat([right, left])[order], grads[0].repeat(2)[order]
        ends = torch.searchsorted(nodes, torch.arange(len(x) + 1, device=x.device))
        return Pattern(ends, partners, weights).product(x), None, None
