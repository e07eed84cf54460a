import gzip
import json

import pytest

from lightgcn.challenge import (
    ChallengePlaylist,
    read_challenge_set,
    read_holdouts,
    read_submission,
    submission_problems,
    write_challenge_set,
    write_holdouts,
    write_submission,
)

URIS = [f"spotify:track:{number:022d}" for number in range(600)]


def test_a_challenge_set_comes_back_as_it_was(challenge, tmp_path):
    write_challenge_set(tmp_path / "set.json", challenge.playlists)
    assert read_challenge_set(tmp_path / "set.json") == list(challenge.playlists)
    write_holdouts(tmp_path / "holdouts.json", challenge)
    holdouts, artists = read_holdouts(tmp_path / "holdouts.json")
    assert holdouts == challenge.holdouts
    wanted = {uri for tracks in holdouts.values() for uri in tracks}
    assert artists == {uri: challenge.artists[uri] for uri in wanted}


def test_a_challenge_set_has_the_official_fields(challenge, tmp_path):
    write_challenge_set(tmp_path / "set.json", challenge.playlists)
    for record, playlist in zip(
        json.loads((tmp_path / "set.json").read_text())["playlists"],
        challenge.playlists,
        strict=True,
    ):
        assert record["num_tracks"] == record["num_samples"] + record["num_holdouts"]
        assert record["num_samples"] == len(record["tracks"])
        assert ("name" in record) == (playlist.title is not None)


def official(**change):
    track = {
        "pos": 3,
        "artist_name": "somebody",
        "track_uri": URIS[0],
        "artist_uri": "spotify:artist:x",
        "track_name": "a song",
        "album_uri": "spotify:album:y",
        "duration_ms": 1,
        "album_name": "an album",
    }
    return {
        "pid": 1000000,
        "num_holdouts": 9,
        "num_samples": 1,
        "num_tracks": 10,
        "tracks": [track],
    } | change


def write(path, *records):
    path.write_text(json.dumps({"date": "2018", "version": "v1", "playlists": list(records)}))
    return path


def test_the_official_format_is_read(tmp_path):
    path = write(tmp_path / "set.json", official(), official(pid=1000001, name="title", tracks=[]))
    first, second = read_challenge_set(path)
    assert first == ChallengePlaylist(1000000, None, (URIS[0],), (3,), 9)
    assert (first.task, second.task) == ("random 1", "title")
    assert second.title == "title"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (official(pid="5"), "playlist 0: \"pid\" is '5', expected a non-negative integer"),
        (official(pid=-1), '"pid" is -1'),
        (official(pid=True), '"pid" is True'),
        (official(name=7), '"name" is 7, expected a string'),
        (official(tracks={}), '"tracks" is {}, expected a list'),
        (official(tracks=[{}]), 'track 0: "track_uri" is None'),
        (official(tracks=["x"]), 'track 0: "track_uri" is None'),
        (official(tracks=[{"track_uri": "u", "pos": -1}]), 'track 0: "pos" is -1'),
        (official(num_holdouts=None), '"num_holdouts" is None'),
        ([], "playlist 0 is \\[\\], expected an object"),
    ],
)
def test_a_set_that_is_none_is_refused_by_file_place_field_and_value(tmp_path, record, says):
    with pytest.raises(ValueError, match=f"(?s)set.json.*{says}"):
        read_challenge_set(write(tmp_path / "set.json", record))


def test_a_pid_twice_no_list_and_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        read_challenge_set(write(tmp_path / "set.json", official(), official()))
    (tmp_path / "set.json").write_text('{"playlists": 3}')
    with pytest.raises(ValueError, match=r"set.json: expected an object with a list"):
        read_challenge_set(tmp_path / "set.json")
    (tmp_path / "set.json").write_text('{"playlists": [')
    with pytest.raises(ValueError, match=r"set.json: not valid JSON"):
        read_challenge_set(tmp_path / "set.json")


@pytest.mark.parametrize("name", ["submission.csv", "submission.csv.gz"])
def test_a_submission_comes_back_as_it_was(tmp_path, name):
    lists = {5: URIS[:500], 3: URIS[100:600]}
    write_submission(tmp_path / name, lists, "us", "us@example.com")
    assert read_submission(tmp_path / name) == lists
    data = (tmp_path / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0] == "team_info, us, us@example.com"
    assert lines[1].split(", ") == ["5", *URIS[:500]]


