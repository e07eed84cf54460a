"""How much memory there is, and how much a piece of work will want."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# What a container may use, and uses (cgroup version 2).
_GROUP = Path("/sys/fs/cgroup")

# Bytes that training holds at its peak, measured (docs/reliability.md): for each edge of the graph
# with its split, a negative for it and its adjacency; for each number of the embedding table with
# its gradient, optimiser, best copy and buffers; and what any command takes beside what the process
# has already.
_EDGE_BYTES, _ENTRY_BYTES, _BASE_BYTES = 85, 22, 270_000_000
# So much may always be asked for: what is known of memory can be too little.
LEAST = 1 << 28
# What reading holds, for each byte of what it reads: slices give up nearly all at once, tables and
# text are held whole.
_READ_BYTES = {"mpd": 0.15, "table": 25.0, "text": 25.0, "prepared": 4.0}
# What a saved recommender or model holds, for each byte of its file: the file's own, and what is
# made of it.
_FILE_BYTES = 3.0


def use_huge_pages() -> None:
    """Have PyTorch ask Linux for pages of 2 MB for large tensors of this process, unless the
    environment says not to.

    Tables and batches of gigabytes, made and dropped in every step, are then mapped 512 times as
    fast. It counts before the first tensor is made; on other systems it has no effect."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def available_memory() -> int | None:
    """Return the bytes that this process can still get without swapping, None where the system does
    not say.

    On Linux that is less than what is free of the machine where a control group allows less.
    """
    parts = [part for part in (_of_machine(), _of_group()) if part is not None]
    return min(parts, default=None)


def reading_limit() -> int | None:
    """Return how many bytes may be read at once: a quarter of what is available; None where nobody
    knows."""
    available = available_memory()
    return None if available is None else max(available // 4, LEAST)


def training_memory(num_nodes: int, num_edges: int, embedding_dim: int) -> int:
    """Return about how many bytes training takes at its peak, on a CPU.

    Args:
        num_nodes: users and items.
        num_edges: of the whole graph.
        embedding_dim: width of the embeddings.
    """
    return _BASE_BYTES + _EDGE_BYTES * num_edges + _ENTRY_BYTES * num_nodes * embedding_dim


def reading_memory(num_bytes: int, kind: str) -> int:
    """Return about how many bytes the reading of files takes at its peak.

    Args:
        num_bytes: of the files, decompressed.
        kind: "mpd", "table", "text" or "prepared".
    """
    return _BASE_BYTES + int(num_bytes * _READ_BYTES[kind])


def answering_memory(file: Path) -> int:
    """Return about how many bytes answers from a recommender's file take at their peak."""
    return _BASE_BYTES + int(file.stat().st_size * _FILE_BYTES)


def warn_of_shortage(what: str, needed: int, advice: str) -> None:
    """Warn where something needs more memory than there is; the arguments are those of
    `shortage`."""
    message = shortage(what, needed, advice)
    if message is not None:
        warnings.warn(message, stacklevel=3)


def shortage(what: str, needed: int, advice: str) -> str | None:
    """Return a sentence where something needs more memory than there is, None where it fits or
    nobody knows.

    Args:
        what: that needs it.
        needed: bytes.
        advice: how it would need less.
    """
    available = available_memory()
    if available is None or needed <= available:
        return None
    return (
        f"{what} needs about {needed / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB are available: {advice}"
    )


def _of_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_group() -> int | None:
    try:
        limit, used = (
            int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current")
        )
        statistics = dict(
            line.split() for line in (_GROUP / "memory.stat").read_text().splitlines()
        )
        # What was read of files is given up for memory that is asked for.
        given_up = sum(
            int(statistics.get(name, 0))
            for name in ("active_file", "inactive_file", "slab_reclaimable")
        )
        return max(0, limit - max(0, used - given_up))
    except (OSError, ValueError):  # no such group, or one without a limit
        return None
