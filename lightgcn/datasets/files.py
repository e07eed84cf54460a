"""Shared by the readers: whole files, decompressed by their suffix, and a progress bar."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from lightgcn.core.memory import reading_limit
from lightgcn.core.progress import progress_bar

T = TypeVar("T")
COMPRESSIONS = (".xz", ".gz")
_PART = 1 << 24


def existing_file(path: str | Path) -> Path:
    """Return the path of an existing file.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if it is a folder.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; check the spelling and the current folder"
        )
    if not path.is_file():
        raise ValueError(f"{path}: is a folder; a file is needed here")
    return path


def bare_suffix(path: str | Path) -> str:
    """Return the lower-case suffix of a file's name, without ``.xz`` or ``.gz``."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


def read_bytes(path: str | Path) -> bytes:
    """Return a file's content, decompressed if its name ends in ``.xz`` or ``.gz``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is truncated or not in the format of its suffix.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix not in COMPRESSIONS:
        return path.read_bytes()
    import gzip
    import lzma

    with path.open("rb"):
        pass  # Without permission, raise here rather than as "truncated" below.
    try:
        with (lzma.open if suffix == ".xz" else gzip.open)(path) as stream:
            return _read_within_memory(path, stream)
    except (lzma.LZMAError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: not a readable {suffix} file ({error}); it may be truncated"
        ) from error


def _read_within_memory(path: Path, stream: Any) -> bytes:
    """Read a decompressing stream to its end, up to a quarter of the available memory."""
    parts, size, most = [], 0, reading_limit()
    while part := stream.read(_PART):
        parts.append(part)
        size += len(part)
        if most is not None and size > most:
            raise ValueError(
                f"{path}: decompresses to more than {size / 1e9:.1f} GB, a quarter of the "
                "available memory; divide the file, or use a machine with more"
            )
    return b"".join(parts)


def with_progress(
    items: Iterable[T], progress: bool, *, total: int | None, unit: str
) -> Iterable[T]:
    """Return the same items, counted on stderr if ``progress`` is set and someone can see it."""
    if not progress:
        return items
    bar: Iterable[T] = progress_bar(items, total=total, unit=unit, shown=True)
    return bar
