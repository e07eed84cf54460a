"""Warnings of settings that run and say little: each where it is due, once, and nowhere else."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from lightgcn import Interactions, LightGCN, LinkSet, Preset, Split, fit, preset, split_edges
from lightgcn.datasets.synthetic.generate import synthetic_interactions

USERS, ITEMS, EDGES = 60, 45, 700
# 100 steps: 20 epochs of 5.
ENOUGH: dict[str, Any] = {
    "embedding_dim": 4,
    "epochs": 20,
    "batch_size": 110,
    "metric": "recall@5",
    "eval_every": 20,
}


def a_split(config: Preset, **settings: Any) -> Split:
    graph = synthetic_interactions(USERS, ITEMS, EDGES, seed=1, num_tastes=3)
    return split_edges(graph, (0.7, 0.15, 0.15), **{"disjoint": config.train.disjoint} | settings)


def warnings_of(split: Split, config: Preset) -> list[str]:
    nodes = split.train.message
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            LightGCN(
                nodes.num_users,
                nodes.num_items,
                config.model.embedding_dim,
                config.model.num_layers,
            ),
            split,
            config.train,
        )
    assert all(each.category is UserWarning for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("name", ["paper", "fast"])
def test_a_disjoint_split_that_the_settings_do_not_know_of(name: str) -> None:
    config = preset(name, **ENOUGH)
    split = a_split(config, disjoint=0.2)
    share = round(100 * split.train.message.num_edges / split.val.message.num_edges)
    (said,) = warnings_of(split, config.changed(epochs=200, eval_every=200))
    assert (
        said.startswith(f"{share}% of the train edges are not learned from")
        and "disjoint=0" in said
    )


def test_splits_that_go_with_the_settings() -> None:
    ranking = preset("paper", **ENOUGH)
    links = preset("tutorial", embedding_dim=4, epochs=100, eval_every=100)
    whole = a_split(ranking)
    copy = Interactions.from_edge_index(whole.train.positives.edge_index, USERS, ITEMS)
    by_hand = whole._replace(train=LinkSet(copy, whole.train.positives, whole.train.negatives))
    meant = ranking.changed(disjoint=0.2, batch_size=20)
    undivided = links.changed(disjoint=0.0)
    for split, config in (
        (whole, ranking),
        (by_hand, ranking),
        (a_split(meant), meant),
        (a_split(links), links),
        (a_split(links), undivided),
    ):
        assert warnings_of(split, config) == []


def test_too_few_steps_say_what_would_be_enough() -> None:
    config = preset("paper", **ENOUGH | {"batch_size": 16384})
    split = a_split(config)
    (said,) = warnings_of(split, config)
    samples = split.train.positives.num_edges
    assert said == (
        f"the whole training is 20 steps (20 epochs of 1), too few to learn much from {samples} "
        "samples: "
        f"try a batch size of {samples // 5} or less"
    )
    assert warnings_of(split, config.changed(batch_size=samples // 5)) == []
    (said,) = warnings_of(split, config.changed(batch_size=None))
    assert said.endswith("try more epochs")
    (said,) = warnings_of(split, config.changed(epochs=2))
    assert said.endswith("try more epochs")


def test_validation_users_of_whom_nothing_is_known() -> None:
    # Ten users of two edges each among which validation takes both; the others have plenty.
    index = torch.cat(
        [
            torch.stack([torch.arange(50).repeat_interleave(20), torch.arange(1000) * 7 % ITEMS]),
            torch.stack([torch.arange(50, 60).repeat_interleave(2), torch.arange(20) % ITEMS]),
        ],
        dim=1,
    )
    graph = Interactions.from_edge_index(index, USERS, ITEMS)
    config = preset("paper", **ENOUGH | {"batch_size": 200})
    held = graph.select(graph.users >= 54)
    kept = graph.select(graph.users < 54)
    split = split_edges(graph, (0.7, 0.15, 0.15), disjoint=0.0)
    bare = LinkSet(kept, held, torch.empty(2, 0, dtype=torch.int64))
    train = LinkSet(kept, kept, torch.empty(2, 0, dtype=torch.int64))
    (said,) = warnings_of(split._replace(train=train, val=bare), config)
    assert (
        said.startswith("6 of 6 validation users have no train edge")
        and "stratify the split by user" in said
    )


def test_embeddings_that_are_large_from_the_start() -> None:
    config = preset("paper", **ENOUGH)
    split = a_split(config)
    model = LightGCN(
        USERS, ITEMS, 4, 3, init=(2000 * torch.ones(USERS, 4), 2000 * torch.ones(ITEMS, 4))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, split, config.train)


def test_embeddings_that_grow_without_end_are_spoken_of_once() -> None:
    config = preset("paper", **ENOUGH | {"learning_rate": 5e3, "eval_every": 5})
    (said,) = warnings_of(a_split(config), config)
    assert "embedding has grown to" in said and "lower the learning rate" in said


def test_an_epoch_that_passes_over_all_edges_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("fast", **ENOUGH, init="normal")
    split = a_split(config)
    samples, edges = split.train.positives.num_edges, split.train.message.num_edges
    assert not warnings_of(split, config)
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_EPOCH", 5 * edges)
    (said,) = warnings_of(split, config)
    expected = f"an epoch is 5 steps, and each passes over all {edges} edges: with a batch size of {samples // 50} it "
    assert said == expected + "would be 50"
    assert not warnings_of(split, config.changed(num_layers=0, init="normal"))


def test_a_validation_that_ranks_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("fast", **ENOUGH, init="normal")
    split = a_split(config)
    users = int((split.val.positives.user_degrees > 0).sum())
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_RANKING", users * ITEMS)
    (said,) = warnings_of(split, config)
    assert said.startswith(
        f"each validation ranks {ITEMS} items for {users} users: eval_users=10000 ranks them for "
        "10000"
    )
    assert not warnings_of(split, config.changed(eval_users=users - 1))
    assert not warnings_of(split, config.changed(metric="roc_auc"))
