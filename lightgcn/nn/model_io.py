"""A model in a file: its weights and its shape."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.model import LightGCN, saved_normalization


def save_model(path: str | Path, model: LightGCN) -> None:
    """Write a model to one file, atomically: weights, shape, normalisation and ranking.

    Raises:
        ValueError: for a part of a model that several processes hold; write ``model.whole()`` in
            process 0.

    Example:
        >>> from lightgcn import LightGCN, load_model, save_model
        >>> save_model("small.model", LightGCN(2, 3, embedding_dim=4))
        >>> load_model("small.model").embedding.shape
        torch.Size([5, 4])
    """
    if not isinstance(model, LightGCN):
        raise TypeError(f"model must be a LightGCN, got {type(model).__name__}")
    check_whole(model)
    alpha = model.alpha
    metadata = {
        "num_users": model.num_users,
        "num_items": model.num_items,
        "embedding_dim": model.embedding_dim,
        "num_layers": model.num_layers,
        "alpha": "learnable" if isinstance(alpha, Tensor) else list(alpha),
        "normalization": model.normalization,
        "ranking": asdict(model.ranking),
    }
    save_tensors(path, "model", dict(model.named_parameters()), metadata)


def load_model(path: str | Path) -> LightGCN:
    """Read what `save_model` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is corrupt, or its weights do not have the shape that it states.

    Example:
        >>> from lightgcn import LightGCN, load_model, save_model
        >>> model = LightGCN(2, 3, embedding_dim=4, normalization="mean")
        >>> save_model("small.model", model)
        >>> load_model("small.model").normalization
        'mean'
    """
    tensors, metadata = load_tensors(path, "model")
    try:
        ranking = RankingConfig(**metadata.pop("ranking"))
        normalization = metadata.pop("normalization")
        start = tensors["embedding"]  # in place of random numbers, which take longer than the file
        users, items = start.split([metadata["num_users"], metadata["num_items"]])
        model = LightGCN(**metadata, init=(users, items))
        model.to(start.dtype).normalization = saved_normalization(normalization)
        model.ranking = ranking
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: weights and stated shape do not fit ({reason})") from error
    return model


def check_whole(model: LightGCN) -> None:
    """Raise a ValueError for a model of which this process holds some columns alone."""
    if model.embedding.shape[1] != model.embedding_dim:
        raise ValueError(
            "this process holds some columns of the model: model.whole() gives all, in process 0"
        )
