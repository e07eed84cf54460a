"""Time decay: a user's latest items count more than the earlier ones.

An item of age a, the number of the user's later items, counts by (1 + a)⁻ᵖ. A user's embedding is
moved towards the items so weighted, and item kNN weighs the user's items likewise:

    û + weight · v / ‖v‖    with û = u / ‖u‖ and v = Σᵢ (1 + aᵢ)⁻ᵖ i / ‖i‖
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_number
from lightgcn.graph.edge_order import edge_ages
from lightgcn.graph.interactions import Interactions
from lightgcn.nn.link_scores import unit_rows


def decayed(interactions: Interactions, exponent: float = 1.0) -> Interactions:
    """Return the same edges with weights times (1 + age)⁻ᵖ.

    Args:
        interactions: a graph with an order (`Interactions.order`).
        exponent: p, at least 0.

    Returns:
        Interactions with weights on the same device: float32, or the dtype of given ones if that
        is wider.

    Raises:
        ValueError: if the graph has no order, or the exponent is out of range.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions
        >>> from lightgcn.ranking.time_decay import decayed
        >>> played = Interactions([0, 0], [0, 1], 1, 2, order=torch.tensor([1, 2]))
        >>> decayed(played, 1.0).weights
        tensor([0.5000, 1.0000])
    """
    exponent = checked_number("exponent", exponent, 0)
    weights = (1 + edge_ages(interactions).double()).pow(-exponent).float()
    if interactions.weights is not None:
        weights = weights * interactions.weights
    # Weights must be positive; float32 rounds those of a large exponent to 0.
    return replace(interactions, weights=weights.clamp(min=torch.finfo(torch.float32).tiny))


@torch.no_grad()
def towards_latest(users: Tensor, items: Tensor, history: Interactions, weight: float) -> Tensor:
    """Return the users' embeddings, moved towards their latest items.

    Args:
        users: (num_users, d) floating.
        items: (num_items, d) floating, on the same device.
        history: the result of `decayed`.
        weight: length of the step towards the latest items.

    Returns:
        (num_users, d) of the same dtype; the row of a user without items is only scaled.
    """
    assert history.weights is not None
    directions = unit_rows(items)
    latest = F.embedding_bag(
        history.items,
        directions,
        history.indptr,
        mode="sum",
        per_sample_weights=history.weights.to(directions.dtype),
        include_last_offset=True,
    )
    return unit_rows(users).add_(unit_rows(latest), alpha=weight).to(users.dtype)
