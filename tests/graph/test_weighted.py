"""Weighted edges from a table to recommendations, and what they are worth where they say what users
like."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightgcn import (
    Interactions,
    Recommender,
    evaluate,
    fit,
    normalized_adjacency,
    preset,
    split_edges,
)
from lightgcn.cli import main as cli
from lightgcn.datasets import Dataset

CIRCLES = 6


def plays(seed: int = 0) -> Interactions:
    """240 users in six circles: ten songs of the circle's forty, played ten times each, and ten of
    anybody's, once."""
    generator = torch.Generator().manual_seed(seed)
    users, items, weights = [], [], []
    for user in range(240):
        liked = (torch.randperm(40, generator=generator)[:10] + user % CIRCLES * 40).tolist()
        heard = torch.randperm(CIRCLES * 40, generator=generator)[:10].tolist()
        for item in {*liked, *heard}:
            users.append(user)
            items.append(item)
            weights.append(10.0 * (item in liked) + (item in heard))
    return Interactions(torch.tensor(users), torch.tensor(items), 240, 240, torch.tensor(weights))


@pytest.mark.parametrize("name", ["fast", "paper"])
def test_weights_tell_what_is_liked_from_what_is_heard(name: str, one_thread: None) -> None:
    graph = plays()
    split = split_edges(graph, seed=1, disjoint=0.0, stratify="user")
    # What is to be found is what is liked; of that the weights say nothing here.
    liked = split.test.positives.select(
        split.test.positives.items // 40 == split.test.positives.users % CIRCLES
    )
    recalls = []
    for weighted in (False, True):
        message = split.val.message if weighted else replace(split.val.message, weights=None)
        links = replace(split.val, message=message)
        train = replace(split.train, message=message, positives=message, _recipe=None)
        config = preset(
            name, epochs=30, batch_size=1024, embedding_dim=16, eval_every=30, patience=None
        )
        model = config.new_model(message)
        fit(model, split._replace(train=train, val=links), config)
        links = replace(split.test, message=message, positives=liked)
        normalized_adjacency(message, config.model.normalization)
        recalls.append(evaluate(model, links, ks=(20,))["recall@20"])
    assert recalls[1] > recalls[0] + 0.05, recalls


@pytest.mark.parametrize("name", ["fast", "paper", "tutorial"])
def test_weights_go_from_a_table_to_recommendations(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = plays()
    assert graph.weights is not None
    with (tmp_path / "plays.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "plays"])
        writer.writerows(zip(*graph.edge_index.tolist(), graph.weights.tolist(), strict=True))
    prepared, run = str(tmp_path / "prepared"), str(tmp_path / "run")
    assert cli.main(["prepare", str(tmp_path / "plays.csv"), prepared, "--weight", "plays"]) == 0
    read = Dataset.load(prepared).interactions
    assert read.weights is not None and sorted(read.weights.tolist()) == sorted(
        graph.weights.tolist()
    )
    options = ["--preset", name, "--epochs", "4", "--embedding-dim", "8", "--set", "eval_every=2"]
    if name != "tutorial":
        options += ["--batch-size", "1024"]
    assert cli.main(["train", prepared, run, *options]) == 0
    capsys.readouterr()
    assert (
        cli.main(["evaluate", run, "--baselines", "popularity", "item_cosine", "ease", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["lightgcn"]["metrics"]["recall@20"] > 0
    assert cli.main(["recommend", run, "--user", "3", "-k", "3"]) == 0
    recommender = Recommender.load(Path(run) / "recommender.safetensors")
    assert recommender.seen.weights is not None
    items = recommender.seen.items_of(recommender.user_index(3))
    even, uneven = (
        recommender.fold_in_user(items.tolist(), weights)
        for weights in (None, [1.0] * 9 + [50.0] * (len(items) - 9))
    )
    assert not torch.allclose(even, uneven, atol=1e-4)
