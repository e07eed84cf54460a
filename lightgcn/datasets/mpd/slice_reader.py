"""One slice of the Million Playlist Dataset to compact arrays: the part of reading that several
processes share.

A worker process imports this file alone, without the package and its seconds of imports: it may use
nothing but the standard library and orjson. `serve` is what a worker runs:

    request   b"<length>\n" and that many bytes of a path
    answer    a JSON line with five sizes, then the bytes of pids, lengths, codes, and the texts as
    JSON
              or a JSON line ["ValueError", message], ["OSError", number, text], ["MemoryError"]
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, count, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import orjson

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

COLUMNS = {
    "name": "track_name",
    "artist": "artist_name",
    "artist_id": "artist_uri",
    "album": "album_name",
}
OPENING = re.compile(rb'"playlists"\s*:\s*\[(\s*\n\s*)\{')
PIECE = 120_000  # bytes of JSON: what is made of them fits a core's second-level cache
MARK = -7_046_029_254_386_353_131


class Part(NamedTuple):
    """What is kept of a slice; tracks have the numbers of the `Reader` that read it."""

    pids: array[int]  # int64, one per playlist
    lengths: array[int]  # int32, entries of each playlist
    codes: array[int]  # int32, the track of each entry
    titles: list[str]  # one per playlist
    uris: list[str]  # of tracks that the reader had not seen before, in order of first appearance
    columns: list[
        list[Any]
    ]  # in the order of COLUMNS, one per new track; not yet known to be strings
    problems: list[str]  # what is wrong with the playlists that were left out

    @classmethod
    def empty(cls) -> Part:
        return cls(array("q"), array("i"), array("i"), [], [], [[] for _ in COLUMNS], [])


class _UnsoundError(ValueError):
    """A record is not what it must be; `problem` says which."""


class Reader:
    """Reads slices one after the other and numbers their tracks by first appearance."""

    def __init__(self, skip_bad: bool = False) -> None:
        self.index: defaultdict[str, int] = defaultdict(count().__next__)
        self.skip_bad = skip_bad

    def read(self, path: str | Path) -> Part:
        """Return what is kept of a slice.

        Raises:
            OSError: if the file cannot be read.
            ValueError: saying what is wrong with the slice, but not in which file.
        """
        known = len(self.index)
        with open(path, "rb", buffering=0) as file:
            try:
                return self._collect(_pieces(file))
            except ValueError:
                # Written by other hands, or wrong somewhere: parsed whole, it says which.
                self._forget(known)
            file.seek(0)
            data = file.read()
        try:
            return self._collect([parse(data)])
        except _UnsoundError:
            playlists = parse(data)
        if not self.skip_bad:
            raise ValueError(problem(playlists))
        self._forget(known)
        found = [playlist_problem(place, playlist) for place, playlist in enumerate(playlists)]
        part = self._collect(
            [[one for one, wrong in zip(playlists, found, strict=True) if wrong is None]]
        )
        return part._replace(problems=[wrong for wrong in found if wrong is not None])

    def _forget(self, known: int) -> None:
        """Take back the numbers of all tracks but the first so many."""
        for uri in list(islice(reversed(self.index), len(self.index) - known)):
            del self.index[uri]
        self.index.default_factory = count(known).__next__

    def _collect(self, pieces: Iterator[list[Any]] | list[list[Any]]) -> Part:
        part = Part.empty()
        try:
            for playlists in pieces:
                self._add(part, playlists)
                # Before the next piece is parsed, so that it gets the same memory, still in cache.
                playlists.clear()
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _UnsoundError from error
        return part

    def _add(self, part: Part, playlists: list[Any]) -> None:
        pids = list(map(itemgetter("pid"), playlists))
        lists = list(map(itemgetter("tracks"), playlists))
        titles = [playlist.get("name") for playlist in playlists]
        tracks = list(chain.from_iterable(lists))
        known = len(self.index)
        codes = list(map(self.index.__getitem__, map(itemgetter("track_uri"), tracks)))
        firsts = (
            list(map(tracks.__getitem__, _first_places(codes, known)))
            if len(self.index) > known
            else []
        )
        # Only new URIs are looked at one by one: a bad one is new when it is first seen.
        uris, *columns = _texts(firsts)
        sound = (
            set(map(type, pids)) <= {int}
            and min(pids, default=0) >= 0
            and set(map(type, lists)) <= {list}
            and set(map(type, titles)) <= {str, type(None)}
            and set(map(type, uris)) <= {str}
            and "" not in uris
            # All tracks, not only new ones: which are new depends on what this reader read before.
            and (
                not self.skip_bad
                or all(set(map(type, column)) <= {str} for column in _texts(tracks))
            )
        )
        if not sound:
            raise _UnsoundError
        for column, values in zip(part.columns, columns, strict=True):
            column += values
        part.pids.extend(pids)
        part.lengths.extend(map(len, lists))
        part.codes.extend(array("i", codes))
        part.titles.extend(title or "" for title in titles)
        part.uris.extend(uris)


def _first_places(codes: list[int], known: int) -> list[int]:
    """Return where each number from ``known`` up stands first: numbers are given out in order of
    appearance."""
    places = []
    for place, code in enumerate(codes):
        if code == known:
            places.append(place)
            known += 1
    return places


def _texts(tracks: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the URIs and the columns of tracks; what is missing or null is ""."""
    keys = ("track_uri", *COLUMNS.values())
    if not tracks:
        return [[] for _ in keys]
    try:
        rows = list(map(itemgetter(*keys), tracks))
    except KeyError:
        rows = [tuple(map(track.get, keys)) for track in tracks]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [
        ["" if value is None else value for value in column] if None in column else column
        for column in columns
    ]


