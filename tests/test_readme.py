"""The README's Python blocks and its own-data commands run as written; the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "code",
    re.findall(r"```python\n(.*?)```", README, re.DOTALL),
    ids=["first", "own loop", "processes"],
)
def test_python_block_runs_as_written(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # That of few steps in a small example aside.
    assert "Warning" not in done.stderr.replace("UserWarning: the whole training is", ""), (
        done.stderr
    )
    auc = float(re.search(r"roc_auc (0\.\d+)", done.stdout).group(1))
    assert auc > 0.7


def test_own_data_commands_run_as_written(tmp_path: Path) -> None:
    section = README.partition("### Your own data")[2]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1)
    script = f'set -e\nlightgcn() {{ "{sys.executable}" -m lightgcn "$@"; }}\n{commands}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    # Listener 7 is of the circle that shares songs 210 to 239.
    songs = [int(number) for number in re.findall(r"Song (\d+)", done.stdout)]
    assert len(songs) == 5 and sum(210 <= song < 240 for song in songs) >= 4
