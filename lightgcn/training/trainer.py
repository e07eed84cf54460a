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
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.split import LinkSet, Split
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.metrics import is_better, parse_metric
from lightgcn.training.batches import batch_loss, check_split, epoch_batches, num_samples, num_steps
from lightgcn.training.config import MAY_CHANGE, Preset, TrainConfig, preset
from lightgcn.training.diagnostics import (
    largest_entry,
    warn_of_settings,
    warn_of_size,
    without_saturated_users,
)
from lightgcn.training.sharded import ShardedLightGCN, evaluate_shared, processes_of

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.jsonl"
# Seconds between checkpoints, and how many times as long as one takes to write.
_CHECKPOINT_SECONDS, _TIMES_SAVING = 30.0, 10
_EPOCH_STREAM = 17
# `train` reduces a batch size that gives fewer steps.
_ENOUGH_STEPS = 100
# What `fit` calls of a model, or takes for granted.
_TRAINED = ("adjacency", "propagate", "embed", "embed_nodes", "forward")


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


def train(
    split: Split,
    settings: str | Path | Preset = "fast",
    *,
    device: torch.device | str | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
    **changes: Any,
) -> LightGCN:
    """Make a model and train it on a split: `Preset.new_model` and `fit` in one call.

    The batch size of a preset that is given by name suits about a million edges; on a smaller graph
    it is reduced, so that training takes at least a hundred steps.

    Args:
        split: of `split_edges`.
        settings: a preset's name, its file, or settings of one's own.
        device: where to train; None for where the split is.
        run_dir: as for `fit`.
        resume: as for `fit`.
        on_epoch: as for `fit`.
        progress: as for `fit`.
        changes: settings to change, such as ``epochs=20``.

    Returns:
        The trained model, with the weights of the best epoch on ``split.val``. It knows its
        normalisation and ranking: pass it to `lightgcn.evaluate` and `lightgcn.Recommender`.

    Raises:
        ValueError: as `fit` and `lightgcn.preset`.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600), stratify="user")
        >>> model = lightgcn.train(split, "fast", epochs=2, embedding_dim=8)
        >>> lightgcn.evaluate(model, split.test).num_users > 0
        True
    """
    _check_split_type(split)
    if isinstance(settings, Preset):
        chosen = settings.changed(**changes)
    else:
        chosen = preset(settings, **changes)
        if not str(settings).endswith(".json") and "batch_size" not in changes:
            chosen = _with_enough_steps(chosen, split)
    model = chosen.new_model(split.val.message).to(device or split.train.message.device)
    fit(
        model,
        split,
        chosen,
        run_dir=run_dir,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
    )
    return model.eval()


