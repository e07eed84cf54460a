"""The normalised adjacency of the user-item graph, as a sparse operator.

With P = [[0, R], [Rᵀ, 0]] the symmetric pattern over users then items and D its degrees, A = D⁻ᵃ P
D⁻ᵇ:

    mean       a = 1,   b = 0     each node receives the mean of its neighbours
    symmetric  a = b = 1/2        the LightGCN paper's normalisation

P is its own transpose, so Aᵀ = D⁻ᵇ P D⁻ᵃ: one integer pattern and two scale vectors serve both
directions. Only weighted edges carry values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.buffer_pool import NO_REUSE, BufferPool
from lightgcn.core.checks import INT32_END
from lightgcn.graph.interactions import Interactions

Normalization = Literal["mean", "symmetric"]
Graph: TypeAlias = "Interactions | Adjacency | Tensor"
Degrees = npt.NDArray[np.float64]
# Rows of a product that are made at a time on a CPU: 8 MB at 128 bytes a row, which the allocator
# hands out again and again, where larger pieces are mapped anew each time.
BLOCK_ROWS = 1 << 16
_EXPONENTS = {"mean": (1.0, 0.0), "symmetric": (0.5, 0.5)}


@dataclass(frozen=True, eq=False)
class Pattern:
    """A square sparse matrix by rows: where its entries are and, where they are not all 1, what
    they are.

    Attributes:
        row_ends: (N + 1,) int32 or int64; row r holds entries ``row_ends[r]:row_ends[r + 1]``.
        columns: (nnz,) of the same dtype.
        values: (nnz,) floating, or None for ones.
    """

    row_ends: Tensor
    columns: Tensor
    values: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles are of what was given, without what was made of it.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_sparse_csr(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix as a (N, N) ``torch.sparse_csr`` tensor."""
        size = (len(self.row_ends) - 1,) * 2
        _say_beta_warning_unheard()
        values = self.values
        if values is None:
            values = torch.ones(len(self.columns), device=self.columns.device)
        return torch.sparse_csr_tensor(
            self.row_ends, self.columns, values.to(dtype), size, check_invariants=False
        )

    def products(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the product with (N, d) ``x`` by blocks of rows: (rows, (n, d) of its dtype); not
        differentiable.

        On a CPU a block is made by the gather-sum kernel of `embedding_bag`, which needs no values
        and beats the CSR product. That kernel is slow in float64, which serves for references only;
        there and on other devices there is one block."""
        if not self._sums_rows(x):
            if x.dtype not in self._matrices:
                self._matrices[x.dtype] = self.to_sparse_csr(x.dtype)
            yield slice(0, len(x)), self._matrices[x.dtype] @ x
            return
        weights = None if self.values is None else self.values.to(x.dtype)
        for rows, entries, offsets in self._blocks:
            part = None if weights is None else weights[entries]
            yield (
                rows,
                F.embedding_bag(
                    self.columns[entries],
                    x,
                    offsets,
                    mode="sum",
                    per_sample_weights=part,
                    include_last_offset=True,
                ),
            )

    @cached_property
    def _matrices(self) -> dict[torch.dtype, Tensor]:
        """The pattern as CSR tensors by dtype, where that is what products are made with."""
        return {}

    @staticmethod
    def _sums_rows(x: Tensor) -> bool:
        return x.device.type == "cpu" and x.dtype != torch.float64 and x.numel() > 0

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the whole product, (N, d) of the dtype of ``x``, in ``out`` if it is given; not
        differentiable."""
        for rows, part in self.products(x):
            if out is None:
                if len(part) == len(x):
                    return part
                out = torch.empty_like(x)
            out[rows] = part
        assert out is not None
        return out

    def buffers_for(self, x: Tensor) -> BufferPool:
        """Return the tables to compute products with (N, d) ``x`` in: kept ones where they are
        large, else new ones."""
        return (
            self._buffers
            if self._sums_rows(x) and len(self.row_ends) - 1 > BLOCK_ROWS
            else NO_REUSE
        )

    @cached_property
    def _buffers(self) -> BufferPool:
        return BufferPool()

    @cached_property
    def _blocks(self) -> list[tuple[slice, slice, Tensor]]:
        """Blocks of rows: the rows, their entries, and (n + 1,) offsets of the rows in these
        entries."""
        size = len(self.row_ends) - 1
        blocks = []
        for first in range(0, size, BLOCK_ROWS):
            rows = slice(first, min(first + BLOCK_ROWS, size))
            ends = self.row_ends[rows.start : rows.stop + 1]
            blocks.append((rows, slice(int(ends[0]), int(ends[-1])), ends - ends[0]))
        return blocks

    def to(self, device: torch.device | str) -> Pattern:
        values = None if self.values is None else self.values.to(device)
        return Pattern(self.row_ends.to(device), self.columns.to(device), values)


@dataclass(frozen=True, eq=False)
class Adjacency:
    """A normalised sparse adjacency: ``adjacency @ x`` and ``adjacency.T @ x``, differentiable in
    ``x``.

    Built by `normalized_adjacency` from interactions, or by `Adjacency.from_sparse` from a
    ``torch.sparse`` tensor. Node order: user u is node u, item i is node ``num_users + i``. An
    isolated node has an empty row: its product is zero.

    Attributes:
        pattern: the entries of P (or of A, where it came as a tensor).
        transposed: the same for Pᵀ; the same object where P is symmetric.
        row_scale: (N,) floating: D⁻ᵃ, or None for ones.
        column_scale: (N,) floating: D⁻ᵇ, or None for ones.
        num_users: number of user nodes.
        num_items: number of item nodes.
        dtype: of the values, as a tensor's.
        half_tables: whether `lightgcn.propagate` gathers float32 embeddings from a float16 copy,
            with sums in float32: 2 to 3 times faster on a CPU, and within 1e-3 of the norm (1e-4 as
            a rule; 1.2e-3 was seen where all comes through a hub of 100,000 edges). No effect on
            weighted edges, on exponents other than a + b = 1, on other dtypes and on other devices.
        normalization: the exponents (a, b); None for a matrix of the caller's own.
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
        """Wrap a (N, N) ``torch.sparse`` tensor (COO, CSR or CSC), normalised as its owner sees
        fit.

        Raises:
            ValueError: if the tensor is dense, not floating, or not (N, N) with N = ``num_users +
                num_items``.
        """
        if matrix.layout == torch.strided:
            raise ValueError("expected a torch.sparse tensor, got a dense one")
        if not matrix.is_floating_point():
            raise ValueError(f"the adjacency must be floating, got {matrix.dtype}")
        nodes = num_users + num_items
        if matrix.shape != (nodes, nodes):
            raise ValueError(
                f"the adjacency must be ({nodes}, {nodes}) for {num_users} users and {num_items} "
                "items, "
                f"got {tuple(matrix.shape)}"
            )
        coo = matrix.detach().to_sparse_coo().coalesce()
        pattern, transposed = _pattern_from_coo(coo), _pattern_from_coo(coo.t().coalesce())
        return cls(pattern, transposed, None, None, num_users, num_items, matrix.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_nodes(self) -> int:
        """Number of users plus items."""
        return self.num_users + self.num_items

    @property
    def device(self) -> torch.device:
        """Where the entries live."""
        return self.pattern.columns.device

    @cached_property
    def T(self) -> Adjacency:
        """The transpose; it shares all storage."""
        return replace(
            self,
            pattern=self.transposed,
            transposed=self.pattern,
            row_scale=self.column_scale,
            column_scale=self.row_scale,
            normalization=self.normalization and self.normalization[::-1],
        )

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply: (N, d) floating of any dtype gives (N, d) of that dtype; differentiable in
        ``x``."""
        if x.ndim != 2 or x.shape[0] != self.num_nodes or not x.is_floating_point():
            raise ValueError(
                f"expected ({self.num_nodes}, d) floating, got {tuple(x.shape)} of {x.dtype}"
            )
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product

    def product_(self, x: Tensor) -> Tensor:
        """Return ``self @ x`` in a new tensor, with ``x`` as scratch space: its content is lost.
        Not differentiable."""
        if self.column_scale is not None:
            x.mul_(self.column_scale.to(x.dtype).unsqueeze(1))
        y = torch.empty_like(x)
        row = None if self.row_scale is None else self.row_scale.to(x.dtype).unsqueeze(1)
        for rows, product in self.pattern.products(x):
            if row is None:
                y[rows] = product
            else:
                torch.mul(product, row[rows], out=y[rows])
        return y

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
        """Return it on another device, in another floating dtype, or both; itself, where nothing
        changes."""
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be floating, got {dtype}")
        if device == self.device and dtype == self.dtype:
            return self
        pattern = self.pattern.to(device)
        transposed = pattern if self.transposed is self.pattern else self.transposed.to(device)
        # Scales stay as they were made, in float64: a dtype change and back loses nothing.
        row = None if self.row_scale is None else self.row_scale.to(device)
        column = None if self.column_scale is None else self.column_scale.to(device)
        return replace(
            self,
            pattern=pattern,
            transposed=transposed,
            row_scale=row,
            column_scale=column,
            dtype=dtype,
        )

    def to_sparse_csr(self) -> Tensor:
        """Return A as a (N, N) ``torch.sparse_csr`` tensor of ``dtype``."""
        ends, columns = self.pattern.row_ends, self.pattern.columns
        rows = torch.repeat_interleave(ends.diff().long())
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
            f"{len(self.pattern.columns)} entries, "
            f"{self.dtype}, {self.device})"
        )


