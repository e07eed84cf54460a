"""User kNN: equal to a dense float64 reference, for known and new users, in lists and in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.ranking import ItemKNN, UserKNN, top_k, user_knn
from lightgcn.ranking.residual import residual_of_links, residual_sum

USERS, ITEMS = 23, 17


def graph(weighted: bool = False, ordered: bool = False) -> Interactions:
    draw = torch.Generator().manual_seed(4)
    edges = torch.rand(USERS, ITEMS, generator=draw) < 0.3
    edges[5] = False
    users, items = edges.nonzero().T
    # Of many digits, so that no two users are equally near.
    weights = torch.rand(len(users), generator=draw) + 0.5 if weighted else None
    order = torch.randperm(len(users), generator=draw) if ordered else None
    return Interactions(users, items, USERS, ITEMS, weights, order=order)


def dense(interactions: Interactions) -> Tensor:
    return torch.from_numpy(interactions.to_scipy().toarray()).double()


def dense_gains(rows: Tensor, profiles: Tensor, k: int, weight: float, own: bool = True) -> Tensor:
    """The formula, user by user."""
    users, items = profiles.sum(1).clamp(min=1e-30), profiles.sum(0).clamp(min=1e-30)
    gains = torch.zeros(len(rows), ITEMS, dtype=torch.float64)
    for place, row in enumerate(rows):
        near = (row * profiles / items.sqrt()).sum(1) / users.sqrt()
        if own:
            near[place] = 0
        # Equal values in float64 may differ in float32: they are rounded, and ties go by user index.
        found = sorted(range(len(near)), key=lambda user: (-round(float(near[user]), 6), user))
        for user in found[:k]:
            gains[place] += near[user] * profiles[user]
    return weight * gains / gains.amax(1, keepdim=True).clamp(min=1e-30)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 4, 99])
def test_gains_are_those_of_the_formula(
    k: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    interactions = graph(weighted)
    residual = UserKNN.from_graph(interactions, k, 0.7)
    wanted = dense_gains(dense(interactions), dense(interactions), k, 0.7)
    assert wanted[5].eq(0).all() and wanted.amax(1).max() == pytest.approx(0.7)
    users = torch.tensor([7, 3, 5, 0, 7, 22])
    for block in (user_knn._BLOCK, 1, 90):
        monkeypatch.setattr(user_knn, "_BLOCK", block)
        rows, items, values = residual.of_users(users)
        assert (rows[1:] >= rows[:-1]).all()
        found = torch.zeros(len(users), ITEMS).index_put((rows, items), values)
        torch.testing.assert_close(found.double(), wanted[users], rtol=1e-5, atol=1e-6)
    pairs = torch.cartesian_prod(users, torch.arange(ITEMS))
    found = residual_of_links(residual, *pairs.T)
    torch.testing.assert_close(found.double(), wanted[users].flatten(), rtol=1e-5, atol=1e-6)
    assert not len(residual.of_users(users[:0])[0])


def test_a_new_user_has_all_known_ones_for_neighbours() -> None:
    interactions = graph(weighted=True)
    new = Interactions([0, 0, 0, 1], [2, 9, 11, 3], 3, ITEMS)
    residual = UserKNN.from_graph(interactions, 4, 0.7)
    found = replace(residual, history=new, are_own=False).of_users(torch.arange(3))
    wanted = dense_gains(dense(new), dense(interactions), 4, 0.7, own=False)
    gains = torch.zeros(3, ITEMS).index_put(found[:2], found[2])
    torch.testing.assert_close(gains.double(), wanted, rtol=1e-5, atol=1e-6)
    ranker = Ranker.from_model(model(), interactions)
    scores = ranker.fold_in(new).score_users(torch.arange(3))
    without = replace(ranker, user_knn=None, config=replace(ranker.config, user_knn=0))
    alone = without.fold_in(new).score_users(torch.arange(3))
    wanted = dense_gains(dense(new), dense(interactions), 4, 0.6, own=False)
    torch.testing.assert_close((scores - alone).double(), wanted, rtol=1e-4, atol=1e-5)


def model(groups: int = 0) -> LightGCN:
    made = LightGCN(USERS + groups, ITEMS, embedding_dim=4, seed=1)
    config = RankingConfig(0.1, user_knn=4, user_knn_weight=0.6, item_knn=3, time_decay=0.5)
    made.ranking = config
    return made


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_item_knn_and_user_knn_add_up_in_lists(chunk_size: int | None) -> None:
    interactions = graph()
    users, items = torch.randn(USERS, 3, dtype=torch.float64), torch.randn(ITEMS, 3).double()
    by_user = UserKNN.from_graph(interactions, 4, 0.7)
    by_item = ItemKNN.from_graph(interactions, 3, 0.4)
    both = residual_sum(None, by_item, by_user)
    everybody = torch.arange(USERS)
    scores = users @ items.T
    for part in (by_item, by_user):
        rows, columns, values = part.of_users(everybody)
        scores[rows, columns] += values.double()
    scores[interactions.users, interactions.items] = -torch.inf
    found = top_k(users, items, 6, seen=interactions, residual=both, chunk_size=chunk_size)
    best = scores.topk(6).values
    torch.testing.assert_close(found.scores, best, rtol=1e-6, atol=1e-6)
    real = found.items >= 0
    picked = scores.gather(1, found.items.clamp(min=0))
    torch.testing.assert_close(picked[real], best[real], rtol=1e-6, atol=1e-6)
    assert residual_sum() is None and residual_sum(None, by_item) is by_item


@pytest.mark.parametrize("groups", [False, True])
def test_a_stored_recommender_answers_as_before(groups: bool, tmp_path: Path) -> None:
    side = SideNodes.of(torch.arange(ITEMS) % 3) if groups else None
    recommender = Recommender(model(3 if groups else 0), graph(ordered=True), side_nodes=side)
    recommender.save(tmp_path / "one")
    loaded = Recommender.load(tmp_path / "one")
    everybody = torch.arange(USERS)
    scores = recommender.ranker.score_users(everybody)
    assert torch.equal(loaded.ranker.score_users(everybody), scores)
    new = Interactions([0, 0], [3, 8], 1, ITEMS, order=[0, 1])
    for ranker in (recommender.ranker, loaded.ranker):
        assert ranker.user_knn is not None
        assert ranker.user_knn.profiles.shape[0] == USERS + 3 * groups
        assert torch.equal(
            ranker.fold_in(new).top_k(5).items, loaded.ranker.fold_in(new).top_k(5).items
        )
    assert loaded.recommend_new([3, 8], 5) == recommender.recommend_new([3, 8], 5)


def test_many_users_at_once_are_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a sort key has room for beside so many users."""
    count, many, items = 4096, (1 << 20) + 1, 300
    draw = torch.Generator().manual_seed(0)
    users = torch.arange(count).repeat_interleave(2)
    columns = torch.randint(0, items, (2 * count,), generator=draw)
    residual = UserKNN.from_graph(Interactions(users, columns, many, items), 5, 1.0)
    chosen = torch.arange(count)
    whole = residual.of_users(chosen)
    parts = [residual.of_users(part) for part in chosen.split(500)]
    values = torch.cat([part[2] for part in parts])
    assert torch.equal(whole[2], values)
    assert torch.equal(whole[1], torch.cat([part[1] for part in parts]))


