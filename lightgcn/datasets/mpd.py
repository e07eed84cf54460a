"""The Spotify Million Playlist Dataset: JSON slices to a `Dataset` of playlists (users) and tracks (items).

A slice is parsed whole by orjson, its tracks become integers through one dictionary, and everything else is dropped
before the next slice, so memory follows the number of edges and distinct tracks, not the 33 GB of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch

from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import with_progress
from lightgcn.datasets.slices import chosen_slices, read_ahead, slice_files
from lightgcn.interactions import Interactions

COLUMNS = {"name": "track_name", "artist": "artist_name", "artist_id": "artist_uri", "album": "album_name"}


def read_mpd(
    source: str | Path | Sequence[str | Path], *, slices: tuple[int, int] | None = None, progress: bool = False
) -> Dataset:
    """Read Million Playlist Dataset slices: playlists are users in file order, tracks items by first appearance.

    ``user_ids`` are the pids and ``item_ids`` the track URIs. A track repeated within a playlist is one edge, and a
    playlist without tracks is a user without edges; ``info`` counts both. Only ``pid``, ``tracks`` and each
    track's ``track_uri`` are required; a missing name is "".

    Args:
        source: a folder of slices, one file, or several files. Slices go by the first pid in their name, as a number.
        slices: ``(start, stop)`` positions in that order to read, half-open; all where left out.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if a path is not there.
        ValueError: naming file, playlist, field and value, for a file that is not an MPD slice, a playlist without an
            integer pid or with one seen before, a track without a URI, or ``slices`` out of range.
    """
    files = chosen_slices(slice_files(source), slices)
    builder = _Builder()
    for path, data in with_progress(read_ahead(files), progress, total=len(files), unit="slice"):
        builder.add(path, data)
    where = [str(path) for path in source] if not isinstance(source, str | Path) else str(source)
    return builder.finish({"format": "mpd", "source": where, "slices": len(files)})


class _Numbering(dict[str, int]):
    """A dictionary that gives an unknown key the next number, at the speed of a plain lookup for a known one."""

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self)
        return number


class _Builder:
    """Collects slices: flat integer arrays per slice, and the texts of each distinct track once."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.file_of: dict[int, int] = {}  # pid -> position in files; its order is the users' order
        self.titles: list[str] = []
        self.index = _Numbering()
        self.columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
        self.pool: dict[str, str] = {}  # one object per artist or album, not one per track
        self.degrees: list[npt.NDArray[np.int64]] = []
        self.items: list[npt.NDArray[np.int32]] = []
        self.entries = 0
        self.empty = 0

    def add(self, path: Path, data: bytes) -> None:
        playlists = _parse(path, data)
        known = len(self.index)
        try:
            pids = list(map(itemgetter("pid"), playlists))
            lists = list(map(itemgetter("tracks"), playlists))
            titles = [playlist.get("name") for playlist in playlists]
            tracks = list(chain.from_iterable(lists))
            uris = map(itemgetter("track_uri"), tracks)
            codes = np.fromiter(map(self.index.__getitem__, uris), np.int32, len(tracks))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {_problem(playlists)}") from error
        new = _first_places(codes, known)
        firsts = [tracks[place] for place in new.tolist()]
        # Only new URIs are looked at one by one: a bad one is new when it is first seen.
        sound = (
            set(map(type, pids)) <= {int}
            and (not pids or (min(pids) >= 0 and max(pids) < 2**63))
            and set(map(type, lists)) <= {list}
            and all(type(track["track_uri"]) is str and track["track_uri"] for track in firsts)
            and set(map(type, titles)) <= {str, type(None)}
        )
        if not sound or not self._add_texts(firsts):
            raise ValueError(f"{path}: {_problem(playlists)}")
        self._add_pids(path, pids)
        self.titles += [title or "" for title in titles]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        self._add_edges(lengths, codes)

    def _add_pids(self, path: Path, pids: list[int]) -> None:
        if len(set(pids)) != len(pids) or not self.file_of.keys().isdisjoint(pids):
            place_of: dict[int, int] = {}
            for place, pid in enumerate(pids):
                if pid in self.file_of or pid in place_of:
                    other = self.files[self.file_of[pid]] if pid in self.file_of else f"playlist {place_of[pid]} there"
                    raise ValueError(
                        f"{path}: playlist {place}: pid {pid} is also that of {other}; pids must be distinct; "
                        "a slice may be there twice, or playlists were renumbered slice by slice"
                    )
                place_of[pid] = place
        self.file_of.update(dict.fromkeys(pids, len(self.files)))
        self.files.append(path)

    def _add_texts(self, tracks: list[dict[str, Any]]) -> bool:
        """Add the texts of new tracks; tell whether all were strings or missing."""
        for name, key in COLUMNS.items():
            values = ["" if (value := track.get(key)) is None else value for track in tracks]
            if not set(map(type, values)) <= {str}:
                return False
            share = name != "name"
            self.columns[name] += [self.pool.setdefault(value, value) for value in values] if share else values
        return True

    def _add_edges(self, lengths: npt.NDArray[np.int64], codes: npt.NDArray[np.int32]) -> None:
        """Sort and merge the slice's pairs here, while they are few: the whole graph then needs no sort at all."""
        count = len(lengths)
        keys = np.repeat(np.arange(count, dtype=np.int64) << 32, lengths) | codes
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) != 0]
        self.degrees.append(np.bincount(keys >> 32, minlength=count))
        self.items.append((keys & 0xFFFF_FFFF).astype(np.int32))
        self.entries += len(codes)
        self.empty += int((lengths == 0).sum())

    def finish(self, info: dict[str, Any]) -> Dataset:
        num_users, num_items = len(self.titles), len(self.index)
        if num_users == 0:
            raise ValueError(f"{self.files[0]}: no playlist in {len(self.files)} file(s)")
        users = torch.repeat_interleave(torch.arange(num_users), torch.from_numpy(np.concatenate(self.degrees)))
        items = torch.from_numpy(np.concatenate(self.items))
        user_ids = np.fromiter(self.file_of, np.int64, num_users)
        item_ids = np.array(list(self.index), dtype=object)
        graph = Interactions(users, items, num_users, num_items, None, user_ids, item_ids)
        info |= {
            "playlists": num_users,
            "tracks": num_items,
            "entries": self.entries,
            "edges": graph.num_edges,
            "duplicate_entries": self.entries - graph.num_edges,
            "empty_playlists": self.empty,
        }
        return Dataset(graph, {"name": self.titles}, self.columns, None, info)


