"""There and back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightgcn import Interactions, LightGCN, Recommender
from lightgcn.convert import (
    embeddings_to_parquet,
    from_homogeneous,
    from_networkx,
    to_homogeneous,
    to_networkx,
)

PAIRS = torch.tensor([[0, 0, 2, 1], [1, 0, 2, 2]])


def a_graph(**options: object) -> Interactions:
    return Interactions.from_edge_index(PAIRS, 4, 3, **options)  # type: ignore[arg-type]


def same(left: Interactions, right: Interactions) -> bool:
    weights = [None if graph.weights is None else graph.weights.tolist() for graph in (left, right)]
    sizes = [(graph.num_users, graph.num_items) for graph in (left, right)]
    return (
        torch.equal(left.edge_index, right.edge_index)
        and weights[0] == weights[1]
        and sizes[0] == sizes[1]
    )


def test_homogeneous_edges_there_and_back() -> None:
    graph = a_graph()
    both = to_homogeneous(graph)
    assert set(zip(*both.tolist(), strict=True)) == {
        (0, 5),
        (5, 0),
        (0, 4),
        (4, 0),
        (2, 6),
        (6, 2),
        (1, 6),
        (6, 1),
    }
    for given in (both, both[:, :4], both[:, 4:], both.flip(1)):
        assert same(from_homogeneous(given, 4, 3), graph)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (
            [[0, 4], [4, 5]],
            r"edge_index\[:, 1\] is \(4, 5\), no edge between a user in \[0, 4\) and an item in "
            r"\[4, 7\)",
        ),
        ([[0], [7]], r"is \(0, 7\)"),
        ([[-1], [5]], r"is \(-1, 5\)"),
        ([[0, 1]], r"shape \(2, E\), got \(1, 2\)"),
        ([[0.0], [5.0]], "must be integers"),
    ],
)
def test_wrong_homogeneous_edges(edges: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_homogeneous(torch.tensor(edges), 4, 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_networkx_there_and_back(weighted: bool) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None
    graph = a_graph(weights=weights, user_ids=list("abcd"), item_ids=list("xyz"))
    there = to_networkx(graph)
    assert there.number_of_nodes() == 7 and there.has_edge(("user", "a"), ("item", "y"))
    networkx = pytest.importorskip("networkx")
    plain = networkx.relabel_nodes(there, {node: node[1] for node in there})
    back = from_networkx(plain, weight="weight" if weighted else None)
    assert same(back, graph)
    assert back.user_ids is not None and back.user_ids.tolist() == list("abcd")
    assert same(from_networkx(there, weight="weight" if weighted else None), graph)


@pytest.mark.parametrize("weight", ["s", 1j, True + 1j, None, [1.0]])
def test_networkx_weights_that_are_no_numbers(weight: object) -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.Graph()
    graph.add_node("a", bipartite=0)
    graph.add_node("b", bipartite=1)
    graph.add_edge("a", "b", plays=weight)
    with pytest.raises(
        ValueError, match="the edge between 'a' and 'b' must have a number as 'plays'"
    ):
        from_networkx(graph, "plays")


@pytest.mark.parametrize("kind", ["DiGraph", "MultiGraph", "MultiDiGraph"])
def test_networkx_graphs_that_would_count_an_edge_twice(kind: str) -> None:
    networkx = pytest.importorskip("networkx")
    with pytest.raises(
        ValueError, match=f"expected an undirected graph without parallel edges, got a {kind}"
    ):
        from_networkx(getattr(networkx, kind)())


@pytest.mark.parametrize("side", [1.0, "1", 2, None])
def test_networkx_sides_that_are_none(side: object) -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.Graph()
    graph.add_node("a", bipartite=side)
    with pytest.raises(ValueError, match="node 'a' must have bipartite=0"):
        from_networkx(graph)


def test_wrong_networkx_graphs() -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.Graph()
    graph.add_node("a", bipartite=0)
    graph.add_node("b", bipartite=0)
    graph.add_edge("a", "b")
    with pytest.raises(ValueError, match="joins two nodes of one side"):
        from_networkx(graph)
    graph.remove_edge("a", "b")
    graph.nodes["b"]["bipartite"] = 1
    graph.add_edge("a", "b")
    with pytest.raises(ValueError, match="must have a number as 'plays'"):
        from_networkx(graph, weight="plays")
    graph.add_node("c")
    with pytest.raises(ValueError, match="node 'c' must have bipartite=0"):
        from_networkx(graph)


@pytest.mark.parametrize("column", ["id", "embedding"])
def test_columns_that_parquet_has_no_place_for_are_refused(tmp_path: Path, column: str) -> None:
    pytest.importorskip("pyarrow")
    recommender = Recommender.from_model(
        LightGCN(4, 3, 8, 2), a_graph(), item_columns={column: ["a", "b", "c"]}
    )
    with pytest.raises(ValueError, match=f"items have a column '{column}'"):
        embeddings_to_parquet(recommender, tmp_path)


def test_embeddings_in_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    graph = a_graph(user_ids=list("abcd"))
    model = LightGCN(4, 3, 8, 2, seed=0)
    recommender = Recommender.from_model(
        model, graph, item_columns={"name": ["one", "two", "three"]}
    )
    users, items = (
        pq.read_table(file) for file in embeddings_to_parquet(recommender, tmp_path / "out")
    )
    assert users.column("id").to_pylist() == list("abcd")
    assert items.column("id").to_pylist() == [0, 1, 2] and items.column("name").to_pylist() == [
        "one",
        "two",
        "three",
    ]
    assert np.array_equal(
        np.array(users.column("embedding").to_pylist(), np.float32),
        recommender.ranker.users.numpy(),
    )
