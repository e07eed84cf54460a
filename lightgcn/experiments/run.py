"""A run folder: what a model was trained with, on what data, and what came of it.

run.json                   data, split and training settings, versions
checkpoint.safetensors     the state of training, to resume from
history.jsonl              one record per epoch
model.safetensors          the best model
recommender.safetensors    final embeddings over all known edges, with ids and names, for
`Recommender.load` trained.json               how many epochs these two were trained, and how long
the start took to make test.json                  metrics on the test set, once they were asked for
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.core.lock import folder_lock
from lightgcn.core.memory import answering_memory, training_memory, warn_of_shortage
from lightgcn.core.process_group import SINGLE_PROCESS, ProcessGroup
from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset
from lightgcn.datasets.dataset import FILE_NAME
from lightgcn.graph.adjacency import normalized_adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split, link_set
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.graph.split import split_edges
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import load_model, save_model
from lightgcn.nn.text_features import TextEncoder, word_features
from lightgcn.ranking.baselines import ItemScorer, ease, gf_cf, item_cosine, popularity
from lightgcn.ranking.evaluation import (
    Evaluation,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.inversion import check_memory
from lightgcn.recommender import Recommender
from lightgcn.training.config import MAY_CHANGE, TrainConfig
from lightgcn.training.sharded import ShardedLightGCN
from lightgcn.training.trainer import CHECKPOINT_FILE, HISTORY_FILE, TrainResult, fit, read_history

CONFIG_FILE = "run.json"
MODEL_FILE = "model.safetensors"
RECOMMENDER_FILE = "recommender.safetensors"
TRAINED_FILE = "trained.json"
TEST_FILE = "test.json"
RUN_FILES = (
    CONFIG_FILE,
    CHECKPOINT_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    RECOMMENDER_FILE,
    TRAINED_FILE,
    TEST_FILE,
)

_SCORERS: dict[str, Callable[..., ItemScorer]] = {
    "item_cosine": item_cosine,
    "ease": ease,
    "gf_cf": gf_cf,
}
BASELINES = ("popularity", *_SCORERS, "mf")


@dataclass(frozen=True)
class RunConfig:
    """What determines a run: the data, how it was split, and the training settings.

    Attributes:
        data: path of the dataset, as `open_dataset` takes it.
        fingerprint: of the dataset (`Dataset.fingerprint`), so that other data under the same path
            is noticed.
        train: the training settings.
        ratios: (train, validation, test) shares; (train, validation) for a dataset that brings its
            own test split.
        stratify: None or "user", as for `split_edges`, or "last": by user, and what is held out is
            the end of each user's list (`Interactions.order`).
        negatives: negatives per positive of each link set.
        split_seed: seed of the split.
        words: the language model behind a start from words, as
            `lightgcn.nn.text_features.TextEncoder` takes it.
        side_nodes: column of the items whose equal values are further nodes
            (`lightgcn.graph.side_nodes`), such as "artist_id"; None for no such nodes.
    """

    data: str
    fingerprint: str
    train: TrainConfig
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    stratify: Literal["user", "last"] | None = None
    negatives: float = 1.0
    split_seed: int = 0
    words: str | None = None
    side_nodes: str | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "numpy")}
    )

    def save(self, folder: str | Path) -> None:
        """Write the settings to the run folder."""
        write_json(Path(folder) / CONFIG_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> RunConfig:
        """Read the settings of a run folder.

        Raises:
            FileNotFoundError: if the folder is no run folder.
            ValueError: if the file is not what `save` wrote.
        """
        path = Path(folder) / CONFIG_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: not a run folder ({CONFIG_FILE} is missing); make one with lightgcn "
                "train"
            )
        values = read_json(path)
        try:
            values["train"] = TrainConfig(**values["train"])
            for name in ("data", "fingerprint", "words", "side_nodes"):
                optional = name in ("words", "side_nodes")
                if not isinstance(values.get(name), str) and not (
                    optional and values.get(name) is None
                ):
                    raise ValueError(f"{name} is {values.get(name)!r}")
            return cls(**values | {"ratios": tuple(values["ratios"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the settings of a run ({error})") from error

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise a ValueError unless a dataset holds the interactions that the run was made with."""
        if dataset.fingerprint() != self.fingerprint:
            raise ValueError(
                "the data holds other interactions than the ones this run was made with, which "
                f"were in {self.data}"
            )

    def new_model(
        self,
        dataset: Dataset,
        split: Split,
        folder: str | Path | None = None,
        *,
        progress: bool = False,
    ) -> LightGCN:
        """Return the untrained model of this run, on the CPU.

        Args:
            dataset: the run's.
            split: the run's split of it, extended by its side nodes.
            folder: where the embeddings of names are kept for a start from words, in ``words/``;
                None for nowhere. A prepared dataset keeps them in its own folder, for all its runs.
            progress: show a progress bar on a terminal while names are embedded.

        Raises:
            ValueError: if the start is from words and there is no model for them, or a model and no
                such start.
        """
        graph, words = dataset.interactions, None
        if (self.train.init == "words") != (self.words is not None):
            raise ValueError(
                f"init={self.train.init!r} with the language model {self.words!r}: each needs the "
                "other"
            )
        if self.words is not None:
            data = Path(self.data)
            kept = data if (data / FILE_NAME).is_file() and os.access(data, os.W_OK) else folder
            cache = None if kept is None else Path(kept) / "words"
            users, items = word_features(
                dataset.users,
                dataset.items,
                TextEncoder(self.words, cache=cache, progress=progress),
            )
            # Side nodes have no words.
            words = F.pad(users, (0, 0, 0, split.val.message.num_users - graph.num_users)), items
        return self.train.new_model(
            split.val.message.num_users, graph.num_items, split.val.message, words
        )

    def groups(self, dataset: Dataset) -> SideNodes | None:
        """Return the side nodes of this run, None for none.

        Raises:
            ValueError: if the items have no such column, or no two items have a value in common.
        """
        return None if self.side_nodes is None else SideNodes.of(dataset.groups(self.side_nodes))

    def split(self, dataset: Dataset) -> Split:
        """Split a dataset the way of this run; where a test split came with the data, the test set
        is empty here.

        Raises:
            ValueError: as `split_edges` does, if the dataset is not the run's, or if its own test
                split does not go with the ratios or the weights.
        """
        self.check_dataset(dataset)
        if dataset.test is not None:
            _check_own_test(dataset.interactions, dataset.test, self.ratios)
        if self.stratify == "last" and dataset.interactions.order is None:
            raise ValueError(
                f'{self.data}: has no order of a user\'s items, so that "last" says nothing; stratify by user'
            )
        return split_edges(
            dataset.interactions,
            self.ratios,
            disjoint=self.train.disjoint,
            negatives=self.negatives,
            stratify="user" if self.stratify else None,
            order=dataset.interactions.order if self.stratify == "last" else None,
            negative_pairs=self.train.negative_pairs,
            known=dataset.test,
            seed=self.split_seed,
        )

    def test_links(self, dataset: Dataset) -> LinkSet:
        """Return the test set: the split's, or the one that came with the data, as it is.

        Raises:
            ValueError: as `split` does, or if there is no test set.
        """
        split = self.split(dataset)
        if dataset.test is None:
            if not split.test.positives.num_edges:
                raise ValueError(
                    f"this run has no test set: {self.data} brings none, and the ratios "
                    f"{' '.join(map(str, self.ratios))} leave no share for one"
                )
            return split.test
        return link_set(
            dataset.interactions,
            dataset.test,
            negatives=self.negatives,
            negative_pairs=self.train.negative_pairs,
            seed=self.split_seed,
        )

    def check_resumes(self, saved: RunConfig) -> None:
        """Raise a ValueError unless a run of the saved settings can go on with these."""
        now, before = ({**asdict(one.train), **asdict(one)} for one in (self, saved))
        for name in (
            *now["train"],
            "ratios",
            "stratify",
            "negatives",
            "split_seed",
            "words",
            "side_nodes",
        ):
            if name not in MAY_CHANGE and now[name] != before[name]:
                raise ValueError(
                    f"{name} cannot change: it is {before[name]!r} there, and {now[name]!r} was "
                    "given; "
                    f"in a run that is resumed only {' and '.join(MAY_CHANGE)} can"
                )


