"""Propagation: Σₖ αₖ Aᵏ x, with an exact gradient and memory that does not grow with the number of
layers.

With A = D⁻ᵃ P D⁻ᵇ, Horner's rule is run on t = D⁻ᵇ h, where a layer is one gather-sum over the
pattern and one pass over its result:

    t ← D⁻⁽ᵃ⁺ᵇ⁾ (P t) + αₖ D⁻ᵇ x        for k = K-1 … 1, from t = α_K D⁻ᵇ x
    z = D⁻ᵃ (P t) + α₀ x

On a device, a layer is one product with A as a CSR matrix: z = Σₖ αₖ Aᵏ x by t ← A t + αₖ x.

If the adjacency has half-precision tables, t is kept in float16, times a power of two that puts the
largest sum of a row just below the largest float16; the kernel adds up in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.buffer_pool import NO_REUSE, BufferPool
from lightgcn.core.checks import check_same_device
from lightgcn.graph.adjacency import Adjacency, batch_by_columns
from lightgcn.graph.pattern import row_blocks

# Bytes of a row of the table that a product gathers from: two cache lines.
_SLAB_BYTES = 128

# Layer weights: numbers are constants; a tensor is differentiated and never read by the host.
Alpha = Tensor | tuple[float, ...]


def propagate(adjacency: Adjacency, x: Tensor, alpha: Tensor | Sequence[float]) -> Tensor:
    """Return Σₖ αₖ Aᵏ x for k = 0 … K (He et al., SIGIR 2020, eq. 4 and 8), differentiable in ``x``
    and ``alpha``.

    K products, and at most three (N, d) buffers beside ``x`` whatever K is (the gradient of a
    tensor ``alpha`` takes more, the same for any K). The map is linear in x, so its gradient is the
    same polynomial in Aᵀ and no layer is stored. Works with `torch.func` and `torch.compile`;
    autocast does not change its precision.

    Args:
        adjacency: over N nodes.
        x: (N, d) floating: the layer-0 embeddings.
        alpha: K + 1 weights of the layers: numbers, the faster form, or a (K + 1,) tensor.

    Returns:
        (N, d) of the dtype of ``x``.

    Raises:
        ValueError: if a shape or device does not fit or ``alpha`` is empty.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions, normalized_adjacency, propagate
        >>> graph = Interactions.from_edge_index(torch.tensor([[0, 0], [0, 1]]))
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])  # user 0, items 0 and 1
        >>> propagate(normalized_adjacency(graph, "mean"), x, [0.5, 0.5])
        tensor([[2.0000],
                [1.5000],
                [2.5000]])
    """
    weights = _checked(adjacency, x, alpha)
    result: Tensor = _Propagate.apply(x, weights, adjacency)  # type: ignore[no-untyped-call]
    return result


def propagate_rows(
    adjacency: Adjacency,
    x: Tensor,
    alpha: Tensor | Sequence[float],
    nodes: Tensor,
    *,
    with_start: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return some rows of ``propagate(adjacency, x, alpha)`` and the same rows of ``x``, as a
    training step needs them.

    On a CPU with constant weights, cheaper than to index both: neither the other rows nor two dense
    gradients are formed, and a large adjacency (more than 131,072 nodes) keeps its work buffers for
    the next call. The gradient is added up in a fixed order.

    Args:
        adjacency: over N nodes.
        x: (N, d) floating.
        alpha: as for `propagate`.
        nodes: (B,) int64 node numbers, repeats allowed.
        with_start: whether to return the layer-0 embeddings.

    Returns:
        (B, d) final and (B, d) layer-0 embeddings; the latter (0, d) unless ``with_start``.

    Raises:
        ValueError: as `propagate`, and if ``nodes`` is not (B,) int64.

    Example:
        >>> from lightgcn import Interactions, normalized_adjacency
        >>> adjacency = normalized_adjacency(Interactions([0], [0], num_users=1, num_items=1))
        >>> final, start = propagate_rows(
        ...     adjacency, torch.eye(2), [0.0, 1.0], torch.tensor([0])
        ... )
        >>> final, start
        (tensor([[0., 1.]]), tensor([[1., 0.]]))
    """
    weights = _checked(adjacency, x, alpha)
    if not isinstance(nodes, Tensor):
        raise TypeError(f"nodes must be a (B,) int64 tensor, got {type(nodes).__name__}")
    if nodes.ndim != 1 or nodes.dtype != torch.int64:
        raise ValueError(f"nodes must be (B,) int64, got {tuple(nodes.shape)} of {nodes.dtype}")
    check_same_device(x=x, nodes=nodes)
    if isinstance(weights, Tensor) or x.device.type != "cpu":
        # The gradient of the layer weights needs all rows; to add up rows by node, a device would
        # have to count the distinct nodes, and the host to wait for it in every step.
        return _plain_rows(adjacency, x, weights, nodes, with_start)
    final, start = _PropagateRows.apply(x, weights, adjacency, nodes, with_start)  # type: ignore[no-untyped-call]
    return final, start


