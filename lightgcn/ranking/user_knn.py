"""User kNN: what the users most like a user have, added to the scores of a model.

With N(u) the nearest neighbours of user u, s the similarity of two users and x the interactions,

    score(u, i) = model score + weight · r(u, i) / max_j r(u, j)
    r(u, i) = Σ_{v ∈ N(u)} s(u, v) x_vi

Item kNN says which items occur together, user kNN what a circle of users shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_number
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.item_knn import (
    Floats,
    history_rows,
    largest_gain,
    largest_others,
    row_blocks,
)
from lightgcn.ranking.residual import Gains

# Similarities computed at a time, at most.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class UserKNN:
    """Scores from the nearest neighbours of users, to be added to those of a model.

    The similarity of users u and v is Σ_i d_i^-½ x_ui x_vi / √(d_u d_v) with d the degrees: the
    cosine of their rows, with items of many users weighted down. Ties break by user index. Nothing
    is computed ahead: the neighbours of a user are sought when it is scored.

    Attributes:
        history: the users to score, and their items; a weighted item counts by its weight.
        profiles: (V, num_items) SciPy CSR: the items of the users who may be neighbours.
        directions: (num_items, V) SciPy CSR: by what a user's items are multiplied to be compared.
        neighbours: number of neighbours of a user.
        weight: the gain of the item that most of the neighbours have, the largest gain.
        are_own: whether row u of ``profiles`` is user u of ``history``, and so no neighbour of it.

    Raises:
        ValueError: if ``neighbours`` < 1, ``weight`` is negative or not finite, or the parts are of
            different items or users.

    Example:
        >>> import torch
        >>> graph = Interactions([0, 0, 1, 1], [0, 1, 1, 2], num_users=2, num_items=3)
        >>> user_knn = UserKNN.from_graph(graph, neighbours=1, weight=0.5)
        >>> _, items, gains = user_knn.of_users(torch.tensor([0]))
        >>> sorted(items.tolist()), gains
        ([1, 2], tensor([0.5000, 0.5000]))
    """

    history: Interactions
    profiles: Any = field(repr=False)
    directions: Any = field(repr=False)
    neighbours: int
    weight: float
    are_own: bool = True

    def __post_init__(self) -> None:
        checked_count("neighbours", self.neighbours, 1)
        checked_number("weight", self.weight, 0)
        shape, count = self.profiles.shape, self.history.num_items
        if shape[1] != count or self.directions.shape != (count, shape[0]):
            found = f"{shape} and {self.directions.shape}"
            raise ValueError(f"profiles and directions of shapes {found} do not fit {self.history}")
        if self.are_own and shape[0] < self.history.num_users:
            raise ValueError(f"profiles of {shape[0]} users do not fit {self.history}")

    @classmethod
    def from_graph(cls, train: Interactions, neighbours: int = 50, weight: float = 0.3) -> UserKNN:
        """Return user kNN for the users of a graph.

        Args:
            train: the graph; weights count.
            neighbours: number of nearest other users to add up.
            weight: the largest gain of a score.

        Raises:
            ValueError: if ``neighbours`` < 1, or ``weight`` is negative or not finite.
        """
        train = checked_interactions("train", train)
        profiles = train.to_scipy().astype(np.float32, copy=False).tocsr()
        return cls.from_profiles(train, profiles, neighbours, weight)

    @classmethod
    def from_profiles(
        cls,
        history: Interactions,
        profiles: Any,
        neighbours: int,
        weight: float,
        *,
        are_own: bool = True,
    ) -> UserKNN:
        """Return user kNN for the users of ``history``, with the attributes as they are given."""
        from scipy.sparse import diags_array

        users, items = (np.asarray(profiles.sum(axis=axis)) for axis in (1, 0))
        by_user, by_item = (
            np.power(degrees, -0.5, out=np.zeros_like(degrees), where=degrees > 0)
            for degrees in (users, items)
        )
        scaled = diags_array(by_user) @ profiles @ diags_array(by_item)
        directions = scaled.T.tocsr().astype(np.float32)
        return cls(history, profiles, directions, neighbours, weight, are_own)

    def of_users(self, users: Tensor) -> Gains:
        """Return the gains of (B,) users: (n,) rows of ``users``, sorted, (n,) items, (n,)
        float32."""
        from scipy.sparse import csr_array, vstack

        found = [csr_array((0, self.history.num_items), dtype=np.float32)]
        found += [(near @ self.profiles).tocsr() for near in self._nearest_users(users)]
        return largest_gain(self.weight, vstack(found, format="csr"), users.device)

    def summands(self, user: Tensor, item: int) -> Floats:
        """Return what each item in the history of one user (1,) adds to r(user, item), (n,): how
        like it makes the user the neighbours who have the item."""
        row = history_rows(self.history, user)
        near = next(self._nearest_users(user))
        to_users = self.directions[row.indices][:, near.indices]
        links = to_users @ self.profiles[near.indices][:, [item]]
        summands: Floats = row.data * links.toarray().ravel()
        return summands

    def _nearest_users(self, users: Tensor) -> Iterator[Any]:
        """Yield the similarities of (B,) users and their nearest neighbours, by blocks of rows:
        SciPy CSR of V columns."""
        from scipy.sparse import csr_array

        histories = history_rows(self.history, users)
        own = users.cpu().numpy() if self.are_own else np.full(len(users), -1)
        # A user has at most as many similarities as its items have users.
        numbers = np.diff(self.directions.indptr)[histories.indices]
        most = np.diff(np.concatenate([[0], np.cumsum(numbers)])[histories.indptr])
        for first, end in row_blocks(most, _BLOCK, self.directions.shape[1]):
            products = (histories[first:end] @ self.directions).tocsr()
            values, near, counts = largest_others(products, own[first:end], self.neighbours)
            ends = np.concatenate([[0], np.cumsum(counts)])
            yield csr_array((values, near, ends), shape=products.shape)
