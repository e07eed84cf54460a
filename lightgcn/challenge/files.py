"""The files of the RecSys Challenge 2018: the challenge set, its held-out tracks, and submissions.

challenge_set.json   the official format: {"playlists": [{"pid", "name", "num_holdouts",
                     "num_samples", "num_tracks", "tracks": [{"pos", "track_uri", …}]}]}
holdouts.json        {"playlists": [{"pid", "tracks": [{"track_uri", "artist_uri"}]}]}
submission.csv       team_info, NAME, EMAIL, then a line per playlist: pid, and 500 track URIs, best
                     first
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightgcn.challenge.scores import LIST_LENGTH
from lightgcn.challenge.tasks import Challenge, ChallengePlaylist
from lightgcn.core.storage import read_json, write_atomic, write_json

TRACK_URI = "spotify:track:"
_MOST_PROBLEMS = 20


def write_challenge_set(path: str | Path, playlists: Sequence[ChallengePlaylist]) -> None:
    """Write playlists to continue in the official format, atomically.

    Example:
        >>> playlist = ChallengePlaylist(7, "road trip", ("spotify:track:a",), (0,), 2)
        >>> write_challenge_set("challenge_set.json", [playlist])
        >>> read_challenge_set("challenge_set.json") == [playlist]
        True
    """
    records = []
    for playlist in playlists:
        seeds = zip(playlist.places, playlist.seeds, strict=True)
        record: dict[str, Any] = {} if playlist.title is None else {"name": playlist.title}
        record |= {
            "pid": playlist.pid,
            "num_holdouts": playlist.num_holdouts,
            "num_samples": len(playlist.seeds),
            "num_tracks": playlist.num_holdouts + len(playlist.seeds),
            "tracks": [{"pos": place, "track_uri": uri} for place, uri in seeds],
        }
        records.append(record)
    write_json(path, {"version": "v1", "name": "made by lightgcn challenge", "playlists": records})


def read_challenge_set(path: str | Path) -> list[ChallengePlaylist]:
    """Read a challenge set in the official format.

    The default of "pos" is a track's place in the list; that of "num_holdouts" is "num_tracks"
    minus the number of tracks, or 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, playlist, field and value, if it is no challenge set, or has no
            playlist.

    Example:
        >>> playlist = ChallengePlaylist(7, "road trip", ("spotify:track:a",), (0,), 2)
        >>> write_challenge_set("challenge_set.json", [playlist])
        >>> read_challenge_set("challenge_set.json")[0].title
        'road trip'
    """
    playlists: list[ChallengePlaylist] = []
    pids: set[int] = set()
    for place, record in enumerate(_records(path)):
        where = f"{path}: playlist {place}"
        pid: int = _checked(where, "pid", record.get("pid"), int)
        tracks, title, where = record.get("tracks", []), record.get("name"), f"{where} (pid {pid})"
        if pid in pids:
            raise ValueError(f'{where}: "pid" occurs twice')
        pids.add(pid)
        if title is not None:
            _checked(where, "name", title, str)
        seeds, places = [], []
        for position, track in enumerate(_checked(where, "tracks", tracks, list)):
            seeds.append(_uri(f"{where}: track {position}", track))
            places.append(
                _checked(f"{where}: track {position}", "pos", track.get("pos", position), int)
            )
        if "num_holdouts" in record or "num_tracks" not in record:
            held_out = _checked(where, "num_holdouts", record.get("num_holdouts", 0), int)
        else:
            held_out = max(_checked(where, "num_tracks", record["num_tracks"], int) - len(seeds), 0)
        playlists.append(ChallengePlaylist(pid, title, tuple(seeds), tuple(places), held_out))
    if not playlists:
        raise ValueError(f"{path}: holds no playlist")
    return playlists


def write_holdouts(path: str | Path, challenge: Challenge) -> None:
    """Write the held-out tracks and their artists, atomically.

    Example:
        >>> from lightgcn.datasets import Dataset
        >>> from lightgcn import Interactions
        >>> train = Dataset(Interactions([0], [0], num_users=1, num_items=1), {}, {})
        >>> challenge = Challenge([], {7: ["spotify:track:b"]}, {}, train)
        >>> write_holdouts("holdouts.json", challenge)
        >>> read_holdouts("holdouts.json")
        ({7: ['spotify:track:b']}, {})
    """
    records = []
    for pid, tracks in challenge.holdouts.items():
        entries = [
            {"track_uri": uri, "artist_uri": challenge.artists.get(uri, "")} for uri in tracks
        ]
        records.append({"pid": pid, "tracks": entries})
    write_json(path, {"playlists": records})


def read_holdouts(path: str | Path) -> tuple[dict[int, list[str]], dict[str, str]]:
    """Read a file of `write_holdouts`, or an MPD slice: pid to URIs, and URI to artist.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, playlist, field and value, if the format is wrong.

    Example:
        >>> from lightgcn.core.storage import write_json
        >>> track = {"track_uri": "spotify:track:b", "artist_uri": "spotify:artist:c"}
        >>> write_json("holdouts.json", {"playlists": [{"pid": 7, "tracks": [track]}]})
        >>> read_holdouts("holdouts.json")
        ({7: ['spotify:track:b']}, {'spotify:track:b': 'spotify:artist:c'})
    """
    holdouts: dict[int, list[str]] = {}
    artists: dict[str, str] = {}
    for place, record in enumerate(_records(path)):
        where = f"{path}: playlist {place}"
        pid = _checked(where, "pid", record.get("pid"), int)
        where += f" (pid {pid})"
        if pid in holdouts:
            raise ValueError(f'{where}: "pid" occurs twice')
        tracks = _checked(where, "tracks", record.get("tracks"), list)
        holdouts[pid] = [
            _uri(f"{where}: track {position}", track) for position, track in enumerate(tracks)
        ]
        for uri, track in zip(holdouts[pid], tracks, strict=True):
            if isinstance(track.get("artist_uri"), str) and track["artist_uri"]:
                artists[uri] = track["artist_uri"]
    return holdouts, artists


def write_submission(
    path: str | Path, lists: Mapping[int, Sequence[str]], team: str, email: str
) -> None:
    """Write ranked lists as a submission, atomically; gzipped if the name ends in ``.gz``.

    Raises:
        ValueError: as `check_submission` does, or if a URI has a comma or a line break.

    Example:
        >>> lists = {7: ["spotify:track:b"]}
        >>> write_submission("submission.csv", lists, team="us", email="us@example.com")
        >>> read_submission("submission.csv")
        {7: ['spotify:track:b']}
    """
    check_submission(path, team, email)
    for pid, tracks in lists.items():
        wrong = next((track for track in tracks if not _fits_a_field(track)), None)
        if wrong is not None:
            raise ValueError(f"playlist {pid}: a submission cannot hold the track URI {wrong!r}")
    lines = [f"team_info, {team}, {email}", ""]
    lines += [", ".join([str(pid), *tracks]) for pid, tracks in lists.items()]
    data = ("\n".join(lines) + "\n").encode()
    if Path(path).suffix.lower() == ".gz":
        data = gzip.compress(data, mtime=0)
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def check_submission(path: str | Path, team: str, email: str) -> None:
    """Raise a ValueError if the path, team or email of a submission is not allowed."""
    if not str(path).lower().endswith((".csv", ".csv.gz")):
        raise ValueError(f"{path}: the name of a submission must end in .csv or .csv.gz")
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; give the path of a file")
    for name, text in (("team", team), ("email", email)):
        if not text.strip() or not _fits_a_field(text):
            raise ValueError(
                f"{name} must be text without commas and line breaks, and not empty, got {text!r}"
            )


def _fits_a_field(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "," not in text and len(f"{text}.".splitlines()) == 1


def read_submission(path: str | Path) -> dict[int, list[str]]:
    """Read a submission: pid to ranked track URIs; comments and empty lines are skipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and value, if the first line is not team_info, or a pid is no
            number or occurs twice.

    Example:
        >>> from pathlib import Path
        >>> text = "team_info, us, us@example.com\\n7, spotify:track:b, spotify:track:c\\n"
        >>> written = Path("submission.csv").write_text(text)
        >>> read_submission("submission.csv")
        {7: ['spotify:track:b', 'spotify:track:c']}
    """
    lists: dict[int, list[str]] = {}
    team = False
    for number, fields in _lines(path):
        if not team:
            if fields[0] != "team_info" or len(fields) < 3:
                found = ", ".join(fields)[:80]
                raise ValueError(
                    f"{path}: line {number}: expected team_info, NAME, EMAIL before the lists, "
                    f"found {found!r}"
                )
            team = True
            continue
        if not (
            fields[0].isascii()
            and fields[0].isdecimal()
            and len(fields[0]) < 20
            and int(fields[0]) < 2**63
        ):
            raise ValueError(f"{path}: line {number}: {fields[0][:80]!r} is no pid")
        pid = int(fields[0])
        if pid in lists:
            raise ValueError(f"{path}: line {number}: pid {pid} occurs twice")
        lists[pid] = fields[1:]
    if not team:
        raise ValueError(f"{path}: is empty; a submission starts with team_info, NAME, EMAIL")
    return lists


def submission_problems(
    lists: Mapping[int, Sequence[str]], playlists: Sequence[ChallengePlaylist]
) -> list[str]:
    """Return the reasons why the challenge would refuse a submission, at most 20; [] for none.

    Each playlist of the set, and no other, must have a list of 500 distinct track URIs without its
    seeds.

    Example:
        >>> playlist = ChallengePlaylist(7, None, ("spotify:track:a",), (0,), 2)
        >>> submission_problems({}, [playlist])
        ['pid 7: no list']
    """
    wanted = {playlist.pid: playlist for playlist in playlists}
    problems = [f"pid {pid}: no list" for pid in wanted if pid not in lists]
    for pid, tracks in lists.items():
        playlist = wanted.get(pid)
        if playlist is None:
            problems.append(f"pid {pid}: not in the challenge set")
            continue
        distinct = set(tracks)
        told = distinct.intersection(playlist.seeds)
        wrong = next((track for track in tracks if not track.startswith(TRACK_URI)), None)
        if len(tracks) != LIST_LENGTH:
            problems.append(f"pid {pid}: {len(tracks)} tracks, not {LIST_LENGTH}")
        if len(distinct) < len(tracks):
            problems.append(f"pid {pid}: {len(tracks) - len(distinct)} tracks occur more than once")
        if told:
            problems.append(
                f"pid {pid}: {len(told)} tracks are seeds of the playlist, such as {min(told)}"
            )
        if wrong is not None:
            problems.append(f"pid {pid}: {wrong[:80]!r} is no track URI ({TRACK_URI}…)")
    if len(problems) > _MOST_PROBLEMS:
        problems = [*problems[:_MOST_PROBLEMS], f"and {len(problems) - _MOST_PROBLEMS} more"]
    return problems


def _lines(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and fields, without comments and empty lines."""
    data = Path(path).read_bytes()
    try:
        if Path(path).suffix.lower() == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not a readable text file ({error}); it may be truncated"
        ) from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [part.strip() for part in line.split(",")]


def _records(path: str | Path) -> list[dict[str, Any]]:
    document = read_json(path)
    records = document.get("playlists") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise ValueError(f'{path}: expected an object with a list of "playlists"')
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: playlist {place} is {record!r:.80}, expected an object")
    return records


def _checked(where: str, key: str, value: Any, kind: type) -> Any:
    """Return a field's value; raise a ValueError unless it has a type and is not negative."""
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
        names = {int: "a non-negative integer", str: "a string", list: "a list"}
        raise ValueError(f'{where}: "{key}" is {value!r:.80}, expected {names[kind]}')
    return value


def _uri(where: str, track: Any) -> str:
    uri = track.get("track_uri") if isinstance(track, dict) else None
    if not isinstance(uri, str) or not uri:
        raise ValueError(f'{where}: "track_uri" is {uri!r:.80}, expected a non-empty string')
    return uri
