"""Answers to 10,000 playlists over as many tracks as the Million Playlist Dataset has: seconds and
memory by stage.

    python -m benchmarks.challenge_scale [--edges 66346428]

The graph is `synthetic_interactions`; embeddings, 64 wide, are noise, since it is the time that
counts, and nothing in the answers depends on what they say. Titles are drawn by a power law from
100,000 made-up ones."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lightgcn import Interactions, Ranker, RankingConfig, Recommender
from lightgcn.challenge import (
    TASKS,
    ChallengePlaylist,
    TitleIndex,
    answer_playlists,
    neighbouring_tracks,
    popular_tracks,
    read_submission,
    score_lists,
    submission_problems,
    write_submission,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking import ItemKNN, with_popularity_prior

T = TypeVar("T")
# Of the Million Playlist Dataset.
PLAYLISTS, TRACKS, ENTRIES = 1_000_000, 2_262_292, 66_346_428
ASKED, DIM = 10_000, 64
SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ren",
    "tas",
    "vo",
    "zel",
    "qui",
    "bra",
    "ni",
    "do",
    "shu",
    "fen",
    "or",
    "ith",
    "lan",
)


def timed(name: str, work: Callable[[], T]) -> T:
    began = time.monotonic()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:<42}{time.monotonic() - began:8.1f} s   peak of memory so far {peak:6.2f} GB",
        flush=True,
    )
    return result


def made_up_titles(count: int, rng: np.random.Generator) -> list[str]:
    words = [first + second for first in SYLLABLES for second in SYLLABLES]
    distinct = [" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(100_000)]
    share = 1 / np.arange(1, len(distinct) + 1) ** 0.8
    return [distinct[place] for place in rng.choice(len(distinct), count, p=share / share.sum())]


def asked(
    graph: Interactions, titles: list[str], rng: np.random.Generator
) -> list[ChallengePlaylist]:
    uris: Any = graph.item_ids
    playlists = []
    for place, user in enumerate(rng.permutation(graph.num_users)[:ASKED].tolist()):
        task = TASKS[place % len(TASKS)]
        seeds = tuple(uris[graph.items_of(user)[: task.seeds].numpy()].tolist())
        title = titles[user] if task.title else None
        playlists.append(ChallengePlaylist(user, title, seeds, tuple(range(len(seeds))), 5))
    return playlists


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edges", type=int, default=ENTRIES)
    share = (edges := parser.parse_args().edges) / ENTRIES
    users, items = max(ASKED, round(PLAYLISTS * share)), max(2000, round(TRACKS * share))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    graph = timed("graph", lambda: synthetic_interactions(users, items, edges, num_tastes=200))
    uris = np.array([f"spotify:track:{number:022d}" for number in range(items)], dtype=object)
    graph = graph.with_ids(np.arange(users), uris)
    print(graph)
    titles = made_up_titles(users, rng)
    config = RankingConfig(0.13, item_knn=20)
    left, right = with_popularity_prior(
        torch.randn(users, DIM), torch.randn(items, DIM), graph.item_degrees, 0.13
    )
    weight = config.item_knn_weight
    knn = timed("nearest items, 20 of each", lambda: ItemKNN.from_graph(graph, 20, weight))
    table = torch.randn(items, DIM)
    recommender = Recommender(Ranker(left, right, graph, config, knn, fold_in_table=table))
    playlists = asked(graph, titles, rng)
    index = timed("titles", lambda: TitleIndex(titles, graph))
    lists = timed("answers", lambda: answer_playlists(recommender, playlists, index))
    timed("answers without titles", lambda: answer_playlists(recommender, playlists))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        timed(
            "submission written",
            lambda: write_submission(path, lists, "nobody", "nobody@example.com"),
        )
        read = timed("submission read", lambda: read_submission(path))
        problems = timed("submission checked", lambda: submission_problems(read, playlists))
    assert not problems and read == lists
    holdouts = {pid: tracks[5:50] for pid, tracks in lists.items()}
    timed("scores", lambda: score_lists(playlists, lists, holdouts))
    timed("popularity", lambda: popular_tracks(recommender, playlists))
    timed(
        "item-item, with 100 nearest of each", lambda: neighbouring_tracks(recommender, playlists)
    )


if __name__ == "__main__":
    main()
