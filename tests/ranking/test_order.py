"""Whether the order of lists means something."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightgcn import Interactions
from lightgcn.ranking import time_decay
from lightgcn.ranking.time_decay import is_sorted, order_is_informative


def sessions(groups: int = 12, size: int = 15) -> Interactions:
    """Lists of three runs of ten items, each run of one group of items."""
    draw = torch.Generator().manual_seed(0)
    users, length = 300, 30
    taste = torch.randint(0, groups, (users, 3), generator=draw).repeat_interleave(10, 1)
    # Item numbers tell nothing about groups.
    number = torch.randperm(groups * size, generator=draw)
    items = number[taste * size + torch.randint(0, size, (users, length), generator=draw)]
    rows = torch.arange(users).repeat_interleave(length)
    places = torch.arange(length).repeat(users)
    return Interactions(rows, items.flatten(), users, groups * size, order=places)


def test_runs_of_alike_items_are_an_order_and_shuffled_lists_are_none() -> None:
    graph = sessions()
    assert order_is_informative(graph)
    assert order_is_informative(replace(graph, order=-graph.order))
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        shuffled = replace(graph, order=torch.randperm(graph.num_edges, generator=draw))
        assert not order_is_informative(shuffled)


@pytest.mark.parametrize("sign", [1, -1])
def test_lists_sorted_by_item_have_no_order(sign: int) -> None:
    graph = sessions()
    listed = replace(graph, order=sign * graph.items)
    assert is_sorted(listed) and not order_is_informative(listed)
    assert not is_sorted(graph)
    # Even if items near each other in number are alike.
    by_group = Interactions(
        torch.arange(300).repeat_interleave(20), torch.arange(6000) % 100, 300, 100,
        order=torch.arange(6000),
    )  # fmt: skip
    assert is_sorted(by_group) and not order_is_informative(by_group)


def test_no_order_and_short_lists_tell_nothing() -> None:
    graph = sessions()
    assert not order_is_informative(replace(graph, order=None))
    first = graph.select(graph.order < 3)
    assert not order_is_informative(first)


def test_a_large_graph_is_judged_by_some_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_decay, "_MOST_EDGES", 4000)
    assert order_is_informative(sessions())
