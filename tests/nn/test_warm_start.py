"""`warm_start`: rows by id, means of neighbours for new nodes, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import lightgcn
from lightgcn import Interactions, LightGCN, warm_start
from lightgcn.datasets import synthetic_interactions

OLD = {"user": ["ann", "ann", "bob"], "item": ["s1", "s2", "s2"]}
# Users and items in another order; cid is new with an old and a new item, s9 is new, zed and s8 are
# new among themselves.
NEW = {
    "user": ["bob", "ann", "cid", "cid", "bob", "zed"],
    "item": ["s2", "s1", "s2", "s9", "s9", "s8"],
}


def old_model(graph: Interactions, **options: object) -> LightGCN:
    return LightGCN(graph.num_users, graph.num_items, 4, 2, seed=3, **options)


def test_rows_move_by_id_and_new_nodes_start_from_the_mean_of_known_neighbours() -> None:
    old, new = Interactions.from_frame(OLD), Interactions.from_frame(NEW)
    model = old_model(old, normalization="mean", alpha="learnable")
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([0.5, 0.3, 0.2]))
    model.ranking = lightgcn.RankingConfig(popularity_prior=0.1)
    before = model.embedding.detach().clone()
    started = warm_start(model, old, new)
    assert torch.equal(model.embedding, before)
    assert started.normalization == "mean" and started.ranking == model.ranking
    assert torch.equal(started.alpha, model.alpha)
    row = {name: started.embedding[at] for at, name in enumerate(new.user_ids)}
    row |= {name: started.embedding[new.num_users + at] for at, name in enumerate(new.item_ids)}
    was = {name: before[at] for at, name in enumerate(old.user_ids)}
    was |= {name: before[old.num_users + at] for at, name in enumerate(old.item_ids)}
    for name in ("ann", "bob", "s1", "s2"):
        assert torch.equal(row[name], was[name]), name
    torch.testing.assert_close(row["cid"], was["s2"])  # s9 is new itself
    torch.testing.assert_close(row["s9"], was["bob"])
    assert bool(row["zed"].any()) and not torch.equal(row["zed"], row["s8"])


def test_weights_count_in_the_mean() -> None:
    old = Interactions.from_frame(OLD)
    plays = {"user": ["ann", "ann", "new"], "item": ["s1", "s2", "s1"], "plays": [1, 1, 3]}
    plays = {
        name: [*values, *more]
        for (name, values), more in zip(plays.items(), (["new"], ["s2"], [1]), strict=True)
    }
    new = Interactions.from_frame(plays, weight="plays")
    model = old_model(old)
    started = warm_start(model, old, new)
    items = model.embedding.detach()[2:]
    torch.testing.assert_close(started.embedding[1].detach(), (3 * items[0] + items[1]) / 4)


def test_untrained_nodes_of_the_old_graph_start_as_new_ones() -> None:
    old = Interactions([0], [0], num_users=2, num_items=1)
    new = Interactions([0, 1], [0, 0], num_users=2, num_items=1)
    model = old_model(old)
    started = warm_start(model, old, new)
    torch.testing.assert_close(started.embedding[1], started.embedding[2])


def test_an_unchanged_graph_gives_the_same_scores() -> None:
    graph = synthetic_interactions(30, 20, 200)
    model = old_model(graph)
    assert torch.equal(warm_start(model, graph, graph)(graph, graph), model(graph, graph))


def test_refusals_name_what_does_not_fit() -> None:
    old = Interactions.from_frame(OLD)
    other = Interactions.from_frame({"user": ["x"], "item": ["y"]})
    with pytest.raises(ValueError, match="'s1', 's2' and items such as 'y'"):
        warm_start(old_model(old), old, other)
    with pytest.raises(ValueError, match="2 users and 2 items"):
        warm_start(old_model(old), other, old)
    with pytest.raises(TypeError, match="str"):
        warm_start("model", old, old)  # type: ignore[arg-type]


def test_training_starts_from_the_model_and_names_a_contradiction() -> None:
    graph = synthetic_interactions(60, 40, 600)
    split = lightgcn.split_edges(graph, stratify="user")
    settings = {"epochs": 2, "embedding_dim": 8}
    model = lightgcn.train(split, "fast", **settings)
    again = lightgcn.train(
        split, "fast", start=warm_start(model, graph, split.val.message), **settings
    )
    assert torch.cosine_similarity(again.embedding.ravel(), model.embedding.ravel(), dim=0) > 0.8
    with pytest.raises(ValueError, match="embedding_dim=8, not 16"):
        lightgcn.train(split, "fast", start=model, epochs=2, embedding_dim=16)
