"""Exact, seeded negatives and batches of edges.

The non-edges of a graph are numbered without listing them: below the j-th smallest edge key lie
`keys[j] - j` non-edges, so the r-th non-edge is `r + searchsorted(keys - arange, r, right=True)`. A
random rank therefore becomes a true negative with one binary search: nothing is rejected, and a
nearly complete graph costs the same as an empty one. Negatives of given users are drawn among all
items first; the few that are edges are then drawn by rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightgcn.core.checks import INT32_END, check_same_device, checked_count, checked_indices
from lightgcn.core.seeding import generator_of
from lightgcn.core.sorting import distinct_integers, positions_of, sort_values
from lightgcn.graph.ids import node_name
from lightgcn.graph.interactions import Interactions, checked_interactions


def sample_negatives(
    exclude: Interactions, num_samples: int, seed: int | torch.Generator
) -> Tensor:
    """Draw distinct user-item pairs that are no edges, uniformly among all non-edges.

    Args:
        exclude: the graph whose edges are not drawn.
        num_samples: number of pairs.
        seed: an integer, or a generator on the device of ``exclude``.

    Returns:
        (2, num_samples) int64 on the device of ``exclude``: users, items; sorted by user, then
        item.

    Raises:
        ValueError: if there are fewer non-edges than ``num_samples``; the message has both counts.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> sample_negatives(graph, 3, seed=0)
        tensor([[0, 1, 1],
                [2, 0, 2]])
    """
    exclude = checked_interactions("exclude", exclude)
    total = exclude.num_users * exclude.num_items
    keys = _distinct_non_keys(exclude.keys, total, num_samples, generator_of(seed, exclude.device))
    return _pairs(keys, exclude.num_items)


def sample_negative_node_pairs(
    exclude: Interactions, num_samples: int, seed: int | torch.Generator
) -> Tensor:
    """Draw distinct ordered node pairs that are no edges in either direction, as DeepSnap does.

    User-user and item-item pairs and self-loops are among them, which makes them easy to tell from
    edges: use them only to compare with published figures that were obtained so.

    Args:
        exclude: the graph whose edges are not drawn.
        num_samples: number of pairs.
        seed: an integer, or a generator on the device of ``exclude``.

    Returns:
        (2, num_samples) int64 node numbers; item ``i`` is node ``num_users + i``.

    Raises:
        ValueError: if there are fewer such pairs than ``num_samples``.

    Example:
        >>> graph = Interactions([0], [0], num_users=1, num_items=1)
        >>> sample_negative_node_pairs(graph, 2, seed=0).sort(dim=1).values
        tensor([[0, 1],
                [0, 1]])
    """
    exclude = checked_interactions("exclude", exclude)
    nodes = exclude.num_nodes
    users, items = exclude.users, exclude.items + exclude.num_users
    both_ways = sort_values(torch.cat([users * nodes + items, items * nodes + users]))
    keys = _distinct_non_keys(
        both_ways, nodes * nodes, num_samples, generator_of(seed, exclude.device)
    )
    return _pairs(keys, nodes)


def num_negatives(
    exclude: Interactions, num_positives: int, ratio: float | None, node_pairs: bool = False
) -> int:
    """Return how many negatives to draw for a number of positives.

    Args:
        exclude: the graph whose edges are not drawn.
        num_positives: the number of positives.
        ratio: negatives per positive; None for one, or as many as there are.
        node_pairs: whether negatives are those of `sample_negative_node_pairs`.

    Raises:
        ValueError: if there are fewer non-edges than a given ratio asks for.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=2)
        >>> num_negatives(graph, 3, None)
        1
    """
    total, edges = exclude.num_users * exclude.num_items, exclude.num_edges
    if node_pairs:
        total, edges = exclude.num_nodes**2, 2 * edges
    if ratio is None:
        return min(num_positives, total - edges)
    count = round(ratio * num_positives)
    if count > total - edges:
        raise ValueError(
            f"negatives={ratio:g}: {count} distinct negatives were asked for, but only "
            f"{total - edges} of {total} pairs are no edges"
        )
    return count


def sample_negative_items(
    exclude: Interactions,
    users: Tensor,
    seed: int | torch.Generator,
    num_negatives: int = 1,
) -> Tensor:
    """Draw items that each given user has no edge to, uniformly and independently.

    Args:
        exclude: the graph whose edges are not drawn.
        users: (B,) int64 user indices on the device of ``exclude``.
        seed: an integer, or a generator on the device of ``exclude``.
        num_negatives: draws per user, with replacement.

    Returns:
        (B, num_negatives) int64 item indices on the device of ``exclude``.

    Raises:
        ValueError: if a user is out of range or has an edge to every item (`saturated_users` lists
            these), or ``num_negatives`` < 1.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> sample_negative_items(graph, torch.tensor([0, 0]), seed=0)
        tensor([[2],
                [2]])
    """
    exclude = checked_interactions("exclude", exclude)
    checked_count("num_negatives", num_negatives, 1)
    users = checked_indices("users", users, exclude.num_users, "num_users")
    check_same_device(exclude=exclude, users=users)
    generator = generator_of(seed, exclude.device)
    if not len(users):
        return users.new_empty((0, num_negatives))
    full = exclude.user_degrees == exclude.num_items
    if bool(full.any()) and bool(full[users].any()):
        first = int(users[int(full[users].to(torch.int8).argmax())])
        raise ValueError(
            f"user {node_name(exclude.user_ids, first)} has an edge to each of the "
            f"{exclude.num_items} items: no negative is left to draw"
        )
    return draw_negative_items(exclude, users, generator, num_negatives)


def draw_negative_items(
    exclude: Interactions, users: Tensor, generator: torch.Generator, num_negatives: int
) -> Tensor:
    """Return the draws of `sample_negative_items` without its checks, which wait for a device: each
    user is in range and lacks an item."""
    device = exclude.device
    # 53 random bits spread over the items: the bias, num_items / 2**53, is below what any sample
    # could show.
    shape = (len(users), num_negatives)
    draws = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    items = draws.mul_(exclude.num_items).long().view(-1)
    users = users if num_negatives == 1 else users.repeat_interleave(num_negatives)
    # A draw among all items that is a non-edge is a fair draw among the non-edges; the few others
    # are drawn by rank.
    known = exclude.contains(users, items)
    if device.type != "cpu":
        # How many they are, the host would have to wait for: a number for each, and the first ones
        # for the edges.
        count = len(users)
        draws = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        draws = draws[(known.cumsum(0) - 1).clamp_(min=0)]
        return torch.where(known, _non_edge_by_rank(exclude, users, draws), items).view(shape)
    edges = known.nonzero().flatten()
    if len(edges):
        draws = torch.rand(len(edges), generator=generator, device=device, dtype=torch.float64)
        items[edges] = _non_edge_by_rank(exclude, users[edges], draws)
    return items.view(shape)


def saturated_users(interactions: Interactions) -> Tensor:
    """Return the (n,) int64 users that have an edge to every item, for whom no negative exists.

    Example:
        >>> graph = Interactions([0, 1, 1], [0, 0, 1], num_users=2, num_items=2)
        >>> saturated_users(graph)
        tensor([1])
    """
    interactions = checked_interactions("interactions", interactions)
    return (interactions.user_degrees == interactions.num_items).nonzero().flatten()


def _non_edge_by_rank(exclude: Interactions, users: Tensor, draws: Tensor) -> Tensor:
    """Return the items of (B,) users at draws from [0, 1), a share of the items that they lack."""
    room = (exclude.num_items - exclude.user_degrees)[users]
    first_key = users * exclude.num_items
    ranks = draws.mul_(room).long().add_(first_key).sub_(exclude.indptr[users])
    return _non_key_at(exclude.keys, ranks).sub_(first_key)


def sample_user_positives(
    interactions: Interactions, num_samples: int, seed: int | torch.Generator
) -> Tensor:
    """Draw users uniformly among those with edges, and one edge of each: the authors' sampler.

    Drawing edges instead would draw a user with many items more often.

    Args:
        interactions: the graph.
        num_samples: number of draws, with replacement.
        seed: an integer, or a generator on the device of ``interactions``.

    Returns:
        (num_samples,) int64 edge positions.

    Raises:
        ValueError: if the graph has no edge.

    Example:
        >>> graph = Interactions([0, 2], [1, 0], num_users=3, num_items=2)
        >>> edges = sample_user_positives(graph, 5, seed=0)
        >>> graph.users[edges].unique()
        tensor([0, 2])
    """
    active = interactions.user_degrees.nonzero().flatten()
    if not len(active):
        raise ValueError("cannot draw positives from a graph without edges")
    generator, device = generator_of(seed, interactions.device), interactions.device

    def integers_below(limit: int) -> Tensor:
        size = (num_samples,)
        return torch.randint(limit, size, generator=generator, device=device, dtype=torch.int64)

    users, draws = active[integers_below(len(active))], integers_below(2**62)
    return interactions.indptr[users] + draws % interactions.user_degrees[users]


def shuffled_batches(
    num_samples: int, batch_size: int | None, seed: int | torch.Generator
) -> Iterator[Tensor]:
    """Yield a random permutation of ``range(num_samples)`` in pieces of ``batch_size`` (None: one
    piece), on the device of the generator.

    The last batch is smaller if ``batch_size`` does not divide ``num_samples``; no batch is empty.

    Raises:
        ValueError: if ``batch_size`` < 1.

    Example:
        >>> [len(batch) for batch in shuffled_batches(5, 2, seed=0)]
        [2, 2, 1]
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for one batch, got {batch_size}")
    generator = generator_of(seed)
    # int32 halves the memory, which is held all epoch; the numbers are the same.
    short = generator.device.type == "cpu" and num_samples < INT32_END
    dtype = torch.int32 if short else torch.int64
    order = torch.randperm(num_samples, generator=generator, device=generator.device, dtype=dtype)
    return (
        piece.long() for piece in (order.split(batch_size or num_samples) if num_samples else ())
    )


