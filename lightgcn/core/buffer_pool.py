"""The tables that a step is computed in, kept for the next one.

A table of a gigabyte that is made anew is mapped and zeroed by the system, which takes longer than
the product that is written to it."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

# As many tables of a kind as the layers of one step are computed in.
_KEPT = 3


class BufferPool:
    """Empty tables to work in: those that were given back before, and new ones.

    Each is taken by one at a time, so that threads do not meet in it.

    Args:
        keep: whether what is given back is kept; else every table is a new one.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    @property
    def spare(self) -> list[Tensor]:
        """Those that nobody works in."""
        return [table for tables in self._spare.values() for table in tables]

    def acquire(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a table with anything in it."""
        spare = self._spare.get((torch.Size(shape), dtype), [])
        with suppress(
            IndexError
        ):  # of a list that is empty, or that another thread has just emptied
            return spare.pop()
        return torch.empty(shape, dtype=dtype, device=device)

    def acquire_like(self, table: Tensor) -> Tensor:
        """Return a table of the shape and dtype of another one."""
        return self.acquire((table.shape[0], table.shape[1]), table.dtype, table.device)

    def release(self, table: Tensor) -> None:
        """Give back a (N, d) table that nobody looks at any more: the next one that takes it writes
        to it."""
        if not self.keep or table.is_inference():
            return
        spare = self._spare.setdefault((table.shape, table.dtype), [])
        if len(spare) < _KEPT:
            spare.append(table)

    def clear(self) -> None:
        """Free the memory of those that nobody works in."""
        self._spare.clear()


NO_REUSE = BufferPool(keep=False)
