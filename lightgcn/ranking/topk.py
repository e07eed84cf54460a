"""Exact top-K items for many users, in chunks, with seen items masked and ties broken by item
index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import as_tensor, check_floating, checked_count, checked_indices
from lightgcn.core.processor import fast_bfloat16
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.nn.link_scores import products
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.candidates import CoarseProducts, TopK, rank_shortlists

# What the scores of one chunk take: on a CPU so little that they stay in cache from the product to
# the ranking, on other devices enough to keep them busy. But of many items as many rows as make a
# product worth its pass over them.
_CPU_CHUNK, _DEVICE_CHUNK, _LEAST_CHUNK = 1 << 24, 1 << 28, 32
# Where a caller's function makes the scores, which costs more per call: scores at a time.
_CALL_CHUNK = 1 << 24
# Items that are scored exactly, by what k asks for, from which on products in bfloat16 are too
# coarse to be of use.
_TOO_MANY = 16
# Users and items from which on products in bfloat16 are worth the cast of all items.
_FEW_USERS, _FEW_ITEMS = 128, 1024
# A gain that is as good as any larger one: which of these is the best, exact scores say.
_LARGEST_GAIN = 1e30
# Users whose gains from neighbours are formed at a time.
_USERS_AT_A_TIME = 4096


class Residual(Protocol):
    """What adds to the scores of some items of each user: a `lightgcn.NeighbourResidual`, or
    whatever is like it."""

    @property
    def history(self) -> Interactions:
        """What users have, over all users and items that scores are of."""

    def of_users(self, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the scores of (B,) users gain: (n,) places in ``users``, sorted, (n,) items,
        (n,) float32.

        No pair is there twice, and no gain is negative.
        """


