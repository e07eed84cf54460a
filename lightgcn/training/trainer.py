"""`fit` and `train`: their arguments, and the checks before the first step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.html_table import html_table
from lightgcn.core.lock import folder_lock
from lightgcn.core.process_group import ProcessLostError
from lightgcn.core.progress import progress_bar
from lightgcn.graph.links import LinkSet, Split
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.choice import RankingChoice, choose_ranking
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.batches import check_split, learnable_links, num_samples, num_steps
from lightgcn.training.checkpoint import CHECKPOINT_FILE, saved_batch_size
from lightgcn.training.config import Preset, TrainConfig, preset
from lightgcn.training.diagnostics import warn_of_settings
from lightgcn.training.loop import Ended, TrainingLoop
from lightgcn.training.sharded import ShardedLightGCN, processes_of
from lightgcn.training.small_data import cut_to_data

# `train` reduces a batch size that gives fewer steps.
_ENOUGH_STEPS = 100
# Methods of a model that `fit` calls or replaces by faster equivalents.
_TRAINED = ("adjacency", "propagate", "embed", "embed_nodes", "forward")


@dataclass(repr=False)
class TrainResult:
    """The history of a training; the model itself holds the weights of the best epoch.

    Attributes:
        history: one record per epoch: "epoch" (from 1), "loss" (mean over its links), "seconds" of
            training, and if it was validated "val" (metrics by name) and "val_seconds".
        best_epoch: the epoch whose weights the model holds, from 1; 0 if none was validated.
        best_value: its validation metric.
        ended: "finished" (all epochs), "early" (patience ran out) or "interrupted" (the model holds
            the current weights, not the best).
        choice: how the ranking was chosen afterwards; None if it was not.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> settings = lightgcn.preset("paper", epochs=2, batch_size=8, embedding_dim=8)
        >>> result = lightgcn.fit(settings.new_model(split.val.message), split, settings)
        >>> result.ended, result.best_epoch
        ('finished', 2)
        >>> result
        TrainResult(2 epochs in ... s, finished; best epoch 2: ...)
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best_value: float
    ended: Ended
    choice: RankingChoice | None = None

    def _summary(self) -> dict[str, str]:
        """Return what a reader wants to see of it; the history can be hundreds of records."""
        seconds = sum(record["seconds"] for record in self.history)
        shown = {"epochs": f"{len(self.history)} epochs in {seconds:.1f} s, {self.ended}"}
        if self.best_epoch:
            shown["best epoch"] = str(self.best_epoch)
            best = self.history[self.best_epoch - 1]["val"]
            shown |= {name: f"{value:.4f}" for name, value in best.items()}
        return shown

    def __repr__(self) -> str:
        shown = self._summary()
        text = shown.pop("epochs")
        if shown:
            text += f"; best epoch {shown.pop('best epoch')}: "
            text += ", ".join(f"{name} {value}" for name, value in shown.items())
        return f"TrainResult({text})"

    def _repr_html_(self) -> str:
        shown = self._summary()
        return html_table(shown.pop("epochs"), ["validation", "value"], list(shown.items()))


