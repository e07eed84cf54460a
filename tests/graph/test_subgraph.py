import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn import Interactions
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.subgraph import (
    ego_graph,
    k_core,
    largest_component,
    locality_order,
    random_users,
    rank_users_by_popularity,
)


def build(pairs, num_users, num_items, **options):
    pairs = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return Interactions(pairs[:, 0], pairs[:, 1], num_users, num_items, **options)


@st.composite
def graphs(draw, min_edges=0):
    num_users, num_items = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    every = [(u, i) for u in range(num_users) for i in range(num_items)]
    pairs = draw(st.lists(st.sampled_from(every), unique=True, min_size=min_edges, max_size=12))
    return set(pairs), num_users, num_items


def neighbours(pairs, num_users, num_items):
    near = {node: set() for node in range(num_users + num_items)}
    for user, item in pairs:
        near[user].add(num_users + item)
        near[num_users + item].add(user)
    return near


def reachable(near, start, hops):
    reached = {start}
    for _ in range(hops):
        reached |= {b for a in reached for b in near[a]}
    return reached


def node_set(nodes, num_users):
    assert nodes.users.tolist() == sorted(set(nodes.users.tolist()))
    assert nodes.items.tolist() == sorted(set(nodes.items.tolist()))
    assert nodes.users.dtype == nodes.items.dtype == torch.int64
    return {*nodes.users.tolist(), *(num_users + item for item in nodes.items.tolist())}


@settings(deadline=None, max_examples=80)
@given(graphs(min_edges=1))
def test_largest_component_against_breadth_first_search(graph):
    near = neighbours(*graph)
    components = [reachable(near, node, len(near)) for node in near]
    # The first of the largest, by node order.
    assert node_set(largest_component(build(*graph)), graph[1]) == max(components, key=len)


def test_of_equally_large_components_the_first_is_taken():
    nodes = largest_component(build({(2, 0), (0, 1)}, 3, 2))
    assert (nodes.users.tolist(), nodes.items.tolist()) == ([0], [1])


def test_largest_component_of_a_weighted_graph_and_its_reindexing():
    pairs = {(0, 0), (2, 1), (2, 3), (3, 3)}
    graph = build(pairs, 4, 4, weights=torch.full((4,), 1e-30), user_ids=list("abcd"))
    part = graph.reindex(*largest_component(graph))
    assert part.user_ids.tolist() == ["c", "d"]
    assert part.edge_index.tolist() == [[0, 0, 1], [0, 1, 1]]


@settings(deadline=None, max_examples=80)
@given(graphs(min_edges=1), st.data())
def test_largest_component_with_groups_against_breadth_first_search(graph, data):
    _, num_users, num_items = graph
    groups = data.draw(st.lists(st.integers(-1, 3), min_size=num_items, max_size=num_items))
    near = neighbours(*graph)
    for a in range(num_items):
        near[num_users + a] |= {
            num_users + b for b in range(num_items) if groups[a] == groups[b] >= 0
        }
    components = [reachable(near, node, len(near)) for node in near]
    found = largest_component(build(*graph), torch.tensor(groups))
    assert node_set(found, num_users) == max(components, key=len)


@pytest.mark.parametrize(
    ("groups", "message"),
    [([0, 1], "one entry for each of 3 items, got 2"), ([0.5, 1.0, 2.0], "must be integers")],
)
def test_wrong_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        largest_component(build({(0, 0)}, 1, 3), torch.tensor(groups))


def test_random_users_are_uniform_and_bring_their_items():
    graph = build({(user, item) for user in range(10) for item in (user, user + 1)}, 10, 12)
    counts = torch.zeros(10)
    for seed in range(2000):
        nodes = random_users(graph, 3, seed=seed)
        users = set(nodes.users.tolist())
        assert len(users) == 3
        assert node_set(nodes, 10) == users | {
            10 + item for user in users for item in (user, user + 1)
        }
        counts[nodes.users] += 1
    # 600 of 2000 each, with a standard deviation of 20.5.
    assert bool(((counts - 600).abs() < 5 * 20.5).all())
    assert random_users(graph, 10).users.tolist() == list(range(10))
    assert (
        random_users(graph, 4, seed=1).users.tolist()
        != random_users(graph, 4, seed=2).users.tolist()
    )


@pytest.mark.parametrize("count", [0, 11, -1, 2.0, True])
def test_a_wrong_number_of_random_users(count):
    with pytest.raises(ValueError, match="count must be"):
        random_users(build({(0, 0)}, 10, 1), count)


def test_largest_component_of_no_edges():
    with pytest.raises(ValueError, match="without edges has no largest component"):
        largest_component(build(set(), 3, 3))


