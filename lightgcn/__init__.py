"""LightGCN graph collaborative filtering in plain PyTorch."""

from lightgcn.adjacency import Adjacency, normalized_adjacency
from lightgcn.baselines import popularity
from lightgcn.config import PRESETS, TrainConfig, preset, save_preset
from lightgcn.evaluation import Evaluation, evaluate, evaluate_links, evaluate_ranking
from lightgcn.interactions import Interactions
from lightgcn.losses import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty, softmax_loss
from lightgcn.model import LightGCN
from lightgcn.propagation import propagate
from lightgcn.recommender import Recommendation, Recommender
from lightgcn.retrieval import TopK, top_k
from lightgcn.sampling import sample_negative_items, sample_negatives
from lightgcn.splitting import LinkSet, Split, link_set, split_edges
from lightgcn.subgraph import ego_graph, k_core, largest_component, locality_order, rank_users_by_popularity
from lightgcn.training import TrainResult, fit
from lightgcn.trials import Trial
from lightgcn.tuning import TuneProgress, TuneResult, tune

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Adjacency",
    "Evaluation",
    "Interactions",
    "LightGCN",
    "LinkSet",
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
    "ego_graph",
    "evaluate",
    "evaluate_links",
    "evaluate_ranking",
    "fit",
    "in_batch_softmax_loss",
    "k_core",
    "l2_penalty",
    "largest_component",
    "link_set",
    "locality_order",
    "normalized_adjacency",
    "popularity",
    "preset",
    "propagate",
    "rank_users_by_popularity",
    "sample_negative_items",
    "sample_negatives",
    "save_preset",
    "softmax_loss",
    "split_edges",
    "top_k",
    "tune",
]
