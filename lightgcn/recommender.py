"""Recommendations from a trained model: for known users, for new ones, and items like an item; ids
and names in and out.

A `Recommender` needs neither the graph's adjacency nor the model: it holds the final embeddings,
the seen items and one more (num_items, d) table that folds new users in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import check_finite, checked_integers
from lightgcn.core.storage import load_tensors, pack_strings, save_tensors, unpack_strings
from lightgcn.graph.adjacency import Normalization, as_adjacency, exponents, normalized_adjacency
from lightgcn.graph.ids import Id, find_node, index_of_ids
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.model import LightGCN
from lightgcn.nn.propagation import propagate
from lightgcn.ranking.item_knn import NeighbourResidual
from lightgcn.ranking.ranker import scored_embeddings
from lightgcn.ranking.time_decay import Recency, recent_items
from lightgcn.ranking.topk import check_k, rank_rows, top_k

Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Recommendation:
    """One recommended item: its id, index, score, and what the item columns say of it ("name",
    "artist", …)."""

    id: Id
    index: int
    score: float
    columns: dict[str, str]


class Recommender:
    """Answers from final embeddings.

    Args:
        users: (num_users, d) final user embeddings.
        items: (num_items, d) final item embeddings.
        fold_in: (num_items, d) what each item sends to a new user (`fold_in_table`), or None for a
            model of no layers.
        seen: the users' known items, which are not recommended to them; its ids are the ones that
            go in and out.
        user_exponent: a of D⁻ᵃ P D⁻ᵇ: a new user's sum over n items is divided by nᵃ.
        has_prior: whether the embeddings are those of `lightgcn.with_popularity_prior`: unit rows
            and one more column, which ``fold_in`` does not have.
        residual: what the neighbours of a user's items add to the scores
            (`lightgcn.neighbour_residual` of ``seen``).
        recency: for what a new user had last; known users' embeddings are drawn already.
        user_columns: optional columns beside the users, such as {"name": titles}: one string per
            user, in their order.
        item_columns: optional columns beside the items, such as {"name": …, "artist": …}.

    Raises:
        ValueError: if shapes do not fit, an embedding is not finite or a column holds anything but
            strings.
    """

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        fold_in: Tensor | None,
        seen: Interactions,
        *,
        user_exponent: float = 0.5,
        has_prior: bool = False,
        residual: NeighbourResidual | None = None,
        recency: Recency | None = None,
        user_columns: Columns | None = None,
        item_columns: Columns | None = None,
    ) -> None:
        wanted = (seen.num_users, seen.num_items)
        if (len(users), len(items)) != wanted or users.shape[1:] != items.shape[1:]:
            raise ValueError(
                f"embeddings of shapes {tuple(users.shape)}, {tuple(items.shape)} do not fit {seen}"
            )
        shape = (len(items), items.shape[1] - has_prior)
        if fold_in is not None and fold_in.shape != shape:
            raise ValueError(f"fold_in must have shape {shape}, got {tuple(fold_in.shape)}")
        for table in (users, items, *([] if fold_in is None else [fold_in])):
            check_finite(table)
        self.users, self.items, self.fold_in, self.seen = users, items, fold_in, seen
        self.user_exponent, self.has_prior = float(user_exponent), bool(has_prior)
        self.residual, self.recency = residual, recency
        self.user_columns = _check_columns("user", user_columns, seen.num_users)
        self.item_columns = _check_columns("item", item_columns, seen.num_items)
        self._user_index: dict[Id, int] | None = None
        self._item_index: dict[Id, int] | None = None

    @classmethod
    @torch.no_grad()
    def from_model(
        cls,
        model: LightGCN,
        interactions: Interactions,
        normalization: Normalization | tuple[float, float] = "symmetric",
        *,
        popularity_prior: float | None = None,
        residual: NeighbourResidual | None = None,
        recency: Recency | None = None,
        side_nodes: SideNodes | None = None,
        user_columns: Columns | None = None,
        item_columns: Columns | None = None,
    ) -> Recommender:
        """Compute the final embeddings of a model over a graph: all that is known by now, not the
        training part alone.

        Args:
            model: a trained model.
            interactions: what messages flow along, and what counts as seen; its ids are used.
            normalization: the one that the model was trained with.
            popularity_prior: None for dot products, else the weight of
                `lightgcn.with_popularity_prior`.
            residual: what neighbours add to the scores, as for the class.
            recency: what users had last (`lightgcn.recent_items` of ``interactions``); it goes with
                a popularity prior.
            side_nodes: groups of items that the model was trained with; ``residual`` and
                ``recency`` are then those of ``side_nodes.extend(interactions)``.
            user_columns: columns beside the users.
            item_columns: columns beside the items.

        Raises:
            ValueError: if the model is a part that one of several processes holds, or embeddings
                are not finite.
        """
        if model.processes.size > 1:
            raise ValueError(
                "this process holds a part of the model: model.whole() gives it all, in process 0"
            )
        interactions = interactions.to(model.embedding.device)
        message = interactions if side_nodes is None else side_nodes.extend(interactions)
        adjacency = normalized_adjacency(message, normalization)
        users, items = scored_embeddings(
            *model.embed(adjacency), message, popularity_prior, recency
        )
        del adjacency  # the table makes its own
        fold_in = fold_in_table(model, message, normalization) if model.num_layers else None
        if side_nodes is not None:
            users = users[: interactions.num_users].clone()
            if recency is not None:
                recency = replace(recency, recent=recency.recent.head_users(interactions.num_users))
            if residual is not None:
                residual = replace(
                    residual, history=residual.history.head_users(interactions.num_users)
                )
        return cls(
            users,
            items,
            fold_in,
            interactions,
            user_exponent=exponents(normalization)[0],
            has_prior=popularity_prior is not None,
            residual=residual,
            recency=recency,
            user_columns=user_columns,
            item_columns=item_columns,
        )

    def recommend(
        self, user: Id, k: int = 10, *, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """Return the k items that score highest for a known user, best first; the user's own items
        are left out.

        Fewer than k come back where the user has seen nearly all items.

        Raises:
            ValueError: for an unknown user, or a k below 1 or above the number of items.
        """
        chosen = torch.tensor([self.user_index(user)], device=self.items.device)
        seen = self.seen if exclude_seen else None
        best = top_k(
            self.users, self.items, _plain(k), seen=seen, users=chosen, residual=self.residual
        )
        return self._named(best.items[0], best.scores[0])

    def recommend_new(
        self, items: Iterable[Id], k: int = 10, *, weights: Sequence[float] | None = None
    ) -> list[Recommendation]:
        """Return the k items that score highest for a new user who has the given items; these are
        left out.

        Args:
            items: ids or names; a repeated one counts once, or with the sum of its weights.
            k: how many.
            weights: optional positive weights of the items, for a model trained on weighted edges.

        Raises:
            ValueError: for an unknown item, no item at all, only items without users, a wrong k, or
                a model that cannot fold in.
        """
        if isinstance(items, str):
            raise ValueError(f"items must be a list of ids or names, got the one string {items!r}")
        indices = [self.item_index(item) for item in _listed("items", items)]
        k = _plain(k)
        check_k(k, len(self.items))
        user = self.fold_in_user(indices, weights)
        if not bool((user[:-1] if self.has_prior else user).any()):
            raise ValueError(
                "nothing is known of the given items: none has a user, so none tells about a new "
                "one"
            )
        scores = user @ self.items.T
        if self.residual is not None:
            distinct = torch.tensor(list(dict.fromkeys(indices)), device=scores.device)
            recent = None if self.recency is None else self.recency.item_weights(len(distinct))
            near, gains = self.residual.of_items(distinct, recent)
            scores[near] += gains.to(scores.dtype)
        scores[torch.tensor(indices, device=scores.device)] = -torch.inf
        best = rank_rows(scores.unsqueeze(0), k)
        return self._named(best.items[0], best.scores[0])

    def similar_items(self, item: Id, k: int = 10) -> list[Recommendation]:
        """Return the k items closest to an item by the cosine of final embeddings, itself left out.

        Raises:
            ValueError: for an unknown item, or a k below 1 or above the number of items.
        """
        k = _plain(k)
        check_k(k, len(self.items))
        index = self.item_index(item)
        items = self.item_directions
        scores = F.cosine_similarity(items, items[index].unsqueeze(0), dim=1)
        scores[index] = -torch.inf
        best = rank_rows(scores.unsqueeze(0), k)
        return self._named(best.items[0], best.scores[0])

    def fold_in_user(self, items: Sequence[int], weights: Sequence[float] | None = None) -> Tensor:
        """Return the final embedding of a new user who has the given items (indices): (d,), like a
        row of ``users``.

        As in `Interactions` a repeated item counts once, and the weights of a repeated one add up.

        The new user receives messages from its items and sends none: with m the item factor of the
        normalisation it is |S|⁻ᵃ Σ_{i∈S} m(i) Σ_{k≥1} αₖ e_i^(k-1), exactly what the graph with
        such a user added gives (the user's own layer-0 embedding, which it does not have, taken as
        zero). With recency it is drawn towards the last of the items; with a prior it is of length
        one, and a 1 follows.

        Raises:
            ValueError: without items, for an index out of range or weights that do not fit, or for
                a model without layers.
        """
        if self.fold_in is None:
            raise ValueError(
                "a model without layers cannot fold in a new user: it passes no messages"
            )
        items = checked_integers("items", _listed("items", items)).tolist()
        if not items:
            raise ValueError("a new user needs at least one item")
        if min(items) < 0 or max(items) >= len(self.fold_in):
            raise ValueError(
                f"items must be in [0, {len(self.fold_in)}), got {min(items)} to {max(items)}"
            )
        given = None
        if weights is not None:
            given = torch.tensor(list(map(float, _listed("weights", weights))), dtype=torch.float64)
            if len(given) != len(items) or not bool((given.isfinite() & (given > 0)).all()):
                raise ValueError("weights must be as many as the items, finite and positive")
        order = torch.arange(len(items))
        history = Interactions(
            torch.zeros_like(order), torch.tensor(items), 1, len(self.fold_in), given, order=order
        )
        return self.fold_in_users(history)[0]

    def fold_in_users(self, history: Interactions) -> Tensor:
        """Return the final embeddings of new users, as `fold_in_user` does of one: (B, d), like
        rows of ``users``.

        Args:
            history: what B users have, over the recommender's items, by index. A user without items
                gets zeros, and with a prior the 1 that follows, so that it is ranked by popularity.
                With recency it needs an order.

        Raises:
            ValueError: if ``history`` is over another number of items, or the model has no layers.
        """
        if self.fold_in is None:
            raise ValueError(
                "a model without layers cannot fold in a new user: it passes no messages"
            )
        if history.num_items != len(self.fold_in):
            raise ValueError(
                f"the history is {history}, the recommender is of {len(self.fold_in)} items"
            )
        history = history.to(self.fold_in.device)
        weights = None if history.weights is None else history.weights.to(self.fold_in.dtype)
        total = F.embedding_bag(
            history.items,
            self.fold_in,
            history.indptr,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        if self.recency is not None:
            last = recent_items(history, self.recency.exponent, self.recency.weight)
            total = last.draw_users(total, self.item_directions)
        if self.has_prior:
            return F.pad(F.normalize(total), (0, 1), value=1.0)
        if self.recency is not None:
            return total
        degrees = history.user_degrees.double()
        if history.weights is not None:
            degrees = torch.zeros_like(degrees).index_add_(
                0, history.users, history.weights.double()
            )
        scale = torch.where(degrees > 0, degrees.pow(-self.user_exponent), 0.0)
        return total * scale.to(total.dtype).unsqueeze(1)

    @property
    def item_directions(self) -> Tensor:
        """(num_items, d): the items' embeddings, without the column of a popularity prior."""
        return self.items[:, :-1] if self.has_prior else self.items

    def user_index(self, user: Id) -> int:
        """Return the index of a user given by id or, where it is unique, by name.

        Raises:
            ValueError: if there is no such user, several have the name, or it is neither a string
                nor an integer.
        """
        if self._user_index is None:
            self._user_index = index_of_ids(self.seen.user_ids, self.seen.num_users)
        return find_node("user", _one_id("user", user), self._user_index, self.user_columns)

    def item_index(self, item: Id) -> int:
        """Return the index of an item given by id or, where it is unique, by name ("name" or "name
        by artist").

        Raises:
            ValueError: if there is no such item (some that are close are named), several have the
                name, or it is neither a string nor an integer.
        """
        return find_node("item", _one_id("item", item), self.item_indices, self.item_columns)

    @property
    def item_indices(self) -> dict[Id, int]:
        """The index of each item by its id."""
        if self._item_index is None:
            self._item_index = index_of_ids(self.seen.item_ids, self.seen.num_items)
        return self._item_index

    def item(self, index: int, score: float = 0.0) -> Recommendation:
        """Return what is known of the item at an index."""
        ids = self.seen.item_ids
        columns = {name: values[index] for name, values in self.item_columns.items()}
        return Recommendation(index if ids is None else _plain(ids[index]), index, score, columns)

    def _named(self, items: Tensor, scores: Tensor) -> list[Recommendation]:
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return [self.item(index, score) for index, score in pairs if index >= 0]

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically; `load` reads it without the data or the
        model."""
        tensors = {
            "users": self.users,
            "items": self.items,
            "seen.users": self.seen.users,
            "seen.items": self.seen.items,
        }
        if self.fold_in is not None:
            tensors["fold_in"] = self.fold_in
        if self.seen.weights is not None:
            tensors["seen.weights"] = self.seen.weights
        for side, ids, columns in (
            ("user", self.seen.user_ids, self.user_columns),
            ("item", self.seen.item_ids, self.item_columns),
        ):
            if ids is not None:
                tensors[f"{side}.ids"] = pack_strings(ids)
            tensors |= {
                f"{side}.column.{name}": pack_strings(values) for name, values in columns.items()
            }
        metadata: dict[str, Any] = {
            "user_exponent": self.user_exponent,
            "has_prior": self.has_prior,
        }
        if self.seen.order is not None:
            tensors["seen.order"] = self.seen.order
        if self.recency is not None:
            metadata["recency"] = [self.recency.exponent, self.recency.weight]
        if self.residual is not None:
            metadata["neighbour_weight"] = self.residual.weight
            tensors |= {
                f"neighbours.{name}": part for name, part in self.residual.to_tensors().items()
            }
        save_tensors(path, "recommender", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Recommender:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is a folder, corrupt or not a recommender's.
        """
        tensors, metadata = load_tensors(path, "recommender")
        try:
            ids: dict[str, Any] = {"user": None, "item": None}
            columns: dict[str, dict[str, list[str]]] = {"user": {}, "item": {}}
            for key in [key for key in tensors if key.startswith(("user.", "item."))]:
                side, kind, *name = key.split(".", 2)
                values = unpack_strings(tensors.pop(key))
                if kind == "ids":
                    ids[side] = np.asarray(
                        values, dtype=np.int64 if isinstance(values[0], int) else object
                    )
                else:
                    columns[side][name[0]] = values
            users, items = tensors["users"], tensors["items"]
            seen = Interactions(
                tensors["seen.users"],
                tensors["seen.items"],
                len(users),
                len(items),
                tensors.get("seen.weights"),
                order=tensors.get("seen.order"),
                user_ids=ids["user"],
                item_ids=ids["item"],
            ).to(device)
            fold_in, residual, last = tensors.get("fold_in"), None, None
            if "recency" in metadata:
                last = recent_items(seen, *map(float, metadata["recency"]))
            if "neighbour_weight" in metadata:
                parts = {
                    name: tensors[f"neighbours.{name}"] for name in ("ends", "items", "values")
                }
                history = seen if last is None else last.recent
                residual = NeighbourResidual.from_tensors(
                    history, parts, float(metadata["neighbour_weight"])
                )
            return cls(
                users.to(device),
                items.to(device),
                None if fold_in is None else fold_in.to(device),
                seen,
                user_exponent=metadata["user_exponent"],
                has_prior=metadata.get("has_prior", False),
                residual=residual,
                recency=last,
                user_columns=columns["user"],
                item_columns=columns["item"],
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: not a complete recommender ({error})") from error

    def __repr__(self) -> str:
        return f"Recommender({self.seen.num_users} users, {self.seen.num_items} items, d={self.items.shape[1]})"


@torch.no_grad()
def fold_in_table(
    model: LightGCN,
    interactions: Interactions,
    normalization: Normalization | tuple[float, float] = "symmetric",
) -> Tensor:
    """Return (num_items, d): what each item sends to a new user, m(i) Σ_{k≥1} αₖ e_i^(k-1).

    Raises:
        ValueError: if the model has no layers.
    """
    if model.num_layers == 0:
        raise ValueError(
            "a model without layers passes no messages: there is nothing to fold a new user in with"
        )
    adjacency = normalized_adjacency(interactions, normalization)
    adjacency = as_adjacency(adjacency, model.num_users, model.num_items)
    table = propagate(adjacency, model.embedding, model.alpha[1:])[model.num_users :]
    if adjacency.column_scale is None:
        return table.clone()  # without the users' rows
    return table * adjacency.column_scale[model.num_users :].to(table.dtype).unsqueeze(1)


def _check_columns(side: str, columns: Columns | None, count: int) -> dict[str, list[str]]:
    return {name: _column(side, name, values, count) for name, values in (columns or {}).items()}


def _column(side: str, name: str, values: Sequence[str], count: int) -> list[str]:
    """Return a column's values in order, whatever holds them: a series of pandas is looked up by
    label, not place."""
    listed = [values] if isinstance(values, str) else list(values)
    if len(listed) != count or isinstance(values, str):
        raise ValueError(f"{side} column {name!r} has {len(listed)} values for {count} {side}s")
    for at, value in enumerate(listed):
        if not isinstance(value, str):
            raise ValueError(
                f'{side} column {name!r}[{at}] is {value!r}; a column holds strings ("" for a missing one)'
            )
    return [str(value) for value in listed]


def _listed(name: str, given: Any) -> list[Any]:
    values = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, got {given!r}")
    return list(values)


def _one_id(side: str, given: Any) -> Id:
    value = (
        given.item()
        if isinstance(given, Tensor | np.ndarray) and given.ndim == 0
        else _plain(given)
    )
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{side} must be one id or name (an integer or a string), got {given!r}")
    return value


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.integer | np.str_) else value


def track_label(track: Recommendation) -> str:
    """Return an item as a person would write it: name and artist where they are known, else the
    id."""
    name, artist = (
        " ".join(track.columns.get(column, "").split()) for column in ("name", "artist")
    )
    if not name:
        return str(track.id)
    return f"{name} by {artist}" if artist else name
