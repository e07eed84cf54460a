"""What a user had last: where edges have an order, what comes next is most like the last of them.

An item of age a, the number of the user's items after it, counts by (1 + a)⁻ᵖ. The user's embedding
is drawn towards the items so counted, and the neighbours of the user's items
(`lightgcn.ranking.item_knn`) count likewise:

    û + weight · v / ‖v‖    with û = u / ‖u‖ and v = Σᵢ (1 + aᵢ)⁻ᵖ i / ‖i‖
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.edge_order import edge_ages
from lightgcn.graph.interactions import Interactions


@dataclass(frozen=True, eq=False)
class Recency:
    """The users' items, weighted by how recent they are, and what they are worth.

    Attributes:
        recent: the users' items with their weights, times (1 + age)⁻ᵖ.
        exponent: p.
        weight: how far embeddings are drawn.
    """

    recent: Interactions
    exponent: float
    weight: float

    def __post_init__(self) -> None:
        _check_numbers(self.exponent, self.weight)

    @torch.no_grad()
    def draw_users(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the users' embeddings, drawn towards what they had last.

        Args:
            users: (num_users, d) floating.
            items: (num_items, d) floating.

        Returns:
            (num_users, d) of the same dtype; a user without items is only scaled.
        """
        weights = self.recent.weights
        assert weights is not None
        recent = F.embedding_bag(
            self.recent.items,
            F.normalize(items),
            self.recent.indptr,
            mode="sum",
            per_sample_weights=weights.to(items.dtype),
            include_last_offset=True,
        )
        return F.normalize(users).add_(F.normalize(recent), alpha=self.weight)

    def item_weights(self, count: int) -> Tensor:
        """Return (count,) float64 weights of a new user's items, the last of which is the most
        recent."""
        ages = torch.arange(count - 1, -1, -1, dtype=torch.float64)
        return (1 + ages).pow(-self.exponent)


def recent_items(interactions: Interactions, exponent: float = 1.0, weight: float = 0.5) -> Recency:
    """Return the recency of interactions that have an order (`Interactions.order`).

    Args:
        interactions: what messages flow along.
        exponent: p, at least 0.
        weight: how far users' embeddings are drawn, at least 0.

    Raises:
        ValueError: if the interactions have no order, or a number is out of range.
    """
    _check_numbers(exponent, weight)
    weights = (1 + edge_ages(interactions).double()).pow(-exponent).float()
    if interactions.weights is not None:
        weights = weights * interactions.weights
    # A weight must be positive, also one of a large exponent that float32 rounds to 0.
    weights = weights.clamp(min=torch.finfo(torch.float32).tiny)
    return Recency(replace(interactions, weights=weights), float(exponent), float(weight))


def _check_numbers(exponent: float, weight: float) -> None:
    for name, value in (("exponent", exponent), ("weight", weight)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"the {name} of recency must be a number of at least 0, got {value!r}")
