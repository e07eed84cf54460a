"""Reproduce a published result: choose the epoch on validation, train on all of train, evaluate on
test once.

    FOLDER/prepared/             the data, its nodes in cache-friendly order
    FOLDER/seed-0/validation/    run folder: a part of train; the rest chooses the best epoch
    FOLDER/seed-0/final/         run folder: all of train, for that many epochs
    FOLDER/seed-0/result.json    the test metrics, computed once
    FOLDER/reproduction.json     all seeds, settings, versions and machine

Both run folders are those of `lightgcn.experiments.run`: ``lightgcn evaluate FOLDER/seed-0/final``
computes the result again.

The validation set is built like the test set: the same share of each user's edges and, if the order
of the lists means something (`lightgcn.ranking.time_decay.order_is_informative`), the end of each
list. Gowalla's test edges continue the lists of train: items near each other in a list are alike,
and those of test are most like the last ones. A random part of train is easier than that, and
favours settings that rest on an item's neighbours in the list.

The parts of a score are chosen on the validation set as well, and used as they are in the end.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lightgcn.core.lock import folder_lock
from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset
from lightgcn.datasets.dataset import FILE_NAME
from lightgcn.experiments.published import PUBLISHED, split_name
from lightgcn.experiments.run import MODEL_FILE, TRAINED_FILE, RunConfig, stratify_like_test
from lightgcn.experiments.train import train_run
from lightgcn.graph.links import link_set
from lightgcn.graph.subgraph import locality_order
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.model_io import load_model
from lightgcn.ranking.choice import RankingChoice
from lightgcn.ranking.evaluation import evaluate
from lightgcn.ranking.ranker import Ranker
from lightgcn.training.checkpoint import CHECKPOINT_FILE, read_history
from lightgcn.training.config import Preset

RESULT_FILE, SUMMARY_FILE, PREPARED = "result.json", "reproduction.json", "prepared"
METRICS = ("recall@20", "ndcg@20")
_ORDER = {
    "last": "the lists have an order: validation is the end of each user's list",
    "user": "the order of the lists means nothing: validation is a random part of each",
    None: "the lists are short: validation is a random part of all edges",
}


class Reproduction(NamedTuple):
    """The results of the seeds, each as in its ``result.json``, and the name of the published
    split, if the data is one."""

    results: list[dict[str, Any]]
    split_name: str | None

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the seeds."""
        return float(np.mean([result["test"][metric] for result in self.results]))

    def spread(self, metric: str) -> float:
        """Return the standard deviation of a metric over the seeds (n - 1), 0 for one seed."""
        values = [result["test"][metric] for result in self.results]
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def published(self) -> dict[str, tuple[float, float]]:
        """Return (Recall@20, NDCG@20) of published methods on the same split, if there are any."""
        name = self.split_name or ""
        return {method: rows[name] for method, rows in PUBLISHED.items() if name in rows}


def reproduce(
    dataset: Dataset,
    config: Preset,
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[], AbstractContextManager[Callable[[], bool]]] | None = None,
    progress: bool = False,
) -> Reproduction | None:
    """Reproduce a result for each seed; a folder with the same reproduction is continued.

    Args:
        dataset: with a test split of its own.
        config: the settings; its seed is replaced by each of ``seeds``, which also draws the
            validation edges.
        folder: the folder of all files.
        seeds: one result each.
        device: device to train on.
        say: called with a line after each step.
        watch: returns the context of a training, which yields ``should_stop`` of `lightgcn.fit`; if
            that returns True, the training is saved and the result is None.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if the data has no test split, no seed is given, or the folder holds a
            reproduction with different data or settings.
    """
    if dataset.test is None:
        raise ValueError("reproduce needs data with its own test split (test.txt beside train.txt)")
    if config.model.init == "words":
        raise ValueError('reproduce does not support init="words"')
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more distinct integers, got {list(seeds)}")
    folder, name = Path(folder), split_name(dataset)
    graph = dataset.interactions
    say(
        f"{name or 'data'}: {graph.num_users:,} users, {graph.num_items:,} items, "
        f"{graph.num_edges:,} train and {dataset.test.num_edges:,} test edges"
    )
    with folder_lock(folder):
        stratify = stratify_like_test(dataset)
        if graph.order is not None:
            say(_ORDER[stratify])
        dataset = _prepared(dataset, folder)
        results = []
        for seed in seeds:
            result = _reproduce_one(
                dataset,
                config.changed(seed=seed),
                folder,
                stratify=stratify,
                device=device,
                say=say,
                watch=watch,
                progress=progress,
            )
            if result is None:
                return None
            results.append(result)
        reproduction = Reproduction(results, name)
        write_json(folder / SUMMARY_FILE, _summary(reproduction, config, device))
    return reproduction


def _summary(
    reproduction: Reproduction, config: Preset, device: torch.device | str
) -> dict[str, Any]:
    return {
        "split": reproduction.split_name,
        "test": {
            metric: [reproduction.mean(metric), reproduction.spread(metric)] for metric in METRICS
        },
        "seeds": reproduction.results,
        "settings": config.flat(),
        "versions": {
            package: version(package) for package in ("lightgcn", "torch", "numpy", "scipy")
        },
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    }


