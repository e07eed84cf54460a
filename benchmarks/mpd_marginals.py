"""Slices with the marginals of the Million Playlist Dataset, written a few at a time, and read and
removed in turn.

    from benchmarks.mpd_marginals import streamed_slices

    with streamed_slices(folder, share=1.0) as slices:  # a million playlists, 33 GB of JSON in all
        dataset = read_mpd(slices)

Playlists' lengths and tracks' frequencies have the dataset's means, median and share of tracks in
one playlist (Chen et al., RecSys 2018), and every entry is dealt once, so that both are exact.
Tracks that are near in number go together: an entry's place among the playlists is its track's,
with noise. A process of its own writes, so that the reader's memory is the reader's alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightgcn.core.storage import write_atomic
from lightgcn.datasets.synthetic.generate import _Catalogue, _Json, _slice_json
from lightgcn.datasets.synthetic.tastes import LONGEST, Ints, World

PLAYLISTS, TRACKS, ENTRIES, ARTISTS = 1_000_000, 2_262_292, 66_346_428, 295_860
MEDIAN_LENGTH, SINGLE_SHARE, SHORTEST = 49, 0.47, 5
MOST_FREQUENT = 0.0466  # share of the playlists that hold the most popular track
SLICE_SIZE = 1000
NEAR, NOISE = 0.85, 0.02  # share of a track's entries that are near its place, and how near
SPREAD = 900  # a popular track is spread so wide that few playlists hold it twice


@dataclass(frozen=True)
class Dealt(World):
    """A world whose playlists are dealt: entry for entry, until none is left."""

    entries: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    starts: Ints = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # (playlists,) where each begins, as dealt
    lengths: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    dealt: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def deal(cls, share: float, rng: np.random.Generator) -> Dealt:
        """Draw a world of a share of the dataset's playlists, tracks and entries."""
        playlists, tracks, entries = (
            round(count * share) for count in (PLAYLISTS, TRACKS, ENTRIES)
        )
        frequencies = track_frequencies(tracks, entries, round(MOST_FREQUENT * playlists), rng)
        lengths = playlist_lengths(playlists, entries, rng)
        items = np.repeat(np.arange(tracks, dtype=np.int32), frequencies)
        place = (items / np.float32(tracks)).astype(np.float32)
        spread = np.maximum(NOISE, SPREAD * frequencies / entries).astype(np.float32)
        place += rng.standard_normal(entries, dtype=np.float32) * spread[items]
        place %= 1
        far = rng.random(entries, dtype=np.float32) >= NEAR
        place[far] = rng.random(int(far.sum()), dtype=np.float32)
        items = items[np.argsort(place)]
        order = rng.permutation(playlists)
        starts = (np.cumsum(lengths) - lengths)[order]
        # A new artist begins at each of so many tracks.
        begins = np.zeros(tracks, dtype=bool)
        begins[rng.choice(tracks, round(ARTISTS * share), replace=False)] = True
        begins[0] = True
        none = np.empty(0)
        artist, artist_start = np.cumsum(begins) - 1, np.append(np.flatnonzero(begins), tracks)
        tastes = np.linspace(1 / 48, 1, 48)
        return cls(artist, artist_start, none, none, tastes, items, starts, lengths[order])

    def playlists(
        self, count: int, mean: float, rng: np.random.Generator
    ) -> tuple[Ints, Ints, Ints]:
        """Return the next ``count`` playlists, as `World.playlists` does; ``mean`` is not looked
        at."""
        first = self.dealt[0]
        self.dealt[0] = last = first + count
        lengths = self.lengths[first:last]
        parts = [
            rng.permutation(self.entries[start : start + length])
            for start, length in zip(
                self.starts[first:last].tolist(), lengths.tolist(), strict=True
            )
        ]
        places = self.starts[first:last] / len(self.entries)
        tastes = np.repeat((places * len(self.tastes)).astype(np.int64)[:, None], 4, axis=1)
        return tastes, lengths, np.concatenate(parts).astype(np.int64)


def playlist_lengths(count: int, total: int, rng: np.random.Generator) -> Ints:
    """Return (count,) log-normal lengths of the dataset's median, between its least and its most,
    that sum to total."""
    noise = rng.standard_normal(count)

    def lengths(spread: float) -> Ints:
        drawn = np.rint(MEDIAN_LENGTH * np.exp(spread * noise))
        whole: Ints = np.clip(drawn, SHORTEST, LONGEST).astype(np.int64)
        return whole

    found = lengths(_solve(lambda spread: float(lengths(spread).sum()) - total, 0.1, 1.5))
    return _made_to_sum(found, total, SHORTEST, LONGEST, rng)