class _Product(torch.autograd.Function):
    """A x, with the gradient Aᵀ g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return adjacency.product_(x.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.adjacency.T @ grads[0], None


def normalized_adjacency(
    interactions: Interactions,
    normalization: Normalization | tuple[float, float] = "symmetric",
    *,
    dtype: torch.dtype = torch.float32,
    half_tables: bool = False,
) -> Adjacency:
    """Build A = D⁻ᵃ P D⁻ᵇ for a user-item graph, on the graph's device.

    With weighted edges P holds the weights and D the sums of weights (He et al., SIGIR 2020, eq. 3,
    for the unweighted case).

    Args:
        interactions: the graph that messages flow along.
        normalization: "mean" (a=1, b=0), "symmetric" (a=b=1/2), or the exponents (a, b).
        dtype: floating dtype of the values.
        half_tables: whether propagation on a CPU gathers from float16 copies (see `Adjacency`).

    Raises:
        ValueError: if ``normalization`` is not one of these.
    """
    a, b = exponents(normalization)
    pattern, degrees = _symmetric_pattern(interactions)
    row, column = (_scale(degrees, exponent) for exponent in (a, b))
    counts = interactions.num_users, interactions.num_items
    adjacency = Adjacency(pattern, pattern, row, column, *counts, dtype, half_tables, (a, b))
    return adjacency.to(interactions.device)


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
    a, b = (float(exponent) for exponent in normalization)
    if not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(f"the exponents of normalization must be finite, got {normalization!r}")
    return a, b


def as_adjacency(
    graph: Graph,
    num_users: int,
    num_items: int,
    normalization: Normalization | tuple[float, float] = "symmetric",
) -> Adjacency:
    """Return an adjacency from any form of a graph.

    Args:
        graph: `Interactions`, normalised once and kept; an `Adjacency`; a (N, N) ``torch.sparse``
            tensor, which must be normalised already; or a (2, E) integer ``edge_index`` of users
            and items, each counted from zero. The last two are converted on every call.
        num_users: expected number of users.
        num_items: expected number of items.
        normalization: of interactions and of an ``edge_index``.

    Raises:
        ValueError: if the graph is over another number of nodes, or is a dense tensor of another
            shape.
        TypeError: if it is none of these.
    """
    if isinstance(graph, np.ndarray | list):
        graph = torch.as_tensor(graph)
    if isinstance(graph, Tensor):
        if graph.layout != torch.strided:
            return Adjacency.from_sparse(graph, num_users, num_items)
        if graph.is_floating_point() and graph.shape == (num_users + num_items,) * 2:
            raise ValueError("the adjacency is dense: adjacency.to_sparse() makes it sparse")
        edges = Interactions.from_edge_index(graph, num_users, num_items)
        return normalized_adjacency(edges, normalization)
    if isinstance(graph, Interactions):
        graph = adjacency_of(graph, normalization)
    if not isinstance(graph, Adjacency):
        raise TypeError(
            "graph must be Interactions, an Adjacency, a torch.sparse tensor or a (2, E) "
            f"edge_index, got {type(graph).__name__}"
            + ("; pass its .message" if hasattr(graph, "message") else "")
        )
    if (graph.num_users, graph.num_items) != (num_users, num_items):
        raise ValueError(
            f"expected a graph over {num_users} users and {num_items} items, got {graph}"
        )
    return graph


def adjacency_of(
    interactions: Interactions, normalization: Normalization | tuple[float, float]
) -> Adjacency:
    """Return `normalized_adjacency`, made at the first call and kept with the interactions."""
    kept = interactions.__dict__.setdefault("_adjacencies", {})
    key = exponents(normalization)
    if key not in kept:
        kept[key] = normalized_adjacency(interactions, normalization)
    adjacency: Adjacency = kept[key]
    return adjacency


def _scale(degrees: Degrees, exponent: float) -> Tensor | None:
    """Return (N,) float64 degrees to the power of -exponent, 0 for an isolated node; None for
    exponent 0."""
    if not exponent:
        return None
    scale = np.zeros_like(degrees)
    np.power(degrees, -exponent, out=scale, where=degrees > 0)
    return torch.from_numpy(scale)


def _symmetric_pattern(interactions: Interactions) -> tuple[Pattern, Degrees]:
    """Return P, on the CPU, and its (weighted) degrees in float64."""
    block = (
        interactions.to_scipy()
    )  # (U, I) by users; its transpose by items is one counting sort away
    back = block.T.tocsr()
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
    return Pattern(torch.from_numpy(row_ends), torch.from_numpy(columns), values), degrees


@cache
def _say_beta_warning_unheard() -> None:
    """Have PyTorch say once, to nobody, that sparse CSR is in beta: it says so to each process's
    first user of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(
            torch.tensor([0, 0]), torch.empty(0, dtype=torch.int64), torch.empty(0), (1, 1)
        )


def _pattern_from_coo(coo: Tensor) -> Pattern:
    nodes = coo.shape[0]
    rows, columns = coo.indices()
    index_dtype = torch.int32 if max(len(rows), nodes) < INT32_END else torch.int64
    ends = torch.zeros(nodes + 1, dtype=torch.int64, device=coo.device)
    torch.cumsum(torch.bincount(rows, minlength=nodes), 0, out=ends[1:])
    return Pattern(ends.to(index_dtype), columns.to(index_dtype), coo.values())
