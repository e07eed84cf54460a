"""Propagation: Σₖ αₖ Aᵏ x, with an exact gradient and memory that does not grow with the number of
layers.

With A = D⁻ᵃ P D⁻ᵇ, Horner's rule is run on t = D⁻ᵇ h, where a layer is one gather-sum over the
pattern and one pass over its result:

    t ← D⁻⁽ᵃ⁺ᵇ⁾ (P t) + αₖ D⁻ᵇ x        for k = K-1 … 1, from t = α_K D⁻ᵇ x
    z = D⁻ᵃ (P t) + α₀ x

Where the adjacency has a half-precision table, t is kept in float16, times a power of two that puts
the largest sum of a row just below what float16 holds; the kernel adds up in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightgcn.core.buffer_pool import NO_REUSE, BufferPool
from lightgcn.graph.adjacency import Adjacency

# Bytes of a row of the table that a product gathers from: two cache lines.
_SLAB_BYTES = 128
# Rows that are scaled and cast at a time: 1 MiB of float32 at 64 columns.
_CAST_ROWS = 4096


def propagate(adjacency: Adjacency, x: Tensor, alpha: Tensor | Sequence[float]) -> Tensor:
    """Return Σₖ αₖ Aᵏ x for k = 0 … K (He et al., SIGIR 2020, eq. 4 and 8), differentiable in ``x``
    and ``alpha``.

    K products, and at most three (N, d) buffers beside ``x`` whatever K is (with learned weights
    their gradient takes more, the same for any K). The map is linear in x, so its gradient is the
    same polynomial in Aᵀ and no layer has to be stored.

    Args:
        adjacency: over N nodes.
        x: (N, d) floating: the layer-0 embeddings.
        alpha: (K + 1,) weights of the layers.

    Returns:
        (N, d) of the dtype of ``x``.

    Raises:
        ValueError: if the shapes do not fit or ``alpha`` is empty.
    """
    alpha = _checked(adjacency, x, alpha)
    result: Tensor = _Propagate.apply(x, alpha, adjacency)  # type: ignore[no-untyped-call]
    return result


def propagate_rows(
    adjacency: Adjacency,
    x: Tensor,
    alpha: Tensor | Sequence[float],
    nodes: Tensor,
    *,
    with_start: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return some rows of ``propagate(adjacency, x, alpha)``, and the same rows of ``x``: what a
    step looks at.

    On a CPU, with fixed weights, cheaper than to index both: neither the other rows nor two dense
    gradients are formed, and the adjacency keeps the tables that it is computed in for the next
    call (above 65,536 nodes). The gradient is added up in a fixed order. Differentiable once, in
    ``x`` and ``alpha``.

    Args:
        adjacency: over N nodes.
        x: (N, d) floating.
        alpha: (K + 1,) weights of the layers.
        nodes: (B,) int64 node numbers, repeats allowed.
        with_start: whether the layer-0 embeddings are wanted.

    Returns:
        (B, d) final and (B, d) layer-0 embeddings; (0, d) where these are not wanted.

    Raises:
        ValueError: as `propagate`, and if ``nodes`` is not (B,) int64.
    """
    alpha = _checked(adjacency, x, alpha)
    if nodes.ndim != 1 or nodes.dtype != torch.int64:
        raise ValueError(f"nodes must be (B,) int64, got {tuple(nodes.shape)} of {nodes.dtype}")
    if alpha.requires_grad or x.device.type != "cpu":
        # The gradient of the layer weights needs every row of every power; and to add up rows by
        # node, a device would have to tell how many nodes there are, for which it is waited in
        # every step.
        return F.embedding(nodes, propagate(adjacency, x, alpha)), F.embedding(
            nodes if with_start else nodes[:0], x
        )
    final, start = _PropagateRows.apply(x, alpha, adjacency, nodes, with_start)  # type: ignore[no-untyped-call]
    return final, start