def _check_own_test(train: Interactions, test: Interactions, ratios: tuple[float, ...]) -> None:
    if len(ratios) == 3:
        raise ValueError(
            "the data brings its own test split: give two ratios (train and validation, such as "
            f"0.9 0.1), got {ratios}"
        )
    if (train.weights is None) != (test.weights is None):
        raise ValueError(
            f"the data and its own test split must both have weights or none: {train} and {test}"
        )


def default_ratios(dataset: Dataset) -> tuple[float, ...]:
    """Return (.8, .1, .1), or (.9, .1) for a dataset that brings its own test split."""
    return (0.8, 0.1, 0.1) if dataset.test is None else (0.9, 0.1)


def train_run(
    dataset: Dataset,
    config: RunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    watch: AbstractContextManager[Callable[[], bool]] | None = None,
    progress: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> TrainResult:
    """Train on a dataset into a run folder and, unless interrupted, write the model and a
    recommender.

    ``watch`` is entered for the time of training alone; what it gives is `fit`'s ``should_stop``.
    The settings are written once `fit` has accepted them and the checkpoint to resume from. Each of
    several processes (``processes``, of `lightgcn.core.process_group.process_group`) calls this with
    the same arguments and holds a part of the model's columns; process 0 makes the start, and
    writes the files.

    Raises:
        FileExistsError: if the folder holds a run already (a checkpoint or a model) and ``resume``
            is not set.
        FolderInUseError: if another process writes to the folder.
        ValueError: as `fit` does, or if ``resume`` is set and other settings than how long to train
            differ.
        ProcessLostError: if another of several processes is gone.
    """
    with folder_lock(folder) if processes.rank == 0 else nullcontext():
        return _train_run(
            dataset,
            config,
            Path(folder),
            resume,
            torch.device(device),
            on_epoch,
            watch,
            progress,
            processes,
        )


def _train_run(
    dataset: Dataset,
    config: RunConfig,
    folder: Path,
    resume: bool,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None] | None,
    watch: AbstractContextManager[Callable[[], bool]] | None,
    progress: bool,
    processes: ProcessGroup,
) -> TrainResult:
    there = any((folder / name).exists() for name in (CHECKPOINT_FILE, MODEL_FILE))
    processes.check_same(f"whether {folder} holds a run", str(there))
    if there and not resume:
        raise FileExistsError(f"{folder}: holds a run already; resume it, or choose another folder")
    if resume and (folder / CONFIG_FILE).is_file():
        config.check_resumes(RunConfig.load(folder))
    split, groups = config.split(dataset), config.groups(dataset)
    if groups is not None:
        split = groups.extend_split(split)
    if device.type == "cpu":
        graph = split.val.message
        own = processes.columns(config.train.embedding_dim)
        needed = processes.local_size * training_memory(
            graph.num_nodes, graph.num_edges, own.stop - own.start
        )
        warn_of_shortage(
            "training",
            needed,
            "take a smaller embedding_dim, or less data (prepare --slices, --sample)",
        )
    began = time.monotonic()
    model: LightGCN | None = None
    if processes.rank == 0:
        model = config.new_model(dataset, split, folder, progress=progress)
    model = (
        ShardedLightGCN.from_whole(model, processes, device)
        if processes.size > 1 or model is None
        else model.to(device)
    )
    start_seconds = round(time.monotonic() - began, 2)
    with watch or nullcontext() as stop_asked:
        saved = False

        def should_stop() -> bool:
            # Asked before each step, so the first time once everything was accepted: a refused run
            # leaves no trace.
            nonlocal saved
            if not saved and processes.rank == 0:
                if not resume:  # what may be left of a run whose other files were removed
                    for name in (TEST_FILE, TRAINED_FILE):
                        (folder / name).unlink(missing_ok=True)
                config.save(folder)
                processes.remember(f"began {folder}")
            saved = True
            return stop_asked is not None and stop_asked()

        result = fit(
            model,
            split,
            config.train,
            run_dir=folder,
            resume=resume,
            on_epoch=on_epoch,
            should_stop=should_stop,
            progress=progress,
        )
    if not saved and processes.rank == 0:  # there was no step left to do
        config.save(folder)
    if result.ended == "interrupted":
        return result
    whole = model.whole() if isinstance(model, ShardedLightGCN) else model
    if whole is not None:
        trained = {"epochs": len(result.history), "best_epoch": result.best_epoch}
        if _trained_or_none(folder) != trained:
            (folder / TEST_FILE).unlink(missing_ok=True)  # of another model
        save_model(folder / MODEL_FILE, whole)
        known = (
            dataset.interactions
            if dataset.test is None
            else dataset.interactions.union(dataset.test)
        )
        recommender = Recommender.from_model(
            whole,
            known,
            config.train.normalization,
            **config.train.scoring(known if groups is None else groups.extend(known)),
            side_nodes=groups,
            user_columns=dataset.users,
            item_columns=dataset.items,
        )
        recommender.save(folder / RECOMMENDER_FILE)
        write_json(folder / TRAINED_FILE, trained | {"start_seconds": start_seconds})
    return result


