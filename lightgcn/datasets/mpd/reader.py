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
    """Read slices of the Million Playlist Dataset.

    Playlists are users, in file order; tracks are items, by first appearance. ``user_ids`` are pids
    and ``item_ids`` track URIs. A track repeated within a playlist is one edge, and a playlist
    without tracks is a user without edges; ``info`` counts both. ``pid``, ``tracks`` and
    ``track_uri`` are required; a missing name is "".

    Args:
        source: a folder of slices, one file, or several files, read in the order of the first pid
            in their names. An iterator is read in its own order; its next file is taken while at
            most 2 × ``processes`` files are unread, so earlier ones can be removed meanwhile.
        slices: ``(start, stop)`` positions to read, half-open; None reads all. Not for iterators.
        processes: number of reading processes; the result does not depend on it. 1 starts none;
            None is one per available core and 50 MB of JSON, at most 8.
        order: keep each track's place in its playlist as `Interactions.order`; the first place, if
            the track is repeated.
        skip_bad: leave out malformed playlists; ``info["skipped_playlists"]`` counts them and
            ``info["skipped"]`` describes the first thousand. A malformed file is still an error.
        progress: show a progress bar on stderr if it is a terminal.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file is not an MPD slice, a playlist has no integer pid or a repeated one,
            a track has no URI, or a text is not a string, with file, playlist, field and value; or
            if ``slices`` or ``processes`` is out of range.
        ChildProcessError: if a reading process dies.

    Example:
        >>> import tempfile
        >>> from lightgcn.datasets import read_mpd, write_synthetic_mpd
        >>> folder = tempfile.mkdtemp()
        >>> _ = write_synthetic_mpd(folder, num_playlists=20, num_tracks=50, mean_length=5)
        >>> read_mpd(folder).interactions.num_users
        20
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
        for column, texts in zip(self.columns.values(), part.columns, strict=True):
            new = texts if all(fresh) else list(compress(texts, fresh))
            # Checked here, where it is known which file has a track first.
            if not set(map(type, new)) <= {str}:
                raise ValueError(f"{path}: {next(iter(problems(parse(path)).values()))}")
            column += new
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
                found[place] = (
                    f"pid {pid} is also that of playlist {place_of[pid]} of the same file"
                )
        return found

    def _add_edges(self, lengths: npt.NDArray[np.int32], codes: npt.NDArray[np.int32]) -> None:
        """Sort and merge the pairs of one slice; the whole graph then needs no sort."""
        count = len(lengths)
        keys = np.repeat(np.arange(count, dtype=np.int64) << 32, lengths) | codes
        if self.places is None:
            keys.sort()  # several times as fast as np.unique
            keys = keys[np.diff(keys, prepend=-1) != 0]
        else:
            keys, first = np.unique(keys, return_index=True)
            starts = np.cumsum(lengths, dtype=np.int64) - lengths
            self.places.append((first - starts[keys >> 32]).astype(np.int32))
        self.degrees.append(np.bincount(keys >> 32, minlength=count))
        self.items.append((keys & 0xFFFF_FFFF).astype(np.int32))
        self.entries += len(codes)
        self.empty += int((lengths == 0).sum())

    def finish(self, info: dict[str, Any]) -> Dataset:
        if not self.titles:
            skipped = f"; {self.skipped} were left out, such as {self.problems[:1]}"
            raise ValueError(
                f"{self.files[0]}: no playlist in {len(self.files)} file(s)"
                + (skipped if self.skipped else "")
            )
        users = np.repeat(np.arange(len(self.titles), dtype=np.int64), np.concatenate(self.degrees))
        items = np.concatenate(self.items)
        user_ids = np.fromiter(self.file_of, np.int64)
        item_ids = np.array(list(self.index), dtype=object)
        if self.skip_bad:  # Drop tracks that only repeated playlists hold.
            held = np.bincount(items, minlength=len(item_ids)) > 0
            items, item_ids = (held.cumsum() - 1)[items], item_ids[held]
            self.columns = {name: list(compress(c, held)) for name, c in self.columns.items()}
        graph = Interactions(
            torch.from_numpy(users),
            torch.from_numpy(items),
            len(user_ids),
            len(item_ids),
            user_ids=user_ids,
            item_ids=item_ids,
            order=None if self.places is None else torch.from_numpy(np.concatenate(self.places)),
        )
        info |= {
            "playlists": graph.num_users,
            "tracks": graph.num_items,
            "entries": self.entries,
            "edges": graph.num_edges,
            "duplicate_entries": self.entries - graph.num_edges,
            "empty_playlists": self.empty,
        }
        if self.skip_bad:
            info |= {"skipped_playlists": self.skipped, "skipped": self.problems}
        return Dataset(graph, {"name": self.titles}, self.columns, None, info)
