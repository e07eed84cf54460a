"""Answers to the RecSys Challenge 2018: a ranked list of tracks for each playlist.

A playlist is folded in as a new user with its tracks. Its title counts as further tracks, whose
embedding is the mean of the playlists with similar titles; tracks that many of those playlists hold
gain in score, and so do the neighbours of its tracks. A playlist without known tracks or title gets
the most popular tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.challenge.scores import LIST_LENGTH
from lightgcn.challenge.tasks import ChallengePlaylist
from lightgcn.challenge.title_index import TitleIndex
from lightgcn.core.checks import checked_count, checked_number
from lightgcn.core.progress import progress_bar
from lightgcn.graph.interactions import Interactions
from lightgcn.nn.link_scores import unit_rows
from lightgcn.nn.projection import gram_matrix
from lightgcn.ranking.item_knn import ItemKNN, nearest_items
from lightgcn.ranking.residual import Gains, Residual, matrix_gains, residual_sum
from lightgcn.ranking.topk import top_k
from lightgcn.recommender import Recommender

Lists = dict[int, list[str]]

# Chosen on validation playlists (docs/results.md).
TITLE_WEIGHT, SHARE_WEIGHT = 1.0, 4.0
# Neighbours of a track in the item-item baseline.
_NEIGHBOURS = 100
# Playlists between two updates of the progress bar.
_AT_A_TIME = 1000


def answer_playlists(
    recommender: Recommender,
    playlists: Sequence[ChallengePlaylist],
    titles: TitleIndex | None = None,
    *,
    title_weight: float = TITLE_WEIGHT,
    share_weight: float = SHARE_WEIGHT,
    k: int = LIST_LENGTH,
    progress: bool = False,
) -> Lists:
    """Rank k tracks for each playlist, without its seeds.

    Args:
        recommender: of a model with layers, over tracks with URIs as ids.
        playlists: the playlists to continue; seeds that the recommender lacks are ignored.
        titles: the recommender's playlists by title; None to ignore titles.
        title_weight: number of tracks that a title counts as.
        share_weight: the gain of a track that all playlists with similar titles hold, in standard
            deviations of the playlist's scores, if the title counts as much as the tracks; less if
            it counts less.
        k: number of tracks per playlist, at most.
        progress: show a progress bar on a terminal.

    Returns:
        pid to track URIs, best first.

    Raises:
        ValueError: if the model has no layers or its items no URIs, the titles are of other
            playlists or tracks than the recommender, a pid occurs twice, or a weight is negative or
            not finite.

    Example:
        >>> from lightgcn import LightGCN
        >>> tracks = {"user": [0, 0, 1, 1], "item": ["a", "b", "b", "c"]}
        >>> graph = Interactions.from_frame(tracks)
        >>> recommender = Recommender(LightGCN(2, 3, embedding_dim=4), graph)
        >>> playlist = ChallengePlaylist(7, None, seeds=("b",), places=(0,), num_holdouts=1)
        >>> lists = answer_playlists(recommender, [playlist], k=2)
        >>> sorted(lists[7])
        ['a', 'c']
    """
    for name, weight in (("title_weight", title_weight), ("share_weight", share_weight)):
        checked_number(name, weight, 0)
    if titles is not None:
        known, seen = titles.interactions, recommender.seen
        if (known.num_users, known.num_items) != (seen.num_users, seen.num_items):
            raise ValueError(f"titles are of {known}, but the recommender is of {seen}")
    history = seed_tracks(recommender, playlists)
    ranker = recommender.ranker.fold_in(history)
    users, items, residual = ranker.users, ranker.items, ranker.residual
    if titles is not None:
        users, worth = _with_titles(recommender, users, history, playlists, titles, title_weight)
        shares = titles.shares([playlist.title or "" for playlist in playlists])
        gains = _TitleGains(history, _gains(shares, worth, users, items, share_weight))
        residual = residual_sum(residual, gains)
    return _lists(recommender, playlists, history, users, items, residual, k, progress)


def popular_tracks(
    recommender: Recommender,
    playlists: Sequence[ChallengePlaylist],
    *,
    k: int = LIST_LENGTH,
    progress: bool = False,
) -> Lists:
    """Rank the most popular tracks for each playlist, a baseline with the form of
    `answer_playlists`.

    Example:
        >>> from lightgcn import LightGCN
        >>> tracks = {"user": [0, 0, 1, 1], "item": ["a", "b", "b", "c"]}
        >>> graph = Interactions.from_frame(tracks)
        >>> recommender = Recommender(LightGCN(2, 3, embedding_dim=4), graph)
        >>> playlist = ChallengePlaylist(7, None, seeds=("a",), places=(0,), num_holdouts=1)
        >>> popular_tracks(recommender, [playlist], k=2)
        {7: ['b', 'c']}
    """
    history = seed_tracks(recommender, playlists)
    items = _popularity(recommender)
    users = items.new_ones(history.num_users, 1)
    return _lists(recommender, playlists, history, users, items, None, k, progress)


def neighbouring_tracks(
    recommender: Recommender,
    playlists: Sequence[ChallengePlaylist],
    *,
    k: int = LIST_LENGTH,
    progress: bool = False,
) -> Lists:
    """Rank tracks by item-item cosine with 100 neighbours, a baseline with the form of
    `answer_playlists`.

    The similarity is that of `lightgcn.ranking.nearest_items`. Tracks that are no neighbours of the
    seeds follow by popularity.

    Example:
        >>> from lightgcn import LightGCN
        >>> tracks = {"user": [0, 0, 1, 1], "item": ["a", "b", "b", "c"]}
        >>> graph = Interactions.from_frame(tracks)
        >>> recommender = Recommender(LightGCN(2, 3, embedding_dim=4), graph)
        >>> playlist = ChallengePlaylist(7, None, seeds=("a",), places=(0,), num_holdouts=1)
        >>> neighbouring_tracks(recommender, [playlist], k=2)
        {7: ['b', 'c']}
    """
    history = seed_tracks(recommender, playlists)
    similarity = nearest_items(recommender.seen, _NEIGHBOURS, progress=progress)
    items = _popularity(recommender)
    # Small enough that popularity only orders tracks that are no neighbours.
    users = items.new_full((history.num_users, 1), 1e-6)
    return _lists(
        recommender,
        playlists,
        history,
        users,
        items,
        ItemKNN(history, similarity, 1.0),
        k,
        progress,
    )


BASELINES = {"popularity": popular_tracks, "item_item": neighbouring_tracks}


def seed_tracks(recommender: Recommender, playlists: Sequence[ChallengePlaylist]) -> Interactions:
    """Return the seeds of playlists as interactions of B users with the recommender's items.

    Raises:
        ValueError: if the recommender's items have no URIs as ids.
    """
    uris = recommender.seen.item_ids
    if uris is None or uris.dtype.kind == "i":
        raise ValueError(
            "the recommender's items have no URIs as ids, and playlists name tracks by them"
        )
    pids = Counter(playlist.pid for playlist in playlists)
    if len(pids) < len(playlists):
        raise ValueError(f"playlist {pids.most_common(1)[0][0]} occurs twice")
    index = recommender.item_indices
    told = [
        (row, index[uri], place)
        for row, playlist in enumerate(playlists)
        for uri, place in zip(playlist.seeds, playlist.places, strict=True)
        if uri in index
    ]
    rows, items, places = (
        torch.tensor(told, dtype=torch.int64, device="cpu").reshape(-1, 3).T.contiguous()
    )
    return Interactions(rows, items, len(playlists), len(uris), order=places).to(
        recommender.ranker.device
    )


@dataclass(frozen=True, eq=False)
class _TitleGains:
    """The residual of the titles: (B, num_items) CSR gains."""

    history: Interactions
    gains: Any

    def of_users(self, users: Tensor) -> Gains:
        return matrix_gains(self.gains[users.cpu().numpy()], users.device)


def _with_titles(
    recommender: Recommender,
    users: Tensor,
    history: Interactions,
    playlists: Sequence[ChallengePlaylist],
    titles: TitleIndex,
    title_weight: float,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings with titles, and the (B,) weight of each title, the tracks' being 1."""
    width = recommender.ranker.num_columns
    by_title = titles.directions(
        [playlist.title or "" for playlist in playlists], recommender.ranker.users[:, :width]
    )
    tracks, found = users[:, :width], by_title.any(1)
    lengths = tracks.norm(dim=1, keepdim=True)
    alone = lengths.squeeze(1) == 0
    degrees = history.user_degrees.clamp(min=1).to(torch.float32)
    worth = torch.where(alone, 1.0, title_weight / degrees) * found
    added = unit_rows(by_title) * lengths * worth.unsqueeze(1)
    mixed = torch.where(alone.unsqueeze(1), by_title, tracks + added)
    mixed = recommender.ranker.with_popularity(mixed)
    others = users[:, mixed.shape[1] :]  # spectral
    return torch.cat([mixed.to(tracks.dtype), others], 1), worth


