"""Training: one loop for full-batch link prediction and for mini-batch ranking.

An epoch's random choices are drawn from (seed, epoch), so a run that is resumed, also in the middle
of an epoch, draws what the uninterrupted run would have drawn and, on a CPU, ends with the same
bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.core.process_group import ProcessLostError
from lightgcn.core.seeding import make_generator
from lightgcn.core.storage import append, load_shared, save_shared, write_atomic
from lightgcn.graph.adjacency import Adjacency, normalized_adjacency
from lightgcn.graph.links import LinkSet, Split
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.evaluation import evaluate
from lightgcn.ranking.metrics import is_better, parse_metric
from lightgcn.training.batches import batch_loss, check_split, epoch_batches, num_samples, num_steps
from lightgcn.training.config import MAY_CHANGE, PRESETS, Scoring, TrainConfig
from lightgcn.training.diagnostics import largest_entry, warn_of_settings, warn_of_size

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.jsonl"
# Seconds between checkpoints, and how many times as long as one takes to write.
_CHECKPOINT_SECONDS, _TIMES_SAVING = 30.0, 10
_EPOCH_STREAM = 17


@dataclass
class TrainResult:
    """What a training run left behind; the model itself holds the best epoch's weights.

    Attributes:
        history: one record per epoch: "epoch" (from 1), "loss" (mean over its links), "seconds" of
            training, and where it was validated "val" (metrics by name) and "val_seconds".
        best_epoch: the epoch whose weights the model holds, from 1; 0 where none was validated.
        best_value: its validation metric.
        ended: "finished" (all epochs), "early" (patience ran out) or "interrupted" (the model holds
            the weights it was interrupted at).
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best_value: float
    ended: Literal["finished", "early", "interrupted"]