def _pieces(file: FileIO) -> Iterator[list[Any]]:
    """Yield the playlists of an indented slice, a few at a time, or raise ValueError where it
    cannot be cut.

    A cut between playlists is found by its indentation. If all that lies between cuts parses as
    lists, and the rest with a mark in their place as a slice of that mark, then the whole is valid
    and these are its playlists: no cut can be wrong and go unseen."""
    buffer = bytearray(8 * PIECE)
    size = file.readinto(memoryview(buffer)[:PIECE])
    opening = OPENING.search(buffer, 0, size)
    if opening is None:
        raise ValueError("not indented")
    closing = opening[1] + b"}"
    between = closing + b"," + opening[1] + b"{"
    head = buffer[: opening.end() - 1]
    start = len(head) - 1  # where the bracket is that opens a list
    while got := file.readinto(memoryview(buffer)[size : size + PIECE]):
        size += got
        stop = buffer.rfind(between, start, size) + len(closing)
        if stop >= len(closing):
            buffer[start], buffer[stop] = b"[]"  # the comma
            yield orjson.loads(memoryview(buffer)[start : stop + 1])
            rest = buffer[stop:size]
            start, size = 0, len(rest)
            buffer[:size] = rest
        elif size + PIECE > len(buffer):
            raise ValueError("no cut for long")
    stop = buffer.rfind(closing, start, size) + len(closing)
    buffer[start] = ord("[")
    yield orjson.loads(bytes(buffer[start:stop]) + b"]")
    frame = orjson.loads(bytes(head) + b"%d" % MARK + buffer[stop:size])
    if not isinstance(frame, dict) or frame.get("playlists") != [MARK]:
        raise ValueError("playlists are elsewhere")