def _gains(shares: Any, worth: Tensor, users: Tensor, items: Tensor, share_weight: float) -> Any:
    """Return the gains from shares of playlists: the largest of a row is share_weight standard
    deviations · worth."""
    mean = items.sum(0, dtype=torch.float64) / len(items)
    covariance = gram_matrix(items) / len(items) - torch.outer(mean, mean)
    deviations = ((users.double() @ covariance) * users.double()).sum(1).clamp(min=0).sqrt()
    scale = (share_weight * deviations * worth.clamp(max=1)).cpu().numpy()
    largest = np.asarray(shares.max(axis=1).todense()).ravel()
    scale = np.divide(scale, largest, out=np.zeros_like(scale), where=largest > 0)
    gains = shares.copy()
    gains.data = (gains.data * np.repeat(scale, np.diff(gains.indptr))).astype(np.float32)
    return gains


def _popularity(recommender: Recommender) -> Tensor:
    """Return (num_items, 1) float32 popularities, the largest being 1."""
    degrees = recommender.seen.item_degrees.to(torch.float32).unsqueeze(1)
    return degrees / degrees.max().clamp(min=1)


def _lists(
    recommender: Recommender,
    playlists: Sequence[ChallengePlaylist],
    history: Interactions,
    users: Tensor,
    items: Tensor,
    residual: Residual | None,
    k: int,
    progress: bool,
) -> Lists:
    k = min(checked_count("k", k, 1), len(items))
    uris, lists = recommender.seen.item_ids, {}
    assert uris is not None
    with progress_bar(total=len(playlists), desc="answers", unit="playlist", shown=progress) as bar:
        for first in range(0, len(playlists), _AT_A_TIME):
            end = min(first + _AT_A_TIME, len(playlists))
            chunk = torch.arange(first, end, dtype=torch.int64, device=users.device)
            best = (
                top_k(users, items, k, seen=history, users=chunk, residual=residual)
                .items.cpu()
                .numpy()
            )
            for playlist, row in zip(playlists[first : first + _AT_A_TIME], best, strict=True):
                lists[playlist.pid] = uris[row[row >= 0]].tolist()
            bar.update(len(chunk))
    return lists
