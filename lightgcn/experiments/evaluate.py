"""Evaluate the model of a run folder, and baselines, on the run's test set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

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
    Evaluation,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.graph_filters import cheby_cf, gf_cf
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


def evaluate_run(
    dataset: Dataset,
    folder: str | Path,
    *,
    ks: Sequence[int] = (20,),
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
        ks: list lengths.
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
    results = {"lightgcn": evaluate_model(folder / MODEL_FILE, links, ks=ks)}
    for name in dict.fromkeys(baselines):
        if name == "popularity":
            results[name] = _evaluate_popularity(test, ks)
        elif name == "mf":
            other = _train_mf(dataset, config, device, progress)
            results[name] = evaluate(other, test, ks=ks)
        else:
            results[name] = _evaluate_scorer(name, test.to("cpu"), ks, progress)
    if trained_or_none(folder) == evaluated:  # no newer model was written meanwhile
        try:
            write_json(
                folder / TEST_FILE, {name: asdict(result) for name, result in results.items()}
            )
        except OSError as error:  # still return the metrics
            warnings.warn(
                f"the metrics could not be written: {error.filename}: {error.strerror}",
                stacklevel=2,
            )
    return results


def evaluate_model(file: str | Path, links: LinkSet, *, ks: Sequence[int] = (20,)) -> Evaluation:
    """Evaluate a saved model on a link set, on its device."""
    return evaluate(load_model(file).to(links.message.device), links, ks=ks)


def _evaluate_popularity(test: LinkSet, ks: Sequence[int]) -> Evaluation:
    items = test.message.item_degrees.to(torch.float32).unsqueeze(1)
    users = items.new_ones(test.message.num_users, 1)
    ranking = evaluate_ranking(users, items, test.positives, seen=test.message, ks=ks)
    if not test.negatives.shape[1]:
        return ranking
    links = evaluate_links(users, items, test)
    # A count of users is no logit, so its loss means nothing.
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
    settings = config.settings.changed(
        num_layers=0, item_knn=0, user_knn=0, spectral=0, time_decay=0.0
    )
    split = split_run(config, dataset)
    config = replace(config, settings=settings, side_nodes=None)
    model = new_run_model(config, dataset, split, progress=progress).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the run itself gave them
        fit(model, split, settings, progress=progress)
    return model