def _trained_or_none(folder: Path) -> dict[str, int] | None:
    try:
        return _trained(folder)
    except ValueError:  # damaged, and about to be written anew
        return None


def _trained(folder: Path) -> dict[str, int] | None:
    """Return how many epochs are behind a folder's model, and which is its best; None where it has
    none.

    Raises:
        ValueError: naming the file, if it says something else.
    """
    path = folder / TRAINED_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        return {name: checked_count(name, found[name]) for name in ("epochs", "best_epoch")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: does not say how many epochs were trained ({error!r})"
        ) from error


class FinishedRun(NamedTuple):
    """What a run folder holds for those who look at it: settings, the recommender, and a record per
    epoch behind it."""

    config: RunConfig
    recommender: Recommender
    history: list[dict[str, Any]]
    best_epoch: int


def finished_run(dataset: Dataset, folder: str | Path) -> FinishedRun:
    """Read a run folder in which training has ended.

    Raises:
        FileNotFoundError: if the folder is no run folder, or training has not ended in it.
        ValueError: if the dataset is not the run's, or a file of the run is corrupt.
    """
    folder = Path(folder)
    config, trained = RunConfig.load(folder), _trained(folder)
    if not (folder / RECOMMENDER_FILE).is_file() or trained is None:
        raise FileNotFoundError(_not_ended(folder))
    config.check_dataset(dataset)
    # Training may have gone on since, without an end.
    history = read_history(folder)[: trained["epochs"]]
    if not history:
        raise ValueError(f"{folder / HISTORY_FILE}: has no record of an epoch")
    return FinishedRun(
        config, Recommender.load(folder / RECOMMENDER_FILE), history, trained["best_epoch"]
    )


