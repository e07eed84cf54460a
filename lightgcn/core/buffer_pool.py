"""Work buffers that are kept from one step to the next.

A new buffer of a gigabyte is mapped and zeroed by the system, which takes longer than the product
that is written to it."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

# A step computes its layers in so many buffers of one kind.
_KEPT = 3


class BufferPool:
    """Uninitialised (N, d) buffers: released ones are handed out again, others are new.

    A buffer has one user at a time, so threads can share a pool.

    Args:
        keep: whether released buffers are kept; otherwise every buffer is new.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self._spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    @property
    def spare(self) -> list[Tensor]:
        """The buffers that are not in use."""
        return [buffer for buffers in self._spare.values() for buffer in buffers]

    def acquire(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a buffer with arbitrary content."""
        spare = self._spare.get((torch.Size(shape), dtype), [])
        with suppress(IndexError):  # the list is empty, or another thread has just emptied it
            return spare.pop()
        return torch.empty(shape, dtype=dtype, device=device)

    def acquire_like(self, buffer: Tensor) -> Tensor:
        """Return a buffer of the same shape, dtype and device."""
        return self.acquire((buffer.shape[0], buffer.shape[1]), buffer.dtype, buffer.device)

    def release(self, buffer: Tensor) -> None:
        """Return a buffer that nobody uses any more; whoever acquires it next overwrites it."""
        if not self.keep or buffer.is_inference():
            return
        spare = self._spare.setdefault((buffer.shape, buffer.dtype), [])
        if len(spare) < _KEPT:
            spare.append(buffer)

    def clear(self) -> None:
        """Free the buffers that are not in use."""
        self._spare.clear()


NO_REUSE = BufferPool(keep=False)
