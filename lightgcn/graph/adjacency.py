"""The normalised adjacency of the user-item graph, as a sparse operator.

With P = [[0, R], [Rᵀ, 0]] the symmetric pattern over users then items and D its degrees, A = D⁻ᵃ P
D⁻ᵇ:

    mean       a = 1,   b = 0     each node receives the mean of its neighbours
    symmetric  a = b = 1/2        the LightGCN paper's normalisation

P is its own transpose, so Aᵀ = D⁻ᵇ P D⁻ᵃ: one integer pattern and two scale vectors serve both
directions. Only weighted edges carry values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import INT32_END, as_tensor, check_same_device
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.pattern import Pattern

Normalization = Literal["mean", "symmetric"]
# What a call that propagates takes (`as_adjacency`).
Graph: TypeAlias = "Interactions | Adjacency | Tensor"
_EXPONENTS = {"mean": (1.0, 0.0), "symmetric": (0.5, 0.5)}


@dataclass(frozen=True, eq=False)
class Adjacency:
    """A normalised sparse adjacency: ``adjacency @ x`` and ``adjacency.T @ x``, differentiable in
    ``x``.

    Made by `normalized_adjacency` from interactions, or by `Adjacency.from_sparse` from a
    ``torch.sparse`` tensor. User u is node u, item i is node ``num_users + i``. An isolated node
    has an empty row: its product is zero.

    Attributes:
        pattern: the entries of P (of A, for a ``torch.sparse`` tensor).
        transposed: the same for Pᵀ; the same object if P is symmetric.
        row_scale: (N,) floating: D⁻ᵃ, or None for ones.
        column_scale: (N,) floating: D⁻ᵇ, or None for ones.
        num_users: number of user nodes.
        num_items: number of item nodes.
        dtype: of the values, as a tensor's.
        half_tables: whether `lightgcn.propagate` gathers float32 embeddings from a float16 copy,
            with sums in float32: 2 to 3 times faster on a CPU, and within 1e-3 of the norm (1e-4 as
            a rule; 1.2e-3 was seen through a hub of 100,000 edges). No effect on weighted edges,
            exponents other than a + b = 1, other dtypes and other devices.
        normalization: the exponents (a, b), or None if made from a ``torch.sparse`` tensor.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions, normalized_adjacency
        >>> graph = Interactions.from_edge_index(torch.tensor([[0, 0, 1], [0, 1, 1]]))
        >>> adjacency = normalized_adjacency(graph, "mean")
        >>> adjacency
        Adjacency(2 users + 2 items, 6 entries, torch.float32, cpu)
        >>> adjacency @ torch.tensor([[1.0], [2.0], [3.0], [5.0]])
        tensor([[4.0000],
                [5.0000],
                [1.0000],
                [1.5000]])
        >>> adjacency.normalization, adjacency.T.normalization
        ((1.0, 0.0), (0.0, 1.0))
    """

    pattern: Pattern
    transposed: Pattern
    row_scale: Tensor | None
    column_scale: Tensor | None
    num_users: int
    num_items: int
    dtype: torch.dtype = torch.float32
    half_tables: bool = False
    normalization: tuple[float, float] | None = None

    @classmethod
    def from_sparse(cls, matrix: Tensor, num_users: int, num_items: int) -> Adjacency:
        """Wrap an (N, N) ``torch.sparse`` tensor (COO, CSR or CSC), with its values as they are.

        Raises:
            ValueError: if the tensor is dense, not floating, requires a gradient, or is not (N, N)
                with N = ``num_users + num_items``.

        Example:
            >>> import torch
            >>> matrix = torch.tensor([[0.0, 0.5], [2.0, 0.0]]).to_sparse()
            >>> Adjacency.from_sparse(matrix, num_users=1, num_items=1).to_dense()
            tensor([[0.0000, 0.5000],
                    [2.0000, 0.0000]])
        """
        if not isinstance(matrix, Tensor):
            raise TypeError(f"expected a torch.sparse tensor, {_instead_of(matrix)}")
        if matrix.layout == torch.strided:
            raise ValueError(
                f"expected a torch.sparse tensor, got a dense one of {tuple(matrix.shape)}; "
                "matrix.to_sparse() makes one"
            )
        if not matrix.is_floating_point():
            raise ValueError(f"the adjacency must be floating, got {matrix.dtype}")
        _check_constant("the adjacency's values", matrix)
        nodes = num_users + num_items
        if matrix.shape != (nodes, nodes):
            raise ValueError(
                f"the adjacency must be ({nodes}, {nodes}) for {num_users} users and {num_items} "
                f"items, got {tuple(matrix.shape)}"
            )
        coo = matrix.to_sparse_coo().coalesce()
        pattern, transposed = Pattern.from_coo(coo), Pattern.from_coo(coo.t().coalesce())
        return cls(pattern, transposed, None, None, num_users, num_items, matrix.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_nodes(self) -> int:
        """Number of users plus items."""
        return self.num_users + self.num_items

    @property
    def device(self) -> torch.device:
        """Device of the entries."""
        return self.pattern.columns.device

    @cached_property
    def T(self) -> Adjacency:
        """The transpose; it shares all storage."""
        transpose = replace(
            self,
            pattern=self.transposed,
            transposed=self.pattern,
            row_scale=self.column_scale,
            column_scale=self.row_scale,
            normalization=self.normalization and self.normalization[::-1],
        )
        if self.normalization == transpose.normalization and self.transposed is self.pattern:
            transpose.__dict__["_matrices"] = self._matrices  # A is its own transpose
        return transpose

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply: (N, d) floating of any dtype gives (N, d) of that dtype; differentiable in
        ``x``."""
        self.check_operand(x)
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product

    def check_operand(self, x: Tensor) -> None:
        """Raise a ValueError unless ``x`` is (N, d) floating on this device."""
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            raise TypeError(f"x must be a dense tensor, got {x!r:.80}")
        if x.ndim != 2 or x.shape[0] != self.num_nodes or not x.is_floating_point():
            raise ValueError(
                f"x must be ({self.num_nodes}, d) floating for {self}, got {tuple(x.shape)} of "
                f"{x.dtype}"
            )
        check_same_device(x=x, adjacency=self)

    def product(self, x: Tensor) -> Tensor:
        """Return ``self @ x`` in a new tensor, without checks; not differentiable."""
        if x.device.type != "cpu":
            with torch.autocast(x.device.type, enabled=False):
                return self.matrix(x.dtype) @ x
        if self.column_scale is not None:
            x = x * self.column_scale.to(x.dtype).unsqueeze(1)
        y = self.pattern.product(x.contiguous())
        return y if self.row_scale is None else y.mul_(self.row_scale.to(x.dtype).unsqueeze(1))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return A as a kept (N, N) ``torch.sparse_csr`` tensor: on a device a layer of propagation
        is one product with it, where P and its scales would take several small kernels."""
        if dtype not in self._matrices:
            self._matrices[dtype] = self.to(dtype=dtype).to_sparse_csr()
        return self._matrices[dtype]

    @cached_property
    def _matrices(self) -> dict[torch.dtype, Tensor]:
        return {}

    def gathers_half(self, x: Tensor) -> bool:
        """Whether the product with ``x`` is made from a float16 copy of it."""
        fits = x.dtype == torch.float32 and x.device.type == "cpu" and self.pattern.values is None
        return self.half_tables and fits and self.averages

    def descale(self, dtype: torch.dtype) -> tuple[Tensor | None, float]:
        """Return D⁻⁽ᵃ⁺ᵇ⁾ as an (N, 1) tensor, None for ones, times a number.

        The number is a power of two: 1/degree itself can be too small for float16.
        """
        if dtype == torch.float16:
            return self._half_descale
        return (None if self._descale is None else self._descale.to(dtype).unsqueeze(1)), 1.0

    @cached_property
    def _descale(self) -> Tensor | None:
        """(N,) float64 D⁻⁽ᵃ⁺ᵇ⁾, None for ones."""
        scales = [scale for scale in (self.row_scale, self.column_scale) if scale is not None]
        return math.prod(scales[1:], start=scales[0]) if scales else None

    @cached_property
    def _half_descale(self) -> tuple[Tensor | None, float]:
        descale = self._descale
        if descale is None:
            return None, 1.0
        unit = 2.0 ** (math.ceil(math.log2(float(descale.max()) or 1.0)) - 15)
        return descale.div(unit).half().unsqueeze(1), unit

    @cached_property
    def max_degree(self) -> int:
        """The most entries in a row."""
        return int(self.pattern.row_ends.diff().max()) if self.num_nodes else 0

    @cached_property
    def averages(self) -> bool:
        """Whether D⁻⁽ᵃ⁺ᵇ⁾ P takes means (a + b = 1): then no layer can enlarge D⁻ᵇ h."""
        if self._descale is None or self.pattern.values is not None:
            return False
        degrees = self.pattern.row_ends.diff().double()
        return bool(((degrees * self._descale)[degrees > 0] - 1).abs().lt(1e-6).all())

    @cached_property
    def largest_column_scale(self) -> float:
        """The largest entry of D⁻ᵇ."""
        return 1.0 if self.column_scale is None else float(self.column_scale.max())

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Adjacency:
        """Return it on another device, in another floating dtype, or both; itself if nothing
        changes.

        Raises:
            ValueError: if ``dtype`` is not floating.
        """
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
        if device == self.device and dtype == self.dtype:
            return self
        pattern = self.pattern.to(device)
        transposed = pattern if self.transposed is self.pattern else self.transposed.to(device)
        # Scales stay in float64: a dtype change and back loses nothing.
        row, column = (
            None if scale is None else scale.to(device)
            for scale in (self.row_scale, self.column_scale)
        )
        return replace(
            self,
            pattern=pattern,
            transposed=transposed,
            row_scale=row,
            column_scale=column,
            dtype=dtype,
        )

    def to_sparse_csr(self) -> Tensor:
        """Return A as an (N, N) ``torch.sparse_csr`` tensor of ``dtype``."""
        ends, columns = self.pattern.row_ends, self.pattern.columns
        rows = torch.repeat_interleave(ends.diff().long(), output_size=len(columns))
        values = torch.ones(len(columns), dtype=torch.float64, device=self.device)
        for factor, nodes in ((self.row_scale, rows), (self.column_scale, columns)):
            if factor is not None:
                values *= factor[nodes]
        if self.pattern.values is not None:
            values *= self.pattern.values
        return Pattern(ends, columns, values).to_sparse_csr(self.dtype)

    def to_sparse_coo(self) -> Tensor:
        """Return A as a coalesced (N, N) ``torch.sparse_coo`` tensor of ``dtype``."""
        coo: Tensor = self.to_sparse_csr().to_sparse_coo()
        return coo.coalesce()

    def to_dense(self) -> Tensor:
        """Return A as a dense (N, N) tensor of ``dtype``: for small graphs."""
        return self.to_sparse_coo().to_dense()

    def __repr__(self) -> str:
        return (
            f"Adjacency({self.num_users} users + {self.num_items} items, "
            f"{len(self.pattern.columns)} entries, {self.dtype}, {self.device})"
        )


class _Product(torch.autograd.Function):
    """A x, with the gradient Aᵀ g."""

    @staticmethod
    def forward(x: Tensor, adjacency: Adjacency) -> Tensor:
        return adjacency.product(x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.adjacency = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.adjacency.T @ grads[0], None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], x: Tensor, adjacency: Adjacency
    ) -> tuple[Tensor, int]:
        return batch_by_columns(lambda x: adjacency @ x, x, in_dims[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        product: Tensor = ctx.adjacency @ tangents[0]
        return product


def batch_by_columns(
    function: Callable[[Tensor], Tensor], x: Tensor, dim: int
) -> tuple[Tensor, int]:
    """Map a function that acts on each column of (N, d) alone over dimension ``dim`` of a
    three-dimensional ``x``, in one call; return the results and their batch dimension."""
    stacked = x.movedim(dim, 1)
    return function(stacked.flatten(1)).unflatten(1, stacked.shape[1:]), 1


def normalized_adjacency(
    interactions: Interactions,
    normalization: Normalization | tuple[float, float] = "symmetric",
    *,
    dtype: torch.dtype = torch.float32,
    half_tables: bool = False,
) -> Adjacency:
    """Build A = D⁻ᵃ P D⁻ᵇ for a user-item graph, on the graph's device.

    With weighted edges P holds the weights and D the sums of weights (He et al., SIGIR 2020, eq. 3,
    for the unweighted case). `adjacency_of` does the same and keeps the result.

    Args:
        interactions: the graph that messages flow along.
        normalization: "mean" (a=1, b=0), "symmetric" (a=b=1/2), or the exponents (a, b).
        dtype: floating dtype of the values.
        half_tables: whether propagation on a CPU gathers from float16 copies (see `Adjacency`).

    Raises:
        TypeError: if ``interactions`` is not an `Interactions`; names what to pass instead.
        ValueError: for another ``normalization``, or edge weights that require a gradient.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions, normalized_adjacency
        >>> edge_index = torch.tensor([[0, 0, 1], [0, 1, 1]])  # users, items
        >>> graph = Interactions.from_edge_index(edge_index, num_users=2, num_items=2)
        >>> normalized_adjacency(graph, "mean").to_dense()
        tensor([[0.0000, 0.0000, 0.5000, 0.5000],
                [0.0000, 0.0000, 0.0000, 1.0000],
                [1.0000, 0.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000, 0.0000]])
    """
    _check_interactions(interactions)
    pair = exponents(normalization)
    on_cpu = interactions.device.type == "cpu"
    pattern, degrees = (_symmetric_pattern if on_cpu else _pattern_on_device)(interactions)
    row, column = (_scale(degrees, exponent) for exponent in pair)
    counts = interactions.num_users, interactions.num_items
    return Adjacency(
        pattern, pattern, row, column, *counts, dtype, half_tables=half_tables, normalization=pair
    ).to(dtype=dtype)


def adjacency_of(
    interactions: Interactions,
    normalization: Normalization | tuple[float, float] = "symmetric",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Adjacency:
    """Return `normalized_adjacency` of a graph, built on the first call and kept with the graph.

    Pickles and copies of the graph leave it out. All dtypes share one pattern.

    Args:
        interactions, normalization, dtype: as for `normalized_adjacency`.
        device: of the result; None for the graph's.

    Raises:
        TypeError: as `normalized_adjacency`.
        ValueError: as `normalized_adjacency`.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions
        >>> graph = Interactions.from_edge_index(torch.tensor([[0, 0, 1], [0, 1, 1]]))
        >>> adjacency_of(graph, "mean") is adjacency_of(graph, (1, 0))
        True
    """
    _check_interactions(interactions)
    pair = exponents(normalization)
    device = interactions.device if device is None else torch.device(device)
    kept: dict[Any, Adjacency] = interactions.__dict__.setdefault("_adjacencies", {})
    if (pair, device) not in kept:
        kept[pair, device] = normalized_adjacency(interactions, pair).to(device)
    return kept[pair, device].to(dtype=dtype)


def exponents(normalization: Normalization | tuple[float, float]) -> tuple[float, float]:
    """Return (a, b) of D⁻ᵃ P D⁻ᵇ for a normalisation given by name or as exponents.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(normalization, str):
        if normalization not in _EXPONENTS:
            raise ValueError(
                f"normalization must be one of {', '.join(_EXPONENTS)}, got {normalization!r}"
            )
        return _EXPONENTS[normalization]
    if not (isinstance(normalization, tuple | list) and len(normalization) == 2):
        raise ValueError(
            f"normalization must be a name or the exponents (a, b), got {normalization!r}"
        )
    try:
        a, b = (float(exponent) for exponent in normalization)
    except (TypeError, ValueError) as error:
        raise ValueError(f"normalization must be two numbers, got {normalization!r:.80}") from error
    if not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(f"the exponents of normalization must be finite, got {normalization!r}")
    return a, b