def top_k(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    k: int,
    *,
    seen: Interactions | None = None,
    users: Tensor | Sequence[int] | None = None,
    residual: Residual | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest dot product for each user; equal scores go by item index.
    No gradients.

    Args:
        user_embeddings: (num_users, d).
        item_embeddings: (num_items, d).
        k: how many, at most the number of items.
        seen: interactions whose items are left out for their user.
        users: (B,) integer rows of ``user_embeddings`` to answer for; None for all.
        residual: what is added to the dot products, such as what the neighbours of a user's items
            do.
        chunk_size: users at a time; None for what keeps a chunk's scores in cache.

    Returns:
        A `TopK` of B rows.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, shapes do not fit, a user is out of
            range, or an embedding is not finite.
    """
    check_floating(2, user_embeddings=user_embeddings, item_embeddings=item_embeddings)
    user_embeddings, item_embeddings = user_embeddings.detach(), item_embeddings.detach()
    num_items = len(item_embeddings)
    check_k(k, num_items)
    if user_embeddings.shape[1:] != item_embeddings.shape[1:]:
        shapes = f"{tuple(user_embeddings.shape)} and {tuple(item_embeddings.shape)}"
        raise ValueError(f"expected (num_users, d) and (num_items, d) embeddings, got {shapes}")
    seen = None if seen is None else checked_interactions("seen", seen)
    if seen is not None and (seen.num_users, seen.num_items) != (len(user_embeddings), num_items):
        raise ValueError(
            f"seen is {seen}, the embeddings are of {len(user_embeddings)} users and {num_items} "
            "items"
        )
    check_residual(residual, len(user_embeddings), num_items)
    if users is None:
        users = torch.arange(len(user_embeddings), dtype=torch.int64, device=user_embeddings.device)
    else:
        users = checked_indices("users", users, len(user_embeddings), "num_users").to(
            user_embeddings.device
        )
    dtype = _coarse_dtype(item_embeddings, len(users))
    if chunk_size is None:
        room = _CPU_CHUNK if item_embeddings.device.type == "cpu" else _DEVICE_CHUNK
        chunk_size = max(_LEAST_CHUNK, room // (dtype or torch.float32).itemsize // num_items)
    else:
        chunk_size = checked_count("chunk_size", chunk_size, 1)
    result = TopK(users.new_empty(len(users), k), item_embeddings.new_empty(len(users), k))
    coarse = _Coarse(user_embeddings, item_embeddings, k, seen, min(chunk_size, len(users)), dtype)
    gains = None if residual is None else _Gains(residual, users, chunk_size, coarse.width)
    for first in range(0, len(users), chunk_size):
        chunk = users[first : first + chunk_size]
        if gains is not None:
            gains.go_on()
        best = coarse.rank(
            chunk, gains, None if coarse.in_own_dtype else _TOO_MANY * k * len(chunk)
        )
        if best is None:
            # Where an item is much longer than most, what bfloat16 can tell of the others is too
            # little.
            coarse = _Coarse(
                user_embeddings, item_embeddings, k, seen, min(chunk_size, len(users)), None
            )
            best = coarse.rank(chunk, gains)
            assert best is not None
        result.items[first : first + chunk_size], result.scores[first : first + chunk_size] = best
    return result


class _Coarse:
    """The scores of all items for a chunk of users, in a buffer: coarse as they are, and exact
    where it matters."""

    def __init__(
        self,
        user_embeddings: Tensor,
        item_embeddings: Tensor,
        k: int,
        seen: Interactions | None,
        rows: int,
        dtype: torch.dtype | None,
    ) -> None:
        self.users, self.items, self.k, self.seen = user_embeddings, item_embeddings, k, seen
        own = item_embeddings.dtype
        if item_embeddings.device.type == "cpu":
            own = torch.promote_types(own, torch.float32)
        self.in_own_dtype = dtype is None or dtype == own
        num_items = len(item_embeddings)
        self.group_size = _group_size(num_items, k)
        self.width = -(-num_items // self.group_size) * self.group_size
        self.products = CoarseProducts(item_embeddings, dtype or own)
        self.buffer = item_embeddings.new_empty(rows, self.width, dtype=dtype or own)

    def rank(self, chunk: Tensor, gains: _Gains | None, most: int | None = None) -> TopK | None:
        """Return the best items of a chunk of users; None where more than ``most`` would have to be
        scored exactly."""
        scores, num_items = self.buffer[: len(chunk)], len(self.items)
        scale, error = self.products.write(self.users[chunk], scores[:, :num_items])
        scores[:, num_items:] = -torch.inf
        if gains is not None:
            gains.add_to(scores, scale)
            error += self.products.error_of_adding
        if self.seen is not None:
            _mask_(scores, self.seen, chunk)

        def exact(rows: Tensor, items: Tensor) -> Tensor:
            found = products(self.users, self.items, chunk[rows], items)
            return found if gains is None else found + gains.of(rows, items).to(found.dtype)

        return rank_shortlists(
            scores, self.k, exact, group_size=self.group_size, error=error, finite=True, most=most
        )


def top_k_scores(
    scores: Callable[[Tensor], Tensor],
    users: Tensor,
    num_items: int,
    k: int,
    *,
    seen: Interactions | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest score for each user, as `top_k` does, for scores that no
    embeddings make.

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
        ValueError: if k < 1, k exceeds the number of items, ``seen`` is over another number of
            items, or scores are of another shape or NaN.
    """
    check_k(k, num_items)
    check_scores(scores)
    seen = None if seen is None else checked_interactions("seen", seen)
    if seen is not None and seen.num_items != num_items:
        raise ValueError(f"seen is {seen}, the scores are of {num_items} items")
    if chunk_size is None:
        chunk_size = max(1, _CALL_CHUNK // num_items)
    else:
        chunk_size = checked_count("chunk_size", chunk_size, 1)
    best = (
        [TopK(users.new_empty(0, k), torch.empty(0, k, dtype=torch.float32, device=users.device))]
        if not len(users)
        else []
    )
    for chunk in users.split(chunk_size):
        rows = as_tensor("scores", scores(chunk)).detach()
        if rows.shape != (len(chunk), num_items):
            raise ValueError(
                f"scores must have shape ({len(chunk)}, {num_items}) here, got {tuple(rows.shape)}"
            )
        if seen is not None:
            # A copy: the scores may be rows of a table that the caller keeps.
            rows = _mask_(rows.clone(memory_format=torch.contiguous_format), seen, chunk)
        best.append(rank_rows(rows, k))
    return TopK(*(torch.cat(parts) for parts in zip(*best, strict=True)))


def check_scores(scores: object) -> None:
    """Raise a TypeError unless ``scores`` is a function."""
    if not callable(scores) or isinstance(scores, LightGCN):
        hint = "; pass its .scores" if hasattr(scores, "scores") else ""
        hint = "; evaluate(model, links) takes a model" if callable(scores) else hint
        raise TypeError(f"scores must be a function of users, got {type(scores).__name__}{hint}")


def check_residual(residual: Any, num_users: int, num_items: int) -> None:
    """Raise an error unless ``residual`` is None, or adds to scores of so many users and items."""
    if residual is None:
        return
    if not hasattr(residual, "of_users"):
        raise TypeError(f"residual must be an ItemKNN or None, got {type(residual).__name__}")
    history = residual.history
    if (history.num_users, history.num_items) != (num_users, num_items):
        raise ValueError(
            f"the residual is of {history}, the embeddings are of {num_users} users and "
            f"{num_items} items"
        )


class _Gains:
    """What the scores of chunk after chunk of users gain from neighbours, formed for many chunks at
    a time."""

    def __init__(self, residual: Residual, users: Tensor, chunk_size: int, width: int) -> None:
        self._chunks = self._formed(residual, users, chunk_size)
        self._dense = torch.zeros(
            min(chunk_size, len(users)), width, dtype=torch.float32, device=users.device
        )
        self._rows, self._places = users.new_empty(0), users.new_empty(0)
        self._values = self._dense.new_empty(0)

    def go_on(self) -> None:
        """Go on to the next chunk."""
        self._rows, items, self._values = next(self._chunks)
        self._dense.view(-1).index_fill_(0, self._places, 0.0)
        self._places = self._rows * self._dense.shape[1] + items
        self._dense.view(-1)[self._places] = self._values

    def add_to(self, scores: Tensor, scale: Tensor) -> None:
        """Add what the chunk gains, divided by (B,) scales, to its scores."""
        gains = (self._values / scale[self._rows]).clamp_(max=_LARGEST_GAIN)
        scores.view(-1).index_add_(0, self._places, gains.to(scores.dtype))

    def of(self, rows: Tensor, items: Tensor) -> Tensor:
        """Return the gains of (n,) rows of the chunk and (n,) items."""
        return self._dense[rows, items]

    @staticmethod
    def _formed(
        residual: Residual, users: Tensor, chunk_size: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for block in users.split(chunk_size * max(1, _USERS_AT_A_TIME // chunk_size)):
            rows, items, values = residual.of_users(block)
            firsts = torch.arange(
                0, len(block) + chunk_size, chunk_size, dtype=torch.int64, device=rows.device
            )
            ends = torch.searchsorted(rows, firsts).tolist()
            for chunk, (begin, end) in enumerate(pairwise(ends)):
                yield rows[begin:end] - chunk * chunk_size, items[begin:end], values[begin:end]


def _coarse_dtype(items: Tensor, num_users: int) -> torch.dtype | None:
    """Return bfloat16 where products are fastest in it, None where they are in the items' own
    dtype."""
    fast = items.device.type == "cpu" and fast_bfloat16()
    return torch.bfloat16 if fast and num_users >= _FEW_USERS and len(items) >= _FEW_ITEMS else None


def _mask_(scores: Tensor, seen: Interactions, users: Tensor) -> Tensor:
    """Overwrite the scores of each row's user's items with -inf; rows may be longer than there are
    items."""
    rows, items = seen.edges_of(users)
    scores.view(-1).index_fill_(0, rows * scores.shape[1] + items, -torch.inf)
    return scores


def rank_rows(scores: Tensor, k: int) -> TopK:
    """Return the top k of each row of (B, num_items) scores; equal scores go by index, -inf is no
    item.

    Raises:
        ValueError: if a score is NaN.
    """
    group_size = _group_size(scores.shape[1], k)
    padded = F.pad(scores, (0, -scores.shape[1] % group_size), value=-torch.inf).contiguous()
    best = rank_shortlists(
        padded, k, lambda rows, items: scores[rows, items], group_size=group_size
    )
    assert best is not None
    return best


def _group_size(num_items: int, k: int) -> int:
    """Return how many scores are looked at through their maximum: groups are about twice as many as
    what is in k."""
    size = min(64, math.isqrt(num_items // (2 * k)))
    return size if size >= 4 else 1


def check_k(k: int, num_items: int) -> None:
    """Raise a ValueError unless 1 <= k <= num_items."""
    checked_count("k", k, 1)
    if k > num_items:
        raise ValueError(f"k is {k}, but there are only {num_items} items")