def recommender_file(path: str | Path) -> Path:
    """Return the recommender's file of a run folder, or the file itself that was given.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    path = Path(path)
    file = path / RECOMMENDER_FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise FileNotFoundError(
            f"{path}: no {RECOMMENDER_FILE} here; train a model first (lightgcn train)"
        )
    if file.is_file():
        warn_of_shortage(
            f"{file}: to answer from it", answering_memory(file), "use a machine with more"
        )
    return file


def _not_ended(folder: Path) -> str:
    return f"{folder}: training has not ended here yet; go on with lightgcn train --resume"


def newer_training(folder: str | Path) -> tuple[int, int] | None:
    """Return (epochs behind the folder's model, epochs trained by now) where training has gone on
    since, else None."""
    trained, history = _trained(Path(folder)), Path(folder) / HISTORY_FILE
    if trained is None or not history.is_file():
        return None
    behind, done = trained["epochs"], history.read_bytes().count(b"\n")
    return (behind, done) if done > behind else None


def evaluate_run(
    dataset: Dataset,
    folder: str | Path,
    *,
    ks: Sequence[int] = (20,),
    baselines: Sequence[str] = ("popularity",),
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, Evaluation]:
    """Evaluate a run's best model, and baselines beside it, on the run's test set; write
    ``test.json``.

    Popularity and the closed forms of `lightgcn.ranking.baselines`, on the CPU and with their
    default settings, know all edges that messages flow along in the test. "mf" is the run's model
    without layers, trained anew with its settings on its split.

    Args:
        dataset: the run's data.
        folder: the run folder.
        ks: list lengths.
        baselines: names out of `BASELINES`.
        device: where to evaluate, and to train "mf".
        progress: show progress bars on a terminal.

    Returns:
        "lightgcn" and the baselines by name, each an `Evaluation`; the closed forms have no link
        metrics.

    Raises:
        FileNotFoundError: if the folder holds no trained model.
        ValueError: if the dataset is not the run's, there is no test set, a k or a baseline's name
            is wrong, or "ease" does not fit in memory.
    """
    folder = Path(folder)
    config = RunConfig.load(folder)
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ValueError(f"unknown baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    if not (folder / MODEL_FILE).is_file():
        raise FileNotFoundError(_not_ended(folder))
    if "ease" in baselines:
        check_memory(dataset.interactions.num_items)
    test = config.test_links(dataset).to(device)
    evaluated = _trained_or_none(folder)
    groups = config.groups(dataset)
    links = test if groups is None else groups.extend_links(test)
    results = {"lightgcn": evaluate_model(folder / MODEL_FILE, config.train, links, ks=ks)}
    for name in dict.fromkeys(baselines):
        if name == "popularity":
            results[name] = _evaluate_popularity(test, ks)
        elif name == "mf":
            adjacency = normalized_adjacency(test.message, config.train.normalization)
            other = _train_mf(dataset, config, device, progress)
            results[name] = evaluate(
                other, adjacency, test, ks=ks, popularity_prior=config.train.popularity_prior
            )
        else:
            results[name] = _evaluate_scorer(name, test.to("cpu"), ks, progress)
    if (
        _trained_or_none(folder) == evaluated
    ):  # else training has ended meanwhile, and there is another model
        try:
            write_json(
                folder / TEST_FILE, {name: asdict(result) for name, result in results.items()}
            )
        except OSError as error:  # which is no reason to lose them
            warnings.warn(
                f"the metrics could not be written: {error.filename}: {error.strerror}",
                stacklevel=2,
            )
    return results


def evaluate_model(
    file: str | Path, settings: TrainConfig, links: LinkSet, *, ks: Sequence[int] = (20,)
) -> Evaluation:
    """Evaluate a saved model on a link set, on its device, in the normalisation and scoring of its
    settings."""
    model = load_model(file).to(links.message.device)
    adjacency = normalized_adjacency(links.message, settings.normalization)
    return evaluate(model, adjacency, links, ks=ks, **settings.scoring(links.message))


def _evaluate_popularity(test: LinkSet, ks: Sequence[int]) -> Evaluation:
    users, items = popularity(test.message)
    ranking = evaluate_ranking(users, items, test.positives, seen=test.message, ks=ks)
    if not test.negatives.shape[1]:
        return ranking
    links = evaluate_links(users, items, test)
    # The loss of a count of users says nothing about it as a probability.
    return Evaluation(
        {"roc_auc": links["roc_auc"]} | ranking.metrics, links.num_links, ranking.num_users
    )


def _evaluate_scorer(name: str, test: LinkSet, ks: Sequence[int], progress: bool) -> Evaluation:
    from tqdm import tqdm

    scorer = _SCORERS[name](test.message, progress=progress)
    users = int((test.positives.user_degrees > 0).sum())
    with tqdm(
        total=users, desc=f"{name}: ranking", unit="user", disable=None if progress else True
    ) as bar:

        def scores(users: Tensor) -> Tensor:
            rows = scorer.scores(users)
            bar.update(len(users))
            return rows

        return evaluate_scores(scores, test.positives, seen=test.message, ks=ks)


def _train_mf(
    dataset: Dataset, config: RunConfig, device: torch.device | str, progress: bool
) -> LightGCN:
    settings = replace(config.train, num_layers=0, neighbours=0, recency=0.0)
    split = config.split(dataset)
    model = (
        replace(config, train=settings, side_nodes=None)
        .new_model(dataset, split, progress=progress)
        .to(device)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they came with the run itself
        fit(model, split, settings, progress=progress)
    return model
