"""A short run of `fuzz`: every reader, with files that are wrong in every way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1_000_000])
def test_every_reader_gives_a_result_or_an_error_that_names_the_file(seed: int) -> None:
    pytest.importorskip("pyarrow")
    # A process of its own, which forks others and bounds what they may use.
    command = [sys.executable, str(ROOT / "fuzz.py"), "--inputs", "400", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("400 inputs") == 18, done.stdout
