"""The examples run as they are and print what they promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


# What a plain `pip install .` does not bring.
EXTRAS = ("pandas", "polars", "pyarrow", "sklearn", "matplotlib", "networkx", "optuna")


def run(script: Path, *arguments: object, first: Path = ROOT) -> str:
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": f"{first}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    return done.stdout


def test_custom_loop() -> None:
    scores = [
        float(value)
        for value in re.findall(r"ROC-AUC (0\.\d+)", run(ROOT / "examples" / "custom_loop.py"))
    ]
    assert len(scores) == 3 and scores[-1] > 0.75


def test_own_data_needs_no_extra(tmp_path: Path) -> None:
    for name in EXTRAS:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')")
    said = run(ROOT / "examples" / "own_data.py", first=tmp_path)
    # All belong to circles of thirty songs.
    for person, first in (("listener 7", 210), ("listener 8", 240), ("somebody new", 0)):
        (line,) = re.findall(rf"^{person}: (.*)$", said, re.MULTILINE)
        songs = [int(number) for number in re.findall(r"song (\d+)", line)]
        assert len(songs) == 3 and 211 not in songs
        assert all(first <= song < first + 30 for song in songs)


def test_playlist_challenge(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    said = run(ROOT / "examples" / "playlist_challenge.py", "--out", tmp_path)
    values = {
        name: float(value)
        for name, value in re.findall(r"^(\S.*?\S) {2,}(0\.\d+) ", said, re.MULTILINE)
    }
    assert values["LightGCN"] > values["without titles"] > values["popularity"] > 0
    assert values["LightGCN"] > values["item-item"] > values["popularity"]
    assert "no problems" in said
    assert {"challenge_set.json", "submission.csv.gz"} <= {file.name for file in tmp_path.iterdir()}


def test_tutorial(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    said = run(ROOT / "examples" / "tutorial.py", "--epochs", 100, "--pictures", tmp_path)
    auc = re.search(r"test: roc_auc (0\.\d+)", said)
    assert auc is not None and float(auc[1]) > 0.75
    assert len(re.findall(r"^  .+ by .+$", said, re.MULTILINE)) == 10
    assert {file.stem for file in tmp_path.iterdir()} == {"curves", "graph", "map"}


def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    notebook = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    script = tmp_path / "notebook.py"
    lines = [
        line for cell in cells for line in [*cell["source"], "\n\n"] if not line.startswith("%")
    ]
    script.write_text("".join(lines))
    said = run(script)
    recalls = [float(value) for value in re.findall(r"recall@20 (0\.\d+)", said)]
    assert len(recalls) == 2 and recalls[1] > recalls[0] > 0.02
    assert len(re.findall(r"^  .+ by .+$", said, re.MULTILINE)) == 10
