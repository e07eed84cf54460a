"""Recommendations by id or name: for known users, for new users, and similar items.

A `Recommender` holds a `Ranker`, ids and names, and needs neither the model nor the adjacency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import as_tensor, checked_integers
from lightgcn.core.progress import progress_bar
from lightgcn.core.table_file import check_table_path, write_table
from lightgcn.core.tensor_file import load_tensors, pack_strings, save_tensors, unpack_strings
from lightgcn.graph.ids import Id
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.names import Ambiguous, NodeNames, Unknown, checked_columns, listed, plain
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.candidates import candidate_mask
from lightgcn.ranking.explanation import explain_score
from lightgcn.ranking.fold_in import add_items, add_users
from lightgcn.ranking.index import LeftOut, warn_of_left_out, write_index
from lightgcn.ranking.new_nodes import joined_columns, new_nodes
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.topk import TopK, check_k, rank_rows
from lightgcn.recommendation import Contribution, Explanation, ListColumns, Recommendation

__all__ = ["Explanation", "Recommendation", "Recommender"]

Columns = Mapping[str, Sequence[str]]
# Items by id or name, or a (num_items,) bool mask of `Recommender.item_mask`.
Ids = Iterable[Id] | Tensor
_DEFAULT_K = 10
_UNTRAINED = (
    "none of the given items has a user in the graph of the model, so their embeddings are "
    "untrained"
)
# Users ranked at a time for a file, and rows of a file at a time.
_USERS, _ROWS = 1 << 13, 1 << 20


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
        ambiguous: what to do with a name that several users or items have: "error", or take the
            most "popular", the one with the most interactions.
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
        ambiguous: Ambiguous = "error",
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
        self.user_columns = checked_columns("user", user_columns, self.seen.num_users)
        self.item_columns = checked_columns("item", item_columns, self.seen.num_items)
        self.ambiguous = ambiguous
        self._users = NodeNames("user", self.seen, self.user_columns, ambiguous)
        self._items = NodeNames("item", self.seen, self.item_columns, ambiguous)

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
        return self._with(self.ranker.to(device))

    def _with(self, ranker: Ranker, **columns: Columns) -> Recommender:
        """Return a recommender of another ranker, with the same columns but for those given."""
        kept = {"user_columns": self.user_columns, "item_columns": self.item_columns}
        return Recommender(ranker, ambiguous=self.ambiguous, **(kept | columns))  # type: ignore[arg-type]

    def recommend(
        self,
        user: Id | Iterable[Id],
        k: int | None = None,
        *,
        exclude_seen: bool = True,
        exclude: Ids = (),
        only: Ids | None = None,
    ) -> Any:
        """Return the k items that score highest for a known user, best first.

        Args:
            user: one user by id or unique name, or a list of them.
            k: number of items; fewer are returned if fewer are left. None for 10, or for all if
                there are fewer.
            exclude_seen: whether to leave out the user's own items.
            exclude: further items to leave out, by id or name, or as a mask of `item_mask`.
            only: the items to choose from, in either form; None for all.

        Returns:
            A list for one user; a list of lists, in the order given, for several.

        Raises:
            ValueError: for an unknown user or item, or a k below 1 or above the number of items.
        """
        given, one = _one_or_more(user)
        k = self._checked_k(k)
        users = [self.user_index(each) for each in given]
        rows = torch.tensor(users, dtype=torch.int64, device="cpu")
        best = self.ranker.top_k(
            k, rows, exclude_seen=exclude_seen, only=self._candidates(only, exclude)
        ).cpu()
        found = [self._named(*row) for row in zip(best.items, best.scores, strict=True)]
        return found[0] if one else found

    def recommend_new(
        self,
        items: Iterable[Id],
        k: int | None = None,
        *,
        weights: Sequence[float] | None = None,
        exclude: Ids = (),
        only: Ids | None = None,
        unknown: Unknown = "error",
    ) -> list[Recommendation]:
        """Return the k items that score highest for a new user, without the given items.

        Args:
            items: the user's items, by id or name, the latest last; a repeated item counts once, or
                with the sum of its weights, at its latest place.
            k: number of items, as for `recommend`.
            weights: optional positive weights of the items, for a model trained on weighted edges.
            exclude: further items to leave out, by id or name, or as a mask of `item_mask`.
            only: the items to choose from, in either form; None for all.
            unknown: what to do with items that are not in the data: "error", or "skip" them with a
                warning, if at least one is known.

        Raises:
            ValueError: for an unknown item, no item at all, only items without users, a wrong k, or
                a model that cannot fold in.

        Warns:
            UserWarning: naming the items that are skipped.
        """
        k = self._checked_k(k)
        places = self._items.find_known(listed("items", items), unknown)
        if weights is not None and None in places:
            given = listed("weights", weights)
            if len(given) != len(places):
                raise ValueError("weights must be as many as the items, finite and positive")
            weights = [one for one, place in zip(given, places, strict=True) if place is not None]
        history = self._history([place for place in places if place is not None], weights)
        ranker, linked = self.ranker.fold_in(history), self._linked
        if not bool(linked[history.items.to(linked.device)].any()):
            raise ValueError(_UNTRAINED)
        user = torch.zeros(1, dtype=torch.int64, device="cpu")
        best = ranker.top_k(k, user, only=self._candidates(only, exclude)).cpu()
        return self._named(best.items[0], best.scores[0])

    def similar_items(
        self, item: Id, k: int | None = None, *, exclude: Ids = (), only: Ids | None = None
    ) -> list[Recommendation]:
        """Return the k items closest to an item by the cosine of final embeddings, without itself.

        Args:
            item: the item, by id or unique name.
            k: number of items, as for `recommend`.
            exclude: items to leave out, by id or name, or as a mask of `item_mask`.
            only: the items to choose from, in either form; None for all.

        Raises:
            ValueError: for an unknown item, or a k below 1 or above the number of items.
        """
        k, index = self._checked_k(k), self.item_index(item)
        kept = self.item_mask(only=only, exclude=exclude).nonzero().flatten()
        rows = self.ranker.item_directions[index], self.ranker.item_directions[kept]
        item_row, rows_kept = (
            row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows
        )
        scores = F.cosine_similarity(rows_kept, item_row.unsqueeze(0), dim=1)
        scores[kept == index] = -torch.inf
        if not len(kept):
            return []
        best = rank_rows(scores.unsqueeze(0), min(k, len(kept)))
        found = best.items[0][best.items[0] >= 0]
        return self._named(kept[found], best.scores[0][: len(found)])

    def recommend_all(
        self,
        path: str | Path,
        k: int | None = None,
        *,
        users: Iterable[Id] | None = None,
        exclude_seen: bool = True,
        exclude: Ids = (),
        only: Ids | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> int:
        """Write the lists of all users, or of some, to a file; return its number of rows.

        A row is a recommended item, and the columns are ``user``, ``rank`` (from 1), ``item``,
        ``score``, and of the names that the data has ``user_name``, ``item_name`` and ``artist``.
        Rows are written as they are computed, to a temporary file which is renamed at the end.
        Memory does not grow with the number of users.

        Args:
            path: the file, of the format of its suffix: .parquet, .csv, .csv.gz or .jsonl.
            k: number of items of each user, as for `recommend`.
            users: the users, by id or unique name; None for all. A repeated one counts once.
            exclude_seen: whether to leave out each user's own items.
            exclude: further items to leave out, by id or name, or as a mask of `item_mask`.
            only: the items to choose from, in either form; None for all.
            overwrite: whether to replace a file.
            progress: show a progress bar on a terminal.

        Raises:
            ValueError: as `recommend`, for another suffix, or if the file exists.

        Example:
            >>> from lightgcn import Interactions, LightGCN, Recommender
            >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
            >>> recommender = Recommender(LightGCN(2, 2), Interactions.from_frame(plays))
            >>> recommender.recommend_all("recommendations.csv")
            1
        """
        path = check_table_path(path, overwrite=overwrite)
        chunks = self.recommend_in_chunks(
            k,
            users=users,
            exclude_seen=exclude_seen,
            exclude=exclude,
            only=only,
            progress=progress,
        )
        return write_table(path, chunks, overwrite=overwrite)

    def recommend_in_chunks(
        self,
        k: int | None = None,
        *,
        users: Iterable[Id] | None = None,
        exclude_seen: bool = True,
        exclude: Ids = (),
        only: Ids | None = None,
        progress: bool = False,
    ) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Return an iterator over the rows of `recommend_all`: a dict of columns for some thousand
        users at a time, as `pandas.DataFrame` takes them.

        The arguments and errors are those of `recommend_all`.

        Example:
            >>> from lightgcn import Interactions, LightGCN, Recommender
            >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
            >>> recommender = Recommender(LightGCN(2, 2), Interactions.from_frame(plays))
            >>> [chunk["item"].tolist() for chunk in recommender.recommend_in_chunks(k=1)]
            [['song 1']]
        """
        k, candidates = self._checked_k(k), self._candidates(only, exclude)
        if users is None:
            rows = torch.arange(self.seen.num_users, dtype=torch.int64, device=self.ranker.device)
        else:
            places = dict.fromkeys(self.user_index(user) for user in listed("users", users))
            rows = torch.tensor(list(places), dtype=torch.int64, device=self.ranker.device)

        def rank(users: Tensor) -> TopK:
            return self.ranker.top_k(k, users, exclude_seen=exclude_seen, only=candidates)

        columns = ListColumns(self.seen, self.user_columns, self.item_columns)
        return _chunks(rows, max(1, min(_USERS, _ROWS // k)), rank, columns, progress)

    def explain(self, user: Id, item: Id) -> Explanation:
        """Return what each item of a user adds to the score of an item.

        The parts of a score are sums over the user's items: what these send to the user's embedding
        in the first layer (with all that they received before), what they count as latest items
        (time decay), in spectral embeddings, in item kNN and in user kNN, for the neighbours that
        all of them determine. The user's own layer-0 embedding and popularity are terms of their
        own.

        Args:
            user: a known user, by id or unique name.
            item: any item, by id or unique name.

        Raises:
            ValueError: for an unknown user or item, or a ranker that was stored without what this
                needs.
        """
        index = self.user_index(user)
        parts = explain_score(self.ranker, index, self.item_index(item))
        by_item = {name: values.tolist() for name, values in parts.by_item.items()}
        rows = []
        for place, own in enumerate(parts.items.tolist()):
            shares = {name: values[place] for name, values in by_item.items()}
            found = self.item(own)
            rows.append(Contribution(found.id, own, sum(shares.values()), shares, found.columns))
        rows.sort(key=lambda row: (-row.contribution, row.index))
        return Explanation(parts.score, rows, parts.other)

    def item_mask(self, *, only: Ids | None = None, exclude: Ids = ()) -> Tensor:
        """Return a (num_items,) bool mask of the items that may be recommended.

        It is made once and passed as ``only=`` many times, so that ids are looked up once.

        Args:
            only: the items to choose from, by id or name; None for all.
            exclude: items to leave out.

        Raises:
            ValueError: for an unknown item.

        Example:
            >>> from lightgcn import Interactions, LightGCN, Recommender
            >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
            >>> recommender = Recommender(LightGCN(2, 2), Interactions.from_frame(plays))
            >>> recommender.item_mask(exclude=["song 2"])
            tensor([ True, False])
        """
        mask = self._candidates(only, exclude)
        if mask is None:
            mask = torch.ones(self.seen.num_items, dtype=torch.bool, device="cpu")
        return mask.to(self.ranker.device)

    def fold_in_user(self, items: Sequence[int], weights: Sequence[float] | None = None) -> Tensor:
        """Return the row of a new user with the given items (indices), (w,), as `Ranker.fold_in`
        does: its product with ``ranker.items`` is the score, but for item kNN and user kNN.

        Raises:
            ValueError: without items, for an index out of range, for weights that do not fit, or
                for a model without layers.
        """
        indices = checked_integers("items", listed("items", items)).tolist()
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
            "item", self.item_columns, checked_columns("item", columns, count), count
        )
        sizes = self.seen.num_users, count
        links = Interactions(
            new.links.items, new.links.users, *sizes, new.links.weights, order=new.links.order
        )
        sends = self.ranker.user_table.any(1).cpu()
        for row, name in enumerate(items):
            if not bool(sends[links.users[links.items == row]].any()):
                raise ValueError(
                    f"new item {name!r}: none of its users was in the graph that the recommender "
                    "was made with, with items"
                )
        ranker = add_items(self.ranker, links, new.ids)
        return self._with(ranker, item_columns=added)

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
            ValueError: naming the user, if it is there already, an item is unknown, or none of its
                items has a user; if a column does not fit; or if the model cannot fold in.

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
            "user", self.user_columns, checked_columns("user", columns, count), count
        )
        linked = self._linked.cpu()
        for row, name in enumerate(users):
            if not bool(linked[new.links.items_of(row)].any()):
                raise ValueError(f"new user {name!r}: {_UNTRAINED}")
        ranker = add_users(self.ranker, new.links, new.ids)
        return self._with(ranker, user_columns=added)

    def query(self, user: Id | Iterable[Id]) -> Tensor:
        """Return the vectors of known users for an index of `export_index`: (w,) for one user,
        (B, w) for a list.

        The dot product with ``ranker.items`` is the score without item kNN and user kNN. The vector
        of a new user is that of `query_new`.

        Raises:
            ValueError: for an unknown user.
        """
        given, one = _one_or_more(user)
        rows = self.ranker.users[[self.user_index(each) for each in given]]
        return rows[0] if one else rows

    def query_new(self, items: Iterable[Id], *, weights: Sequence[float] | None = None) -> Tensor:
        """Return the vector of a new user for an index, (w,); the arguments are those of
        `recommend_new`.

        Raises:
            ValueError: as `recommend_new`.
        """
        indices = [self.item_index(item) for item in listed("items", items)]
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

    @property
    def _linked(self) -> Tensor:
        """(num_items,) bool: the items that send messages."""
        linked = self.ranker.linked
        return self.seen.item_degrees > 0 if linked is None else linked

    def _history(self, items: list[int], weights: Sequence[float] | None) -> Interactions:
        """Return one new user's items as a graph."""
        count = self.seen.num_items
        if not items:
            raise ValueError("a new user needs at least one item")
        if min(items) < 0 or max(items) >= count:
            raise ValueError(f"items must be in [0, {count}), got {min(items)} to {max(items)}")
        given = None
        if weights is not None:
            given = as_tensor("weights", listed("weights", weights)).double()
            if len(given) != len(items) or not bool((given.isfinite() & (given > 0)).all()):
                raise ValueError("weights must be as many as the items, finite and positive")
        # Of a repeated pair a graph keeps the smallest order: each gets that of its latest place.
        latest = {item: place for place, item in enumerate(items)}
        order = torch.tensor([latest[item] for item in items], dtype=torch.int64, device="cpu")
        pairs = torch.tensor(items, dtype=torch.int64, device="cpu")
        return Interactions(torch.zeros_like(order), pairs, 1, count, given, order=order)

    def _candidates(self, only: Ids | None, exclude: Ids) -> Tensor | None:
        """Return a mask of the items that lists may hold, None for all."""
        return candidate_mask(
            self.seen.num_items,
            None if only is None else self._indices("only", only),
            self._indices("exclude", exclude),
        )

    def _indices(self, name: str, given: Ids) -> Any:
        """Return the indices of items given by id or name; a mask stays one."""
        if isinstance(given, Tensor | np.ndarray) and str(given.dtype) in ("torch.bool", "bool"):
            return given
        return [self.item_index(item) for item in listed(name, given)]

    def _checked_k(self, k: Any) -> int:
        if k is None:
            return max(1, min(_DEFAULT_K, self.seen.num_items))
        k = plain(k)
        check_k(k, self.seen.num_items)
        return int(k)

    def user_index(self, user: Id) -> int:
        """Return the index of a user given by id or unique name.

        Raises:
            ValueError: if there is no such user, several have the name, or it is neither a string
                nor an integer.
        """
        return self._users.find(user)

    def item_index(self, item: Id) -> int:
        """Return the index of an item given by id or unique name ("name" or "name by artist").

        Raises:
            ValueError: if there is no such item (the message has similar names), several have the
                name, or it is neither a string nor an integer.
        """
        return self._items.find(item)

    @property
    def item_indices(self) -> dict[Id, int]:
        """The index of each item by its id."""
        return self._items.index

    def item(self, index: int, score: float = 0.0) -> Recommendation:
        """Return the item at an index, with its columns."""
        ids = self.seen.item_ids
        columns = {name: values[index] for name, values in self.item_columns.items()}
        return Recommendation(index if ids is None else plain(ids[index]), index, score, columns)

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
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        *,
        ambiguous: Ambiguous = "error",
    ) -> Recommender:
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
            return cls(
                ranker,
                user_columns=columns["user"],
                item_columns=columns["item"],
                ambiguous=ambiguous,
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: not a complete recommender ({error})") from error

    def __repr__(self) -> str:
        seen, width = self.seen, self.ranker.num_columns
        return f"Recommender({seen.num_users} users, {seen.num_items} items, d={width})"


def _chunks(
    users: Tensor,
    size: int,
    rank: Callable[[Tensor], TopK],
    columns: ListColumns,
    progress: bool,
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Rank users some at a time and yield their lists as columns."""
    with progress_bar(total=len(users), unit="user", shown=progress) as bar:
        for chunk in users.split(size):
            yield columns.of(chunk, rank(chunk))
            bar.update(len(chunk))


def _one_or_more(user: Any) -> tuple[list[Any], bool]:
    """Return users as a list, and whether one was given by itself."""
    user = plain(user)
    one = isinstance(user, str) or not isinstance(user, Iterable)
    return ([user] if one else listed("users", user)), one
