"""One model on several processes, each with some columns of its embeddings (embedding-dimension
parallelism).

Propagation is linear and acts on each column alone: a process propagates its own with no
communication at all. Dot products are sums over columns, so cross-entropy and BPR exchange one
number for each score; the softmax loss, which compares every pair of a block, exchanges the batch's
rows, and each process scores its part of the batch.

    # torchrun --nproc-per-node 2 train.py
    with process_group() as processes:
        whole = LightGCN(num_users, num_items) if processes.rank == 0 else None
        model = ShardedLightGCN.from_whole(whole, processes)
        fit(model, split, config, run_dir="run")
        trained = model.whole()  # a LightGCN in process 0, None in the others
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightgcn.core.process_group import ProcessGroup, ProcessLostError, process_group
from lightgcn.graph.adjacency import Adjacency
from lightgcn.nn.model import LightGCN

__all__ = ["ProcessGroup", "ProcessLostError", "ShardedLightGCN", "process_group"]


class ShardedLightGCN(LightGCN):
    """A `LightGCN` of which this process holds some columns; made by `from_whole`, the same in
    every process.

    `propagate` and `embed_nodes` give this process's columns of what they give in a `LightGCN`.
    `embed`, `forward` and `whole` speak to the other processes: all have to call them.

    Attributes:
        embedding: (num_users + num_items, own columns) parameter.
        embedding_dim: columns of all processes together.
        processes: the other processes.
    """

    processes: ProcessGroup

    @classmethod
    def from_whole(
        cls, model: LightGCN | None, processes: ProcessGroup, device: torch.device | str = "cpu"
    ) -> ShardedLightGCN:
        """Share out the columns of a model that process 0 has; the other processes give None.

        Raises:
            ValueError: if there are fewer columns than processes, or process 0 gives None.
        """
        layers = 0 if model is None else model.num_layers
        shape = (
            (0, 0, 0) if model is None else (model.num_users, model.num_items, model.embedding_dim)
        )
        learnable = model is not None and isinstance(model.alpha, nn.Parameter)
        said = processes.broadcast([*shape, layers, learnable])
        num_users, num_items, width, layers = map(int, said[:4])
        if not width:
            raise ValueError("process 0 has to give the model that is shared out")
        processes.column_counts(width)
        given = (0.0,) * (layers + 1) if model is None else model.alpha
        alpha = given.tolist() if isinstance(given, Tensor) else list(given)
        alpha = processes.broadcast(alpha)  # in float64, as they are given
        shard = cls.__new__(cls)
        nn.Module.__init__(shard)
        shard.num_users, shard.num_items, shard.embedding_dim, shard.num_layers = (
            num_users,
            num_items,
            width,
            layers,
        )
        table = None if model is None else model.embedding.detach()
        shard.processes = processes
        shard.embedding = nn.Parameter(
            processes.scatter_columns(table, (num_users + num_items, width), torch.device(device))
        )
        shard.alpha = tuple(alpha)
        if said[4]:
            shard.alpha = nn.Parameter(torch.tensor(alpha, dtype=torch.float32, device=device))
        return shard

    def embed(self, graph: Adjacency | Tensor) -> tuple[Tensor, Tensor]:
        """Return the final embeddings with all columns, (num_users, d) and (num_items, d), without
        a gradient."""
        z = self.processes.all_gather_columns(self.propagate(graph).detach(), self.embedding_dim)
        return z[: self.num_users], z[self.num_users :]

    def forward(
        self, graph: Adjacency | Tensor, edges: Tensor, *, node_pairs: bool = False
    ) -> Tensor:
        """Score pairs as `LightGCN` does; every process gives the same pairs and gets all
        scores."""
        return self.processes.all_reduce(super().forward(graph, edges, node_pairs=node_pairs))

    @torch.no_grad()
    def whole(self) -> LightGCN | None:
        """Return the model with all columns, on the CPU, in process 0; None in the others."""
        self.processes.barrier()  # for one that had work of its own
        blocks = self.processes.gather_row_blocks(self.embedding.detach(), self.embedding_dim)
        if self.processes.rank != 0:
            for _ in blocks:
                pass
            return None
        alpha = "learnable" if isinstance(self.alpha, nn.Parameter) else self.alpha
        model = LightGCN(self.num_users, self.num_items, 1, self.num_layers, alpha, init_std=0.0)  # type: ignore[arg-type]
        model.embedding_dim = self.embedding_dim
        model.embedding = nn.Parameter(torch.empty(len(self.embedding), self.embedding_dim))
        first = 0
        for block in blocks:
            model.embedding[first : first + len(block)] = block
            first += len(block)
        if isinstance(model.alpha, nn.Parameter) and isinstance(self.alpha, nn.Parameter):
            model.alpha.copy_(self.alpha)
        return model

    def extra_repr(self) -> str:
        own = self.embedding.shape[1]
        return f"{super().extra_repr()}, {own} columns here, process {self.processes.rank} of {self.processes.size}"
