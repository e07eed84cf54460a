"""The canonical form of edges: distinct pairs, sorted by user, then item."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.core.checks import checked_indices
from lightgcn.core.sorting import distinct_integers

# Edges that are compared at a time, so that a file of many edges is checked in little memory.
CHUNK = 1 << 22


def canonical_edges(
    users: Tensor, items: Tensor, num_items: int, weights: Tensor | None, order: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return new tensors of the distinct pairs, sorted.

    The weights of a repeated pair are added; of its orders the smallest is kept.
    """
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
            largest, dtype = weights.max(), weights.dtype
            weights = weights.new_zeros(len(keys)).index_add_(0, place, weights)
            if not bool(weights.isfinite().all()):
                raise ValueError(
                    f"the weights of a repeated pair add up to more than {dtype} holds (the "
                    f"largest weight is {float(largest):g}); scale the weights down"
                )
        if order is not None:
            order = order.new_empty(len(keys)).scatter_reduce_(
                0, place, order, "amin", include_self=False
            )
    users = torch.div(keys, num_items, rounding_mode="floor")
    return users, keys.sub_(users, alpha=num_items), weights, order


def check_canonical(users: Tensor, items: Tensor, num_items: int) -> None:
    """Raise a ValueError if a pair does not come after the one before it."""
    for first in range(0, len(users) - 1, CHUNK):
        block = slice(first, first + CHUNK + 1)
        keys = users[block] * num_items + items[block]
        falls = keys[1:] <= keys[:-1]
        if bool(falls.any()):
            at = first + 1 + int(falls.nonzero()[0])
            raise ValueError(
                f"edges must be sorted and distinct: edge {at} does not come after the one "
                "before it"
            )


def search_lists(indptr: Tensor, items: Tensor, users: Tensor, wanted: Tensor) -> Tensor:
    """Return (B,) bool: whether ``wanted[b]`` is among the sorted items of ``users[b]``.

    A bisection of each list, which needs no memory but for the pairs.

    Args:
        indptr: (num_users + 1,) int64: user u has ``items[indptr[u]:indptr[u + 1]]``.
        items: (E,) int64, at least one.
        users: (B,) int64.
        wanted: (B,) int64 items.
    """
    low, end = indptr[users], indptr[users + 1]
    high, last = end, len(items) - 1
    while bool((low < high).any()):
        middle = (low + high) // 2
        before = (items[middle.clamp(max=last)] < wanted) & (low < high)
        low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
    return (low < end) & (items[low.clamp(max=last)] == wanted)


def new_numbers(name: str, kept: Tensor, count: int, device: torch.device) -> Tensor:
    """Return (count,) int64: the position of each node in ``kept``, -1 for a node that is not.

    Raises:
        ValueError: if a node is out of range or given twice.
    """
    kept = checked_indices(name, kept, count, f"num_{name}").to(device)
    new = torch.full((count,), -1, dtype=torch.int64, device=device)
    new[kept] = torch.arange(len(kept), dtype=torch.int64, device=device)
    if int((new >= 0).sum()) != len(kept):
        repeated = int(torch.bincount(kept).argmax())
        raise ValueError(f"{name} to keep must be distinct, {repeated} is there more than once")
    return new


def looks_homogeneous(users: Tensor, items: Tensor, num_users: int | None) -> bool:
    """Return whether pairs look like the edges of a graph that numbers items after users.

    Each edge then joins a number below ``num_users`` and one from there on, in one direction or in
    both. If ``num_users`` is None, any such bound counts.
    """
    if not len(users):
        return False
    low, high = torch.minimum(users, items), torch.maximum(users, items)
    end = int(low.max()) + 1 if num_users is None else num_users
    if int(low.min()) < 0 or not int(low.max()) < end <= int(high.min()):
        return False
    forward = users < items
    keys = low * (int(high.max()) + 1) + high
    there, back = distinct_integers(keys[forward]), distinct_integers(keys[~forward])
    return not len(there) or not len(back) or torch.equal(there, back)
