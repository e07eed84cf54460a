"""User-item interactions: the one data type that carries the graph through the library.

An `Interactions` holds each (user, item) pair once, sorted by user and then item, so that the
users' lists are slices (`indptr`), membership is a binary search at most (`keys`), and equal graphs
are equal tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import (
    INT32_END,
    checked_count,
    checked_indices,
    checked_integers,
    checked_pairs,
    checked_weights,
)
from lightgcn.core.sorting import distinct_integers
from lightgcn.graph.ids import Ids, checked_ids, factorize, ids_array, numbers

# Edges that are hashed at a time, and the share of the edges below which pairs to look up are few.
_AT_A_TIME, _FEW = 1 << 22, 64


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Validated, deduplicated user-item edges with both node counts.

    Arguments in any order and with repeats are accepted: pairs are sorted, a repeated pair is kept
    once, and the weights of a repeated pair are added up.

    Args:
        users: (E,) integer tensor, each in ``[0, num_users)``.
        items: (E,) integer tensor, each in ``[0, num_items)``.
        num_users: number of user nodes, isolated ones included.
        num_items: number of item nodes, isolated ones included.
        weights: optional (E,) floating tensor, finite and positive.
        user_ids: optional (num_users,) distinct integers or strings: what the data's owner calls
            each user.
        item_ids: optional (num_items,) the same for items.
        order: optional (E,) integers that say which of a user's edges came after which, such as
            times or places in a list; a repeated pair has its first.

    Raises:
        ValueError: for a wrong shape or dtype, an index out of range, a weight that is not finite
            and positive, or ids that repeat or are not as many as the nodes.
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
        weights, order = (
            checked_weights(self.weights, len(users)),
            _checked_order(self.order, len(users)),
        )
        users, items, weights, order = _canonical(users, items, num_items, weights, order)
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
        # Copies and pickles are of what was given, without what was made of it.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_users: int | None = None,
        num_items: int | None = None,
        *,
        weights: Tensor | None = None,
        user_ids: Sequence[Any] | Ids | None = None,
        item_ids: Sequence[Any] | Ids | None = None,
    ) -> Interactions:
        """Build from a (2, E) integer tensor: user indices in the first row, item indices in the
        second.

        Both rows count from zero (an item is not offset by the number of users, as it is in a
        homogeneous graph of other libraries). A count left out is the largest index plus one.

        Raises:
            ValueError: as the class does, and for a tensor that is not (2, E).
        """
        edge_index = checked_pairs(edge_index)
        users, items = (
            checked_integers("users", edge_index[0]),
            checked_integers("items", edge_index[1]),
        )
        if num_users is None:
            num_users = max(int(users.max()) + 1, 0) if users.numel() else 0
        if num_items is None:
            num_items = max(int(items.max()) + 1, 0) if items.numel() else 0
        return cls(
            users, items, num_users, num_items, weights, ids_array(user_ids), ids_array(item_ids)
        )

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
        """Build from distinct pairs that are sorted by user, then item, without a copy of them.

        Tensors that are mapped from a file stay so, and their memory is that of all processes that
        map it. Nobody may change them afterwards.

        Args:
            users: (E,) int64.
            items: (E,) int64.
            num_users: number of user nodes.
            num_items: number of item nodes.
            weights: as for the class.
            order: as for the class.

        Raises:
            ValueError: as the class does, and if a pair does not come after the one before it.
        """
        none = torch.empty(0, dtype=torch.int64)
        empty = cls(none, none, num_users, num_items)
        for name, part, count in (("users", users, num_users), ("items", items, num_items)):
            if checked_indices(name, part, count, f"num_{name}") is not part:
                raise ValueError(f"{name} must be a (E,) int64 tensor, got {part.dtype}")
        _check_as_many(users, items)
        for first in range(0, len(users) - 1, _AT_A_TIME):
            block = slice(first, first + _AT_A_TIME + 1)
            keys = users[block] * num_items + items[block]
            falls = keys[1:] <= keys[:-1]
            if bool(falls.any()):
                at = first + 1 + int(falls.nonzero()[0])
                raise ValueError(
                    f"edges must be sorted and distinct: edge {at} does not come after the one "
                    "before it"
                )
        weights, order = checked_weights(weights, len(users)), _checked_order(order, len(users))
        return empty._with_edges(users, items, weights, order)

    @classmethod
    def from_scipy(cls, matrix: Any, *, weighted: bool = False, **ids: Any) -> Interactions:
        """Build from a SciPy sparse (num_users, num_items) matrix; stored zeros are no edges.

        Args:
            matrix: any SciPy sparse matrix or array.
            weighted: keep the values as weights; otherwise each stored non-zero is an edge of
                weight one.
            ids: ``user_ids`` and ``item_ids``, as for the class.

        Raises:
            ValueError: as the class does, and for anything but a SciPy sparse matrix of two
                dimensions.
        """
        from scipy.sparse import issparse

        if not issparse(matrix) or matrix.ndim != 2:
            kind = f"{type(matrix).__name__} of shape {getattr(matrix, 'shape', None)}"
            raise ValueError(
                f"expected a SciPy sparse (num_users, num_items) matrix, got {kind}; csr_array "
                "makes one"
            )
        coo = matrix.tocoo()
        kept = coo.data != 0
        rows, columns, data = coo.row[kept], coo.col[kept], coo.data[kept]
        weights = torch.from_numpy(np.asarray(data, dtype=np.float32)) if weighted else None
        edge_index = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
        return cls.from_edge_index(edge_index, *matrix.shape, weights=weights, **ids)

    @classmethod
    def from_frame(
        cls, frame: Any, user: str = "user", item: str = "item", weight: str | None = None
    ) -> Interactions:
        """Build from a data frame: any object whose columns come by name (pandas, polars, pyarrow,
        a dict of arrays).

        The distinct values of the two columns, sorted, become ``user_ids`` and ``item_ids``. A
        repeated row is one edge (its weights add up).

        Raises:
            ValueError: for a missing column (the columns there are get named), a missing value (row
                and column), ids that are neither all integers nor all strings, or columns of
                different lengths.
        """
        user_codes, user_ids = factorize(frame, user)
        item_codes, item_ids = factorize(frame, item)
        if len(user_codes) != len(item_codes):
            raise ValueError(
                f"columns {user!r} and {item!r} have {len(user_codes)} and {len(item_codes)} rows"
            )
        weights = None if weight is None else torch.from_numpy(numbers(frame, weight))
        edge_index = torch.from_numpy(np.stack([user_codes, item_codes]))
        return cls.from_edge_index(
            edge_index,
            len(user_ids),
            len(item_ids),
            weights=weights,
            user_ids=user_ids,
            item_ids=item_ids,
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
        """Where the edges live."""
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
        """(num_users + 1,) int64: the items of user ``u`` are ``items[indptr[u]:indptr[u +
        1]]``."""
        indptr = torch.zeros(self.num_users + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(self.user_degrees, 0, out=indptr[1:])
        return indptr

    @cached_property
    def user_degrees(self) -> Tensor:
        """(num_users,) int64 number of items of each user."""
        return torch.bincount(self.users, minlength=self.num_users)

    @cached_property
    def item_degrees(self) -> Tensor:
        """(num_items,) int64 number of users of each item: its popularity."""
        return torch.bincount(self.items, minlength=self.num_items)

    @cached_property
    def ages(self) -> Tensor:
        """(E,) int64: how many of its user's edges came after each edge.

        Raises:
            ValueError: if the edges have no order.
        """
        if self.order is None:
            raise ValueError(
                "these interactions have no order; give each edge its time or place (order=…)"
            )
        return self.user_degrees[self.users] - 1 - self.ranks(self.order.argsort(stable=True))

    def ranks(self, sequence: Tensor) -> Tensor:
        """Return (E,) int64: of each edge, how many of its user's edges stand before it in a
        sequence of all edges.

        Args:
            sequence: (E,) int64 permutation of the edges.
        """
        # A stable sort by user leaves each user's edges in the order of the sequence, from the
        # user's first place on.
        by_user = sequence[self.users[sequence].argsort(stable=True)]
        ranks = torch.empty_like(sequence)
        ranks[by_user] = torch.arange(self.num_edges, device=self.device) - self.indptr[self.users]
        return ranks

    def items_of(self, user: int) -> Tensor:
        """Return the (n,) int64 items of one user, increasing.

        Raises:
            ValueError: if there is no such user.
        """
        if not 0 <= user < self.num_users:
            raise ValueError(f"user must be in [0, {self.num_users}), got {user}")
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def places_of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return all edges of a list of users: (n,) int64 positions in the list, and (n,) int64
        positions of edges.

        Args:
            users: (B,) int64 in range, repeats allowed.
        """
        degrees = self.user_degrees[users]
        rows = torch.repeat_interleave(degrees)
        first = self.indptr[users] - (degrees.cumsum(0) - degrees)
        return rows, first[rows] + torch.arange(len(rows), device=rows.device)

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Tell which pairs are edges: (B,) users and (B,) items, in range, give (B,) bool."""
        wanted = users.long() * self.num_items + items
        if self.num_edges == 0:
            return torch.zeros_like(wanted, dtype=torch.bool)
        if self.device.type != "cpu":
            return self._has_keys(wanted)
        if len(wanted) < self.num_edges // _FEW and "_filter" not in self.__dict__:
            return self._finds(users.long(), items)
        found = self._filter[_slots(wanted, len(self._filter))]
        unsure = found.nonzero().flatten()
        found[unsure] = self._has_keys(wanted[unsure])
        return found

    def _has_keys(self, wanted: Tensor) -> Tensor:
        place = torch.searchsorted(self.keys, wanted).clamp_(max=self.num_edges - 1)
        return self.keys[place] == wanted

    def _finds(self, users: Tensor, items: Tensor) -> Tensor:
        """Search the users' lists: slower for many pairs than the filter and the keys, but nothing
        is made for them."""
        low, high = self.indptr[users], self.indptr[users + 1]
        end = high.clone()
        while bool((low < high).any()):
            middle = (low + high) // 2  # where the search is over, perhaps one beyond the last edge
            before = (self.items[middle.clamp(max=self.num_edges - 1)] < items) & (low < high)
            low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
        return (low < end) & (self.items[low.clamp(max=self.num_edges - 1)] == items)

    @cached_property
    def _filter(self) -> Tensor:
        """(M,) bool, a power of two: True at the slot of each edge, which is a sixteenth to an
        eighth of all slots.

        One look tells most non-edges, without the twenty steps of a binary search.
        """
        size = 1 << max(3, 8 * self.num_edges - 1).bit_length()
        marks = torch.zeros(size, dtype=torch.bool, device=self.device)
        marks[_slots(self.keys, size)] = True
        return marks

    def to_scipy(self) -> Any:
        """Return a (num_users, num_items) SciPy CSR array of its own memory: the weights, or ones.

        Its values are float32, or float64 where the weights are.
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
        if self is other:
            return True
        counts = (self.num_users, self.num_items, self.num_edges)
        return counts == (other.num_users, other.num_items, other.num_edges) and torch.equal(
            self.keys, other.to(self.device).keys
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of counts, edges, weights and order: equal graphs, equal
        digest on any device."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        for users, items in zip(
            self.users.split(_AT_A_TIME), self.items.split(_AT_A_TIME), strict=True
        ):
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
        weights, order = (
            None if part is None else part[edges] for part in (self.weights, self.order)
        )
        return self._with_edges(self.users[edges], self.items[edges], weights, order)

    def of_users(self, users: Tensor) -> Interactions:
        """Keep the edges of some users, (n,) int64 in range, and all nodes."""
        kept = torch.zeros(self.num_users, dtype=torch.bool, device=self.device)
        kept[users] = True
        return self.select(kept[self.users])

    def reindex(self, users: Tensor, items: Tensor) -> Interactions:
        """Keep the given nodes and the edges between them, renumbered in the order given.

        Ids come along; a graph without ids gets its old indices as ids.

        Args:
            users: (n,) int64 distinct user indices to keep.
            items: (m,) int64 distinct item indices to keep.

        Raises:
            ValueError: for an index out of range or given twice.
        """
        new_user = _renumber("users", users, self.num_users, self.device)
        new_item = _renumber("items", items, self.num_items, self.device)
        u, i = new_user[self.users], new_item[self.items]
        kept = (u >= 0) & (i >= 0)
        return Interactions(
            u[kept],
            i[kept],
            len(users),
            len(items),
            None if self.weights is None else self.weights[kept],
            _taken_ids(self.user_ids, users),
            _taken_ids(self.item_ids, items),
            None if self.order is None else self.order[kept],
        )

    def first_users(self, count: int) -> Interactions:
        """Keep the first users and their edges, and all items.

        Raises:
            ValueError: if there are fewer than ``count`` users.
        """
        if checked_count("count", count) > self.num_users:
            raise ValueError(
                f"count must be in [0, {self.num_users}], the number of users, got {count}"
            )
        edges = slice(0, int(self.indptr[count]))
        weights, order = (
            None if part is None else part[edges] for part in (self.weights, self.order)
        )
        ids = None if self.user_ids is None else self.user_ids[:count]
        return Interactions(
            self.users[edges],
            self.items[edges],
            count,
            self.num_items,
            weights,
            ids,
            self.item_ids,
            order,
        )

    def union(self, other: Interactions) -> Interactions:
        """Return the edges of both graphs over the same nodes; their order, where both have one.

        Raises:
            ValueError: if the counts differ, or one graph is weighted and the other is not.
        """
        if (self.num_users, self.num_items) != (other.num_users, other.num_items):
            raise ValueError(f"cannot unite graphs over different nodes: {self} and {other}")
        if (self.weights is None) != (other.weights is None):
            raise ValueError("cannot unite a weighted with an unweighted graph")
        weights = None
        if self.weights is not None and other.weights is not None:
            weights = torch.cat([self.weights, other.weights])
        order = None
        if self.order is not None and other.order is not None:
            order = torch.cat([self.order, other.order])
        users, items = torch.cat([self.users, other.users]), torch.cat([self.items, other.items])
        return self._with_edges(*_canonical(users, items, self.num_items, weights, order))

    def to(self, device: torch.device | str) -> Interactions:
        """Return the same graph on another device (itself, where it is there already)."""
        moved = self.users.to(device)
        if moved is self.users:
            return self
        weights, order = (
            None if part is None else part.to(device) for part in (self.weights, self.order)
        )
        return self._with_edges(moved, self.items.to(device), weights, order)

    def _with_edges(
        self, users: Tensor, items: Tensor, weights: Tensor | None, order: Tensor | None
    ) -> Interactions:
        """Return this graph's nodes with other edges, which are canonical already and are not
        checked again."""
        new = object.__new__(Interactions)
        names = ("num_users", "num_items", "user_ids", "item_ids")
        fields = {name: getattr(self, name) for name in names}
        edges = {"users": users, "items": items, "weights": weights, "order": order}
        for name, value in (fields | edges).items():
            object.__setattr__(new, name, value)
        return new

    def with_ids(self, user_ids: Ids | None, item_ids: Ids | None) -> Interactions:
        """Return the same graph under other ids.

        Raises:
            ValueError: if they repeat, or are not as many as the nodes.
        """
        new = self._with_edges(self.users, self.items, self.weights, self.order)
        object.__setattr__(new, "user_ids", checked_ids("user_ids", user_ids, self.num_users))
        object.__setattr__(new, "item_ids", checked_ids("item_ids", item_ids, self.num_items))
        return new

    def __len__(self) -> int:
        return self.num_edges

    def __repr__(self) -> str:
        weighted = ", weighted" if self.weights is not None else ""
        return (
            f"Interactions({self.num_users} users, {self.num_items} items, "
            f"{self.num_edges} edges{weighted})"
        )