def as_adjacency(
    graph: Graph | npt.NDArray[Any] | Sequence[Any],
    num_users: int,
    num_items: int,
    normalization: Normalization | tuple[float, float] = "symmetric",
    device: torch.device | None = None,
) -> Adjacency:
    """Return the adjacency of a graph in any form that a caller may hold it.

    Args:
        graph: `Interactions`, normalised once and kept (`adjacency_of`); an `Adjacency`, as it is;
            an (N, N) ``torch.sparse`` tensor, normalised already; or a (2, E) ``edge_index`` of
            users and items (tensor, NumPy array or list), each counted from zero. The last two are
            converted on every call: convert once, outside the training loop.
        num_users: expected number of users.
        num_items: expected number of items.
        normalization: of interactions and of an ``edge_index``.
        device: where to move any graph but an `Adjacency`; None for where it is.

    Raises:
        TypeError: for anything else; names what to pass instead.
        ValueError: if the graph is over another number of nodes, or a tensor has another shape.
    """
    if isinstance(graph, Adjacency | Interactions):
        if (graph.num_users, graph.num_items) != (num_users, num_items):
            raise ValueError(
                f"expected a graph over {num_users} users and {num_items} items, got {graph}"
            )
        if isinstance(graph, Adjacency):
            return graph
        return adjacency_of(graph, normalization, device=device)
    if isinstance(graph, Tensor) and graph.layout != torch.strided:
        return Adjacency.from_sparse(graph, num_users, num_items).to(device)
    if not isinstance(graph, Tensor | np.ndarray | list) and type(graph) is not tuple:
        raise TypeError(
            "expected Interactions, an Adjacency, a torch.sparse tensor or a (2, E) edge_index, "
            f"{_instead_of(graph)}"
        )
    edge_index = graph if isinstance(graph, Tensor) else as_tensor("graph", graph)
    if edge_index.shape == (num_users + num_items,) * 2 and edge_index.is_floating_point():
        raise ValueError(
            f"got a dense {tuple(edge_index.shape)} adjacency; pass adjacency.to_sparse()"
        )
    built = Interactions.from_edge_index(edge_index, num_users, num_items)
    return normalized_adjacency(built, normalization).to(device)


