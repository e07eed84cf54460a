"""Exact, seeded negatives and batches of edges.

The non-edges of a graph are numbered without listing them: below the j-th smallest edge key lie
`keys[j] - j` non-edges, so the r-th non-edge is `r + searchsorted(keys - arange, r, right=True)`. A
random rank therefore becomes a true negative with one binary search: nothing is rejected, and a
graph that is nearly complete costs the same as an empty one. Negatives of given users are drawn
among all items first; the few that are edges are then drawn by rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightgcn.core.checks import INT32_END, checked_indices
from lightgcn.core.seeding import generator_of
from lightgcn.core.sorting import distinct_integers, sort_values
from lightgcn.graph.interactions import Interactions


def sample_negatives(
    exclude: Interactions, num_samples: int, generator: torch.Generator | int
) -> Tensor:
    """Draw distinct user-item pairs that are no edges, uniformly among all non-edges.

    Args:
        exclude: the graph whose edges must not be drawn.
        num_samples: how many pairs.
        generator: on the device of ``exclude``, or a seed.

    Returns:
        (2, num_samples) int64: users, items; sorted by user, then item.

    Raises:
        ValueError: if there are fewer non-edges than ``num_samples``; the message has both counts.
    """
    total = exclude.num_users * exclude.num_items
    keys = _distinct_non_keys(
        exclude.keys, total, num_samples, generator_of(generator, exclude.device)
    )
    return _pairs(keys, exclude.num_items)


def sample_negative_node_pairs(
    exclude: Interactions, num_samples: int, generator: torch.Generator | int
) -> Tensor:
    """Draw distinct ordered node pairs that are no edges in either direction, as DeepSnap does.

    User-user and item-item pairs and self-loops are among them, which makes them easy to tell from
    edges: use them only to compare with figures that were obtained so.

    Returns:
        (2, num_samples) int64 node numbers; item ``i`` is node ``num_users + i``.

    Raises:
        ValueError: if there are fewer such pairs than ``num_samples``.
    """
    nodes = exclude.num_nodes
    users, items = exclude.users, exclude.items + exclude.num_users
    both_ways = sort_values(torch.cat([users * nodes + items, items * nodes + users]))
    keys = _distinct_non_keys(
        both_ways, nodes * nodes, num_samples, generator_of(generator, exclude.device)
    )
    return _pairs(keys, nodes)


def sample_negative_items(
    exclude: Interactions, users: Tensor, generator: torch.Generator | int, num_negatives: int = 1
) -> Tensor:
    """Draw items that each given user has no edge to, uniformly and independently.

    Args:
        exclude: the graph whose edges must not be drawn.
        users: (B,) int64 user indices.
        generator: on the device of ``exclude``, or a seed.
        num_negatives: draws per user (with replacement).

    Returns:
        (B, num_negatives) int64 item indices.

    Raises:
        ValueError: if a user is out of range or has an edge to every item, or ``num_negatives`` <
            1.
    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    users = checked_indices("users", users, exclude.num_users, "num_users")
    generator = generator_of(generator, exclude.device)
    if not len(users):
        return users.new_empty((0, num_negatives))
    full = exclude.user_degrees == exclude.num_items
    if bool(full.any()) and bool(full[users].any()):
        first = int(users[int(full[users].to(torch.int8).argmax())])
        raise ValueError(
            f"user {first} has an edge to each of the {exclude.num_items} items: no negative is "
            "left to draw"
        )
    # 53 random bits spread over the items: the bias, num_items / 2**53, is below what any sample
    # could show.
    shape, device = (len(users), num_negatives), exclude.device
    draws = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    items = draws.mul_(exclude.num_items).long().view(-1)
    users = users if num_negatives == 1 else users.repeat_interleave(num_negatives)
    # A draw among all items that is a non-edge is a fair draw among the non-edges; the few others
    # are drawn by rank.
    edges = exclude.contains(users, items).nonzero().flatten()
    if len(edges):
        items[edges] = _non_edge_by_rank(exclude, users[edges], generator)
    return items.view(shape)


