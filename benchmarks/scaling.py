"""Time and peak memory of the steps on one graph, in a process of its own; `test_scaling` runs it
by size.

python -m benchmarks.scaling 1000000 --what time
python -m benchmarks.scaling 1000000 --what memory
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from benchmarks.floors import gather_sums
from benchmarks.graphs import mpd_shaped
from benchmarks.memory import peak_extra_bytes
from benchmarks.timing import Way, median_seconds
from lightgcn import (
    Interactions,
    normalized_adjacency,
    propagate,
    sample_negative_items,
    split_edges,
)
from lightgcn.core.seeding import make_generator

LAYERS, WIDTH = 3, 64
ALPHA = [1 / (LAYERS + 1)] * (LAYERS + 1)


def steps(graph: Interactions) -> dict[str, Way]:
    """Return the steps on a graph, each checked by its result on this size."""
    shuffled = graph.edge_index[
        :, torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    ]
    adjacency = normalized_adjacency(graph, half_tables=True)
    x = torch.randn(
        graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    grad = torch.ones(graph.num_nodes, 1).expand(-1, WIDTH)
    generator = make_generator(0)

    def propagation() -> Tensor:
        (result,) = torch.autograd.grad(propagate(adjacency, x, ALPHA), x, grad)
        return result

    assert_gradient_is_right(graph, propagation())
    users = graph.users
    assert not bool(
        graph.contains(users, sample_negative_items(graph, users, generator)[:, 0]).any()
    )
    return {
        "adjacency": lambda: normalized_adjacency(
            Interactions.from_edge_index(shuffled, graph.num_users, graph.num_items)
        ),
        "negatives": lambda: sample_negative_items(graph, users, generator),
        "propagation": propagation,
        "its gather-sums alone": gather_sums(adjacency, torch.float16, [WIDTH], 2 * LAYERS),
        "split": lambda: split_edges(graph),
    }


def assert_gradient_is_right(graph: Interactions, found: Tensor) -> None:
    """Compare with Σ αₖ Aᵏ 1 by plain float64 sums over the edges."""
    scale = torch.cat([graph.user_degrees, graph.item_degrees]).clamp(min=1).double().rsqrt()
    left, right = graph.users, graph.items + graph.num_users
    layer = torch.ones(graph.num_nodes, dtype=torch.float64)
    total = layer.clone()
    for _ in range(LAYERS):
        scaled, layer = scale * layer, torch.zeros_like(layer)
        layer.index_add_(0, left, scaled[right]).index_add_(0, right, scaled[left])
        layer *= scale
        total += layer
    total /= LAYERS + 1
    assert float((found[:, 0] - total).norm() / total.norm()) < 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("edges", type=int)
    parser.add_argument("--what", choices=["time", "memory"], default="time")
    arguments = parser.parse_args()
    graph = mpd_shaped(arguments.edges)
    measure = median_seconds if arguments.what == "time" else peak_extra_bytes
    print(json.dumps({name: measure(way) for name, way in steps(graph).items()}))


if __name__ == "__main__":
    main()
