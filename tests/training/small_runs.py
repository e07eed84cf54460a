"""Small trainings that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightgcn import LightGCN, Preset, Split, fit, preset, split_edges
from lightgcn.datasets.synthetic.generate import synthetic_interactions
from lightgcn.training import TrainResult

USERS, ITEMS = 60, 45
SMALL: dict[str, Any] = {"embedding_dim": 8, "epochs": 4, "eval_every": 2, "patience": None}
SETTINGS = {
    "tutorial": preset("tutorial", **SMALL),
    "paper": preset(
        "paper", **SMALL | {"batch_size": 150, "metric": "recall@5", "num_negatives": 2}
    ),
    "fast": preset(
        "fast", init="xavier", **SMALL | {"batch_size": 150, "metric": "ndcg@5", "block_size": 64}
    ),
    "all at once": Preset().changed(
        **SMALL,
        loss="bpr",
        learnable_alpha=True,
        positives="users",
        disjoint=0.3,
        batch_size=100,
        metric="recall@5",
        weight_decay=1e-4,
    ),
}
GRAPH = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)


def small_split(settings: Preset, seed: int = 0, **options: Any) -> Split:
    train = settings.train
    chosen = {"disjoint": train.disjoint, "negative_pairs": train.negative_pairs} | options
    return split_edges(GRAPH, (0.7, 0.15, 0.15), seed=seed, **chosen)


def new_model(settings: Preset, **changes: Any) -> LightGCN:
    model = settings.new_model(GRAPH)
    if changes:
        model.reset_parameters(**changes)
    return model


def trained(
    settings: Preset, *, split: Split | None = None, start: int | None = None, **options: Any
) -> tuple[LightGCN, TrainResult]:
    """Train a new model, from another start than the settings' if it is given."""
    model = new_model(settings) if start is None else new_model(settings, seed=start)
    return model, fit(model, split or small_split(settings), settings, **options)


def stop_after(steps: int) -> Callable[[], bool]:
    left = iter([False] * steps)
    return lambda: next(left, True)


def state(model: LightGCN) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.parameters()]


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if "seconds" not in key} for record in history
    ]


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
