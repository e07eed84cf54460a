"""The options of `lightgcn evaluate`, and `lightgcn compare`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import FAST, files_under, refusal, run_command

import lightgcn
from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.experiments.run import RunConfig, held_out_links
from lightgcn.ranking import compare


@pytest.fixture(scope="session")
def other_run(prepared: Path) -> Path:
    """A run of the same split with another model."""
    folder = prepared.parent / "other run"
    run_command("train", prepared, folder, *FAST, "--embedding-dim", "4", "--negatives", "2")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    capsys.readouterr()
    run_command(*arguments)
    return capsys.readouterr().out.splitlines()


def test_tables_are_at_most_80_wide(
    own_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ("evaluate", own_run, "--baselines", "all", "--groups", "-k", 5, 20),
        ("evaluate", own_run, "--baselines", "popularity", "ease", "gf_cf", "--intervals"),
    ):
        lines = printed(capsys, *command)
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        # Every column is there, in tables one below the other.
        titles = [line.split() for line in lines if line.startswith("  ")]
        assert titles[0][:2] == ["lightgcn", "popularity"]
        assert sum(name in line for line in titles for name in ("ease", "gf_cf")) == 2
    shutil.copytree(own_run, own_run.parent / "x")
    monkeypatch.chdir(own_run.parent)
    lines = printed(capsys, "compare", own_run.name, "x", "x")
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_the_loss_of_a_ranking_model_is_not_shown(
    own_run: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any(line.startswith("loss") for line in printed(capsys, "evaluate", own_run))
    assert "loss" in json.loads((own_run / "test.json").read_text())["lightgcn"]["metrics"]
    run_command("train", prepared, tmp_path / "bce", "--preset", "tutorial", "--epochs", "1")
    assert any(line.startswith("loss") for line in printed(capsys, "evaluate", tmp_path / "bce"))


def test_intervals_are_those_of_python(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "evaluate", own_run, "--intervals")
    values = json.loads("\n".join(printed(capsys, "evaluate", own_run, "--intervals", "--json")))
    config, model = RunConfig.load(own_run), lightgcn.load_model(own_run / "model.safetensors")
    links = held_out_links(config, open_dataset(config.data))
    low, high = lightgcn.evaluate(model, links, per_user=True).interval("ndcg@20")
    assert values["lightgcn"]["intervals"]["ndcg@20"] == [low, high]
    value = values["lightgcn"]["metrics"]["ndcg@20"]
    wanted = f"{value:.4f} [{low:.4f}, {high:.4f}]".replace("0.", ".")
    assert wanted in next(line for line in lines if line.startswith("ndcg@20"))
    assert set(values["popularity"]["intervals"]) == {
        name
        for name in values["popularity"]["metrics"]
        if name.startswith(("recall", "ndcg", "precision", "hit", "mrr", "map"))
    }
    # The file of the run holds what it holds without the option.
    assert "intervals" not in json.loads((own_run / "test.json").read_text())["lightgcn"]


def test_groups_hold_all_users_and_edges(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "evaluate", own_run, "--groups")
    values = json.loads("\n".join(printed(capsys, "evaluate", own_run, "--groups", "--json")))
    history, items = values["groups"]["history"], values["groups"]["popularity"]
    assert sum(group["num_users"] for group in history) == values["lightgcn"]["num_users"]
    assert sum(group["num_edges"] for group in history) == sum(
        group["num_edges"] for group in items
    )
    rows = [line.split() for line in lines if line.startswith("users")]
    assert [[int(cell) for cell in row[1:]] for row in rows] == [
        [group["num_users"] for group in groups] for groups in (history, items)
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "CSV"])
def test_a_row_per_user_is_written(
    own_run: Path, prepared: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / f"users.{suffix}"
    lines = printed(capsys, "evaluate", own_run, "--per-user", file, "-k", 5)
    metrics = json.loads((own_run / "test.json").read_text())["lightgcn"]
    assert str(file) in lines[-1] and f"{metrics['num_users']:,}" in lines[-1]
    if suffix == "parquet":
        from pyarrow import parquet

        rows = parquet.read_table(file).to_pylist()
    else:
        with file.open() as opened:
            rows = [
                {name: float(cell) for name, cell in row.items()} for row in csv.DictReader(opened)
            ]
    assert len(rows) == metrics["num_users"]
    for name in ("recall@5", "ndcg@5", "map@5"):
        mean = sum(row[name] for row in rows) / len(rows)
        assert mean == pytest.approx(metrics["metrics"][name])
    links = held_out_links(RunConfig.load(own_run), Dataset.load(prepared))
    ids = links.message.user_ids
    assert ids is not None
    by_id = {int(ids[user]): user for user in range(len(ids))}
    for row in rows[::20]:
        user = by_id[int(row["user"])]
        assert row["num_train"] == len(links.message.items_of(user))
        assert row["num_test"] == len(links.positives.items_of(user))


def test_lists_by_default_are_as_long_as_there_are_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{user},{(user * 3 + step) % 9}" for user in range(30) for step in range(4)]
    (tmp_path / "plays.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    run = tmp_path / "run"
    run_command(
        "train", tmp_path / "plays.csv", run, *FAST, "--metric", "recall@3", "--negatives", "0.5"
    )
    assert any(line.startswith("recall@9") for line in printed(capsys, "evaluate", run))
    before = files_under(run)
    said = refusal(capsys, "evaluate", run, "--k", "5", "20")
    assert "--k" in said and "20" in said and "9 items" in said
    assert "--k" in refusal(capsys, "compare", run, run, "--k", "20")
    assert files_under(run) == before


def test_bad_options_write_nothing(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = files_under(run)
    (tmp_path / "a file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for value in (
        "users.txt",
        "users",
        "",
        tmp_path / "folder.csv",
        tmp_path / "a file" / "users.csv",
    ):
        said = refusal(capsys, "evaluate", run, "--per-user", value)
        assert "--per-user" in said
    for k in ("0", "-3", "100000"):
        said = refusal(capsys, "evaluate", run, "--k", k, "--per-user", tmp_path / "users.csv")
        assert "--k" in said and k in said
    assert "--k" in refusal(capsys, "evaluate", run, "--k", "many")
    for option in ("--intervals", "--groups"):
        assert option in refusal(capsys, "evaluate", run, f"{option}=yes")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow", None)
        said = refusal(capsys, "evaluate", run, "--per-user", tmp_path / "users.parquet")
        assert "--per-user" in said and "pyarrow" in said
    assert files_under(run) == before and not list(tmp_path.glob("users.*"))


def test_compare_is_what_python_says(
    run: Path, other_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_under(run), files_under(other_run)
    found = json.loads("\n".join(printed(capsys, "compare", run, other_run, "-k", 5, "--json")))
    results = []
    for folder in (run, other_run):
        config = RunConfig.load(folder)
        links = held_out_links(config, open_dataset(config.data))
        model = lightgcn.load_model(folder / "model.safetensors")
        results.append(lightgcn.evaluate(model, links, ks=[5], per_user=True))
    expected = compare(*results)
    assert found["reference"] == str(run) and found["num_users"] == results[0].num_users
    assert [one["run"] for one in found["runs"]] == [str(other_run)]
    for name, one in found["runs"][0]["metrics"].items():
        assert one["a"] == results[0][name] and one["b"] == results[1][name]
        assert one["difference"] == expected[name].difference != 0
        assert one["p_value"] == expected[name].p_value
        assert one["better"] + one["worse"] + one["equal"] == pytest.approx(1)
    assert (files_under(run), files_under(other_run)) == before


def test_compare_shows_a_line_per_metric_and_corrects_for_several_runs(
    run: Path, other_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "compare", run, other_run)
    assert sum(line.startswith("recall@20") for line in lines) == 1
    assert not any("Holm" in line for line in lines)
    lines = printed(capsys, "compare", run, other_run, run)
    assert sum(line.startswith("recall@20") for line in lines) == 2
    assert any("Holm" in line and "2 comparisons" in line for line in lines)
    one, two = (
        json.loads("\n".join(printed(capsys, "compare", run, *others, "--json")))["runs"]
        for others in ((other_run,), (other_run, run))
    )
    assert [metrics["p_value"] for metrics in two[1]["metrics"].values()] == [1.0] * 6
    for name, metrics in one[0]["metrics"].items():
        corrected = two[0]["metrics"][name]
        assert corrected["p_value"] == pytest.approx(min(1, 2 * metrics["p_value"]))
        assert corrected["low"] == metrics["low"]


def test_runs_of_different_splits_or_data_are_not_compared(
    run: Path, prepared: Path, with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value, key, shown in (
        ("--ratios", ("0.7", "0.1", "0.2"), "ratios", "0.7"),
        ("--seed", ("5",), "split_seed", "5"),
        ("--stratify", ("user",), "stratify", "user"),
    ):
        other = tmp_path / key
        run_command("train", prepared, other, *FAST, "--epochs", "1", name, *value)
        said = refusal(capsys, "compare", run, other)
        assert key in said and shown in said and str(other) in said and str(run) in said
    run_command("train", with_test, tmp_path / "elsewhere", *FAST, "--epochs", "1")
    said = refusal(capsys, "compare", run, tmp_path / "elsewhere")
    assert "different data" in said and str(with_test) in said


def test_runs_of_any_seed_and_split_are_compared_on_the_test_set_of_the_data(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    run_command("train", with_test, runs[0], *FAST, "--epochs", "1")
    options = ("--seed", "5", "--ratios", "0.8", "0.2", "--stratify", "user")
    run_command("train", with_test, runs[1], *FAST, "--epochs", "1", *options)
    found = json.loads("\n".join(printed(capsys, "compare", *runs, "--json")))
    assert found["num_users"] > 0
    assert any(one["difference"] for one in found["runs"][0]["metrics"].values())


def test_bad_comparisons_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "other" in refusal(capsys, "compare", run)
    assert str(tmp_path / "none") in refusal(capsys, "compare", run, tmp_path / "none")
    assert "--seed" in refusal(capsys, "compare", run, run, "--seed", "-1")
    assert "--k" in refusal(capsys, "compare", run, run, "--k", "0")
    unfinished = Path(shutil.copytree(run, tmp_path / "unfinished"))
    (unfinished / "model.safetensors").unlink()
    assert str(unfinished) in refusal(capsys, "compare", run, unfinished)
    assert "nowhere" in refusal(capsys, "compare", run, run, "--data", tmp_path / "nowhere")


def test_a_run_whose_negatives_or_model_differ_is_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    values = read_json(other / "run.json")
    write_json(other / "run.json", values | {"negatives": 3.0, "versions": {"torch": "2.0"}})
    found = json.loads("\n".join(printed(capsys, "compare", run, other, "--json")))
    assert {one["p_value"] for one in found["runs"][0]["metrics"].values()} == {1.0}


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(own_run: Path) -> None:
    """As in `lightgcn evaluate RUN | head -1`, where the reader may go at any time."""
    for command in (
        ("evaluate", own_run),
        ("evaluate", own_run, "--json"),
        ("compare", own_run, own_run),
        ("recommend", own_run, "--user", "0"),
    ):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "lightgcn", *map(str, command)],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        os.close(write)
        assert done.stderr == "" and done.returncode == 141, (command, done)
