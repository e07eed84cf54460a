"""Settings by concern, and presets: the three together, by name or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightgcn.core.checks import checked_count, checked_number, is_number
from lightgcn.core.storage import read_json, write_json
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import NegativePairs
from lightgcn.nn.config import (
    ModelConfig,
    RankingConfig,
    check_choice,
    check_scores_all_pairs,
    plain_numbers,
)
from lightgcn.nn.model import LightGCN
from lightgcn.nn.spectral import spectral_embeddings
from lightgcn.nn.text_features import word_embeddings
from lightgcn.ranking.metrics import parse_objective

# What may differ when a run is resumed: how long to train.
MAY_CHANGE = ("epochs", "patience")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes:
        loss: "bce" on the link set's positives and negatives, "bpr" with sampled negatives,
            "softmax" over in-batch items.
        epochs: maximum number of passes over the supervision edges.
        batch_size: positives (bce: links) per step; None for one step per epoch over all of them.
        learning_rate: of Adam.
        weight_decay: of Adam, on all parameters.
        l2: factor of `lightgcn.l2_penalty` on the batch's layer-0 embeddings.
        num_negatives: negatives per positive (bpr).
        positives: "edges" visits all edges in random order; "users" draws users uniformly, as the
            authors do (bpr, softmax).
        temperature: τ of the softmax loss.
        negative_weight: weight of its log-sum term.
        block_size: number of its in-batch items.
        disjoint: share of train edges that carry no messages; for `split_edges`.
        negative_pairs: "user_item" or "all"; for `split_edges`.
        metric: the validation metric that chooses the best epoch: "roc_auc", "loss", or a ranking
            metric such as "recall@20".
        eval_every: epochs between validations.
        eval_users: number of users to rank for in a validation, drawn by the seed; None for all. On
            large data ten thousand suffice, in a fraction of the time. "roc_auc" and "loss" are of
            all links.
        patience: validations without a new best before training stops; None to run all epochs.
        precision: "float32", or "mixed": on a CPU propagation gathers from float16 tables
            (unweighted edges), and the softmax loss multiplies in bfloat16 if the CPU has
            instructions for it (`lightgcn.core.processor.fast_bfloat16`) and the temperature is at
            least 0.05; sums, weights and optimiser are in float32.
        choose_ranking: whether the parts of a score are chosen on the validation set after training
            (`lightgcn.ranking.choose_ranking`) by `lightgcn.train` and the command line.
        use_order: whether that choice may use the order of a user's edges, by time decay.
        seed: of the initial weights and of every random draw.

    Raises:
        ValueError: naming the setting that is out of range.

    Example:
        >>> from lightgcn import TrainConfig
        >>> TrainConfig(loss="softmax", epochs=8).batch_size
        2048
    """

    loss: Literal["bce", "bpr", "softmax"] = "bpr"
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
    disjoint: float = 0.0
    negative_pairs: NegativePairs = "user_item"
    metric: str = "recall@20"
    eval_every: int = 10
    eval_users: int | None = None
    patience: int | None = 10
    precision: Literal["float32", "mixed"] = "mixed"
    choose_ranking: bool = False
    use_order: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice(self, "loss", "bce", "bpr", "softmax")
        check_choice(self, "positives", "edges", "users")
        check_choice(self, "negative_pairs", "user_item", "all")
        check_choice(self, "precision", "float32", "mixed")
        check_choice(self, "choose_ranking", False, True)
        check_choice(self, "use_order", False, True)
        for name in ("epochs", "batch_size", "num_negatives", "block_size", "eval_every"):
            if (name, getattr(self, name)) != ("batch_size", None):
                checked_count(name, getattr(self, name), 1)
        for name in ("eval_users", "patience"):
            if getattr(self, name) is not None:
                checked_count(name, getattr(self, name), 1)
        checked_count("seed", self.seed, 0)
        for name in ("learning_rate", "temperature", "negative_weight"):
            checked_number(name, getattr(self, name))
        for name in ("weight_decay", "l2"):
            checked_number(name, getattr(self, name), 0)
        if not (is_number(self.disjoint) and 0 <= self.disjoint < 1):
            raise ValueError(f"disjoint must be in [0, 1), got {self.disjoint!r}")
        if self.loss == "bce" and self.positives != "edges":
            raise ValueError(
                f"positives={self.positives!r} is for bpr and softmax; bce trains on the edges of "
                "the link set"
            )
        parse_objective(self.metric)

    def meaningful(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics without "loss" if the scores were not trained to be logits: their
        cross-entropy means nothing then."""
        hidden = "loss" if self.loss != "bce" and self.metric != "loss" else None
        return {name: value for name, value in metrics.items() if name != hidden}


@dataclass(frozen=True)
class Preset:
    """All settings of a run: of the model, of its training, and of its ranking.

    Attributes:
        model: shape and initialisation of the model.
        train: settings of the training.
        ranking: the parts of a score.

    Raises:
        ValueError: if settings of two concerns contradict each other.

    Example:
        >>> import lightgcn
        >>> settings = lightgcn.preset("fast", epochs=3)
        >>> settings.train.epochs, settings.changed(num_layers=1).model.num_layers
        (3, 1)
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)

    def __post_init__(self) -> None:
        kinds = {"model": ModelConfig, "train": TrainConfig, "ranking": RankingConfig}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"{name} must be a {kind.__name__}, got {getattr(self, name)!r:.80}; "
                    'lightgcn.preset("fast", epochs=3) changes settings by name'
                )
        if self.train.negative_pairs == "all":
            check_scores_all_pairs(self.ranking)
            if self.train.choose_ranking:
                raise ValueError(
                    'choose_ranking must be False with negative_pairs="all": the parts that it '
                    "chooses score user-item pairs"
                )

    def changed(self, **settings: Any) -> Preset:
        """Return the preset with some settings changed, by name: of model, training or ranking.

        A part of the ranking that is given is kept: ``choose_ranking`` becomes False, unless it is
        given as well.

        Raises:
            ValueError: for an unknown setting, or one out of range.
        """
        _check_names(settings)
        if any(hasattr(self.ranking, name) for name in settings):
            settings = {"choose_ranking": False} | settings
        parts = {}
        for concern in self.__dataclass_fields__:
            config = getattr(self, concern)
            own = {name: settings[name] for name in settings if hasattr(config, name)}
            parts[concern] = replace(config, **own)
        return Preset(**parts)

    def flat(self) -> dict[str, Any]:
        """Return all settings by name."""
        return {name: value for part in asdict(self).values() for name, value in part.items()}

    def new_model(
        self, train: Interactions, *, words: tuple[Tensor, Tensor] | None = None
    ) -> LightGCN:
        """Return an untrained model of these settings over the nodes of a graph, on the CPU.

        Args:
            train: the train edges (``split.val.message``), for ``init="spectral"``.
            words: (num_users, f) and (num_items, f) embeddings of names
                (`lightgcn.nn.text_features.word_features`), for ``init="words"``.

        Raises:
            ValueError: if init is "spectral" and ``train`` has no edges, or init is "words" and
                ``words`` is missing or of different nodes.
        """
        shape, seed = self.model, self.train.seed
        init: Any = shape.init
        if init == "spectral":
            init = spectral_embeddings(train, shape.embedding_dim, std=shape.init_std)
        if init == "words":
            if words is None:
                raise ValueError(
                    'init="words" needs embeddings of names: pass words, or lightgcn train --words'
                )
            init = word_embeddings(*words, shape.embedding_dim, std=shape.init_std)
        model = LightGCN(
            train.num_users,
            train.num_items,
            shape.embedding_dim,
            shape.num_layers,
            "learnable" if shape.learnable_alpha else None,
            normalization=shape.normalization,
            init=init,
            init_std=shape.init_std,
            seed=seed,
        )
        model.ranking = self.ranking
        return model


