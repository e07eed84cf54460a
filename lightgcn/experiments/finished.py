"""Read a run folder in which training has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightgcn.core.checks import checked_count
from lightgcn.core.memory import reading_memory, warn_of_shortage
from lightgcn.core.storage import read_json
from lightgcn.datasets import Dataset
from lightgcn.experiments.run import RECOMMENDER_FILE, TRAINED_FILE, RunConfig, check_dataset
from lightgcn.recommender import Recommender
from lightgcn.training.checkpoint import HISTORY_FILE, read_history


def trained_or_none(folder: Path) -> dict[str, int] | None:
    """Return the number of epochs and the best epoch of a folder's model.

    None if there is no model, or the file is damaged."""
    try:
        return _trained(folder)
    except ValueError:
        return None


def _trained(folder: Path) -> dict[str, int] | None:
    """Return the same, but raise a ValueError for a damaged file."""
    path = folder / TRAINED_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        return {name: checked_count(name, found[name]) for name in ("epochs", "best_epoch")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the epochs of a trained model ({error!r})") from error


class FinishedRun(NamedTuple):
    """A run in which training has ended: settings, recommender, and the records of its epochs."""

    config: RunConfig
    recommender: Recommender
    history: list[dict[str, Any]]
    best_epoch: int


def finished_run(dataset: Dataset, folder: str | Path) -> FinishedRun:
    """Read a run folder in which training has ended.

    Raises:
        FileNotFoundError: if the folder is no run folder, or training has not ended in it.
        ValueError: if the dataset is not that of the run, or a file of the run is corrupt.
    """
    folder = Path(folder)
    config, trained = RunConfig.load(folder), _trained(folder)
    if not (folder / RECOMMENDER_FILE).is_file() or trained is None:
        raise FileNotFoundError(not_ended(folder))
    check_dataset(config, dataset)
    # Training may have been resumed since, and interrupted.
    history = read_history(folder)[: trained["epochs"]]
    if not history:
        raise ValueError(f"{folder / HISTORY_FILE}: has no record of an epoch")
    return FinishedRun(
        config, Recommender.load(folder / RECOMMENDER_FILE), history, trained["best_epoch"]
    )


def recommender_file(path: str | Path) -> Path:
    """Return the recommender's file of a run folder; a file is returned as it is.

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
        needed = reading_memory(file.stat().st_size, "recommender")
        warn_of_shortage(f"{file}: loading it", needed, "use a machine with more")
    return file


def not_ended(folder: Path) -> str:
    """Return the message of an error about a folder without a trained model."""
    return f"{folder}: training has not ended here yet; resume it with lightgcn train --resume"


def newer_training(folder: str | Path) -> tuple[int, int] | None:
    """Return (epochs of the folder's model, epochs trained since) if there are more, else None."""
    trained, history = _trained(Path(folder)), Path(folder) / HISTORY_FILE
    if trained is None or not history.is_file():
        return None
    behind, done = trained["epochs"], history.read_bytes().count(b"\n")
    return (behind, done) if done > behind else None