@settings(deadline=None, max_examples=80)
@given(graphs(), st.integers(0, 5), st.data())
def test_ego_graph_against_breadth_first_search(graph, hops, data):
    user = data.draw(st.integers(0, graph[1] - 1))
    assert node_set(ego_graph(build(*graph), user, hops), graph[1]) == reachable(
        neighbours(*graph), user, hops
    )


def test_ego_graph_of_an_isolated_user_and_without_items():
    assert ego_graph(build({(0, 0)}, 2, 2), 1).users.tolist() == [1]
    nodes = ego_graph(build(set(), 1, 0), 0)
    assert (nodes.users.tolist(), nodes.items.tolist()) == ([0], [])


@pytest.mark.parametrize(
    ("user", "hops", "message"),
    [
        (2, 1, "user must be in [0, 2), got 2"),
        (-1, 1, "user must be a non-negative integer, got -1"),
        (0, -1, "hops must be a non-negative integer, got -1"),
    ],
)
def test_wrong_ego_graph(user, hops, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ego_graph(build({(0, 0)}, 2, 2), user, hops)


@settings(deadline=None, max_examples=80)
@given(graphs(), st.integers(1, 4))
def test_k_core_against_peeling_one_node_at_a_time(graph, k):
    near = neighbours(*graph)
    while weak := [node for node in near if len(near[node]) < k]:
        for other in near.pop(weak[0]):
            near[other].discard(weak[0])
    assert node_set(k_core(build(*graph), k), graph[1]) == set(near)


def test_k_core_unravels_a_path():
    path = {(n, n) for n in range(50)} | {(n, n + 1) for n in range(49)}
    assert node_set(k_core(build(path, 50, 50), 2), 50) == set()
    assert len(node_set(k_core(build(path | {(49, 0)}, 50, 50), 2), 50)) == 100


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_wrong_k(k):
    with pytest.raises(ValueError, match=f"k must be an integer of at least 1, got {k}"):
        k_core(build({(0, 0)}, 1, 1), k)


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_popularity_ranking_against_loop(graph):
    pairs, num_users, _ = graph
    degree = {item: sum(i == item for _, i in pairs) for _, item in pairs}

    def mean(user):
        popularity = [degree[i] for u, i in pairs if u == user]
        return sum(popularity) / len(popularity) if popularity else 0

    expected = sorted(range(num_users), key=lambda user: (-mean(user), user))
    assert rank_users_by_popularity(build(*graph)).tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_subgraphs_on_cuda_equal_those_on_the_cpu():
    graph = build({(0, 0), (0, 1), (1, 1), (2, 2), (1, 0)}, 4, 4)
    moved = graph.to("cuda")
    for function in (largest_component, lambda g: ego_graph(g, 0), lambda g: k_core(g, 2)):
        here, there = function(graph), function(moved)
        assert there.users.device.type == there.items.device.type == "cuda"
        assert (there.users.tolist(), there.items.tolist()) == (
            here.users.tolist(),
            here.items.tolist(),
        )
    assert rank_users_by_popularity(moved).tolist() == rank_users_by_popularity(graph).tolist()


def test_locality_order_keeps_the_graph_and_its_ids() -> None:
    graph = synthetic_interactions(200, 150, 3000, seed=3)
    nodes = locality_order(graph)
    assert sorted(nodes.users.tolist()) == list(range(200)) and sorted(
        nodes.items.tolist()
    ) == list(range(150))
    ordered = graph.reindex(*nodes)
    assert ordered.num_edges == graph.num_edges
    assert ordered.user_ids is not None and ordered.item_ids is not None
    pairs = {
        (int(ordered.user_ids[u]), int(ordered.item_ids[i]))
        for u, i in ordered.edge_index.T.tolist()
    }
    assert pairs == {(u, i) for u, i in graph.edge_index.T.tolist()}


def test_locality_order_puts_neighbours_side_by_side() -> None:
    # Blocks of users and items whose numbers are shuffled: in order, an edge's ends are near each
    # other again.
    generator = torch.Generator().manual_seed(0)
    users = torch.arange(400).repeat_interleave(5)
    items = (users // 10) * 8 + torch.randint(10, (2000,), generator=generator)
    shuffled = (
        torch.randperm(400, generator=generator)[users],
        torch.randperm(402, generator=generator)[items],
    )
    graph = Interactions(*shuffled, 400, 402)

    def spread(graph: Interactions) -> float:
        return float((graph.users - graph.items).abs().double().mean())

    assert spread(graph.reindex(*locality_order(graph))) < spread(graph) / 3


@pytest.mark.parametrize("size", [(0, 0), (3, 0), (0, 2), (3, 2)])
def test_locality_order_of_a_graph_without_edges(size: tuple[int, int]) -> None:
    nodes = locality_order(Interactions([], [], *size))
    assert (nodes.users.tolist(), nodes.items.tolist()) == (
        list(range(size[0])),
        list(range(size[1])),
    )
