"""The README's Python blocks and its own-data commands run as written; the examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks_of, run_python, run_shell

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "code", blocks_of("README.md", "python"), ids=["first", "own loop", "processes"]
)
def test_python_block_runs_as_written(code: str, tmp_path: Path) -> None:
    shown, told = run_python(code, tmp_path)
    # That of few steps in a small example aside.
    assert "Warning" not in told.replace("UserWarning: the whole training is", ""), told
    auc = re.search(r"roc_auc +(0\.\d+)", shown)
    assert auc is not None and float(auc[1]) > 0.7


def test_own_data_commands_run_as_written(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("### Your own data")[2]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    shown, told = run_shell(commands[1], tmp_path)
    assert "warning" not in told, told
    # Listener 7 is of the circle that shares songs 210 to 239.
    songs = [int(number) for number in re.findall(r"Song (\d+)", shown)]
    assert len(songs) == 5 and sum(210 <= song < 240 for song in songs) >= 4
    assert (tmp_path / "lists.parquet").is_file()
