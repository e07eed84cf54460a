"""`lightgcn demo` and `lightgcn prepare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import files_under, refusal, run_command

from lightgcn import Recommender
from lightgcn.datasets import Dataset
from lightgcn.experiments.run import RunConfig, split_run


def test_demo_walks_the_whole_path_and_calls_its_data_synthetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = tmp_path / "demo"
    run_command("demo", "--out", demo, "--playlists", "300")
    out, err = capsys.readouterr()
    assert all(text in out for text in ("synthetic", "popularity", "five tracks", str(demo)))
    assert err == ""
    for name in (
        "mpd/mpd.slice.0-299.json",
        "prepared/dataset.safetensors",
        "run/recommender.safetensors",
    ):
        assert (demo / name).is_file(), name
    # A second demo in the same folder replaces the first.
    run_command("demo", "--out", demo, "--playlists", "300", "--json")
    result = json.loads(capsys.readouterr().out)
    test = result["test"]
    assert result["synthetic"] is True
    assert test["lightgcn"]["metrics"]["recall@20"] > test["popularity"]["metrics"]["recall@20"]
    assert len(result["new_playlist"]["tracks"]) == 5 == len(result["new_playlist"]["recommended"])


def _slice(*playlists: object) -> str:
    return json.dumps({"info": {}, "playlists": list(playlists)})


PLAYLIST = {"name": "a", "pid": 0, "tracks": [{"track_uri": "spotify:track:1", "track_name": "x"}]}
NO_URI = {"name": "a", "pid": 7, "tracks": [{"track_name": "x"}]}
FIRST, SECOND = "mpd.slice.0-9.json", "mpd.slice.10-19.json"
BAD_DATA: dict[str, tuple[dict[str, str], list[str]]] = {
    "empty directory": ({}, ["raw"]),
    "truncated JSON": ({FIRST: _slice(PLAYLIST)[:-20]}, [FIRST, "JSON"]),
    "no MPD slice": ({FIRST: '{"tracks": []}'}, [FIRST, "playlists"]),
    "track without URI": ({FIRST: _slice(NO_URI)}, [FIRST, "7", "track_uri"]),
    "duplicate pid across files": (
        {FIRST: _slice(PLAYLIST), SECOND: _slice(PLAYLIST)},
        [FIRST, SECOND, "pid"],
    ),
    "negative index": ({"train.txt": "0 1 2\n1 -3\n"}, ["train.txt", "2", "-3"]),
    "float index": ({"train.txt": "0 1 2\n1 1.5\n"}, ["train.txt", "2", "1.5"]),
    "non-numeric index": ({"train.txt": "0 1 2\n1 x7\n"}, ["train.txt", "2", "x7"]),
    "too large index": (
        {"train.txt": "0 1 2\n1 99999999999\n"},
        ["train.txt", "2", "99999999999"],
    ),
    "wrong column name": (
        {"plays.csv": "who,what\nann,s1\n"},
        ["plays.csv", "'user'", "'who'"],
    ),
}


def test_bad_raw_data_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "missing" in refusal(capsys, "prepare", tmp_path / "missing", out)
    for case, (files, said) in BAD_DATA.items():
        raw = tmp_path / case / "raw"
        raw.mkdir(parents=True)
        for name, text in files.items():
            (raw / name).write_text(text)
        error = refusal(capsys, "prepare", raw / "plays.csv" if "plays.csv" in files else raw, out)
        assert all(words in error for words in said), (case, error)
    assert not out.exists()


def test_prepare_counts_the_test_edges_that_a_core_drops(
    with_test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("prepare", with_test, tmp_path / "out", "--k-core", "2", "--json")
    result = json.loads(capsys.readouterr().out)
    assert [step["test_edges"] for step in result["steps"]] == [82, 80]
    assert result["info"]["test_edges"] == 80 and result["info"]["dropped_test_edges"] == 2
    run_command("prepare", with_test, tmp_path / "two", "--k-core", "2")
    out = capsys.readouterr().out
    assert "82 test edges" in out and "80 test edges" in out and "dropped test edges" in out


def test_what_prepare_cannot_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.csv", "b.csv", "a.json"):
        (tmp_path / name).write_text("user,item\n1,2\n")
    (tmp_path / "c.csv").write_text("user,thing\n1,2\n")
    a, slice_, out = (tmp_path / name for name in ("a.csv", "a.json", "out"))
    assert "c.csv" in refusal(capsys, "prepare", a, tmp_path / "c.csv", out)
    assert "a.csv" in refusal(capsys, "prepare", slice_, a, out)
    assert "'user'" in refusal(capsys, "prepare", a, out, "--user", "user", "--item", "user")
    (tmp_path / "train.txt").write_text("1500000000 1 0\n")
    assert "raw ids" in refusal(capsys, "prepare", tmp_path / "train.txt", out)


def test_demo_checks_before_it_replaces_and_touches_no_file_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    (mine / "mpd").mkdir(parents=True)
    (mine / "mpd" / "mpd.slice.0-999.json").write_text("mine")
    assert str(mine) in refusal(capsys, "demo", "--out", mine, "--playlists", "60")
    assert [path.name for path in mine.rglob("*.json")] == ["mpd.slice.0-999.json"]
    assert "not a folder" in refusal(capsys, "demo", "--out", mine / "mpd" / "mpd.slice.0-999.json")

    demo = tmp_path / "demo"
    run_command("demo", "--out", demo, "--playlists", "60", "--json")
    others = [demo / "run" / "notes.txt", demo / "mpd" / "mpd.slice.5000-5999.json"]
    for path in others:
        path.write_text("mine")
    before = files_under(demo)
    assert "num_playlists" in refusal(capsys, "demo", "--out", demo, "--playlists", "0")
    assert "seed" in refusal(capsys, "demo", "--out", demo, "--seed", "-1")
    assert files_under(demo) == before
    run_command("demo", "--out", demo, "--playlists", "70", "--json")
    assert [path.read_text() for path in others] == ["mine", "mine"]
    assert (
        not (demo / "mpd" / "mpd.slice.0-59.json").exists()
        and (demo / "mpd" / "mpd.slice.0-69.json").exists()
    )


def test_demo_run_knows_its_data_from_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command("demo", "--out", "demo", "--playlists", "60", "--json")
    monkeypatch.chdir("/")
    run_command("evaluate", tmp_path / "demo" / "run")


def test_prepare_replaces_a_dataset_only_when_told_to(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_command("prepare", slices, out, "--slices", "0:1")
    before = (out / "dataset.safetensors").read_bytes()
    assert "--overwrite" in refusal(capsys, "prepare", slices, out)
    assert (out / "dataset.safetensors").read_bytes() == before
    run_command("prepare", slices, out, "--overwrite", "--k-core", "2")
    assert (out / "dataset.safetensors").read_bytes() != before
    assert "<= 3" in refusal(capsys, "prepare", slices, tmp_path / "none", "--slices", "2:9")
    assert "FIRST:END" in refusal(capsys, "prepare", slices, tmp_path / "none", "--slices", "2-9")
    assert "999" in refusal(capsys, "prepare", slices, tmp_path / "none", "--k-core", "999")
    assert not (tmp_path / "none").exists()


BAD_TABLE_OPTIONS = {
    "user": (("--user", "who"), "no column 'who'"),
    "time": (("--time", "when"), "no column 'when'"),
    "rating": (("--rating", "stars"), "--min-rating"),
    "min-rating": (("--min-rating", "good"), "--min-rating"),
    "least rating": (("--rating", "rate", "--min-rating", "9"), "no row is left"),
    "columns": (("--columns", "user,item"), "2 columns are named"),
    "separator": (("--separator", "ab"), "'ab'"),
    "encoding": (("--encoding", "klingon"), "klingon"),
    "item-id": (("--item-id", "x"), "give items"),
    "items": (("--items", "none.csv"), "none.csv"),
    "items' column": (("--items", "a.csv", "--item-name", "label"), "no column 'label'"),
    "test": (("--test", "none.csv"), "none.csv"),
    "val": (("--val", "none.csv"), "none.csv"),
    "format": (("--format", "counts"), "a.csv"),
}


@pytest.mark.parametrize(
    ("options", "named"), BAD_TABLE_OPTIONS.values(), ids=BAD_TABLE_OPTIONS.keys()
)
def test_a_bad_option_of_a_table_is_named_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("user,item,rate\n1,2,3\n")
    assert named in refusal(capsys, "prepare", "a.csv", "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_validation_set_of_its_own_chooses_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(user, item) for user in range(30) for item in range(20) if (user + item) % 3]
    parts = {"train.csv": rows[::2] + rows[3::4], "valid.csv": rows[1::8], "test.csv": rows[5::8]}
    for name, part in parts.items():
        text = "".join(f"u{user},i{item}\n" for user, item in part)
        (tmp_path / name).write_text("user,item\n" + text)
    sizes = {name: len(set(part)) for name, part in parts.items()}
    run_command("prepare", ".", "p")
    assert Dataset.load("p").val.num_edges == sizes["valid.csv"]
    run_command("train", "p", "run", "--epochs", "2", "--metric", "recall@5")
    config = RunConfig.load("run")
    assert config.ratios == (1.0,)
    split = split_run(config, Dataset.load("p"))
    assert split.train.message.num_edges == sizes["train.csv"]
    assert split.val.positives.num_edges == sizes["valid.csv"]
    negatives = split.val.negatives
    assert not Dataset.load("p").known_edges().contains(*negatives).any()
    run_command("evaluate", "run", "--k", "5")
    known = Recommender.load("run/recommender.safetensors").seen
    assert known.num_edges == sum(sizes.values())
    run_command("reproduce", "p", "again", "--epochs", "2", "--metric", "recall@5")
    assert not (tmp_path / "again" / "seed-0" / "final").exists()
    said = refusal(capsys, "train", "p", "other", "--ratios", "0.9", "0.1")
    assert "its own validation set" in said and not (tmp_path / "other").exists()


@pytest.mark.parametrize("out", ["b.csv", "b.csv/out", ""])
def test_an_out_that_is_no_folder_is_named_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.csv").write_text("user,item\na,x\n")
    said = refusal(capsys, "prepare", "b.csv", out)
    assert ("b.csv is a file" if out else "an empty one") in said
    assert list(files_under(tmp_path)) == [tmp_path / "b.csv"]
