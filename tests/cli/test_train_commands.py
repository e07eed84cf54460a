"""`lightgcn train` and `lightgcn reproduce`."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from cli_runs import FAST, files_under, refusal, run_command

from lightgcn import Interactions, Recommender, load_model, preset
from lightgcn.datasets import Dataset, read_text
from lightgcn.experiments import run as run_folder
from lightgcn.experiments.run import RunConfig, held_out_links, split_run


def settings_of(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())["settings"]


def test_text_data_with_its_own_test_split_trains_without_preparing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [[user, *((user * 7 + step) % 30 for step in range(12))] for user in range(40)]
    (tmp_path / "train.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    (tmp_path / "test.txt").write_text(
        "".join(f"{user} {(user * 7 + 12) % 30}\n" for user in range(40))
    )
    run_command("train", tmp_path, tmp_path / "run", *FAST)
    capsys.readouterr()
    run_command("evaluate", tmp_path / "run", "--json")
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] == 40


def test_output_is_not_a_terminal_so_there_is_no_bar(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", prepared, tmp_path / "run", *FAST)
    out, err = capsys.readouterr()
    assert err == "" and "validation" in out


REFUSALS = [
    (["--ratios", "0.5", "0.1", "0.1"], "0.7"),
    (["--ratios", "nan", "0.5", "0.5"], "nan"),
    (["--ratios", "0.9", "0.1", "0"], "positive"),
    (["--stratify", "last"], "order"),
    (["--negatives", "1000"], "negatives"),
    (["--negatives", "0", "--metric", "roc_auc"], "roc_auc"),
    (["--side-nodes", "mood"], "mood"),
    (["--words", "no such model"], "no such model"),
    (["--set", "init=words"], "words"),
    (["--set", "loss=hinge"], "hinge"),
    (["--set", "warmth=3"], "warmth"),
    (["--set", "l2"], "NAME=VALUE"),
    (["--learning-rate", "fast"], "learning_rate"),
    (["--learning-rate", "1e38", "--set", "l2=1", "--batch-size", "500"], "diverged"),
    (["--epochs", "0"], "epochs"),
    (["--metric", "recall"], "recall"),
    (["--metric", "recall@999999"], "999999"),
    (["--preset", "slow"], "slow"),
]


def test_a_refused_command_is_one_line_and_leaves_nothing_behind(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    before, data = files_under(tmp_path), files_under(prepared)
    for options, said in REFUSALS:
        for run in (tmp_path / "run", mine):
            error = refusal(capsys, "train", prepared, run, "--epochs", 2, *options)
            assert said in error, options
            assert files_under(tmp_path) == before and not (tmp_path / "run").exists(), options
    assert files_under(prepared) == data


def test_users_who_have_every_item_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [f"ann,song {song}" for song in range(8)]
    others = [f"listener {user},song {(user + step) % 8}" for user in range(40) for step in (0, 3)]
    data = tmp_path / "plays.csv"
    data.write_text("\n".join(["user,item", *full, *others]) + "\n")
    paper = ("--preset", "paper", "--epochs", 2, "--ratios", 1, "--embedding-dim", 4)
    run_command("train", data, tmp_path / "run", *paper)
    assert "1 user (ann)" in capsys.readouterr().err
    # No user lacks an item: nothing is learnt.
    data.write_text("\n".join(["user,item", *full]) + "\n")
    run_command("train", data, tmp_path / "other", *paper)
    assert "8 of 8 train edges are left out" in capsys.readouterr().err
    assert len((tmp_path / "other" / "history.jsonl").read_text().splitlines()) == 2


def test_a_graph_too_small_to_split_names_how_many_edges_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.csv").write_text("user,item\nann,s1\nbob,s1\n")
    ratios = ("--ratios", 0.8, 0.1, 0.1, "--metric", "recall@1")
    assert "3" in refusal(capsys, "train", tmp_path / "tiny.csv", tmp_path / "run", *ratios)
    assert not (tmp_path / "run").exists()


def test_resume_refuses_other_settings_other_data_and_broken_files(
    prepared: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run_command("train", prepared, run, *FAST)
    run_command("prepare", slices, other, "--slices", "0:2")
    before = files_under(run)
    for options, *named in (
        (["--embedding-dim", "8"], "embedding_dim", "64", "8"),
        (["--preset", "paper"], "num_layers", "2", "3"),
        (["--preset", "fast"], "batch_size", "256", "16384"),
        (["--learning-rate", "0.1"], "learning_rate", "0.001", "0.1"),
        (["--ratios", "0.7", "0.2", "0.1"], "ratios", "(0.8, 0.1, 0.1)", "(0.7, 0.2, 0.1)"),
        (["--stratify", "user"], "stratify", "None", "'user'"),
        (["--negatives", "2"], "--negatives", "None", "2.0"),
    ):
        said = refusal(capsys, "train", prepared, run, "--resume", *options)
        assert all(text in said for text in named), said
    assert str(run) in refusal(capsys, "train", prepared, run)
    said = refusal(capsys, "train", other, run, "--resume")
    assert f"{other}: the interactions differ" in said and f"{prepared}" in said
    assert files_under(run) == before

    checkpoint, model = run / "checkpoint.safetensors", run / "model.safetensors"
    whole = checkpoint.read_bytes()
    for kept in (1000, len(whole) // 2):
        checkpoint.write_bytes(whole[:kept])
        longer = ("train", prepared, run, "--resume", "--epochs", "40")
        assert checkpoint.name in refusal(capsys, *longer)
        assert (run / "run.json").read_bytes() == before[run / "run.json"]
    model.write_bytes(model.read_bytes()[:-100])
    assert model.name in refusal(capsys, "evaluate", run)


def test_the_same_command_with_resume_goes_on(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    split = ["--ratios", "0.7", "0.2", "0.1", "--stratify", "user", "--negatives", "0.5"]
    command = ["train", prepared, run, *FAST, *split, "--seed", "3"]
    run_command(*command)
    before = (run / "run.json").read_bytes()
    assert json.loads(before)["negatives"] == 0.5
    run_command(*command, "--resume")
    assert (run / "run.json").read_bytes() == before
    run_command(*command, "--resume", "--epochs", "14", "--patience", "9")
    assert settings_of(run) == json.loads(before)["settings"] | {"epochs": 14, "patience": 9}


def test_a_first_run_that_failed_does_not_block_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        f"{user} {' '.join(str((user + step) % 9) for step in range(5))}\n" for user in range(30)
    )
    (tmp_path / "train.txt").write_text("".join(lines))
    run = tmp_path / "run"
    options = ["--metric", "recall@3", "--epochs", "2", "--json"]
    too_many = refusal(capsys, "train", tmp_path, run, "--metric", "recall@20")
    assert "--metric recall@20" in too_many and "9" in too_many
    diverging = ("--learning-rate", "1e38", "--set", "l2=1")
    assert "diverged" in refusal(capsys, "train", tmp_path, run, *options, *diverging)
    run_command("train", tmp_path, run, *options)
    assert settings_of(run)["l2"] == 0


def test_a_warning_is_one_line(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", prepared, tmp_path / "run", "--preset", "fast", "--epochs", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run_command(*command, "--embedding-dim", "4")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lightgcn: warning: ") and "2 steps" in line
    assert warnings.showwarning.__module__ != "lightgcn.cli.main"


def test_a_bad_preset_file_is_one_line_that_names_it(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.json"
    start = '{"kind": "lightgcn preset", "version": '
    for text, said in (
        (None, "No such file"),
        ("{", "JSON"),
        ("[1]", "not a preset"),
        (start + '2, "settings": {}}', "version 2"),
        (start + '1, "settings": {"warmth": 3}}', "warmth=3"),
        (start + '1, "settings": {"epochs": "60"}}', "epochs"),
    ):
        if text is not None:
            path.write_text(text)
        for command, option in (("train", "--preset"), ("tune", "--start")):
            error = refusal(capsys, command, prepared, tmp_path / "out", option, path)
            assert str(path) in error and said in error
    assert not (tmp_path / "out").exists()


def test_reproduce_gives_the_result_and_where_it_can_be_computed_again(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = ["--epochs", "4", "--embedding-dim", "8", "--set", "eval_every=2"]
    command = ["reproduce", with_test, out, "--preset", "paper", *settings, "--seeds", "0", "1"]
    run_command(*command)
    said = capsys.readouterr().out
    assert "mean of 2 seeds" in said and "±" in said
    run_command(*command, "--json")  # everything is there already
    values = json.loads(capsys.readouterr().out)
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1] and values["split"] is None
    shown = f"{sum(seed['test']['recall@20'] for seed in values['seeds']) / 2:.4f}"
    assert shown in said
    run_command("evaluate", out / "seed-1" / "final", "--json")
    again = json.loads(capsys.readouterr().out)
    assert again["lightgcn"]["metrics"]["ndcg@20"] == values["seeds"][1]["test"]["ndcg@20"]
    assert str(out / "seed-0" / "final") in refusal(capsys, "evaluate", out)


def test_reproduce_needs_data_with_a_test_split_and_seeds_not_a_seed(
    prepared: Path, with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "test split" in refusal(capsys, "reproduce", prepared, tmp_path / "out")
    assert "--seeds" in refusal(capsys, "reproduce", with_test, tmp_path / "out", "--seed", 3)
    assert not (tmp_path / "out").exists()


def test_train_on_everything_keeps_the_last_epoch(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", with_test, tmp_path / "run", *FAST, "--epochs", "2", "--ratios", "1")
    assert "no validation edges" in capsys.readouterr().out
    run_command("evaluate", tmp_path / "run", "--json")
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] > 0


def test_three_ratios_with_a_test_split_are_refused(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", with_test, tmp_path / "run", "--ratios", "0.8", "0.1", "0.1")
    assert "two ratios" in refusal(capsys, *command)
    assert not (tmp_path / "run").exists()


def test_validation_negatives_avoid_the_test_split_which_training_does_not_draw(
    with_test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_text(with_test)
    config = RunConfig(
        "here", dataset.fingerprint(), preset("fast"), ratios=(0.9, 0.1), negatives=1.0
    )
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "link_set", None)
        split = split_run(config, dataset)
    assert dataset.test is not None
    assert not bool(dataset.test.contains(*split.val.negatives).any())
    assert split.test.positives.num_edges == split.test.negatives.shape[1] == 0
    test = held_out_links(config, dataset)
    assert test.positives.fingerprint() == dataset.test.fingerprint()


def test_another_test_split_is_other_data(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", with_test, tmp_path / "run", *FAST)
    path = with_test / "test.txt"
    path.write_text(path.read_text().replace("40 22\n", "40 21\n").replace("40 22 23", "40 21 23"))
    assert f"{with_test}: the interactions differ" in refusal(capsys, "evaluate", tmp_path / "run")


def test_a_test_split_of_weighted_data_must_be_weighted() -> None:
    weighted = Interactions.from_edge_index(
        torch.tensor([[0, 1], [0, 1]]), 2, 3, weights=torch.ones(2)
    )
    dataset = Dataset(
        weighted, {}, {}, Interactions.from_edge_index(torch.tensor([[0], [1]]), 2, 3)
    )
    config = RunConfig("here", dataset.fingerprint(), preset("fast"), ratios=(0.5, 0.5))
    with pytest.raises(ValueError, match="weights"):
        split_run(config, dataset)


def test_resume_of_a_run_that_was_killed_before_its_first_step_begins_it(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", prepared, run, "--epochs", "1", "--batch-size", "200", "--resume"]
    assert str(run) in refusal(capsys, *command)  # perhaps a slip of the pen
    run.mkdir()
    (run / ".lock").touch()
    run_command(*command)
    assert "training starts" in capsys.readouterr().err
    assert (run / "model.safetensors").is_file()


def test_the_ranking_that_validation_chose_is_said_stored_and_used(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_command("train", prepared, run, "--preset", "fast", "--epochs", "2", "--batch-size", "64")
    said = next(line for line in capsys.readouterr().out.splitlines() if "ranking chosen" in line)
    chosen = json.loads((run / "trained.json").read_text())["ranking"]
    assert f"{chosen['values']['recall@20']:.4f}" in said
    assert all(part in said for part in chosen["worth"])
    model = load_model(run / "model.safetensors")
    assert asdict(model.ranking) == chosen["config"]
    assert Recommender.load(run / "recommender.safetensors").ranker.config == model.ranking
    fixed = tmp_path / "fixed"
    run_command(
        "train", prepared, fixed, "--preset", "fast", "--epochs", "2", "--set", "item_knn=3"
    )
    assert "ranking chosen" not in capsys.readouterr().out
    assert load_model(fixed / "model.safetensors").ranking == preset("fast", item_knn=3).ranking


@pytest.mark.parametrize(("order", "stratify"), [("runs", "last"), ("sorted", "user")])
def test_validation_is_taken_like_a_given_test_split(
    order: str, stratify: str, tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(0)
    lines, held_out = [], []
    for user in range(300):
        groups = torch.randperm(20, generator=draw)[:3].repeat_interleave(8)
        items = groups * 10 + torch.cat([torch.randperm(10, generator=draw)[:8] for _ in range(3)])
        listed = items.tolist() if order == "runs" else sorted(items.tolist())
        lines.append(" ".join(map(str, [user, *listed[:-3]])))
        held_out.append(" ".join(map(str, [user, *listed[-3:]])))
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.txt").write_text("\n".join(held_out) + "\n")
    run_command("train", tmp_path, tmp_path / "run", *FAST)
    assert RunConfig.load(tmp_path / "run").stratify == stratify