def _prepared(dataset: Dataset, folder: Path) -> Dataset:
    """Return the dataset in cache-friendly order, from the folder or written to it."""
    ordered = dataset.reindex(*locality_order(dataset.interactions))
    if not (folder / PREPARED / FILE_NAME).is_file():
        ordered.save(folder / PREPARED)
        return ordered
    prepared = Dataset.load(folder / PREPARED)
    if prepared.fingerprint() != ordered.fingerprint():
        raise ValueError(
            f"{folder}: holds a reproduction with different data; choose a different folder"
        )
    return prepared


def _reproduce_one(
    dataset: Dataset,
    config: Preset,
    folder: Path,
    *,
    stratify: Literal["user", "last"] | None,
    device: torch.device | str,
    say: Callable[[str], None],
    watch: Callable[[], AbstractContextManager[Callable[[], bool]]] | None,
    progress: bool,
) -> dict[str, Any] | None:
    seed, data = config.train.seed, str((folder / PREPARED).resolve())
    place = folder / f"seed-{seed}"
    validation = place / "validation"
    # With a validation set of its own, the data's train edges are all that a model learns from.
    final = place / "final" if dataset.val is None else validation

    def trained(part: Path, settings: Preset, ratios: tuple[float, ...]) -> bool:
        run = RunConfig(
            data,
            dataset.fingerprint(),
            settings,
            ratios=ratios,
            stratify=None if ratios == (1.0,) else stratify,
            split_seed=seed,
        )
        return _train_once(dataset, run, part, device=device, watch=watch, progress=progress)

    assert dataset.test is not None
    held_out = round(
        dataset.test.num_edges / (dataset.test.num_edges + dataset.interactions.num_edges), 2
    )
    share = min(max(held_out, 0.05), 0.5)
    ratios = (1 - share, share) if dataset.val is None else (1.0,)
    if not trained(validation, config, ratios):
        return None
    epoch = int(read_json(validation / TRAINED_FILE)["best_epoch"])
    chosen = read_history(validation)[epoch - 1]
    say(
        f"seed {seed}: epoch {epoch} is best on validation ({config.train.metric} "
        f"{chosen['val'][config.train.metric]:.4f})"
    )
    found = read_json(validation / TRAINED_FILE).get("ranking")
    config = config.changed(epochs=epoch, choose_ranking=False)
    if found is not None:
        choice = RankingChoice(**found | {"config": RankingConfig(**found["config"])})
        config = config.changed(**found["config"])
        say(f"seed {seed}: validation chooses {choice}")
    if dataset.val is None and not trained(final, config, ratios=(1.0,)):
        return None
    if (place / RESULT_FILE).is_file():
        result: dict[str, Any] = read_json(place / RESULT_FILE)
    else:
        history = read_history(final)
        metrics, fitting, testing = _test_metrics(dataset, final / MODEL_FILE, device)
        result = {
            "seed": seed,
            "epoch": epoch,
            "validation": chosen["val"] if found is None else found["values"],
            "test": metrics,
            "test_seconds": testing,
            "fitting_seconds": fitting,
            "start_seconds": read_json(final / TRAINED_FILE).get("start_seconds"),
            "training_seconds": round(sum(record["seconds"] for record in history), 2),
            "search_seconds": round(
                sum(record["seconds"] for record in read_history(validation)), 2
            ),
        }
        write_json(place / RESULT_FILE, result)
    values = "  ".join(f"{name} {result['test'][name]:.4f}" for name in METRICS)
    say(
        f"seed {seed}: test, read once after {result['training_seconds']:.1f} s of training and "
        f"{result.get('fitting_seconds', 0):.1f} s of closed forms: {values}"
    )
    return result


def _train_once(
    dataset: Dataset, run: RunConfig, folder: Path, *, watch: Any, **options: Any
) -> bool:
    """Train into a run folder unless it is trained already; return False if interrupted."""
    if (folder / TRAINED_FILE).is_file():
        saved = RunConfig.load(folder)
        run.check_resumes(saved)
        if saved.settings != run.settings:
            epochs = saved.settings.train.epochs
            raise ValueError(
                f"{folder}: was trained for {epochs} epochs; choose a different folder"
            )
        return True
    resume = (folder / CHECKPOINT_FILE).is_file()
    result = train_run(
        dataset, run, folder, resume=resume, watch=None if watch is None else watch(), **options
    )
    return result.ended != "interrupted"


def _test_metrics(
    dataset: Dataset, model_file: Path, device: torch.device | str
) -> tuple[dict[str, float], float, float]:
    """Return the test metrics, the seconds to make the parts of a score, and those to rank."""
    assert dataset.test is not None
    test = link_set(dataset.known_before_test(), dataset.test, negatives=0).to(device)
    model, began = load_model(model_file).to(device), time.monotonic()
    ranker = Ranker.from_model(model, test.message, fold_in=False)
    fitted = time.monotonic()
    metrics = evaluate(ranker, test).metrics
    return metrics, round(fitted - began, 2), round(time.monotonic() - fitted, 2)
