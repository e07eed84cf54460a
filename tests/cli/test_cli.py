"""The command line: the whole path as a user runs it, and one clear line for each kind of bad
input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightgcn import Interactions, preset
from lightgcn.cli import main as cli
from lightgcn.core.checks import is_out_of_memory
from lightgcn.datasets import Dataset, open_dataset, read_text
from lightgcn.experiments import run as runs
from lightgcn.experiments.run import RunConfig, held_out_links, split_run
from lightgcn.nn.model_io import load_model
from lightgcn.ranking import inversion

FAST = ["--preset", "fast", "--epochs", "12", "--batch-size", "256"]


def lightgcn(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, and check its exit code."""
    command = [sys.executable, "-m", "lightgcn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def prepared(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "prepared"
    assert cli.main(["prepare", str(slices), str(out), "--largest-component"]) == 0
    return out


@pytest.fixture(scope="module")
def run(prepared: Path) -> Path:
    folder = prepared.parent / "run"
    assert cli.main(["train", str(prepared), str(folder), *FAST]) == 0
    return folder


@pytest.mark.slow
def test_mpd_files_to_recommendations_as_subprocesses(slices: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "prepared", tmp_path / "run"
    prepared = json.loads(lightgcn("prepare", slices, out, "--largest-component", "--json").stdout)
    assert prepared["info"]["playlists"] == 300 and prepared["steps"][-1]["edges"] > 1000
    trained = json.loads(lightgcn("train", out, run, *FAST, "--json").stdout)
    assert trained["epochs"] <= 12 and trained["best"]["val"]["recall@20"] > 0
    metrics = json.loads(lightgcn("evaluate", run, "--k", 5, 20, "--json").stdout)
    assert (
        metrics["lightgcn"]["metrics"]["recall@20"] > metrics["popularity"]["metrics"]["recall@20"]
    )
    assert metrics["lightgcn"]["metrics"]["roc_auc"] > 0.5
    assert json.loads((run / "test.json").read_text()) == metrics

    playlists = [
        p for path in sorted(slices.iterdir()) for p in json.loads(path.read_text())["playlists"]
    ]
    known = next(playlist for playlist in playlists if len(playlist["tracks"]) > 10)
    tracks = json.loads(
        lightgcn("recommend", run, "--user", known["pid"], "-k", 7, "--json").stdout
    )
    assert len(tracks) == 7 and all(
        track["columns"]["name"] and track["columns"]["artist"] for track in tracks
    )
    assert not {track["id"] for track in tracks} & {track["track_uri"] for track in known["tracks"]}
    some = known["tracks"][:5]
    given = [some[0]["track_uri"], f"{some[1]['track_name']} by {some[1]['artist_name']}"]
    new = json.loads(lightgcn("recommend", run, "--items", *given, "--json").stdout)
    assert len(new) == 10 and not {track["id"] for track in new} & {
        track["track_uri"] for track in some[:2]
    }
    text = lightgcn("recommend", run, "--similar", some[0]["track_uri"], "-k", 3).stdout
    assert text.count(" by ") == 3


def test_demo_walks_the_whole_path_and_calls_its_data_synthetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # a second demo in the same folder replaces the first
        assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--playlists", "300"]) == 0
    out, err = capsys.readouterr()
    assert (
        "synthetic" in out
        and "popularity" in out
        and "five tracks" in out
        and str(tmp_path / "demo") in out
    )
    assert err == ""
    for name in (
        "mpd/mpd.slice.0-299.json",
        "prepared/dataset.safetensors",
        "run/recommender.safetensors",
    ):
        assert (tmp_path / "demo" / name).is_file(), name
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--playlists", "300", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    test = result["test"]
    assert result["synthetic"] is True
    assert test["lightgcn"]["metrics"]["recall@20"] > test["popularity"]["metrics"]["recall@20"]
    assert len(result["new_playlist"]["tracks"]) == 5 == len(result["new_playlist"]["recommended"])


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to evaluate."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def test_baselines_stand_beside_the_model(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(own_run), "-k", "5", "20"]
    values = []
    for _ in range(2):  # the same each time
        capsys.readouterr()
        assert cli.main([*command, "--baselines", "all", "--json"]) == 0
        out, err = capsys.readouterr()
        values.append(json.loads(out))
        assert err == "" and json.loads((own_run / "test.json").read_text()) == values[-1]
    assert values[0] == values[1]
    assert list(values[0]) == ["lightgcn", "popularity", "item_cosine", "ease", "gf_cf", "mf"]
    recall = {name: result["metrics"]["recall@20"] for name, result in values[0].items()}
    assert all(recall[name] > recall["popularity"] for name in ("item_cosine", "ease", "gf_cf"))
    assert set(values[0]["mf"]["metrics"]) == set(values[0]["lightgcn"]["metrics"])
    assert recall["mf"] != recall["lightgcn"]
    assert (
        "roc_auc" not in values[0]["ease"]["metrics"] and "ndcg@5" in values[0]["ease"]["metrics"]
    )

    assert cli.main([*command, "--baselines", "mf", "gf_cf", "mf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["lightgcn", "mf", "gf_cf"]
    assert next(line for line in lines if line.startswith("roc_auc")).split()[-1] == "-"
    assert cli.main([*command, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["lightgcn", "popularity"]


def test_ease_that_does_not_fit_is_said_before_anything_is_computed(
    own_run: Path,
    prepared: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inversion, "available_memory", lambda: 1000)
    monkeypatch.setattr(runs, "evaluate", None)
    assert "items needs" in _fails(capsys, "evaluate", own_run, "--baselines", "popularity", "ease")
    assert "'als'" in _fails(capsys, "evaluate", own_run, "--baselines", "als")
    with pytest.raises(
        ValueError,
        match="unknown baseline 'als'; there are popularity, item_cosine, ease, gf_cf, mf",
    ):
        runs.evaluate_run(open_dataset(prepared), own_run, baselines=("als",))
    assert not (own_run / "test.json").exists()


def test_ctrl_c_among_the_baselines_leaves_the_old_figures(
    own_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["evaluate", str(own_run)]) == 0
    before = {path: path.read_bytes() for path in own_run.iterdir()}

    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "fit", pressed)
        capsys.readouterr()
        assert cli.main(["evaluate", str(own_run), "--baselines", "popularity", "mf"]) == 130
    out, err = capsys.readouterr()
    assert out == "" and "interrupted" in err
    assert {path: path.read_bytes() for path in own_run.iterdir()} == before


def test_a_run_without_negatives_is_evaluated(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", str(with_test), str(run), *FAST, "--negatives", "0"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "-k", "3", "--baselines", "all", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {frozenset(result["metrics"]) for result in results.values()} == {
        frozenset(results["ease"]["metrics"])
    }


def test_help_of_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split(), "--help"])
        assert ended.value.code == 0
        assert f"  lightgcn {command} " in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.slow
def test_ctrl_c_saves_says_so_and_resume_ends_with_the_same_bits(
    prepared: Path, tmp_path: Path
) -> None:
    settings = [
        "--preset",
        "paper",
        "--epochs",
        "30",
        "--batch-size",
        "128",
        "--set",
        "eval_every=5",
    ]
    lightgcn("train", prepared, tmp_path / "whole", *settings)
    command = [sys.executable, "-m", "lightgcn", "train", prepared, tmp_path / "cut", *settings]
    process = subprocess.Popen(
        map(str, command), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    history = tmp_path / "cut" / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        history.exists() and history.read_bytes().count(b"\n") >= 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "saved to" in err and "--resume" in err
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    done = len(history.read_text().splitlines())
    assert 3 <= done < 30

    lightgcn("train", prepared, tmp_path / "cut", "--resume")
    whole, cut = (load_model(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert torch.equal(whole.embedding, cut.embedding)
    assert len(history.read_text().splitlines()) == 30


def test_text_data_with_its_own_test_split_trains_without_preparing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [[user, *((user * 7 + step) % 30 for step in range(12))] for user in range(40)]
    (tmp_path / "train.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    (tmp_path / "test.txt").write_text(
        "".join(f"{user} {(user * 7 + 12) % 30}\n" for user in range(40))
    )
    assert cli.main(["train", str(tmp_path), str(tmp_path / "run"), *FAST]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] == 40


def _fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail, and return the one line that it says."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("lightgcn: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def _slice(*playlists: object) -> str:
    return json.dumps({"info": {}, "playlists": list(playlists)})


PLAYLIST = {"name": "a", "pid": 0, "tracks": [{"track_uri": "spotify:track:1", "track_name": "x"}]}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param(None, ["missing", "no such file"], id="missing path"),
        pytest.param({}, ["raw"], id="empty directory"),
        pytest.param(
            {"mpd.slice.0-9.json": _slice(PLAYLIST)[:-20]},
            ["mpd.slice.0-9.json", "JSON"],
            id="truncated JSON",
        ),
        pytest.param(
            {"mpd.slice.0-9.json": '{"tracks": []}'},
            ["mpd.slice.0-9.json", "playlists"],
            id="no MPD slice",
        ),
        pytest.param(
            {
                "mpd.slice.0-9.json": _slice(
                    {"name": "a", "pid": 7, "tracks": [{"track_name": "x"}]}
                )
            },
            ["mpd.slice.0-9.json", "7", "track_uri"],
            id="track without URI",
        ),
        pytest.param(
            {"mpd.slice.0-9.json": _slice(PLAYLIST), "mpd.slice.10-19.json": _slice(PLAYLIST)},
            ["mpd.slice.0-9.json", "mpd.slice.10-19.json", "pid"],
            id="duplicate pid across files",
        ),
        pytest.param({"train.txt": "0 1 2\n1 -3\n"}, ["train.txt", "2", "-3"], id="negative index"),
        pytest.param({"train.txt": "0 1 2\n1 1.5\n"}, ["train.txt", "2", "1.5"], id="float index"),
        pytest.param(
            {"train.txt": "0 1 2\n1 x7\n"}, ["train.txt", "2", "x7"], id="non-numeric index"
        ),
        pytest.param(
            {"train.txt": "0 1 2\n1 99999999999\n"},
            ["train.txt", "2", "99999999999"],
            id="too large index",
        ),
        pytest.param(
            {"plays.csv": "who,what\nann,s1\n"},
            ["plays.csv", "'user'", "'who'"],
            id="wrong column name",
        ),
    ],
)
def test_bad_raw_data_is_one_line_and_writes_nothing(
    files: dict[str, str] | None,
    said: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    if files is None:
        raw = tmp_path / "missing"
    else:
        raw.mkdir()
        for name, text in files.items():
            (raw / name).write_text(text)
        if list(files) == ["plays.csv"]:
            raw = raw / "plays.csv"
    error = _fails(capsys, "prepare", raw, out)
    for words in said:
        assert words in error, error
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ratios", "0.5", "0.1", "0.1"], "add up to"),
        (["--ratios", "nan", "0.5", "0.5"], "nan"),
        (["--ratios", "0.9", "0.1", "0"], "positive"),
        (["--set", "loss=hinge"], "hinge"),
        (["--set", "warmth=3"], "warmth"),
        (["--set", "l2"], "NAME=VALUE"),
        (["--learning-rate", "fast"], "learning_rate"),
        (["--epochs", "0"], "epochs"),
        (["--metric", "recall"], "recall"),
        (["--metric", "recall@999999"], "999999"),
        (["--preset", "slow"], "slow"),
    ],
)
def test_bad_settings_are_one_line_and_leave_no_run(
    options: list[str],
    said: str,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in _fails(capsys, "train", prepared, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_graph_too_small_to_split_says_how_many_edges_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.csv").write_text("user,item\nann,s1\nbob,s1\n")
    error = _fails(capsys, "train", tmp_path / "tiny.csv", tmp_path / "run")
    assert "at least 3 are needed" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--user", "0", "-k", "0"], "k must be"),
        (["--user", "0", "-k", "100000"], "items"),
        (["--user", "no such playlist"], "no such playlist"),
        (["--items", "spotify:track:unknown"], "spotify:track:unknown"),
        (["--similar", "no such track"], "no such track"),
        ([], "--user"),
    ],
)
def test_bad_questions_are_one_line(
    options: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in _fails(capsys, "recommend", run, *options)


def test_k_below_one_in_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "k must be" in _fails(capsys, "evaluate", run, "--k", "0")
    assert not (run / "test.json").exists()


def test_cuda_asked_for_where_there_is_none(
    prepared: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run"
    for command in (
        ("train", prepared, out),
        ("prepare", prepared, out),
        ("recommend", run, "--user", "0"),
        ("evaluate", run),
        ("demo", "--out", out),
    ):
        assert "no CUDA device" in _fails(capsys, *command, "--device", "cuda")
    assert not out.exists()


def test_recommend_answers_on_the_device_that_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    load = cli.Recommender.load
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        cli.Recommender, "load", lambda path, device: asked.append(device) or load(path)
    )
    assert cli.main(["recommend", str(run), "--user", "0", "--k", "3", "--device", "cuda"]) == 0
    assert asked == [torch.device("cuda")]


def test_resume_refuses_a_checkpoint_of_another_shape_a_corrupt_one_and_other_data(
    prepared: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", str(prepared), str(run), *FAST]) == 0
    assert "embedding_dim" in _fails(
        capsys, "train", prepared, run, "--resume", "--embedding-dim", "8"
    )
    assert "holds a run already" in _fails(capsys, "train", prepared, run)
    before = (run / "run.json").read_bytes()
    for options, said in (
        (
            ["--preset", "paper"],
            "num_layers cannot change: it is 2 there, and 3 was given",
        ),
        (
            ["--preset", "fast"],
            "batch_size cannot change: it is 256 there, and 16384 was given",
        ),
        (
            ["--learning-rate", "0.1"],
            "learning_rate cannot change: it is 0.001 there, and 0.1",
        ),
        (["--ratios", "0.7", "0.2", "0.1"], "ratios cannot change: it is (0.8, 0.1, 0.1)"),
        (["--stratify", "user"], "stratify cannot change: it is None there, and 'user'"),
        (["--negatives", "2"], "negatives cannot change: it is 1.0 there, and 2.0"),
    ):
        assert said in _fails(capsys, "train", prepared, run, "--resume", *options)
        assert (run / "run.json").read_bytes() == before
    other = tmp_path / "other"
    assert cli.main(["prepare", str(slices), str(other), "--slices", "0:2"]) == 0
    assert "other interactions" in _fails(capsys, "train", other, run, "--resume")
    checkpoint = run / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.safetensors" in _fails(capsys, "train", prepared, run, "--resume")
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert "model.safetensors" in _fails(capsys, "evaluate", run)


def test_the_same_command_with_resume_goes_on(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        "train",
        str(prepared),
        str(run),
        *FAST,
        "--ratios",
        "0.7",
        "0.2",
        "0.1",
        "--stratify",
        "user",
    ]
    command += ["--negatives", "0.5", "--seed", "3"]
    assert cli.main(command) == 0
    before = (run / "run.json").read_bytes()
    assert json.loads(before)["negatives"] == 0.5
    assert cli.main([*command, "--resume"]) == 0
    assert (run / "run.json").read_bytes() == before
    assert cli.main([*command, "--resume", "--epochs", "14", "--patience", "9"]) == 0
    assert (
        json.loads((run / "run.json").read_text())["settings"] | {"epochs": 14, "patience": 9}
        == json.loads((run / "run.json").read_text())["settings"]
    )


def test_resume_with_a_bad_checkpoint_leaves_the_settings(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", str(prepared), str(run), *FAST]) == 0
    before = (run / "run.json").read_bytes()
    checkpoint = run / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "checkpoint.safetensors" in _fails(
        capsys, "train", prepared, run, "--resume", "--epochs", "40"
    )
    assert (run / "run.json").read_bytes() == before


def test_a_first_run_that_failed_does_not_block_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        f"{user} {' '.join(str((user + step) % 9) for step in range(5))}\n" for user in range(30)
    )
    (tmp_path / "train.txt").write_text("".join(lines))
    run = tmp_path / "run"
    assert "only 9" in _fails(capsys, "train", tmp_path, run)
    assert not run.exists()
    options = ["--metric", "recall@3", "--epochs", "2", "--json"]
    assert "diverged" in _fails(
        capsys, "train", tmp_path, run, *options, "--learning-rate", "1e38", "--set", "l2=1"
    )
    assert cli.main(["train", str(tmp_path), str(run), *options]) == 0
    assert json.loads((run / "run.json").read_text())["settings"]["l2"] == 0


def test_a_model_that_training_has_left_behind_is_noted(
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", str(prepared), str(run), "--epochs", "2"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    assert "newer_training" not in json.loads(capsys.readouterr().out)

    calls = iter(range(100))

    @contextmanager
    def stop_later() -> Iterator[Callable[[], bool]]:
        yield lambda: next(calls) >= 1

    with monkeypatch.context() as patched:
        patched.setattr(cli, "stop_on_interrupt", stop_later)
        assert cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "9"]) == 130
    said = "is of 2 epochs, and training has gone on to 3"
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "-k", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    assert said in err and json.loads(out)["newer_training"] == {
        "model_epochs": 2,
        "checkpoint_epochs": 3,
    }
    assert cli.main(["recommend", str(run), "--user", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    assert said in err and len(json.loads(out)) == 10
    assert cli.main(["train", str(prepared), str(run), "--resume"]) == 0
    capsys.readouterr()
    assert cli.main(["recommend", str(run), "--user", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_a_warning_is_one_line(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(prepared), str(tmp_path / "run"), "--preset", "fast", "--epochs", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main([*command, "--embedding-dim", "4"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "lightgcn: warning: the whole training is 2 steps (2 epochs of 1), too few"
    )
    assert warnings.showwarning.__module__ != "lightgcn.cli.main"


def test_tune_writes_a_preset_that_train_takes(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    out, split = (
        tmp_path / "tuned",
        ["--ratios", "0.7", "0.2", "0.1", "--stratify", "user", "--seed", "3"],
    )
    command = [
        "tune",
        str(prepared),
        str(out),
        "--trials",
        "3",
        "--embedding-dim",
        "8",
        "--epochs",
        "4",
        *split,
    ]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert (
        "    2  " in text
        and "best: trial " in text
        and f"--preset {out / 'preset.json'} --ratios 0.7" in text
    )
    assert cli.main([*command, "--json"]) == 0  # goes on
    found = json.loads(capsys.readouterr().out)
    assert (
        len(found["trials"]) == 6 and found["ended"] == "trials" and found["metric"] == "recall@20"
    )
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])
    run = tmp_path / "run"
    assert (
        cli.main(
            [
                "train",
                str(prepared),
                str(run),
                "--preset",
                str(out / "preset.json"),
                *split[:-2],
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["best"]["val"]["recall@20"] == found["best"]["value"]
    assert (
        json.loads((run / "run.json").read_text())["settings"]
        == json.loads((out / "preset.json").read_text())["settings"]
    )

    before = (out / "study.log").read_bytes()
    assert "another start" in _fails(capsys, *command, "--metric", "ndcg@20")
    assert "another data" in _fails(capsys, *command[:-2])  # another seed, another split
    assert "minutes must be" in _fails(capsys, *command, "--minutes", "-1")
    assert (out / "study.log").read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_in_tune_says_where_the_best_is_and_the_same_command_goes_on(
    prepared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    arguments = [
        "tune",
        prepared,
        out,
        "--minutes",
        1,
        "--embedding-dim",
        8,
        "--epochs",
        4,
        "--batch-size",
        512,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightgcn", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "preset.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert f"the best settings so far are in {out / 'preset.json'}; the same command goes on" in err
    done = (out / "trials.jsonl").read_bytes().count(b"\n")
    assert (
        len(
            json.loads(lightgcn(*arguments[:3], "--trials", 1, *arguments[5:], "--json").stdout)[
                "trials"
            ]
        )
        == done + 1
    )


def test_tune_without_optuna_is_one_line(
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert 'pip install "lightgcn[tune]"' in _fails(capsys, "tune", prepared, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "not valid JSON"),
        ("[1]", "not a preset"),
        ('{"kind": "lightgcn preset", "version": 2, "settings": {}}', "version 2"),
        ('{"kind": "lightgcn preset", "version": 1, "settings": {"warmth": 3}}', "warmth=3"),
        (
            '{"kind": "lightgcn preset", "version": 1, "settings": {"epochs": "60"}}',
            "epochs must be an integer of at",
        ),
    ],
)
def test_a_bad_preset_file_is_one_line_that_names_it(
    text: str | None, said: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.json"
    if text is not None:
        path.write_text(text)
    for command in (("train", "--preset"), ("tune", "--start")):
        error = _fails(capsys, command[0], prepared, tmp_path / "out", command[1], path)
        assert str(path) in error and said in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def with_test(tmp_path: Path) -> Path:
    """Text data with a test split; user 40 has edges there alone."""
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [[user, *((user * 7 + step) % 30 for step in range(12))] for user in range(40)]
    (folder / "train.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    tests = "".join(f"{user} {(user * 7 + 12) % 30} {(user * 7 + 13) % 30}\n" for user in range(41))
    (folder / "test.txt").write_text(tests)
    return folder


def test_reproduce_says_the_result_and_where_it_can_be_computed_again(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "--preset",
        "paper",
        "--epochs",
        "4",
        "--embedding-dim",
        "8",
        "--set",
        "eval_every=2",
    ]
    command = ["reproduce", str(with_test), str(tmp_path / "out"), *settings, "--seeds", "0", "1"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "is best on validation" in said and "mean of 2 seeds" in said and "±" in said
    assert cli.main([*command, "--json"]) == 0  # everything is there already
    values = json.loads(capsys.readouterr().out)
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1] and values["split"] is None
    shown = f"{sum(seed['test']['recall@20'] for seed in values['seeds']) / 2:.4f}"
    assert shown in said
    assert cli.main(["evaluate", str(tmp_path / "out" / "seed-1" / "final"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["lightgcn"]["metrics"]["ndcg@20"] == values["seeds"][1]["test"]["ndcg@20"]


def test_reproduce_needs_data_with_a_test_split_and_seeds_not_a_seed(
    prepared: Path, with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "own test split" in _fails(capsys, "reproduce", prepared, tmp_path / "out")
    assert "takes --seeds" in _fails(capsys, "reproduce", with_test, tmp_path / "out", "--seed", 3)
    assert not (tmp_path / "out").exists()


def test_train_on_everything_keeps_the_last_epoch(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        str(with_test),
        str(tmp_path / "run"),
        *FAST,
        "--epochs",
        "2",
        "--ratios",
        "1",
    ]
    assert cli.main(command) == 0
    assert "no validation edges: the model is the last epoch's" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lightgcn"]["num_users"] > 0


def test_three_ratios_with_a_test_split_are_refused(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = _fails(capsys, "train", with_test, tmp_path / "run", "--ratios", "0.8", "0.1", "0.1")
    assert "brings its own test split: give two ratios" in error and not (tmp_path / "run").exists()


def test_validation_negatives_avoid_the_test_split_which_training_does_not_draw(
    with_test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_text(with_test)
    config = RunConfig(
        "here", dataset.fingerprint(), preset("fast"), ratios=(0.9, 0.1), negatives=1.0
    )
    with monkeypatch.context() as patched:
        patched.setattr("lightgcn.experiments.run.link_set", None)
        split = split_run(config, dataset)
    assert not bool(dataset.test.contains(*split.val.negatives).any())
    assert split.test.positives.num_edges == split.test.negatives.shape[1] == 0
    assert held_out_links(config, dataset).positives.fingerprint() == dataset.test.fingerprint()


def test_another_test_split_is_other_data(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(with_test), str(tmp_path / "run"), *FAST]) == 0
    path = with_test / "test.txt"
    path.write_text(path.read_text().replace("40 22\n", "40 21\n").replace("40 22 23", "40 21 23"))
    assert "other interactions" in _fails(capsys, "evaluate", tmp_path / "run")


def test_a_test_split_of_weighted_data_must_be_weighted() -> None:
    weighted = Interactions.from_edge_index(
        torch.tensor([[0, 1], [0, 1]]), 2, 3, weights=torch.ones(2)
    )
    dataset = Dataset(
        weighted, {}, {}, Interactions.from_edge_index(torch.tensor([[0], [1]]), 2, 3)
    )
    config = RunConfig("here", dataset.fingerprint(), preset("fast"), ratios=(0.5, 0.5))
    with pytest.raises(ValueError, match="both have weights or none"):
        split_run(config, dataset)


def test_evaluate_says_that_there_is_no_test_set(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["train", str(prepared), str(tmp_path / "run"), *FAST, "--ratios", "0.9", "0.1"])
        == 0
    )
    assert "no test set" in _fails(capsys, "evaluate", tmp_path / "run")


def test_prepare_counts_the_test_edges_that_a_core_drops(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["prepare", str(with_test), str(tmp_path / "out"), "--k-core", "2", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert [step["test_edges"] for step in result["steps"]] == [82, 80]
    assert result["info"]["test_edges"] == 80 and result["info"]["dropped_test_edges"] == 2
    assert cli.main(["prepare", str(with_test), str(tmp_path / "two"), "--k-core", "2"]) == 0
    out = capsys.readouterr().out
    assert "82 test edges" in out and "80 test edges" in out and "dropped test edges" in out


def test_what_prepare_cannot_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.csv", "b.csv", "a.json"):
        (tmp_path / name).write_text("user,item\n1,2\n")
    a, b, slice_, out = (tmp_path / name for name in ("a.csv", "b.csv", "a.json", "out"))
    assert "several tables are not supported" in _fails(capsys, "prepare", a, b, out)
    assert "a.csv" in _fails(capsys, "prepare", slice_, a, out)
    assert "'user' is asked for twice" in _fails(
        capsys, "prepare", a, out, "--user", "user", "--item", "user"
    )
    (tmp_path / "train.txt").write_text("1500000000 1 0\n")
    assert "raw ids" in _fails(capsys, "prepare", tmp_path / "train.txt", out)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you "
            "tried ..."
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_out_of_memory_is_one_line(
    error: Exception,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "open_dataset", fail)
    assert "out of memory" in _fails(capsys, "prepare", tmp_path, tmp_path / "out")
    with pytest.raises(RuntimeError, match="a bug"):
        error = RuntimeError("a bug")
        cli.main(["prepare", str(tmp_path), str(tmp_path / "out")])


def test_torch_that_cannot_allocate_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_demo_checks_before_it_replaces_and_touches_no_file_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    (mine / "mpd").mkdir(parents=True)
    (mine / "mpd" / "mpd.slice.0-999.json").write_text("mine")
    assert "not the folder of an earlier demo" in _fails(
        capsys, "demo", "--out", mine, "--playlists", "60"
    )
    assert [path.name for path in mine.rglob("*.json")] == ["mpd.slice.0-999.json"]
    assert "is a file" in _fails(capsys, "demo", "--out", mine / "mpd" / "mpd.slice.0-999.json")

    demo = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(demo), "--playlists", "60", "--json"]) == 0
    others = [demo / "run" / "notes.txt", demo / "mpd" / "mpd.slice.5000-5999.json"]
    for path in others:
        path.write_text("mine")
    before = {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    assert "num_playlists" in _fails(capsys, "demo", "--out", demo, "--playlists", "0")
    assert "seed" in _fails(capsys, "demo", "--out", demo, "--seed", "-1")
    assert {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()} == before
    assert cli.main(["demo", "--out", str(demo), "--playlists", "70", "--json"]) == 0
    assert [path.read_text() for path in others] == ["mine", "mine"]
    assert (
        not (demo / "mpd" / "mpd.slice.0-59.json").exists()
        and (demo / "mpd" / "mpd.slice.0-69.json").exists()
    )


def test_demo_run_knows_its_data_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--out", "demo", "--playlists", "60", "--json"]) == 0
    monkeypatch.chdir("/")
    assert cli.main(["evaluate", str(tmp_path / "demo" / "run")]) == 0


def test_prepare_replaces_a_dataset_only_when_told_to(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["prepare", str(slices), str(out), "--slices", "0:1"]) == 0
    before = (out / "dataset.safetensors").read_bytes()
    assert "--overwrite" in _fails(capsys, "prepare", slices, out)
    assert (out / "dataset.safetensors").read_bytes() == before
    assert cli.main(["prepare", str(slices), str(out), "--overwrite", "--k-core", "2"]) == 0
    assert (out / "dataset.safetensors").read_bytes() != before
    assert "<= 3" in _fails(capsys, "prepare", slices, tmp_path / "none", "--slices", "2:9")
    assert "FIRST:END" in _fails(capsys, "prepare", slices, tmp_path / "none", "--slices", "2-9")
    assert "no interaction is left" in _fails(
        capsys, "prepare", slices, tmp_path / "none", "--k-core", "999"
    )
    assert not (tmp_path / "none").exists()


def test_output_is_not_a_terminal_so_there_is_no_bar(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(prepared), str(tmp_path / "run"), *FAST]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "validation" in out


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_progress_bar(prepared: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [
        sys.executable,
        "-m",
        "lightgcn",
        "train",
        str(prepared),
        str(tmp_path / "run"),
        *FAST,
    ]
    process = subprocess.Popen(command, stderr=child, stdout=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait(timeout=120) == 0
    assert b"train" in shown and b"step" in shown and b"recall@20" in shown


def test_resume_of_a_run_that_was_killed_before_its_first_step_begins_it(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        str(prepared),
        str(tmp_path / "run"),
        "--epochs",
        "1",
        "--batch-size",
        "200",
        "--resume",
    ]
    assert (
        cli.main(command) == 2 and "not a run folder" in capsys.readouterr().err
    )  # perhaps a slip of the pen
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert cli.main(command) == 0
    assert "nothing to go on from yet; training begins" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_metrics_that_cannot_be_written_are_told_all_the_same(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, value: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lightgcn.experiments.run.write_json", refused)
    assert cli.main(["evaluate", str(run)]) == 0
    said = capsys.readouterr()
    assert (
        "recall@20" in said.out
        and "the metrics could not be written" in said.err
        and "test.json" in said.err
    )
