"""Subgraphs, as the nodes to keep: ``graph.reindex(*largest_component(graph))``; and the size and
degrees of a graph.

Subgraph functions return `Nodes`, so that a graph and its names (a `Dataset`) are cut alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_integers
from lightgcn.core.seeding import generator_of
from lightgcn.graph.interactions import Interactions, checked_interactions


class Nodes(NamedTuple):
    """Nodes to keep: (n,) int64 users and (m,) int64 items, increasing but for `locality_order`.

    Example:
        >>> graph = Interactions([0, 1], [0, 1], num_users=2, num_items=2)
        >>> kept = Nodes(users=torch.tensor([1]), items=torch.tensor([0, 1]))
        >>> graph.reindex(*kept)
        Interactions(1 users, 2 items, 1 edges)
    """

    users: Tensor
    items: Tensor


def largest_component(interactions: Interactions, groups: Tensor | None = None) -> Nodes:
    """Return the nodes of the connected component with the most nodes (the first such one, by node
    order).

    Args:
        interactions: the graph.
        groups: (num_items,) int64 group of each item, -1 for none. A group is a node with an edge
            to each of its items and so connects items without a common user, such as the tracks of
            an artist (`lightgcn.datasets.Dataset.groups`). Groups are neither counted nor returned.

    Raises:
        ValueError: if the graph has no edge, or ``groups`` has not one entry per item.

    Example:
        >>> graph = Interactions([0, 1, 2], [0, 1, 1], num_users=3, num_items=2)
        >>> largest_component(graph)
        Nodes(users=tensor([1, 2]), items=tensor([1]))
    """
    from scipy.sparse.csgraph import connected_components

    interactions = checked_interactions("interactions", interactions)
    if not interactions.num_edges:
        raise ValueError(f"a graph without edges has no largest component: {interactions}")
    _, labels = connected_components(bipartite_pattern(interactions, groups), directed=False)
    labels = labels[: interactions.num_nodes]
    return _nodes(labels == np.bincount(labels).argmax(), interactions)


def ego_graph(interactions: Interactions, user: int, hops: int = 3) -> Nodes:
    """Return the nodes within ``hops`` edges of a user, including the user.

    Args:
        interactions: the graph.
        user: index of the user.
        hops: number of edges: 1 for the user's items, 2 for their users as well.

    Raises:
        ValueError: if there is no such user or ``hops`` is negative.

    Example:
        >>> graph = Interactions([0, 1, 1], [0, 0, 1], num_users=2, num_items=2)
        >>> ego_graph(graph, 0, hops=2)
        Nodes(users=tensor([0, 1]), items=tensor([0]))
    """
    interactions = checked_interactions("interactions", interactions)
    user, hops = checked_count("user", user), checked_count("hops", hops)
    if user >= interactions.num_users:
        raise ValueError(f"user must be in [0, {interactions.num_users}), got {user}")
    matrix = bipartite_pattern(interactions)
    reached = np.zeros(interactions.num_nodes, dtype=bool)
    reached[user] = True
    frontier = np.array([user])
    for _ in range(hops):
        near = np.unique(matrix[frontier].indices)
        frontier = near[~reached[near]]
        reached[frontier] = True
        if not len(frontier):
            break
    return _nodes(reached, interactions)


def k_core(interactions: Interactions, k: int) -> Nodes:
    """Return the nodes of the largest subgraph in which every node has at least ``k`` edges.

    There may be no such nodes.

    Args:
        interactions: the graph.
        k: least number of edges of a node, at least 1.

    Raises:
        ValueError: if ``k`` < 1.

    Example:
        >>> graph = Interactions([0, 0, 1, 1, 2], [0, 1, 0, 1, 1], num_users=3, num_items=2)
        >>> k_core(graph, 2)
        Nodes(users=tensor([0, 1]), items=tensor([0, 1]))
    """
    interactions = checked_interactions("interactions", interactions)
    k = checked_count("k", k, 1)
    if k > interactions.num_edges:
        nobody = torch.empty(0, dtype=torch.int64, device=interactions.device)
        return Nodes(nobody, nobody)
    users, items = interactions.users, interactions.items
    while True:
        strong_user = torch.bincount(users, minlength=interactions.num_users) >= k
        strong_item = torch.bincount(items, minlength=interactions.num_items) >= k
        kept = strong_user[users] & strong_item[items]
        if bool(kept.all()):
            return Nodes(strong_user.nonzero().flatten(), strong_item.nonzero().flatten())
        users, items = users[kept], items[kept]


def random_users(
    interactions: Interactions, count: int, *, seed: int | torch.Generator = 0
) -> Nodes:
    """Return ``count`` users, drawn uniformly without replacement, and their items.

    Args:
        interactions: the graph.
        count: number of users.
        seed: an integer or a generator of any device.

    Raises:
        ValueError: if ``count`` is not in [1, num_users].

    Example:
        >>> graph = Interactions([0, 1, 2], [0, 1, 1], num_users=3, num_items=2)
        >>> nodes = random_users(graph, 2, seed=0)
        >>> graph.reindex(*nodes).num_users
        2
    """
    interactions = checked_interactions("interactions", interactions)
    if not 1 <= checked_count("count", count) <= interactions.num_users:
        raise ValueError(
            f"count must be in [1, {interactions.num_users}], the number of users, got {count}"
        )
    generator = generator_of(seed)
    drawn = torch.randperm(
        interactions.num_users, generator=generator, dtype=torch.int64, device=generator.device
    )
    users = drawn[:count].to(interactions.device).sort().values
    taken = torch.zeros(interactions.num_users, dtype=torch.bool, device=interactions.device)
    taken[users] = True
    kept = torch.zeros(interactions.num_items, dtype=torch.bool, device=interactions.device)
    kept[interactions.items[taken[interactions.users]]] = True
    return Nodes(users, kept.nonzero().flatten())


def locality_order(interactions: Interactions) -> Nodes:
    """Return all nodes in an order that puts neighbours of neighbours side by side (reverse
    Cuthill-McKee, 1969).

    A graph renumbered by it (``graph.reindex(*locality_order(graph))``, which keeps ids) propagates
    faster on a CPU, because the rows that a product gathers in turn are more often in cache.

    Example:
        >>> graph = Interactions([0, 1, 2], [2, 0, 2], num_users=3, num_items=3)
        >>> graph.reindex(*locality_order(graph)).edge_index
        tensor([[0, 1, 2],
                [0, 1, 1]])
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    interactions = checked_interactions("interactions", interactions)
    if not interactions.num_edges:
        return _nodes(np.ones(interactions.num_nodes, dtype=bool), interactions)
    order = torch.from_numpy(
        reverse_cuthill_mckee(bipartite_pattern(interactions), symmetric_mode=True).astype(np.int64)
    )
    is_user = order < interactions.num_users
    users, items = order[is_user], order[~is_user] - interactions.num_users
    return Nodes(users.to(interactions.device), items.to(interactions.device))


