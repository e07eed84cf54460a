"""Exact top-K items for many users, in chunks, with seen items masked and ties broken by item index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightgcn.interactions import Interactions
from lightgcn.losses import fast_bfloat16
from lightgcn.neighbours import NeighbourResidual
from lightgcn.scoring import products
from lightgcn.shortlist import CoarseProducts, TopK, rank_shortlists
from lightgcn.validation import checked_indices

# What the scores of one chunk take: on a CPU so little that they stay in cache from the product to the ranking, on
# other devices enough to keep them busy. But of many items as many rows as make a product worth its pass over them.
_CPU_CHUNK, _DEVICE_CHUNK, _ROWS = 1 << 24, 1 << 28, 32
# Where a caller's function makes the scores, which costs more per call: scores at a time.
_CALL_CHUNK = 1 << 24
# Users and items from which on products in bfloat16 are worth the cast of all items.
_FEW_USERS, _FEW_ITEMS = 128, 1024
# Users whose gains from neighbours are formed at a time.
_USERS_AT_A_TIME = 4096


def top_k(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    k: int,
    *,
    seen: Interactions | None = None,
    users: Tensor | Sequence[int] | None = None,
    residual: NeighbourResidual | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest dot product for each user; equal scores go by item index. No gradients.

    Args:
        user_embeddings: (num_users, d).
        item_embeddings: (num_items, d).
        k: how many, at most the number of items.
        seen: interactions whose items are left out for their user.
        users: (B,) integer rows of ``user_embeddings`` to answer for; None for all.
        residual: what the neighbours of a user's items add to the dot products.
        chunk_size: users at a time; None for what keeps a chunk's scores in cache.

    Returns:
        A `TopK` of B rows.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, shapes do not fit, a user is out of range, or embeddings or
            their products are not finite.
    """
    user_embeddings, item_embeddings = user_embeddings.detach(), item_embeddings.detach()
    num_items = len(item_embeddings)
    check_k(k, num_items)
    if user_embeddings.ndim != 2 or user_embeddings.shape[1:] != item_embeddings.shape[1:]:
        shapes = f"{tuple(user_embeddings.shape)} and {tuple(item_embeddings.shape)}"
        raise ValueError(f"expected (num_users, d) and (num_items, d) embeddings, got {shapes}")
    if seen is not None and (seen.num_users, seen.num_items) != (len(user_embeddings), num_items):
        raise ValueError(f"seen is {seen}, the embeddings are of {len(user_embeddings)} users and {num_items} items")
    if residual is not None:
        history = residual.history
        if (history.num_users, history.num_items) != (len(user_embeddings), num_items):
            raise ValueError(f"the residual is of {history}, the embeddings are of {len(user_embeddings)} users and "
                             f"{num_items} items")  # fmt: skip
    if users is None:
        users = torch.arange(len(user_embeddings), device=user_embeddings.device)
    else:
        users = checked_indices("users", users, len(user_embeddings), "num_users").to(user_embeddings.device)
    dtype = _coarse_dtype(item_embeddings, len(users))
    if chunk_size is None:
        room = (_CPU_CHUNK if item_embeddings.device.type == "cpu" else _DEVICE_CHUNK) // dtype.itemsize
        chunk_size = max(_ROWS, room // num_items)
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    result = TopK(users.new_empty(len(users), k), item_embeddings.new_empty(len(users), k))
    group_size = _group_size(num_items, k)
    width = -(-num_items // group_size) * group_size
    coarse = CoarseProducts(item_embeddings, dtype)
    buffer = item_embeddings.new_empty(min(chunk_size, len(users)), width, dtype=dtype)
    gains = None if residual is None else _Gains(residual, users, chunk_size, width)
    for first in range(0, len(users), chunk_size):
        chunk = users[first : first + chunk_size]
        scores = buffer[: len(chunk)]
        scale, error = coarse.write(user_embeddings[chunk], scores[:, :num_items])
        scores[:, num_items:] = -torch.inf
        if gains is not None:
            gains.add_to(scores, scale)
            error += coarse.error_of_adding
        if seen is not None:
            _mask_(scores, seen, chunk)

        def exact(rows: Tensor, items: Tensor, chunk: Tensor = chunk) -> Tensor:
            found = products(user_embeddings, item_embeddings, chunk[rows], items)
            return found if gains is None else found + gains.of(rows, items).to(found.dtype)

        best = rank_shortlists(scores, k, exact, group_size=group_size, error=error, finite=True)
        result.items[first : first + chunk_size], result.scores[first : first + chunk_size] = best
    return result


def top_k_scores(
    scores: Callable[[Tensor], Tensor],
    users: Tensor,
    num_items: int,
    k: int,
    *,
    seen: Interactions | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest score for each user, as `top_k` does, for scores that no embeddings make.

    Args:
        scores: gives (n, num_items) floating scores for (n,) users; -inf is no item.
        users: (B,) int64 users to answer for, each in the range that ``scores`` takes.
        num_items: number of items.
        k: how many, at most the number of items.
        seen: interactions whose items are left out for their user.
        chunk_size: users at a time; None for what keeps a chunk's scores within some ten million.

    Returns:
        A `TopK` of B rows on the device of ``users``.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, ``seen`` is over another number of items, or scores are
            of another shape or NaN.
    """
    check_k(k, num_items)
    if seen is not None and seen.num_items != num_items:
        raise ValueError(f"seen is {seen}, the scores are of {num_items} items")
    if chunk_size is None:
        chunk_size = max(1, _CALL_CHUNK // num_items)
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    best = [TopK(users.new_empty(0, k), torch.empty(0, k, device=users.device))] if not len(users) else []
    for chunk in users.split(chunk_size):
        rows = scores(chunk).detach()
        if rows.shape != (len(chunk), num_items):
            raise ValueError(f"scores must have shape ({len(chunk)}, {num_items}) here, got {tuple(rows.shape)}")
        if seen is not None:
            # A copy: the scores may be rows of a table that the caller keeps.
            rows = _mask_(rows.clone(memory_format=torch.contiguous_format), seen, chunk)
        best.append(rank_rows(rows, k))
    return TopK(*(torch.cat(parts) for parts in zip(*best, strict=True)))


class _Gains:
    """What the scores of chunk after chunk of users gain from neighbours, formed for many chunks at a time."""

    def __init__(self, residual: NeighbourResidual, users: Tensor, chunk_size: int, width: int) -> None:
        self._chunks = self._formed(residual, users, chunk_size)
        self._dense = torch.zeros(min(chunk_size, len(users)), width, device=users.device)
        self._places = users.new_empty(0)

    def add_to(self, scores: Tensor, scale: Tensor) -> None:
        """Go on to the next chunk, and add what it gains, divided by (B,) scales, to its scores."""
        rows, items, values = next(self._chunks)
        self._dense.view(-1).index_fill_(0, self._places, 0.0)
        self._places = rows * self._dense.shape[1] + items
        self._dense.view(-1)[self._places] = values
        scores.view(-1).index_add_(0, self._places, (values / scale[rows]).to(scores.dtype))

    def of(self, rows: Tensor, items: Tensor) -> Tensor:
        """Return the gains of (n,) rows of the chunk and (n,) items."""
        return self._dense[rows, items]

    @staticmethod
    def _formed(residual: NeighbourResidual, users: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for block in users.split(chunk_size * max(1, _USERS_AT_A_TIME // chunk_size)):
            rows, items, values = residual.of_users(block)
            firsts = torch.arange(0, len(block) + chunk_size, chunk_size, device=rows.device)
            ends = torch.searchsorted(rows, firsts).tolist()
            for chunk, (begin, end) in enumerate(pairwise(ends)):
                yield rows[begin:end] - chunk * chunk_size, items[begin:end], values[begin:end]


def _coarse_dtype(items: Tensor, num_users: int) -> torch.dtype:
    """Return the dtype in which products are fastest."""
    if items.device.type != "cpu":
        return items.dtype
    if fast_bfloat16() and num_users >= _FEW_USERS and len(items) >= _FEW_ITEMS:
        return torch.bfloat16
    return torch.promote_types(items.dtype, torch.float32)


def _mask_(scores: Tensor, seen: Interactions, users: Tensor) -> Tensor:
    """Overwrite the scores of each row's user's items with -inf; rows may be longer than there are items."""
    rows, items = edges_of(seen, users)
    scores.view(-1).index_fill_(0, rows * scores.shape[1] + items, -torch.inf)
    return scores


def rank_rows(scores: Tensor, k: int) -> TopK:
    """Return the top k of each row of (B, num_items) scores; equal scores go by index, -inf is no item.

    Raises:
        ValueError: if a score is NaN.
    """
    scores = scores.contiguous()
    return rank_shortlists(scores, k, lambda rows, items: scores[rows, items])


def _group_size(num_items: int, k: int) -> int:
    """Return how many scores are looked at through their maximum: groups are about twice as many as what is in k."""
    size = min(64, math.isqrt(num_items // (2 * k)))
    return size if size >= 4 else 1


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
