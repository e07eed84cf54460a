"""One process at a time in a folder, by a lock that dies with its owner."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
R = TypeVar("R")

LOCK_FILE = ".lock"
_held: dict[Path, tuple[int, int]] = {}  # folder to the process and the thread of it that hold it


class FolderInUseError(OSError):
    """Another process writes to the folder."""


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder against other processes that ask for the same; it is made where it is missing.

    The lock is the kernel's (``flock``), so a process that is killed leaves none behind. At the end
    the lock file is removed, and with it the folders that were made for it and are empty. A thread
    that holds a folder may ask for it again. Where the system has no such locks, nothing is held.

    Raises:
        FolderInUseError: if another process, or another thread of this one, holds the folder.
        ValueError: if there is a file in its place.
        OSError: if the folder cannot be made or written to.
    """
    if fcntl is None:
        yield
        return
    folder = Path(folder).resolve()
    owner = os.getpid(), threading.get_ident()
    if _held.get(folder) == owner:
        yield
        return
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; a folder is needed here")
    made, path = _missing(folder), folder / LOCK_FILE
    handle = _acquired(path)
    _held[folder] = owner
    try:
        yield
    finally:
        del _held[folder]
        # While it is held: whoever opened the same file before sees below that it is no longer the
        # one at the path.
        path.unlink(missing_ok=True)
        os.close(handle)
        for parent in made:
            try:
                parent.rmdir()
            except OSError:  # something was written
                break


def holds(argument: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function hold the folder that an argument of it names, while it runs."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def held(*arguments: P.args, **options: P.kwargs) -> R:
            with folder_lock(signature.bind(*arguments, **options).arguments[argument]):
                return function(*arguments, **options)

        return held

    return decorate


def hold(handle: int) -> bool:
    """Mark an open file as in use by a lock that dies with this process; False where another
    process holds it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holds_files(folder: Path) -> bool:
    """Return whether a folder is there and holds anything but a lock."""
    return folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir())


def _acquired(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            # Another process was done, and took the folders that it had made with it; or there is a
            # file in the way.
            blocking = next((part for part in path.parents if part.is_file()), None)
            if blocking is not None:
                raise ValueError(f"{blocking}: is a file; a folder is needed here") from None
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FolderInUseError(
                f"{path.parent}: another process writes here; wait for it, or choose another folder"
            ) from None
        except OSError:  # no locks on this file system, as on some in a network
            return handle
        if _is_at(path, handle):
            return handle
        os.close(handle)  # its owner removed it just now


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _missing(folder: Path) -> list[Path]:
    """Return the folder and those above it that are not there, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