def _checked(adjacency: Adjacency, x: Tensor, alpha: Tensor | Sequence[float]) -> Tensor:
    if x.ndim != 2 or x.shape[0] != adjacency.num_nodes or not x.is_floating_point():
        raise ValueError(
            f"x must be ({adjacency.num_nodes}, d) floating for {adjacency}, got {tuple(x.shape)} "
            f"of {x.dtype}"
        )
    if not isinstance(alpha, Tensor):
        alpha = torch.tensor([float(weight) for weight in alpha], dtype=torch.float64)
    if alpha.ndim != 1 or len(alpha) == 0:
        raise ValueError(f"alpha must have shape (K + 1,) with K >= 0, got {tuple(alpha.shape)}")
    return alpha


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, adjacency: Adjacency) -> Tensor:
        # x itself is needed only for the gradient of alpha.
        ctx.save_for_backward(alpha, *([x] if ctx.needs_input_grad[1] else []))
        ctx.adjacency = adjacency
        return _polynomial(adjacency, x.detach(), alpha.detach().tolist())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        alpha = ctx.saved_tensors[0]
        backwards = ctx.adjacency.T
        if not ctx.needs_input_grad[1]:
            return propagate(backwards, grad, alpha), None, None
        # ⟨g, Aᵏ x⟩ = ⟨(Aᵀ)ᵏ g, x⟩: the powers that the gradient of x adds up also give that of
        # alpha.
        x = ctx.saved_tensors[1]
        power = grad
        grad_x = alpha[0].to(grad.dtype) * grad
        grad_alpha = [(power * x).sum()]
        for weight in alpha[1:]:
            power = backwards @ power
            grad_x = grad_x + weight.to(grad.dtype) * power
            grad_alpha.append((power * x).sum())
        return (
            (grad_x if ctx.needs_input_grad[0] else None),
            torch.stack(grad_alpha).to(alpha.dtype),
            None,
        )


