"""Settings of a model: its shape, and how its embeddings become scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightgcn.core.checks import checked_count, checked_number
from lightgcn.graph.adjacency import Normalization

Similarity = Literal["cosine", "ease"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the start of a `lightgcn.LightGCN`.

    Attributes:
        embedding_dim: width d of the embeddings.
        num_layers: number of propagation layers K; 0 is matrix factorisation.
        normalization: of the adjacency, "mean" or "symmetric".
        learnable_alpha: whether the K + 1 layer weights are learned; else they are 1 / (K + 1).
        init: start of the embedding table: "normal", "xavier", "spectral" (truncated SVD of the
            train edges) or "words" (sentence embeddings of names).
        init_std: standard deviation of the start, unless it is "xavier".

    Raises:
        ValueError: naming the setting that is out of range.

    Example:
        >>> from lightgcn import ModelConfig
        >>> ModelConfig(num_layers=2).normalization
        'symmetric'
    """

    embedding_dim: int = 64
    num_layers: int = 3
    normalization: Normalization = "symmetric"
    learnable_alpha: bool = False
    init: Literal["normal", "xavier", "spectral", "words"] = "normal"
    init_std: float = 0.1

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice(self, "normalization", "mean", "symmetric")
        check_choice(self, "learnable_alpha", False, True)
        check_choice(self, "init", "normal", "xavier", "spectral", "words")
        checked_count("embedding_dim", self.embedding_dim, 1)
        checked_count("num_layers", self.num_layers, 0)
        checked_number("init_std", self.init_std, 0)


@dataclass(frozen=True)
class RankingConfig:
    """How the embeddings of a trained model become scores. The model carries it.

    Attributes:
        popularity_prior: None to score by dot products; a number to score by cosines plus this
            weight times log(1 + popularity) of the item (`lightgcn.ranking.with_popularity_prior`).
            In-batch softmax removes item popularity from the scores; the prior adds it back.
        item_knn: number of neighbours of each item that add to the scores
            (`lightgcn.ranking.ItemKNN`); 0 for none.
        item_knn_weight: the most that they add to a score.
        item_similarity: what an item's neighbours are and give: "cosine"
            (`lightgcn.ranking.nearest_items`), or "ease", the weights of linear regressions
            (`lightgcn.ranking.ease_weights`).
        user_knn: number of nearest other users whose items add to a user's scores
            (`lightgcn.ranking.UserKNN`); 0 for none.
        user_knn_weight: the most that they add to a score.
        spectral: number of singular vectors of the graph whose dot products add to the scores
            (`lightgcn.ranking.closed_forms`); 0 for none.
        spectral_weight: their weight, in standard deviations of a user's scores.
        time_decay: exponent p of (1 + age)⁻ᵖ, by which a user's latest items count more than
            earlier ones (`lightgcn.ranking.time_decay`); 0 for all alike. No effect on a graph
            without an order.
        time_decay_weight: how far a user's embedding is moved towards the latest items.

    Raises:
        ValueError: naming the setting that is out of range.

    Example:
        >>> from lightgcn import RankingConfig
        >>> RankingConfig(popularity_prior=0.1).item_knn
        0
    """

    popularity_prior: float | None = None
    item_knn: int = 0
    item_knn_weight: float = 0.2
    item_similarity: Similarity = "cosine"
    user_knn: int = 0
    user_knn_weight: float = 0.3
    spectral: int = 0
    spectral_weight: float = 0.02
    time_decay: float = 0.0
    time_decay_weight: float = 0.5

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.popularity_prior is not None:
            checked_number("popularity_prior", self.popularity_prior, 0)
        check_choice(self, "item_similarity", "cosine", "ease")
        for name in ("item_knn", "user_knn", "spectral"):
            checked_count(name, getattr(self, name), 0)
        for part in ("item_knn", "user_knn", "spectral", "time_decay"):
            checked_number(f"{part}_weight", getattr(self, f"{part}_weight"), 0)
        checked_number("time_decay", self.time_decay, 0)


def check_scores_all_pairs(ranking: RankingConfig) -> None:
    """Raise a ValueError if a part of a score is not defined for pairs of any two nodes."""
    for name, unset in (
        ("item_knn", 0),
        ("user_knn", 0),
        ("spectral", 0),
        ("popularity_prior", None),
    ):
        value = getattr(ranking, name)
        if value != unset:
            raise ValueError(
                f'{name} must be {unset} with negative_pairs="all", got {value!r}: it scores '
                "user-item pairs"
            )


def plain_numbers(config: Any) -> None:
    """Replace NumPy numbers among the fields of a frozen dataclass by Python's."""
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if isinstance(value, np.integer | np.floating):
            object.__setattr__(config, name, value.item())


def check_choice(config: Any, name: str, *allowed: object) -> None:
    """Raise a ValueError unless a field has one of some values."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
