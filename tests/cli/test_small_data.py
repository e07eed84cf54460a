"""Data smaller than the defaults: each command works without an option, and a warning names each
default that is cut."""

from __future__ import annotations

import itertools
import json
import random
import re
import warnings
from pathlib import Path

import pytest
from cli_runs import files_under, refusal, run_command

import lightgcn
from lightgcn.training import PRESETS, save_preset

Pairs = list[tuple[int, int]]


def some(num_users: int, num_items: int, count: int) -> Pairs:
    every = list(itertools.product(range(num_users), range(num_items)))
    return sorted(random.Random(0).sample(every, count))


SIZES: dict[str, Pairs] = {
    "6 x 7": some(6, 7, 28),
    "two by two": [(0, 0), (0, 1), (1, 0)],
    "two by two, complete": some(2, 2, 4),
    "complete": some(5, 4, 20),
    "one user": [(0, item) for item in range(6)],
    "one item": [(user, 0) for user in range(6)],
    "a user for each item": [(user, user) for user in range(8)],
    "three edges of one user": [(0, 0), (0, 1), (0, 2)],
}
DENSE = sorted({*some(200, 100, 14000), *((user, item) for user in (7, 91) for item in range(100))})
# Without enough edges for a validation and a test set.
TINY: dict[str, Pairs] = {"an edge": [(0, 0)], "two edges": [(0, 0), (1, 1)]}


