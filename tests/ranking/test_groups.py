"""Metrics by groups of users and items, and metrics of all lists, against loops."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lightgcn import (
    Evaluation,
    Interactions,
    LightGCN,
    evaluate,
    evaluate_ranking,
    split_edges,
    top_k,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking import choose_ranking
from lightgcn.ranking.list_metrics import LIST_METRICS
from lightgcn.training import TrainConfig

USERS, ITEMS = 80, 50
LINKS = split_edges(synthetic_interactions(USERS, ITEMS, 1200, seed=1), seed=2).test
MODEL = LightGCN(USERS, ITEMS, 8, seed=3)
LISTS = top_k(*MODEL.embed(LINKS.message), 10, seen=LINKS.message).items.tolist()
KNOWN = [set(LINKS.message.items_of(user).tolist()) for user in range(USERS)]
WANTED = [set(LINKS.positives.items_of(user).tolist()) for user in range(USERS)]
HOLDERS = LINKS.message.item_degrees.tolist()
ABLE = [user for user in range(USERS) if WANTED[user]]


def evaluated(**options: Any) -> Evaluation:
    return evaluate(MODEL, LINKS, ks=(5, 10), per_user=True, **options)


@pytest.mark.parametrize("bands", [1, 3, 4, 1000, [0, 8, 14], [8, 14], (0, 10_000)])
def test_groups_of_users_equal_a_loop(bands: Any) -> None:
    result = evaluated()
    groups = result.by_history(bands)
    lengths = [len(KNOWN[user]) for user in ABLE]
    if isinstance(bands, int):
        assert 1 <= len(groups) <= bands
        assert sum(group.num_users for group in groups) == len(ABLE)
    else:
        ends = [*bands, 10**9]
        filled = [
            (low, high) for low, high in pairwise(ends) if any(low <= n < high for n in lengths)
        ]
        assert [len([n for n in lengths if low <= n < high]) for low, high in filled] == [
            group.num_users for group in groups
        ]
    assert all(one.high < other.low for one, other in pairwise(groups))
    for group in groups:
        inside = [user for user in ABLE if group.low <= len(KNOWN[user]) <= group.high]
        assert group.num_users == len(inside) and group.num_edges == sum(
            len(WANTED[user]) for user in inside
        )
        for k in (5, 10):
            recalls = [
                len(WANTED[user] & set(LISTS[user][:k])) / len(WANTED[user]) for user in inside
            ]
            assert group.metrics[f"recall@{k}"] == pytest.approx(np.mean(recalls))
        assert set(group.metrics) == {name for name in result.metrics if "@" in name}


@pytest.mark.parametrize("bands", [1, 3, 4, 1000, [0, 8, 14], [0, 1, 3, 6, 21]])
def test_groups_of_items_equal_a_loop(bands: Any) -> None:
    groups = evaluated(metrics=("recall", "ndcg")).by_popularity(bands)
    assert sum(group.num_edges for group in groups) == LINKS.positives.num_edges
    if not isinstance(bands, int):
        for group in groups:
            assert sum(low <= group.low for low in bands) == sum(low <= group.high for low in bands)
    for group in groups:
        rows = []
        for user in ABLE:
            band = {item for item in WANTED[user] if group.low <= HOLDERS[item] <= group.high}
            if band:
                rows.append([len(band & set(LISTS[user][:k])) / len(band) for k in (5, 10)])
        assert group.num_users == len(rows)
        assert list(group.metrics) == ["recall@5", "recall@10"]
        assert list(group.metrics.values()) == pytest.approx(np.mean(rows, axis=0).tolist())


def test_bands_as_an_array_or_a_tensor_are_those_of_a_list() -> None:
    result = evaluated(metrics=("recall",))
    for ends in (np.array([0, 8]), torch.tensor([0, 8])):
        assert result.by_history(ends) == result.by_history([0, 8])  # type: ignore[arg-type]


def test_bands_by_quantiles_are_about_as_large() -> None:
    for groups in (evaluated().by_history(4), evaluated().by_popularity(4)):
        sizes = [group.num_users for group in groups]
        assert len(sizes) == 4 and max(sizes) < 2 * min(sizes)


def test_a_band_is_the_recall_of_its_edges_alone() -> None:
    users, items = MODEL.embed(LINKS.message)
    for group in evaluated().by_popularity([0, 10]):
        held_by = LINKS.message.item_degrees[LINKS.positives.items]
        band = LINKS.positives.select((held_by >= group.low) & (held_by <= group.high))
        alone = evaluate_ranking(
            users, items, band, seen=LINKS.message, ks=(5, 10), metrics=("recall",)
        )
        assert group.metrics == pytest.approx(alone.metrics) and group.num_users == alone.num_users


def test_train_edges_that_are_to_be_found_count_as_known() -> None:
    links = split_edges(synthetic_interactions(USERS, ITEMS, 1200, seed=1), seed=2).train
    groups = evaluate(MODEL, links, ks=(5,), per_user=True).by_history(1)
    assert groups[0].low == int(links.message.user_degrees.min())


@pytest.mark.parametrize("bands", [0, -1, 1.5, "4", [], [5, 3], [3, 3], [-1, 2], None])
def test_wrong_bands_are_named(bands: Any) -> None:
    for ask in (evaluated().by_history, evaluated().by_popularity):
        with pytest.raises(ValueError, match="bands must be"):
            ask(bands)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_metrics_of_lists_equal_a_loop(k: int) -> None:
    found = evaluate(MODEL, LINKS, ks=(k,), metrics=tuple(LIST_METRICS))
    shown = [item for user in ABLE for item in LISTS[user][:k]]
    counts = [shown.count(item) for item in range(ITEMS)]
    gaps = [abs(one - other) for one in counts for other in counts]
    bits = [-math.log2(max(HOLDERS[item], 1) / USERS) for item in shown]
    assert found[f"coverage@{k}"] == pytest.approx(len(set(shown)) / ITEMS)
    assert found[f"gini@{k}"] == pytest.approx(sum(gaps) / (2 * ITEMS * sum(counts)))
    assert found[f"novelty@{k}"] == pytest.approx(np.mean(bits))
    assert found[f"popularity@{k}"] == pytest.approx(np.mean([HOLDERS[item] for item in shown]))


def test_metrics_of_lists_in_extreme_cases() -> None:
    users, items = torch.ones(4, 1), torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    relevant = Interactions(range(4), range(4), 4, 4)
    names = ("coverage", "gini")
    same = evaluate_ranking(users, items, relevant, ks=(1,), metrics=names)
    assert (same["coverage@1"], same["gini@1"]) == (0.25, 0.75)
    every = evaluate_ranking(torch.eye(4), torch.eye(4), relevant, ks=(1, 4), metrics=names)
    assert [every[name] for name in ("coverage@1", "gini@1", "coverage@4", "gini@4")] == [
        1,
        0,
        1,
        0,
    ]
    # An item that nobody has counts as one that one of the four has.
    none = Interactions([], [], 4, 4)
    new = evaluate_ranking(
        users, items, relevant, seen=none, ks=(1,), metrics=("novelty", "popularity")
    )
    assert (new["novelty@1"], new["popularity@1"]) == (2.0, 0.0)


def test_places_without_an_item_are_not_counted() -> None:
    """A user who has all but one item gets a list of one."""
    seen = Interactions([0, 0], [0, 1], 1, 3)
    relevant = Interactions([0], [2], 1, 3)
    found = evaluate_ranking(
        torch.ones(1, 1),
        torch.ones(3, 1),
        relevant,
        seen=seen,
        ks=(3,),
        metrics=tuple(LIST_METRICS),
    )
    assert found["coverage@3"] == pytest.approx(1 / 3) and found["popularity@3"] == 0


def test_metrics_of_lists_that_cannot_be_computed_are_named() -> None:
    users, items = torch.ones(4, 1), torch.ones(4, 1)
    relevant = Interactions(range(4), range(4), 4, 4)
    for name in ("novelty", "popularity"):
        with pytest.raises(ValueError, match=f"{name}.*seen"):
            evaluate_ranking(users, items, relevant, ks=(1,), metrics=(name,))
    with pytest.raises(ValueError, match=r"coverage@20.*cannot choose"):
        TrainConfig(metric="coverage@20")
    with pytest.raises(ValueError, match=r"gini@5.*cannot choose"):
        choose_ranking(MODEL, LINKS, "gini@5")


def test_lists_by_default_are_as_long_as_there_are_items() -> None:
    graph = synthetic_interactions(30, 12, 120, seed=1)
    split, model = split_edges(graph), LightGCN(30, 12, 4)
    assert "recall@12" in evaluate(model, split.test).metrics
    users, items = model.embed(split.test.message)
    assert "recall@12" in evaluate_ranking(users, items, split.test.positives).metrics
    assert "recall@20" in evaluate(MODEL, LINKS).metrics
    with pytest.raises(ValueError, match="k is 20, but there are only 12 items"):
        evaluate(model, split.test, ks=(20,))