def rank_users_by_popularity(interactions: Interactions) -> Tensor:
    """Return (num_users,) int64 users by the mean popularity of their items, highest first.

    An item's popularity is its number of users. Users without items come last; ties go by user
    index.

    Example:
        >>> graph = Interactions([0, 1, 2], [0, 1, 1], num_users=3, num_items=2)
        >>> rank_users_by_popularity(graph)
        tensor([1, 2, 0])
    """
    interactions = checked_interactions("interactions", interactions)
    popularity = interactions.item_degrees.double()
    total = torch.zeros(interactions.num_users, dtype=torch.float64, device=interactions.device)
    total.index_add_(0, interactions.users, popularity[interactions.items])
    mean = total / interactions.user_degrees.clamp(min=1)
    return mean.argsort(descending=True, stable=True)


def bipartite_pattern(interactions: Interactions, groups: Tensor | None = None) -> Any:
    """Return the (N, N) SciPy CSR pattern [[0, R], [Rᵀ, 0]]; with groups, these are further nodes
    with edges to their items."""
    from scipy.sparse import block_array, csr_array

    block = interactions.to_scipy()
    if groups is None:
        return block_array([[None, block], [block.T, None]], format="csr")
    labels = checked_integers("groups", groups).cpu().numpy()
    if len(labels) != interactions.num_items:
        raise ValueError(
            f"groups must have one entry for each of {interactions.num_items} items, got "
            f"{len(labels)}"
        )
    known = (labels >= 0).nonzero()[0]
    names, columns = np.unique(labels[known], return_inverse=True)
    ends = np.concatenate([[0], (labels >= 0).cumsum()])
    ties = csr_array((np.ones(len(known), block.dtype), columns, ends), (len(labels), len(names)))
    return block_array(
        [[None, block, None], [block.T, None, ties], [None, ties.T, None]], format="csr"
    )


def _nodes(kept: np.ndarray[Any, np.dtype[np.bool_]], interactions: Interactions) -> Nodes:
    mask = torch.from_numpy(kept).to(interactions.device)
    users, items = mask[: interactions.num_users], mask[interactions.num_users :]
    return Nodes(users.nonzero().flatten(), items.nonzero().flatten())


@dataclass(frozen=True)
class Degrees:
    """Degrees of the nodes of one side, including isolated nodes.

    Median and 90th percentile are degrees of actual nodes: the lower one of two in the middle.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> graph_statistics(graph).item_degrees
        Degrees(mean=1.0, median=1.0, percentile_90=2.0, most=2, isolated=1)
    """

    mean: float
    median: float
    percentile_90: float
    most: int
    isolated: int


@dataclass(frozen=True)
class GraphStatistics:
    """The size of a graph, and the degrees of both sides.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> statistics = graph_statistics(graph)
        >>> statistics.edges, statistics.density
        (3, 0.5)
    """

    users: int
    items: int
    edges: int
    user_degrees: Degrees
    item_degrees: Degrees

    @property
    def density(self) -> float:
        """Share of the user-item pairs that are edges."""
        return self.edges / (self.users * self.items) if self.users and self.items else 0.0


def graph_statistics(interactions: Interactions) -> GraphStatistics:
    """Return the numbers of users, items and edges, and the degrees of both sides.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=2)
        >>> statistics = graph_statistics(graph)
        >>> statistics.density, statistics.user_degrees.mean
        (0.75, 1.5)
    """
    interactions = checked_interactions("interactions", interactions)
    sides = [
        _degrees(degrees.cpu().numpy())
        for degrees in (interactions.user_degrees, interactions.item_degrees)
    ]
    return GraphStatistics(
        interactions.num_users, interactions.num_items, interactions.num_edges, *sides
    )


def _degrees(degrees: npt.NDArray[np.int64]) -> Degrees:
    if not len(degrees):
        return Degrees(0.0, 0.0, 0.0, 0, 0)
    median, high = np.quantile(degrees, (0.5, 0.9), method="inverted_cdf")
    mean, isolated = float(degrees.mean()), int((degrees == 0).sum())
    return Degrees(mean, float(median), float(high), int(degrees.max()), isolated)
