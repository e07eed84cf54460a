"""Warnings of settings that run and say little: each when it is due, once, and nowhere else."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from small_runs import stop_after

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


def a_split(settings: Preset, **options: Any) -> Split:
    graph = synthetic_interactions(USERS, ITEMS, EDGES, seed=1, num_tastes=3)
    chosen = {"disjoint": settings.train.disjoint, **options}
    return split_edges(graph, (0.7, 0.15, 0.15), **chosen)


def warnings_of(split: Split, settings: Preset, model: LightGCN | None = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model or settings.new_model(split.val.message), split, settings)
    assert all(each.category is UserWarning for each in caught)
    return [str(each.message) for each in caught]


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize("name", ["paper", "fast"])
def test_a_disjoint_split_that_the_settings_do_not_know_of(name: str) -> None:
    settings = preset(name, **ENOUGH)
    split = a_split(settings, disjoint=0.2)
    share = round(100 * split.train.positives.num_edges / split.val.message.num_edges)
    (said,) = warnings_of(split, settings.changed(epochs=200, eval_every=200))
    assert f"{share}%" in said and "disjoint=0" in said


def test_splits_that_go_with_the_settings() -> None:
    ranking = preset("paper", **ENOUGH)
    links = preset("tutorial", embedding_dim=4, epochs=100, eval_every=100)
    whole = a_split(ranking)
    copy = Interactions.from_edge_index(whole.train.positives.edge_index, USERS, ITEMS)
    by_hand = whole._replace(train=LinkSet(copy, whole.train.positives, whole.train.negatives))
    meant = ranking.changed(disjoint=0.2, batch_size=20)
    undivided = links.changed(disjoint=0.0)
    for split, settings in (
        (whole, ranking),
        (by_hand, ranking),
        (a_split(meant), meant),
        (a_split(links), links),
        (a_split(links), undivided),
    ):
        assert warnings_of(split, settings) == []


def test_the_default_calls_go_together_without_a_warning() -> None:
    graph = synthetic_interactions(USERS, ITEMS, EDGES, seed=1, num_tastes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(LightGCN(USERS, ITEMS, 4, 1), split_edges(graph), should_stop=stop_after(3))
    assert len(result.history) == 3


@pytest.mark.parametrize("disjoint", [0.0, 0.3])
def test_users_who_have_every_item_are_left_out_of_a_sampled_loss(disjoint: float) -> None:
    full = torch.cartesian_prod(torch.tensor([3, 5]), torch.arange(ITEMS)).T
    sparse = synthetic_interactions(USERS, ITEMS, EDGES, seed=1, num_tastes=3).edge_index
    ids = [f"listener {number}" for number in range(USERS)]
    graph = Interactions.from_edge_index(
        torch.cat([full, sparse], dim=1).unique(dim=1), USERS, ITEMS, user_ids=ids
    )
    split = split_edges(graph, (1.0,), disjoint=disjoint)
    enough = ENOUGH | {"epochs": 100, "disjoint": disjoint}
    bpr = preset("paper", **enough)
    (said,) = warnings_of(split, bpr)
    own = int((split.train.positives.users == 3).sum() + (split.train.positives.users == 5).sum())
    assert "listener 3" in said and own > 0
    assert numbers_in(said) == [2, 3, ITEMS, own, split.train.positives.num_edges]
    assert warnings_of(split, preset("fast", **enough)) == []
    only_full = graph.select((graph.users == 3) | (graph.users == 5))
    model, start = bpr.new_model(graph), bpr.new_model(graph).embedding.detach()
    with pytest.warns(UserWarning, match="stays as it starts"):
        result = fit(model, split_edges(only_full, (1.0,), disjoint=disjoint), bpr)
    assert len(result.history) == 100 and torch.equal(model.embedding.detach(), start)


def test_too_few_steps_name_what_would_be_enough() -> None:
    settings = preset("paper", **ENOUGH | {"batch_size": 16384})
    split = a_split(settings)
    (said,) = warnings_of(split, settings)
    samples = split.train.positives.num_edges
    assert numbers_in(said) == [20, 20, 1, samples, samples // 5]
    assert warnings_of(split, settings.changed(batch_size=samples // 5)) == []
    for other in (settings.changed(batch_size=None), settings.changed(epochs=2)):
        (said,) = warnings_of(split, other)
        assert numbers_in(said)[-1] == samples and "epochs" in said


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
    settings = preset("paper", **ENOUGH | {"batch_size": 200})
    held = graph.select(graph.users >= 54)
    kept = graph.select(graph.users < 54)
    split = split_edges(graph, (0.7, 0.15, 0.15), disjoint=0.0)
    bare = LinkSet(kept, held, torch.empty(2, 0, dtype=torch.int64))
    train = LinkSet(kept, kept, torch.empty(2, 0, dtype=torch.int64))
    (said,) = warnings_of(split._replace(train=train, val=bare), settings)
    assert numbers_in(said) == [6, 6] and "stratify" in said


def test_embeddings_that_are_large_from_the_start() -> None:
    settings = preset("paper", **ENOUGH)
    tables = (2000 * torch.ones(USERS, 4), 2000 * torch.ones(ITEMS, 4))
    assert warnings_of(a_split(settings), settings, LightGCN(USERS, ITEMS, 4, 3, init=tables)) == []


def test_embeddings_that_grow_without_end_are_warned_of_once() -> None:
    settings = preset("paper", **ENOUGH | {"learning_rate": 5e3, "eval_every": 5})
    (said,) = warnings_of(a_split(settings), settings)
    assert "embedding" in said and "learning rate" in said


def test_an_epoch_that_passes_over_all_edges_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = preset("fast", **ENOUGH, init="normal")
    split = a_split(settings)
    samples, edges = split.train.positives.num_edges, split.train.message.num_edges
    assert not warnings_of(split, settings)
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_EPOCH", 5 * edges)
    (said,) = warnings_of(split, settings)
    assert numbers_in(said) == [5, edges, samples // 50, 50]
    assert not warnings_of(split, settings.changed(num_layers=0))


def test_a_validation_that_ranks_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = preset("fast", **ENOUGH, init="normal")
    split = a_split(settings)
    users = int((split.val.positives.user_degrees > 0).sum())
    monkeypatch.setattr("lightgcn.training.diagnostics._LONG_RANKING", users * ITEMS)
    (said,) = warnings_of(split, settings)
    assert numbers_in(said)[:3] == [ITEMS, users, 10000] and "eval_users" in said
    assert not warnings_of(split, settings.changed(eval_users=users - 1))
    assert not warnings_of(split, settings.changed(metric="roc_auc"))
