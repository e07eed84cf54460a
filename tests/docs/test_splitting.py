"""Every code block of docs/splitting.md runs as written, in the order of the page."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
from doc_pages import blocks

from lightgcn.cli.main import main
from lightgcn.experiments.run import RunConfig

BLOCKS = blocks("docs/splitting.md")


@pytest.mark.slow
def test_the_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"} and len(BLOCKS) >= 9
    for kind, code in BLOCKS:
        if kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                exec(code, names)
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lightgcn" and main(arguments) == 0, line
            assert "split: " in capsys.readouterr().out
    stored = {run.name: RunConfig.load(run) for run in (tmp_path / "runs").iterdir()}
    assert stored["leave-one-out"].leave_out == (1, 1)
    assert stored["dates"].dates == ("2014-02-20", "2014-03-01")
    assert stored["numbers"].dates == (1392854400, 1393632000)
    assert (stored["time"].stratify, stored["last"].stratify) == ("time", "last")