def test_comments_blank_lines_and_the_older_first_line_are_read(tmp_path):
    (tmp_path / "s.csv").write_text(
        f"# made by hand\n\nteam_info,main,us,us@example.com\n\n5,{URIS[0]} , {URIS[1]}\n#x\n"
    )
    assert read_submission(tmp_path / "s.csv") == {5: URIS[:2]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5,a,b\n", "line 1: expected team_info"),
        ("team_info,us\n", "line 1: expected team_info"),
        ("team_info,us,u@e\nx,a\n", "line 2: 'x' is no pid"),
        ("team_info,us,u@e\n-5,a\n", "line 2: '-5' is no pid"),
        ("team_info,us,u@e\n5,a\n\n5,b\n", "line 4: pid 5 occurs twice"),
        ("", "is empty"),
    ],
)
def test_a_submission_that_is_none_is_refused_by_line(tmp_path, text, says):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=f"s.csv: {says}"):
        read_submission(tmp_path / "s.csv")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x1f\x8b\x08"])
def test_a_submission_that_is_no_text_is_refused(tmp_path, data):
    for name in ("s.csv", "s.csv.gz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: not a readable text file"):
            read_submission(tmp_path / name)


@pytest.mark.parametrize(
    ("team", "email"),
    [("a,b", "c"), ("a", "c\nd"), (" ", "c"), ("a\u2028b", "c"), ("a", "\udcff"), ("a\x0b", "c")],
)
def test_a_team_that_the_format_cannot_hold_is_refused(tmp_path, team, email):
    with pytest.raises(ValueError, match="must be text without commas"):
        write_submission(tmp_path / "s.csv", {}, team, email)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("name", ["set.json", "s.csv.xz", "s"])
def test_a_submission_has_a_name_of_one(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.csv or \.csv\.gz"):
        write_submission(tmp_path / name, {}, "a", "b")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        write_submission(tmp_path / "folder.csv", {}, "a", "b")


@pytest.mark.parametrize("uri", ["a,b", "a\nb", "a\u2028b", "\ud800"])
def test_a_uri_that_the_format_cannot_hold_is_refused(tmp_path, uri):
    with pytest.raises(ValueError, match="playlist 5: a submission cannot hold the track URI"):
        write_submission(tmp_path / "s.csv", {5: [URIS[0], uri]}, "a", "b")
    assert not (tmp_path / "s.csv").exists()


def test_pids_of_63_bits_and_a_byte_order_mark_are_read(tmp_path):
    lists = {2**63 - 1: URIS[:2]}
    write_submission(tmp_path / "s.csv", lists, "a", "b")
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "s.csv").read_bytes())
    assert read_submission(tmp_path / "s.csv") == lists
    for pid in ("9223372036854775808", "٣"):
        (tmp_path / "s.csv").write_text(f"team_info,a,b\n{pid},x\n")
        with pytest.raises(ValueError, match="is no pid"):
            read_submission(tmp_path / "s.csv")


def test_a_set_of_no_playlist_and_holdouts_of_one_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"set\.json: holds no playlist"):
        read_challenge_set(write(tmp_path / "set.json"))
    record = {"pid": 3, "tracks": [{"track_uri": "a"}]}
    with pytest.raises(ValueError, match=r'playlist 1 \(pid 3\): "pid" occurs twice'):
        read_holdouts(write(tmp_path / "holdouts.json", record, record))


def asked(*pids):
    return [ChallengePlaylist(pid, "title", (URIS[599],), (0,), 9) for pid in pids]


@pytest.mark.parametrize(
    ("lists", "problem"),
    [
        ({}, "pid 1: no list"),
        ({1: URIS[:500], 2: URIS[:500]}, "pid 2: not in the challenge set"),
        ({1: URIS[:499]}, "pid 1: 499 tracks, not 500"),
        ({1: [*URIS[:499], URIS[0]]}, "pid 1: 1 tracks occur more than once"),
        ({1: [*URIS[:499], URIS[599]]}, "pid 1: 1 tracks are seeds of the playlist"),
        ({1: [*URIS[:499], "elsewhere"]}, "pid 1: 'elsewhere' is no track URI"),
    ],
)
def test_what_the_challenge_would_refuse_is_told(lists, problem):
    (found,) = submission_problems(lists, asked(1))
    assert found.startswith(problem)


def test_a_good_submission_has_no_problem_and_many_are_cut():
    assert submission_problems({1: URIS[:500], 2: URIS[5:505]}, asked(1, 2)) == []
    found = submission_problems({}, asked(*range(100)))
    assert len(found) == 21 and found[-1] == "and 80 more"
