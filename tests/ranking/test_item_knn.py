"""Nearest items and what they add to scores, against dense float64 loops."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import (
    Interactions,
    LightGCN,
    RankingConfig,
    Recommender,
    evaluate,
    evaluate_ranking,
    normalized_adjacency,
    split_edges,
    top_k,
)
from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.ranking import ItemKNN, nearest_items
from lightgcn.ranking import item_knn as neighbours
from lightgcn.ranking.residual import residual_of_links

USERS, ITEMS = 19, 23


def graph(**extra: Any) -> Interactions:
    """User 3 and item 5 are isolated; user 4 has one item that nobody else has."""
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(2)) < 0.3
    dense[3], dense[:, 5], dense[:, 6] = False, False, False
    dense[4], dense[4, 6] = False, True
    return Interactions.from_edge_index(dense.nonzero().T, USERS, ITEMS, **extra)


def weighted_graph() -> Interactions:
    return graph(
        weights=torch.rand(graph().num_edges, generator=torch.Generator().manual_seed(3)) + 0.5
    )


def dense_matrix(interactions: Interactions) -> Tensor:
    weights = interactions.weights
    matrix = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    ones = torch.ones(interactions.num_edges)
    matrix[interactions.users, interactions.items] = (ones if weights is None else weights).double()
    return matrix


def dense_nearest(interactions: Interactions, k: int) -> Tensor:
    """Similarities by the formula, in loops, with all but the k largest of each row set to zero."""
    matrix = dense_matrix(interactions)
    users, items = matrix.sum(1), matrix.sum(0)
    kept = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    for one in range(ITEMS):
        near: dict[int, float] = {}
        for other in range(ITEMS):
            common = [u for u in range(USERS) if matrix[u, one] and matrix[u, other]]
            total = sum(float(matrix[u, one] * matrix[u, other] / users[u] ** 0.5) for u in common)
            if other != one and total:
                near[other] = total / float(items[one] * items[other]) ** 0.5
        # Equal values in float64 may differ in float32, and the other way round: they are rounded.
        for other in sorted(near, key=lambda item: (-round(near[item], 6), item))[:k]:
            kept[one, other] = near[other]
    return kept


def dense_residual(interactions: Interactions, k: int, weight: float) -> Tensor:
    sums = dense_matrix(interactions) @ dense_nearest(interactions, k)
    return weight * sums / sums.amax(1, keepdim=True).clamp(min=1e-12)


@pytest.mark.parametrize("interactions", [graph(), weighted_graph()], ids=["plain", "weighted"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_nearest_items_are_those_of_the_formula(interactions: Interactions, k: int) -> None:
    found = torch.from_numpy(nearest_items(interactions, k).toarray()).double()
    torch.testing.assert_close(found, dense_nearest(interactions, k), rtol=1e-5, atol=1e-7)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest_items(graph(), 4).toarray()
    monkeypatch.setattr(neighbours, "_BLOCK", 30)
    assert (nearest_items(graph(), 4).toarray() == whole).all()


def test_equal_similarities_go_by_item() -> None:
    # Items 1 to 4 all share their only user with item 0.
    interactions = Interactions.from_edge_index(torch.tensor([[0] * 5, [4, 0, 3, 1, 2]]), 1, 5)
    assert nearest_items(interactions, 2)[[0]].indices.tolist() == [1, 2]
    assert nearest_items(interactions, 2)[[1]].indices.tolist() == [0, 2]


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (3, 4)])
def test_a_graph_without_edges_has_no_neighbours(shape: tuple[int, int]) -> None:
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), *shape)
    assert (
        nearest_items(empty, 3).shape == (shape[1], shape[1]) and nearest_items(empty, 3).nnz == 0
    )
    rows, items, values = ItemKNN.from_graph(empty).of_users(torch.arange(shape[0]))
    assert not len(rows) and not len(items) and not len(values)


@pytest.mark.parametrize("interactions", [graph(), weighted_graph()], ids=["plain", "weighted"])
def test_gains_are_those_of_the_formula(
    interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_USERS", 4)
    residual, wanted = (
        ItemKNN.from_graph(interactions, 3, 0.7),
        dense_residual(interactions, 3, 0.7),
    )
    users = torch.tensor([7, 3, 4, 0, 7, 18])
    rows, items, values = residual.of_users(users)
    found = torch.zeros(len(users), ITEMS).index_put((rows, items), values)
    torch.testing.assert_close(found.double(), wanted[users], rtol=1e-5, atol=1e-6)
    pairs = torch.cartesian_prod(users, torch.arange(ITEMS))
    torch.testing.assert_close(
        residual_of_links(residual, *pairs.T).double(),
        wanted[users].flatten(),
        rtol=1e-5,
        atol=1e-6,
    )
    given = torch.tensor([2, 9, 11])
    new = Interactions(torch.zeros(3, dtype=torch.int64), given, 1, ITEMS)
    _, near, gains = replace(residual, history=new).of_users(torch.tensor([0]))
    sums = dense_nearest(interactions, 3)[given].sum(0)
    alone = torch.zeros(ITEMS).index_put((near,), gains).double()
    torch.testing.assert_close(alone, 0.7 * sums / sums.max(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_top_k_adds_the_gains(chunk_size: int | None) -> None:
    users, items = torch.randn(
        2, 23, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    users, interactions = users[:USERS], graph()
    scores = users @ items.T + dense_residual(interactions, 3, 2.0)
    scores[interactions.users, interactions.items] = -torch.inf
    residual = ItemKNN.from_graph(interactions, 3, 2.0)
    found = top_k(users, items, 5, seen=interactions, residual=residual, chunk_size=chunk_size)
    assert found.items.tolist() == scores.argsort(dim=1, descending=True)[:, :5].tolist()
    some = torch.tensor([4, 4, 0])
    again = top_k(
        users, items, 5, seen=interactions, users=some, residual=residual, chunk_size=chunk_size
    )
    assert torch.equal(again.items, found.items[some])


def test_evaluation_counts_the_gains_in_rankings_and_links() -> None:
    split = split_edges(graph(), (0.6, 0.2, 0.2), disjoint=0.0, seed=1)
    model = LightGCN(USERS, ITEMS, 4, 1)
    adjacency = normalized_adjacency(split.val.message)
    model.ranking = RankingConfig(item_knn=5, item_knn_weight=50.0)
    with_gains = evaluate(model, split.val, ks=(5,))
    # So much weight leaves nothing to the model but what has no gain.
    gains = dense_residual(split.val.message, 5, 50.0)
    users, items = model.embed(adjacency)
    scores = gains + (users @ items.T).detach()
    unknown = split.val.message.user_degrees == 0
    scores[unknown] = split.val.message.item_degrees.log1p().double() / 1024
    left, _, right = torch.linalg.svd(scores)
    values = torch.linalg.svdvals(scores)
    alone = evaluate_ranking(
        left * values, right[:USERS].T, split.val.positives, seen=split.val.message, ks=(5,)
    )
    assert with_gains["recall@5"] == pytest.approx(alone["recall@5"])
    positive, negative = (
        scores[pairs[0], pairs[1]]
        for pairs in (split.val.positives.edge_index, split.val.negatives)
    )
    auc = (positive.unsqueeze(1) > negative).double().mean()
    assert with_gains["roc_auc"] == pytest.approx(float(auc))


def test_a_recommender_adds_the_gains_and_keeps_them_in_its_file(tmp_path: Path) -> None:
    interactions = graph()
    model = LightGCN(USERS, ITEMS, 4, 1, seed=2).double()
    model.ranking = RankingConfig(popularity_prior=0.1, item_knn=3, item_knn_weight=1.5)
    made = Recommender.from_model(model, interactions)
    without = copy.deepcopy(model)
    without.ranking = RankingConfig(popularity_prior=0.1)
    made.save(tmp_path / "recommender")
    users, items = (
        F.normalize(z.detach()) for z in model.embed(normalized_adjacency(interactions))
    )
    scores = (
        users @ items.T
        + 0.1 * interactions.item_degrees.double().log1p()
        + dense_residual(interactions, 3, 1.5)
    )
    for found in (made, Recommender.load(tmp_path / "recommender")):
        best = found.recommend(7, 4, exclude_seen=False)
        assert [one.index for one in best] == scores[7].argsort(descending=True)[:4].tolist()
        assert [one.score for one in best] == pytest.approx(
            scores[7].sort(descending=True).values[:4].tolist()
        )
        assert found.ranker.item_knn is not None
        plain = Recommender.from_model(without, interactions).recommend_new([2, 9, 2], 21)
        gained = {one.index: one.score for one in found.recommend_new([2, 9, 2], 21)}
        new = Interactions(torch.tensor([0, 0]), torch.tensor([2, 9]), 1, ITEMS)
        knn = replace(found.ranker.item_knn, history=new)
        _, near, gains = knn.of_users(torch.tensor([0]))
        extra = dict(zip(near.tolist(), gains.tolist(), strict=True))
        for one in plain:
            assert gained[one.index] == pytest.approx(one.score + extra.get(one.index, 0.0))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ends", lambda part: part[:-1], "do(es)? not fit|not those of 23 items"),
        ("ends", lambda part: part.flip(0), "do(es)? not fit|not those of 23 items"),
        ("items", lambda part: part + 23, r"outside \[0, 23\)"),
        ("values", lambda part: part * torch.inf, "must be finite"),
        ("values", lambda part: part.double(), "must be finite float32"),
        ("values", lambda part: part[:-1], "do(es)? not fit|not those of 23 items"),
    ],
)
def test_a_file_with_other_neighbours_is_refused(
    name: str, change: Any, said: str, tmp_path: Path
) -> None:
    path, interactions = tmp_path / "recommender", graph()
    model = LightGCN(USERS, ITEMS, 4, 1)
    model.ranking = RankingConfig(item_knn=3)
    Recommender.from_model(model, interactions).save(path)
    tensors, metadata = load_tensors(path, "recommender")
    tensors[f"item_knn.{name}"] = change(tensors[f"item_knn.{name}"])
    save_tensors(path, "recommender", tensors, metadata)
    with pytest.raises(ValueError, match=said):
        Recommender.load(path)


def test_what_is_no_residual() -> None:
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="neighbours must be an integer of at least 1"):
            ItemKNN.from_graph(graph(), wrong)
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"weight .*{weight}"):
            ItemKNN.from_graph(graph(), 3, weight)
    with pytest.raises(ValueError, match=r"must be of shape \(23, 23\), got \(23, 22\)"):
        ItemKNN(graph(), nearest_items(graph())[:, :22], 0.1)
    with pytest.raises(ValueError, match="the residual is of"):
        top_k(torch.ones(4, 2), torch.ones(ITEMS, 2), 3, residual=ItemKNN.from_graph(graph()))
