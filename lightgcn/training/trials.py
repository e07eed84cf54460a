"""Trials of a search as records in a file and as a table to read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from lightgcn.core.storage import append, write_atomic
from lightgcn.ranking.metrics import is_better, lower_is_better
from lightgcn.training.config import preset

TrialEnd = Literal["finished", "early", "pruned", "limit", "stopped", "failed"]


Point = tuple[int, float, float]


@dataclass(frozen=True)
class Trial:
    """One try of settings.

    Attributes:
        number: from 0, in the order of the search.
        settings: those that were searched, by name; the others are the start's.
        ended: "finished" (all epochs), "early" (patience ran out), "pruned" (behind others),
            "limit" (it had its share of the time), "stopped" (the search ended), or "failed" (it
            diverged, or memory ran out).
        value: the best validation metric that it reached; None where it failed or was never
            validated.
        best_epoch: the epoch that reached it, from 1; 0 where there is none.
        epochs: epochs completed.
        seconds: of training and validation.
        curve: (epoch, seconds since the trial began, validation metric), one for each validation.
        error: why it failed.
    """

    number: int
    settings: dict[str, Any]
    ended: TrialEnd
    value: float | None
    best_epoch: int
    epochs: int
    seconds: float
    curve: list[Point] = field(default_factory=list)
    error: str | None = None


def best_trial(trials: list[Trial], metric: str) -> Trial | None:
    """Return the first trial that reached the best value, or None where none has one."""
    best: Trial | None = None
    for trial in trials:
        if trial.value is not None and (
            best is None or is_better(metric, trial.value, best.value or 0.0)
        ):
            best = trial
    return best


def best_point(curve: list[Point], metric: str) -> Point | None:
    """Return the first point of a curve with the best value, or None where it has no points."""
    best: Point | None = None
    for point in curve:
        if best is None or is_better(metric, point[2], best[2]):
            best = point
    return best


def append_trial(path: Path, trial: Trial) -> None:
    """Add a record to a file."""
    append(path, _json_line(trial))


def write_trials(path: Path, trials: list[Trial]) -> None:
    """Write a file of these records, atomically."""
    data = b"".join(map(_json_line, trials))
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_trials(path: Path) -> list[Trial]:
    """Read the trials of a search; a last line that was cut off is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_trial_of(line, number, path) for number, line in enumerate(lines)]


def _trial_of(line: bytes, number: int, path: Path) -> Trial:
    try:
        trial = Trial(**orjson.loads(line))
        preset("fast").changed(**trial.settings)
        trial = replace(
            trial,
            curve=[
                (int(epoch), float(seconds), float(value)) for epoch, seconds, value in trial.curve
            ],
        )
        if trial.number != number or trial.ended not in get_args(TrialEnd):
            raise ValueError(f"number={trial.number!r}, ended={trial.ended!r}")
        if trial.value is not None and not math.isfinite(trial.value):
            raise ValueError(f"value={trial.value!r}")
        return trial
    except (TypeError, ValueError) as error:  # what orjson raises is a ValueError
        raise ValueError(
            f"{path}, line {number + 1}: not the record of trial {number} ({error})"
        ) from error


def _json_line(trial: Trial) -> bytes:
    return orjson.dumps(asdict(trial)) + b"\n"


def clock_time(seconds: float) -> str:
    """Return "4:05" for 245 seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def trial_line(trial: Trial, best: Trial | None, seconds_left: float | None, metric: str) -> str:
    """Return what a trial has come to, the best so far and the time left, as one line."""
    value = (
        "" if trial.value is None else f"  {metric} {trial.value:.4f} in epoch {trial.best_epoch}"
    )
    so_far = "" if best is None else f"  best {best.value:.4f} of trial {best.number}"
    left = "" if seconds_left is None else f"  {clock_time(seconds_left)} left"
    return f"trial {trial.number:>3}  {trial.ended:<8}  {trial.seconds:6.1f} s{value}{so_far}{left}"


def trials_table(trials: list[Trial], metric: str, most: int = 10) -> list[str]:
    """Return lines that show the best trials, in their order, with the settings in which they
    differ, and failures."""
    reached = [trial for trial in trials if trial.value is not None]
    reached.sort(key=lambda trial: trial.value or 0.0, reverse=not lower_is_better(metric))
    shown = reached[:most]
    names = dict.fromkeys(name for trial in shown for name in trial.settings)
    differing = [
        name for name in names if len({str(trial.settings.get(name)) for trial in shown}) > 1
    ]
    # Names are long and values short: a name stands in two lines.
    titles = [
        name.partition("_")[::2]
        for name in ("trial", metric, "epoch", "seconds", "ended", *differing)
    ]
    rows = [
        [first if last else "" for first, last in titles],
        [last or first for first, last in titles],
    ]
    for trial in shown:
        about = [
            str(trial.number),
            f"{trial.value:.4f}",
            str(trial.best_epoch),
            f"{trial.seconds:.1f}",
            trial.ended,
        ]
        rows.append([*about, *(_short(trial.settings.get(name)) for name in differing)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return lines + [
        f"trial {trial.number} failed: {trial.error}" for trial in trials if trial.ended == "failed"
    ]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
