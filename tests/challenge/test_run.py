import json

import pytest

from lightgcn import preset
from lightgcn.challenge import (
    read_challenge_set,
    read_submission,
    run_challenge,
    submission_problems,
)
from lightgcn.challenge import run as run_module
from lightgcn.cli import main as cli
from lightgcn.core.storage import read_json
from lightgcn.datasets import Dataset

FAST = preset("fast", epochs=2, batch_size=4096, eval_every=2)
OPTIONS = ["--epochs", "2", "--batch-size", "4096", "--playlists", "50"]


@pytest.fixture(scope="module")
def done(prepared, tmp_path_factory):
    """Return the folder of a challenge that has run on the command line."""
    out = tmp_path_factory.mktemp("challenge") / "out"
    assert cli.main(["challenge", "evaluate", str(prepared), str(out), *OPTIONS]) == 0
    return out


def test_evaluate_says_how_each_task_fared_beside_baselines(done, prepared, capsys):
    assert cli.main(["challenge", "evaluate", str(prepared), str(done), *OPTIONS]) == 0
    out = capsys.readouterr().out
    for words in (
        "title, random 100",
        "lightgcn without titles",
        "popularity",
        "item_item",
        "R-precision",
        "NDCG",
    ):
        assert words in out
    assert "trained for" not in out  # it was trained already
    scores = read_json(done / "scores.json")["scores"]
    assert scores["lightgcn"]["all"]["r_precision"] > scores["popularity"]["all"]["r_precision"]
    assert scores["lightgcn"]["all"]["playlists"] == 50


