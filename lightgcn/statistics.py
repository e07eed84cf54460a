"""Numbers that describe a graph: its size, and how many edges its nodes have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightgcn.interactions import Interactions


@dataclass(frozen=True)
class Degrees:
    """How many edges the nodes of one side have: nodes without any count as well.

    Median and percentile are numbers of edges that some node has: of two in the middle, the lower one.
    """

    mean: float
    median: float
    percentile_90: float
    most: int
    isolated: int


@dataclass(frozen=True)
class GraphStatistics:
    """The size of a graph, and the degrees of both sides."""

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
    """Return the numbers of users, items and edges, and what their degrees are like."""
    sides = [_degrees(degrees.cpu().numpy()) for degrees in (interactions.user_degrees, interactions.item_degrees)]
    return GraphStatistics(interactions.num_users, interactions.num_items, interactions.num_edges, *sides)


def _degrees(degrees: npt.NDArray[np.int64]) -> Degrees:
    if not len(degrees):
        return Degrees(0.0, 0.0, 0.0, 0, 0)
    median, high = np.quantile(degrees, (0.5, 0.9), method="inverted_cdf")
    mean, isolated = float(degrees.mean()), int((degrees == 0).sum())
    return Degrees(mean, float(median), float(high), int(degrees.max()), isolated)
