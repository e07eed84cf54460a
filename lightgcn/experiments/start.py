"""The earlier run from whose model a run starts (``lightgcn train NEW RUN2 --from RUN``)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.graph.interactions import Interactions
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import load_model
from lightgcn.nn.warm_start import matches, warm_start
from lightgcn.recommender import Recommender
from lightgcn.training.config import Preset


class EarlierRun(NamedTuple):
    """A trained model, and all edges that were known in its run: train, validation and test."""

    folder: Path
    model: LightGCN
    graph: Interactions

    @classmethod
    def read(cls, folder: str | Path, model_file: str, recommender_file: str) -> EarlierRun:
        """Read a run folder.

        Raises:
            FileNotFoundError: if it holds no model.
            ValueError: if the model has side nodes, or a file is corrupt.
        """
        folder = Path(folder)
        for name in (model_file, recommender_file):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"--from {folder}: has no {name}; it takes the folder of a run in which "
                    "training has ended"
                )
        model = load_model(folder / model_file)
        graph = Recommender.load(folder / recommender_file).seen
        if (model.num_users, model.num_items) != (graph.num_users, graph.num_items):
            raise ValueError(
                f"--from {folder}: its model has {model.num_users} users and {model.num_items} "
                f"items, its recommender {graph.num_users} and {graph.num_items}; a run with side "
                "nodes cannot be started from"
            )
        return cls(folder, model, graph)

    def start(self, graph: Interactions, settings: Preset) -> LightGCN:
        """Return the untrained model of a run over ``graph``, the train edges.

        Raises:
            ValueError: if the settings are of another shape than the model, or the data has no
                user and no item of the earlier run.
        """
        own, shape = self.model, settings.model
        pairs = {
            "embedding_dim": (own.embedding_dim, shape.embedding_dim),
            "num_layers": (own.num_layers, shape.num_layers),
            "learnable_alpha": (isinstance(own.alpha, Tensor), shape.learnable_alpha),
            "normalization": (own.normalization, shape.normalization),
        }
        for name, (found, wanted) in pairs.items():
            if found != wanted:
                raise ValueError(
                    f"--from {self.folder}: its model has {name}={found!r}, the settings have "
                    f"{wanted!r}; without --preset the settings are those of that run"
                )
        try:
            model = warm_start(own, self.graph, graph, seed=settings.train.seed)
        except ValueError as error:
            raise ValueError(f"--from {self.folder}: {error}") from error
        model.ranking = settings.ranking
        return model

    def knows(self, graph: Interactions) -> Tensor:
        """Return (E,) bool: which edges of a graph were known in the run."""
        old, device = self.graph, graph.device
        users = matches(old.user_ids, old.num_users, graph.user_ids, graph.num_users).to(device)
        items = matches(old.item_ids, old.num_items, graph.item_ids, graph.num_items).to(device)
        left, right = users[graph.users], items[graph.items]
        keys = left * old.num_items + right
        return (left >= 0) & (right >= 0) & torch.isin(keys, old.keys.to(device))
