"""LightGCN graph collaborative filtering in plain PyTorch."""

from importlib import import_module
from typing import Any

from lightgcn.graph.adjacency import Adjacency, normalized_adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split, link_set
from lightgcn.graph.negatives import sample_negative_items, sample_negatives
from lightgcn.graph.split import split_edges
from lightgcn.graph.subgraph import (
    GraphStatistics,
    ego_graph,
    graph_statistics,
    k_core,
    largest_component,
    locality_order,
    random_users,
    rank_users_by_popularity,
)
from lightgcn.nn.losses import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty, softmax_loss
from lightgcn.nn.model import LightGCN
from lightgcn.nn.propagation import propagate
from lightgcn.nn.spectral import spectral_embeddings, truncated_svd
from lightgcn.ranking.baselines import ItemScorer, ease, gf_cf, item_cosine, popularity
from lightgcn.ranking.candidates import TopK
from lightgcn.ranking.evaluation import (
    Evaluation,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.item_knn import NeighbourResidual, nearest_items, neighbour_residual
from lightgcn.ranking.ranker import with_popularity_prior
from lightgcn.ranking.time_decay import Recency, recent_items
from lightgcn.ranking.topk import top_k, top_k_scores
from lightgcn.recommender import Recommendation, Recommender
from lightgcn.training.config import PRESETS, TrainConfig, preset, save_preset
from lightgcn.training.trainer import TrainResult, fit
from lightgcn.training.trials import Trial
from lightgcn.training.tuning import TuneProgress, TuneResult, tune

__version__ = "0.1.0"
_MODULES = (
    "challenge",
    "convert",
    "core",
    "datasets",
    "experiments",
    "graph",
    "nn",
    "ranking",
    "training",
)


def __getattr__(name: str) -> Any:
    """Import a part of the library that is looked for, such as ``lightgcn.experiments.plots``;
    ``import lightgcn`` stays fast."""
    if name in _MODULES:
        return import_module(f"lightgcn.{name}")
    raise AttributeError(f"module 'lightgcn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


__all__ = [
    "PRESETS",
    "Adjacency",
    "Evaluation",
    "GraphStatistics",
    "Interactions",
    "ItemScorer",
    "LightGCN",
    "LinkSet",
    "NeighbourResidual",
    "Recency",
    "Recommendation",
    "Recommender",
    "Split",
    "TopK",
    "TrainConfig",
    "TrainResult",
    "Trial",
    "TuneProgress",
    "TuneResult",
    "bce_loss",
    "bpr_loss",
    "ease",
    "ego_graph",
    "evaluate",
    "evaluate_links",
    "evaluate_ranking",
    "evaluate_scores",
    "fit",
    "gf_cf",
    "graph_statistics",
    "in_batch_softmax_loss",
    "item_cosine",
    "k_core",
    "l2_penalty",
    "largest_component",
    "link_set",
    "locality_order",
    "nearest_items",
    "neighbour_residual",
    "normalized_adjacency",
    "popularity",
    "preset",
    "propagate",
    "random_users",
    "rank_users_by_popularity",
    "recent_items",
    "sample_negative_items",
    "sample_negatives",
    "save_preset",
    "softmax_loss",
    "spectral_embeddings",
    "split_edges",
    "top_k",
    "top_k_scores",
    "truncated_svd",
    "tune",
    "with_popularity_prior",
]
