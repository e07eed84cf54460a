"""The files of a training run: a checkpoint to resume from, and a record per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, is_number
from lightgcn.core.storage import append_jsonl, read_jsonl, write_jsonl
from lightgcn.core.tensor_file import load_shared, load_tensors, save_shared
from lightgcn.graph.links import Split
from lightgcn.nn.model import LightGCN
from lightgcn.training.config import MAY_CHANGE, TrainConfig
from lightgcn.training.sharded import processes_of

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.jsonl"
# Seconds between checkpoints, and how many times as long as one takes to write.
_CHECKPOINT_SECONDS, _TIMES_SAVING = 30.0, 10


@dataclass
class Progress:
    """The progress of a training.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the current epoch.
        seconds: of training in the current epoch.
        loss_sum: () float64: loss of the current epoch, times its samples.
        history: a record per epoch.
        best_epoch: the epoch of the best validation, from 1; 0 for none.
        best_value: its metric.
        since_best: validations since then.
        best: the weights of that epoch.
    """

    loss_sum: Tensor
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan
    since_best: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


_COUNTS = ("epoch", "step", "best_epoch", "since_best")


class RunFiles:
    """Checkpoint and history of a run, in a folder; without a folder nothing is written.

    All processes of a sharded model call the same methods, and process 0 writes.
    """

    def __init__(
        self,
        folder: str | Path | None,
        model: LightGCN,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        split: Split,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.model, self.optimizer, self.config, self.split = model, optimizer, config, split
        self.processes = processes_of(model)
        self.last_saved = "nothing was saved"
        self._history_is_written = False
        self._saved_at, self._saving_seconds = time.monotonic(), 0.0

    @property
    def path(self) -> Path:
        """Path of the checkpoint."""
        assert self.folder is not None
        return self.folder / CHECKPOINT_FILE

    def save_is_due(self) -> bool:
        """Return whether to save a checkpoint; saving takes at most a tenth of the time."""
        wanted = max(_CHECKPOINT_SECONDS, _TIMES_SAVING * self._saving_seconds)
        return self.folder is not None and time.monotonic() - self._saved_at > wanted

    def add_record(self, progress: Progress) -> None:
        """Append the last record to the history file.

        The first record creates the file, so that a refused run leaves nothing behind."""
        if self.folder is None or self.processes.rank != 0:
            return
        if self._history_is_written:
            append_jsonl(self.folder / HISTORY_FILE, progress.history[-1])
        else:
            self._write_history(progress)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        if not self._history_is_written:
            self._write_history(progress)
        tensors = {f"model.{name}": tensor for name, tensor in weights_of(self.model).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["loss_sum"] = progress.loss_sum
        metadata = {name: getattr(progress, name) for name in (*_COUNTS, "seconds", "history")}
        metadata["best_value"] = None if math.isnan(progress.best_value) else progress.best_value
        metadata |= {
            "config": _settings(self.model, self.config),
            "model": _layers(self.model),
            "data": self.data_fingerprint,
        }
        width = self.model.embedding_dim
        save_shared(self.path, "checkpoint", tensors, metadata, self.processes, width)
        at = f"epoch {progress.epoch + (progress.step > 0)}, step {progress.step}"
        self.last_saved = f"{self.path} was saved last in {at}"
        self._saving_seconds = time.monotonic() - self._saved_at
        self._saved_at = time.monotonic()

    def load(self) -> Progress | None:
        """Load the checkpoint into the model and the optimizer; None if there is none.

        Raises:
            ValueError: naming the file, if it is of a different run or damaged; model and optimizer
                are then unchanged.
        """
        if not self.path.exists():
            return None
        width = self.model.embedding_dim
        tensors, metadata = load_shared(self.path, "checkpoint", self.processes, width)
        try:
            self._check_same_run(metadata)
            groups = _grouped(tensors)
            self._check_shapes(groups["model"])
            if groups["best"]:
                self._check_shapes(groups["best"])
            states = self._optimizer_states(groups["optimizer"])
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise ValueError(
                        f"{key} holds values that are not finite: training had diverged, or the "
                        "file is damaged"
                    )
            device = self.model.embedding.device
            progress = Progress(
                tensors["loss_sum"].double().reshape(()).to(device),
                best={name: tensor.to(device) for name, tensor in groups["best"].items()},
                **_checked_progress(metadata, bool(groups["best"])),
            )
        except (KeyError, IndexError, TypeError, RuntimeError, ValueError, AttributeError) as error:
            reason = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.path}: not a checkpoint to resume from ({reason})") from error
        self.model.load_state_dict(groups["model"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        self.last_saved = f"{self.path} is unchanged"
        self._write_history(progress)
        return progress

    @cached_property
    def data_fingerprint(self) -> str:
        """A digest of the train and validation sets."""
        return self.split.fingerprint()

    def _write_history(self, progress: Progress) -> None:
        """Write the whole history file anew."""
        self._history_is_written = True
        if self.processes.rank == 0:
            assert self.folder is not None
            write_jsonl(self.folder / HISTORY_FILE, progress.history)

    def _check_same_run(self, metadata: Mapping[str, Any]) -> None:
        now = _settings(self.model, self.config)
        for name, value in metadata["config"].items():
            if name not in MAY_CHANGE and now.get(name) != value:
                raise ValueError(
                    f"was trained with {name}={value!r}, this run has {name}={now.get(name)!r}"
                )
        if metadata["data"] != self.data_fingerprint:
            raise ValueError("was trained on different data or a different split")
        if metadata["model"] != _layers(self.model):
            raise ValueError(f"is of {metadata['model']}, this model has {_layers(self.model)}")

    def _check_shapes(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in weights_of(self.model).items():
            if name not in saved or saved[name].shape != tensor.shape:
                found = tuple(saved[name].shape) if name in saved else "nothing"
                raise ValueError(
                    f"holds {name} of shape {found}, the model has {tuple(tensor.shape)}"
                )

    def _optimizer_states(self, saved: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return the state of each parameter, checked against the model's."""
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in saved.items():
            index, _, name = key.partition(".")
            states.setdefault(int(index), {})[name] = tensor
        parameters = list(self.model.parameters())
        if states and sorted(states) != list(range(len(parameters))):
            raise ValueError(
                f"the optimizer's state is of parameters {sorted(states)!r:.100}, not of "
                f"{len(parameters)}"
            )
        for number, state in states.items():
            for name in ("exp_avg", "exp_avg_sq"):
                found, own = state[name], parameters[number]
                if (found.shape, found.dtype) != (own.shape, own.dtype):
                    raise ValueError(
                        f"optimizer.{number}.{name} is {tuple(found.shape)} of {found.dtype}"
                    )
            if state["step"].numel() != 1:
                raise ValueError(f"optimizer.{number}.step is {tuple(state['step'].shape)}")
        return states


