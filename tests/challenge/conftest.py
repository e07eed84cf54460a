from __future__ import annotations

from pathlib import Path

import pytest

from lightgcn import Recommender, fit, preset, split_edges
from lightgcn.challenge import Challenge, make_challenge
from lightgcn.datasets import Dataset, read_mpd, write_synthetic_mpd


@pytest.fixture(scope="session")
def with_order(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return playlists with titles and places, some of them long enough for every task."""
    folder = tmp_path_factory.mktemp("long")
    write_synthetic_mpd(
        folder, num_playlists=600, num_tracks=1500, mean_length=90, slice_size=200, seed=5
    )
    return read_mpd(folder, order=True)


@pytest.fixture(scope="session")
def challenge(with_order: Dataset) -> Challenge:
    """Return five playlists of each task."""
    return make_challenge(with_order, 50, seed=3)


@pytest.fixture(scope="session")
def recommender(challenge: Challenge) -> Recommender:
    """Return a model trained on the other playlists for a moment."""
    graph = challenge.train.interactions
    config = preset("fast", epochs=2, batch_size=4096, eval_every=2)
    split = split_edges(graph, (0.9, 0.1), disjoint=0.0)
    model = config.new_model(split.val.message)
    fit(model, split, config)
    return Recommender.from_model(
        model,
        graph,
        user_columns=challenge.train.users,
        item_columns=challenge.train.items,
    )


@pytest.fixture(scope="session")
def prepared(with_order: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the saved playlists."""
    return with_order.save(tmp_path_factory.mktemp("prepared"))
