"""From edges to a normalised adjacency, and from edges to three sets of links with negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.competitors import both_directions, deepsnap_split, pyg_split
from benchmarks.graphs import Data
from benchmarks.timing import Peers, Way, compare
from lightgcn import Adjacency, Interactions, Split, normalized_adjacency, split_edges
from lightgcn.datasets import synthetic_interactions

# The tutorial's graph: nodes and edges.
TUTORIAL = (10_000, 28_000, 600_000)


def scipy_way(edges: torch.Tensor, num_users: int, num_items: int) -> Way:
    """Return what the LightGCN authors' code does, without its Python loops: SciPy products, then a
    COO tensor."""
    from scipy.sparse import bmat, coo_array, csr_array, diags_array

    def run() -> torch.Tensor:
        users, items = edges.numpy()
        block = coo_array(
            (np.ones(len(users), np.float32), (users, items)), shape=(num_users, num_items)
        ).tocsr()
        matrix = csr_array(bmat([[None, block], [block.T, None]]))
        degrees = matrix.sum(axis=1)
        scale = diags_array(
            np.divide(1, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
        )
        coo = (scale @ matrix @ scale).tocoo()
        indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        return torch.sparse_coo_tensor(indices, torch.from_numpy(coo.data), coo.shape).coalesce()

    return run


def pyg_way(graph: Interactions) -> Way:
    from torch_geometric.nn.conv.gcn_conv import gcn_norm
    from torch_geometric.utils import to_torch_csr_tensor

    edge_index = both_directions(graph)

    def run() -> torch.Tensor:
        index, weight = gcn_norm(edge_index, None, graph.num_nodes, add_self_loops=False)
        matrix: torch.Tensor = to_torch_csr_tensor(
            index, weight, size=(graph.num_nodes, graph.num_nodes)
        )
        return matrix

    return run


def test_adjacency(benchmark: Any, data: Data) -> None:
    graph = data.train
    shuffled = graph.edge_index[
        :, torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    ]
    sizes = graph.num_users, graph.num_items

    def ours() -> Adjacency:
        return normalized_adjacency(Interactions.from_edge_index(shuffled, *sizes))

    peers = Peers()
    peers.add("SciPy, COO", lambda: scipy_way(shuffled, *sizes))
    peers.add("PyG gcn_norm, CSR", lambda: pyg_way(graph), needs="torch_geometric")
    expected = ours().to_sparse_coo()
    for run in peers.values():
        found = run()
        assert isinstance(found, torch.Tensor)
        coo = found.to_sparse_coo().coalesce()
        assert torch.equal(coo.indices(), expected.indices())
        torch.testing.assert_close(coo.values(), expected.values())
    note = "from edges in random order; PyG from sorted ones"
    compare(
        benchmark,
        "adjacency",
        ours,
        graph=data.name,
        peers=peers,
        figures=lambda s: {"seconds": s["ours"]},
        note=note,
    )


def test_split(benchmark: Any) -> None:
    graph = synthetic_interactions(*TUTORIAL)

    def ours() -> Split:
        return split_edges(graph, (0.8, 0.1, 0.1), disjoint=0.2, negatives=1.0)

    sizes = [96_000, 60_000, 60_000]
    split = ours()
    assert [links.positives.num_edges for links in split] == sizes
    for links in split:
        assert not bool(links.exclude.contains(*links.negatives).any())
        assert not bool(links.message.contains(links.positives.users, links.positives.items).any())

    def checked(way: Callable[[Interactions], list[int]]) -> Way:
        def run() -> None:
            assert way(graph) == sizes

        return run

    peers = Peers()
    peers.add("DeepSnap", lambda: checked(deepsnap_split), needs="deepsnap")
    peers.add("PyG RandomLinkSplit", lambda: checked(pyg_split), needs="torch_geometric")
    note = "600,000 edges, 38,000 nodes"
    if "DeepSnap" in peers.skipped:
        note += "; not measured here: 12 to 20 s have been published for DeepSnap's graph and split"
    compare(benchmark, "split", ours, graph="tutorial size", peers=peers, note=note)
