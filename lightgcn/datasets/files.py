"""Shared by the readers: whole files, decompressed and decoded, and a progress bar."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

from lightgcn.core.memory import reading_limit
from lightgcn.core.progress import progress_bar
from lightgcn.datasets.streams import (
    COMPRESSIONS,
    DAMAGED,
    archive_and_member,
    compression_of,
    decompressed,
    members,
    open_stream,
)

T = TypeVar("T")
_PART = 1 << 24
_LISTED = 8  # members of an archive that a message lists
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def existing_file(path: str | Path) -> Path:
    """Return the path of an existing file, a pipe, or a member of a .zip archive.

    The path of an archive with one file becomes that of the file in it.

    Raises:
        FileNotFoundError: if there is no such path or member.
        ValueError: if it is a folder, or an archive with several files.
    """
    path = Path(path)
    if (inside := archive_and_member(path)) is not None:
        names = archive_members(inside[0])
        if inside[1] not in names:
            raise FileNotFoundError(f"{path}: no such file in the archive; it {_held(names)}")
        return path
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; check the spelling and the current folder"
        )
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; a file is needed here")
    if path.suffix.lower() == ".zip":
        names = archive_members(path)
        if len(names) != 1:
            example = f"; name one, such as {path / names[0]}" if names else ""
            raise ValueError(f"{path}: the archive {_held(names)}{example}")
        return path / names[0]
    return path


def archive_members(path: Path) -> list[str]:
    """Return the names of the files in an archive.

    Raises:
        ValueError: if it is no readable .zip archive.
    """
    try:
        return members(path)
    except BadZipFile as error:
        raise ValueError(f"{path}: not a readable .zip archive ({error})") from error


def _held(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "holds " + (", ".join(names[:_LISTED]) + more or "no file")


def bare_suffix(path: str | Path) -> str:
    """Return the lower-case suffix of a file's name, without that of a compression."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in COMPRESSIONS else path.name).suffix.lower()


def read_bytes(path: str | Path) -> bytes:
    """Return a file's content, decompressed if its name or its first bytes are of a compression.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is truncated or not in the format of its suffix.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    packed = suffix in COMPRESSIONS or archive_and_member(path) is not None
    if not packed:
        data = path.read_bytes()
        found = compression_of(data)
        return data if found is None else _decompress(path, decompressed(io.BytesIO(data), found))
    if archive_and_member(path) is None:
        with path.open("rb"):
            pass  # Without permission, raise here rather than as "damaged" below.
    try:
        stream = open_stream(path)
    except DAMAGED as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    with stream:
        return _decompress(path, stream)


def _decompress(path: Path, stream: Any) -> bytes:
    """Read a decompressing stream to its end, up to a quarter of the available memory."""
    parts, size, most = [], 0, reading_limit()
    try:
        while part := stream.read(_PART):
            parts.append(part)
            size += len(part)
            if most is not None and size > most:
                raise ValueError(
                    f"{path}: decompresses to more than {size / 1e9:.1f} GB, a quarter of the "
                    "available memory; divide the file, or use a machine with more"
                )
    except DAMAGED as error:
        cut = "; it may be truncated" if isinstance(error, EOFError) or "runc" in str(error) else ""
        raise ValueError(
            f"{path}: not a readable {path.suffix.lower()} file ({error}){cut}"
        ) from error
    return b"".join(parts)


def utf8(path: Path, data: bytes, encoding: str | None = None) -> bytes:
    """Return text as UTF-8 without a byte order mark.

    Args:
        path: of the file, for messages.
        data: its content.
        encoding: name of its encoding; None for UTF-8, or UTF-16 by its byte order mark.

    Raises:
        ValueError: if the encoding is unknown, or the content is not in it.
    """
    if encoding is None:
        encoding = _MARKS.get(data[:2], "utf-8")
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{path}: not UTF-8 text (line {line}: {error.reason}); give its encoding, such as "
                "latin-1, or it may be compressed or binary"
            ) from error
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"{path}: not {encoding} text ({error})") from error


def with_progress(
    items: Iterable[T], progress: bool, *, total: int | None, unit: str
) -> Iterable[T]:
    """Return the same items, counted on stderr if ``progress`` is set and someone can see it."""
    if not progress:
        return items
    bar: Iterable[T] = progress_bar(items, total=total, unit=unit, shown=True)
    return bar