def _check_interactions(given: object) -> None:
    if not isinstance(given, Interactions):
        raise TypeError(f"expected Interactions, {_instead_of(given)}")
    if given.weights is not None:
        _check_constant("edge weights", given.weights)


def _instead_of(given: object) -> str:
    hints = {
        "Adjacency": "which is normalised already; pass the Interactions that it was made from",
        "LinkSet": "pass its .message, the graph that messages flow along",
        "Split": "pass the .message of one of its link sets, such as split.train.message",
    }
    default = "Interactions.from_edge_index(edge_index, num_users, num_items) makes one"
    name = type(given).__name__
    return f"got {name}; {hints.get(name, default)}"


def _check_constant(name: str, values: Tensor) -> None:
    if values.requires_grad:
        raise ValueError(
            f"{name} require a gradient, but they are constants of the graph; detach() them"
        )


def _scale(degrees: Tensor, exponent: float) -> Tensor | None:
    """Return (N,) float64 degrees to the power of -exponent, 0 for an isolated node; None for
    exponent 0."""
    if not exponent:
        return None
    if degrees.device.type != "cpu":
        return torch.where(degrees > 0, degrees.pow(-exponent), 0.0)
    scale = np.zeros(len(degrees))
    np.power(degrees.numpy(), -exponent, out=scale, where=degrees.numpy() > 0)
    return torch.from_numpy(scale)


