"""The graphs that the steps are timed on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lightgcn import Interactions
from lightgcn.datasets import read_text, synthetic_interactions

# Gowalla in the LightGCN split: users, items, train edges, test edges.
GOWALLA = (29_858, 40_981, 810_128, 217_242)
# The Million Playlist Dataset: playlists, tracks, entries.
MPD = (1_000_000, 2_262_292, 66_346_428)


class Data(NamedTuple):
    """A graph to train on and the edges to find."""

    name: str
    train: Interactions
    test: Interactions


def gowalla_folder() -> Path | None:
    """Return the folder of the Gowalla files, if they are there."""
    folder = Path(os.environ.get("LIGHTGCN_DATA", "data")) / "gowalla"
    return folder if any(folder.glob("train.txt*")) else None


def load(name: str, scale: float = 1.0) -> Data:
    """Return "gowalla", or "synthetic": the same numbers of users, items and edges, times
    ``scale``.

    Raises:
        FileNotFoundError: if the files of Gowalla are not there.
    """
    if name == "gowalla":
        folder = gowalla_folder()
        if folder is None:
            raise FileNotFoundError("set LIGHTGCN_DATA to the folder that holds gowalla/train.txt")
        dataset = read_text(folder)
        assert dataset.test is not None
        return Data(name, dataset.interactions, dataset.test)
    users, items, train, test = (max(1, round(count * scale)) for count in GOWALLA)
    graph = synthetic_interactions(users, items, train + test)
    held_out = torch.ones(train + test, dtype=torch.bool)
    held_out[torch.randperm(train + test, generator=torch.Generator().manual_seed(0))[:train]] = (
        False
    )
    return Data(name, graph.select(~held_out), graph.select(held_out))


def mpd_shaped(num_edges: int) -> Interactions:
    """Return a graph with the Million Playlist Dataset's edges per node and skewed popularity, of
    another size.

    Popularity is a power law without tastes: `synthetic_interactions` takes several seconds per
    million edges."""
    share = num_edges / MPD[2]
    num_users, num_items = round(MPD[0] * share), round(MPD[1] * share)
    rng = np.random.default_rng(0)
    names = rng.permutation(num_items)
    keys = np.empty(0, np.int64)
    while len(keys) < num_edges:
        count = (num_edges - len(keys)) * 5 // 4 + 16
        items = names[(num_items * rng.random(count) ** 2.5).astype(np.int64)]
        keys = np.unique(
            np.concatenate([keys, rng.integers(num_users, size=count) * num_items + items])
        )
    keys = np.sort(rng.permutation(keys)[:num_edges])
    return Interactions(
        torch.from_numpy(keys // num_items),
        torch.from_numpy(keys % num_items),
        num_users,
        num_items,
    )
