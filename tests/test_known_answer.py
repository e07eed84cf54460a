"""A graph whose answer is known goes the whole way: data, training, evaluation, recommendations, a
file.

Users and items stand in blocks. A user has every item of its block but one: user j lacks item j of
its block. That one edge is withheld, and nothing else of the block is unseen, so it has to come
first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightgcn import (
    Interactions,
    LinkSet,
    Recommender,
    Split,
    evaluate,
    fit,
    link_set,
    preset,
)
from lightgcn.ranking import popularity, top_k_scores

BLOCKS, SIZE = 5, 8
NODES = BLOCKS * SIZE


pytestmark = pytest.mark.usefixtures("one_thread")


def planted() -> tuple[Interactions, Interactions]:
    """Return (known edges, withheld edges)."""
    users, items = torch.cartesian_prod(torch.arange(NODES), torch.arange(NODES)).T
    same_block = users // SIZE == items // SIZE
    ids: dict[str, Any] = {
        "user_ids": [f"user {n}" for n in range(NODES)],
        "item_ids": [f"item {n}" for n in range(NODES)],
    }
    known, withheld = (
        Interactions.from_edge_index(torch.stack([users[kept], items[kept]]), NODES, NODES, **ids)
        for kept in (same_block & (users != items), users == items)
    )
    return known, withheld


def split() -> Split:
    known, withheld = planted()
    train = link_set(known, known, seed=1)
    val = link_set(known, withheld, seed=2)
    return Split(train, val, val)


CONFIGS = {
    "bce": preset(
        "paper",
        loss="bce",
        normalization="mean",
        num_layers=3,
        batch_size=None,
        learning_rate=0.02,
        epochs=60,
    ),
    "bpr": preset("paper", loss="bpr", num_layers=2, batch_size=100, learning_rate=0.02, epochs=20),
    "softmax": preset(
        "paper",
        loss="softmax",
        num_layers=1,
        init="xavier",
        batch_size=100,
        learning_rate=0.02,
        epochs=20,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_withheld_edge_comes_first(name: str, tmp_path: Path) -> None:
    # Choosing the epoch by the answer would help: the training loss alone decides that it ends.
    config = preset(
        "paper",
        **{
            **CONFIGS[name].flat(),
            "metric": "loss",
            "eval_every": CONFIGS[name].train.epochs,
            "embedding_dim": 16,
            "l2": 1e-4,
            "patience": None,
        },
    )
    parts = split()
    model = config.new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), NODES, NODES)
    )
    result = fit(model, parts, config, run_dir=tmp_path)
    assert result.history[-1]["loss"] < result.history[0]["loss"]

    found = evaluate(model, parts.val, ks=(1, 20), metrics=("recall", "ndcg", "mrr", "clicks"))
    assert found.num_users == NODES
    assert (
        found["recall@1"] == found["ndcg@20"] == found["mrr@20"] == 1.0
        and found["clicks@20"] == 0.0
    )
    assert found["roc_auc"] > 0.99

    Recommender.from_model(model, parts.val.message).save(tmp_path / "recommender")
    recommender = Recommender.load(tmp_path / "recommender")
    for node in range(NODES):
        assert recommender.recommend(f"user {node}", 1)[0].id == f"item {node}"
        block = range(node // SIZE * SIZE, (node // SIZE + 1) * SIZE)
        alike = recommender.similar_items(f"item {node}", SIZE - 1)
        assert {one.index for one in alike} == set(block) - {node}
        # A new user who has what this user has gets what is withheld from this user.
        mine = [f"item {item}" for item in block if item != node]
        assert recommender.recommend_new(mine, 1)[0].id == f"item {node}"


def test_popularity_does_not_find_them() -> None:
    """The task tells taste from popularity: each item is as popular as any other."""
    known, withheld = planted()
    users = torch.arange(known.num_users)
    scores = popularity(known).scores
    best = top_k_scores(scores, users, known.num_items, 1, seen=known).items.flatten()
    assert int((best == withheld.items).sum()) <= SIZE


def test_the_way_through_a_random_split() -> None:
    """With random edges withheld, and training seeing only the rest, all that is withheld ranks
    first."""
    from lightgcn import split_edges

    known, withheld = planted()
    whole = known.union(withheld)
    parts = split_edges(whole, (0.8, 0.1, 0.1), disjoint=0.2, seed=3)
    config = preset(
        "paper",
        loss="bce",
        normalization="mean",
        batch_size=None,
        learning_rate=0.02,
        epochs=80,
        embedding_dim=16,
        metric="roc_auc",
        eval_every=10,
        disjoint=0.2,
        l2=0.0,
    )
    model = config.new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), NODES, NODES)
    )
    fit(model, parts, config)
    test: LinkSet = parts.test
    found = evaluate(
        model,
        test,
        ks=(SIZE,),
        metrics=("map", "recall"),
    )
    assert found[f"map@{SIZE}"] == found[f"recall@{SIZE}"] == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    config = CONFIGS["softmax"].changed(**{"metric": "recall@1", "embedding_dim": 16})
    model = config.new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), NODES, NODES)
    ).cuda()
    assert fit(model, split(), config).best_value == 1.0
