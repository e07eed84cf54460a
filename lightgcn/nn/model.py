"""LightGCN as an ordinary module: one embedding table, and the graph as an argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import orjson
import torch
from torch import Tensor, nn

from lightgcn.core.checks import checked_count, checked_edge_index, checked_number
from lightgcn.core.seeding import make_generator
from lightgcn.core.transforms import outside_transforms, values_beneath
from lightgcn.graph.adjacency import Adjacency, Graph, Normalization, as_adjacency, exponents
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.link_scores import link_scores
from lightgcn.nn.projection import leading_projection
from lightgcn.nn.propagation import propagate, propagate_rows


class LightGCN(nn.Module):
    """Embeddings of users and items, averaged over a user-item graph (He et al., SIGIR 2020).

    The final embeddings are z = Σₖ αₖ Aᵏ e with e the embedding table (layer 0); the score of a
    pair is the dot product of its two final embeddings. There are no weight matrices and no
    activations.

    The graph is an argument of every call, never state: training, validation and test graphs share
    one model. A call that takes a graph takes `Interactions` (normalised once and kept), an
    `Adjacency`, a ``torch.sparse`` tensor over all nodes, or a (2, E) ``edge_index``.

    Args:
        num_users: number of users.
        num_items: number of items.
        embedding_dim: width d.
        num_layers: K; 0 is matrix factorisation.
        alpha: K + 1 layer weights; None for 1 / (K + 1) each; "learnable" for parameters that start
            so.
        normalization: of the adjacency, "mean", "symmetric" or exponents (a, b) of D⁻ᵃ P D⁻ᵇ. None:
            that of the first graph that the model is trained with ("symmetric" for interactions).
            An `Adjacency` of another normalisation is an error from then on.
        init: "normal" (std ``init_std``), "xavier" (uniform, over the whole table as the fan), or
            two feature tensors (num_users, f) and (num_items, f) to start from: with another width
            than d they are projected onto their d leading principal directions, common to both, or
            filled up with normal columns if f < d.
        init_std: standard deviation of the normal start.
        seed: seed of the start, or a CPU generator.

    Attributes:
        embedding: (num_users + num_items, d) float32 parameter: layer 0, users first.
        alpha: K + 1 layer weights: a (K + 1,) parameter if learnable, else a tuple of numbers.
        ranking: how the embeddings become scores (`RankingConfig`); `lightgcn.fit` sets it, and
            `lightgcn.evaluate` and `lightgcn.Recommender` use it.

    Raises:
        ValueError: if a count, the width, ``alpha``, ``normalization`` or ``init`` does not fit.

    Example:
        >>> import torch
        >>> from lightgcn import LightGCN
        >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
        >>> model = LightGCN(num_users=2, num_items=2, embedding_dim=8, num_layers=2)
        >>> model(edges, edges).shape
        torch.Size([3])
    """

    alpha: nn.Parameter | tuple[float, ...]

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int = 64,
        num_layers: int = 3,
        alpha: Sequence[float] | Literal["learnable"] | None = None,
        *,
        normalization: Normalization | tuple[float, float] | None = None,
        init: Literal["normal", "xavier"] | tuple[Tensor, Tensor] = "normal",
        init_std: float = 0.1,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        self.num_users = checked_count("num_users", num_users, 1)
        self.num_items = checked_count("num_items", num_items, 1)
        self.embedding_dim = checked_count("embedding_dim", embedding_dim, 1)
        self.num_layers = checked_count("num_layers", num_layers, 0)
        self.normalization: Normalization | tuple[float, float] | Literal["custom"] | None = None
        if normalization is not None:
            self.normalization = normalization_name(exponents(normalization))
        self.ranking = RankingConfig()
        weights = _layer_weights(alpha, self.num_layers)
        self.embedding = nn.Parameter(
            torch.empty(num_users + num_items, embedding_dim, dtype=torch.float32, device="cpu")
        )
        self.reset_parameters(init, init_std=init_std, seed=seed)

        # Fixed weights are plain numbers: reading a tensor waits for its device in every step.
        self.alpha = tuple(weights)
        if isinstance(alpha, str):
            self.alpha = nn.Parameter(torch.tensor(weights, dtype=torch.float32, device="cpu"))

    @torch.no_grad()
    def reset_parameters(
        self,
        init: Literal["normal", "xavier"] | tuple[Tensor, Tensor] = "normal",
        *,
        init_std: float = 0.1,
        seed: int | torch.Generator = 0,
    ) -> None:
        """Draw or set the embedding table anew; the arguments are the class's."""
        init_std = checked_number("init_std", init_std, 0)
        generator = make_generator(seed)
        # On the CPU for every device, so that a seed gives the same start everywhere.
        start = torch.empty(self.embedding.shape, dtype=torch.float32, device="cpu")
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

    def adjacency(self, graph: Graph) -> Adjacency:
        """Return a graph as the adjacency that the model propagates along.

        Raises:
            ValueError: if it is over other nodes, or of another normalisation than the model's.
        """
        own = self.normalization
        given = isinstance(graph, Adjacency) or (
            isinstance(graph, Tensor) and graph.layout != torch.strided
        )
        if own == "custom" and not given:
            raise ValueError(
                "the model was trained with a torch.sparse matrix, whose normalisation is not "
                "known: pass such a matrix to embed(), and its result to evaluate_ranking()"
            )
        with outside_transforms():
            adjacency = as_adjacency(
                graph,
                self.num_users,
                self.num_items,
                "symmetric" if own is None or own == "custom" else own,
                self.embedding.device,
            )
        found = normalization_name(adjacency.normalization)
        if own is None:
            if self.training and torch.is_grad_enabled() and self.embedding.requires_grad:
                self.normalization = found
        elif own not in (found, "custom") and found != "custom":
            raise ValueError(
                f"the adjacency has normalization={found!r}, the model has {own!r}: pass the "
                "interactions themselves, or LightGCN(…, normalization=…)"
            )
        return adjacency

    def propagate(self, graph: Graph) -> Tensor:
        """Return the final embeddings of all nodes, (num_users + num_items, d), users first."""
        return propagate(self.adjacency(graph), self.embedding, self.alpha)

    def embed(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return the final embeddings: (num_users, d) and (num_items, d)."""
        z = self.propagate(graph)
        return z[: self.num_users], z[self.num_users :]

    def embed_nodes(
        self, graph: Graph, nodes: Tensor, *, with_start: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the final and the layer-0 embeddings of some nodes, (B, d) each.

        Cheaper than to index `propagate` and ``embedding``
        (see `lightgcn.nn.propagation.propagate_rows`).

        Args:
            graph: as for `propagate`.
            nodes: (B,) int64 node numbers, repeats allowed; item ``i`` is node ``num_users + i``.
            with_start: whether to return the layer-0 embeddings; else they are (0, d).
        """
        return propagate_rows(
            self.adjacency(graph), self.embedding, self.alpha, nodes, with_start=with_start
        )

    def forward(
        self, graph: Graph, edges: Tensor | Interactions | LinkSet, *, node_pairs: bool = False
    ) -> Tensor:
        """Score pairs by the dot product of their final embeddings.

        Args:
            graph: as for `propagate`.
            edges: (2, B) integer users and items (a tensor, an array or a list), or `Interactions`
                or a `LinkSet` whose pairs to score; with ``node_pairs`` node numbers in both rows.
            node_pairs: whether ``edges`` holds node numbers (item ``i`` is node
                ``num_users + i``).

        Returns:
            (B,) raw scores; their sigmoid is the probability of an edge.

        Raises:
            ValueError: if the graph is over other nodes, ``edges`` is not (2, B) or not integer, or
                an index in it is out of range (on a GPU: a device-side assertion).
        """
        pairs = _pairs_of(edges)
        limits = (self.num_users, self.num_items)
        if node_pairs:
            limits = (self.num_users + self.num_items,) * 2
        _check_range(pairs, limits)
        pairs = pairs.to(self.embedding.device)
        z = self.propagate(graph)
        offset = 0 if node_pairs else self.num_users
        return link_scores(z, pairs[0], pairs[1] + offset)

    # The weights alone do not determine a score: the state holds layers, normalisation and ranking.

    def get_extra_state(self) -> Tensor:
        """Return what the weights lack, as a (bytes,) uint8 tensor of JSON."""
        alpha = "learnable" if isinstance(self.alpha, Tensor) else list(self.alpha)
        state = {
            "num_layers": self.num_layers,
            "alpha": alpha,
            "normalization": self.normalization,
            "ranking": asdict(self.ranking),
        }
        data = bytearray(orjson.dumps(state))
        packed: Tensor = torch.frombuffer(data, dtype=torch.uint8).clone()
        return packed

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the normalisation and the ranking of a saved model."""
        saved = _unpacked_state(state)
        if saved["normalization"] is not None:
            self.normalization = saved_normalization(saved["normalization"])
        self.ranking = _saved_ranking(saved["ranking"])

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *rest: Any
    ) -> None:
        # Before a weight is written: a refusal leaves the model as it was.
        key = prefix + "_extra_state"
        if key in state_dict:
            self._check_state(_unpacked_state(state_dict[key]))
        table = state_dict.get(prefix + "embedding", self.embedding)
        if table.shape != self.embedding.shape:
            raise ValueError(
                f"the saved embedding has shape {tuple(table.shape)}, this model's has "
                f"{tuple(self.embedding.shape)}"
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *rest)
        missing = rest[0]
        if key in missing:  # a table from other code is loaded as it is
            missing.remove(key)

    def _check_state(self, saved: dict[str, Any]) -> None:
        _saved_ranking(saved["ranking"])
        saved_normalization(saved["normalization"])
        own = orjson.loads(self.get_extra_state().numpy().tobytes())
        for name in ("num_layers", "alpha", "normalization"):
            unset = name == "normalization" and None in (own[name], saved[name])
            if saved[name] != own[name] and not unset:
                raise ValueError(
                    f"the saved model has {name}={saved[name]!r}, this one has {own[name]!r}: "
                    "their scores would differ"
                )

    def extra_repr(self) -> str:
        alpha = "learnable" if isinstance(self.alpha, Tensor) else list(self.alpha)
        uniform = isinstance(alpha, list) and len(set(alpha)) == 1
        parts = [
            f"num_users={self.num_users}, num_items={self.num_items}",
            f"embedding_dim={self.embedding_dim}, num_layers={self.num_layers}",
            f"normalization={self.normalization!r}",
        ]
        return ", ".join(parts if uniform else [*parts, f"alpha={alpha!r}"])


def _pairs_of(edges: Any) -> Tensor:
    """Return (2, B) int64 from a `LinkSet`, `Interactions` or an array of pairs."""
    given = edges
    with outside_transforms():  # these are kept with the graph
        if isinstance(edges, LinkSet):
            given = edges.edges
        elif isinstance(edges, Interactions):
            given = edges.edge_index
    return checked_edge_index(given, "edges")


def _check_range(pairs: Tensor, limits: tuple[int, int]) -> None:
    for name, row, limit in zip(("users", "items"), pairs, limits, strict=True):
        if row.device.type != "cpu":  # without waiting for the device
            torch._assert_async(((row >= 0) & (row < limit)).all())
            continue
        with outside_transforms():
            given = values_beneath(row)
            wrong = given[(given < 0) | (given >= limit)]
        if len(wrong):
            raise ValueError(
                f"edges: {name} must be in [0, {limit}), got {int(wrong[0])}; users and items "
                "count from zero, each on their own (node numbers: node_pairs=True; a homogeneous "
                "edge_index: lightgcn.convert.from_homogeneous)"
            )


def normalization_name(
    given: tuple[float, float] | None,
) -> Normalization | tuple[float, float] | Literal["custom"]:
    """Return the name of exponents (a, b) if they have one; "custom" for a matrix without."""
    names = {exponents(name): name for name in get_args(Normalization)}
    return "custom" if given is None else names.get(given, given)


def saved_normalization(saved: Any) -> Any:
    """Return a model's normalisation from its JSON value, or raise a ValueError."""
    if saved is None or saved == "custom":
        return saved
    return normalization_name(exponents(tuple(saved) if isinstance(saved, list) else saved))


def _saved_ranking(saved: Any) -> RankingConfig:
    try:
        return RankingConfig(**saved)
    except TypeError as error:
        raise ValueError(f"ranking of the saved model: {error}") from error


def _unpacked_state(state: Tensor) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = orjson.loads(state.cpu().numpy().tobytes())
        if {"num_layers", "alpha", "normalization", "ranking"} <= saved.keys():
            return saved
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"_extra_state is not that of a LightGCN ({error})") from error
    raise ValueError(f"_extra_state is not that of a LightGCN (it has {', '.join(saved)})")


def _layer_weights(alpha: Sequence[float] | str | None, num_layers: int) -> list[float]:
    size = num_layers + 1
    if alpha is None or (isinstance(alpha, str) and alpha == "learnable"):
        return [1 / size] * size
    if isinstance(alpha, Tensor) and alpha.requires_grad:
        raise ValueError('alpha requires a gradient; alpha="learnable" makes it a parameter')
    try:
        weights = [float(weight) for weight in alpha]
    except (TypeError, ValueError):  # nothing to iterate over, or no numbers
        weights = []
    if len(weights) != size:
        raise ValueError(f'alpha must be None, "learnable" or {size} weights, got {alpha!r}')
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
            'init must be "normal", "xavier" or (user features, item features), got '
            f"{type(features)}"
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
    missing = torch.empty(len(start), width - start.shape[1], dtype=start.dtype, device="cpu")
    return torch.cat([start, missing.normal_(0.0, init_std, generator=generator)], dim=1)
