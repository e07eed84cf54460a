"""What each item of a user adds to a score, against dense float64 products."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.ranking.explanation import explain_score

USERS, ITEMS, WIDTH = 9, 11, 5
NONE = 8  # a user without items
ALPHA = [0.1, 0.4, 0.3, 0.2]
SIDE = SideNodes.of(torch.tensor([0, 0, 1, 1, -1, 2, 2, 2, -1, 0, 1]))
CONFIGS = {
    "dot product": RankingConfig(),
    "cosine": RankingConfig(popularity_prior=0.0),
    "prior": RankingConfig(popularity_prior=0.3),
    "item kNN": RankingConfig(item_knn=4, item_knn_weight=0.5),
    "EASE": RankingConfig(item_knn=4, item_knn_weight=0.5, item_similarity="ease"),
    "user kNN": RankingConfig(user_knn=3, user_knn_weight=0.4),
    "spectral": RankingConfig(spectral=2, spectral_weight=0.3),
    "time decay": RankingConfig(time_decay=0.7, time_decay_weight=0.6),
    "a long step": RankingConfig(0.2, time_decay=0.7, time_decay_weight=1.9),
    "all": RankingConfig(0.2, 3, 0.2, "cosine", 2, 0.3, 2, 0.1, 0.7, 0.5),
}


def graph_of(weighted: bool, ordered: bool = True) -> Interactions:
    generator = torch.Generator().manual_seed(1)
    edges = torch.rand(USERS, ITEMS, generator=generator) < 0.45
    edges[NONE], edges[0, 0] = False, True
    users, items = edges.nonzero().T
    weights = torch.rand(len(users), generator=generator) + 0.2 if weighted else None
    order = torch.randperm(len(users), generator=generator) if ordered else None
    return Interactions(users, items, USERS, ITEMS, weights, order=order)


def model_of(config: RankingConfig, normalization: Any, groups: int, layers: int = 3) -> LightGCN:
    alpha = ALPHA[: layers + 1]
    model = LightGCN(
        USERS + groups, ITEMS, WIDTH, layers, alpha, normalization=normalization, seed=3
    ).double()
    model.ranking = config
    return model


def dense_weights(graph: Interactions) -> Tensor:
    dense = torch.zeros(graph.num_users, graph.num_items, dtype=torch.float64)
    weights = torch.ones(graph.num_edges) if graph.weights is None else graph.weights
    dense[graph.users, graph.items] = weights.double()
    return dense


def ages(graph: Interactions, user: int) -> Tensor:
    """For each item, the number of later items of the user."""
    order = torch.full((graph.num_items,), -torch.inf, dtype=torch.float64)
    own = graph.users == user
    order[graph.items[own]] = graph.order[own].double()  # type: ignore[index]
    return (order.unsqueeze(0) > order.unsqueeze(1)).sum(1).double()


def reference(
    model: LightGCN, graph: Interactions, message: Interactions, exponents: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what item j adds to the final embedding of user u, (U, I, d), the users' own parts
    (U, d), and the items' final embeddings (I, d)."""
    rows, (a, b) = dense_weights(message), exponents
    nodes = message.num_users + ITEMS
    pattern = torch.zeros(nodes, nodes, dtype=torch.float64)
    pattern[: message.num_users, message.num_users :] = rows
    pattern[message.num_users :, : message.num_users] = rows.T
    degrees = pattern.sum(1)
    left, right = (
        torch.where(degrees > 0, degrees.clamp(min=1e-9) ** -power, 0.0) for power in (a, b)
    )
    adjacency = left.unsqueeze(1) * pattern * right
    layers = [model.embedding.detach()]
    for _ in range(model.num_layers):
        layers.append(adjacency @ layers[-1])
    alpha = ALPHA[: model.num_layers + 1]
    final = sum(weight * layer for weight, layer in zip(alpha, layers, strict=True))
    to_users = adjacency[: graph.num_users, message.num_users :]
    sent = sum(
        weight * layer[message.num_users :]
        for weight, layer in zip(alpha[1:], layers[:-1], strict=True)
    )
    assert isinstance(final, Tensor)
    by_item = to_users.unsqueeze(2) * sent
    return by_item, alpha[0] * layers[0][: graph.num_users], final[message.num_users :]


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_equal_a_dense_reference(name: str) -> None:
    config = CONFIGS[name]
    for normalization, exponents, weighted, side in (
        ("symmetric", (0.5, 0.5), False, None),
        ("mean", (1.0, 0.0), True, None),
        ((0.3, 0.9), (0.3, 0.9), True, SIDE),
    ):
        graph = graph_of(weighted)
        model = model_of(config, normalization, 0 if side is None else 3)
        ranker = Ranker.from_model(model, graph, side_nodes=side)
        message = graph if side is None else side.extend(graph)
        by_item, own, items = reference(model, graph, message, exponents)
        scores = ranker.score_users(torch.arange(USERS))
        for user, item in ((u, i) for u in range(USERS) for i in range(ITEMS)):
            parts = explain_score(ranker, user, item)
            expected, others = expected_parts(
                ranker, config, user, item, by_item[user], own[user], items
            )
            assert parts.items.tolist() == graph.items_of(user).tolist()
            for part, values in expected.items():
                torch.testing.assert_close(
                    parts.by_item[part], values[parts.items], rtol=1e-5, atol=1e-6
                )
            assert set(parts.by_item) == set(expected)
            assert parts.other == pytest.approx(others, abs=1e-6)
            total = sum(float(values.sum()) for values in parts.by_item.values())
            assert total + sum(parts.other.values()) == pytest.approx(parts.score, abs=2e-6)
            assert parts.score == pytest.approx(float(scores[user, item]), abs=2e-6)


