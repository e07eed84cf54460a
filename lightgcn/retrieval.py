"""Exact top-K items for many users, in chunks, with seen items masked and ties broken by item index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.interactions import Interactions
from lightgcn.neighbours import NeighbourResidual
from lightgcn.validation import checked_indices

# Scores that one chunk holds: few enough on a CPU to stay in cache from the product to the ranking (16 MiB of float32),
# many enough on other devices to keep them busy (256 MiB).
_CPU_CHUNK, _DEVICE_CHUNK = 1 << 22, 1 << 26
# Where a caller's function makes the scores, which costs more per call.
_CALL_CHUNK = 1 << 24
# Users whose gains from neighbours are formed at a time.
_USERS_AT_A_TIME = 4096


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
        ValueError: if k < 1, k exceeds the number of items, shapes do not fit, a user is out of range, or a score is
            NaN.
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
    if chunk_size is None:
        chunk_size = max(1, (_CPU_CHUNK if item_embeddings.device.type == "cpu" else _DEVICE_CHUNK) // num_items)
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    result = TopK(users.new_empty(len(users), k), item_embeddings.new_empty(len(users), k))
    group_size = _group_size(num_items, k)
    width = -(-num_items // group_size) * group_size
    buffer = item_embeddings.new_empty(min(chunk_size, len(users)), width)
    gains = None if residual is None else _gains(residual, users, chunk_size)
    for first in range(0, len(users), chunk_size):
        chunk = users[first : first + chunk_size]
        scores = buffer[: len(chunk)]
        torch.mm(user_embeddings[chunk], item_embeddings.T, out=scores[:, :num_items])
        scores[:, num_items:] = -torch.inf
        if gains is not None:
            rows, items, values = next(gains)
            scores.view(-1).index_add_(0, rows * width + items, values.to(scores.dtype))
        if seen is not None:
            _mask_(scores, seen, chunk)
        best = _rank(scores, k, group_size)
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


def _gains(residual: NeighbourResidual, users: Tensor, chunk_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what the scores of each chunk of users gain, formed for many chunks at a time."""
    for block in users.split(chunk_size * max(1, _USERS_AT_A_TIME // chunk_size)):
        rows, items, values = residual.of_users(block)
        for first in range(0, len(block), chunk_size):
            begin, end = torch.searchsorted(
                rows, torch.tensor([first, first + chunk_size], device=rows.device)
            ).tolist()
            yield rows[begin:end] - first, items[begin:end], values[begin:end]


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
    return _rank(scores, k, 1)


def _group_size(num_items: int, k: int) -> int:
    """Return how many scores are looked at through their maximum: what makes groups and candidates about as many."""
    size = min(64, math.isqrt(num_items // k))
    return size if size >= 8 else 1


def _rank(scores: Tensor, k: int, group_size: int) -> TopK:
    """Rank rows by way of the maxima of groups, whose number divides the width.

    Each of the k best items is in one of the k groups with the highest maxima: a pass for the maxima and two short
    selections find what a selection over the whole row would.
    """
    if group_size == 1:
        best, tied = _select(scores, k)
    else:
        # Group j is every item that is j modulo the number of groups, so that the pass runs along rows of memory.
        groups = scores.view(len(scores), group_size, -1)
        maxima, chosen = groups.amax(1).topk(k + 1, dim=1)
        tied = (maxima[:, k - 1] == maxima[:, k]) & (maxima[:, k] > -torch.inf)
        chosen = chosen[:, :k]
        candidates = groups.gather(2, chosen.unsqueeze(1).expand(-1, group_size, -1)).flatten(1)
        best, tied_inside = _select(candidates, k)
        tied |= tied_inside
        place, group = best.items // k, chosen.gather(1, best.items % k)
        best = TopK(place * groups.shape[2] + group, best.scores)
    if bool(best.scores[:, 0].isnan().any()):
        raise ValueError("scores contain NaN: the embeddings are not finite")
    # Where equal scores straddle the cut, a selection keeps any of them: these rows are sorted.
    rows = tied.nonzero().flatten()
    if len(rows):
        ranked = scores[rows].sort(dim=1, descending=True, stable=True)
        best.items[rows], best.scores[rows] = ranked.indices[:, :k], ranked.values[:, :k]
    items, by_index = best.items.sort(dim=1)
    values, by_value = best.scores.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    return TopK(items.gather(1, by_value).masked_fill_(values == -torch.inf, -1), values)


def _select(scores: Tensor, k: int) -> tuple[TopK, Tensor]:
    """Return the top k of each row, best first, equals in any order, and the rows where equals straddle the cut."""
    values, items = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] == k:
        return TopK(items, values), torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
    return TopK(items[:, :k].clone(), values[:, :k].clone()), tied


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
