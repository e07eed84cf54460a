"""The ten tasks of the RecSys Challenge 2018, made from the playlists of a dataset.

A task gives a playlist's title, or its first or random tracks, or both; the rest is to be predicted
(Chen et al., RecSys 2018). The official challenge set has 1,000 playlists per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lightgcn.challenge.title_index import plain_title
from lightgcn.core.checks import checked_count
from lightgcn.core.seeding import seed_from
from lightgcn.datasets import Dataset
from lightgcn.graph.interactions import Interactions

Ints = npt.NDArray[np.int64]

# Least number of held-out tracks of a playlist.
LEAST_HOLDOUTS = 5
_SEED_STREAM = 2018


class Task(NamedTuple):
    """The given part of a playlist: the number of seed tracks, and whether its title is given.

    Example:
        >>> TASKS[1]
        Task(name='title, first 1', seeds=1, title=True, random=False)
    """

    name: str
    seeds: int
    title: bool
    random: bool = False


TASKS = (
    Task("title", 0, True),
    Task("title, first 1", 1, True),
    Task("title, first 5", 5, True),
    Task("first 5", 5, False),
    Task("title, first 10", 10, True),
    Task("first 10", 10, False),
    Task("title, first 25", 25, True),
    Task("title, random 25", 25, True, random=True),
    Task("title, first 100", 100, True),
    Task("title, random 100", 100, True, random=True),
)


@dataclass(frozen=True)
class ChallengePlaylist:
    """A playlist to continue.

    Attributes:
        pid: its number.
        title: its title; None if not given.
        seeds: URIs of the given tracks, in the order of the playlist.
        places: their places in the playlist, increasing.
        num_holdouts: number of held-out tracks.

    Raises:
        ValueError: if there is not one place for each seed.

    Example:
        >>> ChallengePlaylist(7, "road trip", ("a", "b"), (0, 1), num_holdouts=5).task
        'title, first 2'
    """

    pid: int
    title: str | None
    seeds: tuple[str, ...]
    places: tuple[int, ...]
    num_holdouts: int

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.places):
            raise ValueError(
                f"playlist {self.pid}: {len(self.seeds)} seeds at {len(self.places)} places"
            )

    @property
    def task(self) -> str:
        """Name of the task, derived from the title and the places of the seeds."""
        if not self.seeds:
            return "title" if self.title is not None else "nothing"
        kind = "first" if max(self.places) < len(self.seeds) else "random"
        return ("" if self.title is None else "title, ") + f"{kind} {len(self.seeds)}"


@dataclass(frozen=True)
class Challenge:
    """Playlists to continue, their held-out tracks, and the data to train on.

    Attributes:
        playlists: the playlists to continue.
        holdouts: pid to the URIs of the held-out tracks.
        artists: track URI to artist URI, for all tracks with an artist.
        train: the data without these playlists.

    Example:
        >>> from lightgcn.datasets import read_mpd, write_synthetic_mpd
        >>> files = write_synthetic_mpd("slices", num_playlists=300, num_tracks=3000)
        >>> challenge = make_challenge(read_mpd("slices", order=True), num_playlists=10)
        >>> challenge.train.interactions.num_users
        290
    """

    playlists: Sequence[ChallengePlaylist] = field(repr=False)
    holdouts: Mapping[int, Sequence[str]] = field(repr=False)
    artists: Mapping[str, str] = field(repr=False)
    train: Dataset = field(repr=False)


def make_challenge(dataset: Dataset, num_playlists: int = 10_000, *, seed: int = 0) -> Challenge:
    """Hold playlists out of a dataset for the ten tasks, the same number for each.

    Playlists are drawn at random among those with at least five tracks more than the task gives,
    and with a title if the task gives one. Places count the distinct tracks of a playlist. Tracks
    that no other playlist holds are not in ``train``; they cannot be found, but count in scores.

    Args:
        dataset: with playlist titles ("name" of the users), URIs as ``item_ids``, pids as
            ``user_ids`` and the tracks' places in their playlists (``read_mpd(…, order=True)``,
            ``lightgcn prepare --order``).
        num_playlists: number of playlists, a multiple of ten.
        seed: of the draw.

    Raises:
        ValueError: if the dataset lacks one of these, or has too few playlists for a task.

    Example:
        >>> from lightgcn.datasets import read_mpd, write_synthetic_mpd
        >>> files = write_synthetic_mpd("slices", num_playlists=300, num_tracks=3000)
        >>> challenge = make_challenge(read_mpd("slices", order=True), num_playlists=10)
        >>> [playlist.task for playlist in challenge.playlists[:3]]
        ['title', 'title, first 1', 'title, first 5']
    """
    num_playlists = checked_count("num_playlists", num_playlists, len(TASKS))
    if num_playlists % len(TASKS):
        raise ValueError(
            f"num_playlists must be a multiple of {len(TASKS)}, the number of tasks, got "
            f"{num_playlists}"
        )
    graph = dataset.interactions
    pids, uris = _checked_ids(dataset)
    rng = np.random.default_rng(np.random.SeedSequence((seed_from(seed), _SEED_STREAM)))
    chosen = _draw(dataset, num_playlists // len(TASKS), rng)
    users = torch.from_numpy(np.concatenate(chosen))
    left = torch.ones(graph.num_users, dtype=torch.bool, device="cpu")
    left[users] = False
    known = torch.bincount(graph.items[left[graph.users]], minlength=graph.num_items) > 0
    train = dataset.reindex(left.nonzero().flatten(), known.nonzero().flatten())
    playlists, holdouts = [], {}
    by_user = _tracks_in_order(graph, users)
    titles = dataset.users["name"]
    for task, members in zip(TASKS, chosen, strict=True):
        for user in members.tolist():
            items = by_user[user]
            shown = _shown(task, len(items), rng)
            pid = int(pids[user])
            hidden = np.delete(items, shown)
            playlists.append(
                ChallengePlaylist(
                    pid,
                    titles[user] if task.title else None,
                    tuple(uris[items[shown]].tolist()),
                    tuple(shown.tolist()),
                    len(hidden),
                )
            )
            holdouts[pid] = uris[hidden].tolist()
    return Challenge(playlists, holdouts, artists_of(dataset), train)


def artists_of(dataset: Dataset) -> dict[str, str]:
    """Return track URI to artist ("artist_id" of the items, else "artist"), if not empty."""
    column = dataset.items.get("artist_id", dataset.items.get("artist"))
    if column is None or dataset.interactions.item_ids is None:
        return {}
    pairs = zip(dataset.interactions.item_ids.tolist(), column, strict=True)
    return {uri: artist for uri, artist in pairs if artist}


def _checked_ids(dataset: Dataset) -> tuple[Any, Any]:
    graph = dataset.interactions
    if dataset.test is not None:
        raise ValueError(
            "the data has its own test split, but a challenge holds out playlists: leave the test "
            "split out"
        )
    if "name" not in dataset.users:
        raise ValueError('the users have no column "name": tasks need the titles of playlists')
    if (
        graph.user_ids is None
        or graph.user_ids.dtype.kind != "i"
        or int(graph.user_ids.min(initial=0)) < 0
    ):
        raise ValueError(
            "the users have no integer ids of at least 0: a challenge set numbers its playlists "
            "(pid)"
        )
    if graph.item_ids is None or graph.item_ids.dtype.kind == "i":
        raise ValueError("the items have no URIs as ids: a challenge set names tracks by them")
    if graph.order is None:
        raise ValueError(
            "the tracks have no order, but tasks give the first tracks of a playlist: read the "
            "slices with order=True (lightgcn prepare … --order)"
        )
    return graph.user_ids, graph.item_ids


def _draw(dataset: Dataset, count: int, rng: np.random.Generator) -> list[Ints]:
    """Return ``count`` users for each of `TASKS`, no user twice; tasks of long playlists draw
    first."""
    lengths = dataset.interactions.user_degrees.numpy()
    titled = np.array([bool(plain_title(title)) for title in dataset.users["name"]])
    free = rng.permutation(dataset.interactions.num_users)
    chosen: list[Ints] = [np.empty(0, np.int64)] * len(TASKS)
    for place in sorted(range(len(TASKS)), key=lambda place: -TASKS[place].seeds):
        task = TASKS[place]
        fits = lengths[free] >= task.seeds + LEAST_HOLDOUTS
        if task.title:
            fits &= titled[free]
        found = np.flatnonzero(fits)[:count]
        if len(found) < count:
            raise ValueError(
                f"task {task.name!r} needs {count} playlists of at least "
                f"{task.seeds + LEAST_HOLDOUTS} tracks{' with a title' if task.title else ''}, but "
                f"only {len(found)} are left; take fewer playlists, or read more slices"
            )
        chosen[place] = free[found]
        free = np.delete(free, found)
    return chosen


def _tracks_in_order(graph: Interactions, users: torch.Tensor) -> dict[int, Ints]:
    """Return each user's items in their order."""
    assert graph.order is not None
    _, edges = graph.edge_positions(users)
    items, places = graph.items[edges], graph.order[edges]
    ends = graph.user_degrees[users].cumsum(0)
    tracks = {}
    for place, user in enumerate(users.tolist()):
        span = slice(int(ends[place] - graph.user_degrees[user]), int(ends[place]))
        order = places[span].argsort(stable=True)
        tracks[user] = items[span][order].numpy()
    return tracks


def _shown(task: Task, length: int, rng: np.random.Generator) -> Ints:
    if not task.random:
        return np.arange(task.seeds)
    return np.sort(rng.choice(length, task.seeds, replace=False))
