"""The options that say how edges are split: what they hold out, what is stored, what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from cli_runs import FAST, files_under, refusal, run_command

from lightgcn import Interactions, split_edges
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.experiments.run import RunConfig, held_out_links, split_run

DAY = 86400
START = 1388534400  # 2014-01-01


def timed_graph() -> Interactions:
    """Sixty users of three circles, ten plays each, over a hundred days; the last five users come
    in the last days alone."""
    generator = torch.Generator().manual_seed(4)
    users = torch.arange(60).repeat_interleave(10)
    items = torch.cat([torch.randperm(20, generator=generator)[:10] for _ in range(60)])
    days = torch.randint(0, 95, (600,), generator=generator)
    days[users >= 55] = torch.randint(90, 100, (50,), generator=generator)
    seconds = START + DAY * days + torch.randint(0, DAY, (600,), generator=generator)
    return Interactions(users, items + 20 * (users % 3), 60, 60, order=seconds)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Dataset(timed_graph(), {}, {}).save(tmp_path_factory.mktemp("timed") / "prepared")


@pytest.fixture(scope="module")
def untimed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = timed_graph()
    plain = Interactions(graph.users, graph.items, 60, 60)
    return Dataset(plain, {}, {}).save(tmp_path_factory.mktemp("untimed") / "prepared")


WAYS = [
    (["--leave-out", "1", "1"], "random edges of each user: 1 for validation, 1 for test"),
    (["--leave-out", "2", "1", "--stratify", "last"], "the last edges of each user: 2 for"),
    (["--stratify", "time"], "the last edges in time: shares 0.8 0.1 0.1"),
    (["--split-date", "2014-03-01", "2014-03-20"], "validation from 2014-03-01, test from"),
    (["--split-date", str(START + 60 * DAY), str(START + 80 * DAY)], str(START + 60 * DAY)),
]
PYTHON = [
    {"leave_out": (1, 1)},
    {"leave_out": (2, 1), "order": timed_graph().order},
    {"stratify": "time"},
    {"dates": ("2014-03-01", "2014-03-20")},
    {"dates": (START + 60 * DAY, START + 80 * DAY)},
]


@pytest.mark.parametrize("way", range(len(WAYS)), ids=lambda way: " ".join(WAYS[way][0]))
def test_a_run_has_the_split_of_its_options(
    way: int, timed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = WAYS[way]
    run = tmp_path / "run"
    run_command("train", timed, run, *FAST, *options)
    out, err = capsys.readouterr()
    assert said in out and err == ""
    config, dataset = RunConfig.load(run), Dataset.load(timed)
    expected = split_edges(timed_graph(), **PYTHON[way])  # type: ignore[arg-type]
    for found, wanted in zip(split_run(config, dataset), expected, strict=True):
        assert torch.equal(found.edges, wanted.edges)
    assert torch.equal(held_out_links(config, dataset).edges, expected.test.edges)
    run_command("evaluate", run, "--json")
    users = json.loads(capsys.readouterr().out)["lightgcn"]["num_users"]
    assert users == int((expected.test.positives.user_degrees > 0).sum())

    before = (run / "run.json").read_bytes()
    run_command("train", timed, run, "--resume")
    run_command("train", timed, run, "--resume", *options)
    assert (run / "run.json").read_bytes() == before
    for others in (
        ["--leave-out", "3", "1"],
        ["--split-date", "2014-03-09"],
        ["--ratios", "0.7", "0.3"],
    ):
        error = refusal(capsys, "train", timed, run, "--resume", *others)
        assert "cannot change" in error and error.startswith("lightgcn: --")
    run_command("report", run)
    assert all(name in (run / "report.html").read_text() for name in ("leave_out", "dates"))


@pytest.mark.parametrize("name", ["fast", "best", "paper", "tutorial"])
def test_new_users_after_a_cut_give_no_advice_against_it(
    name: str, timed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    epochs = ["--epochs", "100"] if name in ("paper", "tutorial") else []
    run_command(
        "train", timed, run, "--preset", name, "--stratify", "time", "--batch-size", "16", *epochs
    )
    assert "warning" not in capsys.readouterr().err
    config, dataset = RunConfig.load(run), Dataset.load(timed)
    val = split_run(config, dataset).val
    new = (val.message.user_degrees == 0) & (val.positives.user_degrees > 0)
    assert int(new.sum()) > 0


def test_tune_searches_on_the_split_and_repeats_its_options(
    timed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", timed, tmp_path / "found", "--trials", "1", "--epochs", "2"]
    run_command(*command, "--split-date", "2014-03-01", "2014-03-20")
    out = capsys.readouterr().out
    assert "split: validation from 2014-03-01, test from 2014-03-20" in out
    follow = shlex.split(out.partition("Next:")[2])[1:]
    assert follow[-3:] == ["--split-date", "2014-03-01", "2014-03-20"]
    follow[follow.index("runs/tuned")] = str(tmp_path / "run")
    run_command(*follow)
    assert RunConfig.load(tmp_path / "run").dates == ("2014-03-01", "2014-03-20")


def test_data_with_its_own_test_split_takes_a_number_or_a_date_for_validation(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", with_test, tmp_path / "run", *FAST, "--leave-out", "1")
    assert RunConfig.load(tmp_path / "run").leave_out == (1,)
    split = split_run(RunConfig.load(tmp_path / "run"), open_dataset(with_test))
    assert split.val.positives.num_edges == 40
    before = files_under(tmp_path)
    for options, said in (
        (["--leave-out", "1", "1"], "--leave-out"),
        (["--split-date", "3", "5"], "--split-date"),
        (["--ratios", "0.8", "0.1", "0.1"], "--ratios"),
    ):
        error = refusal(capsys, "train", with_test, tmp_path / "other", *FAST, *options)
        assert error.startswith(f"lightgcn: {said}") and "own test split" in error
    assert files_under(tmp_path) == before


REFUSALS = [
    (["--leave-out"], "--leave-out"),
    (["--leave-out", "one"], "--leave-out"),
    (["--leave-out", "1.5"], "1.5"),
    (["--leave-out", "1", "1", "1"], "--leave-out"),
    (["--leave-out", "-1", "1"], "--leave-out"),
    (["--leave-out", "0", "0"], "--leave-out"),
    (["--leave-out", "5", "9"], "--leave-out"),
    (["--leave-out", "1", "1", "--ratios", "0.8", "0.2"], "--ratios"),
    (["--leave-out", "1", "1", "--split-date", "2014-03-01"], "--split-date"),
    (["--leave-out", "1", "1", "--stratify", "time"], "--leave-out"),
    (["--split-date"], "--split-date"),
    (["--split-date", "soon"], "soon"),
    (["--split-date", "2014-13-01"], "2014-13-01"),
    (["--split-date", "nan"], "--split-date"),
    (["--split-date", "2014-03-01", "2014-03-02", "2014-03-03"], "--split-date"),
    (["--split-date", "2014-03-02", "2014-03-01"], "2014-03-01"),
    (["--split-date", "2020-01-01"], "2014-01-01"),
    (["--split-date", "1999-01-01", "2014-03-01"], "1999-01-01"),
    (["--split-date", "2014-03-01", "--stratify", "user"], "--split-date"),
    (["--split-date", "2014-03-01", "--stratify", "last"], "--split-date"),
    (["--split-date", "2014-03-01", "--ratios", "0.8", "0.2"], "--ratios"),
    (["--stratify", "year"], "--stratify"),
    (["--negatives", "30"], "--negatives"),
]


def test_a_refused_option_is_named_and_nothing_is_written(
    timed: Path, untimed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, said in REFUSALS:
        for command in (("train", timed, tmp_path / "run"), ("tune", timed, tmp_path / "run")):
            error = refusal(capsys, *command, *options)
            assert said in error, (options, error)
            assert not (tmp_path / "run").exists(), options
    for options, said in (
        (["--stratify", "last"], "--stratify"),
        (["--stratify", "time"], "--stratify"),
        (["--split-date", "2014-03-01"], "--split-date"),
        (["--leave-out", "1", "1", "--stratify", "last"], "--stratify"),
    ):
        for name in ("train", "tune"):
            error = refusal(capsys, name, untimed, tmp_path / "run", *options)
            assert said in error and "--time COLUMN" in error and "--order" in error
            assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--leave-out", "1"],
        ["--stratify", "last"],
        ["--split-date", "1"],
        ["--ratios", "0.9", "0.1"],
    ],
)
def test_data_with_its_own_validation_set_is_not_split(tmp_path, capsys, options):
    graph = timed_graph()
    early = graph.order < START + 80 * DAY
    data = tmp_path / "prepared"
    Dataset(graph.select(early), {}, {}, val=graph.select(~early)).save(data)
    run = tmp_path / "run"
    said = refusal(capsys, "train", data, run, *options)
    assert options[0] in said and "own validation set" in said
    assert not run.exists()
    run_command("train", data, run, *FAST)
    assert "split: the data's own validation set" in capsys.readouterr().out
