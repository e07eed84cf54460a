"""Search for settings by validation, with Optuna, in a folder where a later call continues.

study.log       Optuna's journal: the search and every trial
preset.json     the best settings so far, for `lightgcn.preset` and ``lightgcn train --preset``
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch

from lightgcn.core.checks import checked_count, checked_number, is_out_of_memory
from lightgcn.core.lock import folder_lock
from lightgcn.core.memory import training_memory, warn_of_shortage
from lightgcn.core.progress import progress_bar
from lightgcn.graph.links import Split
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.metrics import is_better, lower_is_better, parse_metric
from lightgcn.training.batches import check_split
from lightgcn.training.config import SETTINGS, Preset, preset, save_preset
from lightgcn.training.search_space import (
    STARTUP_TRIALS,
    first_trials,
    quiet_optuna,
    require_optuna,
    search_space,
)
from lightgcn.training.small_data import cut_to_data
from lightgcn.training.trainer import check_split_type, fit
from lightgcn.training.trials import Trial, best_trial, clock_time

STUDY_FILE = "study.log"
PRESET_FILE = "preset.json"
# Least number of epochs of a trial; patience ends most trials earlier.
_LEAST_EPOCHS = 200
# Shares of the time of a search: the most for a trial, and the interval of comparisons.
_TRIAL_SHARE, _TICK_SHARE = 1 / 10, 1 / 60
# Epochs before a trial is compared with others, in a search without a time limit.
_GRACE_EPOCHS = 10
_LEAST_RIVALS = 3
# Parts of a score that are not defined for negatives of any two nodes.
_USER_ITEM_PARTS = ("popularity_prior", "item_knn", "item_knn_weight")


class TuneProgress(NamedTuple):
    """The report of `tune` after a trial: the trial, the best so far, and the seconds left."""

    trial: Trial
    best: Trial | None
    seconds_left: float | None


@dataclass(frozen=True)
class TuneResult:
    """The result of a search, with earlier searches in the same folder.

    Attributes:
        trials: all trials, in the order of the search.
        best: the trial with the best validation metric; None if none was validated.
        settings: its settings, as in the preset file.
        ended: "time", "trials", or "interrupted".

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> result = lightgcn.tune(split, "study", trials=1, fixed=["epochs"])
        >>> result.best == result.trials[0], result.settings.train.epochs
        (True, 8)
    """

    trials: list[Trial]
    best: Trial | None
    settings: Preset | None
    ended: Literal["time", "trials", "interrupted"]


def tune(
    split: Split,
    folder: str | Path,
    *,
    minutes: float | None = None,
    trials: int | None = None,
    start: Preset | None = None,
    fixed: Collection[str] = (),
    max_dim: int = 128,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    on_trial: Callable[[TuneProgress], None] | None = None,
    progress: bool = False,
) -> TuneResult:
    """Search for the settings with the best metric on ``split.val`` (extra ``tune``).

    The start and the presets are tried first, then random draws, then proposals of a Gaussian
    process (Optuna). If the start has ``choose_ranking``, the parts of a score and their weights
    are not searched: trials are compared with those of the start, and training with what is found
    chooses them. A search in ``folder`` of the same data, start, ``fixed`` and ``max_dim`` is
    continued. The test set is not read.

    A trial ends when its patience runs out, or when it is worse than the median of other trials
    after the same training time (without ``minutes``: the same epochs); with ``minutes``, also
    after a tenth of the time. With ``trials`` alone the result depends on seed, data and number of
    trials, not on the machine's speed.

    Args:
        split: link sets such as those of `split_edges`.
        folder: the folder of the search; its ``preset.json`` is replaced after each new best.
        minutes: wall-clock time; the trial that it ends counts with its best value so far.
        trials: number of trials, not counting those of an earlier search.
        start: settings to start from; settings that are not searched (metric, seed, patience, …)
            hold for all trials. None for ``preset("fast")``. Trials have at least 200 epochs,
            unless "epochs" is fixed.
        fixed: names of settings to keep as in the start.
        max_dim: the largest width to try.
        device: device to train on.
        should_stop: called before each step; once it returns True the search ends as
            "interrupted".
        on_trial: called after each trial.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if neither ``minutes`` nor ``trials`` is given, an argument is out of range, the
            split lacks edges or negatives that the metric needs, the folder holds a different
            search or a damaged file, the first trials all fail, or Optuna is not installed.
        FileExistsError: if the folder holds a preset but no search.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> result = lightgcn.tune(split, "study", trials=1, fixed=["epochs"])
        >>> result.ended
        'trials'
    """
    check_split_type(split)
    require_optuna()
    _check_limits(minutes, trials, max_dim)
    if not split.val.positives.num_edges:
        raise ValueError(
            "split: a search compares trials on validation edges, and the split has none"
        )
    if start is None:
        start = cut_to_data(preset("fast"), split.val.exclude, ())
    unknown = [name for name in fixed if name not in SETTINGS]
    if unknown:
        raise ValueError(f"fixed: no setting {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    if parse_metric(start.train.metric)[0] == "loss":
        raise ValueError(
            f"metric {start.train.metric} cannot compare different losses: use roc_auc or a "
            "ranking metric (recall@20)"
        )
    if start.model.init == "words":
        raise ValueError('init="words" cannot be searched: a search has only the train edges')
    split = split._replace(test=split.val).to(device)
    nodes = split.train.message
    if nodes.device.type == "cpu":
        needed = training_memory(nodes.num_nodes, nodes.num_edges, max_dim)
        advice = "use a smaller max_dim, or less data (prepare --slices, --sample)"
        warn_of_shortage("a search", needed, advice)
    smallest = LightGCN(nodes.num_users, nodes.num_items, embedding_dim=1, init_std=0)
    check_split(smallest, split, start.train, start.ranking)
    with folder_lock(folder), quiet_optuna():
        search = _Search(split, Path(folder), start, tuple(sorted(fixed)), max_dim, minutes, trials)
        search.should_stop = should_stop
        search.open()
        with search.show(progress):
            ended = search.run(on_trial)
        best = search.best
        return TuneResult(
            search.trials, best, None if best is None else search.preset_of(best), ended
        )


def _check_limits(minutes: float | None, trials: int | None, max_dim: int) -> None:
    if minutes is None and trials is None:
        raise ValueError("give minutes, trials, or both, to limit the search")
    if minutes is not None:
        checked_number("minutes", minutes)
    for name, value in (("trials", trials), ("max_dim", max_dim)):
        if value is not None:
            checked_count(name, value, 1)


@dataclass
class _Search:
    """A search in progress."""

    split: Split
    folder: Path
    start: Preset
    fixed: tuple[str, ...]
    max_dim: int
    minutes: float | None
    limit: int | None
    should_stop: Callable[[], bool] | None = None
    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False
    bar: Any = None

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.metric = self.start.train.metric
        self.base = self.start.changed(
            embedding_dim=self.start.model.embedding_dim
            if "embedding_dim" in self.fixed
            else min(self.start.model.embedding_dim, self.max_dim),
            epochs=self.start.train.epochs
            if "epochs" in self.fixed
            else max(self.start.train.epochs, _LEAST_EPOCHS),
        )
        num_edges = self.split.train.positives.num_edges
        fixed = self.fixed
        if "all" in (self.split.val.negative_pairs, self.start.train.negative_pairs):
            fixed += _USER_ITEM_PARTS
        if self.start.train.choose_ranking:  # after training, which needs no trial
            fixed += tuple(each.name for each in fields(RankingConfig))
        self.space = search_space(self.base, num_edges, max_dim=self.max_dim, fixed=fixed)
        if not self.space:
            raise ValueError("all settings are fixed: nothing is left to search")

    def open(self) -> None:
        """Continue the search in the folder, or start one."""
        from optuna import create_study, load_study, pruners
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal, found = self.folder / STUDY_FILE, self.folder / PRESET_FILE
        about = {
            "data": self.split.fingerprint(),
            "start": self.start.flat(),
            "fixed": list(self.fixed),
            "max_dim": self.max_dim,
        }
        begun = journal.is_file()
        if not begun and found.exists():
            raise FileExistsError(
                f"{found}: exists, but the folder holds no search; choose a different folder"
            )
        if begun:
            _drop_partial_line(journal)
        direction: Any = "minimize" if lower_is_better(self.metric) else "maximize"
        try:
            backend = JournalFileBackend(str(journal), cast(Any, _NoLock()))
            storage = JournalStorage(backend)
            if begun:  # read only, so that a refused search is left unchanged
                self.study = load_study(study_name="lightgcn", storage=storage)
            else:
                self.study = create_study(
                    study_name="lightgcn", storage=storage, direction=direction
                )
            self.study.pruner = pruners.MedianPruner(
                n_startup_trials=_LEAST_RIVALS,
                n_warmup_steps=0 if self.minutes else _GRACE_EPOCHS - 1,
                n_min_trials=_LEAST_RIVALS,
            )
            saved = self.study.user_attrs
            for name, value in about.items():
                if name in saved and saved[name] != value:
                    raise ValueError(
                        f"holds a search with {name} {saved[name]!r:.99}, not {value!r:.99}"
                    )
                if name not in saved:
                    self.study.set_user_attr(name, value)
            self._take_up()
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{journal}: {error}; choose a different folder") from error
        self._save_preset()

    def _take_up(self) -> None:
        """Read the earlier trials; a trial of a killed process is queued again."""
        from optuna.trial import TrialState

        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.RUNNING:
                self.study.tell(frozen.number, state=TrialState.FAIL)
                self.study.enqueue_trial(frozen.params)
            elif "trial" in frozen.user_attrs:
                self.trials.append(Trial(**frozen.user_attrs["trial"]))
        if not self.study.get_trials(deepcopy=False):
            for settings in first_trials(self.space, self.base):
                self.study.enqueue_trial(self._encoded(settings))

    def run(
        self, on_trial: Callable[[TuneProgress], None] | None
    ) -> Literal["time", "trials", "interrupted"]:
        earlier = len(self.trials)
        while not self.interrupted:
            if self.limit is not None and len(self.trials) - earlier >= self.limit:
                return "trials"
            if self.minutes is not None and self.seconds_left() <= 0:
                return "time"
            trial = self._try()
            if trial is None:
                continue
            self.trials.append(trial)
            if trial == self.best:
                self._save_preset()
            failed = all(each.ended == "failed" for each in self.trials)
            if failed and len(self.trials) == STARTUP_TRIALS:
                raise ValueError(
                    f"the first {STARTUP_TRIALS} trials all failed, the last with: {trial.error}"
                )
            if on_trial is not None:
                left = None if self.minutes is None else self.seconds_left()
                on_trial(TuneProgress(trial, self.best, left))
        return "interrupted"

    def _ask(self) -> tuple[Any, dict[str, Any]]:
        """Return the next trial, and its settings.

        The sampler is seeded by the number of the trial, so that a continued search proposes the
        same settings as an uninterrupted one.
        """
        import optuna

        known = len(self.trials)
        words = np.random.SeedSequence(self.start.train.seed, spawn_key=(known,)).generate_state(1)
        self.study.sampler = optuna.samplers.GPSampler(
            seed=int(words[0]), n_startup_trials=STARTUP_TRIALS
        )
        asked = {dimension.name: dimension.distribution() for dimension in self.space}
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        if not waiting and known < STARTUP_TRIALS:
            likely = {d.name: d.encode(d.at_random) for d in self.space if d.at_random is not None}
            self.study.enqueue_trial(likely)
        drawn = self.study.ask(asked)
        return drawn, {d.name: d.decode(drawn.params[d.name]) for d in self.space}

    def _try(self) -> Trial | None:
        """Train with the next settings; return None if stopped before a validation."""
        from optuna.trial import TrialState

        began = time.monotonic()
        asked, settings = self._ask()
        curve: list[tuple[int, float]] = []
        epochs, why = 0, ""
        tick = None if self.minutes is None else _TICK_SHARE * 60 * self.minutes

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal epochs, why
            epochs = record["epoch"]
            if "val" not in record:
                return
            before = _best_point(curve, self.metric)
            curve.append((epochs, record["val"][self.metric]))
            now = _best_point(curve, self.metric)
            assert now is not None
            if tick is None:
                asked.report(now[1], epochs)
            else:  # compare trials after the same time, not the same epochs
                ticks = int((time.monotonic() - began) / tick)
                if ticks and before is not None:
                    asked.report(before[1], ticks)
            if asked.should_prune():
                why = "pruned"

        def should_stop() -> bool:
            nonlocal why
            self._show(curve)
            why = why or self._reason_to_stop(began)
            return bool(why)

        error: BaseException | None = None
        try:
            config = self.base.changed(**settings)
            model = config.new_model(self.split.val.message).to(self.split.train.message.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # bad settings are expected
                result = fit(model, self.split, config, on_epoch=on_epoch, should_stop=should_stop)
            ended: Any = why if result.ended == "interrupted" else result.ended
        except (ValueError, MemoryError, RuntimeError) as caught:
            if isinstance(caught, RuntimeError) and not is_out_of_memory(caught):
                raise
            error, ended = caught, "failed"
        best = None if error is not None else _best_point(curve, self.metric)
        if ended == "stopped" and (best is None or self.interrupted):
            self.study.tell(asked, state=TrialState.FAIL)
            if self.interrupted:  # tried again when the search continues
                self.study.enqueue_trial(asked.params)
            return None
        reason = None
        if error is not None:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        trial = Trial(
            len(self.trials),
            settings,
            ended,
            None if best is None else best[1],
            0 if best is None else best[0],
            epochs,
            round(time.monotonic() - began, 3),
            reason,
        )
        asked.set_user_attr("trial", trial.__dict__)
        if best is None:
            self.study.tell(asked, state=TrialState.FAIL)
        else:
            self.study.tell(asked, best[1])
        return trial

    def _reason_to_stop(self, began: float) -> str:
        if self.should_stop is not None and self.should_stop():
            self.interrupted = True
            return "stopped"
        if self.minutes is None:
            return ""
        if self.seconds_left() <= 0:
            return "stopped"
        return "limit" if time.monotonic() - began > _TRIAL_SHARE * 60 * self.minutes else ""

    def seconds_left(self) -> float:
        assert self.minutes is not None
        return max(0.0, 60 * self.minutes - (time.monotonic() - self.began))

    def _encoded(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {d.name: d.encode(settings[d.name]) for d in self.space}

    @property
    def best(self) -> Trial | None:
        return best_trial(self.trials, self.metric)

    def preset_of(self, trial: Trial) -> Preset:
        """Return a trial's settings, with twice the epochs if it was still improving at its end."""
        settings = self.base.changed(**trial.settings)
        if "epochs" in self.fixed:
            return settings
        return settings.changed(epochs=max(settings.train.epochs, 2 * trial.best_epoch))

    def _save_preset(self) -> None:
        best = self.best
        if best is not None:
            found = {
                "metric": self.metric,
                "value": best.value,
                "epoch": best.best_epoch,
                "trial": best.number,
                "trials": len(self.trials),
            }
            save_preset(self.folder / PRESET_FILE, self.preset_of(best), found)

    def show(self, progress: bool) -> Any:
        self.earlier = len(self.trials)
        total = self.limit if self.minutes is None else round(60 * self.minutes)
        unit = "trial" if self.minutes is None else "s"
        self.bar = progress_bar(total=total, unit=unit, shown=progress)
        return self.bar

    def _show(self, curve: list[tuple[int, float]]) -> None:
        if self.bar is None or self.bar.disable:
            return
        own, best = _best_point(curve, self.metric), self.best
        parts = [f"trial {len(self.trials)}"]
        if own is not None:
            parts[0] += f", epoch {curve[-1][0]}, {self.metric} {own[1]:.4f}"
        if best is not None:
            parts.append(f"best {best.value:.4f} of trial {best.number}")
        if self.minutes is not None:
            parts.append(f"{clock_time(self.seconds_left())} left")
        self.bar.set_description_str("; ".join(parts), refresh=False)
        done = len(self.trials) - self.earlier
        if self.minutes is not None:
            done = int(time.monotonic() - self.began)
        self.bar.n = min(done, self.bar.total)
        self.bar.update(0)


def _best_point(curve: list[tuple[int, float]], metric: str) -> tuple[int, float] | None:
    """Return the first (epoch, value) of a curve with the best value."""
    best: tuple[int, float] | None = None
    for point in curve:
        if best is None or is_better(metric, point[1], best[1]):
            best = point
    return best


def _drop_partial_line(path: Path) -> None:
    """Cut off the last line of a journal that a killed process was writing."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))  # writing anew could lose the search


class _NoLock:
    """A no-op lock for Optuna's journal: `folder_lock` holds the folder already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