def _plain_rows(
    adjacency: Adjacency, x: Tensor, alpha: Alpha, nodes: Tensor, with_start: bool
) -> tuple[Tensor, Tensor]:
    start = F.embedding(nodes, x) if with_start else x.new_empty(0, x.shape[1])
    return F.embedding(nodes, propagate(adjacency, x, alpha)), start


def _checked(adjacency: Adjacency, x: Tensor, alpha: Tensor | Sequence[float]) -> Alpha:
    if not isinstance(adjacency, Adjacency):
        raise TypeError(
            f"adjacency must be an Adjacency, got {type(adjacency).__name__}; "
            "normalized_adjacency(interactions) makes one"
        )
    adjacency.check_operand(x)
    weights = alpha if isinstance(alpha, Tensor) else _numbers(alpha)
    shape = tuple(weights.shape) if isinstance(weights, Tensor) else (len(weights),)
    if len(shape) != 1 or shape == (0,):
        raise ValueError(f"alpha must have shape (K + 1,) with K >= 0, got {shape}")
    return weights


def _numbers(alpha: Any) -> tuple[float, ...]:
    try:
        return tuple(map(float, alpha))
    except (TypeError, ValueError) as error:
        raise ValueError(f"alpha must be K + 1 numbers or a tensor, got {alpha!r:.80}") from error


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, alpha: Alpha, adjacency: Adjacency) -> Tensor:
        x = x.detach()
        if not isinstance(alpha, Tensor):
            return _polynomial(adjacency, x, alpha)
        *weights, last = alpha.detach().to(x.dtype)
        result: Tensor = last * x
        for weight in reversed(weights):
            result = adjacency.product(result).addcmul_(x, weight)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, alpha, ctx.adjacency = inputs
        ctx.alpha = alpha
        if isinstance(alpha, Tensor):
            ctx.alpha = None
            ctx.save_for_backward(x, alpha)
            ctx.save_for_forward(x, alpha)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        backwards = ctx.adjacency.T
        if ctx.alpha is not None:
            return propagate(backwards, grad, ctx.alpha), None, None
        # ⟨g, Aᵏ x⟩ = ⟨(Aᵀ)ᵏ g, x⟩: the powers that add up to the gradient of x also give alpha's.
        x, alpha = ctx.saved_tensors
        power = grad
        grad_x = alpha[0].to(grad.dtype) * grad
        grad_alpha = [(power * x).sum()]
        for weight in alpha[1:]:
            power = backwards @ power
            grad_x = grad_x + weight.to(grad.dtype) * power
            grad_alpha.append((power * x).sum())
        return grad_x, torch.stack(grad_alpha).to(alpha.dtype), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, alpha: Alpha, adjacency: Adjacency
    ) -> tuple[Tensor, int]:
        if not isinstance(alpha, Tensor) or in_dims[1] is None:
            return batch_by_columns(lambda x: propagate(adjacency, x, alpha), x, in_dims[0])
        results = [
            propagate(adjacency, x if in_dims[0] is None else x.select(in_dims[0], i), weights)
            for i, weights in enumerate(alpha.unbind(in_dims[1]))
        ]
        return torch.stack(results), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        along_x, along_alpha, _ = tangents
        x, alpha = ctx.saved_tensors if ctx.alpha is None else (along_x, ctx.alpha)
        parts: list[Tensor] = []
        if along_x is not None:
            parts.append(propagate(ctx.adjacency, along_x, alpha))
        if along_alpha is not None:
            parts.append(propagate(ctx.adjacency, x, along_alpha))
        return torch.stack(parts).sum(0)