class _PropagateRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, adjacency: Adjacency, nodes: Tensor, with_start: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(nodes)
        ctx.set_materialize_grads(False)
        ctx.adjacency, ctx.alpha, ctx.with_start = adjacency, alpha.tolist(), with_start
        start = F.embedding(nodes, x)
        final = start * ctx.alpha[0] if with_start else start.mul_(ctx.alpha[0])
        buffers = adjacency.pattern.buffers_for(x)
        for columns, layers in _column_slabs(adjacency, x, ctx.alpha, buffers):
            out = buffers.acquire_like(layers.table) if buffers.keep else None
            product = adjacency.pattern.product(layers.table, out)
            for first in range(0, len(nodes), _CAST_ROWS):
                rows = slice(first, first + _CAST_ROWS)
                part = F.embedding(nodes[rows], product).to(x.dtype)
                final[rows, columns] += (
                    part if layers.row is None else part.mul_(layers.row[nodes[rows]])
                )
            buffers.release(product)
            del layers, product, out
        return final, start if with_start else x.new_empty(0, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        (nodes,) = ctx.saved_tensors
        grads = grads if ctx.with_start else (grads[0], None)
        given = [grad for grad in grads if grad is not None]
        if not given:
            return None, None, None, None, None
        distinct, sums = _sum_by_node(
            nodes, given[0] if len(given) == 1 else torch.cat(given, dim=1)
        )
        parts = iter(sums.chunk(len(given), dim=1))
        final, start = (None if grad is None else next(parts) for grad in grads)
        # What flows through layer 0 alone touches these rows only, and is added to them at the end.
        if final is None:
            assert start is not None
            grad = start.new_zeros(ctx.adjacency.num_nodes, start.shape[1])
            grad[distinct] = start
            return grad, None, None, None, None
        backwards = ctx.adjacency.T
        grad = _polynomial(
            backwards, final, [0.0, *ctx.alpha[1:]], distinct, backwards.pattern.buffers_for(final)
        )
        for first in range(0, len(distinct), _CAST_ROWS):
            rows = slice(first, first + _CAST_ROWS)
            near = final[rows] * ctx.alpha[0]
            grad[distinct[rows]] += near if start is None else near.add_(start[rows])
        return grad, None, None, None, None


def _sum_by_node(nodes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the rows of each node: (n,) distinct nodes, increasing, and (n, d) sums, in an order
    that is fixed."""
    ordered, order = nodes.sort(stable=True)
    distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
    ends = F.pad(counts.cumsum(0), (1, 0))
    if rows.dtype == torch.float64 or not len(nodes):
        return distinct, torch.segment_reduce(rows[order], "sum", offsets=ends, axis=0)
    return distinct, F.embedding_bag(order, rows, ends, mode="sum", include_last_offset=True)


def _polynomial(
    adjacency: Adjacency,
    x: Tensor,
    alpha: Sequence[float],
    at: Tensor | None = None,
    buffers: BufferPool = NO_REUSE,
) -> Tensor:
    """Return Σₖ αₖ Aᵏ x in its own tensor; with ``at``, x has the rows of these nodes alone, others
    and α₀ are 0."""
    shape = (adjacency.num_nodes, x.shape[1])
    if not any(alpha[1:]) or not x.numel():
        return x * alpha[0] if at is None else x.new_zeros(shape)
    result = None
    for columns, layers in _column_slabs(adjacency, x, alpha, buffers, at):
        for rows, product in adjacency.pattern.products(layers.table):
            part = product.to(x.dtype)
            if layers.row is not None:
                part.mul_(layers.row[rows])
            if part.shape == shape:
                return part.add_(x, alpha=alpha[0]) if alpha[0] else part
            if result is None:
                result = buffers.acquire(shape, x.dtype, x.device)
                buffers.clear()  # where a step holds most, none waits
            if alpha[0]:
                torch.add(part, x[rows, columns], alpha=alpha[0], out=result[rows, columns])
            else:
                result[rows, columns] = part
        # Free before the next slab is begun.
        del layers, product, part
    assert result is not None
    return result


class _Layers(NamedTuple):
    """All layers but the last product, for some columns of x: there z = ``row`` * (P ``table``) +
    α₀ x."""

    table: Tensor  # (N, w), in float16 or the dtype of x
    row: Tensor | None  # (N, 1) of the dtype of x; None for ones


def _column_slabs(
    adjacency: Adjacency,
    x: Tensor,
    alpha: Sequence[float],
    buffers: BufferPool,
    at: Tensor | None = None,
) -> Iterator[tuple[slice, _Layers]]:
    """Run Horner's rule down to the last product, some columns of ``x`` at a time; none where only
    layer 0 has weight.

    A product acts on each column alone. On a CPU it takes about half the time for the same columns
    where a row of the table is two cache lines at most, so that the rows that come up often stay in
    cache."""
    highest = max((k for k, weight in enumerate(alpha) if weight), default=0)
    if highest == 0 or not x.numel():
        return
    weights = alpha[1 : highest + 1]
    largest = max(weights, key=abs)
    ratios = [weight / largest for weight in weights]
    half = adjacency.gathers_half(x)
    scale = _half_scale(adjacency, x, weights) if half else 1.0
    dtype = torch.float16 if half else x.dtype
    row = adjacency.row_scale
    if row is None and scale != 1:
        row = torch.ones(adjacency.num_nodes, dtype=torch.float64, device=x.device)
    factor = None if row is None else row.div(scale).to(x.dtype).unsqueeze(1)

    width = x.shape[1]
    if x.device.type == "cpu" and dtype != torch.float64:
        width = _SLAB_BYTES // dtype.itemsize
    for first in range(0, x.shape[1], width):
        columns = slice(first, first + width)
        # Not kept under a name: the start of the layers is done with once the last table is there.
        table = _last_table(
            adjacency,
            _scaled(adjacency, x[:, columns], largest * scale, dtype, at, buffers),
            ratios,
            buffers,
        )
        yield columns, _Layers(table, factor)
        buffers.release(table)
        del table


def _last_table(
    adjacency: Adjacency, start: Tensor, weights: Sequence[float], buffers: BufferPool
) -> Tensor:
    """Return t of the last product; ``start`` is D⁻ᵇ x times the largest weight, by which
    ``weights`` are divided."""
    table = (
        start
        if weights[-1] == 1
        else torch.mul(start, weights[-1], out=buffers.acquire_like(start))
    )
    factor, unit = adjacency.descale(start.dtype)
    for weight in reversed(weights[:-1]):
        other = None
        for rows, product in adjacency.pattern.products(table):
            scale = None if factor is None else factor[rows]
            if len(product) == len(start):
                other = _add_layer(product, scale, unit, start, weight, product)
            else:
                # Blocks are added to while they are in cache, on their way to where they belong.
                other = buffers.acquire_like(start) if other is None else other
                _add_layer(product, scale, unit, start[rows], weight, other[rows])
        assert other is not None
        if table is not start:
            buffers.release(table)
        table = other
        del other, product
    if table is not start:
        buffers.release(start)
    return table


def _add_layer(
    product: Tensor, factor: Tensor | None, unit: float, start: Tensor, weight: float, out: Tensor
) -> Tensor:
    """Write ``factor`` * ``unit`` * ``product`` + ``weight`` * ``start`` to ``out``; ``product``
    may change."""
    if factor is None:
        return torch.add(product, start, alpha=weight, out=out)
    if weight == 1:
        return torch.addcmul(start, product, factor, value=unit, out=out)
    if product.dtype != torch.float16:
        return torch.add(product.mul_(factor), start, alpha=weight, out=out)
    # The product times the factor alone could leave float16.
    for first in range(0, len(start), _CAST_ROWS):
        rows = slice(first, first + _CAST_ROWS)
        torch.addcmul(start[rows] * weight, product[rows], factor[rows], value=unit, out=out[rows])
    return out


def _scaled(
    adjacency: Adjacency,
    x: Tensor,
    factor: float,
    dtype: torch.dtype,
    at: Tensor | None,
    buffers: BufferPool,
) -> Tensor:
    """Return (N, w) D⁻ᵇ x times a number, contiguous and in another dtype; ``at`` as in
    `_polynomial`."""
    scale = adjacency.column_scale
    column = None if scale is None else scale.mul(factor).to(x.dtype).unsqueeze(1)
    if at is not None:
        result = buffers.acquire((adjacency.num_nodes, x.shape[1]), dtype, x.device).zero_()
        for first in range(0, len(at), _CAST_ROWS):
            rows = slice(first, first + _CAST_ROWS)
            result[at[rows]] = (x[rows] * (factor if column is None else column[at[rows]])).to(
                dtype
            )
        return result
    result = buffers.acquire((len(x), x.shape[1]), dtype, x.device)
    if dtype == x.dtype:
        return torch.mul(x, factor if column is None else column, out=result)
    buffer = x.new_empty(min(len(x), _CAST_ROWS), x.shape[1])
    for first in range(0, len(x), _CAST_ROWS):
        rows = slice(first, min(first + _CAST_ROWS, len(x)))
        part = buffer[: rows.stop - first]
        torch.mul(x[rows], factor if column is None else column[rows], out=part)
        result[rows] = part
    return result


def _half_scale(adjacency: Adjacency, x: Tensor, weights: Sequence[float]) -> float:
    """Return the power of two that a float16 table is multiplied by, so that no sum over a row can
    overflow.

    No layer enlarges the largest entry (`Adjacency.averages`), so this scale serves all layers.
    """
    low, high = x.aminmax()
    bound = max(-float(low), float(high)) * adjacency.largest_column_scale * sum(map(abs, weights))
    bound *= max(adjacency.max_degree, 1)
    if not (0 < bound < math.inf):
        return 1.0
    return 2.0 ** min(math.floor(math.log2(2**15 / bound)), 120)