def _check_as_many(users: Tensor, items: Tensor) -> None:
    if len(users) != len(items):
        raise ValueError(f"users and items must be as many, got {len(users)} and {len(items)}")


def _checked_order(given: Tensor | None, num_edges: int) -> Tensor | None:
    if given is None:
        return None
    order = checked_integers("order", given)
    if len(order) != num_edges:
        raise ValueError(f"order must be {num_edges} integers, one per edge, got {len(order)}")
    return order


def _taken_ids(ids: Ids | None, nodes: Tensor) -> Ids:
    kept = nodes.cpu().numpy()
    return kept.astype(np.int64) if ids is None else ids[kept]


def _slots(keys: Tensor, size: int) -> Tensor:
    """Spread (n,) keys over ``size`` slots, a power of two: multiplicative hashing (Knuth, TAOCP 3,
    6.4)."""
    return (
        (keys * -7046029254386353131)
        .bitwise_right_shift_(64 - size.bit_length())
        .bitwise_and_(size - 1)
    )


def _canonical(
    users: Tensor, items: Tensor, num_items: int, weights: Tensor | None, order: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Sort pairs by user, then item, and merge repeats."""
    keys = users * num_items + items
    if bool((keys[1:] > keys[:-1]).all()):
        # Copies: a caller that changes its tensors later must not change the graph.
        weights, order = (None if part is None else part.clone() for part in (weights, order))
        return users.clone(), items.clone(), weights, order
    if weights is None and order is None:
        keys = distinct_integers(keys)
    else:
        keys, place = torch.unique(keys, return_inverse=True)
        if weights is not None:
            weights = weights.new_zeros(len(keys)).index_add_(0, place, weights)
        if order is not None:
            order = order.new_empty(len(keys)).scatter_reduce_(
                0, place, order, "amin", include_self=False
            )
    users = torch.div(keys, num_items, rounding_mode="floor")
    return users, keys.sub_(users, alpha=num_items), weights, order


def _renumber(name: str, kept: Tensor, count: int, device: torch.device) -> Tensor:
    kept = checked_indices(name, kept, count, f"num_{name}").to(device)
    new = torch.full((count,), -1, dtype=torch.int64, device=device)
    new[kept] = torch.arange(len(kept), device=device)
    if int((new >= 0).sum()) != len(kept):
        repeated = int(torch.bincount(kept).argmax())
        raise ValueError(f"{name} to keep must be distinct, {repeated} is there more than once")
    return new
