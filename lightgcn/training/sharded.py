"""One model on several processes, each with some columns of its embeddings (embedding-dimension
parallelism).

Propagation acts on each column separately, so it needs no communication. Dot products are sums over
columns, so cross-entropy and BPR exchange one number per score. The softmax loss compares every
pair of a block: processes exchange the batch's rows, and each scores a part of the batch.

    # torchrun --nproc-per-node 2 train.py
    with process_group() as processes:
        whole = LightGCN(num_users, num_items) if processes.rank == 0 else None
        model = ShardedLightGCN.from_whole(whole, processes)
        fit(model, split, config, run_dir="run")
        trained = model.whole()  # a LightGCN in process 0, None in the others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightgcn.core.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    ProcessLostError,
    process_group,
)
from lightgcn.graph.adjacency import Graph
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.closed_forms import ClosedForms
from lightgcn.ranking.evaluation import evaluate_users
from lightgcn.ranking.list_metrics import LIST_METRICS
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.result import Evaluation

__all__ = ["ProcessGroup", "ProcessLostError", "ShardedLightGCN", "process_group"]


class ShardedLightGCN(LightGCN):
    """A `LightGCN` of which this process holds some columns; `from_whole` makes one.

    `propagate` and `embed_nodes` return the columns of this process. `embed`, `forward` and `whole`
    are collective: all processes must call them.

    Attributes:
        embedding: (num_users + num_items, own columns) parameter.
        embedding_dim: number of columns of all processes together.
        processes: the process group.
    """

    processes: ProcessGroup

    @classmethod
    def from_whole(
        cls, model: LightGCN | None, processes: ProcessGroup, device: torch.device | str = "cpu"
    ) -> ShardedLightGCN:
        """Distribute the columns of the model of process 0; the other processes pass None.

        Raises:
            ValueError: if there are fewer columns than processes, or process 0 passes None, a
                model of another dtype than float32, or one of a "custom" normalisation.
        """
        unfit = _unfit(model)
        sent = processes.broadcast_json(None if model is None or unfit else _described(model))
        if sent is None:  # in all processes, none of which waits for the others
            given_by_0 = unfit if processes.rank == 0 else "something else"
            raise ValueError(
                "process 0 must pass a float32 model with exponents of normalisation, got "
                f"{given_by_0}"
            )
        shard = cls.__new__(cls)
        nn.Module.__init__(shard)
        shard.num_users, shard.num_items = sent["num_users"], sent["num_items"]
        shard.embedding_dim, shard.num_layers = sent["embedding_dim"], sent["num_layers"]
        shard.processes, shard.ranking = processes, RankingConfig(**sent["ranking"])
        named: Any = sent["normalization"]
        shard.normalization = tuple(named) if isinstance(named, list) else named
        processes.column_counts(shard.embedding_dim)
        table = None if model is None else model.embedding.detach()
        shape = (shard.num_users + shard.num_items, shard.embedding_dim)
        shard.embedding = nn.Parameter(
            processes.scatter_columns(table, shape, torch.device(device))
        )
        shard.alpha = tuple(sent["alpha"])
        if sent["learnable"]:
            alpha = torch.tensor(sent["alpha"], dtype=torch.float32, device=device)
            shard.alpha = nn.Parameter(alpha)
        return shard

    def reset_parameters(self, *arguments: Any, **options: Any) -> None:
        """Raise a ValueError: every process would draw the same numbers for its own columns."""
        raise ValueError("a part of a model is not drawn anew: reset the whole before from_whole")

    def embed(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return the final embeddings with all columns, (num_users, d) and (num_items, d), without
        a gradient."""
        z = self.processes.all_gather_columns(self.propagate(graph).detach(), self.embedding_dim)
        return z[: self.num_users], z[self.num_users :]

    def forward(
        self, graph: Graph, edges: Tensor | Interactions | LinkSet, *, node_pairs: bool = False
    ) -> Tensor:
        """Score pairs as `LightGCN` does; all processes pass the same pairs and get all scores."""
        return self.processes.all_reduce(super().forward(graph, edges, node_pairs=node_pairs))

    @torch.no_grad()
    def whole(self) -> LightGCN | None:
        """Return the model with all columns, on the CPU, in process 0; None in the others."""
        self.processes.barrier()  # the others may still be busy
        blocks = self.processes.gather_row_blocks(self.embedding.detach(), self.embedding_dim)
        if self.processes.rank != 0:
            for _ in blocks:
                pass
            return None
        alpha = "learnable" if isinstance(self.alpha, nn.Parameter) else self.alpha
        model = LightGCN(self.num_users, self.num_items, 1, self.num_layers, alpha, init_std=0.0)  # type: ignore[arg-type]
        model.normalization, model.ranking = self.normalization, self.ranking
        model.embedding_dim = self.embedding_dim
        shape = len(self.embedding), self.embedding_dim
        table = torch.empty(shape, dtype=self.embedding.dtype, device="cpu")
        model.embedding = nn.Parameter(table)
        first = 0
        for block in blocks:
            model.embedding[first : first + len(block)] = block
            first += len(block)
        if isinstance(model.alpha, nn.Parameter) and isinstance(self.alpha, nn.Parameter):
            model.alpha.copy_(self.alpha)
        return model

    def extra_repr(self) -> str:
        own, rank, size = self.embedding.shape[1], self.processes.rank, self.processes.size
        return f"{super().extra_repr()}, {own} columns here, process {rank} of {size}"


