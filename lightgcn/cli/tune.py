"""`lightgcn tune`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from lightgcn.cli.console import (
    INTERRUPTED,
    chosen_device,
    complain,
    print_json,
    say,
    stop_on_interrupt,
)
from lightgcn.cli.options import (
    DATA_HELP,
    Command,
    add_preset,
    add_settings,
    add_split,
    changed_settings,
    errors_name_options,
    option_of,
)
from lightgcn.cli.train import new_run_config
from lightgcn.datasets import open_dataset
from lightgcn.experiments.run import split_run
from lightgcn.training.config import preset
from lightgcn.training.search_space import require_optuna
from lightgcn.training.trials import trial_line, trials_table
from lightgcn.training.tuning import PRESET_FILE, TuneResult, tune


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help=DATA_HELP)
    parser.add_argument(
        "out",
        help="folder of the search, new or to continue; the best settings are in its preset.json",
    )
    parser.add_argument(
        "--minutes", type=float, help="wall-clock time to search (10; with --trials: no limit)"
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="number of trials, besides those already there"
    )
    add_preset(parser, "--start")
    parser.add_argument(
        "--max-dim", type=int, default=128, metavar="D", help="largest width to try (%(default)s)"
    )
    add_settings(parser, fixed=True)
    add_split(parser)


def tune_settings(arguments: argparse.Namespace) -> int:
    """Search for settings that suit the data."""
    device = chosen_device(arguments.device)
    minutes = 10.0 if arguments.minutes is None and arguments.trials is None else arguments.minutes
    changes = changed_settings(arguments)
    settings = preset(arguments.start or "fast", **changes)
    require_optuna()
    dataset = open_dataset(arguments.data, progress=not arguments.json)
    quiet = arguments.json or sys.stderr.isatty()
    with stop_on_interrupt() as should_stop, errors_name_options():
        config = new_run_config(arguments, settings, dataset, None)
        settings, metric = config.settings, config.settings.train.metric
        split = split_run(config, dataset)
        result = tune(
            split,
            arguments.out,
            minutes=minutes,
            trials=arguments.trials,
            start=settings,
            fixed=changes,
            max_dim=arguments.max_dim,
            device=device,
            should_stop=should_stop,
            on_trial=None if quiet else lambda state: say(trial_line(*state, metric)),
            progress=not arguments.json,
        )
    return _say_tuned(arguments, result, metric, config.split_text(dataset))


def _say_tuned(arguments: argparse.Namespace, result: TuneResult, metric: str, split: str) -> int:
    best, file = result.best, Path(arguments.out) / PRESET_FILE
    if result.ended == "interrupted":
        kept = f"the best settings so far are in {file}" if best else "nothing was found yet"
        complain(f"interrupted; {kept}; the same command continues")
        return INTERRUPTED
    if best is None:
        errors = [trial.error for trial in result.trials if trial.error is not None]
        reason = f": {errors[0]}" if errors else "; give more --minutes"
        raise ValueError(f"no trial reached a validation{reason}")
    if arguments.json:
        values = {"preset": str(file), "metric": metric, "split": split, "ended": result.ended}
        trials = [asdict(trial) for trial in result.trials]
        print_json(values | {"best": asdict(best), "trials": trials})
        return 0
    for line in trials_table(result.trials, metric):
        say(line)
    say(f"split: {split}")
    say(f"best: trial {best.number}, validation {metric} {best.value:.4f}; saved to {file}")
    again = ["lightgcn", "train", arguments.data, "runs/tuned", "--preset", str(file)]
    say(f"Next:  {shlex.join([*again, *_split_options(arguments)])}")
    return 0


def _split_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that make the same split in another command."""
    options: list[str] = []
    for name in ("ratios", "leave_out", "dates", "stratify", "negatives"):
        value = getattr(arguments, name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            options += [option_of(name), *map(str, values)]
    return options


COMMANDS = {
    "tune": Command(
        tune_settings,
        _tune_arguments,
        "search for settings that suit the data, on its validation set",
        (
            "lightgcn tune prepared tuned --minutes 30",
            "lightgcn tune prepared tuned --trials 50 --embedding-dim 64 --metric ndcg@20",
            "lightgcn train prepared runs/tuned --preset tuned/preset.json",
        ),
    ),
}
