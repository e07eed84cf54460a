"""The Spotify Million Playlist Dataset: JSON slices to a `Dataset` of playlists (users) and tracks
(items).

`slice_reader` turns a slice into arrays, in several processes side by side (`workers`); here they
are merged in the order of the files. Memory follows the number of edges and distinct tracks, not
the 33 GB of JSON."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import existing_file, with_progress
from lightgcn.datasets.mpd.slice_reader import COLUMNS, Part, Reader, parse, problems
from lightgcn.datasets.mpd.slices import chosen_slices, slice_files
from lightgcn.datasets.mpd.workers import parts_by_workers, process_count
from lightgcn.graph.interactions import Interactions

_LISTED = 1000  # playlists left out whose problems are kept


def read_mpd(
    source: str | Path | Sequence[str | Path] | Iterator[str | Path],
    *,
    slices: tuple[int, int] | None = None,
    processes: int | None = None,
    order: bool = False,
    skip_bad: bool = False,
    progress: bool = False,
) -> Dataset:
    """Read Million Playlist Dataset slices: playlists are users in file order, tracks items by
    first appearance.

    ``user_ids`` are the pids and ``item_ids`` the track URIs. A track repeated within a playlist is
    one edge, and a playlist without tracks is a user without edges; ``info`` counts both. Only
    ``pid``, ``tracks`` and each track's ``track_uri`` are required; a missing name is "".

    Args:
        source: a folder of slices, one file, or several files. Slices go by the first pid in their
            name, as a number. An iterator gives files one by one, read in its order, so that slices
            need not lie on the disk together: it is asked for the next one while at most 2 ×
            ``processes`` of those that it gave are still to be read.
        slices: ``(start, stop)`` positions in that order to read, half-open; all where left out.
            Not of an iterator.
        processes: how many read slices side by side, not more than there are files; the result is
            the same. 1 starts none. None is one per core that this process may use and 16 MB of
            JSON, and 8 at most.
        order: whether to keep each track's place in its playlist (`Interactions.order`; the first,
            of a repeated one).
        skip_bad: whether to leave out playlists that are not what they must be, in place of an
            error; ``info`` then has how many ("skipped_playlists") and says what is wrong with the
            first thousand ("skipped"). A file that is no slice is an error in any case.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if a path is not there.
        ValueError: naming file, playlist, field and value, for a file that is not an MPD slice, a
            playlist without an integer pid or with one seen before, a track without a URI, or
            ``slices`` or ``processes`` out of range.
        ChildProcessError: if a process that reads slices dies.
    """
    files: Iterable[Path]
    if isinstance(source, Iterator):
        if slices is not None:
            raise ValueError(
                f"slices are positions in a list, and source is an iterator, got {slices!r}"
            )
        files, total = map(existing_file, source), None
    else:
        files = chosen_slices(slice_files(source), slices)
        total = len(files)
    count, reader = process_count(files, processes), Reader(skip_bad)
    parts = (
        parts_by_workers(files, count, skip_bad)
        if count > 1
        else ((path, 0, reader.read(path)) for path in files)
    )
    builder = _Builder(reader.index, order, skip_bad)
    with closing(parts):
        for path, worker, part in with_progress(parts, progress, total=total, unit="slice"):
            builder.add(path, worker, part)
    if not builder.files:
        raise ValueError("source: no file given; the iterator has none")
    listed = str(source) if isinstance(source, str | Path) else list(map(str, builder.files))
    return builder.finish({"format": "mpd", "source": listed, "slices": len(builder.files)})


class _Builder:
    """Merges parts in the order of their files: flat integer arrays, and the texts of each distinct
    track once.

    ``index`` numbers the tracks of all; ``tables`` has these numbers by those of each process. A
    reader in this process shares ``index``, so that its table changes nothing."""

    def __init__(self, index: dict[str, int], order: bool, skip_bad: bool) -> None:
        self.index = index
        self.skip_bad = skip_bad
        self.tables: defaultdict[int, array[int]] = defaultdict(lambda: array("i"))
        self.problems: list[str] = []
        self.skipped = 0
        self.files: list[Path] = []
        self.file_of: dict[int, int] = {}  # pid -> position in files; its order is the users' order
        self.titles: list[str] = []
        self.columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
        self.pool: dict[str, str] = {}  # one object per artist or album, not one per track
        self.degrees: list[npt.NDArray[np.int64]] = []
        self.items: list[npt.NDArray[np.int32]] = []
        self.places: list[npt.NDArray[np.int32]] | None = [] if order else None
        self.entries = 0
        self.empty = 0

    def add(self, path: Path, worker: int, part: Part) -> None:
        table, known = self.tables[worker], len(self.columns["name"])
        numbers = list(map(self.index.__getitem__, part.uris))
        table.extend(numbers)
        fresh = [number >= known for number in numbers]
        for (name, column), texts in zip(self.columns.items(), part.columns, strict=True):
            new = texts if all(fresh) else list(compress(texts, fresh))
            # Here, not where it was read: only here is known which file has a track first.
            if not set(map(type, new)) <= {str}:
                raise ValueError(f"{path}: {next(iter(problems(parse(path)).values()))}")
            column += new if name == "name" else map(self.pool.setdefault, new, new)
        codes = np.frombuffer(table, np.int32)[np.frombuffer(part.codes, np.int32)]
        lengths = np.frombuffer(part.lengths, np.int32)
        repeated = self._repeated(part.pids)
        kept = [place not in repeated for place in range(len(lengths))]
        if repeated:
            place, problem = next(iter(repeated.items()))
            if not self.skip_bad:
                raise ValueError(
                    f"{path}: playlist {place}: {problem}; pids must be distinct; a slice may be "
                    "there twice, or playlists were renumbered slice by slice"
                )
            codes, lengths = codes[np.repeat(kept, lengths)], lengths[kept]
        found = [*part.problems, *repeated.values()]
        self.skipped += len(found)
        self.problems += [f"{path}: {one}" for one in found[: _LISTED - len(self.problems)]]
        self.file_of.update(dict.fromkeys(compress(part.pids, kept), len(self.files)))
        self.files.append(path)
        self.titles += compress(part.titles, kept)
        self._add_edges(lengths, codes)

    def _repeated(self, pids: Iterable[int]) -> dict[int, str]:
        """Return the places of playlists whose pid an earlier one has, and which one that is."""
        found: dict[int, str] = {}
        place_of: dict[int, int] = {}
        for place, pid in enumerate(pids):
            if pid in self.file_of:
                found[place] = f"pid {pid} is also that of {self.files[self.file_of[pid]]}"
            elif place_of.setdefault(pid, place) != place:
                found[place] = f"pid {pid} is also that of playlist {place_of[pid]} there"
        return found

    def _add_edges(self, lengths: npt.NDArray[np.int32], codes: npt.NDArray[np.int32]) -> None:
        """Sort and merge the slice's pairs here, while they are few: the whole graph then needs no
        sort at all."""
        count = len(lengths)
        keys = np.repeat(np.arange(count, dtype=np.int64) << 32, lengths) | codes
        if self.places is None:
            keys.sort()
            keys = keys[np.diff(keys, prepend=-1) != 0]
        else:
            by_key = np.argsort(keys, kind="stable")
            keys = keys[by_key]
            first = np.diff(keys, prepend=-1) != 0
            keys = keys[first]
            starts = np.cumsum(lengths, dtype=np.int64) - lengths
            self.places.append((by_key[first] - starts[keys >> 32]).astype(np.int32))
        self.degrees.append(np.bincount(keys >> 32, minlength=count))
        self.items.append((keys & 0xFFFF_FFFF).astype(np.int32))
        self.entries += len(codes)
        self.empty += int((lengths == 0).sum())

    def finish(self, info: dict[str, Any]) -> Dataset:
        num_users, num_items = len(self.titles), len(self.index)
        if num_users == 0:
            left_out = (
                f"; {self.skipped} were left out, such as {self.problems[0]}"
                if self.problems
                else ""
            )
            raise ValueError(f"{self.files[0]}: no playlist in {len(self.files)} file(s){left_out}")
        users = torch.repeat_interleave(
            torch.arange(num_users), torch.from_numpy(np.concatenate(self.degrees))
        )
        items = torch.from_numpy(np.concatenate(self.items))
        user_ids = np.fromiter(self.file_of, np.int64, num_users)
        item_ids = np.array(list(self.index), dtype=object)
        if self.skip_bad:  # nothing is kept of tracks that only repeated playlists hold
            held = torch.bincount(items, minlength=num_items) > 0
            if not held.all():
                items, num_items = (held.cumsum(0) - 1)[items.long()], int(held.sum())
                item_ids = item_ids[held.numpy()]
                self.columns = {
                    name: list(compress(texts, held)) for name, texts in self.columns.items()
                }
        order = None if self.places is None else torch.from_numpy(np.concatenate(self.places))
        graph = Interactions(users, items, num_users, num_items, None, user_ids, item_ids, order)
        info |= {
            "playlists": num_users,
            "tracks": num_items,
            "entries": self.entries,
            "edges": graph.num_edges,
            "duplicate_entries": self.entries - graph.num_edges,
            "empty_playlists": self.empty,
        }
        if self.skip_bad:
            info |= {"skipped_playlists": self.skipped, "skipped": self.problems}
        return Dataset(graph, {"name": self.titles}, self.columns, None, info)
