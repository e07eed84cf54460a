"""The configuration of a run (data, split, settings), and the files of a run folder.

run.json                   data, split and training settings, versions
checkpoint.safetensors     the state of training, to resume from
history.jsonl              a record per epoch
model.safetensors          the best model
recommender.safetensors    embeddings over all known edges, ids and names, for `Recommender.load`
trained.json               epochs of these two, and the seconds to make the untrained model
test.json                  metrics on the test set, after an evaluation
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch.nn.functional as F

from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset
from lightgcn.datasets.dataset import FILE_NAME
from lightgcn.experiments.start import EarlierRun
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split, link_set
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.graph.split import split_edges
from lightgcn.nn.model import LightGCN
from lightgcn.nn.text_features import TextEncoder, word_features
from lightgcn.ranking.time_decay import order_is_informative
from lightgcn.training.checkpoint import CHECKPOINT_FILE, HISTORY_FILE
from lightgcn.training.config import MAY_CHANGE, SETTINGS, Preset

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

_LEAST_FOR_A_TENTH = 10


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run: its data, its split and its settings.

    Attributes:
        data: path of the dataset, for `open_dataset`.
        fingerprint: of the dataset (`Dataset.fingerprint`), to detect different data under the same
            path.
        settings: of the model, its training and its ranking.
        ratios: (train, validation, test) shares; (train, validation) for a dataset with its own
            test split; None with ``leave_out`` or ``dates``.
        leave_out: numbers of validation and test edges of each user, as for `split_edges`.
        dates: first times of validation and test, as for `split_edges`: ISO strings or numbers.
        stratify: None, "user" or "time", as for `split_edges`, or "last": by user, with the end of
            each user's list held out (`Interactions.order`).
        negatives: negatives per positive of each link set; None as for `split_edges`.
        split_seed: seed of the split.
        words: the language model of ``init="words"``, for `lightgcn.nn.text_features.TextEncoder`.
        side_nodes: column of the items whose values become side nodes
            (`lightgcn.graph.side_nodes`), such as "artist_id"; None for none.
        start: folder of the run from whose model training starts; None for none. Edges that were
            known in that run are not held out; if sets that came with the data have some, a
            warning counts them.
        start_fingerprint: of the edges that were known in that run, to detect that the folder holds
            another run by now; None to check nothing.
    """

    data: str
    fingerprint: str
    settings: Preset
    ratios: tuple[float, ...] | None = (0.8, 0.1, 0.1)
    leave_out: tuple[int, ...] | None = None
    dates: tuple[str | float, ...] | None = None
    stratify: Literal["user", "last", "time"] | None = None
    negatives: float | None = None
    split_seed: int = 0
    words: str | None = None
    side_nodes: str | None = None
    start: str | None = None
    start_fingerprint: str | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "numpy")}
    )

    def save(self, folder: str | Path) -> None:
        """Write the settings to the run folder."""
        write_json(Path(folder) / CONFIG_FILE, asdict(self) | {"settings": self.settings.flat()})

    @classmethod
    def load(cls, folder: str | Path) -> RunConfig:
        """Read the settings of a run folder.

        Raises:
            FileNotFoundError: if the folder is no run folder.
            ValueError: if the file is not one of `save`.
        """
        path = Path(folder) / CONFIG_FILE
        if not path.is_file():
            inner = [*path.parent.glob("seed-*/final"), *path.parent.glob("run")]
            hint = f"did you mean {inner[0]}?" if inner else "make one with lightgcn train"
            raise FileNotFoundError(
                f"{folder}: not a run folder ({CONFIG_FILE} is missing); {hint}"
            )
        values = read_json(path)
        try:
            values["settings"] = Preset().changed(**values["settings"])
            for name in ("data", "fingerprint", "words", "side_nodes", "start"):
                optional = name in ("words", "side_nodes", "start")
                if not isinstance(values.get(name), str) and not (
                    optional and values.get(name) is None
                ):
                    raise ValueError(f"{name} is {values.get(name)!r}")
            for name in ("ratios", "leave_out", "dates"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            return cls(**values)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the settings of a run ({error})") from error

    def check_resumes(self, saved: RunConfig) -> None:
        """Raise a ValueError unless a run of a saved configuration can be resumed with this one."""
        now, before = ({**asdict(one), **one.settings.flat()} for one in (self, saved))
        for name in (
            *SETTINGS,
            "ratios",
            "leave_out",
            "dates",
            "stratify",
            "negatives",
            "split_seed",
            "words",
            "side_nodes",
            "start",
        ):
            if name not in MAY_CHANGE and now[name] != before[name]:
                raise ValueError(
                    f"{name} cannot change: it is {before[name]!r} in the run, {now[name]!r} was "
                    f"given; only {' and '.join(MAY_CHANGE)} can change when a run is resumed"
                )

    def split_text(self, dataset: Dataset) -> str:
        """Return how the edges of the run's dataset are split, to read."""
        if dataset.val is not None:
            return "the data's own validation set"
        if self.dates is not None:
            names = zip(("validation", "test"), self.dates, strict=False)
            return ", ".join(f"{name} from {date}" for name, date in names)
        which = {
            None: "random edges",
            "user": "random edges of each user",
            "last": "the last edges of each user",
            "time": "the last edges in time",
        }[self.stratify]
        if self.leave_out is not None:
            held_out = zip(self.leave_out, ("validation", "test"), strict=False)
            return f"{which}: {', '.join(f'{count} for {name}' for count, name in held_out)}"
        return f"{which}: shares {' '.join(map(str, self.ratios or ()))}"


def check_dataset(config: RunConfig, dataset: Dataset, data: str | None = None) -> None:
    """Raise a ValueError unless the dataset, read from ``data``, is that of the run."""
    if dataset.fingerprint() != config.fingerprint:
        path = config.data if data is None else data
        was = f"in {config.data} when it was made" if path == config.data else f"of {config.data}"
        raise ValueError(f"{path}: the interactions differ from those of the run, which were {was}")


def new_run_model(
    config: RunConfig,
    dataset: Dataset,
    split: Split,
    folder: str | Path | None = None,
    *,
    progress: bool = False,
) -> LightGCN:
    """Return the untrained model of a run, on the CPU.

    Args:
        config: configuration of the run.
        dataset: dataset of the run.
        split: split of the run, with its side nodes.
        folder: cache of the embeddings of names, in ``words/``; None for no cache. A prepared
            dataset has the cache in its own folder, for all its runs.
        progress: show a progress bar on a terminal while names are embedded.

    Raises:
        ValueError: if init is "words" without a language model, or the other way round, or the
            model to start from does not fit.
    """
    earlier = earlier_run(config)
    if earlier is not None:
        return earlier.start(split.val.message, config.settings)
    graph, words, init = dataset.interactions, None, config.settings.model.init
    if (init == "words") != (config.words is not None):
        raise ValueError(
            f"init={init!r} with the language model {config.words!r}: each needs the other"
        )
    if config.words is not None:
        data = Path(config.data)
        kept = data if (data / FILE_NAME).is_file() and os.access(data, os.W_OK) else folder
        cache = None if kept is None else Path(kept) / "words"
        encoder = TextEncoder(config.words, cache=cache, progress=progress)
        users, items = word_features(dataset.users, dataset.items, encoder)
        # Side nodes have no words.
        words = F.pad(users, (0, 0, 0, split.val.message.num_users - graph.num_users)), items
    return config.settings.new_model(split.val.message, words=words)


def earlier_run(config: RunConfig) -> EarlierRun | None:
    """Return the run from whose model a run starts, None for none.

    Raises:
        FileNotFoundError: if it has no model.
        ValueError: if a file of it is corrupt, or one of the two has side nodes.
    """
    if config.start is None:
        return None
    if config.side_nodes is not None:
        raise ValueError(
            f"--from {config.start}: a run with side nodes ({config.side_nodes}) cannot start from "
            "an earlier one"
        )
    earlier = EarlierRun.read(config.start, MODEL_FILE, RECOMMENDER_FILE)
    if config.start_fingerprint not in (None, earlier.graph.fingerprint()):
        raise ValueError(
            f"--from {config.start}: the run in that folder knows other edges than when this run "
            "was made from it, so that its split cannot be made again"
        )
    return earlier


def earlier_edges(folder: str) -> str:
    """Return the fingerprint of the edges that are known in a run, for `RunConfig`."""
    return EarlierRun.read(folder, MODEL_FILE, RECOMMENDER_FILE).graph.fingerprint()


def run_side_nodes(config: RunConfig, dataset: Dataset) -> SideNodes | None:
    """Return the side nodes of a run, None for none.

    Raises:
        ValueError: if the items have no such column, or no value occurs twice.
    """
    return None if config.side_nodes is None else SideNodes.of(dataset.groups(config.side_nodes))


def split_run(config: RunConfig, dataset: Dataset) -> Split:
    """Split a dataset by the configuration of a run; the test set is empty if the data has its own.

    Raises:
        ValueError: as `split_edges` does, if the dataset is not that of the run, or if its own test
            split does not fit the ratios or the weights.
    """
    check_dataset(config, dataset)
    _check_own_sets(dataset, config)
    order = dataset.interactions.order
    if order is None:
        _check_needs_no_order(config)
    known = dataset.known_edges() if dataset.held_out else None
    earlier = earlier_run(config)
    split = split_edges(
        dataset.interactions,
        config.ratios,
        leave_out=config.leave_out,
        dates=config.dates,
        disjoint=config.settings.train.disjoint,
        negatives=config.negatives,
        stratify="user" if config.stratify == "last" else config.stratify,
        order=order if config.stratify == "last" else None,
        negative_pairs=config.settings.train.negative_pairs,
        known=known,
        train_only=None if earlier is None else earlier.knows(dataset.interactions),
        seed=config.split_seed,
    )
    if earlier is not None:
        _warn_of_known(earlier, dataset)
    if earlier is not None and config.ratios != (1.0,) and not split.val.positives.num_edges:
        raise ValueError(
            f"--from {config.start}: no edge for validation: edges that were known in that run are "
            f"not held out, and of the others in {config.data} the split "
            f"({config.split_text(dataset)}) holds out none; --ratios 1 trains on all edges"
        )
    if dataset.val is None:
        return split
    return split._replace(val=_own_links(config, dataset.interactions, dataset.val, known))


def _warn_of_known(earlier: EarlierRun, dataset: Dataset) -> None:
    """Warn if a set that came with the data has edges from which the earlier model may have
    learned."""
    for part, held_out in dataset.held_out.items():
        if count := int(earlier.knows(held_out).sum()):
            warnings.warn(
                f"{count:,} of {held_out.num_edges:,} {part} edges of the data were known in the "
                f"run {earlier.folder}, from which training starts: metrics may be too high",
                UserWarning,
                stacklevel=3,
            )


def _own_links(
    config: RunConfig, message: Interactions, links: Interactions, known: Interactions | None
) -> LinkSet:
    """Return the links of a set that came with the data."""
    return link_set(
        message,
        links,
        negatives=config.negatives,
        negative_pairs=config.settings.train.negative_pairs,
        known=known,
        seed=config.split_seed,
    )


def held_out_links(config: RunConfig, dataset: Dataset) -> LinkSet:
    """Return the test set: the split's, or the one that came with the data, as it is.

    Raises:
        ValueError: as `split_run` does, or if there is no test set.
    """
    split = split_run(config, dataset)
    if dataset.test is None:
        if not split.test.positives.num_edges:
            raise ValueError(
                f"this run has no test set: {config.data} has none, and its split "
                f"({config.split_text(dataset)}) makes none"
            )
        return split.test
    return _own_links(config, dataset.known_before_test(), dataset.test, dataset.known_edges())


def _check_needs_no_order(config: RunConfig) -> None:
    missing = f"and {config.data} has no order: prepare it with --time COLUMN (tables) or --order"
    if config.dates is not None:
        raise ValueError(f"dates: a date needs the times of the edges, {missing} (MPD)")
    if config.stratify in ("last", "time"):
        needed = {
            "last": "needs to know which of a user's items came last",
            "time": "needs the times of the edges",
        }[config.stratify]
        raise ValueError(
            f"stratify {config.stratify} {needed}, {missing} (MPD), or use --stratify user"
        )


def _check_own_sets(dataset: Dataset, config: RunConfig) -> None:
    train = dataset.interactions
    for part, held_out in dataset.held_out.items():
        if (train.weights is None) != (held_out.weights is None):
            raise ValueError(
                f"the data and its own {part} set must both have weights or none: {train} and "
                f"{held_out}"
            )
    if dataset.val is not None:
        for name in ("ratios", "leave_out", "dates", "stratify"):
            given = getattr(config, name)
            if given is not None and not (name == "ratios" and given == (1.0,)):
                raise ValueError(
                    f"{name}: the data has its own validation set, and all other edges are train "
                    f"edges, so that nothing is split; got {given}"
                )
    elif dataset.test is not None:
        _check_leaves_no_test(config)


def _check_leaves_no_test(config: RunConfig) -> None:
    for name, given, most, instead in (
        ("ratios", config.ratios, 2, "two ratios (train and validation, such as 0.9 0.1)"),
        ("leave_out", config.leave_out, 1, "one number (of validation edges)"),
        ("dates", config.dates, 1, "one date (the first of validation)"),
    ):
        if given is not None and len(given) > most:
            raise ValueError(
                f"{name}: the data has its own test split: give {instead}, got {given}"
            )


def default_ratios(dataset: Dataset) -> tuple[float, ...]:
    """Return (.8, .1, .1); (.9, .1) for a dataset with its own test split; (1,) for one with its
    own validation set, and, with a warning, for one without an edge for each part."""
    if dataset.val is not None:
        return (1.0,)
    ratios = (0.8, 0.1, 0.1) if dataset.test is None else (0.9, 0.1)
    count = dataset.interactions.num_edges
    if 0 < count < len(ratios):
        warnings.warn(
            f"all of the data is for training: {count} edge{'s' if count > 1 else ''} cannot be "
            f"divided into {len(ratios)} sets",
            UserWarning,
            stacklevel=2,
        )
        return (1.0,)
    return ratios


def stratify_like_test(dataset: Dataset) -> Literal["user", "last"] | None:
    """Return how to take validation edges from the train edges of a dataset with its own test set:
    the end of each user's list if its order means something, else a random part of each. None, for
    random edges, if no user has enough edges to give a tenth of them."""
    degrees = dataset.interactions.user_degrees
    if not len(degrees) or int(degrees.max()) < _LEAST_FOR_A_TENTH:
        return None
    return "last" if order_is_informative(dataset.interactions) else "user"
