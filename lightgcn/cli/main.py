"""The command line: the commands and their exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from lightgcn.cli import challenge, data, evaluate, recommend, results, train, tune
from lightgcn.cli.console import (
    BAD_INPUT,
    INTERRUPTED,
    LOST,
    PIPE_CLOSED,
    complain,
    one_line,
    remark,
    silence,
)
from lightgcn.cli.options import build_parser
from lightgcn.core.checks import is_out_of_memory
from lightgcn.core.memory import use_huge_pages
from lightgcn.core.process_group import ProcessLostError, is_launched

COMMANDS = {
    **data.COMMANDS,
    **train.COMMANDS,
    **tune.COMMANDS,
    **evaluate.COMMANDS,
    **results.COMMANDS,
    **recommend.COMMANDS,
    **challenge.COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: success; 1: one of several processes died; 2: bad input; 130: interrupted; 141: the output
    pipe was closed (as a shell reports SIGPIPE).
    """
    use_huge_pages()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        silence()
        return PIPE_CLOSED


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser(COMMANDS).parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: remark(f"warning: {one_line(message)}")
            if is_launched() and arguments.command is not train.train:
                raise ValueError(
                    "only train runs on several processes; start other commands without torchrun"
                )
            code: int = arguments.command(arguments)
            return code
    except BrokenPipeError:
        raise
    except ProcessLostError as error:
        complain(one_line(error))
        return LOST
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError, Warning) as error:
        out_of_memory = is_out_of_memory(error)
        a_bug = isinstance(error, RuntimeError) and not out_of_memory
        if os.environ.get("LIGHTGCN_DEBUG") or a_bug:
            raise
        text = one_line(error)
        complain(f"out of memory {text[:200]}".strip() if out_of_memory else text)
        return BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted; files that were complete before are unchanged")
        return INTERRUPTED
