"""One process at a time in a folder, by a file lock that ends with its owner."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP)  # by some network file systems
_held: set[tuple[Path, int, int]] = set()  # folder, process, thread


class FolderInUseError(OSError):
    """Another process, or another thread of this one, writes to the folder."""


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which is made if it is missing.

    The thread that holds a folder may lock it again. A killed process leaves no lock. At the end
    the lock file and the folders made for it are removed, the latter if they are empty. On a file
    system without locks nothing is held.

    Raises:
        FolderInUseError: if another process, or another thread of this one, holds the folder.
        ValueError: if ``folder`` or one of its parents is a file, a device, a pipe or a socket.
        OSError: if the folder cannot be made or written to.

    """
    folder = Path(folder).resolve()
    owner = folder, os.getpid(), threading.get_ident()
    if owner in _held:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _acquired(folder / LOCK_FILE)
    _held.add(owner)
    try:
        yield
    finally:
        _held.discard(owner)
        with suppress(OSError):  # Windows keeps an open file
            (folder / LOCK_FILE).unlink()  # while held: nobody acquires a file that was removed
        lock.release()
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def holds_files(folder: Path) -> bool:
    """Return whether a folder exists and holds anything but a lock."""
    return folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir())


def _acquired(path: Path) -> FileLock:
    lock = FileLock(path)
    while True:
        nearest = next(filter(os.path.lexists, path.parents), path.parent)
        if not nearest.is_dir():
            raise ValueError(f"{nearest}: not a folder; a folder is needed here")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUseError(
                f"{path.parent}: another process writes here; wait for it, or choose another folder"
            ) from None
        except (FileNotFoundError, FileExistsError, NotADirectoryError):
            continue  # another process removed the folders that it had made, just now
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        return lock