def prepare(folder: Path, pairs: Pairs) -> Path:
    lines = ["user,item", *(f"u{user},i{item}" for user, item in pairs)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    run_command("prepare", folder / "pairs.csv", folder / "prepared")
    return folder / "prepared"


def walk(data: Path, run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run each command on a preset's run."""
    run_command("train", data, run, "--preset", name)
    out = capsys.readouterr().out
    assert "split: random edges: shares 0.8 0.1 0.1" in out
    assert "nan" not in out and "nan" not in (run / "history.jsonl").read_text().lower()
    run_command("evaluate", run, "--baselines", "all", "-k", 1, "--json")
    results = json.loads(capsys.readouterr().out)
    assert set(results) == {"lightgcn", *lightgcn.experiments.evaluate.BASELINES}
    for result in results.values():
        assert result["num_users"] >= 1 and 0 <= result["metrics"]["recall@1"] <= 1
    for who in (["--user", "u0"], ["--items", "i0"], ["--similar", "i0"]):
        run_command("recommend", run, "-k", 1, *who, "--json")
        assert len(json.loads(capsys.readouterr().out)) <= 1


def draw(run: Path) -> None:
    run_command("plot", run)
    assert list((run / "pictures").iterdir())
    run_command("report", run)
    assert (run / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("size", [size for size in SIZES if size != "6 x 7"])
def test_every_command_works(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(prepare(tmp_path, SIZES[size]), tmp_path / "run", "fast", capsys)
    draw(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "fast"])
@pytest.mark.parametrize("size", ["6 x 7", "two by two, complete"])
def test_every_command_works_with_each_preset(
    size: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(prepare(tmp_path, SIZES[size]), tmp_path / "run", name, capsys)


def test_the_toy_of_a_newcomer_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk(prepare(tmp_path, SIZES["6 x 7"]), tmp_path / "run", "fast", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_command_works_on_dense_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = prepare(tmp_path, DENSE), tmp_path / "run"
    # "paper" and "tutorial" in fewer epochs.
    shorter = ["--epochs", 10] if name in ("paper", "tutorial") else []
    run_command("train", data, run, "--preset", name, *shorter)
    run_command("evaluate", run, "--baselines", "all")
    assert "recall@20" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("size", ["6 x 7", "two by two, complete", "one user"])
def test_tune_works(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(tmp_path, SIZES[size])
    capsys.readouterr()
    run_command("tune", data, tmp_path / "found", "--trials", 2, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [trial["ended"] == "failed" for trial in found["trials"]] == [False, False]
    run_command("train", data, tmp_path / "run", "--preset", tmp_path / "found" / "preset.json")


@pytest.mark.slow
@pytest.mark.parametrize("size", TINY)
def test_too_few_edges_for_three_sets_are_all_for_training(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path, TINY[size])
    for name in PRESETS:
        run = tmp_path / name
        shorter = ["--epochs", 5] if name in ("paper", "tutorial") else []
        run_command("train", data, run, "--preset", name, *shorter)
        out, err = capsys.readouterr()
        assert "all of the data is for training" in err and "shares 1.0" in out
        run_command("recommend", run, "--user", "u0", "-k", 1)
        if name == "fast":
            draw(run)
        run_command("evaluate", run, code=2)
        assert "no test set" in capsys.readouterr().err
    run_command("tune", data, tmp_path / "found", "--trials", 2, code=2)
    assert not (tmp_path / "found").exists()


def test_a_line_names_each_default_that_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path, SIZES["6 x 7"])
    run_command("train", data, tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("lightgcn: warning: ") for line in lines)
    for said in (("metric is ndcg@7", "recall@20", "7 items"), ("train 18 for 24",)):
        assert sum(all(part in line for part in said) for line in lines) == 1
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["metric"] == "ndcg@7"
    run_command("train", data, tmp_path / "run", "--resume", "--preset", "fast", "--epochs", 9)


def test_values_that_are_given_are_obeyed_or_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path, SIZES["6 x 7"])
    own = tmp_path / "own.json"
    save_preset(own, lightgcn.preset("fast", epochs=1))
    metric = ["--metric", "recall@3"]
    before = files_under(tmp_path)
    for options, *said in (
        (["--metric", "recall@8"], "--metric recall@8", "7 items"),
        (["--preset", own], "--metric recall@20", "7 items"),
        ([*metric, "--negatives", 1], "--negatives=1", "24", "18 of 42"),
        ([*metric, "--ratios", 0.98, 0.01, 0.01, "--stratify", "user"], "edges"),
    ):
        error = refusal(capsys, "train", data, tmp_path / "run", *options)
        assert all(part in error for part in said), error
        assert files_under(tmp_path) == before
    run_command("train", data, tmp_path / "run", *metric, "--negatives", 0.5)
    assert "negative" not in capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["settings"]["metric"] == "recall@3" and found["negatives"] == 0.5


def test_users_with_every_item_are_left_out_of_the_loss_and_named_by_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path, DENSE)
    options = ["--preset", "paper", "--epochs", 2, "--ratios", 1]
    run_command("train", data, tmp_path / "run", *options)
    err = capsys.readouterr().err
    assert re.search(r"2 users \((u7|u91), …\) with each of the 100 items", err)
    assert "200 of 14065 train edges" in err
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2


def test_data_with_its_own_test_split_may_be_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("0 0 1 2\n1 1 3\n2 4 0\n")
    (folder / "test.txt").write_text("0 3\n1 0\n")
    run_command("train", folder, tmp_path / "run")
    assert "split: random edges: shares 0.9 0.1" in capsys.readouterr().out
    run_command("evaluate", tmp_path / "run", "-k", 2, "--json")
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] == 2


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", ["6 x 7", "two by two", "one user", "one item"])
def test_the_short_way_in_python_works(size: str, name: str) -> None:
    users, items = zip(*SIZES[size], strict=True)
    graph = lightgcn.Interactions.from_frame({"user": users, "item": items})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = lightgcn.split_edges(graph)
        model = lightgcn.train(split, name, epochs=10)
    assert lightgcn.evaluate(model, split.test, ks=[1]).num_users == 1
    assert len(lightgcn.Recommender(model, graph).recommend(0, k=1)) <= 1
    with pytest.raises(ValueError, match="metric recall@50"):
        lightgcn.train(split, name, epochs=1, metric="recall@50")
