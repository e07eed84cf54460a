"""Exact negatives: an item without an edge for the user of each train edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.graphs import Data
from benchmarks.timing import Peers, Way, compare, median_seconds
from lightgcn import Interactions, link_set, sample_negative_items
from lightgcn.core.seeding import make_generator
from lightgcn.training import PRESETS
from lightgcn.training.batches import epoch_batches


def assert_exact_and_uniform(graph: Interactions, negatives: Tensor) -> None:
    """No negative is an edge, and ranges of items come up as often as the users' non-edges in
    them."""
    assert not bool(graph.contains(graph.users, negatives).any())
    share = torch.bincount(negatives, minlength=graph.num_items).double()
    # An edge's user draws item i with probability 1 / room where it has no edge to i.
    weight = 1.0 / (graph.num_items - graph.user_degrees).double()
    by_user = graph.user_degrees.double() * weight
    lost = torch.zeros(graph.num_items, dtype=torch.float64).index_add_(
        0, graph.items, by_user[graph.users]
    )
    expected = by_user.sum() - lost
    found, wanted = (
        part[: part.numel() // 64 * 64].view(64, -1).sum(1) for part in (share, expected)
    )
    chi2 = float(((found - wanted).square() / wanted).sum())
    assert chi2 < 64 + 5 * (2 * 64) ** 0.5


def pyg(graph: Interactions) -> Way:
    from torch_geometric.utils import structured_negative_sampling

    edge_index = torch.stack([graph.users, graph.items + graph.num_users])
    return lambda: structured_negative_sampling(edge_index, graph.num_nodes)


def test_negatives(benchmark: Any, data: Data) -> None:
    graph, generator = data.train, make_generator(0)

    def ours() -> Tensor:
        return sample_negative_items(graph, graph.users, generator)

    assert_exact_and_uniform(graph, ours()[:, 0])
    peers = Peers()
    peers.add("PyG structured_negative_sampling", lambda: pyg(graph), needs="torch_geometric")
    compare(
        benchmark,
        "negatives",
        ours,
        graph=data.name,
        peers=peers,
        figures=lambda seconds: {
            "million triples/s": graph.num_edges / seconds["ours"] / 1e6,
            "million triples/s in shuffled batches": in_batches(graph),
        },
        note="one for each train edge; PyG's are of all nodes, users included",
    )


def in_batches(graph: Interactions) -> float:
    """Return the rate of a training epoch's batches: shuffled, with the rows of the batch
    gathered."""
    links = link_set(graph, graph, negatives=0)
    seconds = median_seconds(
        lambda: list(epoch_batches(links, PRESETS["paper"].train, make_generator(0)))
    )
    return graph.num_edges / seconds / 1e6
