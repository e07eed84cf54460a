"""Exact top-K items for many users, in chunks, with seen items masked and ties broken by item index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.interactions import Interactions
from lightgcn.validation import checked_indices

# Scores that one chunk may hold: 16 M float32, 64 MiB.
_CHUNK_SCORES = 1 << 24


class TopK(NamedTuple):
    """The best items of each user, best first.

    ``items`` is (B, k) int64 and ``scores`` (B, k) floating. A user with fewer than k items left has -1 and -inf in the
    places that remain.
    """

    items: Tensor
    scores: Tensor


def top_k(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    k: int,
    *,
    seen: Interactions | None = None,
    users: Tensor | Sequence[int] | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest dot product for each user; equal scores go by item index.

    Args:
        user_embeddings: (num_users, d).
        item_embeddings: (num_items, d).
        k: how many, at most the number of items.
        seen: interactions whose items are left out for their user.
        users: (B,) integer rows of ``user_embeddings`` to answer for; None for all.
        chunk_size: users at a time; None for what keeps a chunk's scores in 64 MiB.

    Returns:
        A `TopK` of B rows.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, shapes do not fit, a user is out of range, or a score is
            NaN.
    """
    num_items = len(item_embeddings)
    check_k(k, num_items)
    if user_embeddings.ndim != 2 or user_embeddings.shape[1:] != item_embeddings.shape[1:]:
        shapes = f"{tuple(user_embeddings.shape)} and {tuple(item_embeddings.shape)}"
        raise ValueError(f"expected (num_users, d) and (num_items, d) embeddings, got {shapes}")
    if seen is not None and (seen.num_users, seen.num_items) != (len(user_embeddings), num_items):
        raise ValueError(f"seen is {seen}, the embeddings are of {len(user_embeddings)} users and {num_items} items")
    if users is None:
        users = torch.arange(len(user_embeddings), device=user_embeddings.device)
    else:
        users = checked_indices("users", users, len(user_embeddings), "num_users").to(user_embeddings.device)
    if chunk_size is None:
        chunk_size = max(1, _CHUNK_SCORES // num_items)
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    chunks = []
    for chunk in users.split(chunk_size):
        scores = user_embeddings[chunk] @ item_embeddings.T
        if seen is not None:
            rows, items = edges_of(seen, chunk)
            scores[rows, items] = -torch.inf
        chunks.append(rank_rows(scores, k))
    if not chunks:
        empty = users.new_zeros((0, k))
        return TopK(empty, empty.to(item_embeddings.dtype))
    return TopK(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def rank_rows(scores: Tensor, k: int) -> TopK:
    """Return the top k of each row of (B, num_items) scores; equal scores go by index, -inf is no item.

    Raises:
        ValueError: if a score is NaN.
    """
    # One place more than asked for shows in which rows a tie straddles the cut, where `topk` may keep any of the
    # equals.
    wide = min(k + 1, scores.shape[1])
    values, items = scores.topk(wide, dim=1)
    if bool(values[:, 0].isnan().any()):
        raise ValueError("scores contain NaN: the embeddings are not finite")
    if wide > k:
        straddled = (values[:, k - 1] == values[:, k]).nonzero().flatten()
        values, items = values[:, :k], items[:, :k].clone()
        if len(straddled):
            ranked = scores[straddled].sort(dim=1, descending=True, stable=True).indices
            items[straddled] = ranked[:, :k]
    items, by_index = items.sort(dim=1)
    values, by_value = values.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, by_value).masked_fill_(values == -torch.inf, -1)
    return TopK(items, values)


def edges_of(interactions: Interactions, users: Tensor) -> tuple[Tensor, Tensor]:
    """Return all edges of a list of users: (n,) int64 positions in the list, and (n,) int64 items."""
    degrees = interactions.user_degrees[users]
    rows = torch.repeat_interleave(degrees)
    first = interactions.indptr[users] - (degrees.cumsum(0) - degrees)
    return rows, interactions.items[first[rows] + torch.arange(len(rows), device=rows.device)]


def check_k(k: int, num_items: int) -> None:
    """Raise a ValueError unless 1 <= k <= num_items."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")
    if k > num_items:
        raise ValueError(f"k is {k}, but there are only {num_items} items")