def _non_edge_by_rank(exclude: Interactions, users: Tensor, generator: torch.Generator) -> Tensor:
    room = (exclude.num_items - exclude.user_degrees)[users]
    draws = torch.rand(len(users), generator=generator, device=exclude.device, dtype=torch.float64)
    first_key = users * exclude.num_items
    ranks = draws.mul_(room).long().add_(first_key).sub_(exclude.indptr[users])
    return _non_key_at(exclude.keys, ranks).sub_(first_key)


def sample_user_positives(
    interactions: Interactions, num_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw users uniformly among those with edges, and one of each one's edges: the authors'
    sampler.

    It differs from drawing edges: there a user with many items comes up more often.

    Returns:
        (num_samples,) int64 edge positions, with replacement.

    Raises:
        ValueError: if the graph has no edge.
    """
    active = interactions.user_degrees.nonzero().flatten()
    if not len(active):
        raise ValueError("cannot draw positives from a graph without edges")
    device = interactions.device
    users = active[torch.randint(len(active), (num_samples,), generator=generator, device=device)]
    draws = torch.randint(2**62, (num_samples,), generator=generator, device=device)
    return interactions.indptr[users] + draws % interactions.user_degrees[users]


def shuffled_batches(
    num_samples: int, batch_size: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield a random permutation of ``range(num_samples)`` in pieces of ``batch_size`` (None: in
    one piece).

    The last batch is smaller where ``batch_size`` does not divide ``num_samples``; there is no
    empty one.

    Raises:
        ValueError: if ``batch_size`` < 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for one batch, got {batch_size}")
    # The same numbers in half the memory, which is held all epoch.
    short = generator.device.type == "cpu" and num_samples < INT32_END
    dtype = torch.int32 if short else torch.int64
    order = torch.randperm(num_samples, generator=generator, device=generator.device, dtype=dtype)
    return (
        piece.long() for piece in (order.split(batch_size or num_samples) if num_samples else ())
    )


def _distinct_non_keys(
    sorted_keys: Tensor, total: int, num_samples: int, generator: torch.Generator
) -> Tensor:
    if num_samples < 0:
        raise ValueError(f"the number of negatives must not be negative, got {num_samples}")
    free = total - len(sorted_keys)
    if num_samples > free:
        raise ValueError(
            f"{num_samples} distinct negatives were asked for, but only {free} of {total} pairs "
            "are no edges; "
            "ask for fewer negatives per positive"
        )
    ranks = _distinct_integers(free, num_samples, generator)
    return _non_key_at(sorted_keys, ranks)


def _non_key_at(sorted_keys: Tensor, ranks: Tensor) -> Tensor:
    """Return the integers that stand at the given ranks among the non-negative integers outside
    ``sorted_keys``."""
    gaps = sorted_keys - torch.arange(len(sorted_keys), device=sorted_keys.device)
    return torch.searchsorted(gaps, ranks, right=True).add_(ranks)


def _pairs(keys: Tensor, width: int) -> Tensor:
    """Take (n,) keys ``left * width + right`` apart: (2, n) int64."""
    pairs = keys.new_empty((2, len(keys)))
    torch.div(keys, max(width, 1), rounding_mode="floor", out=pairs[0])
    torch.sub(keys, pairs[0], alpha=width, out=pairs[1])
    return pairs


def _distinct_integers(limit: int, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return a sorted, uniformly drawn set of ``num_samples`` integers below ``limit``."""
    device = generator.device
    if limit <= 4 * num_samples:
        return sort_values(torch.randperm(limit, generator=generator, device=device)[:num_samples])
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while len(drawn) < num_samples:
        # Enough that the repeats to expect, at most a quarter here, seldom ask for a second round.
        missing = num_samples - len(drawn)
        repeats = missing * (missing / 2 + len(drawn)) / limit
        fresh = torch.randint(
            limit, (missing + int(1.1 * repeats) + 16,), generator=generator, device=device
        )
        drawn = distinct_integers(torch.cat([drawn, fresh]))
    surplus = len(drawn) - num_samples
    if surplus:
        kept = torch.ones(len(drawn), dtype=torch.bool, device=device)
        kept[_distinct_integers(len(drawn), surplus, generator)] = False
        drawn = drawn[kept]
    return drawn