def _symmetric_pattern(interactions: Interactions) -> tuple[Pattern, Tensor]:
    """Return P and its (weighted) degrees in float64, of a graph on the CPU."""
    block = interactions.to_scipy()  # (U, I) by users
    back = block.T.tocsr()  # by items: a counting sort
    nnz = interactions.num_edges
    index_dtype = np.int32 if max(2 * nnz, interactions.num_nodes) < INT32_END else np.int64
    row_ends = np.concatenate([block.indptr, back.indptr[1:].astype(np.int64) + nnz]).astype(
        index_dtype
    )
    columns = np.empty(2 * nnz, index_dtype)
    np.add(block.indices, interactions.num_users, out=columns[:nnz], casting="unsafe")
    columns[nnz:] = back.indices
    values = None
    degrees = np.diff(row_ends).astype(np.float64)
    if interactions.weights is not None:
        values = torch.from_numpy(np.concatenate([block.data, back.data]))
        sums = [matrix.astype(np.float64).sum(axis=1) for matrix in (block, back)]
        degrees = np.concatenate(sums)
    pattern = Pattern(torch.from_numpy(row_ends), torch.from_numpy(columns), values)
    return pattern, torch.from_numpy(degrees)


def _pattern_on_device(interactions: Interactions) -> tuple[Pattern, Tensor]:
    """The same on a device, which computes it without the host's waiting for anything."""
    graph, nnz = interactions, interactions.num_edges
    order = graph.items.argsort(stable=True)  # by items; edges are by users
    ends = torch.cat([graph.indptr, nnz + graph.item_degrees.cumsum(0)])
    columns = torch.cat([graph.items + graph.num_users, graph.users[order]])
    values, degrees = None, ends.diff().double()
    if graph.weights is not None:
        values = graph.weights.to(torch.promote_types(graph.weights.dtype, torch.float32))
        values = torch.cat([values, values[order]])
        degrees = torch.segment_reduce(values.double(), "sum", offsets=ends, unsafe=True)
    index_dtype = torch.int32 if max(2 * nnz, graph.num_nodes) < INT32_END else torch.int64
    return Pattern(ends.to(index_dtype), columns.to(index_dtype), values), degrees
