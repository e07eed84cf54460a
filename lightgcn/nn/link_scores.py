"""Scores of pairs: dot products of rows of an embedding table."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.pattern import Pattern

# Links whose rows a CPU gathers at a time: 4 MB a side at 64 columns, which stay in cache.
_LINKS_AT_A_TIME = 1 << 14


def link_scores(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot products of rows of ``x``, differentiable in it.

    The gradient of a node is the weighted sum of its partners' rows, computed as one gather-sum in
    a fixed order, without a row for each link. Works with `torch.func` and `torch.compile`;
    autocast does not change its precision.

    Args:
        x: (N, d) floating; half precision is added up in float32.
        left: (B,) int64 row numbers.
        right: (B,) int64 row numbers.

    Returns:
        (B,) of the dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> link_scores(x, torch.tensor([0, 1]), torch.tensor([1, 2]))
        tensor([11., 39.])
    """
    scores: Tensor = _LinkScores.apply(x, left, right)  # type: ignore[no-untyped-call]
    return scores


def products(x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the dot products of rows of ``x`` with rows of ``y``; a pair's score does not depend
    on the other pairs.

    Args:
        x: (N, d) floating.
        y: (M, d) floating; half precision is added up in float32.
        left: (B,) int64 rows of ``x``.
        right: (B,) int64 rows of ``y``.

    Returns:
        (B,) of the wider dtype of the two, float32 at least.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    step = _LINKS_AT_A_TIME if x.device.type == "cpu" else max(1, len(left))
    parts = [
        (F.embedding(some, x).to(dtype) * F.embedding(others, y).to(dtype)).sum(1)
        for some, others in zip(left.split(step), right.split(step), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def unit_rows(rows: Tensor) -> Tensor:
    """Return (N, d) rows at length 1, float32 or wider; a row of zeros stays zero.

    In float16 the smallest length that `F.normalize` divides by rounds to 0.
    """
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)))


class _LinkScores(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        x = x.detach()
        return products(x, x, left, right).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, left, right = ctx.saved_tensors
        nodes, partners = torch.cat([left, right]), torch.cat([right, left])
        weights = grads[0].repeat(2)
        if torch.is_grad_enabled():  # for second derivatives: slower, and differentiable itself
            rows = F.embedding(partners, x) * weights.unsqueeze(1)
            return torch.zeros_like(x).index_add(0, nodes, rows), None, None
        nodes, order = nodes.sort(stable=True)
        every = torch.arange(len(x) + 1, dtype=torch.int64, device=x.device)
        ends = torch.searchsorted(nodes, every)
        return Pattern(ends, partners[order], weights[order]).product(x.contiguous()), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, left: Tensor, right: Tensor
    ) -> tuple[Tensor, int]:
        return torch.vmap(_plain, in_dims)(x, left, right), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tangent, (x, left, right) = tangents[0], ctx.saved_tensors
        by_left, by_right = (products(*pair, left, right) for pair in ((tangent, x), (x, tangent)))
        return (by_left + by_right).to(x.dtype)


def _plain(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return products(x, x, left, right).to(x.dtype)
