"""What users had last, against loops; and the order that interactions carry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import (
    Interactions,
    LightGCN,
    Recommender,
    evaluate,
    normalized_adjacency,
    preset,
    split_edges,
)
from lightgcn.datasets import Dataset
from lightgcn.graph.edge_order import edge_ages
from lightgcn.ranking import ItemKNN, Ranker
from lightgcn.ranking.time_decay import decayed, towards_latest

USERS, ITEMS = 9, 14


def graph() -> Interactions:
    """User 3 and item 5 are isolated; places are shuffled, some of them equal."""
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(4)) < 0.4
    dense[3], dense[:, 5] = False, False
    pairs = dense.nonzero().T
    order = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(5)) // 2
    return Interactions(*pairs, USERS, ITEMS, order=order)


def places(interactions: Interactions) -> dict[tuple[int, int], int]:
    assert interactions.order is not None
    pairs = zip(interactions.users.tolist(), interactions.items.tolist(), strict=True)
    return dict(zip(pairs, interactions.order.tolist(), strict=True))


def ages(interactions: Interactions, user: int) -> dict[int, int]:
    """How many of a user's items come after each, equal places by item."""
    place = places(interactions)
    listed = sorted((place[user, item], item) for item in interactions.items_of(user).tolist())
    return {item: len(listed) - 1 - rank for rank, (_, item) in enumerate(listed)}


def drawn(
    interactions: Interactions, users: Tensor, items: Tensor, exponent: float, weight: float
) -> Tensor:
    rows = []
    for user in range(USERS):
        last = torch.zeros(items.shape[1], dtype=items.dtype)
        for item, age in ages(interactions, user).items():
            last += (1 + age) ** -exponent * F.normalize(items[item], dim=0)
        rows.append(F.normalize(users[user], dim=0) + weight * F.normalize(last, dim=0))
    return torch.stack(rows)


def test_the_order_travels_with_the_edges(tmp_path: Path) -> None:
    whole = graph()
    place = places(whole)
    mask = torch.rand(whole.num_edges, generator=torch.Generator().manual_seed(1)) < 0.5
    one, other = whole.select(mask), whole.select(~mask)
    assert places(one) == {pair: place[pair] for pair in places(one)}
    assert places(one.union(other)) == place
    assert one.union(replace(other, order=None)).order is None
    users, items = torch.randperm(USERS)[:6], torch.randperm(ITEMS)[:10]
    moved = whole.reindex(users, items)
    expected = {
        (u, i): place.get((int(users[u]), int(items[i]))) for u in range(6) for i in range(10)
    }
    assert places(moved) == {pair: value for pair, value in expected.items() if value is not None}
    assert moved.user_ids is not None and places(whole.with_ids(None, None)) == place
    loaded = Dataset.load(Dataset(whole, {}, {}).save(tmp_path)).interactions
    assert places(loaded) == place and loaded.fingerprint() == whole.fingerprint()
    assert whole.fingerprint() != replace(whole, order=None).fingerprint()


def test_a_repeated_pair_has_its_first_place_and_any_order_of_edges_is_the_same_graph() -> None:
    users, items, order = (
        torch.tensor([1, 0, 1, 1]),
        torch.tensor([2, 0, 2, 1]),
        torch.tensor([7, 5, 3, 9]),
    )
    assert places(Interactions(users, items, 2, 3, order=order)) == {
        (0, 0): 5,
        (1, 1): 9,
        (1, 2): 3,
    }
    weighted = Interactions(users, items, 2, 3, torch.tensor([1.0, 2.0, 3.0, 4.0]), order=order)
    assert places(weighted) == {(0, 0): 5, (1, 1): 9, (1, 2): 3} and weighted.weights is not None
    assert weighted.weights.tolist() == [2.0, 4.0, 4.0]


def test_ages_count_what_came_after() -> None:
    interactions = graph()
    for user in range(USERS):
        edges = slice(int(interactions.indptr[user]), int(interactions.indptr[user + 1]))
        found = dict(
            zip(
                interactions.items[edges].tolist(),
                edge_ages(interactions)[edges].tolist(),
                strict=True,
            )
        )
        assert found == ages(interactions, user)


def test_what_is_no_order() -> None:
    pair = torch.tensor([0, 1]), torch.tensor([0, 1])
    for bad in (["a", "b"], [0.5, float("nan")], [None, 1]):
        with pytest.raises(ValueError, match="order"):
            Interactions(*pair, 2, 2, order=bad)
    with pytest.raises(ValueError, match=r"order .* 2 edges, got shape \(3,\)"):
        Interactions(*pair, 2, 2, order=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="have no order"):
        decayed(Interactions(*pair, 2, 2))


