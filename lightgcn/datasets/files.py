"""What the readers share: whole files, decompressed where their name says so, and a progress bar."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
COMPRESSIONS = (".xz", ".gz")


def existing_file(path: str | Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        FileNotFoundError: if nothing has that name.
        ValueError: if it is a folder.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the spelling and the current folder")
    if not path.is_file():
        raise ValueError(f"{path}: is a folder; a file is needed here")
    return path


def bare_suffix(path: str | Path) -> str:
    """Return the lower-case suffix of a file's name, the one before ``.xz`` or ``.gz`` where it ends so."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


def read_bytes(path: str | Path) -> bytes:
    """Return a file's content, decompressed if its name ends in ``.xz`` or ``.gz``.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: naming the file, if what it holds is not what its name says, or is cut short.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    data = path.read_bytes()
    if suffix not in COMPRESSIONS:
        return data
    import gzip
    import lzma

    try:
        return lzma.decompress(data) if suffix == ".xz" else gzip.decompress(data)
    except (lzma.LZMAError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable {suffix} file ({error}); it may be truncated") from error


def with_progress(items: Iterable[T], progress: bool, *, total: int | None, unit: str) -> Iterable[T]:
    """Return the same items, counted on stderr if ``progress`` is set and stderr is a terminal."""
    if not progress:
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, unit=unit, disable=None)
    return bar
