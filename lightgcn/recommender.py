"""Recommendations by id or name: for known users, for new users, and similar items.

A `Recommender` holds a `Ranker`, ids and names, and needs neither the model nor the adjacency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import as_tensor, checked_integers
from lightgcn.core.tensor_file import load_tensors, pack_strings, save_tensors, unpack_strings
from lightgcn.graph.ids import Id, find_node, index_of_ids
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.fold_in import add_items, add_users
from lightgcn.ranking.index import LeftOut, warn_of_left_out, write_index
from lightgcn.ranking.new_nodes import joined_columns, new_nodes
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.topk import check_k, rank_rows

Columns = Mapping[str, Sequence[str]]
# Pairs of a user and an item that are masked at a time.
_PAIRS = 1 << 23


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        id: the item's id in the data; its index if the data has no ids.
        index: its index in the graph.
        score: its score; only comparable for the same user.
        columns: its values in the item columns ("name", "artist", …).

    Example:
        >>> from lightgcn import Recommendation
        >>> track = Recommendation("t7", 7, 0.9, {"name": "Airbag", "artist": "Radiohead"})
        >>> track.label
        'Airbag by Radiohead'
    """

    id: Id
    index: int
    score: float
    columns: dict[str, str]

    @property
    def label(self) -> str:
        """Name and artist of the item if they are known, else the id."""
        name, artist = (
            " ".join(self.columns.get(column, "").split()) for column in ("name", "artist")
        )
        if not name:
            return str(self.id)
        return f"{name} by {artist}" if artist else name