def train(
    split: Split,
    settings: str | Path | Preset = "fast",
    *,
    device: torch.device | str | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
    start: LightGCN | None = None,
    **changes: Any,
) -> LightGCN:
    """Make a model and train it on a split: `Preset.new_model` and `fit` in one call.

    The batch sizes of the named presets suit about a million edges. On a smaller graph the batch
    size is reduced, so that training takes at least a hundred steps; a resumed run keeps its own. A
    metric that needs longer lists than there are items is cut as well, with a warning.

    Args:
        split: link sets such as those of `split_edges`.
        settings: a preset's name, a preset file, or a `Preset`.
        device: device to train on; None for that of the split.
        run_dir: as for `fit`.
        resume: as for `fit`.
        on_epoch: as for `fit`.
        progress: as for `fit`.
        start: the model to train, such as that of `lightgcn.warm_start`; it is changed. None for a
            new one.
        changes: settings to change, such as ``epochs=20``.

    Returns:
        The trained model, with the weights of the best epoch on ``split.val`` and, if the settings
        have ``choose_ranking``, the ranking that is best there (`lightgcn.ranking.choose_ranking`).
        It carries its normalisation and ranking: pass it to `lightgcn.evaluate` and
        `lightgcn.Recommender`.

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
    check_split_type(split)
    if isinstance(settings, Preset):
        chosen = settings.changed(**changes)
    else:
        chosen = preset(settings, **changes)
        if not str(settings).endswith(".json"):
            chosen = cut_to_data(chosen, split.val.exclude, changes)
        if not str(settings).endswith(".json") and "batch_size" not in changes:
            chosen = _with_enough_steps(chosen, split)
            size = saved_batch_size(run_dir) if resume and run_dir is not None else None
            if size is not None:  # it was chosen for the epochs of the run, which may change
                chosen = chosen.changed(batch_size=size)
    with torch.inference_mode(False):
        model = chosen.new_model(split.val.message) if start is None else start
        model = model.to(device or split.train.message.device)
    fit(
        model,
        split,
        chosen,
        run_dir=run_dir,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
    )
    set_chosen_ranking(model, split, chosen, progress=progress)
    return model.eval()


def set_chosen_ranking(
    model: LightGCN, split: Split, settings: Preset, *, progress: bool = False
) -> RankingChoice | None:
    """Give a trained model the ranking that its validation set chooses, and return the choice; None
    if the settings say not to choose, or there is no validation set."""
    if not settings.train.choose_ranking or not split.val.positives.num_edges:
        return None
    config = settings.train
    metric = config.metric
    if parse_metric(metric)[1] is None:
        metric = f"recall@{min(20, split.val.message.num_items)}"
    choice = choose_ranking(
        model,
        split.val,
        metric,
        use_order=config.use_order,
        seed=config.seed,
        progress=progress,
    )
    model.ranking = choice.config
    return choice


def _with_enough_steps(settings: Preset, split: Split) -> Preset:
    size, samples = settings.train.batch_size, num_samples(split.train, settings.train)
    if size is None:
        return settings
    enough = max(32, samples * settings.train.epochs // _ENOUGH_STEPS)
    return settings.changed(batch_size=min(size, enough))


def fit(
    model: LightGCN,
    split: Split,
    settings: Preset | TrainConfig | str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train a model on ``split.train`` in place; it ends with its best weights on ``split.val``.

    Training runs on the device of the model. The test set is not read. The model gets the
    normalisation and the ranking of the settings (``model.normalization``, ``model.ranking``).
    Without validation edges (``split_edges(graph, (1.0,))``) all epochs are run and the model keeps
    the weights of the last one. A resumed run equals an uninterrupted one if ``eval_every`` divides
    the number of epochs already done, since the last epoch is always validated.

    Args:
        model: the model to train. A `lightgcn.training.sharded.ShardedLightGCN` is trained by all
            its processes: each calls this with the same arguments, and process 0 writes the files.
        split: link sets over the model's users and items.
        settings: a `Preset` such as ``lightgcn.preset("fast")``, or its name; a `TrainConfig` alone
            trains the model as it is; None for the training of the "paper" preset.
        run_dir: folder for ``history.jsonl`` and ``checkpoint.safetensors``, which is saved every
            30 s (less often if saving takes more than 3 s), when ``should_stop`` ends the run, and
            at the end. An exception, Ctrl-C among them, leaves the last one. The folder is locked
            meanwhile (`lightgcn.core.lock`).
        resume: continue from the checkpoint in ``run_dir``, or start if there is none.
        on_epoch: called with each epoch's record, for a logger.
        should_stop: called before each step; once it returns True a checkpoint is saved and the run
            ends as "interrupted".
        progress: show a progress bar on a terminal.

    Raises:
        TypeError: if ``model`` or ``split`` has a different type.
        ValueError: if the settings contradict the model; the split has different nodes, or lacks
            edges or negatives that the loss or the metric needs; the loss is not finite; the
            checkpoint is of a different model, data or settings (except ``epochs`` and
            ``patience``); or ``run_dir`` holds a checkpoint and ``resume`` is not set.
        FolderInUseError: if something else writes to ``run_dir``.
        ProcessLostError: if one of several processes died.

    Warns:
        UserWarning: if a ranking loss uses only a part of the train edges (the split is disjoint,
            the settings are not), users with every item are left out of a loss with sampled
            negatives, training has too few steps, validation users have no train edge, or the
            embeddings grow as in a diverging run.

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
    check_split_type(split)
    given = preset(settings) if isinstance(settings, str | Path) else settings
    config = _training_of(model, given)
    processes = processes_of(model)
    # The test set stays on its device, unread.
    split = split._replace(test=split.val)
    ranking = given.ranking if isinstance(given, Preset) else model.ranking
    check_split(model, split, config, ranking)
    if resume and run_dir is None:
        raise ValueError("resume needs the run_dir that holds the checkpoint")
    with folder_lock(run_dir) if run_dir is not None and processes.rank == 0 else nullcontext():
        there = run_dir is not None and (Path(run_dir) / CHECKPOINT_FILE).exists()
        processes.check_same(f"whether {run_dir} holds a checkpoint", str(there))
        if there and not resume:
            raise ValueError(
                f"{run_dir}: holds a checkpoint; continue it with resume=True, or give a different "
                "run_dir"
            )
        warn_of_settings(split, config, model.num_layers)
        # Training needs gradients even if the caller is in no_grad or inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            loop = _accepted(model, split, config, given, run_dir, resume)
            try:
                with _progress_bar(loop, progress and processes.rank == 0) as bar:
                    ended = loop.train(on_epoch, should_stop, bar)
            except ProcessLostError as error:
                at = f"training stops in epoch {loop.progress.epoch + 1}; {loop.files.last_saved}"
                raise ProcessLostError(f"{error}; {at}") from error
    now = loop.progress
    return TrainResult(now.history, now.best_epoch, now.best_value, ended)


def _accepted(
    model: LightGCN,
    split: Split,
    config: TrainConfig,
    settings: Preset | TrainConfig | None,
    run_dir: str | Path | None,
    resume: bool,
) -> TrainingLoop:
    """Return the loop, at the checkpoint if there is one; an error leaves the model unchanged."""
    kept = model.normalization, model.ranking
    try:
        if isinstance(settings, Preset):
            model.normalization = model.normalization or settings.model.normalization
            model.ranking = settings.ranking
        model.normalization = model.normalization or "symmetric"
        loop = TrainingLoop(model, split.to(model.embedding.device), config, run_dir)
        if loop.processes.size > 1:
            same = repr((asdict(config), asdict(model.ranking)))
            loop.processes.check_same("settings", same)
            loop.processes.check_same("the data and its split", loop.files.data_fingerprint)
        if resume:
            loop.load()
    except BaseException:
        model.normalization, model.ranking = kept
        raise
    return loop


def _check_model_type(model: Any) -> None:
    if not isinstance(model, LightGCN):
        wrapped = isinstance(getattr(model, "module", None), LightGCN)
        hint = "; pass its .module, or see lightgcn.training.sharded" if wrapped else ""
        raise TypeError(f"model must be a LightGCN, got {type(model).__name__}{hint}")
    base = ShardedLightGCN if isinstance(model, ShardedLightGCN) else LightGCN
    own = [name for name in _TRAINED if getattr(type(model), name) is not getattr(base, name)]
    if own:
        raise ValueError(
            f"model: {type(model).__name__} overrides {own[0]}(), which fit does not call; train "
            "it in a loop of your own (examples/custom_loop.py)"
        )
    if not model.embedding.requires_grad:
        raise ValueError("model: its embedding is frozen (requires_grad=False)")
    if model.embedding.is_inference():
        raise ValueError("model: it was made in torch.inference_mode() and cannot be trained")


def check_split_type(split: Any) -> None:
    """Raise a TypeError unless ``split`` is a `Split` of link sets."""
    if not isinstance(split, Split):
        hint = {
            "Interactions": "; lightgcn.split_edges(interactions) makes one",
            "LinkSet": "; pass the whole split, not one of its sets",
        }.get(type(split).__name__, "")
        raise TypeError(f"split must be a Split, got {type(split).__name__}{hint}")
    for name, links in (("train", split.train), ("val", split.val)):
        if not isinstance(links, LinkSet):
            raise TypeError(f"split.{name} must be a LinkSet, got {type(links).__name__}")


def _training_of(model: LightGCN, settings: Any) -> TrainConfig:
    """Return the training settings, checked against the model."""
    if settings is None:
        return preset("paper").train
    if isinstance(settings, TrainConfig):
        return settings
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
    return settings.train


def _progress_bar(loop: TrainingLoop, shown: bool) -> Any:
    steps = num_steps(learnable_links(loop.split.train, loop.config), loop.config)
    return progress_bar(
        total=loop.config.epochs * steps,
        initial=loop.progress.epoch * steps + loop.progress.step,
        unit="step",
        desc="train",
        shown=shown,
    )
