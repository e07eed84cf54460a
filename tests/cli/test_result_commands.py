"""`lightgcn evaluate` and `lightgcn recommend`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cli_runs import FAST, files_under, refusal, run_command

from lightgcn.cli import main as cli
from lightgcn.cli import recommend as recommend_command
from lightgcn.cli import train as train_commands
from lightgcn.datasets import open_dataset
from lightgcn.experiments import evaluate as evaluation
from lightgcn.ranking import baselines


def test_baselines_stand_beside_the_model(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(own_run), "-k", "5", "20"]
    values = []
    for _ in range(2):  # the same each time
        capsys.readouterr()
        run_command(*command, "--baselines", "all", "--json")
        out, err = capsys.readouterr()
        values.append(json.loads(out))
        assert err == "" and json.loads((own_run / "test.json").read_text()) == values[-1]
    assert values[0] == values[1]
    assert list(values[0]) == [
        "lightgcn",
        "popularity",
        "item_cosine",
        "ease",
        "sparse_ease",
        "gf_cf",
        "cheby_cf",
        "mf",
    ]
    recall = {name: result["metrics"]["recall@20"] for name, result in values[0].items()}
    assert all(recall[name] > recall["popularity"] for name in ("item_cosine", "ease", "gf_cf"))
    assert set(values[0]["mf"]["metrics"]) == set(values[0]["lightgcn"]["metrics"])
    assert recall["mf"] != recall["lightgcn"]
    assert (
        "roc_auc" not in values[0]["ease"]["metrics"] and "ndcg@5" in values[0]["ease"]["metrics"]
    )

    run_command(*command, "--baselines", "mf", "gf_cf", "mf")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["lightgcn", "mf", "gf_cf"]
    assert next(line for line in lines if line.startswith("roc_auc")).split()[-1] == "-"
    run_command(*command, "--json")
    assert list(json.loads(capsys.readouterr().out)) == ["lightgcn", "popularity"]


def test_ease_that_does_not_fit_is_said_before_anything_is_computed(
    own_run: Path,
    prepared: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "available_memory", lambda: 1000)
    monkeypatch.setattr(evaluation, "evaluate", None)
    command = ("evaluate", own_run, "--baselines", "popularity", "ease")
    assert "items" in refusal(capsys, *command)
    assert "'als'" in refusal(capsys, "evaluate", own_run, "--baselines", "als")
    with pytest.raises(
        ValueError, match=r"'als'.*popularity, item_cosine, ease, sparse_ease, gf_cf, cheby_cf, mf"
    ):
        evaluation.evaluate_run(open_dataset(prepared), own_run, baselines=("als",))
    assert not (own_run / "test.json").exists()


def test_ctrl_c_among_the_baselines_leaves_the_old_figures(
    own_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_command("evaluate", own_run)
    before = files_under(own_run)

    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "fit", pressed)
        capsys.readouterr()
        assert cli.main(["evaluate", str(own_run), "--baselines", "popularity", "mf"]) == 130
    out, err = capsys.readouterr()
    assert out == "" and "interrupted" in err
    assert files_under(own_run) == before


def test_a_run_without_negatives_is_evaluated(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_command("train", with_test, run, *FAST, "--negatives", "0")
    capsys.readouterr()
    run_command("evaluate", run, "-k", "3", "--baselines", "all", "--json")
    results = json.loads(capsys.readouterr().out)
    assert {frozenset(result["metrics"]) for result in results.values()} == {
        frozenset(results["ease"]["metrics"])
    }


def test_bad_questions_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["--user", "0", "-k", "0"], "k must be"),
        (["--user", "0", "-k", "100000"], "100000"),
        (["--user", "no such playlist"], "no such playlist"),
        (["--items", "spotify:track:unknown"], "spotify:track:unknown"),
        (["--similar", "no such track"], "no such track"),
        ([], "--user"),
    ):
        assert said in refusal(capsys, "recommend", run, *options)
    assert "k must be" in refusal(capsys, "evaluate", run, "--k", "0")
    assert not (run / "test.json").exists()


def test_recommend_answers_on_the_device_that_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    used = recommend_command.Recommender
    load = used.load
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        used, "load", lambda path, device, **kwargs: asked.append(device) or load(path, **kwargs)
    )
    run_command("recommend", run, "--user", "0", "--k", "3", "--device", "cuda")
    assert asked == [torch.device("cuda")]


def test_a_model_that_training_has_left_behind_is_noted(
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    run_command("train", prepared, run, "--epochs", "2")
    capsys.readouterr()
    run_command("evaluate", run, "--json")
    assert "newer_training" not in json.loads(capsys.readouterr().out)

    calls = iter(range(100))

    @contextmanager
    def stop_later() -> Iterator[Callable[[], bool]]:
        yield lambda: next(calls) >= 1

    with monkeypatch.context() as patched:
        patched.setattr(train_commands, "stop_on_interrupt", stop_later)
        assert cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "9"]) == 130
    capsys.readouterr()
    run_command("evaluate", run, "-k", "5", "--json")
    out, err = capsys.readouterr()
    newer = {"model_epochs": 2, "checkpoint_epochs": 3}
    assert str(run) in err and json.loads(out)["newer_training"] == newer
    run_command("recommend", run, "--user", "0", "--json")
    out, err = capsys.readouterr()
    assert str(run) in err and len(json.loads(out)) == 10
    run_command("train", prepared, run, "--resume")
    capsys.readouterr()
    run_command("recommend", run, "--user", "0")
    assert capsys.readouterr().err == ""


def test_evaluate_says_that_there_is_no_test_set(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", prepared, tmp_path / "run", *FAST, "--ratios", "0.9", "0.1")
    assert "no test set" in refusal(capsys, "evaluate", tmp_path / "run")


def test_metrics_that_cannot_be_written_are_told_all_the_same(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, value: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(evaluation, "write_json", refused)
    run_command("evaluate", run)
    said = capsys.readouterr()
    assert "recall@20" in said.out and "test.json" in said.err
