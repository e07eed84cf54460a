"""The least work that propagation could be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.timing import Way
from lightgcn import Adjacency


def gather_sums(adjacency: Adjacency, dtype: torch.dtype, widths: Sequence[int], count: int) -> Way:
    """Return bare gather-sums over the pattern, each on the result of the one before, by slabs of
    columns."""
    ends, columns = adjacency.pattern.row_ends, adjacency.pattern.columns
    # Zeros that were written: sums that neither overflow nor fade, in memory that is there.
    tables = [torch.ones(adjacency.num_nodes, width).to(dtype).zero_() for width in widths]

    def run() -> None:
        for table in tables:
            for _ in range(count):
                table = F.embedding_bag(columns, table, ends, mode="sum", include_last_offset=True)

    return run
