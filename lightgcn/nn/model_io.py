"""A model in a file: its weights and its shape."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.nn.model import LightGCN


def save_model(path: str | Path, model: LightGCN) -> None:
    """Write a model's weights and shape to one file, atomically.

    Raises:
        ValueError: for a part of a model that several processes hold; write ``model.whole()`` in
            process 0.
    """
    if model.processes.size > 1:
        raise ValueError(
            "this process holds a part of the model: model.whole() gives it all, in process 0"
        )
    alpha = model.alpha
    metadata = {
        "num_users": model.num_users,
        "num_items": model.num_items,
        "embedding_dim": model.embedding_dim,
        "num_layers": model.num_layers,
        "alpha": "learnable" if isinstance(alpha, Tensor) else list(alpha),
    }
    save_tensors(path, "model", model.state_dict(), metadata)


def load_model(path: str | Path) -> LightGCN:
    """Read what `save_model` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is corrupt, or its weights do not have the shape that it states.
    """
    tensors, metadata = load_tensors(path, "model")
    try:
        start = tensors["embedding"]  # in place of random numbers, which take longer than the file
        users, items = start.split([metadata["num_users"], metadata["num_items"]])
        model = LightGCN(**metadata, init=(users, items))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: weights and stated shape do not fit ({reason})") from error
    return model