class Recommender:
    """Recommendations by id from a trained model over a graph.

    Args:
        model: a trained model, or a `Ranker` of one.
        graph: all known interactions: messages flow along them, and a user's own items are not
            recommended. Methods take and return its ids. Leave it out with a `Ranker`.
        side_nodes: groups of items that the model was trained with.
        user_columns: optional columns beside the users, such as {"name": titles}: one string per
            user, in their order.
        item_columns: optional columns beside the items, such as {"name": …, "artist": …}.
        new_items: whether to keep what `add_items` needs, (num_users, d) numbers; not with side
            nodes.

    Attributes:
        ranker: scores by index.

    Raises:
        TypeError: if ``graph`` is not Interactions.
        ValueError: if the graph has different nodes than the model, the model is one process's part
            of a sharded model, an embedding is not finite, or a column does not fit.

    Example:
        >>> from lightgcn import Interactions, LightGCN, Recommender
        >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
        >>> graph = Interactions.from_frame(plays)
        >>> recommender = Recommender(LightGCN(2, 2, embedding_dim=4), graph)
        >>> [track.id for track in recommender.recommend("bob", k=1)]
        ['song 1']
        >>> [len(tracks) for tracks in recommender.recommend(["ann", "bob"], k=2)]
        [0, 1]
    """

    def __init__(
        self,
        model: LightGCN | Ranker,
        graph: Interactions | None = None,
        *,
        side_nodes: SideNodes | None = None,
        user_columns: Columns | None = None,
        item_columns: Columns | None = None,
        new_items: bool = False,
    ) -> None:
        if isinstance(model, Ranker):
            if graph is not None or side_nodes is not None or new_items:
                raise ValueError(
                    "a Ranker has its graph already: leave graph, side_nodes and new_items out"
                )
            self.ranker = model
        else:
            self.ranker = Ranker.from_model(
                model,
                graph,  # type: ignore[arg-type]
                side_nodes=side_nodes,
                new_items=new_items,
            )
        self.user_columns = _check_columns("user", user_columns, self.seen.num_users)
        self.item_columns = _check_columns("item", item_columns, self.seen.num_items)
        self._user_index: dict[Id, int] | None = None
        self._item_index: dict[Id, int] | None = None

    @classmethod
    def from_model(
        cls, model: LightGCN | Ranker, graph: Interactions | None = None, **options: Any
    ) -> Recommender:
        """Return ``Recommender(model, graph, …)``."""
        return cls(model, graph, **options)

    @property
    def seen(self) -> Interactions:
        """The users' known items, which are not recommended to them."""
        return self.ranker.history

    def to(self, device: torch.device | str) -> Recommender:
        """Return the same recommender on another device."""
        return Recommender(
            self.ranker.to(device), user_columns=self.user_columns, item_columns=self.item_columns
        )

    def recommend(
        self,
        user: Id | Iterable[Id],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[Id] = (),
        only: Iterable[Id] | None = None,
    ) -> Any:
        """Return the k items that score highest for a known user, best first.

        Args:
            user: one user by id or unique name, or a list of them.
            k: number of items; fewer are returned if fewer are left.
            exclude_seen: whether to leave out the user's own items.
            exclude: further items to leave out, by id or name.
            only: the items to choose from; None for all.

        Returns:
            A list for one user; a list of lists, in the order given, for several.

        Raises:
            ValueError: for an unknown user or item, or a k below 1 or above the number of items.
        """
        one = isinstance(user, str) or not isinstance(user, Iterable) or _is_scalar(user)
        given: list[Any] = [user] if one else _listed("users", user)
        k = _plain(k)
        check_k(k, self.seen.num_items)
        rows = torch.tensor(
            [self.user_index(each) for each in given], dtype=torch.int64, device=self.ranker.device
        )
        left_out = self._left_out(exclude, only)
        # A chunk's pairs of a user and an item that is left out are bounded.
        chunk = len(rows) if left_out is None else max(1, _PAIRS // self.seen.num_items)
        found = []
        for part in rows.split(max(1, chunk)):
            best = self._ranked(self.ranker, part, k, exclude_seen, left_out)
            found += [self._named(*row) for row in zip(best.items, best.scores, strict=True)]
        return found[0] if one else found

    def recommend_new(
        self,
        items: Iterable[Id],
        k: int = 10,
        *,
        weights: Sequence[float] | None = None,
        exclude: Iterable[Id] = (),
        only: Iterable[Id] | None = None,
    ) -> list[Recommendation]:
        """Return the k items that score highest for a new user, without the given items.

        Args:
            items: the user's items, by id or name, the latest last; a repeated item counts once, or
                with the sum of its weights.
            k: number of items.
            weights: optional positive weights of the items, for a model trained on weighted edges.
            exclude: further items to leave out, by id or name.
            only: the items to choose from; None for all.

        Raises:
            ValueError: for an unknown item, no item at all, only items without users, a wrong k, or
                a model that cannot fold in.
        """
        indices = [self.item_index(item) for item in _listed("items", items)]
        k = _plain(k)
        check_k(k, self.seen.num_items)
        history = self._history(indices, weights)
        ranker, linked = self.ranker.fold_in(history), self.ranker.linked
        linked = self.seen.item_degrees > 0 if linked is None else linked
        if not bool(linked[history.items.to(linked.device)].any()):
            raise ValueError(
                "none of the given items has a user in the graph of the model, so their embeddings "
                "are untrained"
            )
        user = torch.zeros(1, dtype=torch.int64, device=ranker.device)
        best = self._ranked(ranker, user, k, True, self._left_out(exclude, only))
        return self._named(best.items[0], best.scores[0])

    def similar_items(self, item: Id, k: int = 10) -> list[Recommendation]:
        """Return the k items closest to an item by the cosine of final embeddings, without itself.

        Raises:
            ValueError: for an unknown item, or a k below 1 or above the number of items.
        """
        k = _plain(k)
        check_k(k, self.seen.num_items)
        index = self.item_index(item)
        items = self.ranker.item_directions
        items = items.to(torch.promote_types(items.dtype, torch.float32))
        scores = F.cosine_similarity(items, items[index].unsqueeze(0), dim=1)
        scores[index] = -torch.inf
        best = rank_rows(scores.unsqueeze(0), k)
        return self._named(best.items[0], best.scores[0])

    def fold_in_user(self, items: Sequence[int], weights: Sequence[float] | None = None) -> Tensor:
        """Return the row of a new user with the given items (indices), (w,), as `Ranker.fold_in`
        does: its product with ``ranker.items`` is the score, but for item kNN and user kNN.

        Raises:
            ValueError: without items, for an index out of range, for weights that do not fit, or
                for a model without layers.
        """
        indices = checked_integers("items", _listed("items", items)).tolist()
        return self.ranker.fold_in(self._history(indices, weights)).users[0]

    def add_items(self, items: Mapping[Id, Any], *, columns: Columns | None = None) -> Recommender:
        """Return a recommender with new items as well, without training.

        A new item receives messages from its users and sends none
        (`lightgcn.ranking.fold_in` has the formula, and what of a score is exact for it). It is a
        known item of these users. Needs ``Recommender(…, new_items=True)``.

        Args:
            items: the users of each new item, by id or name; a dict of their weights if the graph
                is weighted. Of an item's users one at least must be of the original graph.
            columns: values of the new items in the item columns, in the order of ``items``; a
                column that is left out is "" for them.

        Raises:
            TypeError: if ``items`` is no dict.
            ValueError: naming the item, if it is there already, or a user is unknown; if a column
                does not fit; or if the recommender was made without ``new_items=True``.

        Example:
            >>> from lightgcn import Interactions, LightGCN, Recommender
            >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
            >>> graph = Interactions.from_frame(plays)
            >>> model = LightGCN(2, 2, embedding_dim=4)
            >>> recommender = Recommender(model, graph, new_items=True)
            >>> grown = recommender.add_items({"song 3": ["bob"]})
            >>> [track.id for track in grown.recommend("ann", k=1)]
            ['song 3']
        """
        if self.ranker.user_table is None:
            raise ValueError(
                "this recommender cannot add items: it lacks the users' messages; make it with "
                "Recommender(model, graph, new_items=True)"
            )
        new = new_nodes("item", items, self.seen, self.user_index)
        count = new.links.num_users
        added = joined_columns(
            "item", self.item_columns, _check_columns("item", columns, count), count
        )
        links = Interactions(
            new.links.items,
            new.links.users,
            self.seen.num_users,
            count,
            new.links.weights,
            order=new.links.order,
        )
        sends = self.ranker.user_table.any(1).cpu()
        for row, name in enumerate(items):
            if not bool(sends[links.users[links.items == row]].any()):
                raise ValueError(
                    f"new item {name!r}: none of its users was in the graph that the recommender "
                    "was made with, with items"
                )
        ranker = add_items(self.ranker, links, new.ids)
        return Recommender(ranker, user_columns=self.user_columns, item_columns=added)

    def add_users(self, users: Mapping[Id, Any], *, columns: Columns | None = None) -> Recommender:
        """Return a recommender with new users as well, without training.

        Their scores are those of `recommend_new`; other users' stay, but for user kNN, which then
        finds the new users among the neighbours.

        Args:
            users: the items of each new user, by id or name, the latest last; a dict of their
                weights if the graph is weighted.
            columns: values of the new users in the user columns, as for `add_items`.

        Raises:
            TypeError: if ``users`` is no dict.
            ValueError: naming the user, if it is there already, or an item is unknown; if a column
                does not fit; or if the model cannot fold in.

        Example:
            >>> from lightgcn import Interactions, LightGCN, Recommender
            >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
            >>> recommender = Recommender(LightGCN(2, 2, 4), Interactions.from_frame(plays))
            >>> grown = recommender.add_users({"cid": ["song 2"]})
            >>> [track.id for track in grown.recommend("cid", k=1)]
            ['song 1']
        """
        new = new_nodes("user", users, self.seen, self.item_index)
        count = new.links.num_users
        added = joined_columns(
            "user", self.user_columns, _check_columns("user", columns, count), count
        )
        ranker = add_users(self.ranker, new.links, new.ids)
        return Recommender(ranker, user_columns=added, item_columns=self.item_columns)

    def query(self, user: Id | Iterable[Id]) -> Tensor:
        """Return the vectors of known users for an index of `export_index`: (w,) for one user,
        (B, w) for a list.

        The dot product with ``ranker.items`` is the score without item kNN and user kNN. The vector
        of a new user is that of `query_new`.

        Raises:
            ValueError: for an unknown user.
        """
        one = isinstance(user, str) or not isinstance(user, Iterable) or _is_scalar(user)
        given: list[Any] = [user] if one else _listed("users", user)
        rows = self.ranker.users[[self.user_index(each) for each in given]]
        return rows[0] if one else rows

    def query_new(self, items: Iterable[Id], *, weights: Sequence[float] | None = None) -> Tensor:
        """Return the vector of a new user for an index, (w,); the arguments are those of
        `recommend_new`.

        Raises:
            ValueError: as `recommend_new`.
        """
        indices = [self.item_index(item) for item in _listed("items", items)]
        return self.fold_in_user(indices, weights)

    def export_index(self, path: str | Path) -> LeftOut | None:
        """Write the items to a FAISS index for inner products, and their ids to PATH.ids.json.

        Row i of the index is item i. A search with `query` gives the scores of `recommend` without
        item kNN and user kNN, and does not leave out a user's own items. Needs the extra
        ``lightgcn[faiss]``. Each file is written atomically.

        Args:
            path: of the index; its folder is made.

        Returns:
            What the index lacks, and the measured overlap of lists; None if it lacks nothing.

        Raises:
            ValueError: if faiss is not installed, or ``path`` is a folder.

        Warns:
            UserWarning: if the index lacks a part of the scores.
        """
        count = self.seen.num_items
        ids = list(range(count)) if self.seen.item_ids is None else self.seen.item_ids.tolist()
        write_index(self.ranker, path, ids)
        return warn_of_left_out("the index", self.ranker)

    def _history(self, items: list[int], weights: Sequence[float] | None) -> Interactions:
        """Return one new user's items as a graph."""
        count = self.seen.num_items
        if not items:
            raise ValueError("a new user needs at least one item")
        if min(items) < 0 or max(items) >= count:
            raise ValueError(f"items must be in [0, {count}), got {min(items)} to {max(items)}")
        given = None
        if weights is not None:
            given = as_tensor("weights", _listed("weights", weights)).double()
            if len(given) != len(items) or not bool((given.isfinite() & (given > 0)).all()):
                raise ValueError("weights must be as many as the items, finite and positive")
        order = torch.arange(len(items), dtype=torch.int64, device="cpu")
        pairs = torch.tensor(items, dtype=torch.int64, device="cpu")
        return Interactions(torch.zeros_like(order), pairs, 1, count, given, order=order)

    def _left_out(self, exclude: Iterable[Id], only: Iterable[Id] | None) -> Tensor | None:
        """Return a (num_items,) mask of the items left out for all users; None for none."""
        excluded = [self.item_index(item) for item in _listed("exclude", exclude)]
        if not excluded and only is None:
            return None
        mask = torch.full(
            (self.seen.num_items,), only is not None, dtype=torch.bool, device=self.ranker.device
        )
        if only is not None:
            mask[[self.item_index(item) for item in _listed("only", only)]] = False
        mask[excluded] = True
        return mask

    @staticmethod
    def _ranked(
        ranker: Ranker, users: Tensor, k: int, exclude_seen: bool, left_out: Tensor | None
    ) -> Any:
        """Rank for users, without their own items and those left out for all."""
        nobody = torch.zeros(ranker.history.num_edges, dtype=torch.bool, device=ranker.device)
        seen = ranker.history if exclude_seen else ranker.history.select(nobody)
        if left_out is not None:
            # Only the edges of these users, so that a list of one user stays small.
            own = seen.select_users(users)
            items = left_out.nonzero().flatten()
            asked = users.unique()
            masked = Interactions(
                torch.cat([own.users, asked.repeat_interleave(len(items))]),
                torch.cat([own.items, items.repeat(len(asked))]),
                own.num_users,
                own.num_items,
            )
            seen = masked
        return ranker.top_k(k, users, seen=seen)

    def user_index(self, user: Id) -> int:
        """Return the index of a user given by id or unique name.

        Raises:
            ValueError: if there is no such user, several have the name, or it is neither a string
                nor an integer.
        """
        if self._user_index is None:
            self._user_index = index_of_ids(self.seen.user_ids, self.seen.num_users)
        return find_node("user", _one_id("user", user), self._user_index, self.user_columns)

    def item_index(self, item: Id) -> int:
        """Return the index of an item given by id or unique name ("name" or "name by artist").

        Raises:
            ValueError: if there is no such item (the message has similar names), several have the
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
        """Return the item at an index, with its columns."""
        ids = self.seen.item_ids
        columns = {name: values[index] for name, values in self.item_columns.items()}
        return Recommendation(index if ids is None else _plain(ids[index]), index, score, columns)

    def _named(self, items: Tensor, scores: Tensor) -> list[Recommendation]:
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return [self.item(index, score) for index, score in pairs if index >= 0]

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically; `load` needs neither data nor model."""
        tensors, metadata = self.ranker.to_tensors()
        for side, ids, columns in (
            ("user", self.seen.user_ids, self.user_columns),
            ("item", self.seen.item_ids, self.item_columns),
        ):
            if ids is not None:
                tensors[f"{side}.ids"] = pack_strings(ids)
            tensors |= {
                f"{side}.column.{name}": pack_strings(values) for name, values in columns.items()
            }
        save_tensors(path, "recommender", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Recommender:
        """Read a file of `save`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is a folder, corrupt or not a recommender.
        """
        tensors, metadata = load_tensors(path, "recommender")
        try:
            ids: dict[str, Any] = {"user_ids": None, "item_ids": None}
            columns: dict[str, dict[str, list[str]]] = {"user": {}, "item": {}}
            for key in [key for key in tensors if key.startswith(("user.", "item."))]:
                side, kind, *name = key.split(".", 2)
                values = unpack_strings(tensors.pop(key))
                if kind == "ids":
                    dtype = np.int64 if values and isinstance(values[0], int) else object
                    ids[f"{side}_ids"] = np.asarray(values, dtype=dtype)
                else:
                    columns[side][name[0]] = values
            ranker = Ranker.from_tensors(tensors, metadata, **ids).to(device)
            return cls(ranker, user_columns=columns["user"], item_columns=columns["item"])
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: not a complete recommender ({error})") from error

    def __repr__(self) -> str:
        seen, width = self.seen, self.ranker.num_columns
        return f"Recommender({seen.num_users} users, {seen.num_items} items, d={width})"


def _check_columns(side: str, columns: Columns | None, count: int) -> dict[str, list[str]]:
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(
            f'{side}_columns must be a dict such as {{"name": names}}, got {type(columns).__name__}'
        )
    return {name: _column(side, name, values, count) for name, values in (columns or {}).items()}


def _column(side: str, name: str, values: Sequence[str], count: int) -> list[str]:
    """Return a column's values by position (a pandas series is indexed by label)."""
    listed = [values] if isinstance(values, str) else list(values)
    if len(listed) != count or isinstance(values, str):
        raise ValueError(f"{side} column {name!r} has {len(listed)} values for {count} {side}s")
    for at, value in enumerate(listed):
        if not isinstance(value, str):
            raise ValueError(
                f'{side} column {name!r}[{at}] is {value!r}; a column holds strings ("" for a '
                "missing one)"
            )
    return [str(value) for value in listed]


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes):
        raise ValueError(f"{name} must be a list, got the one string {given!r}")
    values = as_tensor(name, given) if isinstance(given, Tensor) else given
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
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


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim == 0
