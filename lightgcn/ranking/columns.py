"""Columns of a `Ranker`'s two tables beside those of the embeddings: of popularity."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.core.checks import checked_number
from lightgcn.nn.link_scores import unit_rows

# Rows that are normalised at a time.
_ROWS = 1 << 16
# Without a prior, by what the column of popularity is divided: scores near zero say nothing of
# a link, and the column does not lengthen the items, by which `top_k` bounds scores.
_POPULARITY_UNIT = 1024.0


def with_popularity_prior(
    users: Tensor, items: Tensor, popularity: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Return embeddings whose dot product is cos(user, item) + ``weight`` · log(1 + popularity).

    In-batch negatives are sampled in proportion to popularity, so with a softmax loss s/τ becomes
    log p(item | user) − log p(item): popularity is removed from the scores. The prior adds it back,
    with a weight near τ (the sampling correction of Yi et al., RecSys 2019, applied once after
    training instead of in every batch).

    Args:
        users: (num_users, d) floating; an all-zero row stays zero and is ranked by popularity.
        items: (num_items, d) floating.
        popularity: (num_items,) number of users of each item.
        weight: of the prior, at least 0.

    Returns:
        (num_users, d + 1) and (num_items, d + 1).

    Raises:
        ValueError: if the shapes do not fit or ``weight`` is negative or not finite.

    Example:
        >>> users, items = torch.tensor([[2.0]]), torch.tensor([[3.0], [1.0]])
        >>> with_popularity_prior(users, items, torch.tensor([0, 9]), weight=0.1)
        (tensor([[1., 1.]]), tensor([[1.0000, 0.0000],
                [1.0000, 0.2303]]))
    """
    if users.ndim != 2 or users.shape[1:] != items.shape[1:] or popularity.shape != items.shape[:1]:
        shapes = f"{tuple(users.shape)}, {tuple(items.shape)} and {tuple(popularity.shape)}"
        raise ValueError(f"expected (num_users, d), (num_items, d) and (num_items,), got {shapes}")
    weight = checked_number("weight", weight, 0)
    # In float32 at least: a count above 65,504 is infinite in float16, its logarithm is not.
    counts = popularity.to(torch.promote_types(items.dtype, torch.float32))
    prior = counts.log1p().mul(weight).to(items.dtype)
    return unit_rows_and(users, 1.0), unit_rows_and(items, prior)


def unit_rows_and(rows: Tensor, last: Tensor | float) -> Tensor:
    """Return (N, d + 1): rows of length 1, and a last column."""
    result = rows.new_empty(len(rows), rows.shape[1] + 1)
    for first in range(0, len(rows), _ROWS):  # no second copy of a large table
        result[first : first + _ROWS, :-1] = unit_rows(rows[first : first + _ROWS])
    result[:, -1] = last
    return result


def with_unknown(users: Tensor) -> Tensor:
    """Return (B, d + 1): a last column that is 1 for users without an embedding, else 0."""
    return with_columns(users, ~users.any(1, keepdim=True))


def popularity_column(degrees: Tensor) -> Tensor:
    """Return (num_items, 1): what ranks the items for users without an embedding."""
    return degrees.float().log1p().unsqueeze(1) / _POPULARITY_UNIT


def with_columns(rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows with further columns, in the dtype of the rows."""
    return torch.cat([rows, columns.to(rows.dtype)], 1)
