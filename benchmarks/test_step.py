"""One whole BPR training step: negatives, propagation, loss, L2, backward, Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.graphs import Data
from benchmarks.peers import Propagation, coo_propagation, pyg_propagation
from benchmarks.timing import Peers, Way, compare
from lightgcn import PRESETS, bpr_loss, l2_penalty, normalized_adjacency
from lightgcn.batches import Batch, batch_loss, epoch_batches
from lightgcn.seeding import make_generator
from lightgcn.splitting import link_set

CONFIG = PRESETS["paper"]


def peer_step(propagate: Propagation, start: Tensor, batches: Callable[[], Batch], fused: bool) -> Way:
    """Return a step of the same losses on another propagation; its batches come ready, negatives included."""
    table = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([table], lr=CONFIG.learning_rate, fused=fused)

    def run() -> Tensor:
        batch = batches()
        assert batch.negatives is not None
        optimizer.zero_grad()
        z, negatives = propagate(table), batch.negatives[:, 0]
        users = z[batch.left]
        loss = bpr_loss((users * z[batch.right]).sum(1), (users * z[negatives]).sum(1))
        rows = table[batch.left], table[batch.right], table[negatives]
        loss = loss + CONFIG.l2 * l2_penalty(*rows, batch_size=len(batch.left))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def test_bpr_step(benchmark: Any, data: Data) -> None:
    graph = data.train
    model = CONFIG.new_model(graph.num_users, graph.num_items)
    start = model.embedding.detach().clone()
    links = link_set(graph, graph, negatives=0)
    adjacency = normalized_adjacency(graph, half_tables=CONFIG.precision == "mixed")
    optimizer = torch.optim.Adam(model.parameters(), lr=CONFIG.learning_rate, fused=True)
    drawn = epoch_batches(links, CONFIG, make_generator(0))

    def ours(batch: Batch | None = None) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(model, adjacency, next(drawn) if batch is None else batch, CONFIG)
        loss.backward()
        optimizer.step()
        return loss.detach()

    fixed = next(epoch_batches(links, CONFIG, make_generator(1)))
    ways: dict[str, tuple[Callable[[], Propagation], str | None, bool]] = {
        "PyG edge_index": (lambda: pyg_propagation(graph, CONFIG.num_layers, "edge_index"), "torch_geometric", False),
        "PyG CSR": (lambda: pyg_propagation(graph, CONFIG.num_layers, "csr"), "torch_geometric", True),
        "torch COO": (lambda: coo_propagation(graph, CONFIG.num_layers), None, False),
    }
    peers = Peers()
    for name, (build, needs, fused) in ways.items():
        peers.add(name, lambda b=build, f=fused: peer_step(b(), start, lambda: fixed, f), needs)
    # Two steps each on one batch: the second loss is that of the updated table.
    losses = [float(ours(fixed)) for _ in range(2)]
    for name, run in peers.items():
        for loss in losses:
            result = run()
            assert isinstance(result, Tensor)
            assert abs(float(result) - loss) < 1e-3 * abs(loss), name
    note = "batch 2048, 3 layers; peers get their negatives for nothing; PyG CSR has fused Adam too"
    compare(benchmark, "BPR step", ours, graph=data.name, peers=peers, note=note)
