"""Scores: dot products of embeddings, and cosines with a popularity prior in the form of such
embeddings."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.interactions import Interactions
from lightgcn.ranking.time_decay import Recency

# Rows that are normalised at a time.
_ROWS = 1 << 16


def with_popularity_prior(
    users: Tensor, items: Tensor, popularity: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Return embeddings, one column wider, whose dot product is cos(user, item) + ``weight`` ·
    log(1 + popularity).

    Items that a softmax loss compares within a batch come up as often as they are popular, so what
    the loss teaches is s/τ ≈ log p(item | user) − log p(item): the ranking by p(item | user) needs
    the popularity back, with a weight near τ (the sampling correction of Yi et al., RecSys 2019,
    made once in the end instead of in every batch). Whatever takes a model's embeddings takes
    these: `evaluate_ranking`, `top_k`, an index for inner products.

    Args:
        users: (num_users, d) floating; an all-zero row stays zero and is ranked by popularity
            alone.
        items: (num_items, d) floating.
        popularity: (num_items,) how many users each item has.
        weight: of the prior, at least 0.

    Returns:
        (num_users, d + 1) and (num_items, d + 1).

    Raises:
        ValueError: if the shapes do not fit or ``weight`` is negative or not finite.
    """
    if users.ndim != 2 or users.shape[1:] != items.shape[1:] or popularity.shape != items.shape[:1]:
        shapes = f"{tuple(users.shape)}, {tuple(items.shape)} and {tuple(popularity.shape)}"
        raise ValueError(f"expected (num_users, d), (num_items, d) and (num_items,), got {shapes}")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(
            f"the weight of the popularity prior must be a number of at least 0, got {weight!r}"
        )
    prior = popularity.to(items.dtype).log1p().mul(weight)
    return _unit_rows_and(users, 1.0), _unit_rows_and(items, prior)


def _unit_rows_and(rows: Tensor, last: Tensor | float) -> Tensor:
    """Return (N, d + 1): rows of length 1, and a last column; some rows at a time, since a table
    may be large."""
    result = rows.new_empty(len(rows), rows.shape[1] + 1)
    for first in range(0, len(rows), _ROWS):
        result[first : first + _ROWS, :-1] = F.normalize(rows[first : first + _ROWS])
    result[:, -1] = last
    return result


def scored_embeddings(
    users: Tensor,
    items: Tensor,
    message: Interactions,
    popularity_prior: float | None,
    recency: Recency | None,
) -> tuple[Tensor, Tensor]:
    """Return the embeddings whose dot products are the scores: drawn by recency, then with the
    popularity prior.

    Args:
        users: (num_users, d) final embeddings.
        items: (num_items, d) final embeddings.
        message: what messages flow along, whose popularity counts.
        popularity_prior: weight of `with_popularity_prior`, None for none.
        recency: what users had last, None for all alike.
    """
    if recency is not None:
        users = recency.draw_users(users, items)
    if popularity_prior is not None:
        users, items = with_popularity_prior(users, items, message.item_degrees, popularity_prior)
    return users, items
