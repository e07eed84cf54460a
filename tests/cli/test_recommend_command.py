"""`lightgcn recommend`: lists, files in and out, explanations, and ids that begin with a dash."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import files_under, lightgcn, refusal, run_command

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender
from lightgcn.cli.main import COMMANDS
from lightgcn.cli.options import build_parser

USERS = ["-u000xQ", "--9fQx_", "ann", "bob", "-k5"]
ITEMS = ["-b000xQ", "_b002xQ", "-x", "song 3", "song 4", "song 5", "song 6"]
NAMES = ["Dawn", "Rain", "Rain", "Echo", "Night", "Zoo", "Björk"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recommender's file of few users and items."""
    edges = np.array([(u, i) for u in range(5) for i in range(7) if (u * 3 + i * 5) % 4 < 2]).T
    order = np.arange(edges.shape[1])
    graph = Interactions.from_edge_index(edges, 5, 7, user_ids=USERS, item_ids=ITEMS, order=order)
    config = RankingConfig(0.2, item_knn=3, user_knn=2, spectral=1, time_decay=0.5)
    ranker = Ranker.from_model(LightGCN(5, 7, 4, seed=0), graph, config=config)
    made = Recommender(
        ranker,
        user_columns={"name": ["Drift\n  core", "", "Ann's", "", ""]},
        item_columns={"name": NAMES, "artist": [f"Artist {n}" for n in range(7)]},
    )
    file = tmp_path_factory.mktemp("saved") / "model.safetensors"
    made.save(file)
    return file


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    run_command("recommend", *arguments, "--json")
    return json.loads(capsys.readouterr().out)


def ids(tracks: list[dict[str, Any]]) -> list[str]:
    return [track["id"] for track in tracks]


def test_ids_that_begin_with_a_dash(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Recommender.load(saved)
    for user in ("-u000xQ", "--9fQx_", "-k5"):
        expected = [one.id for one in made.recommend(user, 2)]
        for options in (
            ["--user", user, "-k", 2],
            ["--k=2", f"--user={user}"],
            ["-k2", "--user", user],
        ):
            assert ids(answer(capsys, saved, *options)) == expected
    expected = [one.id for one in made.recommend_new(["-b000xQ", "_b002xQ", "-x"], 3)]
    for options in (
        ["--items", "-b000xQ", "_b002xQ", "-x", "-k3"],
        ["-k", 3, "--items", "-b000xQ", "_b002xQ", "-x"],
    ):
        assert ids(answer(capsys, saved, *options)) == expected
    assert ids(answer(capsys, saved, "--similar", "-x")) == [
        one.id for one in made.similar_items("-x")
    ]
    explained = answer(capsys, saved, "--user", "-u000xQ", "--explain", "-x")
    assert explained["score"] == pytest.approx(made.explain("-u000xQ", "-x").score)
    # As a user's shell passes them.
    assert "-u000xQ" in lightgcn("recommend", saved, "--user", "-u000xQ").stdout


def test_dashes_in_the_values_of_other_commands() -> None:
    parser = build_parser(COMMANDS)
    for line, name, value in (
        (["prepare", "in", "out", "--ego", "-x", "--hops", "2"], "ego", "-x"),
        (["prepare", "in", "out", "--ego", "-5"], "ego", "-5"),
        (["evaluate", "run", "--data", "-folder", "-k", "5", "10"], "k", [5, 10]),
        (["evaluate", "run", "-k", "5", "-1"], "k", [5, -1]),
        (
            ["recommend", "run", "--items", "-h1", "a", "--exclude", "-", "-k", "3"],
            "items",
            ["-h1", "a"],
        ),
        (["recommend", "run", "--users", "-", "--out", "x.csv", "--overw"], "overwrite", True),
    ):
        assert getattr(parser.parse_args(line), name) == value


def test_a_mistyped_option_is_named(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["--user", "ann", "--exlude", "f"], "unknown option --exlude; did you mean --exclude?"),
        (["--items", "a", "--bogus"], "unknown option --bogus "),
        (["--items", "a", "--skip-unknwon"], "did you mean --skip-unknown?"),
        (["--user", "--simmilar=x"], "unknown option --simmilar"),
        (["--user", "ann", "-z"], "-z"),
        (["--user"], "--user: expected one argument"),
        (["--user", "ann", "-k", "x"], "-k"),
    ):
        assert said in refusal(capsys, "recommend", saved, *options)