def _parse(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file may be truncated") from error
    if not isinstance(document, dict):
        raise ValueError(
            f"{path}: not an MPD slice: the top level is {_kind(document)}, expected an object with playlists"
        )
    if not isinstance(document.get("playlists"), list):
        found = _kind(document["playlists"]) if "playlists" in document else f"only {list(document)[:5]}"
        raise ValueError(f'{path}: not an MPD slice: "playlists" must be a list, found {found}')
    playlists: list[dict[str, Any]] = document["playlists"]
    return playlists


def _first_places(codes: npt.NDArray[np.int32], known: int) -> npt.NDArray[np.int64]:
    """Return where each number from ``known`` up stands first: numbers are given out in order of appearance."""
    places = np.flatnonzero(codes >= known)
    return places[np.unique(codes[places], return_index=True)[1]]


def _problem(playlists: list[Any]) -> str:
    """Say what is wrong with a slice; slow, and called only when something is."""
    for place, playlist in enumerate(playlists):
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
                return f'{at}: "track_uri" is {found}, expected a non-empty string such as "spotify:track:..."'
            for key in COLUMNS.values():
                if not isinstance(track.get(key), str | None):
                    return f'{at}: "{key}" is {_shown(track, key)}, expected a string'
    raise AssertionError("a slice was refused that has nothing wrong")


def _shown(record: dict[str, Any], key: str) -> str:
    return repr(record[key])[:80] if key in record else "missing"


def _kind(value: object) -> str:
    names = {list: "a list", dict: "an object", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")