def fit(
    model: LightGCN,
    split: Split,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train a model on ``split.train``, in place, and leave it with the weights that did best on
    ``split.val``.

    Work is done on the device that holds the model. The test set is not looked at. The last epoch
    is always validated, so a run that is resumed with more epochs equals a straight one where
    ``eval_every`` divides the old number. Without validation edges (``split_edges(graph, (1.0,))``)
    all epochs are run and the model keeps the last one's weights.

    Args:
        model: the model to train; one of `lightgcn.training.sharded` is trained by all processes
            that hold a part of it, each of which calls this with the same arguments. Process 0
            writes the files, the same as one process.
        split: link sets over the model's users and items.
        config: settings; None for ``preset("paper")``. The model's own width and layers count, not
            the settings'.
        run_dir: folder for ``checkpoint.safetensors`` (saved every 30 s, or more rarely where it
            takes more than 3 s, when interrupted and at the end) and ``history.jsonl``.
        resume: go on from the checkpoint in ``run_dir`` (from the start, where there is none yet).
        on_epoch: called with each epoch's record.
        should_stop: asked before each step; once it returns True a checkpoint is saved and the run
            ends as "interrupted". The next step may write over the embeddings' ``grad``: copy what
            is to stay.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if the split is over other nodes than the model, lacks what the loss or the
            metric needs, the loss is not finite, the checkpoint to resume from is of another model,
            other data or other settings (but for ``epochs`` and ``patience``), or ``run_dir`` holds
            a checkpoint and ``resume`` is not set.
        ProcessLostError: if another of several processes is gone.

    Warns:
        UserWarning: if a ranking loss would learn from a part of the train edges by mistake (the
            split is disjoint, the settings are not), all epochs together are too few steps to learn
            much, validation users have no train edge, or embeddings grow as where training
            diverges.
    """
    config = config or PRESETS["paper"]
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f'config must be a TrainConfig, got {config!r}; lightgcn.preset("fast") makes one'
        )
    # The test set stays where it is, unread.
    split = split._replace(test=split.val)
    check_split(model, split, config)
    if resume and run_dir is None:
        raise ValueError("resume needs the run_dir that holds the checkpoint")
    there = run_dir is not None and (Path(run_dir) / CHECKPOINT_FILE).exists()
    model.processes.check_same(f"whether {run_dir} holds a checkpoint", str(there))
    if there and not resume:
        raise ValueError(
            f"{run_dir}: holds a checkpoint; go on from it with resume=True, or give another "
            "run_dir"
        )
    warn_of_settings(split, config)
    run = _Run(
        model, split.to(model.embedding.device), config, None if run_dir is None else Path(run_dir)
    )
    if model.processes.size > 1:
        model.processes.check_same("settings", repr(asdict(config)))
        model.processes.check_same("the data and its split", run._data_fingerprint)
    if resume:
        run.load()
    elif run.folder is not None:
        run.write_history()
    try:
        with _progress_bar(run, progress and model.processes.rank == 0) as bar:
            ended = run.train(on_epoch, should_stop, bar)
    except ProcessLostError as error:
        raise ProcessLostError(
            f"{error}; training stops in epoch {run.epoch + 1}; {run.saved_last}"
        ) from error
    return TrainResult(run.history, run.best_epoch, run.best_value, ended)


@dataclass
class _Run:
    """The state of a run: what a checkpoint holds, and what can be made again from the arguments of
    `fit`."""

    model: LightGCN
    split: Split
    config: TrainConfig
    folder: Path | None
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed in the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan
    since_best: int = 0  # validations since the best one
    seconds: float = 0.0  # spent in the epoch under way before an interruption
    best: dict[str, Tensor] = field(default_factory=dict)
    warned: bool = False

    def __post_init__(self) -> None:
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(
            parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.processes = self.model.processes
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.model.embedding.device)
        self.val_adjacency = normalized_adjacency(self.split.val.message, self.config.normalization)
        self.saved_at, self.saving_seconds, self.saved_last = (
            time.monotonic(),
            0.0,
            "nothing was saved",
        )
        self.largest_at_start = self._largest_entry()

    def train(
        self,
        on_epoch: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
        bar: Any,
    ) -> Literal["finished", "early", "interrupted"]:
        ended: Literal["finished", "early"] = "finished"
        while self.epoch < self.config.epochs:
            if self._patience_is_over():
                ended = "early"
                break
            if not self._run_epoch(should_stop, bar):
                self.save()
                return "interrupted"
            record = self._finish_epoch()
            if on_epoch is not None:
                on_epoch(record)
            bar.set_postfix_str(_summary(record, self.config.metric))
        self.save()
        if self.best:
            self.model.load_state_dict(self.best)
        return ended

    def _run_epoch(self, should_stop: Callable[[], bool] | None, bar: Any) -> bool:
        """Run the rest of the epoch under way; False where it was interrupted."""
        began = time.monotonic()
        links = self._epoch_links()
        adjacency = self._adjacency(links)
        self.processes.barrier()
        generator = make_generator(
            self.config.seed, _EPOCH_STREAM, self.epoch, device=self.loss_sum.device
        )
        self.model.train()
        for step, batch in enumerate(epoch_batches(links, self.config, generator)):
            if step < self.step:
                continue
            stop, due = self.processes.any_flag(
                should_stop is not None and should_stop(), self._save_is_due()
            )
            if stop or due:
                self.seconds += time.monotonic() - began
                if stop:
                    return False
                self.save()
                began = time.monotonic()
            self._drop_gradient(adjacency)
            loss = batch_loss(self.model, adjacency, batch, self.config)
            loss.backward()
            if isinstance(self.model.alpha, Tensor) and self.model.alpha.grad is not None:
                self.processes.all_reduce_(self.model.alpha.grad)  # each has that of its columns
            self.optimizer.step()
            self.loss_sum += loss.detach().double() * len(batch.left)
            self.step += 1
            bar.update()
        # As large as the table, and not needed for what comes now.
        self.optimizer.zero_grad(set_to_none=True)
        adjacency.pattern.buffers_for(self.model.embedding).clear()
        self.num_samples = num_samples(links, self.config)
        self.seconds += time.monotonic() - began
        return True

    def _drop_gradient(self, adjacency: Adjacency) -> None:
        """Drop the gradients of the last step; the next one of the embeddings, which is as large,
        takes its place."""
        grad = self.model.embedding.grad
        self.optimizer.zero_grad(set_to_none=True)
        buffers = adjacency.pattern.buffers_for(self.model.embedding)
        if grad is not None and buffers.spare:  # else steps do not work in such tables
            buffers.release(grad)

    def _finish_epoch(self) -> dict[str, Any]:
        loss = float(self.loss_sum) / self.num_samples
        self.epoch += 1
        if not math.isfinite(loss):
            raise ValueError(
                f"the training loss is {loss} in epoch {self.epoch}: training diverged; "
                f"lower the learning rate ({self.config.learning_rate}) or check the edge weights"
            )
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "loss": loss,
            "seconds": round(self.seconds, 4),
        }
        due = self.epoch % self.config.eval_every == 0 or self.epoch == self.config.epochs
        if due and self.split.val.positives.num_edges:
            record |= self._validate()
        self.step, self.seconds = 0, 0.0
        self.loss_sum.zero_()
        self.history.append(record)
        if self._writes:
            assert self.folder is not None
            append(self.folder / HISTORY_FILE, _json_line(record))
        return record

    def _validate(self) -> dict[str, Any]:
        began = time.monotonic()
        self.model.eval()
        self.warned = self.warned or warn_of_size(
            self._largest_entry(), self.largest_at_start, self.epoch
        )
        name, k = parse_metric(self.config.metric)
        result = evaluate(
            self.model,
            self.val_adjacency,
            self._val_links,
            ks=() if k is None else (k,),
            metrics=tuple(dict.fromkeys((name, "recall", "ndcg"))) if k else (),
            **self._val_scoring,
        )
        value = result[self.config.metric]
        if not self.best_epoch or is_better(self.config.metric, value, self.best_value):
            self.best_value, self.best_epoch, self.since_best = value, self.epoch, 0
            self.best = {key: tensor.clone() for key, tensor in self.model.state_dict().items()}
        else:
            self.since_best += 1
        return {"val": result.metrics, "val_seconds": round(time.monotonic() - began, 4)}

    def _largest_entry(self) -> float:
        return self.processes.all_reduce_max(largest_entry(self.model.embedding))

    @property
    def _writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.folder is not None and self.processes.rank == 0

    def _save_is_due(self) -> bool:
        """Return whether the last checkpoint is old; where it takes long, a tenth of the time goes
        into it at most."""
        wanted = max(_CHECKPOINT_SECONDS, _TIMES_SAVING * self.saving_seconds)
        return self.folder is not None and time.monotonic() - self.saved_at > wanted

    def _patience_is_over(self) -> bool:
        return self.config.patience is not None and self.since_best >= self.config.patience

    def _epoch_links(self) -> LinkSet:
        train = self.split.train
        # Ranking losses draw their own negatives: where all train edges carry messages nothing is
        # left to resample.
        fixed = self.config.loss != "bce" and not train.is_disjoint
        return train if fixed or not train.can_resample else train.resample(self.epoch)

    def _adjacency(self, links: LinkSet) -> Adjacency:
        """The adjacency of a training epoch; validation is in float32, whatever the precision of
        training."""
        if links.message is self.split.val.message:
            adjacency = self.val_adjacency
        else:
            adjacency = normalized_adjacency(links.message, self.config.normalization)
        return replace(adjacency, half_tables=self.config.precision == "mixed")

    def save(self) -> None:
        """Write the checkpoint, where the run has a folder."""
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["loss_sum"] = self.loss_sum
        metadata = {name: getattr(self, name) for name in _SAVED} | {"config": asdict(self.config)}
        metadata["best_value"] = None if math.isnan(self.best_value) else self.best_value
        metadata["model"] = self._model_layers()
        metadata["data"] = self._data_fingerprint
        path = self.folder / CHECKPOINT_FILE
        save_shared(path, "checkpoint", tensors, metadata, self.processes, self.model.embedding_dim)
        self.saved_last = (
            f"{path} was saved last in epoch {self.epoch + (self.step > 0)}, step {self.step}"
        )
        self.saving_seconds = time.monotonic() - self.saved_at
        self.saved_at = time.monotonic()

    def load(self) -> None:
        """Take up the checkpoint of the folder, if there is one, and the history as of then."""
        assert self.folder is not None
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            self.write_history()
            return
        tensors, metadata = load_shared(
            path, "checkpoint", self.processes, self.model.embedding_dim
        )
        try:
            self._check_same_run(path, metadata)
            groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}}
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                group, _, name = key.partition(".")
                if group == "optimizer":
                    index, _, name = name.partition(".")
                    states.setdefault(int(index), {})[name] = tensor
                elif group in groups:
                    groups[group][name] = tensor
            self._check_shapes(path, groups["model"])
            if groups["best"]:
                self._check_shapes(path, groups["best"])
            self._check_optimizer(states)
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise ValueError(
                        f"{key} holds values that are not finite: training had diverged, or the "
                        "file is damaged"
                    )
            progress = _checked_progress(metadata, bool(groups["best"]))
            self.model.load_state_dict(groups["model"])
            device = self.model.embedding.device
            self.best = {name: tensor.to(device) for name, tensor in groups["best"].items()}
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
            self.loss_sum = tensors["loss_sum"].double().reshape(()).to(device)
            for name, value in progress.items():
                setattr(self, name, value)
        except (KeyError, IndexError, TypeError, RuntimeError, ValueError, AttributeError) as error:
            if str(path) in str(error):
                raise
            reason = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}: not a checkpoint to go on from ({reason})") from error
        self.saved_last = f"{path} is as it was"
        self.write_history()

    def _check_same_run(self, path: Path, metadata: dict[str, Any]) -> None:
        now = asdict(self.config)
        for name, value in metadata["config"].items():
            if name not in MAY_CHANGE and now.get(name) != value:
                raise ValueError(
                    f"{path}: was trained with {name}={value!r}, this run has "
                    f"{name}={now.get(name)!r}"
                )
        if metadata["data"] != self._data_fingerprint:
            raise ValueError(f"{path}: was trained on other data or another split of it")
        if metadata["model"] != self._model_layers():
            raise ValueError(
                f"{path}: is of a model with {metadata['model']}, this one has "
                f"{self._model_layers()}"
            )

    def _check_shapes(self, path: Path, saved: dict[str, Tensor]) -> None:
        for name, tensor in self.model.state_dict().items():
            if name not in saved or saved[name].shape != tensor.shape:
                found = tuple(saved[name].shape) if name in saved else "nothing"
                raise ValueError(
                    f"{path}: holds {name} of shape {found}, the model has {tuple(tensor.shape)}"
                )

    def _check_optimizer(self, states: dict[int, dict[str, Tensor]]) -> None:
        parameters = list(self.model.parameters())
        if states and sorted(states) != list(range(len(parameters))):
            raise ValueError(
                f"the optimizer's state is of parameters {sorted(states)!r:.100}, not of "
                f"{len(parameters)}"
            )
        for index, state in states.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if (
                    state[name].shape != parameters[index].shape
                    or state[name].dtype != parameters[index].dtype
                ):
                    raise ValueError(
                        f"optimizer.{index}.{name} is {tuple(state[name].shape)} of "
                        f"{state[name].dtype}"
                    )
            if state["step"].numel() != 1:
                raise ValueError(f"optimizer.{index}.step is {tuple(state['step'].shape)}")

    def _model_layers(self) -> dict[str, Any]:
        alpha = self.model.alpha
        return {
            "num_layers": self.model.num_layers,
            "alpha": list(alpha) if isinstance(alpha, tuple) else "learnable",
        }

    @cached_property
    def _val_links(self) -> LinkSet:
        users, val = self.config.eval_users, self.split.val
        return val if users is None else val.sample_users(users, seed=self.config.seed)

    @cached_property
    def _val_scoring(self) -> Scoring:
        return self.config.scoring(self.split.val.message)

    @cached_property
    def _data_fingerprint(self) -> str:
        return self.split.fingerprint()

    def write_history(self) -> None:
        """Write the whole history file anew."""
        if not self._writes:
            return
        assert self.folder is not None
        data = b"".join(_json_line(record) for record in self.history)
        write_atomic(self.folder / HISTORY_FILE, lambda temporary: temporary.write_bytes(data))


_COUNTS = ("epoch", "step", "best_epoch", "since_best")
_SAVED = (*_COUNTS, "history", "seconds")


def _checked_progress(metadata: dict[str, Any], has_best: bool) -> dict[str, Any]:
    """Return how far training had come, or raise a ValueError that names what cannot be."""
    found = {name: checked_count(name, metadata[name]) for name in _COUNTS}
    seconds, history, best = metadata["seconds"], metadata["history"], metadata["best_value"]
    if (
        not isinstance(seconds, int | float)
        or isinstance(seconds, bool)
        or not 0 <= seconds < math.inf
    ):
        raise ValueError(f"seconds is {seconds!r}")
    if len(history) != found["epoch"] or any(
        record["epoch"] != number for number, record in enumerate(history, 1)
    ):
        raise ValueError(f"the history has {len(history)} records, and epoch is {found['epoch']}")
    if found["best_epoch"] > found["epoch"] or (found["best_epoch"] > 0) != has_best:
        raise ValueError(f"best_epoch is {found['best_epoch']} of {found['epoch']}")
    if best is not None and (isinstance(best, bool) or not isinstance(best, int | float)):
        raise ValueError(f"best_value is {best!r}")
    return {
        **found,
        "history": history,
        "seconds": seconds,
        "best_value": math.nan if best is None else float(best),
    }


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """Return the records of a run folder's epochs; a last one that was cut off is left out.

    Raises:
        ValueError: naming file and line, if one is no record.
    """
    path = Path(folder) / HISTORY_FILE
    records = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict) or record.get("epoch") != number:
            raise ValueError(f"{path}, line {number}: not the record of epoch {number}")
        records.append(record)
    return records


def _progress_bar(run: _Run, shown: bool) -> Any:
    from tqdm import tqdm

    steps = num_steps(run.split.train, run.config)
    return tqdm(
        total=run.config.epochs * steps,
        initial=run.epoch * steps + run.step,
        unit="step",
        desc="train",
        disable=None if shown else True,
    )


def _summary(record: dict[str, Any], metric: str) -> str:
    value = f", val {metric} {record['val'][metric]:.4f}" if "val" in record else ""
    return f"epoch {record['epoch']}, loss {record['loss']:.4f}{value}"


def _json_line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record) + b"\n"
