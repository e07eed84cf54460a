"""One slice of the Million Playlist Dataset to compact arrays.

Worker processes import this file without the package around it: it uses the standard library,
orjson and `lightgcn.datasets.streams` only."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from lightgcn.datasets.streams import COMPRESSIONS, DAMAGED, archive_and_member, open_stream

COLUMNS = {
    "name": "track_name",
    "artist": "artist_name",
    "artist_id": "artist_uri",
    "album": "album_name",
    "album_id": "album_uri",
}
_Field = tuple[Callable[[Any], bool], str]  # whether a value is sound, and what one is
_PID: _Field = (lambda v: type(v) is int and 0 <= v < 2**63, "a non-negative integer below 2^63")
_LIST: _Field = (lambda v: isinstance(v, list), "a list")
_TEXT: _Field = (lambda v: v is None or isinstance(v, str), "a string")
_URI: _Field = (lambda v: isinstance(v, str) and v != "", "a string such as spotify:track:...")
PIECE = 120_000  # bytes of JSON whose objects fit a core's second-level cache
_OPENING = re.compile(rb'"playlists"\s*:\s*\[(\s*\n\s*)(?=\{)')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARK = -7_046_029_254_386_353_131


class Part(NamedTuple):
    """The content of a slice. Tracks have the numbers of the `Reader` that read it."""

    pids: array[int]  # int64, one per playlist
    lengths: array[int]  # int32, entries of each playlist
    codes: array[int]  # int32, the track of each entry
    titles: list[str]  # one per playlist
    uris: list[str]  # of tracks new to the reader, in order of first appearance
    columns: list[list[Any]]  # in the order of COLUMNS, one per new track; types unchecked
    problems: list[str]  # one line per playlist left out


class Reader:
    """Reads slices and numbers their tracks by first appearance; with ``skip_bad``, malformed
    playlists are left out and described."""

    def __init__(self, skip_bad: bool = False) -> None:
        self.skip_bad = skip_bad
        self.index: defaultdict[str, int] = defaultdict()
        self.index.default_factory = self.index.__len__

    def read(self, path: str | Path) -> Part:
        """Return the content of a slice.

        Raises:
            OSError: if the file cannot be read.
            ValueError: naming file, playlist, field and value, for a malformed slice or playlist.
        """
        with suppress(ValueError), _opened(path) as file:
            return self._part(_pieces(file))
        playlists = parse(path)  # Not indented, or malformed: parsed whole to find out where.
        with suppress(ValueError):
            return self._part([playlists])
        found = problems(playlists)
        if not self.skip_bad:
            raise ValueError(f"{path}: {next(iter(found.values()))}")
        good = [playlist for place, playlist in enumerate(playlists) if place not in found]
        return self._part([good])._replace(problems=list(found.values()))

    def _part(self, pieces: Iterable[list[Any]]) -> Part:
        """Collect playlists; a ValueError says that one is malformed, but not which."""
        part = Part(array("q"), array("i"), array("i"), [], [], [[] for _ in COLUMNS], [])
        known = len(self.index)
        try:
            for playlists in pieces:
                self._add(part, playlists)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            while len(self.index) > known:
                self.index.popitem()
            raise ValueError("malformed") from error
        return part

    def _add(self, part: Part, playlists: list[Any]) -> None:
        pids = list(map(itemgetter("pid"), playlists))
        lists = list(map(itemgetter("tracks"), playlists))
        titles = [playlist.get("name") for playlist in playlists]
        tracks = list(chain.from_iterable(lists))
        known = len(self.index)
        codes = list(map(self.index.__getitem__, map(itemgetter("track_uri"), tracks)))
        uris, *columns = _texts(_firsts(tracks, codes, known) if len(self.index) > known else [])
        # Only new URIs are checked: a bad one is new when it is first seen.
        sound = (
            set(map(type, pids)) <= {int}
            and min(pids, default=0) >= 0
            and set(map(type, lists)) <= {list}
            and set(map(type, titles)) <= {str, type(None)}
            and set(map(type, uris)) <= {str}
            and "" not in uris
            # All tracks, not only new ones: which are new depends on what was read before.
            and (not self.skip_bad or all(set(map(type, t)) <= {str} for t in _texts(tracks)))
        )
        if not sound:
            raise ValueError("malformed")
        part.pids.extend(pids)
        part.lengths.extend(map(len, lists))
        part.codes.extend(array("i", codes))
        part.titles.extend(title or "" for title in titles)
        part.uris.extend(uris)
        for column, values in zip(part.columns, columns, strict=True):
            column += values


def _firsts(tracks: list[Any], codes: list[int], known: int) -> list[Any]:
    """Return the tracks that have a number from ``known`` up for the first time."""
    firsts = []
    for place, code in enumerate(codes):
        if code == known:
            firsts.append(tracks[place])
            known += 1
    return firsts


def _texts(tracks: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the URIs and the columns of tracks; a missing or null text is ""."""
    keys = ("track_uri", *COLUMNS.values())
    try:
        rows = list(map(itemgetter(*keys), tracks))
    except KeyError:
        rows = [tuple(map(track.get, keys)) for track in tracks]
    columns = list(map(list, zip(*rows, strict=True))) or [[] for _ in keys]
    return [
        ["" if value is None else value for value in column] if None in column else column
        for column in columns
    ]