def test_lists_of_the_items_in_files(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recommender.load(saved)
    only, exclude = tmp_path / "only.txt", tmp_path / "exclude"
    only.write_bytes("\ufeff-x\r\n\r\nsong 3\nBjörk\n song 5 \n".encode())
    exclude.write_text("song 3\n")
    for who, ask in (
        (["--user", "ann"], lambda **some: made.recommend("ann", **some)),
        (["--items", "song 4"], lambda **some: made.recommend_new(["song 4"], **some)),
        (["--similar", "song 4"], lambda **some: made.similar_items("song 4", **some)),
    ):
        chosen = ["-x", "song 3", "song 6", "song 5"]
        expected = [one.id for one in ask(only=chosen, exclude=["song 3"])]
        assert ids(answer(capsys, saved, *who, "--only", only, "--exclude", exclude)) == expected
        monkeypatch.setattr(sys, "stdin", io.StringIO("song 3\nsong 5\n"))
        expected = [one.id for one in ask(exclude=["song 3", "song 5"])]
        assert ids(answer(capsys, saved, *who, "--exclude", "-")) == expected
    exclude.write_text("")
    assert ids(answer(capsys, saved, "--user", "ann", "--exclude", exclude)) == [
        one.id for one in made.recommend("ann")
    ]


def test_what_is_wrong_in_a_file_is_named(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists, out = tmp_path / "lists.txt", tmp_path / "out.csv"
    for content, said in (
        (b"song 3\n\nsong 33\n", [f"{lists}, line 3", "'song 33'", "close to it: song 3"]),
        (b"song 3\nrain\n", [f"{lists}, line 2", "2 items are called 'rain'"]),
        (b"\n \n", [f"{lists}: holds no id"]),
        (b"song 3\n\xff\n", [str(lists), "UTF-8"]),
    ):
        lists.write_bytes(content)
        for options in (["--user", "ann"], ["--all", "--out", out]):
            line = refusal(capsys, "recommend", saved, *options, "--only", lists)
            assert all(text in line for text in [*said]), line
    lists.write_text("bob\nnobody\n")
    line = refusal(capsys, "recommend", saved, "--users", lists, "--out", out)
    assert f"--users {lists}, line 2: unknown user 'nobody'" in line
    assert "none.txt" in refusal(
        capsys, "recommend", saved, "--user", "ann", "--exclude", tmp_path / "none.txt"
    )
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1


def test_unknown_items_and_ambiguous_names(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ids(answer(capsys, saved, "--items", "song 4"))
    capsys.readouterr()
    run_command("recommend", saved, "--items", "new", "song 4", "--skip-unknown", "--json")
    out, err = capsys.readouterr()
    assert ids(json.loads(out)) == expected and "1 of 2 items" in err and "'new'" in err
    assert "'new'" in refusal(capsys, "recommend", saved, "--items", "new", "song 4")
    assert "'new'" in refusal(capsys, "recommend", saved, "--items", "new", "--skip-unknown")
    line = refusal(capsys, "recommend", saved, "--similar", "rain")
    assert "_b002xQ (Rain by Artist 1" in line and "-x (Rain by Artist 2" in line
    popular = Recommender.load(saved, ambiguous="popular")
    expected = [one.id for one in popular.similar_items("rain")]
    assert ids(answer(capsys, saved, "--similar", "rain", "--most-popular")) == expected
    assert "close to it: song 6 (Björk by" in refusal(
        capsys, "recommend", saved, "--similar", "Bjork"
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".jsonl"])
def test_lists_of_all_users_in_a_file(
    suffix: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pandas = pytest.importorskip("pandas")
    made, out = Recommender.load(saved), tmp_path / f"out{suffix}"
    read = {".parquet": pandas.read_parquet, ".jsonl": lambda f: pandas.read_json(f, lines=True)}
    for options, k, users in (([], 10, USERS), (["-k", 2, "--exclude", "{}"], 2, ["bob", "-k5"])):
        some = tmp_path / "some.txt"
        some.write_text("song 5\n")
        chosen = tmp_path / "chosen.txt"
        chosen.write_text("bob\n-k5\nbob\n")
        who = ["--all"] if users is USERS else ["--users", chosen, "--overwrite"]
        exclude = ["song 5"] if options else []
        given = [some if option == "{}" else option for option in options]
        found = answer(capsys, saved, *who, "--out", out, *given)
        lists = made.recommend(users, min(k, 7), exclude=exclude)
        expected = [
            (user, rank, one.id, one.columns["name"])
            for user, some_items in zip(users, lists, strict=True)
            for rank, one in enumerate(some_items, 1)
        ]
        frame = read.get(suffix, pandas.read_csv)(out)
        columns = (frame[name] for name in ("user", "rank", "item", "item_name"))
        assert list(zip(*columns, strict=True)) == expected
        assert found == {"file": str(out), "users": len(users), "rows": len(expected)}
    assert "exists" in refusal(capsys, "recommend", saved, "--all", "--out", out)


def test_options_that_do_not_go_together(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, folder = tmp_path / "old.csv", tmp_path / "folder.csv"
    old.write_text("kept")
    folder.mkdir()
    for options, said in (
        (["--all"], "--all needs --out"),
        (["--users", "-"], "--users needs --out"),
        (["--user", "ann", "--out", "x.csv"], "--out needs --all or --users"),
        (["--user", "ann", "--overwrite"], "--overwrite needs --all or --users"),
        (["--items", "-x", "--explain", "-x"], "--explain needs --user"),
        (["--user", "ann", "--skip-unknown"], "--skip-unknown needs --items"),
        (["--user", "ann", "--explain", "-x", "--only", "f"], "--only"),
        (["--user", "ann", "--explain", "no such"], "unknown item 'no such'"),
        (["--user", "ann", "--explain", "-x", "-k", "0"], "-k must be"),
        (["--user", "ann", "--only", "-", "--exclude", "-"], "standard input"),
        (["--all", "--user", "ann"], "--user"),
        (["--all", "--out", tmp_path / "x.xlsx"], ".parquet, .csv"),
        (["--all", "--out", old], f"{old}: exists already"),
        (["--all", "--out", folder], "is a folder"),
        (
            ["--all", "--out", tmp_path / "new.csv", "-k", "8"],
            "-k is 8, but there are only 7 items",
        ),
        (["--user", "ann", "-k", "8"], "-k is 8, but there are only 7 items"),
        (["--similar", "-x", "-k", "0"], "-k must be an integer of at least 1, got 0"),
    ):
        assert said in refusal(capsys, "recommend", saved, *options), options
    assert files_under(tmp_path) == {old: b"kept"}


def test_headings_and_default_lengths(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Recommender.load(saved)
    count = len(made.seen.items_of(0))
    run_command("recommend", saved, "--user", "drift\n  core")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'for user -u000xQ, "Drift core", which has {count} items'
    assert len(lines) == 1 + 7 - count
    run_command("recommend", saved, "--user", "bob")
    assert capsys.readouterr().out.startswith("for user bob, which has ")
    run_command("recommend", saved, "--similar", "Echo")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "similar to Echo by Artist 3  song 3" and len(lines) == 7


def test_an_explanation_adds_up(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Recommender.load(saved)
    expected = made.explain("ann", "song 6")
    run_command("recommend", saved, "--user", "ann", "--explain", "song 6")
    title, score, *rows = capsys.readouterr().out.splitlines()
    assert "Björk" in title and "Ann's" in title
    assert score.split() == ["score", f"{expected.score:.4f}"]
    values = [float(row.split()[0]) for row in rows]
    assert sum(values) == pytest.approx(expected.score, abs=1e-3)
    assert len(rows) == len(expected.items) + len(expected.other)
    run_command("recommend", saved, "--user", "ann", "--explain", "song 6", "-k", "1")
    _, _, first, rest, *_ = capsys.readouterr().out.splitlines()
    assert first == rows[0] and f"({len(expected.items) - 1} more items)" in rest
    found = answer(capsys, saved, "--user", "ann", "--explain", "song 6")
    assert found["other"] == pytest.approx(expected.other)
    assert [row["contribution"] for row in found["items"]] == pytest.approx(
        [row.contribution for row in expected.items]
    )
