"""Code blocks of the README and of docs/, and how tests run them: as a reader would, in a folder of
their own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lightgcn.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a page, such as "docs/serving.md"."""
    return re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def blocks_of(page: str, language: str) -> list[str]:
    """Return the text of each block in one language."""
    return [text for kind, text in blocks(page) if kind == language]


def run_python(code: str, folder: Path) -> tuple[str, str]:
    """Run Python code in a new process; return what it printed to stdout and stderr."""
    return _run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], folder)


def run_commands(commands: str, folder: Path) -> tuple[str, str]:
    """Run a block of commands; return what they printed.

    In this process, if all lines are commands of lightgcn alone: it takes two seconds to start."""
    lines = commands.replace("\\\n", " ").splitlines()
    if set("|<>&;$`") & set(commands) or not all(line.startswith("lightgcn ") for line in lines):
        return run_shell(commands, folder)
    out, err = io.StringIO(), io.StringIO()
    with _working_in(folder), redirect_stdout(out), redirect_stderr(err):
        for line in lines:
            assert main(shlex.split(line)[1:]) == 0, (line, err.getvalue())
    return out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_shell(commands: str, folder: Path) -> tuple[str, str]:
    """Run shell commands, up to the first that fails; return what they printed."""
    programs = "".join(
        f'{name}() {{ "{sys.executable}" {module}"$@"; }}\n'
        for name, module in (("lightgcn", "-m lightgcn "), ("python", ""))
    )
    return _run(["bash", "-c", f"set -e -o pipefail\n{programs}{commands}"], folder)


def _run(command: list[str], folder: Path) -> tuple[str, str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (command[-1], done.stderr)
    return done.stdout, done.stderr
