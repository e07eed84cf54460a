"""User-item interactions: the data type that carries the graph through the library.

An `Interactions` holds each (user, item) pair once, sorted by user, then item. A user's items are
therefore one slice (`indptr`), membership is a binary search (`keys`), and equal graphs are equal
tensors."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import (
    INT32_END,
    as_tensor,
    check_same_device,
    checked_count,
    checked_edge_index,
    checked_indices,
    checked_weights,
)
from lightgcn.core.sorting import positions_of
from lightgcn.graph.canonical import (
    CHUNK,
    canonical_edges,
    check_canonical,
    looks_homogeneous,
    new_numbers,
    search_lists,
)
from lightgcn.graph.edge_order import checked_order
from lightgcn.graph.ids import (
    Ids,
    checked_ids,
    factorize,
    ids_array,
    order_column,
    take_ids,
    weight_column,
)


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Validated, deduplicated user-item edges with both node counts.

    Edges may be given in any order and with repeats: pairs are sorted, a repeated pair is kept
    once, its weights are added, and of its orders the smallest is kept. Tensors, NumPy arrays and
    lists are accepted; the edges are on the device of ``users``.

    Args:
        users: (E,) integers, each in ``[0, num_users)``.
        items: (E,) integers, each in ``[0, num_items)``.
        num_users: number of users, including users without edges.
        num_items: number of items, including items without edges.
        weights: optional (E,) finite positive numbers; constants, without gradient.
        user_ids: optional (num_users,) distinct integers or strings: the caller's ids of the users.
        item_ids: optional (num_items,) the same for items.
        order: optional (E,) times or places in a list that sort each user's edges: integers,
            floats, or times (datetime64, pandas timestamps, datetimes), which are kept as
            nanoseconds since 1970.

    Raises:
        ValueError: for a wrong shape or dtype, an index out of range, a weight that is not finite
            and positive or requires a gradient, a missing value in ``order``, or ids that repeat or
            are not one per node.

    Example:
        >>> graph = Interactions([0, 0, 1], [2, 0, 1], num_users=2, num_items=3)
        >>> graph
        Interactions(2 users, 3 items, 3 edges)
        >>> graph.edge_index
        tensor([[0, 0, 1],
                [0, 2, 1]])
    """

    users: Tensor
    items: Tensor
    num_users: int
    num_items: int
    weights: Tensor | None = None
    user_ids: Ids | None = None
    item_ids: Ids | None = None
    order: Tensor | None = None

    def __post_init__(self) -> None:
        num_users = checked_count("num_users", self.num_users)
        num_items = checked_count("num_items", self.num_items)
        if num_users * num_items >= 2**63:
            raise ValueError(
                f"{num_users} users x {num_items} items: pair keys would overflow 64 bits"
            )
        users = checked_indices("users", self.users, num_users, "num_users")
        items = checked_indices("items", self.items, num_items, "num_items")
        _check_as_many(users, items)
        weights = checked_weights(self.weights, len(users))
        order = checked_order(self.order, len(users))
        given = {"users": users, "items": items, "weights": weights, "order": order}
        check_same_device(**{name: part for name, part in given.items() if part is not None})
        users, items, weights, order = canonical_edges(users, items, num_items, weights, order)
        values = {
            "users": users,
            "items": items,
            "num_users": num_users,
            "num_items": num_items,
            "weights": weights,
            "user_ids": checked_ids("user_ids", self.user_ids, num_users),
            "item_ids": checked_ids("item_ids", self.item_ids, num_items),
            "order": order,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles hold the fields, not what was computed from them.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Any,
        num_users: int | None = None,
        num_items: int | None = None,
        *,
        weights: Any = None,
        user_ids: Sequence[Any] | Ids | None = None,
        item_ids: Sequence[Any] | Ids | None = None,
        order: Any = None,
    ) -> Interactions:
        """Build from (2, E) integers: users in the first row, items in the second.

        Both rows count from zero. A homogeneous graph, in which item i is node ``num_users + i``,
        is read by `lightgcn.convert.from_homogeneous`.

        Args:
            edge_index: (2, E) integer tensor, NumPy array or list.
            num_users: number of users; default: the largest user plus one.
            num_items: number of items; default: the largest item plus one.
            weights, user_ids, item_ids, order: as for the class.

        Raises:
            ValueError: as the class does, and if ``edge_index`` is not (2, E) integers.

        Warns:
            UserWarning: if ``num_items`` is left out and the numbers look like those of a
                homogeneous graph: every item is above every user, or each edge is there in both
                directions.

        Example:
            >>> edge_index = torch.tensor([[0, 0, 1], [2, 0, 1]])
            >>> Interactions.from_edge_index(edge_index, num_users=2, num_items=4)
            Interactions(2 users, 4 items, 3 edges)
        """
        users, items = checked_edge_index(edge_index)
        num_users, num_items = (
            None if count is None else checked_count(name, count)
            for name, count in (("num_users", num_users), ("num_items", num_items))
        )
        if num_items is None and looks_homogeneous(users, items, num_users):
            warnings.warn(
                "edge_index looks like that of a homogeneous graph, with items numbered after "
                "users: convert it with lightgcn.convert.from_homogeneous(edge_index, num_users, "
                "num_items), or pass num_users and num_items if items do count from zero",
                UserWarning,
                stacklevel=2,
            )
        if num_users is None:
            num_users = max(int(users.max()) + 1, 0) if users.numel() else 0
        if num_items is None:
            num_items = max(int(items.max()) + 1, 0) if items.numel() else 0
        ids = ids_array(user_ids), ids_array(item_ids)
        return cls(users, items, num_users, num_items, weights, *ids, order)

    @classmethod
    def from_sorted(
        cls,
        users: Tensor,
        items: Tensor,
        num_users: int,
        num_items: int,
        weights: Tensor | None = None,
        *,
        order: Tensor | None = None,
    ) -> Interactions:
        """Build from distinct pairs that are sorted by user, then item, without copying them.

        Memory-mapped tensors stay mapped, and processes that map the same file share its memory.
        The tensors must not be changed afterwards.

        Args:
            users, items: (E,) int64.
            num_users, num_items: numbers of nodes.
            weights, order: as for the class.

        Raises:
            ValueError: as the class does, and if a pair does not come after the one before it.
        """
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        empty = cls(none, none, num_users, num_items)
        for name, part, count in (("users", users, num_users), ("items", items, num_items)):
            if checked_indices(name, part, count, f"num_{name}") is not part:
                raise ValueError(f"{name} must be a (E,) int64 tensor, got {part.dtype}")
        _check_as_many(users, items)
        check_canonical(users, items, num_items)
        weights, order = checked_weights(weights, len(users)), checked_order(order, len(users))
        return empty._with_edges(users, items, weights, order)

    @classmethod
    def from_scipy(cls, matrix: Any, *, weighted: bool = False, **ids: Any) -> Interactions:
        """Build from a SciPy sparse (num_users, num_items) matrix; stored zeros are no edges.

        Args:
            matrix: any SciPy sparse matrix or array.
            weighted: keep the values as float32 weights; otherwise edges have no weights.
            ids: ``user_ids`` and ``item_ids``, as for the class.

        Raises:
            ValueError: as the class does, and for anything but a SciPy sparse matrix of two
                dimensions.

        Example:
            >>> from scipy.sparse import csr_array
            >>> Interactions.from_scipy(csr_array([[0.0, 2.0], [1.0, 3.0]]), weighted=True)
            Interactions(2 users, 2 items, 3 edges, weighted)
        """
        from scipy.sparse import issparse

        if not issparse(matrix) or matrix.ndim != 2:
            kind = f"{type(matrix).__name__} of shape {getattr(matrix, 'shape', None)}"
            raise ValueError(
                f"matrix must be a SciPy sparse (num_users, num_items) matrix, got {kind}; "
                "scipy.sparse.csr_array makes one"
            )
        coo = matrix.tocoo()
        kept = coo.data != 0
        rows, columns, data = coo.row[kept], coo.col[kept], coo.data[kept]
        weights = np.asarray(data, dtype=np.float32) if weighted else None
        return cls.from_edge_index(np.stack([rows, columns]), *matrix.shape, weights=weights, **ids)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        user: str = "user",
        item: str = "item",
        weight: str | None = None,
        order: str | None = None,
    ) -> Interactions:
        """Build from a data frame: pandas, polars, pyarrow, or a dict of arrays.

        The distinct values of the two columns, sorted, become ``user_ids`` and ``item_ids``. A
        repeated row is one edge; its weights are added.

        Args:
            frame: an object whose columns are read by name.
            user: name of the column of user ids, all integers or all strings.
            item: name of the column of item ids, all integers or all strings.
            weight: name of a column of finite positive numbers, or None.
            order: name of a column of times or places that sort each user's edges, or None.

        Raises:
            ValueError: for a missing column (the message lists the columns), a missing value or a
                wrong weight (column and row), ids that are neither all integers nor all strings, or
                columns of different lengths.

        Example:
            >>> plays = {"user": ["ann", "bob", "ann"], "song": [7, 7, 9], "plays": [3, 1, 2]}
            >>> graph = Interactions.from_frame(plays, item="song", weight="plays")
            >>> graph.user_ids, graph.item_ids, graph.weights
            (array(['ann', 'bob'], dtype=object), array([7, 9]), tensor([3., 2., 1.]))
        """
        user_codes, user_ids = factorize(frame, user)
        item_codes, item_ids = factorize(frame, item)
        if len(user_codes) != len(item_codes):
            raise ValueError(
                f"columns {user!r} and {item!r} have {len(user_codes)} and {len(item_codes)} rows"
            )
        return cls.from_edge_index(
            np.stack([user_codes, item_codes]),
            len(user_ids),
            len(item_ids),
            weights=None if weight is None else weight_column(frame, weight, len(user_codes)),
            user_ids=user_ids,
            item_ids=item_ids,
            order=None if order is None else order_column(frame, order, len(user_codes)),
        )

    @property
    def num_edges(self) -> int:
        """Number of distinct user-item pairs."""
        return len(self.users)

    @property
    def num_nodes(self) -> int:
        """Number of users plus items; item ``i`` is node ``num_users + i``."""
        return self.num_users + self.num_items

    @property
    def device(self) -> torch.device:
        """The device of the edges."""
        return self.users.device

    @cached_property
    def edge_index(self) -> Tensor:
        """(2, E) int64: users, items; sorted by user, then item."""
        return torch.stack([self.users, self.items])

    @cached_property
    def keys(self) -> Tensor:
        """(E,) int64 pair keys ``user * num_items + item``, strictly increasing."""
        return self.users * self.num_items + self.items

    @cached_property
    def indptr(self) -> Tensor:
        """(num_users + 1,) int64: user ``u`` has ``items[indptr[u]:indptr[u + 1]]``."""
        indptr = torch.zeros(self.num_users + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(self.user_degrees, 0, out=indptr[1:])
        return indptr

    @cached_property
    def user_degrees(self) -> Tensor:
        """(num_users,) int64 number of items of each user."""
        return _counts(self.users, self.num_users)

    @cached_property
    def item_degrees(self) -> Tensor:
        """(num_items,) int64 number of users of each item: its popularity."""
        return _counts(self.items, self.num_items)

    def items_of(self, user: int) -> Tensor:
        """Return the (n,) int64 items of one user, increasing.

        Raises:
            ValueError: if there is no such user.
        """
        user = user.item() if isinstance(user, Tensor) and user.numel() == 1 else user
        if checked_count("user", user) >= self.num_users:
            raise ValueError(f"user must be in [0, {self.num_users}), got {user}")
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @cached_property
    def host_degrees(self) -> Tensor:
        """``user_degrees`` on the CPU, which say how many edges some users have without a wait for
        the device."""
        return self.user_degrees.cpu()

    def edge_positions(self, users: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the edges of a list of users, (B,) int64 in range, repeats allowed.

        Args:
            users: (B,) int64.
            total: how many edges they have together, if that is known.

        Returns:
            Two (n,) int64 tensors, one entry for each edge: the position of its user in the list,
            and the position of the edge in the graph.
        """
        degrees = self.user_degrees[users]
        rows = torch.repeat_interleave(degrees, output_size=total)
        first = self.indptr[users] - (degrees.cumsum(0) - degrees)
        return rows, first[rows] + torch.arange(len(rows), dtype=torch.int64, device=rows.device)

    def edges_of(self, users: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the items of a list of users, (B,) int64 in range, repeats allowed; ``total`` as
        for `edge_positions`.

        Returns:
            Two (n,) int64 tensors, one entry for each edge: the position of its user in the list,
            and its item.
        """
        rows, edges = self.edge_positions(users, total)
        return rows, self.items[edges]

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (B,) bool: whether each pair ``users[b], items[b]``, both in range, is an edge."""
        for name, part in (("users", users), ("items", items)):
            if not isinstance(part, Tensor) or part.dtype == torch.bool or part.is_floating_point():
                raise TypeError(f"{name} must be an integer tensor, got {type(part).__name__}")
        users = users.long()
        if not self.num_edges:
            return torch.zeros_like(users, dtype=torch.bool)
        # Keys take 8 bytes an edge, which a few pairs of a large graph are not worth.
        if "keys" not in self.__dict__ and len(users) < self.num_edges // 64:
            return search_lists(self.indptr, self.items, users, items)
        wanted = users * self.num_items + items
        place = torch.searchsorted(self.keys, wanted).clamp_(max=self.num_edges - 1)
        return self.keys[place] == wanted

    def to_scipy(self) -> Any:
        """Return a (num_users, num_items) SciPy CSR array of its own memory: the weights, or ones.

        Values are float32, or float64 if the weights are.
        """
        from scipy.sparse import csr_array

        if self.weights is None:
            values = np.ones(self.num_edges, np.float32)
        else:
            dtype = torch.float64 if self.weights.dtype == torch.float64 else torch.float32
            values = self.weights.to("cpu", dtype, copy=True).numpy()
        # SciPy keeps the index dtype that it is given, and is faster with the narrow one.
        index = torch.int32 if max(self.num_edges, self.num_nodes) < INT32_END else torch.int64
        columns, ends = (
            part.to("cpu", index, copy=True).numpy() for part in (self.items, self.indptr)
        )
        return csr_array((values, columns, ends), shape=(self.num_users, self.num_items))

    def same_edges(self, other: Interactions) -> bool:
        """Return whether another graph has the same nodes and edges."""
        other = checked_interactions("other", other)
        if self is other:
            return True
        counts = (self.num_users, self.num_items, self.num_edges)
        return counts == (other.num_users, other.num_items, other.num_edges) and torch.equal(
            self.keys, other.to(self.device).keys
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of counts, edges, weights and order; ids do not enter it."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        for users, items in zip(self.users.split(CHUNK), self.items.split(CHUNK), strict=True):
            digest.update((users * self.num_items + items).cpu().numpy().data)
        if self.weights is not None:
            digest.update(self.weights.double().cpu().numpy().tobytes())
        if self.order is not None:
            digest.update(self.order.cpu().numpy().tobytes())
        return digest.hexdigest()

    def select(self, edges: Tensor) -> Interactions:
        """Keep some edges and all nodes.

        Args:
            edges: (E,) bool mask, or distinct (n,) int64 edge positions in any order.

        Raises:
            ValueError: for a mask of another length, or a position out of range or given twice.
        """
        edges = as_tensor("edges", edges).to(self.device)
        if edges.dtype != torch.bool:
            edges = checked_indices("edges", edges, self.num_edges, "num_edges").sort().values
            twice = edges[1:][edges[1:] == edges[:-1]]
            if twice.numel():
                raise ValueError(
                    f"edge positions must be distinct, {int(twice[0])} is there more than once"
                )
        elif edges.shape != self.users.shape:
            raise ValueError(
                f"a mask of edges must have shape ({self.num_edges},), got {tuple(edges.shape)}"
            )
        return self._map_edges(lambda values: values[edges])

    def divide(self, mask: Tensor, count: int) -> tuple[Interactions, Interactions]:
        """Return the edges of a (E,) bool mask and the other ones; ``count`` is how many the mask
        has, for which the host need not wait then."""
        kept, others = positions_of(mask, count)
        return self._map_edges(lambda values: values[kept]), self._map_edges(
            lambda values: values[others]
        )

    def select_users(self, users: Tensor) -> Interactions:
        """Keep the edges of some users, (n,) integers, and all nodes.

        Raises:
            ValueError: if a user is out of range.
        """
        users = checked_indices("users", users, self.num_users, "num_users").to(self.device)
        kept = torch.zeros(self.num_users, dtype=torch.bool, device=self.device)
        kept[users] = True
        return self.select(kept[self.users])

    def head_users(self, count: int) -> Interactions:
        """Keep the first ``count`` users and their edges, and all items.

        Raises:
            ValueError: if there are fewer than ``count`` users.
        """
        if checked_count("count", count) > self.num_users:
            raise ValueError(
                f"count must be in [0, {self.num_users}], the number of users, got {count}"
            )
        ids = None if self.user_ids is None else self.user_ids[:count]
        return replace(self.select(self.users < count), num_users=count, user_ids=ids)

    def reindex(self, users: Tensor, items: Tensor) -> Interactions:
        """Keep the given nodes and the edges between them, renumbered in the order given.

        Ids are kept; a graph without ids gets its old indices as ids.

        Args:
            users: (n,) int64 distinct user indices to keep.
            items: (m,) int64 distinct item indices to keep.

        Raises:
            ValueError: for an index out of range or given twice.
        """
        new_user = new_numbers("users", users, self.num_users, self.device)[self.users]
        new_item = new_numbers("items", items, self.num_items, self.device)[self.items]
        kept = (new_user >= 0) & (new_item >= 0)
        return Interactions(
            new_user[kept],
            new_item[kept],
            len(users),
            len(items),
            None if self.weights is None else self.weights[kept],
            take_ids(self.user_ids, users),
            take_ids(self.item_ids, items),
            None if self.order is None else self.order[kept],
        )

    def union(self, other: Interactions) -> Interactions:
        """Return the edges of both graphs over the same nodes, with an order if both have one.

        Raises:
            ValueError: if the counts differ, or one graph is weighted and the other is not.
        """
        other = checked_interactions("other", other)
        if (self.num_users, self.num_items) != (other.num_users, other.num_items):
            raise ValueError(f"cannot unite graphs over different nodes: {self} and {other}")
        if (self.weights is None) != (other.weights is None):
            raise ValueError("cannot unite a weighted with an unweighted graph")
        check_same_device(graph=self, other=other)
        weights, order = (
            None if mine is None or theirs is None else torch.cat([mine, theirs])
            for mine, theirs in ((self.weights, other.weights), (self.order, other.order))
        )
        users, items = torch.cat([self.users, other.users]), torch.cat([self.items, other.items])
        return self._with_edges(*canonical_edges(users, items, self.num_items, weights, order))

    def to(self, device: torch.device | str) -> Interactions:
        """Return the same graph on another device (itself if it is there already)."""
        new = self._map_edges(lambda values: values.to(device))
        return self if new.users is self.users else new

    def with_ids(self, user_ids: Ids | None, item_ids: Ids | None) -> Interactions:
        """Return the same graph with other ids.

        Raises:
            ValueError: if they repeat, or are not one per node.
        """
        new = self._map_edges(lambda values: values)
        object.__setattr__(new, "user_ids", checked_ids("user_ids", user_ids, self.num_users))
        object.__setattr__(new, "item_ids", checked_ids("item_ids", item_ids, self.num_items))
        return new

    def _map_edges(self, function: Callable[[Tensor], Tensor]) -> Interactions:
        """Return the graph with a function applied to each tensor of edges."""
        weights, order = (
            None if values is None else function(values) for values in (self.weights, self.order)
        )
        return self._with_edges(function(self.users), function(self.items), weights, order)

    def _with_edges(
        self, users: Tensor, items: Tensor, weights: Tensor | None, order: Tensor | None
    ) -> Interactions:
        """Return this graph's nodes with other edges, canonical and checked already."""
        new = object.__new__(Interactions)
        edges = {"users": users, "items": items, "weights": weights, "order": order}
        for name, value in (self.__getstate__() | edges).items():
            object.__setattr__(new, name, value)
        return new

    def __len__(self) -> int:
        return self.num_edges

    def __repr__(self) -> str:
        weighted = ", weighted" if self.weights is not None else ""
        counts = f"{self.num_users} users, {self.num_items} items, {self.num_edges} edges"
        return f"Interactions({counts}{weighted})"


def checked_interactions(name: str, value: object, of_links: str = "message") -> Interactions:
    """Return an `Interactions` as it is; a ValueError for anything else names the argument and the
    call that makes one, or for links the part to pass."""
    if isinstance(value, Interactions):
        return value
    parts = [part for part in ("interactions", of_links, "train") if hasattr(value, part)]
    hint = f"pass its .{parts[0]}" if parts else "build one with Interactions.from_edge_index"
    shape = getattr(value, "shape", None)
    size = "" if shape is None else f" of shape {tuple(shape)}"
    raise ValueError(f"{name} must be an Interactions, got {type(value).__name__}{size}; {hint}")


def _counts(nodes: Tensor, count: int) -> Tensor:
    """Return (count,) int64: how often each number occurs in (E,) integers below ``count``."""
    if nodes.device.type == "cpu":
        return torch.bincount(nodes, minlength=count)
    # On a device, bincount reads the largest number first, and the host waits for it.
    return torch.zeros(count, dtype=torch.int64, device=nodes.device).scatter_add_(
        0, nodes, torch.ones_like(nodes)
    )


def _check_as_many(users: Tensor, items: Tensor) -> None:
    if len(users) != len(items):
        raise ValueError(f"users and items must be as many, got {len(users)} and {len(items)}")