def _with_enough_steps(settings: Preset, split: Split) -> Preset:
    size, samples = settings.train.batch_size, num_samples(split.train, settings.train)
    if size is None:
        return settings
    enough = max(32, samples * settings.train.epochs // _ENOUGH_STEPS)
    return settings.changed(batch_size=min(size, enough))


def fit(
    model: LightGCN,
    split: Split,
    settings: Preset | TrainConfig | str | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train a model on ``split.train``, in place, and leave it with the best weights on
    ``split.val``.

    Work is done on the device of the model. The test set is not read. The model keeps the
    normalisation and the ranking of the settings (``model.normalization``, ``model.ranking``).
    Without validation edges (``split_edges(graph, (1.0,))``) all epochs are run and the model keeps
    the weights of the last one. A resumed run equals an uninterrupted one if ``eval_every`` divides
    the number of epochs already done, since the last epoch is always validated.

    Args:
        model: the model to train. One of `lightgcn.training.sharded` is trained by all processes
            that hold a part of it: each calls this with the same arguments, and process 0 writes
            the files.
        split: link sets over the model's users and items.
        settings: a `Preset` such as ``lightgcn.preset("fast")``, or its name; a `TrainConfig` alone
            trains the model as it is; None for the training of the "paper" preset.
        run_dir: folder for ``checkpoint.safetensors`` (saved every 30 s, or more rarely if that
            takes more than 3 s, when interrupted and at the end) and ``history.jsonl``.
        resume: go on from the checkpoint in ``run_dir``, or from the start if there is none.
        on_epoch: called with each epoch's record, for a logger.
        should_stop: called before each step; once it returns True a checkpoint is saved and the run
            ends as "interrupted".
        progress: show a progress bar on a terminal.

    Raises:
        TypeError: if ``model`` or ``split`` is something else.
        ValueError: if the settings contradict the model, the split is over other nodes than the
            model, lacks what the loss or the metric needs, the loss is not finite, the checkpoint
            is of another model, other data or other settings (but for ``epochs`` and
            ``patience``), or ``run_dir`` holds a checkpoint and ``resume`` is not set.
        ProcessLostError: if another of several processes is gone.

    Warns:
        UserWarning: if a ranking loss would learn from a part of the train edges by mistake (the
            split is disjoint, the settings are not), all epochs together are too few steps,
            validation users have no train edge, or embeddings grow as if training diverged.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> settings = lightgcn.preset("paper", epochs=2, batch_size=8, embedding_dim=8)
        >>> model = settings.new_model(split.val.message)
        >>> [record["epoch"] for record in lightgcn.fit(model, split, settings).history]
        [1, 2]
    """
    _check_model_type(model)
    _check_split_type(split)
    processes = processes_of(model)
    config = _training_of(model, settings)
    # The test set stays on its device, unread.
    split = split._replace(test=split.val)
    check_split(model, split, config)
    if resume and run_dir is None:
        raise ValueError("resume needs the run_dir that holds the checkpoint")
    there = run_dir is not None and (Path(run_dir) / CHECKPOINT_FILE).exists()
    processes.check_same(f"whether {run_dir} holds a checkpoint", str(there))
    if there and not resume:
        raise ValueError(
            f"{run_dir}: holds a checkpoint; go on from it with resume=True, or give another "
            "run_dir"
        )
    split = without_saturated_users(split, config)
    check_split(model, split, config)
    warn_of_settings(split, config, model.num_layers)
    if isinstance(settings, Preset | str):
        model.ranking = (preset(settings) if isinstance(settings, str) else settings).ranking
    if model.normalization is None:
        model.normalization = "symmetric"
    # A caller's no_grad or inference mode is for their own computations.
    with torch.inference_mode(False), torch.enable_grad():
        folder = None if run_dir is None else Path(run_dir)
        run = _Run(model, split.to(model.embedding.device), config, folder)
        if processes.size > 1:
            processes.check_same("settings", repr((asdict(config), asdict(model.ranking))))
            processes.check_same("the data and its split", run._data_fingerprint)
        if resume:
            run.load()
        try:
            with _progress_bar(run, progress and processes.rank == 0) as bar:
                ended = run.train(on_epoch, should_stop, bar)
        except ProcessLostError as error:
            raise ProcessLostError(
                f"{error}; training stops in epoch {run.epoch + 1}; {run.saved_last}"
            ) from error
    return TrainResult(run.history, run.best_epoch, run.best_value, ended)


def _check_model_type(model: Any) -> None:
    if not isinstance(model, LightGCN):
        wrapped = isinstance(getattr(model, "module", None), LightGCN)
        hint = "; pass its .module, or see lightgcn.training.sharded" if wrapped else ""
        raise TypeError(f"model must be a LightGCN, got {type(model).__name__}{hint}")
    own = [name for name in _TRAINED if getattr(type(model), name) is not getattr(LightGCN, name)]
    if own and not isinstance(model, ShardedLightGCN):
        raise ValueError(
            f"model: {type(model).__name__} has its own {own[0]}(), which fit does not call; train "
            "it in a loop of your own (examples/custom_loop.py)"
        )
    if not model.embedding.requires_grad:
        raise ValueError("model: its embedding is frozen (requires_grad=False)")


def _check_split_type(split: Any) -> None:
    if not isinstance(split, Split):
        hint = {
            "Interactions": "; lightgcn.split_edges(interactions) makes one",
            "LinkSet": "; pass the whole split, not one of its sets",
        }.get(type(split).__name__, "")
        raise TypeError(f"split must be a Split, got {type(split).__name__}{hint}")
    if split.train.message is split.val.message or split.train.positives.num_edges:
        return
    raise ValueError("the train set has no positives")


def _training_of(model: LightGCN, settings: Any) -> TrainConfig:
    """Return the training settings, checked against the model."""
    if settings is None:
        return preset("paper").train
    if isinstance(settings, TrainConfig):
        return settings
    if isinstance(settings, str):
        settings = preset(settings)
    if not isinstance(settings, Preset):
        raise TypeError(
            f"settings must be a Preset, its name or a TrainConfig, got {settings!r:.80}; "
            'lightgcn.preset("fast") makes one'
        )
    shape = settings.model
    pairs = {
        "embedding_dim": (model.embedding_dim, shape.embedding_dim),
        "num_layers": (model.num_layers, shape.num_layers),
        "learnable_alpha": (isinstance(model.alpha, Tensor), shape.learnable_alpha),
        "normalization": (model.normalization or shape.normalization, shape.normalization),
    }
    wrong = [name for name, (own, wanted) in pairs.items() if own != wanted]
    if wrong:
        listed = ", ".join(f"{name}={pairs[name][0]!r}, not {pairs[name][1]!r}" for name in wrong)
        raise ValueError(
            f"the model contradicts the settings: it has {listed}; make it with "
            "settings.new_model(split.val.message), or pass settings.train alone"
        )
    if model.normalization is None:
        model.normalization = shape.normalization
    return settings.train


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
    history_is_written: bool = False
    mean_loss: float = math.nan

    def __post_init__(self) -> None:
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(
            parameters,
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.processes = processes_of(self.model)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.model.embedding.device)
        self.val_adjacency = self._normalized(self.split.val.message)
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
            self.optimizer.zero_grad(set_to_none=True)
            loss = batch_loss(self.model, adjacency, batch, self.config, self.processes)
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
        self.mean_loss = float(self.loss_sum) / self.num_samples  # waits for the device
        self.seconds += time.monotonic() - began
        return True

    def _finish_epoch(self) -> dict[str, Any]:
        loss = self.mean_loss
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
            if self.history_is_written:
                append(self.folder / HISTORY_FILE, _json_line(record))
            else:  # a run that is refused leaves nothing behind
                self.write_history()
        return record

    def _validate(self) -> dict[str, Any]:
        began = time.monotonic()
        self.model.eval()
        self.warned = self.warned or warn_of_size(
            self._largest_entry(), self.largest_at_start, self.epoch
        )
        name, k = parse_metric(self.config.metric)
        result = evaluate_shared(
            self.model,
            self._val_links,
            ks=() if k is None else (k,),
            metrics=tuple(dict.fromkeys((name, "recall", "ndcg"))) if k else (),
        )
        value = result[self.config.metric]
        if not self.best_epoch or is_better(self.config.metric, value, self.best_value):
            self.best_value, self.best_epoch, self.since_best = value, self.epoch, 0
            self.best = {name: tensor.clone() for name, tensor in self._weights().items()}
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
        fixed = self.config.loss != "bce" and not train.messages_vary
        return train if fixed or not train.can_resample else train.resample(self.epoch)

    def _adjacency(self, links: LinkSet) -> Adjacency:
        """The adjacency of a training epoch; validation is in float32, whatever the precision of
        training."""
        if links.message is self.split.val.message:
            adjacency = self.val_adjacency
        else:
            adjacency = self._normalized(links.message)
        return replace(adjacency, half_tables=self.config.precision == "mixed")

    def save(self) -> None:
        """Write the checkpoint, where the run has a folder."""
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        if not self.history_is_written:
            self.write_history()
        tensors = {f"model.{name}": tensor for name, tensor in self._weights().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        tensors["loss_sum"] = self.loss_sum
        metadata = {name: getattr(self, name) for name in _SAVED} | {"config": self._settings()}
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
        now = self._settings()
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
        for name, tensor in self._weights().items():
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

    def _settings(self) -> dict[str, Any]:
        normalization = self.model.normalization
        return {
            **asdict(self.config),
            **asdict(self.model.ranking),
            "normalization": list(normalization)
            if isinstance(normalization, tuple)
            else normalization,
        }

    def _model_layers(self) -> dict[str, Any]:
        alpha = self.model.alpha
        return {
            "num_layers": self.model.num_layers,
            "alpha": list(alpha) if isinstance(alpha, tuple) else "learnable",
        }

    @cached_property
    def _val_links(self) -> LinkSet:
        users, val = self.config.eval_users, self.split.val
        return val if users is None else val.of_some_users(users, seed=self.config.seed)

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def _normalized(self, message: Interactions) -> Adjacency:
        normalization = self.model.normalization
        if normalization is None or normalization == "custom":
            return self.model.adjacency(message)  # raises for "custom"
        return normalized_adjacency(message, normalization)

    @cached_property
    def _data_fingerprint(self) -> str:
        return self.split.fingerprint()

    def write_history(self) -> None:
        """Write the whole history file anew."""
        self.history_is_written = True
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
