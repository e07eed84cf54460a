"""New items and users added without training: equal to dense float64 references and to the bigger
graph in which the new nodes only receive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig
from lightgcn.ranking.fold_in import add_items, add_users
from lightgcn.ranking.item_knn import nearest_items
from lightgcn.ranking.user_knn import UserKNN

USERS, ITEMS = 30, 20
ALPHA = (0.4, 0.3, 0.2, 0.1)


def a_graph(weighted: bool = False, ordered: bool = False) -> Interactions:
    generator = torch.Generator().manual_seed(3)
    dense = torch.rand(USERS, ITEMS, generator=generator) < 0.25
    dense[0] = False  # a user without items
    users, items = dense.nonzero(as_tuple=True)
    count = len(users)
    weights = torch.rand(count, generator=generator).double() + 0.5 if weighted else None
    order = torch.randperm(count, generator=generator) if ordered else None
    return Interactions(users, items, USERS, ITEMS, weights, order=order)


def a_model(normalization: Any = "symmetric", **ranking: Any) -> LightGCN:
    model = LightGCN(
        USERS, ITEMS, 6, 3, ALPHA, normalization=normalization, init_std=0.5, seed=1
    ).double()
    model.ranking = RankingConfig(**ranking)
    return model


def new_links(weighted: bool = False) -> Interactions:
    users, items = torch.tensor([1, 2, 5, 7, 7, 9, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    weights = torch.linspace(0.5, 2, 7).double() if weighted else None
    return Interactions(users, items, USERS, 2, weights)


def reference(model: LightGCN, graph: Interactions, links: Interactions) -> Tensor:
    """z_i = Σ_{k≥1} αₖ Σ_u A_iu e_u^(k-1), layer by layer, dense."""
    a, b = {"symmetric": (0.5, 0.5), "mean": (1.0, 0.0)}.get(
        model.normalization, model.normalization
    )
    rated = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    rated[graph.users, graph.items] = 1.0 if graph.weights is None else graph.weights
    p = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    p[:USERS, USERS:], p[USERS:, :USERS] = rated, rated.T
    degrees = p.sum(1)

    def power(values: Tensor, exponent: float) -> Tensor:
        return torch.where(values > 0, values.pow(exponent), 0.0)

    adjacency = power(degrees, -a)[:, None] * p * power(degrees, -b)[None]
    new = torch.zeros(links.num_items, USERS, dtype=torch.float64)
    new[links.items, links.users] = 1.0 if links.weights is None else links.weights
    own = power(new.sum(1), -a)[:, None] * new * power(degrees[:USERS], -b)[None]
    own = own * (degrees[:USERS] > 0)  # an isolated user's embedding is untrained
    layer, total = model.embedding.detach(), 0.0
    for weight in ALPHA[1:]:
        total = total + weight * own @ layer[:USERS]
        layer = adjacency @ layer
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalization", ["symmetric", "mean", (0.3, 0.9)])
def test_embedding_of_a_new_item_equals_the_formula(normalization: Any, weighted: bool) -> None:
    graph, links = a_graph(weighted), new_links(weighted)
    model = a_model(normalization)
    ranker = Ranker.from_model(model, graph, new_items=True)
    grown = add_items(ranker, links)
    wanted = reference(model, graph, links)
    assert grown.items.dtype == torch.float64
    torch.testing.assert_close(grown.items[ITEMS:, :6], wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(grown.items[:ITEMS], ranker.items)
    assert torch.equal(grown.users, ranker.users)


@pytest.mark.parametrize("prior", [None, 0.0, 0.2])
def test_scores_equal_those_of_the_bigger_graph_that_only_sends_to_new_items(
    prior: float | None,
) -> None:
    # A directed matrix over all nodes: the rows of old nodes have no entry at a new one.
    graph, links = a_graph(), new_links()
    links = links.select(links.users > 0)  # an isolated user's embedding is untrained
    model = a_model(popularity_prior=prior)
    grown = add_items(Ranker.from_model(model, graph, new_items=True), links)
    bigger = LightGCN(
        USERS,
        ITEMS + 2,
        6,
        3,
        ALPHA,
        init=(model.embedding[:USERS].float(), torch.zeros(ITEMS + 2, 6)),
    ).double()
    with torch.no_grad():
        bigger.embedding[: USERS + ITEMS] = model.embedding
    small = model.adjacency(graph).to(dtype=torch.float64).to_dense()
    matrix = torch.zeros(USERS + ITEMS + 2, USERS + ITEMS + 2, dtype=torch.float64)
    matrix[: USERS + ITEMS, : USERS + ITEMS] = small
    by_user = graph.user_degrees.double()
    for user, item in links.edge_index.T.tolist():
        degree = float(links.item_degrees[item])
        matrix[USERS + ITEMS + item, user] = (degree * float(by_user[user])) ** -0.5
    users, items = bigger.embed(matrix.to_sparse())
    users = users.detach() * (by_user > 0).unsqueeze(1)
    items = items.detach()
    if prior is not None:
        degrees = torch.cat([graph.item_degrees, links.item_degrees]).double()
        users, items = (torch.nn.functional.normalize(x, dim=1) for x in (users, items))
        wanted = users @ items.T + prior * degrees.log1p()
    else:
        wanted = users @ items.T
    found = grown.score_users(torch.arange(1, USERS))
    torch.testing.assert_close(found, wanted[1:], rtol=1e-10, atol=1e-10)


def test_unknown_user_is_ranked_by_popularity_with_the_new_items() -> None:
    graph, links = a_graph(), new_links()
    grown = add_items(Ranker.from_model(a_model(), graph, new_items=True), links)
    scores = grown.score_users(torch.tensor([0]))[0]
    degrees = torch.cat([graph.item_degrees, links.item_degrees])
    torch.testing.assert_close(scores, degrees.float().log1p().double() / 1024)


@pytest.mark.parametrize("weighted", [False, True])
def test_spectral_rows_equal_a_dense_singular_value_decomposition(weighted: bool) -> None:
    graph, links, rank, beta = a_graph(weighted), new_links(weighted), 5, 0.4
    model = a_model(spectral=rank, spectral_weight=1.0)
    ranker = Ranker.from_model(model, graph, new_items=True)
    grown = add_items(ranker, links)
    rated, new = graph.to_scipy().toarray().astype(float), links.to_scipy().toarray().astype(float)
    by_user, by_item = rated.sum(1), rated.sum(0)
    scale = np.divide(1, np.sqrt(by_user), out=np.zeros(USERS), where=by_user > 0)
    normalized = scale[:, None] * rated / np.sqrt(by_item)
    left, values, right = np.linalg.svd(normalized, full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    column = scale[:, None] * new / np.sqrt(new.sum(0))
    folded = column.T @ left / values  # rows of V for the new items
    # The ranker's columns are rotated: compare products with the present items.
    present = right.T * by_item[:, None] ** beta
    wanted = (folded * new.sum(0)[:, None] ** beta) @ present.T
    found = grown.items[ITEMS:, -rank:] @ ranker.items[:, -rank:].T
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)
    assert not grown.spectral_scale[ITEMS:].any()  # sends nothing to new users


def test_item_knn_equals_nearest_items_with_the_users_old_degrees() -> None:
    graph, links, count = a_graph(), new_links(), 4
    ranker = Ranker.from_model(a_model(item_knn=count), graph, new_items=True)
    found = add_items(ranker, links).item_knn.similarity.toarray()
    rated, new = graph.to_scipy().toarray().astype(float), links.to_scipy().toarray().astype(float)
    degrees = rated.sum(1)
    by_user = np.divide(1, np.sqrt(degrees), out=np.zeros(USERS), where=degrees > 0)
    every = np.concatenate([rated, new], 1)
    similarity = every.T @ (by_user[:, None] * every)
    similarity /= np.sqrt(np.outer(every.sum(0), every.sum(0)))
    np.fill_diagonal(similarity, 0)
    wanted = np.zeros_like(similarity)
    for row, values in enumerate(similarity):
        best = np.argsort(-values.astype(np.float32), kind="stable")[:count]
        wanted[row, best] = values[best]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(
        ranker.item_knn.similarity.toarray(), nearest_items(graph, count).toarray()
    )


def test_neighbours_by_regression_leave_new_items_out() -> None:
    ranker = Ranker.from_model(
        a_model(item_knn=4, item_similarity="ease"), a_graph(), new_items=True
    )
    grown = add_items(ranker, new_links())
    matrix = grown.item_knn.similarity.toarray()
    assert not matrix[ITEMS:].any() and not matrix[:, ITEMS:].any()
    np.testing.assert_array_equal(matrix[:ITEMS, :ITEMS], ranker.item_knn.similarity.toarray())


def test_user_knn_is_that_of_the_bigger_graph() -> None:
    graph, links = a_graph(), new_links()
    ranker = Ranker.from_model(a_model(user_knn=5), graph, new_items=True)
    grown = add_items(ranker, links)
    both = Interactions(
        torch.cat([graph.users, links.users]),
        torch.cat([graph.items, links.items + ITEMS]),
        USERS,
        ITEMS + 2,
    )
    everyone = torch.arange(USERS)
    assert torch.equal(grown.history.edge_index, both.edge_index)
    for found, wanted in zip(
        grown.user_knn.of_users(everyone),
        UserKNN.from_graph(both, 5, 0.3).of_users(everyone),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_time_decay_takes_a_new_item_for_the_latest() -> None:
    graph, links = a_graph(ordered=True), new_links()
    model = a_model(item_knn=4, time_decay=1.0)
    grown = add_items(Ranker.from_model(model, graph, new_items=True), links)
    history = grown.item_knn.history
    at = (history.users == 9) & (history.items == ITEMS + 1)
    assert float(history.weights[at]) == 1.0
    assert float(history.weights[history.users == 9].max()) == 1.0


EVERY_PART = {
    "popularity_prior": 0.1,
    "item_knn": 4,
    "user_knn": 4,
    "spectral": 4,
    "time_decay": 1.0,
}


def test_a_stored_ranker_with_new_nodes_gives_the_same_scores() -> None:
    graph = a_graph(ordered=True)
    ranker = Ranker.from_model(a_model(**EVERY_PART), graph, new_items=True)
    links, people = new_links(), Interactions([0, 0, 1], [3, 20, 4], 2, ITEMS + 2, order=[0, 1, 2])
    grown = add_users(add_items(ranker, links), people)
    loaded = Ranker.from_tensors(*grown.to_tensors())
    everyone = torch.arange(USERS + 2)
    torch.testing.assert_close(loaded.score_users(everyone), grown.score_users(everyone))
    # Twice: the nodes added first still send nothing.
    later = Interactions([3, USERS], [0, 0], USERS + 2, 1)
    alone = Interactions([3], [0], USERS + 2, 1)
    twice, once = (add_items(loaded, each).items[-1, :6] for each in (later, alone))
    torch.testing.assert_close(twice, once)  # cosines: the new user adds nothing to the direction


@pytest.mark.parametrize("parts", [{}, {"popularity_prior": 0.1}, EVERY_PART])
def test_added_users_score_as_folded_in_ones(parts: dict[str, Any]) -> None:
    graph = a_graph(ordered=True)
    ranker = Ranker.from_model(a_model(**{**parts, "user_knn": 0}), graph)
    people = Interactions([0, 0, 1], [3, 2, 4], 2, ITEMS, order=[0, 1, 2])
    grown = add_users(ranker, people)
    wanted = ranker.fold_in(people).score_users(torch.arange(2))
    torch.testing.assert_close(grown.score_users(torch.tensor([USERS, USERS + 1])), wanted)
    torch.testing.assert_close(
        grown.score_users(torch.arange(USERS)), ranker.score_users(torch.arange(USERS))
    )
    assert grown.top_k(3, torch.tensor([USERS])).items[0].tolist() == (
        ranker.fold_in(people).top_k(3, torch.tensor([0])).items[0].tolist()
    )


def test_user_knn_of_added_users_is_that_of_the_bigger_graph() -> None:
    graph, people = a_graph(), Interactions([0, 0, 1], [3, 2, 4], 2, ITEMS)
    grown = add_users(Ranker.from_model(a_model(user_knn=4), graph), people)
    both = Interactions(
        torch.cat([graph.users, people.users + USERS]),
        torch.cat([graph.items, people.items]),
        USERS + 2,
        ITEMS,
    )
    everyone = torch.arange(USERS + 2)
    for found, wanted in zip(
        grown.user_knn.of_users(everyone),
        UserKNN.from_graph(both, 4, 0.3).of_users(everyone),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_refusals_name_what_is_missing() -> None:
    graph, links = a_graph(), new_links()
    with pytest.raises(ValueError, match="new_items=True"):
        add_items(Ranker.from_model(a_model(), graph), links)
    ranker = Ranker.from_model(a_model(), graph, new_items=True)
    with pytest.raises(ValueError, match="new item 1 has no user"):
        add_items(ranker, Interactions([1, 0], [0, 1], USERS, 2))
    with pytest.raises(ValueError, match=f"{USERS} users"):
        add_items(ranker, Interactions([1], [0], 3, 1))
    with pytest.raises(ValueError, match="no weights"):
        add_items(ranker, new_links(weighted=True))
    with pytest.raises(ValueError, match="no weights"):
        add_users(ranker, Interactions([0], [0], 1, ITEMS, [2.0]))
    with pytest.raises(ValueError, match="without layers"):
        Ranker.from_model(LightGCN(USERS, ITEMS, 4, 0), graph, new_items=True)
    with pytest.raises(ValueError, match="user_table must have shape"):
        replace(ranker, user_table=torch.zeros(3, 3))