def processes_of(model: LightGCN) -> ProcessGroup:
    """Return the processes that hold a model together: this one alone for a plain `LightGCN`."""
    return model.processes if isinstance(model, ShardedLightGCN) else SINGLE_PROCESS


@torch.no_grad()
def evaluate_shared(
    model: LightGCN,
    links: LinkSet,
    *,
    ks: Sequence[int],
    metrics: Sequence[str],
    closed_forms: ClosedForms | None = None,
) -> Evaluation:
    """Evaluate as `lightgcn.evaluate`, each process ranking for its share of the users.

    ``closed_forms`` is as for `Ranker.from_model`."""
    processes = processes_of(model)
    ranker = Ranker.from_model(model, links.message, fold_in=False, closed_forms=closed_forms)
    if processes.size == 1:
        return evaluate_users(ranker, links, ks=ks, metrics=metrics)
    able = links.positives.user_degrees.nonzero().flatten()
    # A metric of all lists together is no mean over parts of the users.
    if not ks or len(able) < processes.size or not LIST_METRICS.keys().isdisjoint(metrics):
        result = evaluate_users(ranker, links, ks=ks, metrics=metrics)
    else:
        own = able[processes.rank :: processes.size]
        part = evaluate_users(ranker, links, ks=ks, metrics=metrics, users=own)
        ranked = [name for name in part.metrics if "@" in name]
        sums = torch.tensor(
            [part[name] * part.num_users for name in ranked], dtype=torch.float64, device="cpu"
        )
        means = (processes.all_reduce_numbers(sums) / len(able)).tolist()
        values = part.metrics | dict(zip(ranked, means, strict=True))
        result = Evaluation(values, part.num_links, len(able))
    # Decisions that rest on them must be the same in every process.
    agreed = processes.broadcast(list(result.metrics.values()))
    return replace(result, metrics=dict(zip(result.metrics, agreed, strict=True)))


def _unfit(model: LightGCN | None) -> str:
    """Return why a model cannot be shared out, "" if it can."""
    if model is None:
        return "None"
    if model.embedding.dtype != torch.float32:
        return str(model.embedding.dtype)
    return 'normalization="custom"' if model.normalization == "custom" else ""


def _described(model: LightGCN) -> dict[str, Any]:
    """Return all but the embeddings, in JSON types."""
    names = "num_users", "num_items", "embedding_dim", "num_layers", "normalization"
    learnable = isinstance(model.alpha, nn.Parameter)
    alpha = model.alpha.tolist() if isinstance(model.alpha, Tensor) else list(model.alpha)
    found = {name: getattr(model, name) for name in names}
    return found | {"learnable": learnable, "alpha": alpha, "ranking": asdict(model.ranking)}
