"""The blocks of docs/recommending.md run as written on the data that its first one makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "recommending.md").read_text()


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```") // 2  # none of another kind
    start = f'set -e -o pipefail\nlightgcn() {{ "{sys.executable}" -m lightgcn "$@"; }}\n'
    # Python blocks share their names; those between two others run when all files are there.
    shell = [block for kind, block in blocks if kind == "bash"]
    code = [block for kind, block in blocks if kind == "python"]
    shown = ""
    for command in (
        [sys.executable, "-c", code[0]],
        *(["bash", "-c", start + block] for block in shell),
        [sys.executable, "-c", "".join(code[1:])],
    ):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
        shown += done.stdout
    assert "for user -u000xQ, which has 3 items" in shown
    rows = (tmp_path / "lists.csv").read_text().splitlines()
    assert rows[0].startswith('"user","rank","item","score"') and len(rows) == 1 + 2 * 3
