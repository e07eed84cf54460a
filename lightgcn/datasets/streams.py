"""Files as decompressed streams: plain, compressed, or a member of a .zip archive.

A member is named by a path through its archive, such as ``ml-100k.zip/ml-100k/u.data``.

Worker processes import this file without the package around it: it uses the standard library, and
pyarrow for Zstandard."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
_MAGIC = {
    b"\x1f\x8b\x08": ".gz",
    b"\xfd7zXZ\x00": ".xz",
    b"BZh": ".bz2",
    b"\x28\xb5\x2f\xfd": ".zst",
}
# What a damaged file raises; Zstandard an OSError.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def archive_and_member(path: Path) -> tuple[Path, str] | None:
    """Return the archive and the member that a path names; None for a path of the file system."""
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(archive: Path) -> list[str]:
    """Return the names of the files in an archive, without hidden ones."""
    with zipfile.ZipFile(archive) as opened:
        names = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
    hidden = ("__MACOSX/", ".")
    return [n for n in names if not n.startswith(hidden) and "/." not in n]


def open_stream(path: str | Path) -> BinaryIO:
    """Open a file, decompressed if its name has a suffix of `COMPRESSIONS`."""
    path = Path(path)
    inside = archive_and_member(path)
    if inside is None:
        plain = path.suffix.lower() not in COMPRESSIONS
        # Unbuffered, since reads of plain files are in large pieces.
        stream: Any = open(path, "rb", buffering=0 if plain else -1)  # noqa: SIM115
    else:
        with zipfile.ZipFile(inside[0]) as archive:
            stream = archive.open(inside[1])
    return decompressed(stream, path.suffix.lower())


def decompressed(stream: BinaryIO, suffix: str) -> BinaryIO:
    """Return a stream that decompresses another; the same one for any other suffix."""
    if suffix == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if suffix == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(stream))
    if suffix == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(stream))
    if suffix == ".zst":
        import pyarrow

        return cast("BinaryIO", pyarrow.CompressedInputStream(stream, "zstd"))
    return stream


def compression_of(data: bytes) -> str | None:
    """Return the suffix of the compression that data begins with; None for none."""
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), None)
