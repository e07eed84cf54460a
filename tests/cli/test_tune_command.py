"""`lightgcn tune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_runs import files_under, refusal, run_command


def test_tune_writes_a_preset_that_train_takes(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    out, run = tmp_path / "tuned", tmp_path / "run"
    split = ["--ratios", "0.7", "0.2", "0.1", "--stratify", "user"]
    small = ["--embedding-dim", "8", "--epochs", "4"]
    command = ["tune", prepared, out, "--trials", "3", *small, *split, "--seed", "3"]
    run_command(*command)
    text = capsys.readouterr().out
    assert f"--preset {out / 'preset.json'} --ratios 0.7" in text
    run_command(*command, "--json")  # goes on
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 6 and found["ended"] == "trials"
    assert found["metric"] == "recall@20"
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])
    run_command("train", prepared, run, "--preset", out / "preset.json", *split, "--json")
    assert json.loads(capsys.readouterr().out)["best"]["val"]["recall@20"] == found["best"]["value"]
    files = (run / "run.json", out / "preset.json")
    saved, tuned = (json.loads(file.read_text()) for file in files)
    assert saved["settings"] == tuned["settings"]

    before = files_under(out)
    assert "start" in refusal(capsys, *command, "--metric", "ndcg@20")
    assert "data" in refusal(capsys, *command[:-2])  # another seed makes another split
    assert "minutes" in refusal(capsys, *command, "--minutes", "-1")
    assert files_under(out) == before


def test_tune_without_optuna_is_one_line(
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "lightgcn[tune]" in refusal(capsys, "tune", prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()