@pytest.mark.parametrize(("exponent", "weight"), [(1.0, 0.5), (0.3, 2.0), (0.0, 0.0)])
def test_users_are_drawn_by_the_formula(exponent: float, weight: float) -> None:
    users, items = torch.randn(2, ITEMS, 5, generator=torch.Generator().manual_seed(2))
    users, interactions = users[:USERS], graph()
    found = towards_latest(users, items, decayed(interactions, exponent), weight)
    torch.testing.assert_close(
        found, drawn(interactions, users, items, exponent, weight), rtol=1e-5, atol=1e-6
    )


def test_edge_weights_and_huge_exponents() -> None:
    weights = torch.rand(graph().num_edges, generator=torch.Generator().manual_seed(3)) + 0.5
    weighted = replace(graph(), weights=weights)
    found = decayed(weighted, 1.0).weights
    torch.testing.assert_close(found, weights / (1 + edge_ages(weighted)))
    assert bool((decayed(graph(), 1e4).weights > 0).all())


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_an_exponent_out_of_range(wrong: float) -> None:
    with pytest.raises(ValueError, match="exponent"):
        decayed(graph(), wrong)


def test_settings_score_the_last_items_in_evaluation_and_leave_data_without_order_alone() -> None:
    split = split_edges(graph(), (0.6, 0.2, 0.2), disjoint=0.0, seed=1)
    message, model = split.val.message, LightGCN(USERS, ITEMS, 4, 1)
    config = preset("best", time_decay=1.5, time_decay_weight=0.7, item_knn=2, popularity_prior=0.2)
    adjacency = normalized_adjacency(message)
    model.ranking = config.ranking
    found = evaluate(model, split.val, ks=(3,))
    users, items = (z.detach() for z in model.embed(adjacency))
    scores = F.normalize(drawn(message, users, items, 1.5, 0.7)) @ F.normalize(items).T
    scores += 0.2 * message.item_degrees.float().log1p()
    history = decayed(message, 1.5)
    rows, near, gains = replace(ItemKNN.from_graph(message, 2, 0.2), history=history).of_users(
        torch.arange(USERS)
    )
    scores[rows, near] += gains
    scores[message.users, message.items] = -torch.inf
    wanted = [set(split.val.positives.items_of(user).tolist()) for user in range(USERS)]
    ranked = scores.argsort(dim=1, descending=True)[:, :3].tolist()
    recalls = [
        len(items & set(ranked[user])) / len(items) for user, items in enumerate(wanted) if items
    ]
    assert found["recall@3"] == pytest.approx(sum(recalls) / len(recalls))
    plain = replace(message, order=None)
    ranker = Ranker.from_model(model, plain)
    assert ranker.config.time_decay == 0
    assert ranker.item_knn is not None and ranker.item_knn.history is plain


def test_a_recommender_knows_what_a_new_user_had_last_and_keeps_it_in_its_file(
    tmp_path: Path,
) -> None:
    interactions = graph()
    model = LightGCN(USERS, ITEMS, 4, 1, seed=2)
    config = preset("best", time_decay=1.0, time_decay_weight=0.8, item_knn=3, popularity_prior=0.1)
    model.ranking = config.ranking
    made = Recommender.from_model(model, interactions)
    made.save(tmp_path / "recommender")
    loaded = Recommender.load(tmp_path / "recommender")
    users, items = (z.detach() for z in model.embed(normalized_adjacency(interactions)))
    expected = F.normalize(drawn(interactions, users, items, 1.0, 0.8)) @ F.normalize(items).T
    expected += 0.1 * interactions.item_degrees.float().log1p()
    residual = made.ranker.item_knn
    assert residual is not None
    rows, near, gains = residual.of_users(torch.arange(USERS))
    expected[rows, near] += gains
    for found in (made, loaded):
        answer = found.recommend(0, 4, exclude_seen=False)
        assert [one.score for one in answer] == pytest.approx(
            expected[0].sort(descending=True).values[:4].tolist()
        )
    one, other = (loaded.recommend_new(listed, 11) for listed in ([1, 2, 7], [7, 2, 1]))
    assert [track.score for track in one] != [track.score for track in other]
    # Of a repeated item the latest place counts.
    assert one == loaded.recommend_new([2, 1, 2, 7], 11) != loaded.recommend_new([1, 7, 2], 11)
    assert loaded.recommend_new([1, 7, 2], 11) == loaded.recommend_new([1, 2, 7, 2], 11)
    scores = [track.score for track in made.recommend_new([1, 2, 7], 11)]
    assert [track.score for track in one] == pytest.approx(scores, abs=1e-6)
    direction = loaded.fold_in_user([1, 2, 7])[:-1]
    given = F.normalize(items[[1, 2, 7]]) * torch.tensor([1 / 3, 1 / 2, 1.0]).unsqueeze(1)
    assert loaded.ranker.fold_in_table is not None
    base = F.normalize(loaded.ranker.fold_in_table[[1, 2, 7]].sum(0), dim=0)
    torch.testing.assert_close(
        direction, F.normalize(base + 0.8 * F.normalize(given.sum(0), dim=0), dim=0)
    )
