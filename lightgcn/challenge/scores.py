"""The metrics of the RecSys Challenge 2018, as its rules define them, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightgcn.challenge.tasks import ChallengePlaylist

Bools = npt.NDArray[np.bool_]

LIST_LENGTH = 500
ARTIST_CREDIT = 0.25
NO_CLICK = 51
_METRICS = (
    "r_precision",
    "r_precision_artists",
    "ndcg",
    "clicks",
    "ndcg_log2_rank_plus_1",
    "recall",
)


@dataclass(frozen=True)
class ChallengeScores:
    """Mean metrics.

    Attributes:
        playlists: number of playlists.
        r_precision: |G ∩ R₁..|G|| / |G| with G the held-out tracks and R the list.
        r_precision_artists: the same plus 0.25 · |artists of G ∩ artists of R₁..|G|| / |G|, the
            metric of the final ranking (Zamani et al., TIST 2019). None if artists are unknown.
        ndcg: by the rules: rel₁ + Σ_{i≥2} relᵢ / log₂ i, divided by that of a list with its
            |G ∩ R| hits first.
        clicks: ⌊(rank of the first hit − 1) / 10⌋, 51 without a hit.
        ndcg_log2_rank_plus_1: the usual NDCG: gains 1 / log₂(rank + 1), and min(500, |G|) hits in
            the ideal list.
        recall: share of G that is in the list.

    Example:
        >>> playlist = ChallengePlaylist(7, None, seeds=("a",), places=(0,), num_holdouts=2)
        >>> scores = score_lists([playlist], {7: ["b", "x"]}, {7: ["b", "c"]})
        >>> scores["all"].r_precision, scores["all"].clicks
        (0.5, 0.0)
    """

    playlists: int
    r_precision: float
    r_precision_artists: float | None
    ndcg: float
    clicks: float
    ndcg_log2_rank_plus_1: float
    recall: float


def score_lists(
    playlists: Sequence[ChallengePlaylist],
    lists: Mapping[int, Sequence[str]],
    holdouts: Mapping[int, Sequence[str]],
    artists: Mapping[str, str] | None = None,
) -> dict[str, ChallengeScores]:
    """Score a list of tracks for each playlist.

    Args:
        playlists: the playlists of the challenge.
        lists: pid to ranked track URIs, best first; a playlist without a list has no hit. Repeated
            tracks count once, and tracks after the first 500 not at all.
        holdouts: pid to the URIs of the held-out tracks, or of all tracks of the playlist.
        artists: track URI to artist URI, also of the tracks in the lists; None if unknown.

    Returns:
        Scores by task, in the order of the playlists, and for "all".

    Raises:
        ValueError: if there is no playlist, or one has no held-out tracks.

    Example:
        >>> playlist = ChallengePlaylist(7, None, seeds=("a",), places=(0,), num_holdouts=2)
        >>> scores = score_lists([playlist], {7: ["x", "b"]}, {7: ["b", "c"]})
        >>> list(scores), scores["all"].recall
        (['first 1', 'all'], 0.5)
    """
    if not playlists:
        raise ValueError("there is no playlist to score")
    by_task: dict[str, list[tuple[float, ...]]] = {}
    for playlist in playlists:
        # Holdouts may be whole playlists: their seeds do not count.
        wanted = set(holdouts.get(playlist.pid, ())) - set(playlist.seeds)
        if not wanted:
            raise ValueError(f"playlist {playlist.pid}: holdouts has no tracks of it")
        values = _values(lists.get(playlist.pid, ()), wanted, artists or {})
        by_task.setdefault(playlist.task, []).append(values)
    everything = [values for task in by_task.values() for values in task]
    return {
        name: _means(values, bool(artists))
        for name, values in (by_task | {"all": everything}).items()
    }


def _values(
    ranked: Sequence[str], wanted: set[str], artists: Mapping[str, str]
) -> tuple[float, ...]:
    ranked = list(dict.fromkeys(ranked))[:LIST_LENGTH]
    hits = np.fromiter((track in wanted for track in ranked), np.bool_, len(ranked))
    size = len(wanted)
    found = {artists[track] for track in ranked[:size] if track in artists}
    sought = {artists[track] for track in wanted if track in artists}
    tracks = int(hits[:size].sum())
    first = np.flatnonzero(hits)[:1]
    return (
        tracks / size,
        (tracks + ARTIST_CREDIT * len(found & sought)) / size,
        _official_ndcg(hits),
        int(first[0]) // 10 if len(first) else NO_CLICK,
        _usual_ndcg(hits, size),
        int(hits.sum()) / size,
    )


def _official_ndcg(hits: Bools) -> float:
    if not hits.any():
        return 0.0
    gains = 1 / np.log2(np.maximum(np.arange(1, len(hits) + 1), 2))
    return float(gains[hits].sum() / gains[: hits.sum()].sum())


def _usual_ndcg(hits: Bools, size: int) -> float:
    gains = 1 / np.log2(np.arange(2, LIST_LENGTH + 2))
    return float(gains[: len(hits)][hits].sum() / gains[: min(size, LIST_LENGTH)].sum())


def _means(values: Sequence[tuple[float, ...]], with_artists: bool) -> ChallengeScores:
    means = np.mean(np.asarray(values, np.float64).reshape(-1, len(_METRICS)), axis=0)
    scores = ChallengeScores(len(values), **dict(zip(_METRICS, means.tolist(), strict=True)))
    return scores if with_artists else replace(scores, r_precision_artists=None)
