"""From a trained encoder to scores, in one object.

A score is the dot product or the cosine of two final embeddings, plus the parts that
`RankingConfig` names: a popularity prior, spectral embeddings, item kNN, user kNN, time decay. All
but the nearest neighbours are columns of two tables, so a ranking is one matrix product and a few
additions.

The columns are those of the embeddings, one of the items' popularity, and the spectral ones.
Without a prior the popularity is for users without edges alone, of whom nothing else is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.checks import check_finite, checked_indices, largest_entry
from lightgcn.graph.adjacency import exponents, normalized_adjacency
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.graph.links import LinkSet
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.link_scores import products, unit_rows
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import check_whole
from lightgcn.nn.propagation import propagate
from lightgcn.ranking.candidates import Items
from lightgcn.ranking.closed_forms import ClosedForms, SpectralItems
from lightgcn.ranking.columns import (
    popularity_column,
    unit_rows_and,
    with_columns,
    with_popularity_prior,
    with_unknown,
)
from lightgcn.ranking.explanation import UserScales, user_scales
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.ranker_tensors import ranker_parts, ranker_tensors
from lightgcn.ranking.received import received
from lightgcn.ranking.residual import (
    Residual,
    residual_of_links,
    residual_sum,
)
from lightgcn.ranking.time_decay import decayed, towards_latest
from lightgcn.ranking.topk import TopK, top_k
from lightgcn.ranking.user_knn import UserKNN


@dataclass(frozen=True, eq=False)
class Ranker:
    """Scores of users and items over one graph, made from a trained model by `from_model`.

    Attributes:
        users: (num_users, w) floating; with ``items``, the part of a score that is a dot product.
        items: (num_items, w) floating, on the same device: the model's d columns, one of
            popularity, and those of the spectral embeddings.
        history: the users' items: masked in their rankings, the input of item kNN and time decay.
        config: the parts of a score, without time decay if the graph has no order.
        item_knn: the similarities of items, or None.
        fold_in_table: (num_items, d), float32 or wider: each item's messages to a new user summed,
            m(i) Σ_{k≥1} αₖ e_i^(k-1); None for a model without layers.
        user_exponent: a of D⁻ᵃ P D⁻ᵇ; the sum over a new user's n items is divided by nᵃ.
        linked: (num_items,) bool: items that send messages; None for those with users.
        spectral_scale: (num_items,) float32, by which an item counts in the spectral embedding of a
            new user; None without spectral embeddings.
        spectral_variances: (r,) float32, of the columns of the items' spectral embeddings.
        user_knn: the users who may be neighbours, or None.
        user_scales: by what the users' embeddings and their latest items are multiplied in
            ``users``, which `explain_score` needs; None if scores are dot products, and for new
            users.
        user_table: (num_users, d), as ``fold_in_table``: each user's messages to a new item summed;
            None unless asked for. `lightgcn.ranking.fold_in.add_items` needs it.
        counted: (E,) bool: the edges of ``history`` that ``users`` are computed from; None for all.
            Those of items that were added later are not.

    Raises:
        ValueError: if the parts are of different nodes or devices, contradict ``config``, or give
            scores that are not finite.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions, LightGCN, Ranker
        >>> graph = Interactions.from_edge_index([[0, 0, 1, 2], [0, 1, 1, 2]])
        >>> ranker = Ranker.from_model(LightGCN(3, 3, embedding_dim=4), graph)
        >>> ranker.top_k(2).items.shape
        torch.Size([3, 2])
        >>> new_user = Interactions.from_edge_index([[0], [2]], num_items=3)
        >>> ranker.fold_in(new_user).score_users(torch.tensor([0])).shape
        torch.Size([1, 3])
    """

    users: Tensor
    items: Tensor
    history: Interactions
    config: RankingConfig
    item_knn: ItemKNN | None = None
    fold_in_table: Tensor | None = None
    user_exponent: float = 0.5
    linked: Tensor | None = None
    spectral_scale: Tensor | None = None
    spectral_variances: Tensor | None = None
    user_knn: UserKNN | None = None
    user_scales: UserScales | None = None
    user_table: Tensor | None = None
    counted: Tensor | None = None

    def __post_init__(self) -> None:
        counts = (self.history.num_users, self.history.num_items)
        users, items, table = self.users, self.items, self.fold_in_table
        if (len(users), len(items)) != counts or users.shape[1:] != items.shape[1:]:
            shapes = f"{tuple(users.shape)} and {tuple(items.shape)}"
            raise ValueError(f"embeddings of shapes {shapes} do not fit {self.history}")
        shape = (len(items), self.num_columns)
        if table is not None and table.shape != shape:
            raise ValueError(f"fold_in_table must have shape {shape}, got {tuple(table.shape)}")
        senders, shape = self.user_table, (len(users), self.num_columns)
        if senders is not None and senders.shape != shape:
            raise ValueError(f"user_table must have shape {shape}, got {tuple(senders.shape)}")
        linked = self.linked
        if linked is not None and (linked.shape != items.shape[:1] or linked.dtype != torch.bool):
            found = f"{tuple(linked.shape)} of {linked.dtype}"
            raise ValueError(f"linked must be ({len(items)},) of torch.bool, got {found}")
        config, scale = self.config, self.spectral_scale
        absent = {part is None for part in (scale, self.spectral_variances)}
        if absent != {not config.spectral} or self.num_spectral > config.spectral:
            raise ValueError(
                f"there are {self.num_spectral} columns of spectral embeddings, but config has "
                f"spectral={config.spectral}"
            )
        if scale is not None and scale.shape != items.shape[:1]:
            raise ValueError(f"spectral_scale must be ({len(items)},), got {tuple(scale.shape)}")
        for name, part in (("item_knn", self.item_knn), ("user_knn", self.user_knn)):
            count, weight = getattr(config, name), getattr(config, f"{name}_weight")
            if bool(count) != (part is not None):
                raise ValueError(f"{name} is {part}, but config has {name}={count}")
            if part is not None and part.weight != weight:
                wanted = f"{name}_weight={weight}"
                raise ValueError(f"{name} has weight {part.weight}, but config has {wanted}")
        scales = self.user_scales
        if scales is not None and any(part.shape != users.shape[:1] for part in scales):
            shapes = ", ".join(str(tuple(part.shape)) for part in scales)
            raise ValueError(f"user_scales must be of {len(users)} users, got shapes {shapes}")
        counted, edges = self.counted, self.history.users
        if counted is not None and (counted.shape != edges.shape or counted.dtype != torch.bool):
            found = f"{tuple(counted.shape)} of {counted.dtype}"
            raise ValueError(f"counted must be ({len(edges)},) of torch.bool, got {found}")
        devices = {str(part.device) for part in (users, items, self.history)}
        if len(devices) > 1:
            raise ValueError(
                f"users, items and history must be on one device, got {', '.join(sorted(devices))}"
            )
        rows = [part.unsqueeze(1) for part in (scale, self.spectral_variances) if part is not None]
        tables = [part for part in (table, senders) if part is not None]
        check_finite(users, items, *tables, *rows)
        largest = 0.0
        if not users.is_meta:
            largest = largest_entry(users) * largest_entry(items) * users.shape[1]
        if largest > 1e38:
            raise ValueError(f"scores may be as large as {largest:.0e}, which float32 cannot hold")

    @classmethod
    @torch.no_grad()
    def from_model(
        cls,
        model: LightGCN,
        graph: Interactions,
        *,
        side_nodes: SideNodes | None = None,
        config: RankingConfig | None = None,
        fold_in: bool = True,
        closed_forms: ClosedForms | None = None,
        new_items: bool = False,
    ) -> Ranker:
        """Compute the final embeddings of a model over a graph, and the other parts of a score.

        Args:
            model: a trained model; the work is done on its device, in its normalisation.
            graph: the interactions that messages flow along, and the users' histories.
            side_nodes: groups of items that the model was trained with, if ``graph`` is without
                them.
            config: the parts of a score; None for ``model.ranking``, which `lightgcn.fit` set.
            fold_in: whether to make the table that `fold_in` needs.
            closed_forms: those of the graph that messages flow along, if they were computed before,
                as in training, which evaluates many times over one graph.
            new_items: whether to make ``user_table``, by which new items are added later.

        Raises:
            TypeError: if ``model`` is not a LightGCN, or ``graph`` not Interactions.
            ValueError: if the graph is over other nodes, the model is one process's part of a
                sharded model, or an embedding is not finite.
        """
        if not isinstance(model, LightGCN):
            raise TypeError(f"model must be a LightGCN, got {_described(model)}")
        if not isinstance(graph, Interactions):
            hint = "; pass its .message" if hasattr(graph, "message") else ""
            raise TypeError(
                f"graph must be Interactions, from which the adjacency is made, got "
                f"{type(graph).__name__}{hint}"
            )
        if side_nodes is not None and not isinstance(side_nodes, SideNodes):
            raise TypeError(
                f"side_nodes must be SideNodes, got {type(side_nodes).__name__}; "
                "SideNodes.of(groups) makes them"
            )
        config = model.ranking if config is None else config
        if not isinstance(config, RankingConfig):
            hint = "; pass its .ranking" if hasattr(config, "ranking") else ""
            raise TypeError(f"config must be a RankingConfig, got {type(config).__name__}{hint}")
        graph = graph.to(model.embedding.device)
        message = graph if side_nodes is None else side_nodes.extend(graph)
        if message.order is None:
            config = replace(config, time_decay=0.0)
        model_normalization = model.normalization or "symmetric"
        if model_normalization == "custom":
            model.adjacency(message)  # raises
        a, b = exponents(model_normalization)  # type: ignore[arg-type]
        adjacency = normalized_adjacency(message, (a, b))
        users, items = model.embed(adjacency)
        check_finite(users, items)
        history, scales = message, None
        if config.time_decay:
            history = decayed(message, config.time_decay)
        if fold_in and (config.time_decay or config.popularity_prior is not None):
            scales = user_scales(users, items, history, config).of_first(graph.num_users)
        if config.time_decay:
            users = towards_latest(users, items, history, config.time_decay_weight)
        # Of a user without edges, popularity alone tells something.
        users = users.masked_fill((message.user_degrees == 0).unsqueeze(1), 0.0)
        if config.popularity_prior:
            prior = config.popularity_prior
            users, items = with_popularity_prior(users, items, message.item_degrees, prior)
        else:
            if config.popularity_prior is not None:
                users, items = (unit_rows(x).to(x.dtype) for x in (users, items))
            users = with_unknown(users)
            items = with_columns(items, popularity_column(message.item_degrees))
        del adjacency
        forms = ClosedForms(message) if closed_forms is None else closed_forms
        scale, variances = None, None
        if config.spectral:
            spectral = forms.spectral(config.spectral).to(items.device)
            scale, variances = spectral.scale, spectral.variances
            users = with_columns(users, spectral.users(history) * config.spectral_weight)
            items = with_columns(items, spectral.table)
        knn, user_knn = None, None
        if config.item_knn:
            similarity = forms.similarity(config.item_similarity, config.item_knn)
            knn = ItemKNN(history, similarity, config.item_knn_weight)
        if config.user_knn:
            own = history.head_users(graph.num_users)
            user_knn = forms.user_knn(config.user_knn, config.user_knn_weight, own)
        table, senders = None, None
        if new_items and (side_nodes is not None or not model.num_layers):
            reason = "a model without layers" if side_nodes is None else "side nodes"
            raise ValueError(f"new_items=True is not possible with {reason}")
        if (fold_in or new_items) and model.num_layers:
            check_whole(model)
            messages = _messages(model, normalized_adjacency(message, (a, b)))
            # Without the rows of the other side.
            table = messages[model.num_users :].clone() if fold_in else None
            if new_items:
                untrained = (message.user_degrees == 0).unsqueeze(1)
                senders = messages[: model.num_users].masked_fill(untrained, 0.0)
        linked = None
        if side_nodes is not None:
            linked = message.item_degrees > 0
            users = users[: graph.num_users].clone()
            if knn is not None:
                knn = replace(knn, history=knn.history.head_users(graph.num_users))
        spectral_parts = (scale, variances)
        parts = (*spectral_parts, user_knn, scales, senders)
        return cls(users, items, graph, config, knn, table, a, linked, *parts)

    @property
    def residual(self) -> Residual | None:
        """The terms that are no columns of the two tables: those of item kNN and user kNN."""
        return residual_sum(self.item_knn, self.user_knn)

    @property
    def num_spectral(self) -> int:
        """Number r of columns of the spectral embeddings, the last ones."""
        return 0 if self.spectral_variances is None else len(self.spectral_variances)

    @property
    def num_columns(self) -> int:
        """Width d of the model's embeddings, the first columns of ``users`` and ``items``."""
        return self.items.shape[1] - 1 - self.num_spectral

    @property
    def item_directions(self) -> Tensor:
        """(num_items, d): the items' embeddings without the columns of other parts."""
        return self.items[:, : self.num_columns]

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.items.device

    def to(self, device: torch.device | str) -> Ranker:
        """Return the same ranker on another device: every tensor of it."""
        table, linked = self.fold_in_table, self.linked
        knn, near = self.item_knn, self.user_knn
        scale, variances, scales = self.spectral_scale, self.spectral_variances, self.user_scales
        return replace(
            self,
            users=self.users.to(device),
            items=self.items.to(device),
            history=self.history.to(device),
            item_knn=knn and replace(knn, history=knn.history.to(device)),
            user_knn=near and replace(near, history=near.history.to(device)),
            fold_in_table=None if table is None else table.to(device),
            linked=None if linked is None else linked.to(device),
            spectral_scale=None if scale is None else scale.to(device),
            spectral_variances=None if variances is None else variances.to(device),
            user_scales=scales and UserScales(*(part.to(device) for part in scales)),
            user_table=None if self.user_table is None else self.user_table.to(device),
            counted=None if self.counted is None else self.counted.to(device),
        )

    def score_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of (B,) pairs of integers: (B,) float32 or wider.

        Raises:
            ValueError: if a user or an item is out of range, or they are not as many.
        """
        users, items = self._checked("users", users), self._checked("items", items)
        if len(users) != len(items):
            raise ValueError(f"users and items must be as many, got {len(users)} and {len(items)}")
        scores = products(self.users, self.items, users, items)
        if (residual := self.residual) is not None:
            scores += residual_of_links(residual, users, items)
        return scores

    def score_users(self, users: Tensor) -> Tensor:
        """Return the scores of all items for (B,) integer users: (B, num_items) float32 or wider.

        Raises:
            ValueError: if a user is out of range.
        """
        users = self._checked("users", users)
        with torch.autocast(self.device.type, enabled=False):
            wide = torch.promote_types(self.items.dtype, torch.float32)
            scores = self.users[users].to(wide) @ self.items.to(wide).T
        if (residual := self.residual) is not None:
            rows, items, gains = residual.of_users(users)
            scores[rows, items] += gains.to(scores.dtype)
        return scores

    def _checked(self, name: str, given: Any) -> Tensor:
        """Return (B,) int64 users or items on the ranker's device, each in range."""
        count = len(self.users if name == "users" else self.items)
        return checked_indices(name, given, count, f"num_{name}").to(self.device)

    def top_k(
        self,
        k: int,
        users: Tensor | None = None,
        *,
        exclude_seen: bool = True,
        seen: Interactions | None = None,
        only: Items | None = None,
        exclude: Items | None = None,
    ) -> TopK:
        """Return the k best items of (B,) users (None: all), without the items of their history.

        Args:
            k: how many, at most the number of items.
            users: (B,) integers.
            exclude_seen: whether to leave out each user's own items.
            seen: the edges to leave out in place of ``history``.
            only: the items to choose from: a (num_items,) bool mask, or (n,) integers; None for
                all.
            exclude: items to leave out for all users, in either form.

        Raises:
            ValueError: as `lightgcn.top_k`.
        """
        masked = (self.history if seen is None else seen) if exclude_seen else None
        return top_k(
            self.users,
            self.items,
            k,
            seen=masked,
            users=users,
            residual=self.residual,
            only=only,
            exclude=exclude,
        )

    @torch.no_grad()
    def fold_in(self, history: Interactions) -> Ranker:
        """Return a ranker of new users, who are not in the graph.

        A new user receives messages from its items and sends none, so the scores are exactly those
        of the graph with this user added, with a layer-0 embedding of zero. A user without items is
        ranked by popularity.

        Args:
            history: the new users' items, with weights if the model was trained with weights, and
                with an order if the ranker has time decay.

        Raises:
            ValueError: if ``history`` has a different number of items, the model has no layers, or
                the ranker was made with ``fold_in=False``.
        """
        history = checked_interactions("history", history)
        if self.fold_in_table is None:
            raise ValueError(
                "this ranker cannot fold in a new user: its model is one without layers, which "
                "passes no messages, or it was made with fold_in=False"
            )
        if history.num_items != len(self.items):
            raise ValueError(f"history is {history}, but the ranker has {len(self.items)} items")
        history, config = history.to(self.device), self.config
        users = received(history, self.fold_in_table, self.user_exponent)
        weighted = history
        if config.time_decay:
            weighted = decayed(history, config.time_decay)
            weight = config.time_decay_weight
            users = towards_latest(users, self.item_directions, weighted, weight)
        users = self.with_popularity(users).to(self.items.dtype)
        users = self._with_spectral(users, weighted)
        knn, near = self.item_knn, self.user_knn
        return replace(
            self,
            users=users,
            history=history,
            item_knn=knn and knn.for_users(weighted),
            user_knn=near and replace(near, history=weighted, are_own=False),
            user_scales=None,
            user_table=None,
            counted=None,
        )

    def with_popularity(self, users: Tensor) -> Tensor:
        """Return (B, d) embeddings of users with the column of popularity, (B, d + 1).

        Those of cosines are at length 1. A row of zeros is a user of whom nothing is known, and is
        ranked by popularity.
        """
        prior = self.config.popularity_prior
        if prior:
            return unit_rows_and(users, 1.0)
        return with_unknown(users if prior is None else unit_rows(users))

    def item_rows(self, items: Tensor, degrees: Tensor) -> Tensor:
        """Return (M, d) embeddings of items with the column of popularity, (M, d + 1).

        Args:
            items: (M, d) floating; those of cosines are brought to length 1.
            degrees: (M,) number of users of each item.
        """
        prior = self.config.popularity_prior
        if prior:
            return with_popularity_prior(items, items, degrees, prior)[1]
        items = items if prior is None else unit_rows(items)
        return with_columns(items, popularity_column(degrees))

    def _with_spectral(self, users: Tensor, history: Interactions) -> Tensor:
        """Return (B, w) embeddings of users of ``history`` with the columns of the spectral ones
        added; as they are, if the ranker has none."""
        scale, variances = self.spectral_scale, self.spectral_variances
        if scale is None or variances is None:
            return users
        table = self.items[:, self.items.shape[1] - self.num_spectral :]
        spectral = SpectralItems(table, scale, variances).users(history)
        return with_columns(users, spectral * self.config.spectral_weight)

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the ranker as tensors and JSON values to store, without the ids of ``history``."""
        return ranker_tensors(self)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], **ids: Any
    ) -> Ranker:
        """Return the ranker that `to_tensors` stored; ``ids`` are ``user_ids`` and ``item_ids``.

        Raises:
            KeyError: if a tensor or a value is missing.
            ValueError: if they do not fit each other.
        """
        return cls(**ranker_parts(tensors, metadata, **ids))

    def __repr__(self) -> str:
        return f"Ranker({self.history}, {self.config})"


def _messages(model: LightGCN, adjacency: Any) -> Tensor:
    """Return (N, d): what each node sends to a new node, m(n) Σ_{k≥1} αₖ e_n^(k-1)."""
    table = propagate(adjacency, model.embedding, model.alpha[1:])
    # In float32 at least: the sum over a new node's neighbours, by weight, may be large.
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    if adjacency.column_scale is None:
        return table
    messages: Tensor = table * adjacency.column_scale.to(table.dtype).unsqueeze(1)
    return messages


def _described(model: Any) -> str:
    hint = ""
    if isinstance(getattr(model, "module", None), LightGCN):
        hint = "; pass its .module"
    elif isinstance(model, Interactions | LinkSet):
        hint = "; the model comes first, then the graph or the links"
    return type(model).__name__ + hint