def _pieces(file: BinaryIO) -> Iterator[list[Any]]:
    """Yield the playlists of an indented slice, a few at a time; ValueError if it cannot be cut.

    Cuts are found by indentation. If all pieces parse as lists, and the text around them parses as
    a slice whose only playlist is a mark, then the whole is valid JSON and no cut is wrong."""
    text = file.read(PIECE).removeprefix(_BYTE_ORDER_MARK)
    opening = _OPENING.search(text)
    if opening is None:
        raise ValueError("not indented")
    head, text = text[: opening.end()], text[opening.end() :]
    closing = opening[1] + b"}"
    between = closing + b"," + opening[1] + b"{"
    while more := file.read(PIECE):
        text += more
        stop = text.rfind(between) + len(closing)
        if stop >= len(closing):
            playlists = orjson.loads(b"[%b]" % text[:stop])
            text = text[stop + 1 :]
            yield playlists
            playlists.clear()  # Before the next piece, so that it gets the same memory.
        elif len(text) > 8 * PIECE:
            raise ValueError("no cut for long")
    stop = text.rfind(closing) + len(closing)
    yield orjson.loads(b"[%b]" % text[:stop])
    frame = orjson.loads(b"%b%d%b" % (head, _MARK, text[stop:]))
    if not isinstance(frame, dict) or frame.get("playlists") != [_MARK]:
        raise ValueError("playlists are elsewhere")


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a slice; a ValueError names a compressed one that is damaged."""
    packed = str(path).lower().endswith(COMPRESSIONS) or archive_and_member(Path(path)) is not None
    try:
        with open_stream(path) as file:
            yield file
    except DAMAGED as error:
        if not packed or isinstance(error, PermissionError | FileNotFoundError):
            raise
        cut = "; it may be truncated" if isinstance(error, EOFError) else ""
        raise ValueError(f"{path}: not readable ({error}){cut}") from error


def parse(path: str | Path) -> list[Any]:
    """Return the playlists of a slice; a ValueError names the file and what it is instead."""
    with _opened(path) as file:
        data = file.read().removeprefix(_BYTE_ORDER_MARK)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or "unexpected end" in str(error)
        hint = "; the file may be truncated" if cut else ""
        raise ValueError(f"{path}: not valid JSON ({error}){hint}") from error
    if not isinstance(document, dict):
        raise ValueError(
            f"{path}: not an MPD slice: the top level is {_kind(document)}, expected an object "
            "with playlists"
        )
    playlists = document.get("playlists")
    if not isinstance(playlists, list):
        found = _kind(playlists) if "playlists" in document else f"only {list(document)[:5]}"
        raise ValueError(f'{path}: not an MPD slice: "playlists" must be a list, found {found}')
    return playlists


def problems(playlists: list[Any]) -> dict[int, str]:
    """Return what is wrong with playlists, by their places."""
    found = {place: _problem(place, playlist) for place, playlist in enumerate(playlists)}
    return {place: problem for place, problem in found.items() if problem is not None}


def _problem(place: int, playlist: Any) -> str | None:
    where = f"playlist {place}"
    problem = _wrong(where, playlist, {"pid": _PID})
    if problem is not None:
        return problem
    where += f" (pid {playlist['pid']})"
    problem = _wrong(where, playlist, {"tracks": _LIST, "name": _TEXT})
    if problem is not None:
        return problem
    fields = {"track_uri": _URI} | dict.fromkeys(COLUMNS.values(), _TEXT)
    found = (
        _wrong(f"{where}: track {position}", track, fields)
        for position, track in enumerate(playlist["tracks"])
    )
    return next((problem for problem in found if problem is not None), None)


def _wrong(where: str, record: Any, fields: dict[str, _Field]) -> str | None:
    """Describe the first field of a record that is malformed; None if all are sound."""
    if not isinstance(record, dict):
        return f"{where} is {_kind(record)}, expected an object with {next(iter(fields))}"
    for key, (sound, expected) in fields.items():
        if not sound(record.get(key)):
            found = repr(record[key])[:80] if key in record else "missing"
            return f'{where}: "{key}" is {found}, expected {expected}'
    return None


def _kind(value: object) -> str:
    names = {list: "a list", dict: "an object", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