def test_the_submission_is_what_was_scored_and_has_no_problem(done, capsys):
    playlists = read_challenge_set(done / "challenge_set.json")
    assert submission_problems(read_submission(done / "submission.csv"), playlists) == []
    files = [str(done / name) for name in ("submission.csv", "challenge_set.json", "holdouts.json")]
    assert cli.main(["challenge", "score", *files, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores == read_json(done / "scores.json")["scores"]["lightgcn"]
    assert cli.main(["challenge", "check", *files[:2]]) == 0
    assert "no problems" in capsys.readouterr().out


def test_answer_gives_what_evaluate_gave(done, tmp_path, capsys):
    out = tmp_path / "mine.csv.gz"
    command = ["challenge", "answer", str(done / "run"), str(done / "challenge_set.json"), str(out)]
    assert cli.main([*command, "--team", "us", "--email", "us@example.com"]) == 0
    assert "50 playlists answered" in capsys.readouterr().out
    assert read_submission(out) == read_submission(done / "submission.csv")
    assert cli.main([*command, "--no-titles", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert read_submission(out) != read_submission(done / "submission.csv")


def test_without_artists_their_column_is_empty(done, tmp_path, capsys):
    (tmp_path / "holdouts.json").write_bytes((done / "holdouts.json").read_bytes())
    files = [
        str(done / "submission.csv"),
        str(done / "challenge_set.json"),
        str(tmp_path / "holdouts.json"),
    ]
    assert cli.main(["challenge", "score", *files]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[3] == "-"
    assert cli.main(["challenge", "score", *files, "--data", str(done / "train"), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out) == read_json(done / "scores.json")["scores"]["lightgcn"]
    )


def test_check_ends_with_2_where_something_would_be_refused(done, tmp_path, capsys):
    lines = (done / "submission.csv").read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines[:-1]))
    assert (
        cli.main(
            ["challenge", "check", str(tmp_path / "cut.csv"), str(done / "challenge_set.json")]
        )
        == 2
    )
    assert "no list" in capsys.readouterr().out


def test_an_interrupted_challenge_goes_on(done, with_order, tmp_path):
    class Watch:
        def __init__(self, steps):
            self.left = steps

        def __enter__(self):
            return self.stop

        def __exit__(self, *_):
            return None

        def stop(self):
            self.left -= 1
            return self.left < 0

    folder = tmp_path / "out"
    assert run_challenge(with_order, FAST, folder, num_playlists=50, watch=Watch(3)) is None
    assert not (folder / "scores.json").exists()
    result = run_challenge(with_order, FAST, folder, num_playlists=50)
    assert result is not None
    for name in ("challenge_set.json", "holdouts.json", "submission.csv", "scores.json"):
        assert (folder / name).read_bytes() == (done / name).read_bytes()


def test_a_challenge_killed_before_it_was_all_written_goes_on(with_order, tmp_path, monkeypatch):
    for name in ("write_challenge_set", "write_holdouts"):
        with monkeypatch.context() as patched:
            patched.setattr(run_module, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run_challenge(with_order, FAST, tmp_path / "out", num_playlists=50)
    assert run_challenge(with_order, FAST, tmp_path / "out", num_playlists=50) is not None


def test_more_epochs_train_on(with_order, tmp_path):
    run_challenge(with_order, FAST, tmp_path, num_playlists=50)
    before = read_json(tmp_path / "run" / "trained.json")["epochs"]
    run_challenge(
        with_order,
        preset("fast", epochs=4, batch_size=4096, eval_every=2),
        tmp_path,
        num_playlists=50,
    )
    assert (before, read_json(tmp_path / "run" / "trained.json")["epochs"]) == (2, 4)


def test_other_titles_are_another_challenge(done, with_order):
    titles = [title if place % 3 else "" for place, title in enumerate(with_order.users["name"])]
    other = Dataset(with_order.interactions, {"name": titles}, with_order.items)
    with pytest.raises(ValueError, match="different challenge: its playlists"):
        run_challenge(other, FAST, done, num_playlists=50)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"settings": preset("fast", num_layers=0)}, "num_layers must be at least 1"),
        ({"side_nodes": "colour"}, "no column 'colour'"),
        ({"seed": 2**63}, "seed must be below"),
        ({"seed": -1}, "seed must be a non-negative integer"),
        ({"num_playlists": 55}, "multiple of 10"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_written(
    with_order, tmp_path, options, says
):
    arguments = {"settings": FAST, "num_playlists": 50} | options
    with pytest.raises(ValueError, match=says):
        run_challenge(with_order, folder=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_answer_refuses_what_it_could_not_write_before_it_answers(done, tmp_path, capsys):
    command = ["challenge", "answer", str(done / "run"), str(done / "challenge_set.json")]
    for rest, says in (
        ([str(done / "challenge_set.json")], "must end in .csv"),
        ([str(tmp_path / "s.csv"), "--team", "a,b"], "team must be text"),
    ):
        assert cli.main([*command, *rest]) == 2
        assert says in capsys.readouterr().err
    assert read_challenge_set(done / "challenge_set.json")


def test_score_tells_what_would_be_refused_and_exchanged_files(done, tmp_path, capsys):
    lines = (done / "submission.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text("\n".join([*lines[:-1], lines[-1] + ", spotify:track:more"]))
    files = [str(tmp_path / "s.csv"), str(done / "challenge_set.json"), str(done / "holdouts.json")]
    assert cli.main(["challenge", "score", *files]) == 0
    assert "would refuse this: pid" in capsys.readouterr().err
    assert cli.main(["challenge", "score", files[0], files[1], files[1]]) == 2
    assert "are the two exchanged?" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_and_kept(done, with_order, tmp_path):
    before = {path: path.read_bytes() for path in done.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="different challenge: its num_playlists is 50, not 20"):
        run_challenge(with_order, FAST, done, num_playlists=20)
    with pytest.raises(ValueError, match="num_layers cannot change"):
        run_challenge(with_order, preset("fast", num_layers=1, epochs=2), done, num_playlists=50)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no challenge"):
        run_challenge(with_order, FAST, tmp_path, num_playlists=50)
    assert {path: path.read_bytes() for path in done.iterdir() if path.is_file()} == before


def test_data_without_places_is_refused_before_anything_is_written(slices, tmp_path, capsys):
    assert cli.main(["challenge", "evaluate", str(slices), str(tmp_path / "out")]) == 2
    assert "--order" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
