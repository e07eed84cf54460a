"""The memory that is available, and estimates of the memory that commands need."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

# Peak bytes, measured (docs/reliability.md): of any command beside what the process has already; of
# training for each edge (split, negatives, adjacency) and for each number of the embedding table
# (gradient, optimiser, best copy, buffers); of reading for each byte of a file.
_BASE_BYTES, _EDGE_BYTES, _NUMBER_BYTES = 270_000_000, 85, 22
_READ_BYTES = {"mpd": 0.15, "table": 12.0, "text": 25.0, "prepared": 4.0, "recommender": 3.0}
# Bytes that may always be read at once: the available memory can be underestimated.
LEAST = 1 << 28


def use_huge_pages() -> None:
    """Have PyTorch ask Linux for pages of 2 MB for large tensors, unless the environment sets
    ``THP_MEM_ALLOC_ENABLE``.

    Tables of gigabytes that every step allocates and frees are then mapped much faster. To be
    called before the first tensor is made; without effect on other systems."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def available_memory(root: str | Path = "/") -> int | None:
    """Return the bytes that this process can still allocate without swapping, or None if unknown.

    On Linux: what is available on the machine, or in its control group (version 2) if that is less.

    Args:
        root: folder of ``proc/meminfo`` and ``sys/fs/cgroup``.
    """
    available, group = [], Path(root, "sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):
        available.append(_numbers(Path(root, "proc/meminfo"))["MemAvailable:"] * 1024)
    with suppress(OSError, ValueError, KeyError):  # no group, or no limit ("max")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = _numbers(group / "memory.stat")
        # The kernel frees cached file content on demand.
        cached = sum(statistics[name] for name in ("active_file", "inactive_file"))
        cached += statistics["slab_reclaimable"]
        available.append(max(0, limit - max(0, used - cached)))
    return min(available, default=None)


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value, *_ in lines}


def reading_limit() -> int | None:
    """Return how many bytes may be read at once, a quarter of the available memory; None if that is
    unknown."""
    available = available_memory()
    return None if available is None else max(available // 4, LEAST)


def choice_memory(num_users: int, num_items: int) -> int:
    """Return about how many bytes the choice of a ranking needs on a CPU, beside the data."""
    basis = 4 * 2048 * (num_users + num_items)  # for the leading singular vectors
    return basis + 64 * min(num_users * num_items, 1 << 23)


def training_memory(num_nodes: int, num_edges: int, embedding_dim: int) -> int:
    """Return an estimate of the peak bytes of training on a CPU.

    Args:
        num_nodes: users and items.
        num_edges: edges of the whole graph.
        embedding_dim: width of the embeddings.
    """
    return _BASE_BYTES + _EDGE_BYTES * num_edges + _NUMBER_BYTES * num_nodes * embedding_dim


def reading_memory(num_bytes: int, kind: str) -> int:
    """Return an estimate of the peak bytes of reading files.

    Args:
        num_bytes: size of the files, decompressed.
        kind: "mpd", "table", "text", "prepared" or "recommender".
    """
    return _BASE_BYTES + int(num_bytes * _READ_BYTES[kind])


def warn_of_shortage(what: str, needed: int, advice: str) -> None:
    """Warn if something needs more memory than is available.

    Args:
        what: the work, such as "training".
        needed: estimate of its peak bytes.
        advice: how to need less.
    """
    available = available_memory()
    if available is not None and needed > available:
        warnings.warn(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are "
            f"available: {advice}",
            stacklevel=3,
        )
