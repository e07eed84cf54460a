"""Compare the models of run folders on the test set that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import not_ended
from lightgcn.experiments.run import MODEL_FILE, RunConfig, held_out_links, run_side_nodes
from lightgcn.nn.model_io import load_model
from lightgcn.ranking.comparison import Difference, compare
from lightgcn.ranking.evaluation import DEFAULT_METRICS, evaluate
from lightgcn.ranking.resampling import holm
from lightgcn.ranking.result import Evaluation

# Fields of a `RunConfig` that determine the test edges and what is masked, unless the data has its
# own test set.
_SPLIT = ("ratios", "leave_out", "dates", "stratify", "split_seed", "start")


class RunComparison(NamedTuple):
    """Evaluations of several runs, and the comparison of each later run with the first.

    Attributes:
        evaluations: one per run, with values per user.
        differences: one per later run: metric to `Difference`. With several of them, p-values are
            corrected for their number by Holm's method, metric by metric.
    """

    evaluations: list[Evaluation]
    differences: list[dict[str, Difference]]


def compare_runs(
    dataset: Dataset,
    folders: Sequence[str | Path],
    *,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> RunComparison:
    """Compare the best models of runs on their test set; nothing is written.

    Args:
        dataset: dataset of the runs.
        folders: two run folders or more; the first is the reference.
        ks: as for `lightgcn.evaluate`.
        metrics: as for `lightgcn.evaluate`.
        seed: of the resampling.
        device: device to evaluate on.

    Raises:
        FileNotFoundError: if a folder holds no trained model.
        ValueError: if there are fewer than two folders, the runs have different data, splits or
            test edges, or there is no test set.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise ValueError(f"a comparison needs at least two runs, got {len(paths)}")
    configs = [RunConfig.load(path) for path in paths]
    for path, config in zip(paths, configs, strict=True):
        _check_same_data(paths[0], configs[0], path, config)
        if dataset.test is None:
            _check_same_split(paths[0], configs[0], path, config)
        if not (path / MODEL_FILE).is_file():
            raise FileNotFoundError(not_ended(path))
    evaluations: list[Evaluation] = []
    reference = held_out_links(configs[0], dataset)
    for path, config in zip(paths, configs, strict=True):
        links = held_out_links(config, dataset)
        same = links.positives.same_edges(reference.positives)
        if not (same and links.message.same_edges(reference.message)):
            raise ValueError(f"{path}: its test set differs from that of {paths[0]}")
        # Only rankings are compared.
        links = replace(links, negatives=links.negatives[:, :0])
        groups = run_side_nodes(config, dataset)
        links = (links if groups is None else groups.extend_links(links)).to(device)
        model = load_model(path / MODEL_FILE).to(device)
        evaluations.append(evaluate(model, links, ks=ks, metrics=metrics, per_user=True))
    differences = [compare(evaluations[0], other, seed=seed) for other in evaluations[1:]]
    return RunComparison(evaluations, _corrected(differences))


def _check_same_data(first: Path, one: RunConfig, path: Path, other: RunConfig) -> None:
    if one.fingerprint != other.fingerprint:
        raise ValueError(
            f"{path} is a run on different data than {first}: {other.data}, not {one.data}"
        )


def _check_same_split(first: Path, one: RunConfig, path: Path, other: RunConfig) -> None:
    """Raise a ValueError that names what differs between the splits of two runs."""
    differing = [
        f"{name} is {getattr(one, name)!r} and {getattr(other, name)!r}"
        for name in _SPLIT
        if getattr(one, name) != getattr(other, name)
    ]
    if differing:
        raise ValueError(f"{first} and {path} have different splits: {'; '.join(differing)}")


def _corrected(runs: list[dict[str, Difference]]) -> list[dict[str, Difference]]:
    if len(runs) == 1:
        return runs
    p_values = {name: holm([run[name].p_value for run in runs]) for name in runs[0]}
    return [
        {name: replace(found, p_value=p_values[name][place]) for name, found in run.items()}
        for place, run in enumerate(runs)
    ]
