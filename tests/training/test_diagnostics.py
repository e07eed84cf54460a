"""Warnings of settings that run and teach little: each where it is due, once, and nowhere else."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from lightgcn import Interactions, LightGCN, LinkSet, Preset, Split, fit, preset, split_edges
from lightgcn.datasets import synthetic_interactions

USERS, ITEMS, EDGES = 60, 45, 700
# 100 steps: 20 epochs of 5.
ENOUGH: dict[str, Any] = {
    "embedding_dim": 4,
    "epochs": 20,
    "batch_size": 110,
    "metric": "recall@5",
    "eval_every": 20,
}
PAPER = preset("paper", **ENOUGH)
FAST = preset("fast", **ENOUGH, init="normal")


def a_split(disjoint: float = 0.0) -> Split:
    graph = synthetic_interactions(USERS, ITEMS, EDGES, seed=1, num_tastes=3)
    return split_edges(graph, (0.7, 0.15, 0.15), disjoint=disjoint)


def warnings_of(split: Split, settings: Preset, model: LightGCN | None = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model or settings.new_model(split.val.message), split, settings)
    assert all(each.category is UserWarning for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("settings", [PAPER, FAST], ids=["paper", "fast"])
def test_a_disjoint_split_that_the_settings_do_not_expect(settings: Preset) -> None:
    split = a_split(disjoint=0.2)
    share = round(100 * split.train.message.num_edges / split.val.message.num_edges)
    (said,) = warnings_of(split, settings.changed(epochs=200, eval_every=200))
    assert f"{share}%" in said and "disjoint=0" in said


def test_splits_that_go_with_the_settings() -> None:
    links = preset("tutorial", embedding_dim=4, epochs=100, eval_every=100)
    whole, disjoint = a_split(), a_split(disjoint=0.2)
    copy = Interactions.from_edge_index(whole.train.positives.edge_index, USERS, ITEMS)
    by_hand = whole._replace(train=LinkSet(copy, whole.train.positives, whole.train.negatives))
    for split, settings in (
        (whole, PAPER),
        (by_hand, PAPER),
        (disjoint, PAPER.changed(disjoint=0.2, batch_size=20)),
        (disjoint, links),
        (whole, links.changed(disjoint=0.0)),
    ):
        assert warnings_of(split, settings) == []


def test_too_few_steps_name_what_would_be_enough() -> None:
    split = a_split()
    samples = split.train.positives.num_edges
    (said,) = warnings_of(split, PAPER.changed(batch_size=16384))
    assert "20 steps" in said and f"a batch size of {samples // 5} or less" in said
    assert warnings_of(split, PAPER.changed(batch_size=samples // 5)) == []
    for changes in ({"batch_size": None}, {"batch_size": 16384, "epochs": 2}):
        (said,) = warnings_of(split, PAPER.changed(**changes))
        assert said.endswith("more epochs")


def test_validation_users_without_train_edges() -> None:
    # Users 54 to 59 have two edges each, all of them in validation.
    index = torch.cat(
        [
            torch.stack([torch.arange(50).repeat_interleave(20), torch.arange(1000) * 7 % ITEMS]),
            torch.stack([torch.arange(50, 60).repeat_interleave(2), torch.arange(20) % ITEMS]),
        ],
        dim=1,
    )
    graph = Interactions.from_edge_index(index, USERS, ITEMS)
    held, kept = graph.select(graph.users >= 54), graph.select(graph.users < 54)
    none = torch.empty(2, 0, dtype=torch.int64)
    split = split_edges(graph, (0.7, 0.15, 0.15), disjoint=0.0)
    split = split._replace(train=LinkSet(kept, kept, none), val=LinkSet(kept, held, none))
    (said,) = warnings_of(split, PAPER.changed(batch_size=200))
    assert said.startswith("6 of 6 validation users")


def test_embeddings_that_are_large_from_the_start_are_not_warned_of() -> None:
    start = (2000 * torch.ones(USERS, 4), 2000 * torch.ones(ITEMS, 4))
    model = LightGCN(USERS, ITEMS, 4, 3, init=start)
    assert warnings_of(a_split(), PAPER, model) == []


def test_embeddings_that_grow_without_end_are_warned_of_once() -> None:
    (said,) = warnings_of(a_split(), PAPER.changed(learning_rate=5e3, eval_every=5))
    assert "diverging" in said and "learning rate" in said


def test_an_epoch_that_passes_over_all_edges_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    split = a_split()
    samples, edges = split.train.positives.num_edges, split.train.message.num_edges
    assert not warnings_of(split, FAST)
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_EPOCH", 5 * edges)
    (said,) = warnings_of(split, FAST)
    assert "5 steps" in said and f"{edges} edges" in said
    assert f"a batch size of {samples // 50}" in said
    assert not warnings_of(split, FAST.changed(num_layers=0))


def test_a_validation_that_ranks_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    split = a_split()
    users = int((split.val.positives.user_degrees > 0).sum())
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_RANKING", users * ITEMS)
    (said,) = warnings_of(split, FAST)
    assert f"{ITEMS} items" in said and f"{users} users" in said and "eval_users=10000" in said
    assert not warnings_of(split, FAST.changed(eval_users=users - 1))
    assert not warnings_of(split, FAST.changed(metric="roc_auc"))
