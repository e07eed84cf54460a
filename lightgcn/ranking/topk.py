"""Exact top-k items of many users, in chunks; equal scores go by item index.

All scores of a chunk are formed once, in bfloat16 if the CPU multiplies fast in it. From them some
2 k candidates of each user are taken by way of the maxima of groups of items, and these are scored
exactly. An item that is no candidate scores at most the least candidate's score plus a bound on
the rounding error; users for whom that does not rule out all other items are ranked again among
all items that it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.core.checks import (
    as_tensor,
    check_floating,
    check_same_device,
    checked_count,
    checked_indices,
    checked_integers,
)
from lightgcn.core.processor import fast_bfloat16
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.nn.link_scores import products
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.candidates import Columns, Items, candidate_mask
from lightgcn.ranking.coarse_scores import NOT_FINITE, CoarseScores, largest_norm
from lightgcn.ranking.residual import Residual, check_residual

# Bytes of a chunk's scores: on a CPU they stay in cache, other devices need more to be busy.
_CPU_BYTES, _DEVICE_BYTES = 1 << 24, 1 << 28
# Users from which on bfloat16 pays for the cast of all items.
_FEW_USERS = 128
# Numbers in two cache lines.
_ALIGNED = 32
_ALL_ITEMS = Columns(None, None)


class TopK(NamedTuple):
    """The best items of each user, best first: ``items`` (B, k) int64, ``scores`` (B, k),
    float32 at least.

    A user with fewer than k items left has -1 and -inf in the remaining places.

    Example:
        >>> best = top_k(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]), 1)
        >>> best.items, best.scores
        (tensor([[1]]), tensor([[6.]]))
    """

    items: Tensor
    scores: Tensor

    def cpu(self) -> TopK:
        """Return the lists on the CPU, for which the host waits once."""
        if self.items.device.type == "cpu":
            return self
        # Indices below 2**53 are exact in float64.
        items, scores = torch.stack([self.items.double(), self.scores.double()]).cpu()
        return TopK(items.long(), scores.to(self.scores.dtype))


def top_k(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    k: int,
    *,
    seen: Interactions | None = None,
    users: Tensor | Sequence[int] | None = None,
    residual: Residual | None = None,
    only: Items | None = None,
    exclude: Items | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest dot product for each user, without gradients.

    Args:
        user_embeddings: (num_users, d).
        item_embeddings: (num_items, d).
        k: length of the lists, at most the number of items.
        seen: interactions whose items are left out for their user, on any device.
        users: (B,) integer rows of ``user_embeddings``; None for all.
        residual: a term added to the dot products.
        only: the items to choose from: a (num_items,) bool mask, or (n,) integers; None for all.
            If they are few, the others are not scored.
        exclude: items to leave out for all users, in either form.
        chunk_size: users at a time; None for as many as keep the scores in cache.

    Returns:
        A `TopK` of B rows.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, shapes do not fit, a user or an item is
            out of range, or an embedding is not finite.

    Example:
        >>> import torch
        >>> from lightgcn import top_k
        >>> users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> top_k(users, items, 2).items
        tensor([[1, 0]])
        >>> top_k(users, items, 1, exclude=[1]).items
        tensor([[0]])
    """
    check_floating(2, user_embeddings=user_embeddings, item_embeddings=item_embeddings)
    left, right = user_embeddings.detach(), item_embeddings.detach()
    check_k(k, len(right))
    if left.shape[1:] != right.shape[1:]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise ValueError(f"expected (num_users, d) and (num_items, d) embeddings, got {shapes}")
    check_same_device(user_embeddings=left, item_embeddings=right)
    seen = None if seen is None else checked_interactions("seen", seen)
    if seen is not None and (seen.num_users, seen.num_items) != (len(left), len(right)):
        raise ValueError(
            f"seen is {seen}, the embeddings are of {len(left)} users and {len(right)} items"
        )
    check_residual(residual, len(left), len(right))
    if users is None:
        users = torch.arange(len(left), dtype=torch.int64, device="cpu")
    else:
        users = checked_indices("users", users, len(left), "num_users")
    columns = Columns.of(candidate_mask(len(right), only, exclude), right.device)
    return _top_k(left, right, k, users, seen, residual, columns, chunk_size)


