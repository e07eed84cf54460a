"""Metrics of groups of users, by the length of their history, and of items, by popularity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor, checked_count
from lightgcn.ranking.per_user import PerUser


@dataclass(frozen=True)
class Group:
    """The metrics of one band.

    Attributes:
        low: least number in the band: of a user's known items, or of an item's known users.
        high: largest number in it.
        num_users: users with something to find in it.
        num_edges: edges to find in it.
        metrics: means over these users.

    Example:
        >>> Group(3, 17, num_users=10, num_edges=25, metrics={"recall@20": 0.2}).label
        '3-17'
    """

    low: int
    high: int
    num_users: int
    num_edges: int
    metrics: dict[str, float]

    @property
    def label(self) -> str:
        """The band as text, such as "3-17"."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"


def history_groups(kept: PerUser, bands: int | Sequence[int]) -> list[Group]:
    """Return the mean of every metric by band of `PerUser.num_seen`."""
    names, relevant, found = list(kept.values), kept.num_relevant, []
    table = kept.table(names).double()
    for inside in _bands(kept.num_seen, bands):
        means = dict(zip(names, table[inside].mean(0).tolist(), strict=True))
        found.append(_group(kept.num_seen[inside], int(inside.sum()), relevant[inside], means))
    return found


def popularity_groups(kept: PerUser, bands: int | Sequence[int], ks: Sequence[int]) -> list[Group]:
    """Return recall@k within each band of the known users of the item to find: the share of a
    user's edges of the band that is among the first k, averaged over the users who have any."""
    users = kept.relevant.users
    held_by, found = kept.item_users[kept.relevant.items], []
    for inside in _bands(held_by, bands):
        counts = torch.bincount(users[inside], minlength=kept.relevant.num_users)
        able = counts > 0
        recalls = {}
        for k in ks:
            hit = inside & (kept.ranks > 0) & (kept.ranks <= k)
            hits = torch.bincount(users[hit], minlength=kept.relevant.num_users)
            recalls[f"recall@{k}"] = float((hits[able].double() / counts[able]).mean())
        found.append(_group(held_by[inside], int(able.sum()), counts, recalls))
    return found


def _group(numbers: Tensor, num_users: int, edges: Tensor, metrics: dict[str, float]) -> Group:
    return Group(int(numbers.min()), int(numbers.max()), num_users, int(edges.sum()), metrics)


def _bands(numbers: Tensor, bands: int | Sequence[int]) -> list[Tensor]:
    """Return the masks of the bands that are not empty, in ascending order.

    Raises:
        ValueError: if ``bands`` is neither a positive integer nor ascending lower ends.
    """
    if isinstance(bands, Sequence | np.ndarray | Tensor) and not isinstance(bands, str):
        starts = [checked_count("bands", start) for start in as_tensor("bands", bands).tolist()]
        if not starts or starts != sorted(set(starts)):
            raise ValueError(
                f"bands must be ascending lower ends such as [0, 5, 20], got {bands!r}"
            )
        edges = torch.tensor(starts[1:], dtype=numbers.dtype)
        outside = numbers < starts[0]
    else:
        count = checked_count("bands", bands, 1)
        # Where equal numbers lie on both sides of a quantile, all of them go above it.
        ordered = numbers.sort().values
        places = torch.arange(1, count, dtype=torch.int64) * len(numbers) // count
        edges = ordered[places].unique()
        outside = torch.zeros_like(numbers, dtype=torch.bool)
    of_band = torch.searchsorted(edges, numbers, right=True).masked_fill(outside, -1)
    masks = [of_band == band for band in range(len(edges) + 1)]
    return [mask for mask in masks if bool(mask.any())]