def expected_parts(
    ranker: Ranker,
    config: RankingConfig,
    user: int,
    item: int,
    by_item: Tensor,
    own: Tensor,
    items: Tensor,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    history = dense_weights(ranker.history)[user]
    decay = torch.ones(ITEMS, dtype=torch.float64)
    if config.time_decay:
        decay = (1 + ages(ranker.history, user)) ** -config.time_decay
    latest = (history * decay).unsqueeze(1) * F.normalize(items)
    has_items = bool(history.any())
    final = by_item.sum(0) + own
    if not has_items:  # ranked by popularity alone
        by_item, own = by_item * 0, own * 0
        final = own
    target = items[item]
    if config.time_decay and has_items:
        length = final.norm()
        by_item, own, final = by_item / length, own / length, final / length
        latest = config.time_decay_weight * latest / latest.sum(0).norm()
        final = final + latest.sum(0)
    if config.popularity_prior is not None:
        target = F.normalize(target, dim=0)
        if has_items:
            length = final.norm()
            by_item, own, latest = by_item / length, own / length, latest / length
    parts = {"embedding": by_item @ target}
    if config.time_decay:
        parts["time_decay"] = latest @ target
    others = {"own embedding": float(own @ target)}
    if config.popularity_prior or not has_items:
        others["popularity"] = float(ranker.items[item, WIDTH])
    weights = history * decay
    if config.spectral:
        table = ranker.items[:, WIDTH + 1 :].double()
        sent = (weights * ranker.spectral_scale).unsqueeze(1) * table  # type: ignore[operator]
        scores = table @ sent.sum(0)
        deviation = scores.std(correction=0).clamp(min=1e-12)
        parts["spectral"] = sent @ table[item] * config.spectral_weight / deviation
    if ranker.item_knn is not None:
        links = torch.from_numpy(ranker.item_knn.similarity.toarray()).double()
        parts["item_knn"] = shares(weights, links, item, config.item_knn_weight)
    if ranker.user_knn is not None:
        links = links_by_users(ranker.user_knn.profiles.toarray(), weights, user, config.user_knn)
        parts["user_knn"] = shares(weights, links, item, config.user_knn_weight)
    return parts, others


def shares(weights: Tensor, links: Tensor, item: int, most: float) -> Tensor:
    """What each item adds to the gain of one, of which the largest is ``most``."""
    sums = weights @ links
    if not float(sums.max()) > 0 or float(sums[item]) <= 0:
        return weights * 0
    return weights * links[:, item] * most / sums.max()


def links_by_users(profiles: Any, weights: Tensor, user: int, count: int) -> Tensor:
    """(I, I): by what an item of the user counts for another one, by way of its neighbours."""
    rows = np.asarray(profiles, dtype=np.float64)
    by_user, by_item = (
        np.where(d > 0, np.maximum(d, 1e-9) ** -0.5, 0.0) for d in (rows.sum(1), rows.sum(0))
    )
    to_users = (by_user[:, None] * rows * by_item).T  # (I, V)
    similar = weights.numpy() @ to_users
    similar[user] = -1
    near = np.argsort(-similar, kind="stable")[:count]
    near = near[similar[near] > 0]
    return torch.from_numpy(to_users[:, near] @ rows[near])


def test_a_model_without_layers_has_its_whole_embedding_as_one_term() -> None:
    model = model_of(RankingConfig(item_knn=3), "symmetric", 0, layers=0)
    ranker = Ranker.from_model(model, graph_of(False))
    parts = explain_score(ranker, 0, 3)
    assert list(parts.by_item) == ["item_knn"] and list(parts.other) == ["embedding"]
    total = float(parts.by_item["item_knn"].sum()) + parts.other["embedding"]
    assert total == pytest.approx(parts.score, abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_explains_the_same(name: str, tmp_path: Path) -> None:
    made = Recommender(model_of(CONFIGS[name], "symmetric", 0), graph_of(True))
    made.save(tmp_path / "file")
    loaded = Recommender.load(tmp_path / "file")
    for user, item in ((0, 1), (3, 7), (NONE, 2)):
        one, other = made.explain(user, item), loaded.explain(user, item)
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert one.other == pytest.approx(other.other, abs=1e-6)
        shares = [{row.id: row.contribution for row in found.items} for found in (one, other)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-6)


def test_a_ranker_without_the_lengths_of_embeddings_is_refused() -> None:
    ranker = Ranker.from_model(model_of(CONFIGS["prior"], "mean", 0), graph_of(False))
    with pytest.raises(ValueError, match="user_scales"):
        explain_score(replace(ranker, user_scales=None), 0, 1)
    assert ranker.user_scales is not None
    with pytest.raises(ValueError, match=r"user_scales must be of 9 users"):
        replace(ranker, user_scales=ranker.user_scales.of_first(3))


def test_an_explanation_reads_well() -> None:
    graph = graph_of(False)
    names = [f"Song {n}" for n in range(ITEMS)]
    found = Recommender(
        model_of(CONFIGS["all"], "symmetric", 0), graph, item_columns={"name": names}
    ).explain(0, "song 3")
    values = [row.contribution for row in found.items]
    assert values == sorted(values, reverse=True) and len(values) == len(graph.items_of(0))
    assert [row.label for row in found.items] == [names[row.index] for row in found.items]
    for row in found.items:
        assert row.contribution == pytest.approx(sum(row.parts.values()))
        assert set(row.parts) == {"embedding", "time_decay", "spectral", "item_knn", "user_knn"}
    lines = repr(found).splitlines()
    assert f"{found.score:.4f}" in lines[0] and found.items[0].label in lines[1]
    assert len(lines) == 1 + len(found.items) + len(found.other)
