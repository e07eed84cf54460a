"""Train on a dataset into a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lightgcn.core.lock import folder_lock
from lightgcn.core.memory import choice_memory, training_memory, warn_of_shortage
from lightgcn.core.process_group import SINGLE_PROCESS, ProcessGroup
from lightgcn.core.storage import write_json
from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import trained_or_none
from lightgcn.experiments.run import (
    CONFIG_FILE,
    MODEL_FILE,
    RECOMMENDER_FILE,
    TEST_FILE,
    TRAINED_FILE,
    RunConfig,
    check_dataset,
    new_run_model,
    run_side_nodes,
    split_run,
)
from lightgcn.graph.links import Split
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import save_model
from lightgcn.ranking.choice import MOST_EDGES
from lightgcn.recommender import Recommender
from lightgcn.training.batches import check_links
from lightgcn.training.checkpoint import CHECKPOINT_FILE, HISTORY_FILE
from lightgcn.training.sharded import ShardedLightGCN
from lightgcn.training.trainer import TrainResult, fit, set_chosen_ranking


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
    """Train on a dataset into a run folder and, unless interrupted, write model and recommender.

    A refused run leaves the folder unchanged.

    Args:
        dataset: dataset of the run.
        config: configuration of the run.
        folder: the run folder.
        resume: continue from the folder's checkpoint.
        device: device to train on.
        on_epoch: as for `lightgcn.fit`.
        watch: context of the training, which yields ``should_stop`` of `lightgcn.fit`.
        progress: show progress bars on a terminal.
        processes: of `lightgcn.core.process_group.process_group`: each process calls this with the
            same arguments and holds some columns of the model; process 0 makes the model and writes
            the files.

    Raises:
        FileExistsError: if the folder holds a run already (a checkpoint or a model) and ``resume``
            is not set.
        FolderInUseError: if a different process writes to the folder.
        ValueError: as `lightgcn.fit`, or if the run to resume has different data, or different
            settings other than ``epochs`` and ``patience``.
        ProcessLostError: if one of several processes died.
    """
    folder, device = Path(folder), torch.device(device)
    with folder_lock(folder) if processes.rank == 0 else nullcontext():
        _check_folder(folder, config, dataset, resume, processes)
        split, side_nodes = split_run(config, dataset), run_side_nodes(config, dataset)
        if side_nodes is not None:
            split = side_nodes.extend_split(split)
        check_links(split, config.settings.train, config.settings.ranking)
        if device.type == "cpu":
            _warn_of_memory(split, config, processes)
        began = time.monotonic()
        model = _start(config, dataset, split, folder, processes, device, progress)
        start_seconds = round(time.monotonic() - began, 2)
        with watch or nullcontext(lambda: False) as stop_asked:
            result = _fit(
                model,
                split,
                config,
                folder,
                processes,
                stop_asked,
                resume=resume,
                on_epoch=on_epoch,
                progress=progress,
            )
        whole = None
        if result.ended != "interrupted":
            whole = model.whole() if isinstance(model, ShardedLightGCN) else model
        if whole is not None:
            try:
                result.choice = set_chosen_ranking(whole, split, config.settings, progress=progress)
            except ValueError as error:  # embeddings so large that scores are not finite
                raise ValueError(f"{folder}: {error}") from error
            _write_trained(folder, whole, dataset, side_nodes, result, start_seconds)
    return result


def _check_folder(
    folder: Path, config: RunConfig, dataset: Dataset, resume: bool, processes: ProcessGroup
) -> None:
    there = any((folder / name).exists() for name in (CHECKPOINT_FILE, MODEL_FILE))
    processes.check_same(f"whether {folder} holds a run", str(there))
    if there and not resume:
        raise FileExistsError(
            f"{folder}: holds a run already; resume it, or choose a different folder"
        )
    if resume and (folder / CONFIG_FILE).is_file():
        saved = RunConfig.load(folder)
        check_dataset(saved, dataset, config.data)
        config.check_resumes(saved)


def _warn_of_memory(split: Split, config: RunConfig, processes: ProcessGroup) -> None:
    graph, own = split.val.message, processes.columns(config.settings.model.embedding_dim)
    each = training_memory(graph.num_nodes, graph.num_edges, own.stop - own.start)
    if config.settings.train.choose_ranking and graph.num_edges <= MOST_EDGES:
        each = max(each, choice_memory(graph.num_users, graph.num_items))
    advice = "use a smaller embedding_dim, or less data (prepare --slices, --sample)"
    warn_of_shortage("training", processes.local_size * each, advice)


def _start(
    config: RunConfig,
    dataset: Dataset,
    split: Split,
    folder: Path,
    processes: ProcessGroup,
    device: torch.device,
    progress: bool,
) -> LightGCN:
    """Return the untrained model, or this process's part of it."""
    model: LightGCN | None = None
    if processes.rank == 0:
        model = new_run_model(config, dataset, split, folder, progress=progress)
    if processes.size > 1 or model is None:
        return ShardedLightGCN.from_whole(model, processes, device)
    return model.to(device)


def _fit(
    model: LightGCN,
    split: Split,
    config: RunConfig,
    folder: Path,
    processes: ProcessGroup,
    stop_asked: Callable[[], bool],
    **options: Any,
) -> TrainResult:
    """Train, and write the settings once `fit` has accepted them."""
    begun = processes.rank != 0

    def begin() -> None:
        nonlocal begun
        if not begun:
            if not options["resume"]:  # left over from a run whose other files were removed
                for name in (TEST_FILE, TRAINED_FILE):
                    (folder / name).unlink(missing_ok=True)
            config.save(folder)
            processes.remember(f"began {folder}")
        begun = True

    def should_stop() -> bool:  # first called after all checks
        begin()
        return stop_asked()

    try:
        result = fit(
            model, split, config.settings, run_dir=folder, should_stop=should_stop, **options
        )
    except Exception:  # after a failure in the first epoch leave nothing behind
        if not any((folder / name).exists() for name in (CHECKPOINT_FILE, HISTORY_FILE)):
            (folder / CONFIG_FILE).unlink(missing_ok=True)
        raise
    begin()  # if no step was left
    return result


def _write_trained(
    folder: Path,
    model: LightGCN,
    dataset: Dataset,
    side_nodes: SideNodes | None,
    result: TrainResult,
    start_seconds: float,
) -> None:
    trained = {"epochs": len(result.history), "best_epoch": result.best_epoch}
    if trained_or_none(folder) != trained:
        (folder / TEST_FILE).unlink(missing_ok=True)  # of an earlier model
    save_model(folder / MODEL_FILE, model)
    recommender = Recommender(
        model,
        dataset.known_edges(),
        side_nodes=side_nodes,
        user_columns=dataset.users,
        item_columns=dataset.items,
    )
    recommender.save(folder / RECOMMENDER_FILE)
    choice = None if result.choice is None else asdict(result.choice)
    write_json(folder / TRAINED_FILE, trained | {"start_seconds": start_seconds, "ranking": choice})
