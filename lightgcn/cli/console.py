"""Shared by the commands: output, JSON, Ctrl-C, the device, the processes of torchrun."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import torch

from lightgcn.core.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    ProcessLostError,
    is_launched,
    own_gpu,
    process_group,
    this_process,
)

# Control characters except the line break, lone surrogates, and marks of text direction.
_COMMANDS = re.compile(
    "[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u202a-\\u202e\\u2066-\\u2069]"
)
LOST = 1
BAD_INPUT = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def chosen_device(name: str) -> torch.device:
    """Return the device of an option's value.

    Raises:
        ValueError: if there is no such device, or fewer GPUs than processes.
    """
    available = torch.cuda.is_available()
    if available and name != "cpu" and is_launched():
        return own_gpu()
    if name == "cuda" and not available:
        raise ValueError(
            "--device cuda: this machine or this build of torch has no CUDA device; use --device "
            "cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; a second Ctrl-C raises at once."""
    pressed = False

    def handler(signal_number: int, frame: types.FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        # Under torchrun a second Ctrl-C does not reach the process; torchrun kills it after 30 s.
        remark(
            "interrupting after this "
            f"step{'' if is_launched() else '; once more to quit without saving'}"
        )

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def joined_processes(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started with this one, if it did.

    If one of them dies, ``torchrun`` terminates the others: SIGTERM raises a `ProcessLostError`.
    """
    if not is_launched():
        yield SINGLE_PROCESS
        return

    def handler(signal_number: int, frame: types.FrameType | None) -> None:
        raise ProcessLostError(
            f"{this_process()}: terminated by torchrun, because a different process has ended"
        )

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with process_group(device) as processes:
            yield processes
    finally:
        signal.signal(signal.SIGTERM, previous)


def say(line: str) -> None:
    """Print a line of the command's output."""
    print(_shown(line), flush=True)


def complain(line: str) -> None:
    """Print an error or a remark on stderr, with the process number if there are several."""
    if is_launched() and not line.startswith("process "):
        line = f"{this_process()}: {line}"
    print(f"lightgcn: {_shown(line)}", file=sys.stderr, flush=True)


def remark(line: str) -> None:
    """Print a remark on stderr, once for all processes."""
    if not is_launched() or os.environ["RANK"] == "0":
        complain(line)


def _shown(text: str) -> str:
    """Return text without the control characters that names may hold."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line with these arguments, with torchrun if this process runs under it."""
    launcher = (
        ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m"]
        if is_launched()
        else []
    )
    return shlex.join([*launcher, "lightgcn", *arguments])


def interrupted(folder: str) -> int:
    """Print that the same command resumes from a folder, and return the exit code."""
    complain(
        f"interrupted; saved to {folder}; resume with the same command: "
        f"{command_line(sys.argv[1:])}"
    )
    return INTERRUPTED


def print_json(value: Any) -> None:
    """Print the command's output as JSON."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode()
    print(_COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def silence() -> None:
    """Discard further output: the pipe is closed, and Python would print an error at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # not a file, or closed
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def one_line(error: BaseException | str) -> str:
    """Return an error's message as one line, with its file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
