"""Synthetic data with planted tastes, which a model can learn and a popularity baseline cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import orjson
import torch

from lightgcn.core.checks import checked_count
from lightgcn.core.seeding import seed_from
from lightgcn.core.storage import write_atomic
from lightgcn.datasets.files import with_progress
from lightgcn.datasets.synthetic.names import artist_names, genre_names, playlist_title, work_titles
from lightgcn.datasets.synthetic.tastes import LONGEST, Ints, World
from lightgcn.graph.interactions import Interactions

BASE62 = np.frombuffer(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", dtype="S1"
)


def synthetic_interactions(
    num_users: int, num_items: int, num_edges: int, *, seed: int = 0, num_tastes: int = 50
) -> Interactions:
    """Return a graph of ``num_edges`` distinct edges with planted tastes and power-law popularity.

    Raises:
        ValueError: if a count is not positive, or there are fewer than ``num_edges`` pairs.

    Example:
        >>> synthetic_interactions(100, 50, 1000)
        Interactions(100 users, 50 items, 1000 edges)
    """
    counts = {
        "num_users": num_users,
        "num_items": num_items,
        "num_edges": num_edges,
        "num_tastes": num_tastes,
    }
    for name, count in counts.items():
        checked_count(name, count, 1)
    pairs = num_users * num_items
    if num_edges > pairs:
        raise ValueError(
            f"num_edges={num_edges} is more than the {num_users} x {num_items} = {pairs} pairs"
        )
    rng = np.random.default_rng(np.random.SeedSequence((seed_from(seed), 0)))
    world = World.draw(num_items, num_tastes, rng)
    tastes = world.user_tastes(num_users, rng)
    activity = np.cumsum(rng.lognormal(0.0, 0.8, num_users))
    keys = np.empty(0, np.int64)
    # Rounds of the planted draw; edges still missing (in a nearly complete graph) are drawn
    # uniformly below.
    for _ in range(8):
        missing = num_edges - len(keys)
        if missing == 0:
            break
        draws = int(missing * 1.2) + 16
        users = np.minimum(
            np.searchsorted(activity, rng.random(draws) * activity[-1], side="right"), num_users - 1
        )
        keys = _union(keys, users * num_items + world.items_for(users, tastes, rng), num_edges, rng)
    while len(keys) < num_edges:
        if 2 * num_edges > pairs:
            others = np.setdiff1d(np.arange(pairs), keys, assume_unique=True)
        else:
            others = rng.integers(pairs, size=2 * (num_edges - len(keys)) + 16)
        keys = _union(keys, others, num_edges, rng)
    users, items = torch.from_numpy(keys // num_items), torch.from_numpy(keys % num_items)
    return Interactions(users, items, num_users, num_items)


def write_synthetic_mpd(
    folder: str | Path,
    *,
    num_playlists: int = 10_000,
    num_tracks: int = 20_000,
    mean_length: float = 45.0,
    slice_size: int = 1000,
    seed: int = 0,
    indent: bool = True,
    progress: bool = False,
) -> list[Path]:
    """Write playlists with planted tastes as Million Playlist Dataset slices.

    The slices have all fields of the official format. Names are made up, titles are related to the
    tastes of their playlists, and some playlists hold a track twice. The files depend on the
    arguments alone.

    Args:
        folder: the folder of ``mpd.slice.FIRST-LAST.json``; created if missing.
        num_playlists: playlists over all slices, with pids from zero.
        num_tracks: tracks to draw from; the rarest may end up in no playlist.
        mean_length: mean number of tracks in a playlist, up to 200 (lengths are log-normal, and at
            most 376).
        slice_size: playlists in a slice.
        seed: of all random choices.
        indent: indent by 4, as the original; otherwise write compact JSON.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The files, in order.

    Raises:
        ValueError: if a count is not positive, or ``mean_length`` is not in [1, 200].

    Example:
        >>> files = write_synthetic_mpd("slices", num_playlists=20, num_tracks=40, mean_length=5)
        >>> [file.name for file in files]
        ['mpd.slice.0-19.json']
    """
    for name, count in {
        "num_playlists": num_playlists,
        "num_tracks": num_tracks,
        "slice_size": slice_size,
    }.items():
        checked_count(name, count, 1)
    if not 1 <= mean_length <= 200:
        raise ValueError(f"mean_length must be in [1, 200], got {mean_length}")
    folder = Path(folder)
    rng = np.random.default_rng(np.random.SeedSequence((seed_from(seed), 1)))
    catalogue = _Catalogue.draw(World.draw(num_tracks, 48, rng), rng, _Json(indent))
    written = []
    firsts = range(0, num_playlists, slice_size)
    for first in with_progress(firsts, progress, total=len(firsts), unit="slice"):
        count = min(slice_size, num_playlists - first)
        # A generator per slice: memory does not grow with the number of playlists.
        rng = np.random.default_rng(np.random.SeedSequence((seed_from(seed), 2, first)))
        parts = _slice_json(catalogue, rng, first, count, mean_length, f"synthetic, seed {seed}")
        path = folder / f"mpd.slice.{first}-{first + count - 1}.json"
        write_atomic(path, partial(Path.write_bytes, data=b"".join(parts)))
        written.append(path)
    return written


class _Json:
    """Pieces of JSON text, indented by 4 or compact."""

    def __init__(self, indent: bool) -> None:
        self.colon = b": " if indent else b":"
        self.indent = indent

    def line(self, depth: int) -> bytes:
        return b"\n" + b"    " * depth if self.indent else b""

    def fields(self, depth: int, **values: object) -> bytes:
        """Return the fields of an object, without its braces; bytes are JSON already."""
        texts = (
            (key, value if isinstance(value, bytes) else orjson.dumps(value))
            for key, value in values.items()
        )
        return b",".join(
            self.line(depth) + b'"%b"%b%b' % (key.encode(), self.colon, text) for key, text in texts
        )


@dataclass(frozen=True)
class _Catalogue:
    world: World
    json: _Json
    genres: list[str]
    album: Ints  # (num_tracks,)
    duration: Ints  # (num_tracks,) milliseconds
    heads: list[bytes]  # what comes before a track at each position of a playlist
    tails: list[bytes]  # the rest of each track: only its position is missing

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator, json: _Json) -> _Catalogue:
        count = len(world.artist)
        new_album = (np.diff(world.artist, prepend=-1) != 0) | (rng.random(count) < 1 / 5)
        album = np.cumsum(new_album) - 1
        duration = np.clip(np.rint(rng.normal(220_000, 45_000, count)), 30_000, None).astype(
            np.int64
        )
        artists = list(map(orjson.dumps, artist_names(int(world.artist[-1]) + 1, rng)))
        albums = list(map(orjson.dumps, work_titles(int(album[-1]) + 1, rng)))
        artist_uris, album_uris = (
            _uris("artist", len(artists), rng),
            _uris("album", len(albums), rng),
        )
        rows = zip(
            world.artist.tolist(),
            album.tolist(),
            duration.tolist(),
            work_titles(count, rng),
            _uris("track", count, rng),
            strict=True,
        )
        tails = [
            b","
            + json.fields(
                5,
                artist_name=artists[artist],
                track_uri=uri,
                artist_uri=artist_uris[artist],
                track_name=title,
                album_uri=album_uris[disc],
                duration_ms=length,
                album_name=albums[disc],
            )
            + json.line(4)
            + b"}"
            for artist, disc, length, title, uri in rows
        ]
        heads = [
            b"," * (pos > 0) + json.line(4) + b"{" + json.fields(5, pos=pos)
            for pos in range(LONGEST)
        ]
        return cls(world, json, genre_names(len(world.tastes)), album, duration, heads, tails)


def _uris(kind: str, count: int, rng: np.random.Generator) -> list[bytes]:
    """Return ``"spotify:kind:<22 base-62 digits>"`` as JSON; 131 random bits do not collide."""
    digits = np.ascontiguousarray(BASE62[rng.integers(62, size=(count, 22))]).view("S22").ravel()
    return [b'"spotify:%b:%b"' % (kind.encode(), text) for text in digits.tolist()]


def _slice_json(
    catalogue: _Catalogue,
    rng: np.random.Generator,
    first: int,
    count: int,
    mean: float,
    generated_on: str,
) -> Iterator[bytes]:
    json = catalogue.json
    tastes, lengths, items = catalogue.world.playlists(count, mean, rng)
    owners = np.repeat(np.arange(count), lengths)
    columns = zip(
        tastes[:, 0].tolist(),
        rng.integers(1000, size=count).tolist(),
        lengths.tolist(),
        _distinct(owners, catalogue.album[items], count),
        _distinct(owners, catalogue.world.artist[items], count),
        np.bincount(owners, weights=catalogue.duration[items], minlength=count)
        .astype(np.int64)
        .tolist(),
        rng.geometric(0.5, size=count).tolist(),
        rng.integers(1_270_000_000, 1_510_000_000, size=count).tolist(),
        strict=True,
    )
    info = {"generated_on": generated_on, "slice": f"{first}-{first + count - 1}", "version": "v1"}
    yield b"{" + json.fields(
        1, info=b"{" + json.fields(2, **info) + json.line(1) + b"}", playlists=b"["
    )
    start, tracks = 0, items.tolist()
    for place, (taste, mood, length, albums, artists, duration, followers, modified) in enumerate(
        columns
    ):
        extra = {"description": f"all things {catalogue.genres[taste]}"} if mood % 50 == 0 else {}
        opening = json.fields(
            3,
            name=playlist_title(catalogue.genres[taste], mood),
            **extra,
            collaborative="true" if mood % 40 == 1 else "false",
            pid=first + place,
            modified_at=modified - modified % 86_400,
            num_tracks=length,
            num_albums=albums,
            num_followers=followers,
            tracks=b"[",
        )
        yield b"," * (place > 0) + json.line(2) + b"{" + opening
        chosen = map(catalogue.tails.__getitem__, tracks[start : start + length])
        yield from chain.from_iterable(zip(catalogue.heads, chosen))  # noqa: B905 - heads are longer
        start += length
        closing = json.fields(
            3, num_edits=1 + length // 3, duration_ms=duration, num_artists=artists
        )
        yield json.line(3) + b"]," + closing + json.line(2) + b"}"
    yield json.line(1) + b"]" + json.line(0) + b"}"


def _distinct(owners: Ints, values: Ints, count: int) -> list[int]:
    """Return how many distinct values each of the owners has."""
    span = int(values.max(initial=0)) + 1
    distinct: list[int] = np.bincount(
        np.unique(owners * span + values) // span, minlength=count
    ).tolist()
    return distinct


def _union(keys: Ints, more: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """Return the sorted union of at most ``limit`` keys; surplus new keys are dropped at random."""
    fresh = np.setdiff1d(more, keys)
    room = limit - len(keys)
    if len(fresh) > room:
        fresh = rng.permutation(fresh)[:room]
    return np.sort(np.concatenate([keys, fresh]))
