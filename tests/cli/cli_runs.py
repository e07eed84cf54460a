"""How the tests run commands: in this process, or as a user does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightgcn.cli import main as cli

FAST = ["--preset", "fast", "--epochs", "12", "--batch-size", "256"]


def run_command(*arguments: object, code: int = 0) -> None:
    """Run a command in this process, and check its exit code."""
    assert cli.main([str(argument) for argument in arguments]) == code


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail, and return its one line."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("lightgcn: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def lightgcn(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, and check its exit code."""
    command = [sys.executable, "-m", "lightgcn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def files_under(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
