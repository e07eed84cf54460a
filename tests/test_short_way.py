"""From a table to test metrics and recommendations: the same calls for every preset and device."""

from __future__ import annotations

import random

import pytest
import torch

import lightgcn
from lightgcn.training import PRESETS


def table() -> dict[str, list[str]]:
    """Plays of 60 listeners in three circles, each of which shares twenty songs."""
    draw = random.Random(0)
    listeners = [draw.randrange(60) for _ in range(900)]
    songs = [listener % 3 * 20 + draw.randrange(20) for listener in listeners]
    return {
        "listener": [f"listener {number}" for number in listeners],
        "song": [f"song {number}" for number in songs],
    }


def walk(name: str, device: str) -> None:
    graph = lightgcn.Interactions.from_frame(table(), user="listener", item="song")
    split = lightgcn.split_edges(graph, stratify="user")
    model = lightgcn.train(split, name, device=device, epochs=30, embedding_dim=16)
    tested = lightgcn.evaluate(model, split.test)
    recommender = lightgcn.Recommender(model, graph)
    lists = recommender.recommend(["listener 3", "listener 4"], k=3, exclude=["song 2"])
    new = recommender.recommend_new(["song 0", "song 11"], k=3)

    assert model.embedding.device.type == recommender.ranker.device.type == device
    assert tested.num_users > 30 and 0 < tested["recall@20"] <= 1
    assert [len(songs) for songs in (*lists, new)] == [3, 3, 3]
    plays = set(zip(*table().values(), strict=True))
    for listener, songs in zip(("listener 3", "listener 4"), lists, strict=True):
        for song in songs:
            assert (listener, song.id) not in plays and song.id != "song 2"
    settings = lightgcn.preset(name)
    assert settings.train.choose_ranking or model.ranking == settings.ranking
    assert model.normalization == settings.model.normalization


@pytest.mark.filterwarnings("ignore:.*disjoint:UserWarning")
def test_the_short_way_is_the_same_for_every_preset() -> None:
    for name in PRESETS:
        walk(name, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_short_way_is_the_same_on_a_gpu() -> None:
    for name in PRESETS:
        walk(name, "cuda")
