"""A square sparse matrix by rows, whose product with a dense one is a gather and a sum of rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.buffer_pool import NO_REUSE, BufferPool
from lightgcn.core.checks import INT32_END

# Rows that a CPU computes per call: 16 MB at 128 bytes a row. The allocator reuses pieces of up to
# 32 MB and maps larger ones anew each time. Smaller ones gain nothing, and are slow on a busy
# machine: at the end of each call threads wait for each other.
BLOCK_ROWS = 1 << 17


@dataclass(frozen=True, eq=False)
class Pattern:
    """The entries of an (N, N) sparse matrix, and their values unless all are 1.

    Attributes:
        row_ends: (N + 1,) int32 or int64; row r holds entries ``row_ends[r]:row_ends[r + 1]``.
        columns: (nnz,) of the same dtype.
        values: (nnz,) floating, or None for ones.
    """

    row_ends: Tensor
    columns: Tensor
    values: Tensor | None = None

    @classmethod
    def from_coo(cls, coo: Tensor) -> Pattern:
        """Take the entries of a coalesced ``torch.sparse_coo`` tensor."""
        nodes = coo.shape[0]
        rows, columns = coo.indices()
        index_dtype = torch.int32 if max(len(rows), nodes) < INT32_END else torch.int64
        ends = torch.zeros(nodes + 1, dtype=torch.int64, device=coo.device)
        torch.cumsum(torch.bincount(rows, minlength=nodes), 0, out=ends[1:])
        return cls(ends.to(index_dtype), columns.to(index_dtype), coo.values())

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles leave out what was derived from the fields.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Pattern:
        """Return the pattern on another device; itself if it is there."""
        row_ends = self.row_ends.to(device)
        if row_ends is self.row_ends:
            return self
        values = None if self.values is None else self.values.to(device)
        return Pattern(row_ends, self.columns.to(device), values)

    def to_sparse_csr(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix as an (N, N) ``torch.sparse_csr`` tensor."""
        size = (len(self.row_ends) - 1,) * 2
        suppress_beta_warning()
        place, values = self.columns.device, self.values
        if values is None:
            values = torch.ones(len(self.columns), dtype=dtype, device=place)
        return torch.sparse_csr_tensor(
            self.row_ends,
            self.columns,
            values.to(dtype),
            size,
            device=place,
            check_invariants=False,
        )

    def product(self, x: Tensor, buffers: BufferPool = NO_REUSE) -> Tensor:
        """Return the product with a contiguous (N, d) ``x``, in its dtype; not differentiable.

        On a CPU it is computed by the gather-sum kernel of `embedding_bag`, which needs no values
        and is faster than the CSR product. That kernel is slow in float64, which serves for
        references only: float64 and other devices use CSR. Autocast does not change the precision.

        Args:
            x: (N, d) floating.
            buffers: where the result comes from if it is computed in several blocks of rows.
        """
        with torch.autocast(x.device.type, enabled=False):
            if not _gathers(x):
                if x.dtype not in self._matrices:
                    self._matrices[x.dtype] = self.to_sparse_csr(x.dtype)
                return self._matrices[x.dtype] @ x
            if len(self._blocks) == 1:
                return self._rows_of_product(x, *self._blocks[0][1:])
            result = buffers.acquire_like(x)
            for rows, entries, offsets in self._blocks:
                result[rows] = self._rows_of_product(x, entries, offsets)
            return result

    def _rows_of_product(self, x: Tensor, entries: slice, offsets: Tensor) -> Tensor:
        weights = None if self.values is None else self.values[entries].to(x.dtype)
        return F.embedding_bag(
            self.columns[entries],
            x,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    def buffers_for(self, x: Tensor) -> BufferPool:
        """Return the pool that products with (N, d) ``x`` work in: one that keeps its tensors if
        they are large, otherwise one that does not."""
        large = _gathers(x) and len(self.row_ends) - 1 > BLOCK_ROWS
        return self._buffers if large else NO_REUSE

    @cached_property
    def _buffers(self) -> BufferPool:
        return BufferPool()

    @cached_property
    def _matrices(self) -> dict[torch.dtype, Tensor]:
        """The matrix as CSR tensors by dtype, for products that use them."""
        return {}

    @cached_property
    def _blocks(self) -> list[tuple[slice, slice, Tensor]]:
        """Blocks of rows: the rows, their entries, and (n + 1,) offsets of the rows in these."""
        blocks = []
        for rows in row_blocks(len(self.row_ends) - 1):
            ends = self.row_ends[rows.start : rows.stop + 1]
            blocks.append((rows, slice(int(ends[0]), int(ends[-1])), ends - ends[0]))
        return blocks


def row_blocks(count: int) -> Iterator[slice]:
    """Divide rows into blocks of `BLOCK_ROWS`."""
    for first in range(0, count, BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, count))


def _gathers(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype != torch.float64 and x.numel() > 0


@cache
def suppress_beta_warning() -> None:
    """Make a CSR tensor with warnings off: PyTorch warns each process once that CSR is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = torch.zeros(2, dtype=torch.int64, device="cpu")
        none = torch.zeros(0, dtype=torch.float32, device="cpu")
        torch.sparse_csr_tensor(
            index, index[:0], none, (1, 1), device="cpu", check_invariants=False
        )
