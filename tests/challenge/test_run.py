import json

import pytest

from lightgcn import cli, preset
from lightgcn.challenge import read_challenge_set, read_submission, run_challenge, submission_problems
from lightgcn.checkpoint import read_json

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
    for words in ("title, random 100", "lightgcn without titles", "popularity", "item_item", "R-precision", "NDCG"):
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
    assert "nothing that the challenge would refuse" in capsys.readouterr().out


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
    files = [str(done / "submission.csv"), str(done / "challenge_set.json"), str(tmp_path / "holdouts.json")]
    assert cli.main(["challenge", "score", *files]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[3] == "-"
    assert cli.main(["challenge", "score", *files, "--data", str(done / "train"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(done / "scores.json")["scores"]["lightgcn"]


def test_check_ends_with_2_where_something_would_be_refused(done, tmp_path, capsys):
    lines = (done / "submission.csv").read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines[:-1]))
    assert cli.main(["challenge", "check", str(tmp_path / "cut.csv"), str(done / "challenge_set.json")]) == 2
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


def test_a_folder_of_something_else_is_refused_and_kept(done, with_order, tmp_path):
    before = {path: path.read_bytes() for path in done.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="another challenge: its num_playlists is 50, not 20"):
        run_challenge(with_order, FAST, done, num_playlists=20)
    with pytest.raises(ValueError, match="num_layers cannot change"):
        run_challenge(with_order, preset("fast", num_layers=1, epochs=2), done, num_playlists=50)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files and no challenge"):
        run_challenge(with_order, FAST, tmp_path, num_playlists=50)
    assert {path: path.read_bytes() for path in done.iterdir() if path.is_file()} == before


def test_data_without_places_is_refused_before_anything_is_written(slices, tmp_path, capsys):
    assert cli.main(["challenge", "evaluate", str(slices), str(tmp_path / "out")]) == 2
    assert "--order" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
