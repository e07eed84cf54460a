"""Exact, seeded negatives and batches of edges.

The non-edges of a graph are numbered without listing them: below the j-th smallest edge key lie `keys[j] - j`
non-edges, so the r-th non-edge is `r + searchsorted(keys - arange, r, right=True)`. A random rank therefore becomes a
true negative with one binary search: nothing is rejected, nothing is tried again, and a graph that is nearly complete
costs the same as an empty one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightgcn.interactions import Interactions


def sample_negatives(exclude: Interactions, num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw distinct user-item pairs that are no edges, uniformly among all non-edges.

    Args:
        exclude: the graph whose edges must not be drawn.
        num_samples: how many pairs.
        generator: on the device of ``exclude``.

    Returns:
        (2, num_samples) int64: users, items; sorted by user, then item.

    Raises:
        ValueError: if there are fewer non-edges than ``num_samples``; the message has both counts.
    """
    total = exclude.num_users * exclude.num_items
    keys = _distinct_non_keys(exclude.keys, total, num_samples, generator)
    return torch.stack([keys // max(exclude.num_items, 1), keys % max(exclude.num_items, 1)])


def sample_negative_node_pairs(exclude: Interactions, num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw distinct ordered node pairs that are no edges in either direction, as DeepSnap does.

    User-user and item-item pairs and self-loops are among them, which makes them easy to tell from edges: use
    them only to compare with figures that were obtained so.

    Returns:
        (2, num_samples) int64 node numbers; item ``i`` is node ``num_users + i``.

    Raises:
        ValueError: if there are fewer such pairs than ``num_samples``.
    """
    nodes = exclude.num_nodes
    users, items = exclude.users, exclude.items + exclude.num_users
    both_ways = torch.cat([users * nodes + items, items * nodes + users]).sort().values
    keys = _distinct_non_keys(both_ways, nodes * nodes, num_samples, generator)
    return torch.stack([keys // max(nodes, 1), keys % max(nodes, 1)])


def sample_negative_items(
    exclude: Interactions, users: Tensor, generator: torch.Generator, num_negatives: int = 1
) -> Tensor:
    """Draw items that each given user has no edge to, uniformly and independently.

    Args:
        exclude: the graph whose edges must not be drawn.
        users: (B,) int64 user indices.
        generator: on the device of ``exclude``.
        num_negatives: draws per user (with replacement).

    Returns:
        (B, num_negatives) int64 item indices.

    Raises:
        ValueError: if a user has an edge to every item, or ``num_negatives`` < 1.
    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    room = (exclude.num_items - exclude.user_degrees)[users]
    if room.numel() and int(room.min()) == 0:
        full = int(users[int(room.argmin())])
        raise ValueError(
            f"user {full} has an edge to each of the {exclude.num_items} items: no negative is left to draw"
        )
    # A 62-bit draw taken modulo the room: the bias, room / 2**62, is below what any sample could show.
    draws = torch.randint(2**62, (len(users), num_negatives), generator=generator, device=exclude.device)
    first_rank = users * exclude.num_items - exclude.indptr[users]
    ranks = first_rank.unsqueeze(1) + draws % room.unsqueeze(1)
    keys = _non_key_at(exclude.keys, ranks)
    return keys - (users * exclude.num_items).unsqueeze(1)


def sample_user_positives(interactions: Interactions, num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw users uniformly among those with edges, and one of each one's edges: the authors' sampler.

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


def shuffled_batches(num_samples: int, batch_size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield a random permutation of ``range(num_samples)`` in pieces of ``batch_size`` (None: in one piece).

    The last batch is smaller where ``batch_size`` does not divide ``num_samples``; there is no empty one.

    Raises:
        ValueError: if ``batch_size`` < 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for one batch, got {batch_size}")
    order = torch.randperm(num_samples, generator=generator, device=generator.device)
    return iter(order.split(batch_size or num_samples) if num_samples else ())


def _distinct_non_keys(sorted_keys: Tensor, total: int, num_samples: int, generator: torch.Generator) -> Tensor:
    if num_samples < 0:
        raise ValueError(f"the number of negatives must not be negative, got {num_samples}")
    free = total - len(sorted_keys)
    if num_samples > free:
        raise ValueError(
            f"{num_samples} distinct negatives were asked for, but only {free} of {total} pairs are no edges; "
            "ask for fewer negatives per positive"
        )
    ranks = _distinct_integers(free, num_samples, generator)
    return _non_key_at(sorted_keys, ranks)


def _non_key_at(sorted_keys: Tensor, ranks: Tensor) -> Tensor:
    """Return the integers that stand at the given ranks among the non-negative integers outside ``sorted_keys``."""
    gaps = sorted_keys - torch.arange(len(sorted_keys), device=sorted_keys.device)
    return ranks + torch.searchsorted(gaps, ranks, right=True)


def _distinct_integers(limit: int, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return a sorted, uniformly drawn set of ``num_samples`` integers below ``limit``."""
    device = generator.device
    if limit <= 4 * num_samples:
        return torch.randperm(limit, generator=generator, device=device)[:num_samples].sort().values
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while len(drawn) < num_samples:
        # Enough that repeats, a share of at most 1/4 here, seldom ask for a second round.
        more = int((num_samples - len(drawn)) * 1.2) + 16
        fresh = torch.randint(limit, (more,), generator=generator, device=device)
        drawn = torch.unique(torch.cat([drawn, fresh]))
    surplus = len(drawn) - num_samples
    if surplus:
        kept = torch.ones(len(drawn), dtype=torch.bool, device=device)
        kept[torch.randperm(len(drawn), generator=generator, device=device)[:surplus]] = False
        drawn = drawn[kept]
    return drawn