CONCERNS = {"model": ModelConfig, "train": TrainConfig, "ranking": RankingConfig}
SETTINGS = tuple(field.name for config in CONCERNS.values() for field in fields(config))


def _check_names(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(
                f"no setting {name!r}; there are {', '.join(SETTINGS)}, got {name}={value!r}"
            )


# Softmax loss over large batches from a spectral start. Epochs are compared by cosines with a
# popularity prior and item kNN; then validation chooses the parts of a score.
_FAST = Preset(
    ModelConfig(num_layers=2, init="spectral", init_std=0.005),
    TrainConfig(
        loss="softmax",
        epochs=8,
        batch_size=16384,
        l2=0.0,
        temperature=0.15,
        negative_weight=1.0,
        eval_every=2,
        patience=3,
        choose_ranking=True,
    ),
    RankingConfig(popularity_prior=0.13, item_knn=20),
)

PRESETS = {
    # The tutorial: full-batch link prediction with disjoint edges.
    "tutorial": Preset(
        ModelConfig(embedding_dim=32, normalization="mean"),
        TrainConfig(
            loss="bce",
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
    ),
    # He et al., SIGIR 2020, section 4.1.2.
    "paper": Preset(),
    "fast": _FAST,
    # "fast" for longer.
    "best": _FAST.changed(num_layers=3, epochs=16, eval_every=4, patience=2),
}


def preset(name: str | Path, **changes: Any) -> Preset:
    """Return a preset by name, or from a ``.json`` file, with some settings changed.

    The names are "tutorial", "paper", "fast" and "best"; `save_preset` writes such files.

    Raises:
        ValueError: for an unknown preset or setting, a setting out of range, or a file that holds
            no preset; naming the file, the setting and its value.
        FileNotFoundError: if there is no such file.

    Example:
        >>> import lightgcn
        >>> lightgcn.preset("paper", epochs=3).train.epochs
        3
    """
    if not isinstance(name, str | Path):
        raise TypeError(f"name must be a preset's name or file, got {name!r:.80}")
    if str(name).endswith(".json"):
        start = _load_preset(Path(name))
    elif str(name) in PRESETS:
        start = PRESETS[str(name)]
    else:
        raise ValueError(
            f"no preset {name!r}; there are {', '.join(PRESETS)}, and .json files of lightgcn tune"
        )
    return start.changed(**changes)


def save_preset(path: str | Path, settings: Preset, found: Mapping[str, Any] | None = None) -> None:
    """Write settings to a JSON file that `preset` reads, atomically.

    Args:
        path: the file, whose name ends in ``.json``.
        settings: the settings.
        found: JSON values for readers about how the settings were found.

    Raises:
        ValueError: if the name does not end in ``.json``.

    Example:
        >>> save_preset("mine.json", preset("fast", epochs=3))
        >>> preset("mine.json").train.epochs
        3
    """
    if Path(path).suffix != ".json":
        raise ValueError(f"{path}: a preset's file name must end in .json")
    about = {"kind": _PRESET_KIND, "version": 1, "settings": settings.flat()}
    write_json(path, about if found is None else about | {"found": dict(found)})


def _load_preset(path: Path) -> Preset:
    """Read a preset file; settings that it lacks are those of "paper"."""
    about = read_json(path)
    if (
        not isinstance(about, dict)
        or about.get("kind") != _PRESET_KIND
        or not isinstance(about.get("settings"), dict)
    ):
        raise ValueError(
            f'{path}: not a preset: it lacks "kind": "{_PRESET_KIND}" or "settings", which '
            "save_preset writes"
        )
    if about.get("version") != 1:
        raise ValueError(
            f"{path}: version {about.get('version')!r} of a preset; this program reads version 1"
        )
    try:
        return Preset().changed(**about["settings"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


_PRESET_KIND = "lightgcn preset"
