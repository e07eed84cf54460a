"""Evaluate the model of a run folder, and baselines, on the run's test set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.progress import progress_bar
from lightgcn.core.storage import write_json
from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import not_ended, trained_or_none
from lightgcn.experiments.run import (
    MODEL_FILE,
    TEST_FILE,
    RunConfig,
    held_out_links,
    new_run_model,
    run_side_nodes,
    split_run,
)
from lightgcn.graph.links import LinkSet
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import load_model
from lightgcn.ranking.baselines import ItemScorer, check_memory, ease, item_cosine
from lightgcn.ranking.evaluation import (
    DEFAULT_METRICS,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.graph_filters import cheby_cf, gf_cf
from lightgcn.ranking.list_metrics import LIST_METRICS
from lightgcn.ranking.result import Evaluation
from lightgcn.ranking.sparse_ease import sparse_ease
from lightgcn.training.trainer import fit

_SCORERS: dict[str, Callable[..., ItemScorer]] = {
    "item_cosine": item_cosine,
    "ease": ease,
    "sparse_ease": sparse_ease,
    "gf_cf": gf_cf,
    "cheby_cf": cheby_cf,
}
BASELINES = ("popularity", *_SCORERS, "mf")
ALL_METRICS = (*DEFAULT_METRICS, *LIST_METRICS)


def evaluate_run(
    dataset: Dataset,
    folder: str | Path,
    *,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = ALL_METRICS,
    per_user: bool = False,
    baselines: Sequence[str] = ("popularity",),
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, Evaluation]:
    """Evaluate a run's best model, and baselines, on the run's test set; write ``test.json``.

    Popularity and the closed forms of `lightgcn.ranking.baselines` are fitted on the message edges
    of the test set, on the CPU, with their default settings. "mf" is the run's model without
    layers, trained with its settings on its split and scored by its embeddings and, if the settings
    have one, their popularity prior.

    Args:
        dataset: dataset of the run.
        folder: the run folder.
        ks: as for `lightgcn.evaluate`.
        metrics: as for `lightgcn.evaluate`.
        per_user: as for `lightgcn.evaluate`.
        baselines: names out of `BASELINES`.
        device: device to evaluate on, and to train "mf".
        progress: show progress bars on a terminal.

    Returns:
        "lightgcn" and the baselines by name, each an `Evaluation`; the closed forms have no link
        metrics.

    Raises:
        FileNotFoundError: if the folder holds no trained model.
        ValueError: if the dataset is not that of the run, there is no test set, a k or a baseline's
            name is wrong, or "ease" does not fit in memory.
    """
    folder = Path(folder)
    config = RunConfig.load(folder)
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ValueError(f"unknown baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    if not (folder / MODEL_FILE).is_file():
        raise FileNotFoundError(not_ended(folder))
    if "ease" in baselines:
        check_memory(dataset.interactions.num_items)
    test = held_out_links(config, dataset).to(device)
    evaluated = trained_or_none(folder)
    groups = run_side_nodes(config, dataset)
    links = test if groups is None else groups.extend_links(test)
    asked: dict[str, Any] = {"ks": ks, "metrics": metrics, "per_user": per_user}
    results = {"lightgcn": evaluate(load_model(folder / MODEL_FILE).to(device), links, **asked)}
    for name in dict.fromkeys(baselines):
        if name == "popularity":
            results[name] = _evaluate_popularity(test, asked)
        elif name == "mf":
            other = _train_mf(dataset, config, device, progress)
            results[name] = evaluate(other, test, **asked)
        else:
            results[name] = _evaluate_scorer(name, test.to("cpu"), asked, progress)
    if trained_or_none(folder) == evaluated:  # no newer model was written meanwhile
        try:
            summaries = {name: result.summary() for name, result in results.items()}
            write_json(folder / TEST_FILE, summaries)
        except OSError as error:  # still return the metrics
            warnings.warn(
                f"the metrics could not be written: {error.filename}: {error.strerror}",
                stacklevel=2,
            )
    return results


def _evaluate_popularity(test: LinkSet, asked: dict[str, Any]) -> Evaluation:
    items = test.message.item_degrees.to(torch.float32).unsqueeze(1)
    users = items.new_ones(test.message.num_users, 1)
    ranking = evaluate_ranking(users, items, test.positives, seen=test.message, **asked)
    if not test.negatives.shape[1]:
        return ranking
    links = evaluate_links(users, items, test)
    # A count of users is no logit, so its loss means nothing.
    metrics = {"roc_auc": links["roc_auc"]} | ranking.metrics
    return replace(ranking, metrics=metrics, num_links=links.num_links)


def _evaluate_scorer(name: str, test: LinkSet, asked: dict[str, Any], progress: bool) -> Evaluation:
    scorer = _SCORERS[name](test.message, progress=progress)
    users = int((test.positives.user_degrees > 0).sum())
    with progress_bar(total=users, desc=f"{name}: ranking", unit="user", shown=progress) as bar:

        def scores(users: Tensor) -> Tensor:
            rows = scorer.scores(users)
            bar.update(len(users))
            return rows

        return evaluate_scores(scores, test.positives, seen=test.message, **asked)


def _train_mf(
    dataset: Dataset, config: RunConfig, device: torch.device | str, progress: bool
) -> LightGCN:
    settings = config.settings.changed(
        num_layers=0, item_knn=0, user_knn=0, spectral=0, time_decay=0.0
    )
    split = split_run(config, dataset)
    config = replace(config, settings=settings, side_nodes=None, start=None)
    model = new_run_model(config, dataset, split, progress=progress).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the run itself gave them
        fit(model, split, settings, progress=progress)
    return model
