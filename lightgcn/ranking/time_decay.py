"""Time decay: a user's latest items count more than the earlier ones.

An item of age a, the number of the user's later items, counts by (1 + a)⁻ᵖ. A user's embedding is
moved towards the items so weighted, and item kNN weighs the user's items likewise:

    û + weight · v / ‖v‖    with û = u / ‖u‖ and v = Σᵢ (1 + aᵢ)⁻ᵖ i / ‖i‖
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.checks import checked_number
from lightgcn.core.seeding import make_generator
from lightgcn.graph.edge_order import edge_ages
from lightgcn.graph.interactions import Interactions
from lightgcn.nn.link_scores import unit_rows
from lightgcn.ranking.closed_forms import spectral_items
from lightgcn.ranking.received import row_sums

# Pairs of items to compare, the least length of their lists, the rank of their embeddings, and the
# standard errors that their difference must exceed.
_PAIRS, _LONG, _RANK, _ERRORS = 20000, 8, 64, 4
_DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
# Edges of a larger graph that are looked at, about.
_MOST_EDGES = 5_000_000


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


def is_sorted(interactions: Interactions) -> bool:
    """Return whether every user's list rises, or every one falls, by item index: then its order is
    that of the items' ids."""
    users, items = _in_order(interactions)
    rises = (items[1:] > items[:-1])[users.diff() == 0]
    return len(rises) > 0 and (bool(rises.all()) or not bool(rises.any()))


def _in_order(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Return the users and the items of all edges, each user's in their order."""
    assert interactions.order is not None
    first = interactions.order.argsort(stable=True)
    place = first[interactions.users[first].argsort(stable=True)]
    return interactions.users[place], interactions.items[place]


@torch.no_grad()
def order_is_informative(interactions: Interactions, *, seed: int = 0) -> bool:
    """Return whether the order of the users' lists means something.

    It does if neighbours in a list are more alike than two items of the list at random, by more
    than four standard errors, and lists are not sorted by item. Alikeness is the cosine of the
    items' spectral embeddings.

    Args:
        interactions: a graph; without an order the answer is no.
        seed: of the pairs at random.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions
        >>> order_is_informative(Interactions([0, 0], [0, 1], 1, 2, order=torch.tensor([1, 2])))
        False
    """
    if interactions.order is None or is_sorted(interactions):
        return False
    generator = make_generator(seed)
    share = _MOST_EDGES / max(interactions.num_edges, 1)
    if share < 1:  # some users suffice
        kept = torch.rand(interactions.num_users, generator=generator, **_DRAWN) < share
        interactions = interactions.select(kept.to(interactions.device)[interactions.users])
    users, items = _in_order(interactions)
    device = users.device
    directions = unit_rows(spectral_items(interactions, _RANK).table)
    follows = (users[1:] == users[:-1]).nonzero().flatten()
    # Long lists alone: in a short one any two items are near each other.
    follows = follows[interactions.user_degrees[users[follows]] >= _LONG]
    if len(follows) < 2:
        return False
    some = torch.randperm(len(follows), generator=generator, dtype=torch.int64, device="cpu")[
        :_PAIRS
    ].to(device)
    left, right = follows[some], follows[some] + 1
    ends = interactions.user_degrees.cumsum(0)
    degrees = interactions.user_degrees[users[left]]
    drawn = (torch.rand(len(left), generator=generator, **_DRAWN).to(device) * (degrees - 1)).long()
    other = (ends - interactions.user_degrees)[users[left]] + drawn
    other += other >= left  # a different item of the same list
    near, far = (
        (directions[items[left]] * directions[items[end]]).sum(1).double() for end in (right, other)
    )
    gain = near - far
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > _ERRORS * error


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
    latest = unit_rows(latest_sums(items, history))
    return unit_rows(users).add_(latest, alpha=weight).to(users.dtype)


def latest_sums(items: Tensor, history: Interactions) -> Tensor:
    """Return v = Σᵢ (1 + aᵢ)⁻ᵖ i / ‖i‖ of each user of a `decayed` history, (num_users, d), float32
    or wider."""
    return row_sums(history, unit_rows(items))
