"""Propagation: Σₖ αₖ Aᵏ x, with an exact gradient and memory that does not grow with the number of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightgcn.adjacency import Adjacency


def propagate(adjacency: Adjacency, x: Tensor, alpha: Tensor | Sequence[float]) -> Tensor:
    """Return Σₖ αₖ Aᵏ x for k = 0 … K (He et al., SIGIR 2020, eq. 4 and 8), differentiable in ``x`` and ``alpha``.

    Horner's rule: h ← α_K x, then h ← A h + αₖ x for k = K-1 … 0, which takes K products and two (N, d) buffers.
    The map is linear in x, so its gradient is the same polynomial in Aᵀ and no layer has to be stored.

    Args:
        adjacency: over N nodes.
        x: (N, d) floating: the layer-0 embeddings.
        alpha: (K + 1,) weights of the layers.

    Returns:
        (N, d) of the dtype of ``x``.

    Raises:
        ValueError: if the shapes do not fit or ``alpha`` is empty.
    """
    if x.ndim != 2 or x.shape[0] != adjacency.num_nodes or not x.is_floating_point():
        raise ValueError(
            f"x must be ({adjacency.num_nodes}, d) floating for {adjacency}, got {tuple(x.shape)} of {x.dtype}"
        )
    if not isinstance(alpha, Tensor):
        alpha = torch.tensor([float(weight) for weight in alpha], dtype=torch.float64)
    if alpha.ndim != 1 or len(alpha) == 0:
        raise ValueError(f"alpha must have shape (K + 1,) with K >= 0, got {tuple(alpha.shape)}")
    result: Tensor = _Propagate.apply(x, alpha, adjacency)  # type: ignore[no-untyped-call]
    return result


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, adjacency: Adjacency) -> Tensor:
        # x itself is needed only for the gradient of alpha.
        ctx.save_for_backward(alpha, *([x] if ctx.needs_input_grad[1] else []))
        ctx.adjacency = adjacency
        return _horner(adjacency, x.detach(), alpha.detach().tolist())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        alpha = ctx.saved_tensors[0]
        backwards = ctx.adjacency.T
        if not ctx.needs_input_grad[1]:
            return propagate(backwards, grad, alpha), None, None
        # ⟨g, Aᵏ x⟩ = ⟨(Aᵀ)ᵏ g, x⟩: the powers that the gradient of x adds up also give that of alpha.
        x = ctx.saved_tensors[1]
        power = grad
        grad_x = alpha[0].to(grad.dtype) * grad
        grad_alpha = [(power * x).sum()]
        for weight in alpha[1:]:
            power = backwards @ power
            grad_x = grad_x + weight.to(grad.dtype) * power
            grad_alpha.append((power * x).sum())
        return (grad_x if ctx.needs_input_grad[0] else None), torch.stack(grad_alpha).to(alpha.dtype), None


def _horner(adjacency: Adjacency, x: Tensor, alpha: Sequence[float]) -> Tensor:
    h = torch.mul(x, alpha[-1]).contiguous()
    for weight in reversed(alpha[:-1]):
        h = adjacency.product_(h)
        if weight:
            h.add_(x, alpha=weight)
    return h
