"""Metrics of all lists together: what is recommended, not whether it is right.

Each is a function of how often the items are recommended:

    counts      (num_items,) integer: lists that hold the item
    item_users  (num_items,) integer: users who have the item already
    num_users   number of users in that graph
"""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(counts: Tensor, item_users: Tensor, num_users: int) -> float:
    """Return the share of the items that at least one list holds."""
    return float((counts > 0).double().mean())


def gini(counts: Tensor, item_users: Tensor, num_users: int) -> float:
    """Return the Gini index of ``counts`` over all items: 0 if all are recommended as often, near
    1 if few make up all lists."""
    n, ordered = len(counts), counts.double().sort().values
    places = torch.arange(1, n + 1, dtype=torch.float64, device=counts.device)
    return float((2 * places - n - 1) @ ordered / (n * ordered.sum()))


def novelty(counts: Tensor, item_users: Tensor, num_users: int) -> float:
    """Return the mean self-information of the recommended items in bits, −log2 of the share of
    users who have the item (Zhou et al., 2010). An item without users counts as one with one."""
    bits = -(item_users.clamp(min=1).double() / num_users).log2()
    return _mean(counts, bits)


def popularity(counts: Tensor, item_users: Tensor, num_users: int) -> float:
    """Return the mean number of users of the recommended items: average recommendation popularity
    (ARP; Yin et al., 2012)."""
    return _mean(counts, item_users.double())


def _mean(counts: Tensor, values: Tensor) -> float:
    return float(counts.double() @ values / counts.sum())


LIST_METRICS = {
    "coverage": coverage,
    "gini": gini,
    "novelty": novelty,
    "popularity": popularity,
}
# Those that compare with what users have already.
OF_KNOWN_ITEMS = ("novelty", "popularity")


def counts_of(ranked_items: Tensor, num_items: int) -> Tensor:
    """Return how many lists hold each item, (num_items,) int64, of (B, k) items, -1 for none."""
    flat = ranked_items.reshape(-1)
    return torch.bincount(flat[flat >= 0], minlength=num_items)
