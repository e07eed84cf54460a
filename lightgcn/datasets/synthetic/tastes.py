"""The planted structure of the synthetic data: tastes, artists, popularity, and users' choices.

Every item belongs to an artist and every artist to one taste; within a taste, and among the tastes,
popularity follows a power law. A user has one to three tastes and a favourite artist; some of a
user's items are drawn by overall popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HITS, FAVOURITE = (
    0.1,
    0.15,
)  # shares of the entries that follow global popularity, and the user's favourite artist
LONGEST = 376  # no playlist of the real data is longer
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Items in order of their artist, artists in order of their taste, and cumulative popularities
    to draw from."""

    artist: Ints  # (num_items,)
    artist_start: (
        Ints  # (num_artists + 1,): the items of artist a are artist_start[a] to artist_start[a + 1]
    )
    # (num_items,): taste + cumulative popularity within it, so that one search serves all tastes
    within: Floats
    overall: Floats  # (num_items,): cumulative popularity among all items
    tastes: Floats  # (num_tastes,): cumulative popularity of the tastes

    @classmethod
    def draw(cls, num_items: int, num_tastes: int, rng: np.random.Generator) -> World:
        num_tastes = min(num_tastes, num_items)
        taste_share = _zipf(num_tastes, 0.8)
        sizes = 1 + _apportion(num_items - num_tastes, taste_share**0.5)
        # The weights of each taste sum to one, so that taste t owns [t, t + 1) of their cumulative
        # sum.
        weights = np.concatenate([rng.permutation(_zipf(size, 0.9)) for size in sizes.tolist()])
        taste = np.repeat(np.arange(num_tastes), sizes)
        overall = np.cumsum(weights * taste_share[taste])
        # A new artist begins with every taste and then, on average, with every eighth item.
        begins = (np.diff(taste, prepend=-1) != 0) | (rng.random(num_items) < 1 / 8)
        starts = np.append(np.flatnonzero(begins), num_items)
        return cls(
            np.cumsum(begins) - 1,
            starts,
            np.cumsum(weights),
            overall / overall[-1],
            np.cumsum(taste_share),
        )

    def user_tastes(self, num_users: int, rng: np.random.Generator) -> Ints:
        """Return (num_users, 4) tastes, one to three distinct ones per user; an item's taste is one
        of the four."""
        drawn = _search(self.tastes, rng.random((num_users, 3)))
        mixes = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2]])
        mix = mixes[rng.choice(3, size=num_users, p=[0.5, 0.3, 0.2])]
        return np.take_along_axis(drawn, mix, axis=1)

    def items_for(self, users: Ints, tastes: Ints, rng: np.random.Generator) -> Ints:
        """Draw one item for each of (n,) users with (num_users, 4) ``tastes``."""
        count = len(users)
        taste = tastes[users, rng.integers(4, size=count)]
        items = _search(self.within, taste + rng.random(count))
        hits = np.flatnonzero(rng.random(count) < HITS)
        items[hits] = _search(self.overall, rng.random(len(hits)))
        fans = np.flatnonzero(rng.random(count) < FAVOURITE)
        # The favourite artist of a user is a fixed pseudo-random point of the user's main taste.
        point = (users[fans] * 0.6180339887498949) % 1.0
        favourite = self.artist[_search(self.within, tastes[users[fans], 0] + point)]
        start, stop = self.artist_start[favourite], self.artist_start[favourite + 1]
        items[fans] = start + (rng.random(len(fans)) * (stop - start)).astype(np.int64)
        return items

    def playlists(
        self, count: int, mean: float, rng: np.random.Generator
    ) -> tuple[Ints, Ints, Ints]:
        """Return (count, 4) tastes, (count,) lengths, and (sum of lengths,) items, by playlist."""
        tastes = self.user_tastes(count, rng)
        lengths = np.clip(
            np.rint(rng.lognormal(np.log(mean) - 0.245, 0.7, count)), 1, LONGEST
        ).astype(np.int64)
        owners = np.repeat(
            np.arange(count), 2 * lengths + 8
        )  # more than needed, because repeats are dropped
        items = self.items_for(owners, tastes, rng)
        first = np.sort(np.unique(owners * len(self.artist) + items, return_index=True)[1])
        owners, items = owners[first], items[first]
        found = np.bincount(owners, minlength=count)
        rank = np.arange(len(owners)) - np.repeat(np.cumsum(found) - found, found)
        kept = rank < lengths[owners]
        items, lengths = items[kept], np.minimum(lengths, found)
        # One playlist in twenty ends with its first track.
        start = np.cumsum(lengths) - lengths
        again = np.flatnonzero((rng.random(count) < 0.05) & (lengths > 1))
        items[start[again] + lengths[again] - 1] = items[start[again]]
        return tastes, lengths, items


def _zipf(count: int, exponent: float) -> Floats:
    """Return (count,) shares that fall as a power of the rank, and sum to one."""
    weights: Floats = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    return weights


def _apportion(total: int, shares: Floats) -> Ints:
    """Return whole numbers in proportion to the shares that sum to ``total``."""
    bounds = np.rint(np.cumsum(shares) / shares.sum() * total).astype(np.int64)
    sizes: Ints = np.diff(bounds, prepend=0)
    return sizes


def _search(cumulative: Floats, points: Floats) -> Ints:
    """Return the interval of each point; rounding at the upper end falls into the last."""
    places: Ints = np.minimum(
        np.searchsorted(cumulative, points, side="right"), len(cumulative) - 1
    )
    return places