def _distinct_non_keys(
    sorted_keys: Tensor, total: int, num_samples: int, generator: torch.Generator
) -> Tensor:
    checked_count("num_samples", num_samples)
    free = total - len(sorted_keys)
    if num_samples > free:
        raise ValueError(
            f"{num_samples} distinct negatives were asked for, but only {free} of {total} pairs "
            "are no edges"
        )
    ranks = _distinct_integers(free, num_samples, generator)
    return _non_key_at(sorted_keys, ranks)


def _non_key_at(sorted_keys: Tensor, ranks: Tensor) -> Tensor:
    """Return the integers that stand at the given ranks among the non-negative integers outside
    ``sorted_keys``."""
    positions = torch.arange(len(sorted_keys), dtype=torch.int64, device=sorted_keys.device)
    gaps = sorted_keys - positions
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
        order = torch.randperm(limit, generator=generator, device=device, dtype=torch.int64)
        return sort_values(order[:num_samples])
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while len(drawn) < num_samples:
        # With room for the expected repeats (at most a quarter), a second round is rare.
        missing = num_samples - len(drawn)
        repeats = missing * (missing / 2 + len(drawn)) / limit
        size = (missing + int(1.1 * repeats) + 16,)
        fresh = torch.randint(limit, size, generator=generator, device=device, dtype=torch.int64)
        drawn = distinct_integers(torch.cat([drawn, fresh]))
    surplus = len(drawn) - num_samples
    if surplus:
        kept = torch.ones(len(drawn), dtype=torch.bool, device=device)
        kept[_distinct_integers(len(drawn), surplus, generator)] = False
        if device.type != "cpu":  # as many as are known, so that the host need not wait
            kept = positions_of(kept, num_samples)[0]
        drawn = drawn[kept]
    return drawn
