"""Baselines against dense float64 references on a small random graph."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightgcn import Interactions, evaluate_scores
from lightgcn.ranking import (
    ItemScorer,
    baselines,
    cheby_cf,
    ease,
    gf_cf,
    item_cosine,
    popularity,
    sparse_ease,
    top_k_scores,
)

USERS, ITEMS = 40, 23
CLOSED_FORMS = [item_cosine, ease, sparse_ease, gf_cf, cheby_cf]


def graph(weighted: bool = False) -> Interactions:
    """A random graph whose last user and last item have no edge."""
    generator = torch.Generator().manual_seed(5)
    dense = torch.rand(USERS, ITEMS, generator=generator) < torch.linspace(0.05, 0.5, ITEMS)
    dense[-1], dense[:, -1] = False, False
    edges = dense.nonzero().T
    weights = torch.rand(edges.shape[1], generator=generator) + 0.5 if weighted else None
    return Interactions.from_edge_index(edges, USERS, ITEMS, weights=weights)


def dense(interactions: Interactions) -> Any:
    return interactions.to_scipy().toarray().astype(np.float64)


def everyone(scorer: ItemScorer) -> Any:
    return scorer.scores(torch.arange(scorer.history.num_users)).numpy()


def map_of(scorer: ItemScorer) -> Any:
    """The (num_items, num_items) matrix that a user's row is multiplied by: the scores of users of
    one item each."""
    items = torch.arange(scorer.history.num_items)
    return everyone(scorer.for_users(Interactions(items, items, len(items), len(items))))


def blocks(
    num_blocks: int = 4, users: int = 12, items: int = 8
) -> tuple[Interactions, Interactions]:
    """Users who have all items of their block but one, which is to be found, and one item that
    everyone has."""
    pairs = [
        (b * users + u, b * items + i)
        for b in range(num_blocks)
        for u in range(users)
        for i in range(items)
    ]
    held = {(b * users + u, b * items + u % items) for b in range(num_blocks) for u in range(users)}
    num_users, num_items = num_blocks * users, num_blocks * items + 1
    hits = [(user, num_items - 1) for user in range(num_users)]
    known = torch.tensor([pair for pair in pairs if pair not in held] + hits).T
    train = Interactions.from_edge_index(known, num_users, num_items)
    return train, Interactions.from_edge_index(torch.tensor(sorted(held)).T, num_users, num_items)


def naive_cosine(x: Any, neighbours: int, shrinkage: float, tf_idf: bool) -> Any:
    values = np.sqrt(x) * np.log(ITEMS / np.maximum((x > 0).sum(1), 1))[:, None] if tf_idf else x
    kept = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        near = []
        for j in range(ITEMS):
            product = values[:, i] @ values[:, j]
            if i != j and product > 0:
                lengths = np.linalg.norm(values[:, i]) * np.linalg.norm(values[:, j])
                near.append((-product / (lengths + shrinkage), j))
        for similarity, j in sorted(near)[:neighbours]:
            kept[j, i] = -similarity
    return x @ kept


def test_popularity_scores_an_item_by_its_number_of_users() -> None:
    graph = Interactions.from_edge_index(torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 0, 1]]), 4, 5)
    assert everyone(popularity(graph)).tolist() == [[1, 1, 3, 0, 0]] * 4


def test_seen_items_leave_the_list_and_ties_go_by_index() -> None:
    graph = Interactions.from_edge_index(torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 0, 1]]), 4, 5)
    ranked = top_k_scores(popularity(graph).scores, torch.arange(4), 5, 3, seen=graph).items
    assert ranked.tolist() == [[1, 3, 4], [0, 3, 4], [0, 1, 3], [2, 0, 1]]


def test_weights_do_not_count_for_popularity() -> None:
    edges = torch.tensor([[0, 1], [0, 1]])
    weighted = Interactions.from_edge_index(edges, 2, 2, weights=torch.tensor([5.0, 0.5]))
    assert everyone(popularity(weighted)).tolist() == [[1.0, 1.0]] * 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("neighbours", "shrinkage", "tf_idf"),
    [(3, 0.0, False), (ITEMS, 2.5, False), (5, 0.0, True), (4, 1.0, True)],
)
def test_item_cosine_equals_loops(
    neighbours: int, shrinkage: float, tf_idf: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "_BLOCK", 5 * ITEMS)  # items in several blocks
    found = item_cosine(graph(weighted), neighbours, shrinkage=shrinkage, tf_idf=tf_idf)
    expected = naive_cosine(dense(graph(weighted)), neighbours, shrinkage, tf_idf)
    assert everyone(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_equally_near_items_are_kept_by_index() -> None:
    same = Interactions.from_edge_index(
        torch.cartesian_prod(torch.arange(3), torch.arange(4)).T, 3, 4
    )
    kept = map_of(item_cosine(same, 2, shrinkage=0))
    assert (
        pytest.approx(np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]])) == kept.T
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("panel", [4, 1024])
def test_ease_equals_the_inverse(
    panel: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "_ROWS", panel)
    monkeypatch.setattr(baselines, "_BLOCK", 5 * ITEMS)
    x = dense(graph(weighted))
    p = np.linalg.inv(x.T @ x + 3.0 * np.eye(ITEMS))
    expected = np.eye(ITEMS) - p / np.diag(p)
    scorer = ease(graph(weighted), 3.0)
    assert everyone(scorer) == pytest.approx(x @ expected, abs=2e-5)
    assert map_of(scorer) == pytest.approx(expected, abs=2e-5)


def test_ease_is_the_least_squares_optimum_of_zero_diagonal() -> None:
    x, b = dense(graph()), map_of(ease(graph(), 3.0)).astype(np.float64)
    assert (np.diag(b) == 0).all()
    gradient = x.T @ (x @ b - x) + 3.0 * b
    np.fill_diagonal(gradient, 0)  # what the constraint takes up
    assert np.abs(gradient).max() < 1e-4
    for j in range(ITEMS):  # the same column by column, without its own item
        others = np.arange(ITEMS) != j
        solved = np.linalg.solve(
            x[:, others].T @ x[:, others] + 3.0 * np.eye(ITEMS - 1), x[:, others].T @ x[:, j]
        )
        assert b[others, j] == pytest.approx(solved, abs=2e-5)


@pytest.mark.parametrize("fit", CLOSED_FORMS)
def test_planted_blocks_are_found_where_popularity_finds_nothing(
    fit: Callable[..., ItemScorer],
) -> None:
    train, held = blocks()
    found = evaluate_scores(fit(train).scores, held, seen=train, ks=(1,), metrics=("recall",))
    assert found["recall@1"] == 1.0
    floor = evaluate_scores(popularity(train).scores, held, seen=train, ks=(1,))
    assert floor["recall@1"] < 0.3


@pytest.mark.parametrize("fit", CLOSED_FORMS)
def test_users_and_items_without_edges_score_zero(fit: Callable[..., ItemScorer]) -> None:
    scores = everyone(fit(graph()))
    assert scores.dtype == np.float32 and scores.shape == (USERS, ITEMS)
    assert (scores[-1] == 0).all() and (scores[:, -1] == 0).all() and np.isfinite(scores).all()
    assert (scores[:-1, :-1] != 0).any(1).all()


@pytest.mark.parametrize("fit", [popularity, *CLOSED_FORMS])
def test_one_item_one_user_and_no_edge(fit: Callable[..., ItemScorer]) -> None:
    one = Interactions.from_edge_index(torch.tensor([[0], [0]]), 1, 1)
    scores = everyone(fit(one))
    assert scores.shape == (1, 1) and np.isfinite(scores).all()
    none = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 3, 4)
    assert (everyone(fit(none)) == np.zeros((3, 4))).all()


def test_tf_idf_of_a_user_of_all_items_says_nothing() -> None:
    pair = Interactions.from_edge_index(torch.tensor([[0, 0], [0, 1]]), 1, 2)
    assert everyone(item_cosine(pair, shrinkage=0, tf_idf=True)).tolist() == [[0, 0]]


@pytest.mark.parametrize("fit", CLOSED_FORMS)
def test_other_users_are_scored_by_their_items(fit: Callable[..., ItemScorer]) -> None:
    scorer = fit(graph())
    few = torch.tensor([7, 3])
    history = graph().reindex(few, torch.arange(ITEMS))
    assert everyone(scorer.for_users(history)) == pytest.approx(
        scorer.scores(few).numpy(), rel=1e-5, abs=1e-6
    )
    unseen = Interactions.from_edge_index(torch.tensor([[0, 0], [2, 20]]), 2, ITEMS)
    expected = dense(unseen) @ map_of(scorer)
    assert everyone(scorer.for_users(unseen)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match=r"history is .*24 items.*23 items"):
        scorer.for_users(Interactions(unseen.users, unseen.items, 2, ITEMS + 1))


@pytest.mark.parametrize("fit", [popularity, *CLOSED_FORMS])
def test_scores_are_the_same_bits_each_time(fit: Callable[..., ItemScorer]) -> None:
    state = torch.get_rng_state()
    first, second = (everyone(fit(graph())) for _ in range(2))
    assert (first == second).all() and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("fit", [popularity, *CLOSED_FORMS])
def test_a_scorer_survives_pickling_and_says_what_it_is(fit: Callable[..., ItemScorer]) -> None:
    scorer = fit(graph())
    assert (everyone(pickle.loads(pickle.dumps(scorer))) == everyone(scorer)).all()
    assert repr(scorer) == f"ItemScorer(history={graph()!r})"


@pytest.mark.parametrize("users", [torch.tensor([0, USERS]), torch.tensor([-1])])
def test_a_user_out_of_range_is_refused(users: Tensor) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, num_users=40\)"):
        item_cosine(graph()).scores(users)


@pytest.mark.parametrize(
    ("fit", "settings", "said"),
    [
        (item_cosine, {"neighbours": 0}, "neighbours must be an integer of at least 1, got 0"),
        (item_cosine, {"neighbours": 2.5}, "neighbours must be an integer of at least 1, got 2.5"),
        (item_cosine, {"shrinkage": -1}, "shrinkage must be a number of at least 0, got -1"),
        (ease, {"l2": 0}, "l2 must be a positive number, got 0"),
        (ease, {"l2": float("nan")}, "l2 must be a positive number, got nan"),
        (ease, {"l2": "100"}, "l2 must be a positive number, got '100'"),
        (gf_cf, {"rank": True}, "rank must be an integer of at least 1, got True"),
        (gf_cf, {"ideal_weight": -0.1}, "ideal_weight must be a number of at least 0, got -0.1"),
        (cheby_cf, {"flatness": 0.5}, "flatness must be a number of at least 1, got 0.5"),
    ],
)
def test_wrong_settings_are_named(
    fit: Callable[..., ItemScorer], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        fit(graph(), **settings)


def test_too_small_l2_is_said() -> None:
    twice = Interactions.from_edge_index(
        torch.cartesian_prod(torch.arange(4096), torch.arange(2)).T, 4096, 2
    )
    with pytest.raises(ValueError, match="l2=1e-05 is too small"):
        ease(twice, 1e-5)


def test_ease_that_does_not_fit_is_refused_before_anything_is_formed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "available_memory", lambda: 1000)
    with pytest.raises(ValueError, match="EASE of 23 items needs"):
        ease(graph())
    monkeypatch.setattr(baselines, "available_memory", lambda: 5_000_000_000)
    with pytest.raises(
        ValueError, match=r"EASE of 40,981 items needs 7\.4 GB .* 5\.0 GB are available"
    ):
        baselines.check_memory(40_981)
    baselines.check_memory(30_000)
    monkeypatch.setattr(baselines, "available_memory", lambda: None)
    baselines.check_memory(40_981)


def test_best_items_of_unseen_users_with_their_own_left_out() -> None:
    """What a playlist challenge asks for: lists for playlists that were not trained on."""
    train, _ = blocks()
    seeds = Interactions.from_edge_index(torch.tensor([[0, 0, 1], [1, 2, 17]]), 3, train.num_items)
    scorer = item_cosine(train).for_users(seeds)
    best = top_k_scores(scorer.scores, torch.arange(3), train.num_items, 6, seen=seeds)
    assert sorted(best.items[0].tolist()) == [0, 3, 4, 5, 6, 7]
    assert set(best.items[1, :6].tolist()) < set(range(16, 24)) - {17}
    assert best.items[2].tolist() == [0, 1, 2, 3, 4, 5]  # no items, no scores: by index
