"""Files that are complete or absent: written beside their path, synced and renamed; JSON and JSON
Lines by them."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock

# Seconds that a process may take between making a temporary folder and locking it.
_LOCK_DELAY = 10.0
_LOCK_FILE = ".held"


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a path in a temporary folder beside ``path``, then rename the result to
    ``path``.

    If it is interrupted, also by a loss of power, ``path`` holds either the old file or the new
    one. Its folder is made if it is missing. Temporary folders of killed processes that were
    writing the same file are removed.

    Raises:
        OSError: naming ``path``, if it cannot be written; the old file is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        _write(path, write)


def append(path: Path, data: bytes) -> None:
    """Add bytes to a file; an OSError names it."""
    with _named(path), path.open("ab") as file:
        file.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: naming the file, if it is not valid JSON.
        FileNotFoundError: if it does not exist.
    """
    try:
        return orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file may be truncated") from error


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON Lines, atomically."""
    data = b"".join(map(_json_line, records))
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def append_jsonl(path: Path, record: Any) -> None:
    """Add a record to a JSON Lines file."""
    append(path, _json_line(record))


def read_jsonl(path: Path) -> list[Any]:
    """Read the records of a JSON Lines file, without a last line that is incomplete.

    Raises:
        ValueError: naming file and line, if one is not valid JSON.
        FileNotFoundError: if the file does not exist.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
    return records


def _json_line(record: Any) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an OSError name ``path``, in place of a temporary file or none."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, where a file is to be written")
    _remove_leftovers(path)
    # A folder, since safetensors makes a temporary file of its own beside the one it is to write.
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    temporary, lock = folder / path.name, FileLock(folder / _LOCK_FILE)
    try:
        (folder / _LOCK_FILE).touch()
        with suppress(OSError):  # a file system without locks
            lock.acquire(timeout=0)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # safetensors and tempfile ask for 0600; this file's mode is what the umask leaves.
        shutil.copymode(folder / _LOCK_FILE, temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of the same file whose processes are gone."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):  # in use, or removed by another process
            if leftover.is_dir() and time.time() - leftover.stat().st_mtime > _LOCK_DELAY:
                with FileLock(leftover / _LOCK_FILE).acquire(timeout=0):
                    shutil.rmtree(leftover, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Have the folder's new entry survive a loss of power, if the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
