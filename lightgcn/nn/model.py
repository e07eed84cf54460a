"""LightGCN as an ordinary module: one embedding table, and the graph as an argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightgcn.core.checks import checked_count
from lightgcn.core.process_group import SINGLE_PROCESS, ProcessGroup
from lightgcn.core.seeding import make_generator
from lightgcn.graph.adjacency import Adjacency, as_adjacency
from lightgcn.nn.link_scores import link_scores
from lightgcn.nn.projection import leading_projection
from lightgcn.nn.propagation import propagate, propagate_rows

# Rows of features that are looked at in float64 at a time.
_ROWS = 1 << 16


class LightGCN(nn.Module):
    """Embeddings of users and items that are averaged over a user-item graph (He et al., SIGIR
    2020).

    The final embeddings are z = Σₖ αₖ Aᵏ e with e the embedding table (layer 0); a pair's score is
    the dot product of its two final embeddings. Nothing else is learned: no weight matrices, no
    activations.

    The graph is an argument of every call, never state, so training, validation and test graphs
    share one model.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: width d.
        num_layers: K; 0 is matrix factorisation.
        alpha: K + 1 layer weights; None for 1 / (K + 1) each; "learnable" for parameters that start
            so.
        init: "normal" (std ``init_std``), "xavier" (uniform, over the whole table as the fan), or
            two feature tensors (num_users, f) and (num_items, f) to start from: with another width
            than d they are projected on their d leading principal directions, common to both, or
            filled up with normal columns where f < d.
        init_std: standard deviation of the normal start.
        seed: seed of the start, or a CPU generator.

    Attributes:
        embedding: (num_users + num_items, d) parameter: layer 0, users first.
        alpha: K + 1 layer weights: a (K + 1,) parameter if learnable, else a tuple of numbers.

    Raises:
        ValueError: if a count, the width, ``alpha`` or ``init`` does not fit.
    """

    alpha: nn.Parameter | tuple[float, ...]
    processes: ProcessGroup = (
        SINGLE_PROCESS  # those that hold other columns (`lightgcn.training.sharded`)
    )

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 3,
        alpha: Sequence[float] | Literal["learnable"] | None = None,
        *,
        init: Literal["normal", "xavier"] | tuple[Tensor, Tensor] = "normal",
        init_std: float = 0.1,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        self.num_users = checked_count("num_users", num_users, 1)
        self.num_items = checked_count("num_items", num_items, 1)
        self.embedding_dim = checked_count("embedding_dim", embedding_dim, 1)
        self.num_layers = checked_count("num_layers", num_layers, 0)
        weights = _layer_weights(alpha, self.num_layers)
        self.embedding = nn.Parameter(torch.empty(num_users + num_items, embedding_dim))
        self.reset_parameters(init, init_std=init_std, seed=seed)

        # Fixed weights are plain numbers: to read a tensor is to wait for its device in every step.
        learnable = isinstance(alpha, str)
        self.alpha = (
            nn.Parameter(torch.tensor(weights, dtype=torch.float32))
            if learnable
            else tuple(weights)
        )

    @torch.no_grad()
    def reset_parameters(
        self,
        init: Literal["normal", "xavier"] | tuple[Tensor, Tensor] = "normal",
        *,
        init_std: float = 0.1,
        seed: int | torch.Generator = 0,
    ) -> None:
        """Draw or set the embedding table anew; the arguments are the class's."""
        if not (math.isfinite(init_std) and init_std >= 0):
            raise ValueError(f"init_std must be finite and not negative, got {init_std!r}")
        generator = make_generator(seed)
        # On the CPU whatever the default device, so that a seed means the same start everywhere.
        start = torch.empty(self.embedding.shape, device="cpu")
        if not isinstance(init, str):
            start = _from_features(
                init, self.num_users, self.num_items, self.embedding_dim, init_std, generator
            )
        elif init == "normal":
            start.normal_(0.0, init_std, generator=generator)
        elif init == "xavier":
            nn.init.xavier_uniform_(start, generator=generator)
        else:
            raise ValueError(
                f'init must be "normal", "xavier" or (user features, item features), got {init!r}'
            )
        self.embedding.copy_(start)

    def propagate(self, graph: Adjacency | Tensor) -> Tensor:
        """Return the final embeddings of all nodes, (num_users + num_items, d), users first.

        Args:
            graph: an `Adjacency`, a ``torch.sparse`` tensor over all nodes, or a (2, E)
                ``edge_index`` of users and items (see `lightgcn.graph.adjacency.as_adjacency`;
                convert once where it is called often).
        """
        adjacency = as_adjacency(graph, self.num_users, self.num_items)
        return propagate(adjacency, self.embedding, self.alpha)

    def embed(self, graph: Adjacency | Tensor) -> tuple[Tensor, Tensor]:
        """Return the final embeddings: (num_users, d) and (num_items, d)."""
        z = self.propagate(graph)
        return z[: self.num_users], z[self.num_users :]

    def embed_nodes(
        self, graph: Adjacency | Tensor, nodes: Tensor, *, with_start: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the final and the layer-0 embeddings of some nodes, (B, d) each: what a training
        step looks at.

        Cheaper than to index `propagate` and ``embedding`` (see
        `lightgcn.nn.propagation.propagate_rows`).

        Args:
            graph: as for `propagate`.
            nodes: (B,) int64 node numbers, repeats allowed; item ``i`` is node ``num_users + i``.
            with_start: whether the layer-0 embeddings are wanted; else there are (0, d).
        """
        adjacency = as_adjacency(graph, self.num_users, self.num_items)
        return propagate_rows(adjacency, self.embedding, self.alpha, nodes, with_start=with_start)

    def forward(
        self, graph: Adjacency | Tensor, edges: Tensor, *, node_pairs: bool = False
    ) -> Tensor:
        """Score pairs by the dot product of their final embeddings.

        Args:
            graph: as for `propagate`.
            edges: (2, B) int64 users and items; node numbers in both rows with ``node_pairs``.
            node_pairs: whether ``edges`` holds node numbers (item ``i`` is node ``num_users + i``).

        Returns:
            (B,) raw scores; their sigmoid is the probability of an edge.

        Raises:
            ValueError: if the graph is over other nodes, ``edges`` is not (2, B), or an index in it
                is out of range (looked at on a CPU only).
        """
        if edges.ndim != 2 or edges.shape[0] != 2:
            raise ValueError(f"edges must have shape (2, B), got {tuple(edges.shape)}")
        # An index that another device finds too large ends there in an error anyhow; to look first
        # is to wait for it.
        if edges.device.type == "cpu":
            self._check_range(edges, node_pairs)
        z = self.propagate(graph)
        offset = 0 if node_pairs else self.num_users
        return link_scores(z, edges[0], edges[1] + offset)

    def _check_range(self, edges: Tensor, node_pairs: bool) -> None:
        nodes = self.num_users + self.num_items
        limits = (nodes, nodes) if node_pairs else (self.num_users, self.num_items)
        for name, row, limit in zip(("users", "items"), edges, limits, strict=True):
            wrong = row[(row < 0) | (row >= limit)]
            if len(wrong):
                hint = "" if node_pairs else "; users and items count from zero, each on their own"
                raise ValueError(
                    f"edges: {name} must be in [0, {limit}), got {int(wrong[0])}{hint}"
                )

    def extra_repr(self) -> str:
        learnable = ", learnable alpha" if isinstance(self.alpha, nn.Parameter) else ""
        return (
            f"num_users={self.num_users}, num_items={self.num_items}, "
            f"embedding_dim={self.embedding_dim}, "
            f"num_layers={self.num_layers}{learnable}"
        )


def _layer_weights(alpha: Sequence[float] | str | None, num_layers: int) -> list[float]:
    size = num_layers + 1
    if alpha is None or (isinstance(alpha, str) and alpha == "learnable"):
        return [1 / size] * size
    if not hasattr(alpha, "__len__") or isinstance(alpha, str) or len(alpha) != size:
        raise ValueError(f'alpha must be None, "learnable" or {size} weights, got {alpha!r}')
    weights = [float(weight) for weight in alpha]
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"alpha must be finite, got {alpha!r}")
    return weights


def _from_features(
    features: tuple[Tensor, Tensor],
    num_users: int,
    num_items: int,
    width: int,
    init_std: float,
    generator: torch.Generator,
) -> Tensor:
    if not isinstance(features, tuple | list) or len(features) != 2:
        raise ValueError(
            f'init must be "normal", "xavier" or (user features, item features), got {type(features)}'
        )
    user_features, item_features = (
        torch.as_tensor(part, dtype=torch.float32, device="cpu").detach() for part in features
    )
    if (
        user_features.ndim != 2
        or item_features.ndim != 2
        or user_features.shape[1] != item_features.shape[1]
    ):
        raise ValueError(
            "start features must be (num_users, f) and (num_items, f), got "
            f"{tuple(user_features.shape)} "
            f"and {tuple(item_features.shape)}"
        )
    if len(user_features) != num_users or len(item_features) != num_items:
        raise ValueError(
            f"start features are for {len(user_features)} users and {len(item_features)} items, "
            f"the model has {num_users} and {num_items}"
        )
    start = torch.cat([user_features, item_features])
    if not bool(start.isfinite().all()):
        raise ValueError("start features must be finite")
    if start.shape[1] > width:
        return leading_projection(start, width)
    missing = torch.empty(len(start), width - start.shape[1], device="cpu")
    return torch.cat([start, missing.normal_(0.0, init_std, generator=generator)], dim=1)
