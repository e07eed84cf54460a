"""The model: LightGCN, its propagation, losses and initialisation."""

from lightgcn.nn.config import ModelConfig, RankingConfig
from lightgcn.nn.link_scores import link_scores
from lightgcn.nn.losses import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty, softmax_loss
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import load_model, save_model
from lightgcn.nn.propagation import propagate, propagate_rows
from lightgcn.nn.spectral import spectral_embeddings, truncated_svd

__all__ = [
    "LightGCN",
    "ModelConfig",
    "RankingConfig",
    "bce_loss",
    "bpr_loss",
    "in_batch_softmax_loss",
    "l2_penalty",
    "link_scores",
    "load_model",
    "propagate",
    "propagate_rows",
    "save_model",
    "softmax_loss",
    "spectral_embeddings",
    "truncated_svd",
]
