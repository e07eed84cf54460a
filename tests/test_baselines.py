"""The popularity baseline."""

from __future__ import annotations

import torch

from lightgcn import Interactions, popularity, top_k


def test_popularity_scores_an_item_by_its_number_of_users() -> None:
    graph = Interactions.from_edge_index(torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 0, 1]]), 4, 5)
    users, items = popularity(graph)
    assert users.shape == (4, 1) and items.shape == (5, 1)
    assert users.dtype == items.dtype == torch.float32
    assert (users @ items.T).tolist() == [[1, 1, 3, 0, 0]] * 4


def test_seen_items_leave_the_list_and_ties_go_by_index() -> None:
    graph = Interactions.from_edge_index(torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 0, 1]]), 4, 5)
    ranked = top_k(*popularity(graph), 3, seen=graph).items
    assert ranked.tolist() == [[1, 3, 4], [0, 3, 4], [0, 1, 3], [2, 0, 1]]


def test_weights_do_not_count() -> None:
    edges = torch.tensor([[0, 1], [0, 1]])
    weighted = Interactions.from_edge_index(edges, 2, 2, weights=torch.tensor([5.0, 0.5]))
    assert popularity(weighted)[1].tolist() == [[1.0], [1.0]]
