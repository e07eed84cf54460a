"""A short run of `fuzz`: every reader, with files that are wrong in every way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "tools" / "fuzz.py"


@pytest.mark.slow
def test_every_reader_gives_a_result_or_an_error_that_names_the_file() -> None:
    pytest.importorskip("pyarrow")
    # A process of its own, which forks others and bounds what they may use.
    command = [sys.executable, str(FUZZ), "--inputs", "250", "--seed", "1000000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("250 inputs") == 17, done.stdout
