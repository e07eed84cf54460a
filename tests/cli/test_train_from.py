"""`lightgcn train NEW RUN2 --from RUN`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import files_under, refusal, run_command

from lightgcn import Recommender, load_model
from lightgcn.datasets import open_dataset
from lightgcn.experiments.run import RunConfig, held_out_links, split_run

SMALL = (
    "--preset",
    "fast",
    "--epochs",
    4,
    "--batch-size",
    64,
    "--set",
    "item_knn=4",
    "--embedding-dim",
    8,
)


def plays(path: Path, users: range, items: int = 30) -> Path:
    lines = [f"u{user},s{(user * 7 + step * step) % items}" for user in users for step in range(9)]
    path.write_text("\n".join(["user,item", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("weeks")
    old, new = plays(folder / "old.csv", range(60)), plays(folder / "new.csv", range(20, 100), 34)
    run_command("train", old, folder / "run", *SMALL)
    return old, new, folder / "run"


def test_starts_from_the_earlier_model_and_holds_out_new_edges_alone(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, run = weeks
    second = tmp_path / "second"
    run_command("train", new, second, "--from", run, "--learning-rate", 1e-9)
    config = RunConfig.load(second)
    assert config.start == str(run.resolve())
    # The settings are those of the run, with the given change.
    earlier = RunConfig.load(run).settings
    assert config.settings == earlier.changed(learning_rate=1e-9)
    before, after = load_model(run / "model.safetensors"), load_model(second / "model.safetensors")
    first, last = open_dataset(old).interactions, open_dataset(new).interactions
    for name in ("u20", "u59"):
        torch.testing.assert_close(
            after.embedding[last.user_ids.tolist().index(name)],
            before.embedding[first.user_ids.tolist().index(name)],
            atol=1e-5,
            rtol=0,
        )
    known = set(zip(first.user_ids[first.users], first.item_ids[first.items], strict=True))
    split = split_run(config, open_dataset(new))
    for links in (split.val, split.test, held_out_links(config, open_dataset(new))):
        held = links.positives
        assert held.num_edges
        assert not known & set(
            zip(last.user_ids[held.users], last.item_ids[held.items], strict=True)
        )
    assert sum(links.positives.num_edges for links in split) == last.num_edges
    capsys.readouterr()
    run_command("evaluate", second, "--json")
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] > 0
    assert "u99" in Recommender.load(second / "recommender.safetensors").seen.user_ids


def test_a_resumed_run_equals_an_uninterrupted_one(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, new, run = weeks
    for folder in ("straight", "resumed"):
        epochs = 8 if folder == "straight" else 4
        run_command("train", new, tmp_path / folder, "--from", run, "--epochs", epochs)
    run_command("train", new, tmp_path / "resumed", "--resume", "--epochs", 8)
    straight, resumed = (
        load_model(tmp_path / folder / "model.safetensors") for folder in ("straight", "resumed")
    )
    assert torch.equal(straight.embedding, resumed.embedding)
    elsewhere = tmp_path / "copy"
    shutil.copytree(run, elsewhere)
    said = refusal(capsys, "train", new, tmp_path / "resumed", "--resume", "--from", elsewhere)
    assert "start" in said and str(elsewhere) in said


def test_bad_starts_are_one_line_and_leave_nothing_behind(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, run = weeks
    other = tmp_path / "other.csv"
    other.write_text(
        "user,item\n" + "\n".join(f"x{u},y{(u + s) % 25}" for u in range(30) for s in range(4))
    )
    settings_only, broken = tmp_path / "settings only", tmp_path / "broken"
    settings_only.mkdir()
    shutil.copy(run / "run.json", settings_only)
    shutil.copytree(run, broken)
    (broken / "model.safetensors").write_bytes(b"no model")
    before = files_under(tmp_path)
    second = tmp_path / "second"
    for data, start, options, *named in (
        (new, tmp_path / "none", [], str(tmp_path / "none")),
        (new, settings_only, [], "settings only", "model.safetensors"),
        (new, broken, [], "broken", "model.safetensors"),
        (new, run, ["--embedding-dim", 16], "embedding_dim=8", "16", str(run)),
        (new, run, ["--set", "normalization=mean"], "normalization='symmetric'", "'mean'"),
        (new, run, ["--set", "num_layers=3"], "num_layers=2", "3"),
        (new, run, ["--preset", "paper"], "embedding_dim=8", "64"),
        (new, run, ["--side-nodes", "artist"], "side nodes", "artist"),
        (other, run, [], "'s0'", "'y0'"),
        (old, run, [], "no edge for validation", str(run)),
    ):
        said = refusal(capsys, "train", data, second, "--from", start, *options)
        assert all(text in said for text in named), said
        assert files_under(tmp_path) == before and not second.exists()


def test_a_baseline_without_layers_is_trained_from_scratch(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, new, run = weeks
    run_command("train", new, tmp_path / "second", "--from", run, "--epochs", 1)
    capsys.readouterr()
    run_command("evaluate", tmp_path / "second", "--baselines", "mf", "--json")
    assert set(json.loads(capsys.readouterr().out)) == {"lightgcn", "mf"}


def test_test_edges_that_the_earlier_run_knew_are_counted(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, run = weeks
    data = tmp_path / "data"
    test = tmp_path / "test.csv"
    known, unknown = old.read_text().splitlines()[300:304], ["u20,s33", "u21,s33"]
    test.write_text("\n".join(["user,item", *known, *unknown]) + "\n")
    lines = [line for line in new.read_text().splitlines() if line not in known]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    run_command("prepare", tmp_path / "train.csv", data, "--test", test)
    run_command("train", data, tmp_path / "second", "--from", run, "--epochs", 1)
    assert "4 of 6 test edges" in capsys.readouterr().err


def test_another_run_in_the_folder_is_noticed(
    weeks: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, new, run = weeks
    earlier, second = tmp_path / "earlier", tmp_path / "second"
    shutil.copytree(run, earlier)
    run_command("train", new, second, "--from", earlier)
    run_command("evaluate", second)
    shutil.rmtree(earlier)
    run_command("train", plays(tmp_path / "other.csv", range(30, 90)), earlier, *SMALL)
    assert str(earlier) in refusal(capsys, "evaluate", second)