def test_a_stored_ranker_of_new_users_scores_as_before(tmp_path: Path) -> None:
    ranker = Ranker.from_model(model(), graph())
    people = torch.arange(40)
    new = ranker.fold_in(Interactions(people, people % ITEMS, 40, ITEMS))
    Recommender(new).save(tmp_path / "new")
    loaded = Recommender.load(tmp_path / "new").ranker
    assert torch.equal(loaded.score_users(people), new.score_users(people))


def test_wrong_values_are_refused() -> None:
    for neighbours, weight, match in ((0, 0.1, "neighbours"), (3, -1.0, "weight")):
        with pytest.raises(ValueError, match=match):
            UserKNN.from_graph(graph(), neighbours, weight)
    residual = UserKNN.from_graph(graph())
    with pytest.raises(ValueError, match="do not fit"):
        replace(residual, history=Interactions([0], [0], 1, ITEMS + 1))
    with pytest.raises(ValueError, match="user_knn_weight"):
        RankingConfig(user_knn_weight=-1.0)
    with pytest.raises(ValueError, match="profiles of 23 users"):
        replace(residual, history=Interactions([0], [0], USERS + 1, ITEMS))
    ranker = Ranker.from_model(model(), graph())
    with pytest.raises(ValueError, match="user_knn is None"):
        replace(ranker, user_knn=None)
    assert ranker.user_knn is not None
    with pytest.raises(ValueError, match="user_knn has weight"):
        replace(ranker, user_knn=replace(ranker.user_knn, weight=0.1))
