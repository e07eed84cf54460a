"""Peak memory: of tensors, counted, and of the process, as the kernel saw it."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the most bytes of tensors alive at a time that operators made, besides those ``given``
    and small ones."""

    def __init__(self, given: Sequence[Tensor] = (), least: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.least = least
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        leaves = [
            leaf
            for leaf in tree_leaves(outputs)
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided
        ]
        self.alive = [reference for reference in self.alive if reference() is not None]
        self.alive += [weakref.ref(leaf) for leaf in leaves]
        tensors = [tensor for reference in self.alive if (tensor := reference()) is not None]
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in tensors
        }
        counted = (
            size
            for place, size in storages.items()
            if place not in self.given and size >= self.least
        )
        self.most = max(self.most, sum(counted))
        return outputs


def peak_extra_bytes(run: Callable[[], object]) -> int | None:
    """Return by how much the resident memory of this process rose at most during a run; None where
    not on Linux."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    _reset_peak(reset)
    before = _kilobytes(status, "VmRSS")
    run()
    return (_kilobytes(status, "VmHWM") - before) * 1024


def _reset_peak(reset: Path) -> None:
    gc.collect()
    # What is free already goes back, so that it is counted where the run takes it again.
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")


@dataclass
class Peak:
    """The most resident memory in a block, once it has ended."""

    bytes: int = 0


@contextmanager
def peak_resident_bytes(*, children: bool = False) -> Iterator[Peak]:
    """Measure the most resident memory of this process within a block; 0 where not on Linux.

    With ``children`` the sum over this process and its children now and then, where it is more.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    peak, ended = Peak(), threading.Event()
    if not reset.exists():
        yield peak
        return
    _reset_peak(reset)

    def watch() -> None:
        while not ended.wait(0.2):
            peak.bytes = max(peak.bytes, _resident_with_children())

    watcher = threading.Thread(target=watch, daemon=True)
    if children:
        watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        if children:
            watcher.join()
        peak.bytes = max(peak.bytes, _kilobytes(status, "VmHWM") * 1024)


def _resident_with_children() -> int:
    """Return the resident bytes of this process and of its children but those of
    `multiprocessing`."""
    total = 0
    for status in [Path("/proc/self/status"), *_children()]:
        try:
            total += _kilobytes(status, "VmRSS") * 1024
        except (OSError, StopIteration):  # it has ended
            continue
    return total


def _children() -> Iterator[Path]:
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            # The writer of the data is no part of what is measured: it is the one that
            # multiprocessing started.
            if b"multiprocessing" not in Path(f"/proc/{child}/cmdline").read_bytes():
                yield Path(f"/proc/{child}/status")


def _kilobytes(status: Path, name: str) -> int:
    return next(
        int(line.split()[1])
        for line in status.read_text().splitlines()
        if line.startswith(f"{name}:")
    )