def parse(data: bytes) -> list[Any]:
    """Return the playlists of a slice; a ValueError says what it is instead."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); the file may be truncated") from error
    if not isinstance(document, dict):
        raise ValueError(
            f"not an MPD slice: the top level is {_kind(document)}, expected an object with "
            "playlists"
        )
    if not isinstance(document.get("playlists"), list):
        found = (
            _kind(document["playlists"])
            if "playlists" in document
            else f"only {list(document)[:5]}"
        )
        raise ValueError(f'not an MPD slice: "playlists" must be a list, found {found}')
    playlists: list[Any] = document["playlists"]
    return playlists


def problem(playlists: list[Any]) -> str:
    """Say what is wrong with a slice; slow, and called only when something is."""
    for place, playlist in enumerate(playlists):
        found = playlist_problem(place, playlist)
        if found is not None:
            return found
    raise AssertionError("a slice was refused that has nothing wrong")


def playlist_problem(place: int, playlist: Any) -> str | None:
    """Say what is wrong with a playlist, None for nothing."""
    if not isinstance(playlist, dict):
        return f"playlist {place} is {_kind(playlist)}, expected an object with pid and tracks"
    pid, where = playlist.get("pid"), f"playlist {place}"
    if type(pid) is not int or not 0 <= pid < 2**63:
        return f'{where}: "pid" is {_shown(playlist, "pid")}, expected a non-negative integer'
    where += f" (pid {pid})"
    if type(playlist.get("tracks")) is not list:
        return f'{where}: "tracks" is {_shown(playlist, "tracks")}, expected a list'
    if not isinstance(playlist.get("name"), str | None):
        return f'{where}: "name" is {_shown(playlist, "name")}, expected a string'
    for position, track in enumerate(playlist["tracks"]):
        at = f"{where}: track {position}"
        if not isinstance(track, dict):
            return f"{at} is {_kind(track)}, expected an object with track_uri"
        if not isinstance(track.get("track_uri"), str) or not track["track_uri"]:
            found = _shown(track, "track_uri")
            return (
                f'{at}: "track_uri" is {found}, expected a non-empty string such as '
                '"spotify:track:..."'
            )
        for key in COLUMNS.values():
            if not isinstance(track.get(key), str | None):
                return f'{at}: "{key}" is {_shown(track, key)}, expected a string'
    return None


def _shown(record: dict[str, Any], key: str) -> str:
    return repr(record[key])[:80] if key in record else "missing"


def _kind(value: object) -> str:
    names = {
        list: "a list",
        dict: "an object",
        str: "a string",
        type(None): "null",
        bool: "a boolean",
    }
    return names.get(type(value), "a number")


def serve(skip_bad: bool) -> None:
    """Answer requests on standard input until it ends, as the process that sends them does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # nothing here makes cycles
    requests, answers, reader = sys.stdin.buffer, sys.stdout.buffer, Reader(skip_bad)
    try:
        while line := requests.readline():
            answers.writelines(_answer(reader, os.fsdecode(requests.read(int(line)))))
            answers.flush()
    except BrokenPipeError:
        os._exit(1)


def _answer(reader: Reader, path: str) -> list[bytes]:
    try:
        return pack(reader.read(path))
    except OSError as error:
        reply: list[Any] = ["OSError", error.errno, error.strerror]
    except ValueError as error:
        reply = ["ValueError", str(error)]
    except MemoryError:
        reply = ["MemoryError"]
    return [orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)]


def pack(part: Part) -> list[bytes]:
    """Return a part as the pieces of an answer."""
    texts = orjson.dumps([part.titles, part.uris, part.problems, *part.columns])
    blobs = [part.pids.tobytes(), part.lengths.tobytes(), part.codes.tobytes(), texts]
    return [orjson.dumps(list(map(len, blobs)), option=orjson.OPT_APPEND_NEWLINE), *blobs]


def unpack(stream: BinaryIO) -> Part:
    """Return the next part of a worker's answers.

    Raises:
        EOFError: if the answers end here.
        OSError, ValueError, MemoryError: what the worker met.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the answers end")
    kind, *values = orjson.loads(line)
    if not isinstance(kind, int):
        raise {"OSError": OSError, "ValueError": ValueError, "MemoryError": MemoryError}[kind](
            *values
        )
    blobs = [stream.read(size) for size in (kind, *values)]
    if list(map(len, blobs)) != [kind, *values]:
        raise EOFError("an answer is cut short")
    titles, uris, problems, *columns = orjson.loads(blobs[3])
    return Part(
        array("q", blobs[0]),
        array("i", blobs[1]),
        array("i", blobs[2]),
        titles,
        uris,
        columns,
        problems,
    )
