"""The settings of a training run, and presets by name or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from torch import Tensor

from lightgcn.core.checks import checked_count, is_number
from lightgcn.core.storage import read_json, write_json
from lightgcn.graph.adjacency import Normalization
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import NegativePairs
from lightgcn.nn.model import LightGCN
from lightgcn.nn.spectral import spectral_embeddings
from lightgcn.nn.text_features import word_embeddings
from lightgcn.ranking.item_knn import NeighbourResidual, neighbour_residual
from lightgcn.ranking.metrics import parse_metric
from lightgcn.ranking.time_decay import Recency, recent_items

# What may differ when a run is resumed: how long to train.
MAY_CHANGE = ("epochs", "patience")


class Scoring(TypedDict):
    """What beside the model's embeddings scores: arguments of `lightgcn.evaluate` and
    `Recommender.from_model`."""

    popularity_prior: float | None
    residual: NeighbourResidual | None
    recency: Recency | None


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; `preset` has good ones by name. NumPy numbers become
    Python's.

    Attributes:
        loss: "bce" on the link set's positives and negatives, "bpr" with sampled negatives,
            "softmax" over in-batch items.
        normalization: of the adjacency, "mean" or "symmetric".
        embedding_dim: width of the model that `new_model` makes.
        num_layers: its layers.
        learnable_alpha: whether its layer weights are learned.
        init: its start, "normal", "xavier", "spectral" (`lightgcn.spectral_embeddings` of the train
            edges) or "words" (`lightgcn.nn.text_features.word_embeddings` of names).
        init_std: standard deviation of the start, unless it is "xavier".
        epochs: the most passes over the supervision edges.
        batch_size: positives (bce: links) per step; None for one step per epoch over all of them.
        learning_rate: of Adam.
        weight_decay: of Adam, on all parameters.
        l2: factor of `l2_penalty` on the batch's layer-0 embeddings.
        num_negatives: negatives per positive (bpr).
        positives: "edges" walks through all edges in random order; "users" draws users uniformly,
            as the authors do (bpr, softmax).
        temperature: τ of the softmax loss.
        negative_weight: weight of its log-sum term.
        block_size: its in-batch items.
        popularity_prior: None to score by dot products; a number to score by cosines plus so much
            of an item's log-popularity (`lightgcn.with_popularity_prior`), which suits a softmax
            loss: its cosines lack it.
        neighbours: how many nearest items of each item add to the scores of a ranking
            (`lightgcn.neighbour_residual`); 0 for none. Training does not look at them.
        neighbour_weight: how much they add at most.
        recency: exponent of (1 + age) by which a user's last items count more than the earlier ones
            in scores (`lightgcn.recent_items`); 0 for all alike. No effect on data without an
            order, and none on training.
        recency_weight: how far users' embeddings are drawn towards their last items.
        disjoint: share of train edges to hold back from the messages; for the caller's
            `split_edges`.
        negative_pairs: "user_item" or "all"; likewise.
        metric: what chooses the best epoch on validation: "roc_auc", "loss", or a ranking metric
            such as "recall@20".
        eval_every: epochs between validations.
        eval_users: how many users validation ranks at most, drawn by the seed, with their links;
            None for all. Of large data some ten thousand tell as much as all, in a fraction of the
            time.
        patience: validations without a new best before training stops; None: never.
        precision: "float32", or "mixed": on a CPU propagation gathers from float16 tables
            (unweighted edges), and the softmax loss multiplies in bfloat16 where the CPU has
            instructions for it (`lightgcn.core.processor.fast_bfloat16`; not for a temperature below
            0.05); sums, weights and optimiser are in float32.
        seed: of the start and of every draw.

    Raises:
        ValueError: naming the setting that is out of range.
    """

    loss: Literal["bce", "bpr", "softmax"] = "bpr"
    normalization: Normalization = "symmetric"
    embedding_dim: int = 64
    num_layers: int = 3
    learnable_alpha: bool = False
    init: Literal["normal", "xavier", "spectral", "words"] = "normal"
    init_std: float = 0.1
    epochs: int = 1000
    batch_size: int | None = 2048
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    l2: float = 1e-4
    num_negatives: int = 1
    positives: Literal["edges", "users"] = "edges"
    temperature: float = 0.12
    negative_weight: float = 0.84
    block_size: int = 2048
    popularity_prior: float | None = None
    neighbours: int = 0
    neighbour_weight: float = 0.2
    recency: float = 0.0
    recency_weight: float = 0.5
    disjoint: float = 0.0
    negative_pairs: NegativePairs = "user_item"
    metric: str = "recall@20"
    eval_every: int = 10
    eval_users: int | None = None
    patience: int | None = 10
    precision: Literal["float32", "mixed"] = "mixed"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, np.integer | np.floating):
                object.__setattr__(self, name, value.item())
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, allowed))}, got "
                    f"{getattr(self, name)!r}"
                )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in ("batch_size", "patience", "eval_users"):
                continue
            checked_count(name, value, least)
        for name in ("learning_rate", "temperature", "negative_weight"):
            if not (is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name in (
            "weight_decay",
            "l2",
            "init_std",
            "neighbour_weight",
            "recency",
            "recency_weight",
        ):
            if not (is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"{name} must be a number of at least 0, got {getattr(self, name)!r}"
                )
        if self.popularity_prior is not None and not (
            is_number(self.popularity_prior) and self.popularity_prior >= 0
        ):
            raise ValueError(
                "popularity_prior must be None or a number of at least 0, got "
                f"{self.popularity_prior!r}"
            )
        if not (is_number(self.disjoint) and 0 <= self.disjoint < 1):
            raise ValueError(f"disjoint must be in [0, 1), got {self.disjoint!r}")
        if self.loss == "bce" and self.positives != "edges":
            raise ValueError(
                f"positives={self.positives!r} goes with bpr and softmax; bce takes the link set's "
                "edges"
            )
        if self.neighbours and self.negative_pairs == "all":
            raise ValueError(
                'neighbours must be 0 with negative_pairs="all": they score user-item pairs'
            )
        parse_metric(self.metric)

    def scoring(self, message: Interactions) -> Scoring:
        """Return how a model of these settings scores: ``evaluate(model, adjacency, links,
        **config.scoring(…))``.

        Args:
            message: what messages flow along where scores are wanted: ``links.message``, or the
                interactions that a `Recommender` is made of.
        """
        residual, last = None, None
        if self.recency and message.order is not None:
            last = recent_items(message, self.recency, self.recency_weight)
        if self.neighbours:
            residual = neighbour_residual(message, self.neighbours, self.neighbour_weight)
            residual = residual if last is None else replace(residual, history=last.recent)
        return Scoring(popularity_prior=self.popularity_prior, residual=residual, recency=last)

    def new_model(
        self,
        num_users: int,
        num_items: int,
        train: Interactions | None = None,
        words: tuple[Tensor, Tensor] | None = None,
    ) -> LightGCN:
        """Return an untrained model of these settings.

        Args:
            num_users: number of users.
            num_items: number of items.
            train: the edges that will be trained on (``split.val.message``); only a spectral start
                looks at them.
            words: (num_users, f) and (num_items, f) embeddings of names
                (`lightgcn.nn.text_features.word_features`); only a start from words looks at them.

        Raises:
            ValueError: if the start is spectral and ``train`` is missing, without edges or over
                other nodes, or it is from words and these are missing or of other nodes.
        """
        alpha: Literal["learnable"] | None = "learnable" if self.learnable_alpha else None
        init: Any = self.init
        if init == "spectral":
            if train is None:
                raise ValueError(
                    "a spectral start needs the train edges: new_model(U, I, split.val.message)"
                )
            init = spectral_embeddings(train, self.embedding_dim, std=self.init_std)
        if init == "words":
            if words is None:
                raise ValueError(
                    "a start from words needs embeddings of names: lightgcn train --words MODEL"
                )
            init = word_embeddings(*words, self.embedding_dim, std=self.init_std)
        return LightGCN(
            num_users,
            num_items,
            self.embedding_dim,
            self.num_layers,
            alpha,
            init=init,
            init_std=self.init_std,
            seed=self.seed,
        )


_LEAST = {
    "embedding_dim": 1,
    "num_layers": 0,
    "epochs": 1,
    "batch_size": 1,
    "num_negatives": 1,
    "block_size": 1,
    "neighbours": 0,
    "eval_every": 1,
    "eval_users": 1,
    "patience": 1,
    "seed": 0,
}

_CHOICES: dict[str, tuple[object, ...]] = {
    "loss": ("bce", "bpr", "softmax"),
    "normalization": ("mean", "symmetric"),
    "learnable_alpha": (False, True),
    "init": ("normal", "xavier", "spectral", "words"),
    "positives": ("edges", "users"),
    "negative_pairs": ("user_item", "all"),
    "precision": ("float32", "mixed"),
}

# A softmax loss over large batches from a spectral start; cosines, popularity and neighbours score.
_FAST = TrainConfig(
    loss="softmax",
    num_layers=2,
    init="spectral",
    init_std=0.005,
    epochs=8,
    batch_size=16384,
    l2=0.0,
    temperature=0.15,
    negative_weight=1.0,
    popularity_prior=0.13,
    neighbours=20,
    eval_every=2,
    patience=3,
)

PRESETS = {
    # The tutorial: full-batch link prediction with disjoint edges.
    "tutorial": TrainConfig(
        loss="bce",
        normalization="mean",
        embedding_dim=32,
        num_layers=3,
        epochs=300,
        batch_size=None,
        learning_rate=0.01,
        weight_decay=1e-5,
        l2=0.0,
        disjoint=0.2,
        metric="roc_auc",
        eval_every=1,
        patience=None,
    ),
    # He et al., SIGIR 2020, section 4.1.2.
    "paper": TrainConfig(),
    "fast": _FAST,
    # The same for longer; where edges have an order, what a user had last counts most.
    "best": replace(
        _FAST, num_layers=3, epochs=16, recency=2.0, recency_weight=1.0, eval_every=4, patience=2
    ),
}


def preset(name: str | Path, **changes: Any) -> TrainConfig:
    """Return a preset, or that of a ``.json`` file (`save_preset`), with some settings changed.

    Presets are "tutorial", "paper", "fast" and "best".

    Raises:
        ValueError: for an unknown preset or setting, a setting out of range, or a file that holds
            no preset; naming the file, the setting and its value.
        FileNotFoundError: if there is no such file.
    """
    if str(name).endswith(".json"):
        start = _load_preset(Path(name))
    elif name in PRESETS:
        start = PRESETS[str(name)]
    else:
        raise ValueError(
            f"no preset {name!r}; there are {', '.join(PRESETS)}, and .json files of lightgcn tune"
        )
    _check_names(changes)
    return replace(start, **changes)


def save_preset(
    path: str | Path, config: TrainConfig, found: Mapping[str, Any] | None = None
) -> None:
    """Write settings to a JSON file that `preset` reads, atomically.

    Args:
        path: the file, whose name ends in ``.json``.
        config: the settings.
        found: how they were found, for people to read: anything JSON can hold.

    Raises:
        ValueError: if the name does not end in ``.json``.
    """
    if Path(path).suffix != ".json":
        raise ValueError(f"{path}: a preset's file name must end in .json")
    about = {"kind": _PRESET_KIND, "version": 1, "settings": asdict(config)}
    write_json(path, about if found is None else about | {"found": dict(found)})


def _load_preset(path: Path) -> TrainConfig:
    """Read a preset file; settings that it lacks are those of `TrainConfig`."""
    about = read_json(path)
    if (
        not isinstance(about, dict)
        or about.get("kind") != _PRESET_KIND
        or not isinstance(about.get("settings"), dict)
    ):
        raise ValueError(
            f'{path}: not a preset: it has no "kind": "{_PRESET_KIND}" and "settings", as save_preset writes'
        )
    if about.get("version") != 1:
        raise ValueError(
            f"{path}: version {about.get('version')!r} of a preset; this program reads version 1"
        )
    try:
        _check_names(about["settings"])
        return TrainConfig(**about["settings"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_names(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name not in TrainConfig.__dataclass_fields__:
            known = ", ".join(TrainConfig.__dataclass_fields__)
            raise ValueError(f"no setting {name!r}; there are {known}, got {name}={value!r}")


_PRESET_KIND = "lightgcn preset"
