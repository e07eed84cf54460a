"""What the users of a graph receive from their items: sums of the rows of a table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.interactions import Interactions


def row_sums(graph: Interactions, table: Tensor) -> Tensor:
    """Return (num_users, d) of the dtype of ``table`` (num_items, d): for each user, the sum of its
    items' rows, times the weights of the edges if there are any."""
    weights = None if graph.weights is None else graph.weights.to(table.dtype)
    sums: Tensor = F.embedding_bag(
        graph.items,
        table,
        graph.indptr,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    return sums


def received(graph: Interactions, table: Tensor, exponent: float) -> Tensor:
    """Return `row_sums`, each divided by nᵃ, with n the sum of the user's weights and a the
    exponent; 0 for a user without items."""
    scale = power(weight_sums(graph, graph.users, graph.num_users), -exponent)
    return row_sums(graph, table) * scale.to(table.dtype).unsqueeze(1)


def weight_sums(graph: Interactions, nodes: Tensor, count: int) -> Tensor:
    """Return (count,) float64 sums of the edges' weights by ``nodes``, (E,); without weights, the
    numbers of edges."""
    weights = graph.weights
    each = torch.ones_like(nodes, dtype=torch.float64) if weights is None else weights.double()
    return torch.zeros(count, dtype=torch.float64, device=nodes.device).index_add_(0, nodes, each)


def power(values: Tensor, exponent: float) -> Tensor:
    """Return positive values to the power of an exponent, and 0 for others."""
    return torch.where(values > 0, values.pow(exponent), 0.0)
