"""Processes that read slices side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import orjson

from lightgcn.datasets.mpd.slice_reader import Part, Reader
from lightgcn.datasets.streams import archive_and_member

MOST = 8
WORTH = 50_000_000  # bytes of JSON per process; with fewer, starting it takes longer than it saves

# A worker starts with this. Empty packages in place of the real ones save it the import of torch;
# Ctrl-C is the caller's to handle; a worker ends when the caller does, even by a kill.
_START = """
import gc, multiprocessing, os, signal, sys, threading, types
for name, folder in packages.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
signal.signal(signal.SIGINT, signal.SIG_IGN)
gc.disable()
caller = multiprocessing.parent_process()
threading.Thread(target=lambda: (caller.join(), os._exit(1)), daemon=True).start()
"""
_Packed = tuple[int, tuple[Any, ...], bytes]  # process, arrays of a part, texts as JSON
_main_lock = Lock()


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_count(files: Iterable[Path], processes: int | None) -> int:
    """Return how many processes read the files; 1 is this one alone.

    An iterator counts as many large files.

    Raises:
        ValueError: if ``processes`` is not a positive integer.
    """
    if processes is not None and (type(processes) is not int or processes < 1):
        raise ValueError(f"processes must be a positive integer or None, got {processes!r}")
    frozen = not sys.executable or getattr(sys, "frozen", False)
    if frozen or multiprocessing.current_process().daemon:  # which cannot start a process
        return 1
    most = processes or min(available_cores(), MOST)
    if not isinstance(files, Sequence):
        return most
    if processes is None:
        inside = [archive_and_member(path) for path in files]
        stored = {path if at is None else at[0] for path, at in zip(files, inside, strict=True)}
        most = min(most, sum(path.stat().st_size for path in stored) // WORTH)
    return max(1, min(most, len(files)))


def parts_by_workers(
    files: Iterable[Path], processes: int, skip_bad: bool
) -> Generator[tuple[Path, int, Part]]:
    """Yield each file, in order, with the process that read it and its content.

    Closing the generator ends the processes.

    Raises:
        OSError, ValueError: as `Reader.read`, when the turn of the file comes.
        ChildProcessError: if a process is killed or runs out of memory.
    """
    packages = {name: sys.modules[name].__path__[0] for name in ("lightgcn", "lightgcn.datasets")}
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=exec,
        initargs=(_START, {"packages": packages}),
    )
    # Two files per process at most are in the pool, so memory does not grow with their number.
    coming: deque[tuple[Path, Future[_Packed]]] = deque()
    path = None
    try:
        for path in files:
            if len(coming) == 2 * processes:
                yield _first(coming)
            with _quiet_start():
                coming.append((path, pool.submit(_read, path, skip_bad)))
        while coming:
            yield _first(coming)
    except (BrokenProcessPool, MemoryError) as error:
        raise ChildProcessError(
            f"{coming[0][0] if coming else path}: a process that read this file or one of the "
            f"{2 * processes} after it was killed or ran out of memory; fewer processes need less "
            "memory (processes=1: none)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_reader = cache(Reader)  # one per process


def _read(path: Path, skip_bad: bool) -> _Packed:
    """Read a slice in a worker; JSON travels several times as fast as pickled lists of strings."""
    part = _reader(skip_bad).read(path)
    return os.getpid(), part[:3], orjson.dumps(part[3:])


def _first(coming: deque[tuple[Path, Future[_Packed]]]) -> tuple[Path, int, Part]:
    path, future = coming[0]
    worker, arrays, texts = future.result()
    coming.popleft()
    return path, worker, Part(*arrays, *orjson.loads(texts))


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hide the caller's script, which a process started here would run again, guarded or not, and
    hold Ctrl-C back, which would interrupt a process before it can ignore it."""
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    with _main_lock:
        script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
        try:
            yield
        finally:
            sys.modules["__main__"] = script
            if masks:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
