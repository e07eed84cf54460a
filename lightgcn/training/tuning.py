"""Search for settings that suit the data, on validation: a folder that is searched further each
time.

study.json      what is searched: data, metric, and the settings that trials start from
trials.jsonl    one record per trial that ended
preset.json     the best settings so far, for `lightgcn.preset` and ``lightgcn train --preset``
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from lightgcn.core.checks import checked_count, is_out_of_memory
from lightgcn.core.lock import holds
from lightgcn.core.memory import training_memory, warn_of_shortage
from lightgcn.core.storage import read_json, write_json
from lightgcn.graph.links import Split
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.metrics import is_better, lower_is_better, parse_metric
from lightgcn.training.batches import check_split
from lightgcn.training.config import TrainConfig, preset, save_preset
from lightgcn.training.search_space import (
    STARTUP_TRIALS,
    first_trials,
    propose,
    require_optuna,
    search_space,
)
from lightgcn.training.trainer import fit
from lightgcn.training.trials import (
    Point,
    Trial,
    TrialEnd,
    append_trial,
    best_point,
    best_trial,
    clock_time,
    read_trials,
    write_trials,
)

STUDY_FILE = "study.json"
TRIALS_FILE = "trials.jsonl"
PRESET_FILE = "preset.json"
# A trial has time for so many epochs, if the start has no more; patience ends most of them earlier.
_LEAST_EPOCHS = 200
# Of the time of a search: what a trial may take, and what it has before it is compared with others.
_TRIAL_SHARE, _GRACE_SHARE = 1 / 10, 1 / 60
_GRACE_EPOCHS = 10
_LEAST_RIVALS = 3


class TuneProgress(NamedTuple):
    """What `tune` reports after a trial: the trial, the best one so far, and the seconds left
    (None: no limit)."""

    trial: Trial
    best: Trial | None
    seconds_left: float | None


@dataclass(frozen=True)
class TuneResult:
    """What a search has found, those before it in the same folder included.

    Attributes:
        trials: all trials, in the order of the search.
        best: the one with the best validation metric; None where none has been validated.
        config: its settings, as in the preset file.
        ended: "time", "trials", or "interrupted".
    """

    trials: list[Trial]
    best: Trial | None
    config: TrainConfig | None
    ended: Literal["time", "trials", "interrupted"]


@holds("folder")
def tune(
    split: Split,
    folder: str | Path,
    *,
    minutes: float | None = None,
    trials: int | None = None,
    start: TrainConfig | None = None,
    fixed: Collection[str] = (),
    max_dim: int = 128,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    on_trial: Callable[[TuneProgress], None] | None = None,
    progress: bool = False,
) -> TuneResult:
    """Search for the settings that do best on ``split.val``, for so many minutes or trials, into
    ``folder``.

    The start and the presets are tried first, then draws at random, then what a Gaussian process
    proposes. A search of the same data, metric and start that is in the folder goes on. The test
    set is not looked at.

    A trial ends when its patience runs out, or when it is behind the median of what other trials
    had reached in as many seconds (without ``minutes``: epochs); with ``minutes``, also after a
    tenth of the time. Without ``minutes`` no clock is looked at: seed, data and number of trials
    determine the result on one machine.

    Args:
        split: link sets, such as ``RunConfig.split`` makes.
        folder: where the search is kept; ``preset.json`` in it is renewed after each trial that is
            the best so far.
        minutes: wall-clock time, after which the trial under way counts with what it has reached.
        trials: how many to try, beside those of an earlier search.
        start: settings to start from, whose metric, seed, patience and the like hold for all
            trials; None for ``preset("fast")``. Trials have at least 200 epochs, unless "epochs" is
            fixed.
        fixed: names of settings to leave as they are in the start.
        max_dim: the largest width to try.
        device: where to train.
        should_stop: asked before each step; once it returns True the search ends as "interrupted".
        on_trial: called after each trial.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if neither ``minutes`` nor ``trials`` is given, an argument is out of range, the
            split lacks what the metric needs, the folder holds another search or damaged files, the
            first trials all fail, or Optuna is not installed.
        FileExistsError: if a preset is in the folder, and no search.
    """
    require_optuna()
    start = start or preset("fast")
    _check_limits(minutes, trials, max_dim)
    unknown = [name for name in fixed if name not in TrainConfig.__dataclass_fields__]
    if unknown:
        raise ValueError(
            f"fixed names no setting {unknown[0]!r}; there are "
            f"{', '.join(TrainConfig.__dataclass_fields__)}"
        )
    if parse_metric(start.metric)[0] == "loss":
        raise ValueError(
            f"metric {start.metric} cannot choose between losses: take roc_auc or a ranking metric "
            "(recall@20)"
        )
    if start.init == "words":
        raise ValueError(
            "a search cannot start from words: it makes models of the train edges alone"
        )
    split = split._replace(test=split.val).to(device)
    nodes = split.train.message
    needed = (
        training_memory(nodes.num_nodes, nodes.num_edges, max_dim)
        if nodes.device.type == "cpu"
        else 0
    )
    warn_of_shortage(
        "a search", needed, "take a smaller max_dim, or less data (prepare --slices, --sample)"
    )
    check_split(LightGCN(nodes.num_users, nodes.num_items, embedding_dim=1), split, start)
    search = _Search(
        split, Path(folder), start, frozenset(fixed), max_dim, minutes, trials, should_stop
    )
    search.open()
    with search.show(progress):
        ended = search.run(on_trial)
    best = search.best
    return TuneResult(search.trials, best, None if best is None else search.preset_of(best), ended)


def _check_limits(minutes: float | None, trials: int | None, max_dim: int) -> None:
    if minutes is None and trials is None:
        raise ValueError("give minutes, trials, or both: when is the search to end?")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ValueError(f"minutes must be a positive number, got {minutes}")
    for name, value in (("trials", trials), ("max_dim", max_dim)):
        if value is not None:
            checked_count(name, value, 1)


@dataclass
class _Search:
    """The state of a search."""

    split: Split
    folder: Path
    start: TrainConfig
    fixed: frozenset[str]
    max_dim: int
    minutes: float | None
    limit: int | None
    should_stop: Callable[[], bool] | None
    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.base = self.start
        if "epochs" not in self.fixed:
            self.base = replace(self.base, epochs=max(self.base.epochs, _LEAST_EPOCHS))
        if "embedding_dim" not in self.fixed:
            self.base = replace(self.base, embedding_dim=min(self.base.embedding_dim, self.max_dim))
        num_edges = self.split.train.positives.num_edges
        self.space = search_space(self.base, num_edges, max_dim=self.max_dim, fixed=self.fixed)
        if not self.space:
            raise ValueError("all settings are fixed: nothing is left to search")

    def run(
        self, on_trial: Callable[[TuneProgress], None] | None
    ) -> Literal["time", "trials", "interrupted"]:
        earlier = len(self.trials)
        while not self.interrupted:
            if self.limit is not None and len(self.trials) - earlier >= self.limit:
                return "trials"
            # What is too short for one validation would be spent for nothing.
            first_validations = [trial.curve[0][1] for trial in self.trials if trial.curve]
            if self.minutes is not None and self.seconds_left() <= min(
                first_validations, default=0.0
            ):
                return "time"
            trial = self._try(self._next())
            self._keep(trial)
            if len(self.trials) == STARTUP_TRIALS and all(
                each.ended == "failed" for each in self.trials
            ):
                raise ValueError(
                    f"the first {STARTUP_TRIALS} trials all failed, this one with: {trial.error}"
                )
            if on_trial is not None:
                on_trial(
                    TuneProgress(
                        trial, self.best, None if self.minutes is None else self.seconds_left()
                    )
                )
        return "interrupted"

    def _next(self) -> dict[str, Any]:
        """Return the settings of the next trial; one that was stopped tells nothing, and is not in
        the way."""
        told = [
            (self._all_searched(trial), trial.value)
            for trial in self.trials
            if trial.ended != "stopped"
        ]
        for settings in first_trials(self.space, self.base):
            if all(settings != tried for tried, _ in told):
                return settings
        seed, minimize = self.start.seed, lower_is_better(self.start.metric)
        return propose(self.space, told, number=len(self.trials), seed=seed, minimize=minimize)

    def _all_searched(self, trial: Trial) -> dict[str, Any]:
        """A trial of an earlier search may have had a larger or a smaller space."""
        return {
            dimension.name: trial.settings.get(dimension.name, getattr(self.start, dimension.name))
            for dimension in self.space
        }

    def _try(self, settings: dict[str, Any]) -> Trial:
        began = time.monotonic()
        curve: list[Point] = []
        epochs = 0
        why: Literal["pruned", "limit", "stopped"] | None = None

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal epochs, why
            epochs = record["epoch"]
            if "val" in record:
                curve.append(
                    (epochs, round(time.monotonic() - began, 3), record["val"][self.start.metric])
                )
                why = "pruned" if self._is_behind(curve) else None

        def should_stop() -> bool:
            nonlocal why
            self._show(curve)
            why = why or self._reason_to_stop(began)
            return why is not None

        def trial(ended: TrialEnd, error: BaseException | None = None) -> Trial:
            best = None if error is not None else best_point(curve, self.start.metric)
            value, best_epoch = (None, 0) if best is None else (best[2], best[0])
            seconds = round(time.monotonic() - began, 3)
            said = (
                None
                if error is None
                else " ".join(str(error).split())[:300] or type(error).__name__
            )
            return Trial(
                len(self.trials), settings, ended, value, best_epoch, epochs, seconds, curve, said
            )

        nodes = self.split.train.message
        try:
            config = replace(self.base, **settings)
            model = config.new_model(nodes.num_users, nodes.num_items, self.split.val.message).to(
                nodes.device
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a trial is there to find out
                result = fit(model, self.split, config, on_epoch=on_epoch, should_stop=should_stop)
        except (ValueError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            return trial("failed", error)
        if result.ended != "interrupted":
            return trial(result.ended)
        assert why is not None
        return trial(why)

    def _reason_to_stop(self, began: float) -> Literal["limit", "stopped"] | None:
        if self.should_stop is not None and self.should_stop():
            self.interrupted = True
            return "stopped"
        if self.minutes is None:
            return None
        if self.seconds_left() <= 0:
            return "stopped"
        return "limit" if time.monotonic() - began > _TRIAL_SHARE * 60 * self.minutes else None

    def _is_behind(self, curve: list[Point]) -> bool:
        """Whether a trial is behind the median of those that had as much time, and of those that
        needed less.

        Optuna's pruners compare at equal numbers of steps, and an epoch of one trial takes ten
        times as long as one of another."""
        clock = 0 if self.minutes is None else 1  # epochs or seconds
        now = curve[-1][clock]
        if now < (_GRACE_EPOCHS if self.minutes is None else _GRACE_SHARE * 60 * self.minutes):
            return False
        rivals = []
        for trial in self.trials:
            ended_on_its_own = trial.ended in ("finished", "early")
            until_now = best_point(
                [point for point in trial.curve if point[clock] <= now], self.start.metric
            )
            if until_now is not None and (ended_on_its_own or trial.curve[-1][clock] >= now):
                rivals.append(until_now[2])
        own = best_point(curve, self.start.metric)
        return (
            own is not None
            and len(rivals) >= _LEAST_RIVALS
            and is_better(self.start.metric, statistics.median(rivals), own[2])
        )

    @property
    def best(self) -> Trial | None:
        return best_trial(self.trials, self.start.metric)

    def preset_of(self, trial: Trial) -> TrainConfig:
        """Return a trial's settings, with epochs to go on where it was getting better until it
        ended."""
        # A trial of an earlier search may have had another width to start from.
        config = replace(self.start, **{"epochs": self.base.epochs} | trial.settings)
        return (
            config
            if "epochs" in self.fixed
            else replace(config, epochs=max(config.epochs, 2 * trial.best_epoch))
        )

    def open(self) -> None:
        """Take up the search in the folder, or begin one there."""
        path, study = self.folder / STUDY_FILE, self._study()
        if path.is_file():
            self._check_same(path, read_json(path), study)
            self.trials = read_trials(self.folder / TRIALS_FILE)
            write_trials(self.folder / TRIALS_FILE, self.trials)  # without what was cut off
            self._save_preset()
            return
        for name in (TRIALS_FILE, PRESET_FILE):
            if (self.folder / name).exists():
                raise FileExistsError(
                    f"{self.folder / name}: is there already, of no search in this folder; choose "
                    "another"
                )
        write_json(path, study)

    def _study(self) -> dict[str, Any]:
        return {"data": self.split.fingerprint(), "start": asdict(self.start)}

    def _check_same(self, path: Path, saved: Any, study: dict[str, Any]) -> None:
        if (
            not isinstance(saved, dict)
            or not isinstance(saved.get("start"), dict)
            or "data" not in saved
        ):
            raise ValueError(
                f"{path}: not the file of a search; it was changed, or written by another program"
            )
        for name, value in saved["start"].items():
            if name in study["start"] and study["start"][name] != value:
                raise ValueError(
                    f"{path}: the search there has {name}={value!r}, now {study['start'][name]!r} "
                    "was given; "
                    "go on with the same or choose another folder"
                )
        if saved["data"] != study["data"]:
            raise ValueError(
                f"{path}: the search there is of other data or another split of it; choose another "
                "folder"
            )

    def _keep(self, trial: Trial) -> None:
        self.trials.append(trial)
        append_trial(self.folder / TRIALS_FILE, trial)
        if trial is self.best:
            self._save_preset()

    def _save_preset(self) -> None:
        if (best := self.best) is not None:
            found = {
                "metric": self.start.metric,
                "value": best.value,
                "epoch": best.best_epoch,
                "trial": best.number,
            }
            save_preset(self.folder / PRESET_FILE, self.preset_of(best), found)

    def seconds_left(self) -> float:
        assert self.minutes is not None
        return max(0.0, self.began + 60 * self.minutes - time.monotonic())

    def show(self, shown: bool) -> Any:
        from tqdm import tqdm

        total = self.limit if self.minutes is None else 60 * self.minutes
        self.bar = tqdm(
            total=total,
            bar_format="tune {percentage:3.0f}%|{bar:12}| {desc}",
            miniters=0,
            mininterval=0.5,
            disable=None if shown else True,
        )
        self.earlier = len(self.trials)
        return self.bar

    def _show(self, curve: list[Point]) -> None:
        if self.bar.disable:
            return
        own, best = best_point(curve, self.start.metric), self.best
        parts = [f"trial {len(self.trials)}"]
        if own is not None:
            parts[0] += f", epoch {curve[-1][0]}, {self.start.metric} {own[2]:.4f}"
        if best is not None:
            parts.append(f"best {best.value:.4f} of trial {best.number}")
        if self.minutes is not None:
            parts.append(f"{clock_time(self.seconds_left())} left")
        self.bar.set_description_str("; ".join(parts), refresh=False)
        done = (
            len(self.trials) - self.earlier
            if self.minutes is None
            else time.monotonic() - self.began
        )
        self.bar.n = min(done, self.bar.total)
        self.bar.update(0)
