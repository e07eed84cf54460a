"""The metrics of the RecSys Challenge 2018, as its rules define them, and how submissions fare by
task."""

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
        playlists: how many they are the means of.
        r_precision: |G ∩ R₁..|G|| / |G| with G the tracks that were held out and R the list: tracks
            alone.
        r_precision_artists: the same with credit for artists: + 0.25 · |artists of G ∩ artists of
            R₁..|G|| / |G|, the figure of the final ranking (Zamani et al., TIST 2019). None where
            artists are not known.
        ndcg: as the rules have it: rel₁ + Σ_{i≥2} relᵢ / log₂ i, over that of a list that has its
            |G ∩ R| hits first.
        clicks: ⌊(rank of the first hit − 1) / 10⌋, 51 without one.
        ndcg_log2_rank_plus_1: NDCG as it is used elsewhere: gains 1 / log₂(rank + 1), and min(500,
            |G|) hits in the ideal list.
        recall: share of G that is in the list.
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
        playlists: what was asked for.
        lists: pid to ranked track URIs, best first; a playlist without a list has hit nothing. Of a
            track that is there again only the first counts, and nothing after the first 500.
        holdouts: pid to the URIs of the tracks that were held out, or of all tracks of the
            playlist.
        artists: track URI to that of its artist, also of the tracks in the lists; None where they
            are not known.

    Returns:
        Scores by task, in the order of the playlists, and of "all".

    Raises:
        ValueError: if there is no playlist, or it is not known what was held out of one.
    """
    if not playlists:
        raise ValueError("there is no playlist to score")
    by_task: dict[str, list[tuple[float, ...]]] = {}
    for playlist in playlists:
        # What the playlist told is not to be found, where whole playlists are known.
        wanted = set(holdouts.get(playlist.pid, ())) - set(playlist.seeds)
        if not wanted:
            raise ValueError(f"playlist {playlist.pid}: it is not known what was held out of it")
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
