"""The Spotify Million Playlist Dataset: JSON slices to a `Dataset` of playlists (users) and tracks
(items).

A slice is parsed by orjson in pieces, its tracks become integers through one dictionary, and
everything else is dropped at once, so memory follows the number of edges and distinct tracks, not
the 33 GB of JSON. Several processes read slices side by side (`workers`); this one merges what they
give in the order of the files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import existing_file, with_progress
from lightgcn.datasets.mpd.slice_reader import COLUMNS, Part, Reader, parse, problem
from lightgcn.datasets.mpd.slices import chosen_slices, slice_files
from lightgcn.datasets.mpd.workers import parts_by_workers, process_count
from lightgcn.graph.interactions import Interactions

# Playlists that were left out of which it is said what is wrong with them.
_LISTED = 1000


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

    Example:
        >>> from lightgcn.datasets import write_synthetic_mpd
        >>> files = write_synthetic_mpd("slices", num_playlists=20, num_tracks=40, mean_length=5)
        >>> dataset = read_mpd("slices")
        >>> dataset.interactions.num_users, list(dataset.items)
        (20, ['name', 'artist', 'artist_id', 'album'])
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
    with _parts(files, process_count(files, processes), order, skip_bad) as (builder, parts):
        for path, worker, part in with_progress(parts, progress, total=total, unit="slice"):
            builder.add(path, worker, part)
    if not builder.files:
        raise ValueError("source: no file given; the iterator has none")
    listed = str(source) if isinstance(source, str | Path) else list(map(str, builder.files))
    return builder.finish({"format": "mpd", "source": listed, "slices": len(builder.files)})


@contextmanager
def _parts(
    files: Iterable[Path], processes: int, order: bool, skip_bad: bool
) -> Iterator[tuple[_Builder, Iterator[tuple[Path, int, Part]]]]:
    if processes > 1:
        with parts_by_workers(files, processes, skip_bad) as parts:
            yield _Builder(Reader().index, processes, order, skip_bad), parts
    else:
        reader = Reader(skip_bad)
        yield _Builder(reader.index, 0, order, skip_bad), _parts_here(files, reader)


def _parts_here(files: Iterable[Path], reader: Reader) -> Iterator[tuple[Path, int, Part]]:
    for path in files:
        try:
            part = reader.read(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        yield path, 0, part


class _Builder:
    """Merges parts in the order of their files: flat integer arrays, and the texts of each distinct
    track once.

    ``index`` numbers the tracks of all. Where processes read, each has numbers of its own:
    ``tables`` turns them into those. The reader of this process uses ``index`` itself."""

    def __init__(self, index: dict[str, int], processes: int, order: bool, skip_bad: bool) -> None:
        self.index = index
        self.skip_bad = skip_bad
        self.skipped = 0
        self.problems: list[str] = []
        self.tables = [array("i") for _ in range(processes)]
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
        if self.skip_bad:
            part = self._without_repeats(part)
            self.skipped += len(part.problems)
            self.problems += [
                f"{path}: {problem}" for problem in part.problems[: _LISTED - len(self.problems)]
            ]
        codes, columns = np.frombuffer(part.codes, np.int32), part.columns
        if self.tables:
            codes, columns = self._renumbered(self.tables[worker], part)
        # Here, not where it was read: which file has a track first is known here alone.
        if not all(set(map(type, values)) <= {str} for values in columns):
            raise ValueError(f"{path}: {problem(parse(path.read_bytes()))}")
        self._add_pids(path, part.pids.tolist())
        self.titles += part.titles
        for name, values in zip(COLUMNS, columns, strict=True):
            share = name != "name"
            self.columns[name] += map(self.pool.setdefault, values, values) if share else values
        self._add_edges(np.frombuffer(part.lengths, np.int32), codes)

    def _renumbered(
        self, table: array[int], part: Part
    ) -> tuple[npt.NDArray[np.int32], list[list[str]]]:
        """Return the codes in the numbers of all, and the texts of the tracks that no earlier file
        has."""
        known = len(self.index)
        numbers = list(map(self.index.__getitem__, part.uris))
        table.extend(numbers)
        fresh = [place for place, number in enumerate(numbers) if number >= known]
        columns = part.columns
        if len(fresh) < len(numbers):
            columns = [list(map(column.__getitem__, fresh)) for column in columns]
        return np.frombuffer(table, np.int32)[np.frombuffer(part.codes, np.int32)], columns

    def _without_repeats(self, part: Part) -> Part:
        """Leave out playlists whose pid was there before, in this file or another."""
        fresh: list[bool] = []
        seen: set[int] = set()
        for pid in part.pids:
            fresh.append(pid not in seen and pid not in self.file_of)
            seen.add(pid)
        if all(fresh):
            return part
        kept = np.array(fresh)
        lengths, codes = np.frombuffer(part.lengths, np.int32), np.frombuffer(part.codes, np.int32)
        repeated = [
            f"pid {pid} is there again"
            + (f", after {self.files[self.file_of[pid]]}" if pid in self.file_of else "")
            for pid, first in zip(part.pids, fresh, strict=True)
            if not first
        ]
        return part._replace(
            pids=array("q", np.frombuffer(part.pids, np.int64)[kept].tobytes()),
            lengths=array("i", lengths[kept].tobytes()),
            codes=array("i", codes[np.repeat(kept, lengths)].tobytes()),
            titles=[title for title, first in zip(part.titles, fresh, strict=True) if first],
            problems=[*part.problems, *repeated],
        )

    def _add_pids(self, path: Path, pids: list[int]) -> None:
        if len(set(pids)) != len(pids) or not self.file_of.keys().isdisjoint(pids):
            place_of: dict[int, int] = {}
            for place, pid in enumerate(pids):
                if pid in self.file_of or pid in place_of:
                    other = (
                        self.files[self.file_of[pid]]
                        if pid in self.file_of
                        else f"playlist {place_of[pid]} there"
                    )
                    raise ValueError(
                        f"{path}: playlist {place}: pid {pid} is also that of {other}; pids must "
                        "be distinct; "
                        "a slice may be there twice, or playlists were renumbered slice by slice"
                    )
                place_of[pid] = place
        self.file_of.update(dict.fromkeys(pids, len(self.files)))
        self.files.append(path)

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
            torch.arange(num_users, dtype=torch.int64, device="cpu"),
            torch.from_numpy(np.concatenate(self.degrees)),
        )
        items = torch.from_numpy(np.concatenate(self.items))
        user_ids = np.fromiter(self.file_of, np.int64, num_users)
        item_ids = np.array(list(self.index), dtype=object)
        if self.skip_bad:  # of tracks that only playlists hold that were left out nothing is kept
            held = torch.bincount(items, minlength=num_items) > 0
            kept = held.nonzero().flatten().tolist()
            if len(kept) < num_items:
                items, num_items = (held.cumsum(0) - 1)[items.long()], len(kept)
                item_ids = item_ids[kept]
                self.columns = {
                    name: [texts[place] for place in kept] for name, texts in self.columns.items()
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