class _PropagateRows(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        alpha: tuple[float, ...],
        adjacency: Adjacency,
        nodes: Tensor,
        with_start: bool,
    ) -> tuple[Tensor, Tensor]:
        x = x.detach()
        start = F.embedding(nodes, x)
        final = start * alpha[0] if with_start else start.mul_(alpha[0])
        buffers = adjacency.pattern.buffers_for(x)
        for columns, layers in _column_slabs(adjacency, x, alpha, buffers):
            product = adjacency.pattern.product(layers.table, buffers)
            for rows in row_blocks(len(nodes)):
                part = F.embedding(nodes[rows], product).to(x.dtype)
                final[rows, columns] += (
                    part if layers.row is None else part.mul_(layers.row[nodes[rows]])
                )
            buffers.release(product)
            del layers, product
        return final, start if with_start else x.new_empty(0, x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.alpha, ctx.adjacency, nodes, ctx.with_start = inputs
        ctx.save_for_backward(nodes)
        ctx.save_for_forward(nodes)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        (nodes,) = ctx.saved_tensors
        final, start = grads if ctx.with_start else (grads[0], None)
        given = [grad for grad in (final, start) if grad is not None]
        if not given:
            return None, None, None, None, None
        backwards = ctx.adjacency.T
        if torch.is_grad_enabled():  # for second derivatives: slower, and differentiable itself
            grad = given[0].new_zeros(backwards.num_nodes, given[0].shape[1])
            if final is not None:
                grad = propagate(backwards, grad.index_add(0, nodes, final), ctx.alpha)
            if start is not None:
                grad = grad.index_add(0, nodes, start)
            return grad, None, None, None, None
        distinct, sums = _sum_by_node(
            nodes, given[0] if len(given) == 1 else torch.cat(given, dim=1)
        )
        parts = iter(sums.chunk(len(given), dim=1))
        final, start = (None if grad is None else next(parts) for grad in (final, start))
        # What flows through layer 0 alone touches these rows only, and is added to them at the end.
        if final is None:
            assert start is not None
            grad = start.new_zeros(backwards.num_nodes, start.shape[1])
            grad[distinct] = start
            return grad, None, None, None, None
        grad = _polynomial(
            backwards, final, (0.0, *ctx.alpha[1:]), distinct, backwards.pattern.buffers_for(final)
        )
        for rows in row_blocks(len(distinct)):
            near = final[rows] * ctx.alpha[0]
            grad[distinct[rows]] += near if start is None else near.add_(start[rows])
        return grad, None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        alpha: Alpha,
        adjacency: Adjacency,
        nodes: Tensor,
        with_start: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rows = torch.vmap(
            lambda x, nodes: _plain_rows(adjacency, x, alpha, nodes, with_start),
            (in_dims[0], in_dims[3]),
        )
        return rows(x, nodes), (0, 0)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        (nodes,) = ctx.saved_tensors
        return propagate_rows(
            ctx.adjacency, tangents[0], ctx.alpha, nodes, with_start=ctx.with_start
        )


def _sum_by_node(nodes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the rows of each node, in a fixed order: (n,) distinct nodes, increasing, and (n, d)
    sums."""
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
    """Return Σₖ αₖ Aᵏ x in a new tensor; with ``at``, x has the rows of these nodes alone, others
    and α₀ are 0."""
    shape = (adjacency.num_nodes, x.shape[1])
    if not any(alpha[1:]) or not x.numel():
        return x * alpha[0] if at is None else x.new_zeros(shape)
    if x.device.type != "cpu" and at is None:
        return _by_matrix(adjacency.matrix(x.dtype), x, alpha)
    result = None
    for columns, layers in _column_slabs(adjacency, x, alpha, buffers, at):
        product = adjacency.pattern.product(layers.table, buffers)
        if result is None:
            buffers.clear()  # from here on a step holds most memory
        part = product.to(x.dtype)
        if layers.row is not None:
            part.mul_(layers.row)
        if part.shape == shape:
            result = part.add_(x, alpha=alpha[0]) if alpha[0] else part
        else:
            result = x.new_empty(shape) if result is None else result
            if alpha[0]:
                torch.add(part, x[:, columns], alpha=alpha[0], out=result[:, columns])
            else:
                result[:, columns] = part
        if product is not result:
            buffers.release(product)
        # Free before the next slab begins.
        del layers, product, part
    assert result is not None
    return result


def _by_matrix(matrix: Tensor, x: Tensor, alpha: Sequence[float]) -> Tensor:
    """Horner's rule with one kernel a layer: t ← A t + αₖ x, from t = α_K A x + α_(K-1) x."""
    highest = max(k for k, weight in enumerate(alpha) if weight)
    *weights, last = alpha[: highest + 1]
    x = x.contiguous()
    with torch.autocast(x.device.type, enabled=False):
        result = torch.addmm(x, matrix, x, beta=weights[-1], alpha=last)
        for weight in reversed(weights[:-1]):
            result = torch.addmm(x, matrix, result, beta=weight)
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
    """Run Horner's rule down to the last product, some columns of ``x`` at a time; yield nothing if
    only layer 0 has weight.

    A product acts on each column alone. On a CPU it takes about half the time for the same columns
    if a row of the table is two cache lines at most, so that rows that are used often stay in
    cache."""
    highest = max([0, *(k for k, weight in enumerate(alpha) if weight)])
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
        # The start of the layers has no name here, so that it is freed once it is not needed.
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
        product = adjacency.pattern.product(table, buffers)
        if table is not start:
            buffers.release(table)
        table = _add_layer(product, factor, unit, start, weight)
    if table is not start:
        buffers.release(start)
    return table


def _add_layer(
    product: Tensor, factor: Tensor | None, unit: float, start: Tensor, weight: float
) -> Tensor:
    """Return ``factor`` * ``unit`` * ``product`` + ``weight`` * ``start``, in ``product``."""
    if factor is None:
        return product.add_(start, alpha=weight)
    if weight != 1 and product.dtype != torch.float16:
        return product.mul_(factor).add_(start, alpha=weight)
    # In float16 the product times the factor alone could overflow.
    start = start if weight == 1 else start * weight
    return torch.addcmul(start, product, factor, value=unit, out=product)


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
    result = buffers.acquire((adjacency.num_nodes, x.shape[1]), dtype, x.device)
    if at is None and dtype == x.dtype:
        return torch.mul(x, factor if column is None else column, out=result)
    if at is not None:
        result.zero_()
    for rows in row_blocks(len(x)):
        nodes = rows if at is None else at[rows]
        result[nodes] = (x[rows] * (factor if column is None else column[nodes])).to(dtype)
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
