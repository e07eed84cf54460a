"""Metrics against Python loops and, where definitions agree, against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from lightgcn import Interactions
from lightgcn.ranking.metrics import (
    RANKING_METRICS,
    clicks,
    hits_of,
    is_better,
    lower_is_better,
    ndcg,
    parse_metric,
    r_precision,
    roc_auc,
)


def first_hit(hits: list[bool]) -> int | None:
    return next((rank for rank, hit in enumerate(hits, start=1) if hit), None)


def naive_ndcg(hits: list[bool], relevant: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(hits), relevant) + 1))


def naive_map(hits: list[bool], relevant: int) -> float:
    total = sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits, start=1) if hit)
    return total / min(len(hits), relevant)


def naive_clicks(hits: list[bool], relevant: int) -> float:
    rank = first_hit(hits)
    return 51 if rank is None else (rank - 1) // 10


NAIVE: dict[str, Callable[[list[bool], int], float]] = {
    "recall": lambda hits, relevant: sum(hits) / relevant,
    "precision": lambda hits, relevant: sum(hits) / len(hits),
    "ndcg": naive_ndcg,
    "hit_rate": lambda hits, relevant: float(any(hits)),
    "mrr": lambda hits, relevant: 1 / (first_hit(hits) or math.inf),
    "map": naive_map,
    "r_precision": lambda hits, relevant: sum(hits[:relevant]) / relevant,
    "clicks": naive_clicks,
}


@st.composite
def ranked_users(draw: st.DrawFn) -> list[tuple[list[bool], int]]:
    """Some users' hits, all of one length, with no more hits than relevant items."""
    k = draw(st.integers(1, 40))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=5))
    return [(row, max(1, sum(row)) + draw(st.integers(0, 60))) for row in rows]


def test_every_metric_has_a_reference() -> None:
    assert set(NAIVE) == set(RANKING_METRICS)


@pytest.mark.parametrize("name", NAIVE)
@settings(deadline=None, max_examples=60)
@given(users=ranked_users())
def test_metric_equals_a_loop(name: str, users: list[tuple[list[bool], int]]) -> None:
    hits = torch.tensor([row for row, _ in users])
    relevant = torch.tensor([count for _, count in users])
    found = RANKING_METRICS[name](hits, relevant)
    assert found.dtype == torch.float64 and found.shape == (len(users),)
    assert found.tolist() == pytest.approx(
        [NAIVE[name](row, count) for row, count in users], rel=1e-12
    )


def test_a_list_that_could_not_be_better_scores_one() -> None:
    hits = torch.tensor([[True, True, False, False], [True, True, True, True]])
    relevant = torch.tensor([2, 9])
    for name in ("ndcg", "map", "mrr", "hit_rate"):
        assert RANKING_METRICS[name](hits, relevant).tolist() == pytest.approx([1.0, 1.0])
    assert RANKING_METRICS["recall"](hits, relevant).tolist() == pytest.approx([1.0, 4 / 9])


@pytest.mark.parametrize("k", [1, 5, 12])
def test_ndcg_equals_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((30, 12)) < 0.3).astype(float)
    truth[:, 0] = 1
    scores = rng.permuted(np.tile(np.arange(12.0), (30, 1)), axis=1)
    order = np.argsort(-scores, axis=1)[:, :k]
    hits = torch.from_numpy(np.take_along_axis(truth, order, axis=1) > 0)
    found = ndcg(hits, torch.from_numpy(truth.sum(1).astype(int)))
    assert float(found.mean()) == pytest.approx(ndcg_score(truth, scores, k=k), rel=1e-12)


@pytest.mark.parametrize(
    ("rank", "expected"), [(1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (491, 49), (500, 49)]
)
def test_clicks_count_pages_of_ten(rank: int, expected: int) -> None:
    hits = torch.zeros(1, 500, dtype=torch.bool)
    hits[0, rank - 1 :] = True
    assert clicks(hits, torch.tensor([3])).tolist() == [expected]


def test_clicks_without_a_hit_are_51() -> None:
    assert clicks(torch.zeros(1, 500, dtype=torch.bool), torch.tensor([3])).tolist() == [51]


def test_r_precision_looks_at_as_many_ranks_as_there_are_relevant_items() -> None:
    hits = torch.tensor([[True, False, True, True, False]])
    assert r_precision(hits, torch.tensor([3])).tolist() == pytest.approx([2 / 3])
    assert r_precision(hits, torch.tensor([10])).tolist() == pytest.approx([3 / 10])


def test_hits_of_ranked_items() -> None:
    relevant = Interactions.from_edge_index(torch.tensor([[0, 0, 2], [1, 3, 0]]), 3, 4)
    ranked = torch.tensor([[0, 1, -1], [3, 2, 0], [1, 3, 2]])
    found = hits_of(ranked, relevant, torch.tensor([2, 0, 1]))
    assert found.tolist() == [[True, False, False], [True, False, False], [False, False, False]]


@settings(deadline=None, max_examples=150)
@given(pairs=st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_roc_auc_equals_scikit_learn_with_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = [float(score) for score, _ in pairs], [label for _, label in pairs]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="both classes"):
            roc_auc(torch.tensor(scores), torch.tensor(labels))
        return
    expected = roc_auc_score(labels, scores)
    assert roc_auc(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(expected, abs=1e-12)
    assert roc_auc(torch.tensor(scores), torch.tensor(labels).float()) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_roc_auc_of_any_dtype(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(5000, generator=generator) < 0.3
    scores = (torch.randn(5000, generator=generator) + labels).to(dtype)
    assert roc_auc(scores, labels) == pytest.approx(
        roc_auc_score(labels.numpy(), scores.double().numpy()), abs=1e-12
    )


def test_roc_auc_of_infinite_scores() -> None:
    scores = torch.tensor([-torch.inf, 0.0, torch.inf, torch.inf])
    assert roc_auc(scores, torch.tensor([0, 1, 1, 0])) == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_roc_auc_of_all_ties_is_a_half() -> None:
    assert roc_auc(torch.zeros(6), torch.tensor([1, 0, 1, 0, 0, 0])) == 0.5


def test_roc_auc_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="0 positives and 3 negatives"):
        roc_auc(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="3 positives and 0 negatives"):
        roc_auc(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="0 positives and 0 negatives"):
        roc_auc(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        roc_auc(torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        roc_auc(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        roc_auc(torch.zeros(3, 1), torch.zeros(3, 1))


def test_roc_auc_takes_scores_that_require_a_gradient() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5], requires_grad=True)
    assert roc_auc(scores, torch.tensor([0.0, 1.0, 1.0])) == 1.0


def test_which_of_two_values_is_better() -> None:
    names = ("roc_auc", "loss", *(f"{name}@5" for name in RANKING_METRICS))
    assert {name for name in names if lower_is_better(name)} == {"loss", "clicks@5"}
    for name in names:
        low, high = is_better(name, 0.1, 0.2), is_better(name, 0.2, 0.1)
        assert (low, high) == ((True, False) if lower_is_better(name) else (False, True))
        assert is_better(name, 0.1, 0.1) is False


def test_a_metric_has_one_spelling() -> None:
    assert parse_metric("recall@20") == ("recall", 20)
    assert parse_metric("recall@1") == ("recall", 1)
    assert parse_metric("roc_auc") == ("roc_auc", None)
    for name in ("recall", "roc_auc@5", "recall@0", "recall@05", "recall@+5", "recall@", "auc"):
        with pytest.raises(ValueError, match="metric must be"):
            parse_metric(name)
