"""Other people's ways of doing a step, as they document them; imported only where they are
called."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from lightgcn import Interactions, normalized_adjacency

Propagation = Callable[[Tensor], Tensor]


def seconds_of_script(code: str, *arguments: object) -> float:
    """Run a peer's script in a process of its own, with OpenBLAS on one thread as implicit wants it,
    and without its warnings; return the seconds that it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def both_directions(graph: Interactions) -> Tensor:
    """Return the (2, 2E) homogeneous ``edge_index``: item i is node ``num_users + i``."""
    one_way = torch.stack([graph.users, graph.items + graph.num_users])
    return torch.cat([one_way, one_way.flip(0)], dim=1)


def pyg_propagation(graph: Interactions, num_layers: int, layout: str) -> Propagation:
    """PyG's `LightGCN.get_embedding` on an ``edge_index``, or on a pre-normalised torch CSR
    matrix."""
    from torch_geometric.nn import LightGCN

    model = LightGCN(graph.num_nodes, 1, num_layers)
    operand = both_directions(graph)
    if layout == "csr":
        operand = normalized_adjacency(graph).to_sparse_csr()
        for conv in model.convs:
            conv.normalize = False

    def propagate(x: Tensor) -> Tensor:
        # The caller's table in place of the model's own, so that every way differentiates the same
        # leaf.
        model.embedding.weight = x
        result: Tensor = model.get_embedding(operand)
        return result

    return propagate


def coo_propagation(graph: Interactions, num_layers: int) -> Propagation:
    """Return the LightGCN authors' PyTorch code: `torch.sparse.mm` on COO, a stack of all layers
    and its mean."""
    matrix = normalized_adjacency(graph).to_sparse_coo()

    def propagate(x: Tensor) -> Tensor:
        layers = [x]
        for _ in range(num_layers):
            layers.append(torch.sparse.mm(matrix, layers[-1]))
        return torch.stack(layers, dim=1).mean(dim=1)

    return propagate


def peer_propagations(
    graph: Interactions, num_layers: int
) -> dict[str, tuple[Callable[[], Propagation], str | None]]:
    """Return ways to build the peers' propagation by the names of `benchmarks.targets`, and what
    each needs."""
    return {
        "PyG edge_index": (
            partial(pyg_propagation, graph, num_layers, "edge_index"),
            "torch_geometric",
        ),
        "PyG CSR": (partial(pyg_propagation, graph, num_layers, "csr"), "torch_geometric"),
        "torch COO": (partial(coo_propagation, graph, num_layers), None),
    }


def pyg_mean_propagation(graph: Interactions, num_layers: int) -> Propagation:
    """Return mean aggregation by PyG message passing, and the mean of all layers: the tutorial's
    model."""
    from torch_geometric.nn import SimpleConv

    conv, edge_index = SimpleConv(aggr="mean"), both_directions(graph)

    def propagate(x: Tensor) -> Tensor:
        layers = [x]
        for _ in range(num_layers):
            layers.append(conv(layers[-1], edge_index))
        return torch.stack(layers).mean(0)

    return propagate


def deepsnap_split(graph: Interactions) -> list[int]:
    """Split as the tutorial does and return the number of edges to predict of each set."""
    if "torch_sparse" not in sys.modules and find_spec("torch_sparse") is None:
        # DeepSnap imports it for a layer that has nothing to do with splitting.
        stand_in = types.ModuleType("torch_sparse")
        stand_in.matmul, stand_in.SparseTensor = None, type("SparseTensor", (), {})  # type: ignore[attr-defined]
        sys.modules["torch_sparse"] = stand_in
    from deepsnap.dataset import GraphDataset
    from deepsnap.graph import Graph

    whole = Graph(
        node_feature=torch.zeros(graph.num_nodes, 1),
        edge_index=both_directions(graph),
        directed=False,
    )
    dataset = GraphDataset(
        [whole],
        task="link_pred",
        edge_train_mode="disjoint",
        edge_message_ratio=0.8,
        edge_negative_sampling_ratio=1.0,
    )
    parts = dataset.split(transductive=True, split_ratio=[0.8, 0.1, 0.1])
    # Labels are of both directions, positives then as many negatives.
    return [len(part[0].edge_label) // 4 for part in parts]


def pyg_split(graph: Interactions) -> list[int]:
    """Split by PyG's `RandomLinkSplit` and return the number of edges to predict of each set."""
    from torch_geometric.data import HeteroData
    from torch_geometric.transforms import RandomLinkSplit

    kind = ("user", "to", "item")
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = graph.num_users, graph.num_items
    data[kind].edge_index = graph.edge_index
    split = RandomLinkSplit(
        0.1, 0.1, disjoint_train_ratio=0.2, neg_sampling_ratio=1.0, edge_types=kind
    )
    return [int((part[kind].edge_label == 1).sum()) for part in split(data)]
