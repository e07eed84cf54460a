"""Trials of a search, and their display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lightgcn.ranking.metrics import is_better, lower_is_better

TrialEnd = Literal["finished", "early", "pruned", "limit", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One try of settings.

    Attributes:
        number: from 0, in the order of the search.
        settings: the searched settings, by name; the others are those of the start.
        ended: "finished" (all epochs), "early" (patience ran out), "pruned" (worse than others
            after the same time), "limit" (its share of the time was over), "stopped" (the search
            ended), or "failed" (it diverged, or memory ran out).
        value: its best validation metric; None if it failed or was never validated.
        best_epoch: the epoch of that value, from 1; 0 if there is none.
        epochs: epochs completed.
        seconds: of training and validation.
        error: message of the error, if it failed.
    """

    number: int
    settings: dict[str, Any]
    ended: TrialEnd
    value: float | None
    best_epoch: int
    epochs: int
    seconds: float
    error: str | None = None


def best_trial(trials: list[Trial], metric: str) -> Trial | None:
    """Return the first trial with the best value, or None if no trial has a value."""
    best: Trial | None = None
    for trial in trials:
        if trial.value is None:
            continue
        if best is None or is_better(metric, trial.value, best.value or 0.0):
            best = trial
    return best


def clock_time(seconds: float) -> str:
    """Return "4:05" for 245 seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def trial_line(trial: Trial, best: Trial | None, seconds_left: float | None, metric: str) -> str:
    """Return a trial, the best so far and the time left, as one line."""
    value = (
        "" if trial.value is None else f"  {metric} {trial.value:.4f} in epoch {trial.best_epoch}"
    )
    so_far = "" if best is None else f"  best {best.value:.4f} of trial {best.number}"
    left = "" if seconds_left is None else f"  {clock_time(seconds_left)} left"
    time = f"{trial.seconds:6.1f} s"
    return f"trial {trial.number:>3}  {trial.ended:<8}  {time}{value}{so_far}{left}"


def trials_table(trials: list[Trial], metric: str, most: int = 10) -> list[str]:
    """Return lines of at most 80 columns: the best trials, best first, each with the settings in
    which it differs from the best one; then the failures."""
    reached = [trial for trial in trials if trial.value is not None]
    reached.sort(key=lambda trial: trial.value or 0.0, reverse=not lower_is_better(metric))
    lines = [f"trial  {metric:>10}  epoch  seconds  ended"]
    for trial in reached[:most]:
        lines.append(
            f"{trial.number:>5}  {trial.value:>10.4f}  {trial.best_epoch:>5}  {trial.seconds:>7.1f}"
            f"  {trial.ended}"
        )
        best = reached[0].settings if trial is not reached[0] else {}
        lines += _wrapped(
            f"{name}={_short(value)}"
            for name, value in trial.settings.items()
            if str(value) != str(best.get(name)) or trial is reached[0]
        )
    failed = [trial for trial in trials if trial.ended == "failed"]
    return lines + [f"trial {trial.number} failed: {trial.error}" for trial in failed]


def _wrapped(parts: Any) -> list[str]:
    import textwrap

    text = "  ".join(parts)
    indent = " " * 7
    return textwrap.wrap(
        text, 80, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
