"""One whole BPR training step: negatives, propagation, loss, L2, backward, Adam."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.competitors import Propagation, peer_propagations
from benchmarks.graphs import Data
from benchmarks.timing import Peers, Way, compare
from lightgcn import bpr_loss, l2_penalty, normalized_adjacency
from lightgcn.core.seeding import make_generator
from lightgcn.graph.links import link_set
from lightgcn.graph.subgraph import locality_order
from lightgcn.training import PRESETS
from lightgcn.training.batches import Batch, batch_loss, epoch_batches

CONFIG = PRESETS["paper"]


def peer_step(propagate: Propagation, start: Tensor, batch: Batch, fused: bool) -> Way:
    """Return a step of the same losses on another propagation; its batch is there already,
    negatives included."""
    assert batch.negatives is not None
    negatives = batch.negatives[:, 0]
    table = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([table], lr=CONFIG.train.learning_rate, fused=fused)

    def run() -> Tensor:
        optimizer.zero_grad()
        z = propagate(table)
        users = z[batch.left]
        loss = bpr_loss((users * z[batch.right]).sum(1), (users * z[negatives]).sum(1))
        rows = table[batch.left], table[batch.right], table[negatives]
        loss = loss + CONFIG.train.l2 * l2_penalty(*rows, batch_size=len(batch.left))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


@pytest.mark.parametrize("variant", ["nodes as given", "reordered"])
def test_bpr_step(benchmark: Any, data: Data, variant: str) -> None:
    graph, old = data.train, torch.arange(data.train.num_nodes)
    if variant == "reordered":
        order = locality_order(graph)
        graph, old = graph.reindex(*order), torch.cat([order.users, order.items + graph.num_users])
    model = CONFIG.new_model(graph)
    start = model.embedding.detach().clone()
    links = link_set(graph, graph, negatives=0)
    adjacency = normalized_adjacency(graph, half_tables=CONFIG.train.precision == "mixed")
    optimizer = torch.optim.Adam(model.parameters(), lr=CONFIG.train.learning_rate, fused=True)
    drawn = epoch_batches(links, CONFIG.train, make_generator(0))

    def ours(batch: Batch | None = None) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(model, adjacency, next(drawn) if batch is None else batch, CONFIG.train)
        loss.backward()
        optimizer.step()
        return loss.detach()

    fixed = next(epoch_batches(links, CONFIG.train, make_generator(1)))
    assert fixed.negatives is not None
    # The peers' nodes are as they come: to put them in another order is a part of ours.
    batch = Batch(old[fixed.left], old[fixed.right], negatives=old[fixed.negatives])
    table = torch.empty_like(start).index_copy_(0, old, start)
    peers = Peers()
    for name, (build, needs) in peer_propagations(data.train, CONFIG.model.num_layers).items():
        # The best of them gets the best optimiser.
        peers.add(
            name,
            partial(
                lambda build, fused: peer_step(build(), table, batch, fused), build, "CSR" in name
            ),
            needs,
        )
    # Two steps each on one batch: the second loss is that of the updated table.
    losses = [float(ours(fixed)) for _ in range(2)]
    for name, run in peers.items():
        for loss in losses:
            result = run()
            assert isinstance(result, Tensor)
            assert abs(float(result) - loss) < 1e-3 * abs(loss), name
    note = "batch 2048, 3 layers; an epoch's negatives are drawn before its first step, peers get theirs for nothing"
    compare(benchmark, "BPR step", ours, variant=variant, graph=data.name, peers=peers, note=note)
