"""The blocks of docs/recommending.md run as written on the data that its first one makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import blocks, run_commands, run_python


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    found = blocks("docs/recommending.md")
    assert {kind for kind, _ in found} == {"bash", "python"}
    # Python blocks share their names; those between two others run when all files are there.
    first, *code = [block for kind, block in found if kind == "python"]
    run_python(first, tmp_path)
    shown = "".join(run_commands(code, tmp_path)[0] for kind, code in found if kind == "bash")
    run_python("".join(code), tmp_path)
    assert "for user -u000xQ, which has 3 items" in shown
    rows = (tmp_path / "lists.csv").read_text().splitlines()
    assert rows[0].startswith('"user","rank","item","score"') and len(rows) == 1 + 2 * 3