def track_frequencies(count: int, total: int, most: int, rng: np.random.Generator) -> Ints:
    """Return (count,) numbers of entries that sum to ``total``: a share of ones, then a power law
    up to ``most``."""
    values = np.arange(2, most + 1)

    def weights(exponent: float) -> npt.NDArray[np.float64]:
        found = values.astype(np.float64) ** -exponent
        shares: npt.NDArray[np.float64] = (1 - SINGLE_SHARE) * found / found.sum()
        return shares

    def missing(exponent: float) -> float:
        return total / count - SINGLE_SHARE - float(weights(exponent) @ values)

    share = weights(_solve(missing, 1.01, 4.0))
    # By quantiles, so that the tail is as long as it is to be, in random order.
    cumulative = np.concatenate([[SINGLE_SHARE], SINGLE_SHARE + np.cumsum(share)])
    points = (np.arange(count) + 0.5) / count
    found = np.searchsorted(cumulative, points, side="right") + 1
    found = np.minimum(found, most).astype(np.int64)
    return _made_to_sum(rng.permutation(found), total, 2, most, rng)


def _solve(rising: Any, low: float, high: float) -> float:
    """Return where a rising function is zero, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return low


def _made_to_sum(
    numbers: Ints, total: int, least: int, most: int, rng: np.random.Generator
) -> Ints:
    """Change as many numbers between ``least`` and ``most`` as it takes by one, to make them sum to
    ``total``."""
    while missing := total - int(numbers.sum()):
        step = 1 if missing > 0 else -1
        able = np.flatnonzero(
            (numbers + step >= max(least, 2)) & (numbers + step <= most) & (numbers >= least)
        )
        numbers[rng.permutation(able)[: abs(missing)]] += step
    return numbers


@contextmanager
def streamed_slices(
    folder: Path, share: float, *, window: int = 50, keep: int = 16, seed: int = 0
) -> Iterator[Any]:
    """Give an iterator of slices that are written ``window`` at a time; the last ``keep`` stay when
    others come.

    Its attribute ``seconds`` is how long it was waited for, ``bytes`` how much was written.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    writer = context.Process(target=_write, args=(there, folder, share, window, seed), daemon=True)
    writer.start()
    there.close()
    try:
        yield _Slices(here, keep)
    finally:
        writer.kill()
        writer.join()


class _Slices(Iterator[Path]):
    def __init__(self, pipe: Any, keep: int) -> None:
        self.pipe, self.keep = pipe, keep
        self.seconds, self.bytes = 0.0, 0
        self.given: list[Path] = []
        self.waiting: list[Path] = []
        # Ready to write: what is drawn before the first slice is nobody's waiting.
        assert self.pipe.recv() == "ready"

    def __next__(self) -> Path:
        if not self.waiting:
            began = time.monotonic()
            kept = max(len(self.given) - self.keep, 0)
            for old in self.given[:kept]:
                self.bytes += old.stat().st_size
                old.unlink()
            self.given = self.given[kept:]
            self.pipe.send("more")
            self.waiting = self.pipe.recv()
            self.seconds += time.monotonic() - began
            if not self.waiting:
                self.bytes += sum(path.stat().st_size for path in self.given)
                raise StopIteration
        self.given.append(self.waiting.pop(0))
        return self.given[-1]


def _write(pipe: Any, folder: Path, share: float, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = Dealt.deal(share, rng)
    catalogue = _Catalogue.draw(world, rng, _Json(True))
    pipe.send("ready")
    count = len(world.lengths)
    firsts = iter(range(0, count, SLICE_SIZE))
    while pipe.recv() == "more":
        written = []
        for _, first in zip(range(window), firsts):  # noqa: B905 - as many as are left
            size = min(SLICE_SIZE, count - first)
            path = folder / f"mpd.slice.{first}-{first + size - 1}.json"
            data = b"".join(
                _slice_json(
                    catalogue, rng, first, size, 0.0, "made up, with the dataset's marginals"
                )
            )
            write_atomic(path, partial(Path.write_bytes, data=data))
            written.append(path)
        pipe.send(written)
