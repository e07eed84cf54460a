"""LightGCN graph collaborative filtering in plain PyTorch.

The way of the data, and the folder of each step (docs/architecture.md):

    files ─▶ datasets ─▶ graph ─▶ nn (LightGCN) ─▶ training ─▶ ranking ─▶ Recommender

The short way:

    graph = Interactions.from_frame(frame, user="listener", item="song")
    split = split_edges(graph, stratify="user")
    model = train(split, "fast")
    print(evaluate(model, split.test))
    recommender = Recommender(model, graph)
    recommender.recommend("ann", k=10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightgcn.graph.adjacency import Adjacency, normalized_adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split, link_set
from lightgcn.graph.negatives import sample_negative_items, sample_negatives
from lightgcn.graph.split import split_edges
from lightgcn.nn.config import ModelConfig, RankingConfig
from lightgcn.nn.losses import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty, softmax_loss
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import load_model, save_model
from lightgcn.nn.propagation import propagate
from lightgcn.nn.warm_start import warm_start
from lightgcn.ranking.evaluation import (
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.result import Evaluation
from lightgcn.ranking.topk import top_k
from lightgcn.recommendation import Explanation, Recommendation
from lightgcn.recommender import Recommender
from lightgcn.training.config import Preset, TrainConfig, preset
from lightgcn.training.trainer import fit, train
from lightgcn.training.tuning import tune

if TYPE_CHECKING:
    from lightgcn import challenge as challenge
    from lightgcn import convert as convert
    from lightgcn import core as core
    from lightgcn import datasets as datasets
    from lightgcn import experiments as experiments
    from lightgcn import graph as graph
    from lightgcn import nn as nn
    from lightgcn import ranking as ranking
    from lightgcn import training as training

__version__ = "0.2.0.dev0"

__all__ = [
    "Adjacency",
    "Evaluation",
    "Explanation",
    "Interactions",
    "LightGCN",
    "LinkSet",
    "ModelConfig",
    "Preset",
    "Ranker",
    "RankingConfig",
    "Recommendation",
    "Recommender",
    "Split",
    "TrainConfig",
    "bce_loss",
    "bpr_loss",
    "evaluate",
    "evaluate_links",
    "evaluate_ranking",
    "evaluate_scores",
    "fit",
    "in_batch_softmax_loss",
    "l2_penalty",
    "link_set",
    "load_model",
    "normalized_adjacency",
    "preset",
    "propagate",
    "sample_negative_items",
    "sample_negatives",
    "save_model",
    "softmax_loss",
    "split_edges",
    "top_k",
    "train",
    "tune",
    "warm_start",
]

_FOLDERS = (
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
    """Import a folder when it is first used: ``import lightgcn`` stays fast."""
    if name in _FOLDERS:
        return import_module(f"lightgcn.{name}")
    raise AttributeError(f"module 'lightgcn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_FOLDERS, "__version__"])