def weights_of(model: LightGCN) -> dict[str, Tensor]:
    """Return a model's parameters by name, without their gradient."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def saved_batch_size(folder: str | Path) -> int | None:
    """Return the batch size that a run in ``folder`` is trained with; None if there is no run."""
    path = Path(folder) / CHECKPOINT_FILE
    if not path.exists():
        return None
    _, metadata = load_tensors(path, "checkpoint")
    try:
        size = metadata["config"]["batch_size"]
        return None if size is None else checked_count("batch_size", size, 1)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint to resume from ({error!r})") from error


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """Return the records of a run folder's epochs, without a last one that was cut off.

    Raises:
        ValueError: naming file and line, if one is not a record.
    """
    path = Path(folder) / HISTORY_FILE
    records = read_jsonl(path)
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or record.get("epoch") != number:
            raise ValueError(f"{path}, line {number}: not the record of epoch {number}")
    return records


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        if group in groups:
            groups[group][name] = tensor
    return groups


def _settings(model: LightGCN, config: TrainConfig) -> dict[str, Any]:
    own = model.normalization
    normalization = list(own) if isinstance(own, tuple) else own
    return {**asdict(config), **asdict(model.ranking), "normalization": normalization}


def _layers(model: LightGCN) -> dict[str, Any]:
    alpha = model.alpha
    return {
        "num_layers": model.num_layers,
        "alpha": list(alpha) if isinstance(alpha, tuple) else "learnable",
    }


def _checked_progress(metadata: Mapping[str, Any], has_best: bool) -> dict[str, Any]:
    """Return the progress in a checkpoint, or raise a ValueError that names a wrong value."""
    found = {name: checked_count(name, metadata[name]) for name in _COUNTS}
    seconds, history, best = metadata["seconds"], metadata["history"], metadata["best_value"]
    if not is_number(seconds) or seconds < 0:
        raise ValueError(f"seconds is {seconds!r}")
    if [record["epoch"] for record in history] != list(range(1, found["epoch"] + 1)):
        raise ValueError(f"the history has {len(history)} records, and epoch is {found['epoch']}")
    if found["best_epoch"] > found["epoch"] or (found["best_epoch"] > 0) != has_best:
        raise ValueError(f"best_epoch is {found['best_epoch']} of {found['epoch']}")
    if best is not None and not is_number(best):
        raise ValueError(f"best_value is {best!r}")
    best_value = math.nan if best is None else float(best)
    return {**found, "history": history, "seconds": seconds, "best_value": best_value}
