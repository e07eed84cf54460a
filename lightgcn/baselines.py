"""Baselines that keep a model honest, in the form of embeddings: whatever takes a model's takes these."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.interactions import Interactions


def popularity(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Return (num_users, 1) and (num_items, 1) float32 embeddings whose dot product is an item's number of users."""
    items = interactions.item_degrees.to(torch.float32).unsqueeze(1)
    return torch.ones(interactions.num_users, 1, device=interactions.device), items
