"""Peak memory: of tensors, counted, and of the process, as the kernel saw it."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the most bytes of tensors alive at a time that operators made, besides those ``given`` and small ones."""

    def __init__(self, given: Sequence[Tensor] = (), least: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.least = least
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
        self.alive = [reference for reference in self.alive if reference() is not None]
        self.alive += [weakref.ref(leaf) for leaf in leaves]
        tensors = [tensor for reference in self.alive if (tensor := reference()) is not None]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        counted = (size for place, size in storages.items() if place not in self.given and size >= self.least)
        self.most = max(self.most, sum(counted))
        return outputs


def peak_extra_bytes(run: Callable[[], object]) -> int | None:
    """Return by how much the resident memory of this process rose at most during a run; None where not on Linux."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    # What is free already goes back, so that it is counted where the run takes it again.
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = _kilobytes(status, "VmRSS")
    run()
    return (_kilobytes(status, "VmHWM") - before) * 1024


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
