"""A module of another project, as a type checker sees it: mypy --strict has nothing to say, and
types are these."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import lightgcn
from lightgcn import (
    Adjacency,
    Evaluation,
    Interactions,
    LightGCN,
    Preset,
    Recommendation,
    Recommender,
    Split,
    split_edges,
)
from lightgcn.challenge import Challenge, ChallengeScores, make_challenge, score_lists
from lightgcn.datasets import Dataset, read_mpd
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.training import TrainResult


class Model(nn.Module):
    """LightGCN as a part of a larger model."""

    def __init__(self, graph: Interactions) -> None:
        super().__init__()
        self.gcn = LightGCN(graph.num_users, graph.num_items, embedding_dim=32, num_layers=2)
        self.adjacency: Adjacency = lightgcn.normalized_adjacency(graph, "mean")

    def forward(self, edges: Tensor) -> Tensor:
        scores: Tensor = self.gcn(self.adjacency, edges)
        return scores


def train(folder: Path) -> list[Recommendation]:
    dataset = read_mpd(folder, order=True)
    assert_type(dataset, Dataset)
    graph = dataset.interactions
    assert_type(graph, Interactions)
    split = split_edges(graph, (0.8, 0.1, 0.1), seed=torch.Generator())
    assert_type(split, Split)
    settings = lightgcn.preset("fast", epochs=3)
    assert_type(settings, Preset)
    side = SideNodes.of(dataset.groups("artist_id"))
    split = side.extend_split(split)
    model = settings.new_model(split.val.message)
    assert_type(model, LightGCN)
    assert_type(lightgcn.fit(model, split, settings), TrainResult)
    users, items = model.embed(lightgcn.normalized_adjacency(split.test.message))
    assert_type(users, Tensor)
    assert_type(lightgcn.top_k(users, items, 10, seen=split.test.message).items, Tensor)
    result = lightgcn.evaluate(model, split.test)
    assert_type(result, Evaluation)
    assert_type(result["recall@20"], float)
    recommender = Recommender(model, graph, side_nodes=side)
    return recommender.recommend_new(["spotify:track:x"], k=5)


def challenge(dataset: Dataset, lists: dict[int, list[str]]) -> float:
    made = make_challenge(dataset, 1000)
    assert_type(made, Challenge)
    scores = score_lists(made.playlists, lists, made.holdouts, made.artists)
    assert_type(scores, dict[str, ChallengeScores])
    return scores["all"].r_precision
