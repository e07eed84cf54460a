"""What commands have in common: lines on the terminal, JSON, Ctrl-C, and the device."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import torch

BAD_INPUT = 2
INTERRUPTED = 130


def chosen_device(name: str) -> torch.device:
    """Return the device of an option's value; a ValueError says that there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda: this machine or this build of torch has no CUDA device; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question that the training loop asks; a second one interrupts at once."""
    pressed = False

    def handler(signal_number: int, frame: types.FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        complain("interrupting after this step; once more to quit without saving")

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def say(line: str) -> None:
    """Print a line of the command's answer."""
    print(_shown(line), flush=True)


def complain(line: str) -> None:
    """Print an error or a remark, on stderr."""
    print(f"lightgcn: {_shown(line)}", file=sys.stderr, flush=True)


def _shown(text: str) -> str:
    """Return text in which nothing commands a terminal: names come from anywhere."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else " " if letter.isspace() else "�" for letter in text
    )


def print_json(value: Any) -> None:
    """Print the command's answer as JSON."""
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())


def one_line(error: BaseException | str) -> str:
    """Return an error's message as one line, with the file that the system could not use."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