def _top_k(
    left: Tensor,
    right: Tensor,
    k: int,
    users: Tensor,
    seen: Interactions | None,
    residual: Residual | None,
    columns: Columns,
    chunk_size: int | None,
) -> TopK:
    """Rank the items of some columns; the arguments are checked."""
    right = right if columns.kept is None else right[columns.kept]
    # How many edges a chunk's users have is read on the CPU, once for all chunks.
    on_host, users = users.cpu(), users.to(right.device)
    wide = torch.promote_types(right.dtype, torch.float32)
    result = TopK(
        users.new_full((len(users), k), -1), right.new_full((len(users), k), -torch.inf, dtype=wide)
    )
    if not len(right):
        return result
    count, largest = min(k, len(right)), largest_norm(right)
    cpu, fast = right.device.type == "cpu", len(users) >= _FEW_USERS and fast_bfloat16()
    # Gains rounded to bfloat16 would leave too many candidates.
    dtype = torch.bfloat16 if cpu and fast and residual is None and 1e-30 < largest < 1e30 else wide
    size = _chunk_size(chunk_size, (_CPU_BYTES if cpu else _DEVICE_BYTES) // dtype.itemsize, right)
    coarse = CoarseScores(right, dtype, largest)
    # Rows that begin at a cache line: products take half the time.
    shape = min(size, len(users)), -(-len(right) // _ALIGNED) * _ALIGNED
    buffer = right.new_empty(shape, dtype=dtype)
    gains = None if residual is None else right.new_zeros(shape, dtype=torch.float32)
    for first in range(0, len(users), size):
        chunk = users[first : first + size]
        scores = buffer[: len(chunk)]
        error = coarse.write(left[chunk], scores[:, : len(right)])
        if residual is not None and gains is not None:
            rows, items, values = residual.of_users(chunk)
            found, rows, values = columns.find(items, rows, values)
            places = rows * scores.shape[1] + found
            gains.view(-1)[places] = values
            scores.view(-1).index_add_(0, places, values.to(scores.dtype))
        if seen is not None:
            total = int(seen.host_degrees[on_host[first : first + size]].sum())
            _mask_(scores, seen, chunk, columns, total)
        if columns.masked is not None:
            scores.index_fill_(1, columns.masked, -torch.inf)

        def exact(rows: Tensor, items: Tensor, chunk: Tensor = chunk) -> Tensor:
            found = products(left, right, chunk[rows], items)
            return found if gains is None else found + gains[rows, items].to(found.dtype)

        best, num_again = _rank(scores[:, : len(right)], count, exact, error, coarse.finite)
        result.items[first : first + size, :count] = columns.items(best.items)
        result.scores[first : first + size, :count] = best.scores
        if gains is not None:
            gains.view(-1).index_fill_(0, places, 0.0)
        if num_again > len(chunk) // 4 and coarse.dtype != wide:
            # If few items are much longer than the others, bfloat16 cannot tell these apart.
            coarse, buffer = CoarseScores(right, wide, largest), right.new_empty(shape, dtype=wide)
    return result


def top_k_scores(
    scores: Callable[[Tensor], Tensor],
    users: Tensor | Sequence[int],
    num_items: int,
    k: int,
    *,
    seen: Interactions | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """Return the k items with the highest score for each user, as `top_k`, for any function.

    Args:
        scores: returns (n, num_items) floating scores of (n,) users; -inf excludes an item.
        users: (B,) integers, each in the range that ``scores`` accepts.
        num_items: number of items.
        k: length of the lists, at most the number of items.
        seen: interactions whose items are left out for their user.
        chunk_size: users at a time.

    Raises:
        ValueError: if k < 1, k exceeds the number of items, ``seen`` has another number of items
            or lacks a user, or scores are of another shape or NaN.

    Example:
        >>> import torch
        >>> table = torch.tensor([[0.1, 0.3, 0.2], [0.5, 0.4, 0.6]])
        >>> top_k_scores(lambda users: table[users], torch.tensor([0, 1]), 3, 2).items
        tensor([[1, 2],
                [2, 0]])
    """
    check_k(k, num_items)
    check_scores(scores)
    seen = None if seen is None else checked_interactions("seen", seen)
    if seen is not None and seen.num_items != num_items:
        raise ValueError(f"seen is {seen}, the scores are of {num_items} items")
    users = checked_integers("users", users)
    if seen is not None:
        checked_indices("users", users, seen.num_users, "seen.num_users")
    none = torch.empty(0, k, dtype=torch.float32, device=users.device)
    best = [TopK(users.new_empty(0, k), none)]
    for chunk in users.split(_chunk_size(chunk_size, _CPU_BYTES, range(num_items))):
        rows = as_tensor("scores", scores(chunk)).detach()
        if rows.shape != (len(chunk), num_items):
            raise ValueError(
                f"scores must have shape ({len(chunk)}, {num_items}) here, got {tuple(rows.shape)}"
            )
        check_floating(scores=rows)
        if seen is not None:
            # A copy: the scores may be rows of a table that the caller keeps.
            rows = _mask_(rows.clone(memory_format=torch.contiguous_format), seen, chunk)
        best.append(rank_rows(rows, k))
    return TopK(*(torch.cat(parts) for parts in zip(*best[len(best) > 1 :], strict=True)))


def rank_rows(scores: Tensor, k: int) -> TopK:
    """Return the top k of each row of (B, num_items) scores; -inf excludes an item.

    Raises:
        ValueError: if a score is NaN.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    return _rank(scores, k, lambda rows, items: scores[rows, items].to(wide), None)[0]


def check_k(k: int, num_items: int) -> None:
    """Raise a ValueError unless 1 <= k <= num_items."""
    checked_count("k", k, 1)
    if k > num_items:
        raise ValueError(f"k is {k}, but there are only {num_items} items")


def check_scores(scores: object) -> None:
    """Raise a TypeError unless ``scores`` is a function."""
    if not callable(scores) or isinstance(scores, LightGCN):
        hint = "; pass its .scores" if hasattr(scores, "scores") else ""
        hint = "; evaluate(model, links) takes a model" if callable(scores) else hint
        raise TypeError(f"scores must be a function of users, got {type(scores).__name__}{hint}")


def _rank(
    scores: Tensor,
    k: int,
    exact: Callable[[Tensor, Tensor], Tensor],
    error: Tensor | None,
    finite: Tensor | None = None,
) -> tuple[TopK, int]:
    """Rank rows by their exact scores; return the best and how many rows were ranked again.

    Args:
        scores: (B, num_items) floating; -inf excludes an item.
        k: length of the lists.
        exact: returns the exact scores of (n,) rows and (n,) items.
        error: (B, 1) float64 bounds on how far ``scores`` are from exact ones, beside their own
            rounding; None if they are exact.
        finite: whether scores are finite, read here with what else the host must know of a chunk;
            None if they are.
    """
    items = highest(scores, min(k + k // 2 + 6, scores.shape[1])).sort(dim=1).values
    coarse = scores.gather(1, items)
    rows = torch.arange(len(items), dtype=torch.int64, device=items.device).unsqueeze(1)
    found = exact(rows.expand_as(items).flatten(), items.flatten()).view_as(items)
    wrong = found.isnan().any()
    if finite is not None:
        wrong |= ~finite
    found = found.masked_fill(coarse == -torch.inf, -torch.inf)
    values, order = found.sort(dim=1, descending=True, stable=True)
    best = TopK(items.gather(1, order[:, :k]), values[:, :k].contiguous())

    def may_reach(coarse: Tensor, rows: Tensor) -> Tensor:
        """Return which items of coarse scores may be as good as the last of the lists."""
        last = best.scores[rows, -1:]
        if error is None:
            return coarse >= last
        coarse = coarse.double()
        return coarse + torch.finfo(scores.dtype).eps * coarse.abs() + error[rows] >= last

    least = coarse.amin(1, keepdim=True)
    near = (may_reach(least, rows.flatten()) & (least > -torch.inf)).flatten()
    marks = torch.cat([wrong.view(1), near]).cpu()
    if bool(marks[0]):
        raise ValueError(f"scores contain NaN: {NOT_FINITE}")
    again = marks[1:].nonzero() if items.shape[1] < scores.shape[1] else rows[:0]
    for row in again.to(items.device) if len(again) else again:
        if error is None:  # only items equal to the last of the list can be different ones
            tied = best.scores[row] == best.scores[row, -1:]
            equal = (scores[row] == best.scores[row, -1:])[0].nonzero().flatten()
            best.items[row[0], tied[0]] = equal[: int(tied.sum())]
            continue
        near = (may_reach(scores[row], row) & (scores[row] > -torch.inf))[0].nonzero().flatten()
        values, order = exact(row.expand_as(near), near).sort(descending=True, stable=True)
        best.items[row], best.scores[row] = near[order[:k]], values[:k]
    best.items.masked_fill_(best.scores == -torch.inf, -1)
    return best, len(again)


def highest(scores: Tensor, count: int) -> Tensor:
    """Return the (B, count) items with the highest scores, in no order.

    They are in the ``count`` groups with the highest maxima; group j is the items that are j modulo
    the number of groups, so that maxima are taken along rows of memory."""
    size = min(64, math.isqrt(scores.shape[1] // (4 * count)))
    if size < 4:
        return scores.topk(count, dim=1, sorted=False).indices
    num_groups = scores.shape[1] // size
    maxima = scores[:, : size * num_groups].unflatten(1, (size, num_groups)).amax(1)
    groups = maxima.topk(count, dim=1, sorted=False).indices
    firsts = torch.arange(0, size * num_groups, num_groups, dtype=torch.int64, device=scores.device)
    members = (groups.unsqueeze(1) + firsts.unsqueeze(1)).flatten(1)
    rest = torch.arange(size * num_groups, scores.shape[1], dtype=torch.int64, device=scores.device)
    members = torch.cat([members, rest.expand(len(members), -1)], dim=1)
    return members.gather(1, scores.gather(1, members).topk(count, dim=1, sorted=False).indices)


def _chunk_size(given: int | None, room: int, items: Sequence[int] | Tensor) -> int:
    if given is None:
        return max(32, room // len(items))
    return checked_count("chunk_size", given, 1)


def _mask_(
    scores: Tensor,
    seen: Interactions,
    users: Tensor,
    columns: Columns = _ALL_ITEMS,
    total: int | None = None,
) -> Tensor:
    """Overwrite the scores of each row's user's items with -inf."""
    rows, items = (part.to(scores.device) for part in seen.edges_of(users.to(seen.device), total))
    items, rows = columns.find(items, rows)
    places = rows * scores.shape[1] + items
    scores.view(-1).index_fill_(0, places, -torch.inf)
    return scores
