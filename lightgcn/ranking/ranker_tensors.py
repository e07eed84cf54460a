"""A `Ranker` as tensors and JSON values, for its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightgcn.graph.interactions import Interactions
from lightgcn.nn.config import RankingConfig
from lightgcn.ranking.explanation import UserScales
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.residual import matrix_from_tensors, matrix_to_tensors
from lightgcn.ranking.time_decay import decayed
from lightgcn.ranking.user_knn import UserKNN

if TYPE_CHECKING:
    from lightgcn.ranking.ranker import Ranker


def ranker_tensors(ranker: Ranker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the ranker as tensors and JSON values to store, without the ids of ``history``."""
    tensors = {
        "users": ranker.users,
        "items": ranker.items,
        "seen.users": ranker.history.users,
        "seen.items": ranker.history.items,
    }
    optional = {
        "fold_in": ranker.fold_in_table,
        "seen.weights": ranker.history.weights,
        "seen.order": ranker.history.order,
        "fold_in.users": ranker.user_table,
        "seen.counted": ranker.counted,
        "linked": ranker.linked,
        "spectral.scale": ranker.spectral_scale,
        "spectral.variances": ranker.spectral_variances,
        "scales.embedding": ranker.user_scales and ranker.user_scales.embedding,
        "scales.latest": ranker.user_scales and ranker.user_scales.latest,
    }
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    for name, matrix in (
        ("item_knn", ranker.item_knn and ranker.item_knn.similarity),
        ("user_knn", ranker.user_knn and ranker.user_knn.profiles),
    ):
        if matrix is not None:
            parts = matrix_to_tensors(matrix)
            tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return tensors, {
        "ranking": asdict(ranker.config),
        "user_exponent": ranker.user_exponent,
        "embedding_dim": ranker.num_columns,
        "own_profiles": ranker.user_knn is not None and ranker.user_knn.are_own,
    }


def ranker_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], **ids: Any
) -> dict[str, Any]:
    """Return the attributes of the ranker that `ranker_tensors` stored; ``ids`` are ``user_ids``
    and ``item_ids``.

    Raises:
        KeyError: if a tensor or a value is missing.
        ValueError: if they do not fit each other.
    """
    config = RankingConfig(**metadata["ranking"])
    users, items = tensors["users"], tensors["items"]
    history = Interactions(
        tensors["seen.users"],
        tensors["seen.items"],
        len(users),
        len(items),
        tensors.get("seen.weights"),
        order=tensors.get("seen.order"),
        **ids,
    )
    knn, user_knn = None, None
    weighted = decayed(history, config.time_decay) if config.time_decay else history
    if config.item_knn:
        similarity = matrix_from_tensors(_prefixed(tensors, "item_knn"), len(items))
        if similarity.shape[0] != len(items):
            raise ValueError(f"the neighbours are those of {similarity.shape[0]} items")
        knn = ItemKNN(weighted, similarity, config.item_knn_weight)
    if config.user_knn:
        profiles = matrix_from_tensors(_prefixed(tensors, "user_knn"), len(items))
        count, weight, own = config.user_knn, config.user_knn_weight, metadata["own_profiles"]
        user_knn = UserKNN.from_profiles(weighted, profiles, count, weight, are_own=own)
    scales = None
    if "scales.embedding" in tensors:
        scales = UserScales(tensors["scales.embedding"], tensors["scales.latest"])
    width = items.shape[1] - 1 - len(tensors.get("spectral.variances", ()))
    if width != metadata["embedding_dim"]:
        raise ValueError(
            f"embeddings of {metadata['embedding_dim']} columns, but tables for {width}"
        )
    return {
        "users": users,
        "items": items,
        "history": history,
        "config": config,
        "item_knn": knn,
        "fold_in_table": tensors.get("fold_in"),
        "user_exponent": float(metadata["user_exponent"]),
        "linked": tensors.get("linked"),
        "spectral_scale": tensors.get("spectral.scale"),
        "spectral_variances": tensors.get("spectral.variances"),
        "user_knn": user_knn,
        "user_scales": scales,
        "user_table": tensors.get("fold_in.users"),
        "counted": tensors.get("seen.counted"),
    }


def _prefixed(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {part: tensors[f"{name}.{part}"] for part in ("ends", "items", "values")}
