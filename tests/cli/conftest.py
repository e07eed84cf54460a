"""Data and a run that the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_runs import FAST, run_command


@pytest.fixture(scope="session")
def prepared(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "prepared"
    run_command("prepare", slices, out, "--largest-component")
    return out


@pytest.fixture(scope="session")
def run(prepared: Path) -> Path:
    """A run folder that no test writes to."""
    folder = prepared.parent / "run"
    run_command("train", prepared, folder, *FAST)
    return folder


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to evaluate."""
    return Path(shutil.copytree(run, tmp_path / "own"))


@pytest.fixture
def with_test(tmp_path: Path) -> Path:
    """Text data with a test split; user 40 has edges there alone."""
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [[user, *((user * 7 + step) % 30 for step in range(12))] for user in range(40)]
    (folder / "train.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    tests = "".join(f"{user} {(user * 7 + 12) % 30} {(user * 7 + 13) % 30}\n" for user in range(41))
    (folder / "test.txt").write_text(tests)
    return folder
