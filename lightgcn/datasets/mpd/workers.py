"""Processes that read slices: each a bare Python with orjson and `slice_reader`, fed and asked
through pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, cast

import orjson

from lightgcn.datasets.mpd import slice_reader
from lightgcn.datasets.mpd.slice_reader import Part, unpack

MOST = 8
WORTH = 16_000_000  # bytes of JSON that are parsed in about the time in which a process starts
# Neither a fork, which threads of this process could break, nor a fresh import of the caller's
# script: the standard library, this folder, and what holds orjson.
BOOT = (
    "import sys; sys.path += sys.argv[2:]; import slice_reader; slice_reader.serve(sys.argv[1] "
    "== 'skip')"
)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_count(files: Iterable[Path], processes: int | None) -> int:
    """Return how many processes are to read the files; 1 is this one alone.

    Of files that are no sequence nobody knows how many there are, and how large: they are taken for
    many large ones.

    Raises:
        ValueError: if ``processes`` is not a positive integer.
    """
    if processes is not None:
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ValueError(f"processes must be a positive integer or None, got {processes!r}")
        return min(processes, len(files)) if isinstance(files, Sequence) else processes
    if not sys.executable or getattr(sys, "frozen", False):
        return 1  # there is no Python to start
    cores = available_cores()
    if not isinstance(files, Sequence):
        return min(cores, MOST)
    size: int = sum(path.stat().st_size for path in files)
    return max(1, min(cores, MOST, len(files), size // WORTH))


@contextmanager
def parts_by_workers(
    files: Iterable[Path], processes: int, skip_bad: bool = False
) -> Iterator[Iterator[tuple[Path, int, Part]]]:
    """Give an iterator of each file, in order, with the number of the worker that read it and what
    it read.

    Errors come when their file's turn comes, as they would in one process. No process outlives the
    context."""
    workers = [_Worker(skip_bad) for _ in range(processes)]
    pool = ThreadPoolExecutor(processes, "mpd-reader")
    try:
        yield _in_order(files, workers, pool)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        pool.shutdown()


def _in_order(
    files: Iterable[Path], workers: list[_Worker], pool: ThreadPoolExecutor
) -> Iterator[tuple[Path, int, Part]]:
    idle: SimpleQueue[int] = SimpleQueue()
    for number in range(len(workers)):
        idle.put(number)

    def read(path: Path) -> tuple[Path, int, Part]:
        number = idle.get()
        try:
            return path, number, workers[number].read(path)
        finally:
            idle.put(number)

    # A part waits at most for two files of each worker, so memory does not grow with the number of
    # files.
    coming: deque[Future[tuple[Path, int, Part]]] = deque()
    for path in files:
        if len(coming) == 2 * len(workers):
            yield coming.popleft().result()
        coming.append(pool.submit(read, path))
    while coming:
        yield coming.popleft().result()


class _Worker:
    def __init__(self, skip_bad: bool = False) -> None:
        paths = [str(Path(slice_reader.__file__).parent), str(Path(orjson.__file__).parents[1])]
        # A session of its own: Ctrl-C reaches this process alone, which then ends the worker.
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, "skip" if skip_bad else "all", *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=1 << 20,
            start_new_session=True,
        )
        self.requests = cast(BinaryIO, self.process.stdin)
        self.answers = cast(BinaryIO, self.process.stdout)

    def read(self, path: Path) -> Part:
        name = os.fsencode(path)
        try:
            self.requests.write(b"%d\n%b" % (len(name), name))
            self.requests.flush()
            return unpack(self.answers)
        except (EOFError, BrokenPipeError) as error:
            raise ChildProcessError(f"{path}: {self._end()}") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _end(self) -> str:
        code = self.process.wait()
        how = (
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        return (
            f"the process that read it {how}; if memory ran out, fewer processes need "
            f"less (processes=1: none)"
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.answers):
            with suppress(OSError):
                pipe.close()
