"""Scores of pairs: dot products of rows of an embedding table."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.pattern import Pattern

# Links whose rows are gathered at a time: 1 MiB a side at 32 columns, so that they are multiplied
# while in cache.
_LINKS_AT_A_TIME = 8192


def link_scores(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot products of rows of ``x``, differentiable in it.

    The gradient, for each node the weighted sum of its partners' rows, is one gather-sum: no row of
    it is formed for each link, and it is added up in a fixed order.

    Args:
        x: (N, d) floating.
        left: (B,) int64 row numbers.
        right: (B,) int64 row numbers.

    Returns:
        (B,) of the dtype of ``x``.
    """
    # A sum of products in the embeddings' own dtype, whatever a caller's autocast would have of a
    # matrix product.
    with torch.autocast(x.device.type, enabled=False):
        scores: Tensor = _LinkScores.apply(x, left, right)  # type: ignore[no-untyped-call]
    return scores


def products(x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot products of rows of ``x`` with rows of ``y``, a pair's the same whatever
    others there are.

    Args:
        x: (N, d) floating.
        y: (M, d) floating; half precision is added up in float32.
        left: (B,) int64 rows of ``x``.
        right: (B,) int64 rows of ``y``.

    Returns:
        (B,) of the wider dtype of the two, float32 at least.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    scores = x.new_empty(len(left), dtype=dtype)
    # The step is not for other devices, where few large calls are best.
    step = _LINKS_AT_A_TIME if x.device.type == "cpu" else max(1, len(left))
    for first in range(0, len(left), step):
        pairs = slice(first, first + step)
        rows = F.embedding(left[pairs], x).to(dtype) * F.embedding(right[pairs], y).to(dtype)
        torch.sum(rows, 1, out=scores[pairs])
    return scores


class _LinkScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(x, left, right)
        rows = x.detach()  # which says so to compilers of old that look in here
        return products(rows, rows, left, right).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, left, right = ctx.saved_tensors
        nodes, partners, weights = (
            torch.cat([left, right]),
            torch.cat([right, left]),
            grads[0].repeat(2),
        )
        if torch.is_grad_enabled():  # for second derivatives: slower, and differentiable itself
            rows = F.embedding(partners, x) * weights.unsqueeze(1)
            return torch.zeros_like(x).index_add(0, nodes, rows), None, None
        nodes, order = nodes.sort(stable=True)
        ends = torch.searchsorted(nodes, torch.arange(len(x) + 1, device=x.device))
        return Pattern(ends, partners[order], weights[order]).product(x), None, None
