"""`lightgcn train` and `lightgcn reproduce`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightgcn.cli.console import (
    INTERRUPTED,
    chosen_device,
    command_line,
    complain,
    interrupted,
    joined_processes,
    print_json,
    remark,
    say,
    stop_on_interrupt,
)
from lightgcn.cli.options import (
    DATA_HELP,
    Command,
    add_names,
    add_preset,
    add_settings,
    add_split,
    changed_settings,
    chosen_settings,
    errors_name_options,
    language_model_of,
)
from lightgcn.core.lock import holds_files
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.experiments.reproduction import METRICS, Reproduction, reproduce
from lightgcn.experiments.run import (
    RunConfig,
    default_ratios,
    earlier_edges,
    stratify_like_test,
)
from lightgcn.experiments.train import train_run
from lightgcn.training.checkpoint import CHECKPOINT_FILE
from lightgcn.training.config import MAY_CHANGE, Preset, TrainConfig, preset
from lightgcn.training.small_data import cut_to_data
from lightgcn.training.trainer import TrainResult


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help=DATA_HELP)
    parser.add_argument("run", help="run folder to write")
    add_preset(parser)
    add_settings(parser)
    add_split(parser)
    add_names(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in the folder; only --epochs and --patience may change",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="RUN",
        help="start from the model of an earlier run, matching users and items by id, with its "
        "settings unless --preset is given; edges that it knew are not held out",
    )


def train(arguments: argparse.Namespace) -> int:
    """Train a model into a run folder."""
    device = chosen_device(arguments.device)
    with joined_processes(device) as processes:
        folder = Path(arguments.run)
        # After a failure torchrun starts the same command again: resume the run that it began, but
        # not a run that was there before.
        restarted = processes.remembers(f"began {folder}")
        resume = arguments.resume or (restarted and (folder / CHECKPOINT_FILE).is_file())
        if resume and folder.is_dir() and not holds_files(folder):  # killed before its first step
            remark(f"{folder}: nothing to resume yet; training starts")
            resume = False
        saved = RunConfig.load(folder) if resume else None
        settings = _settings(arguments, saved)
        shown = not arguments.json and processes.rank == 0
        dataset = open_dataset(arguments.data, progress=shown)
        with errors_name_options():
            config = new_run_config(arguments, settings, dataset, saved)
            say_epoch = partial(_say_epoch, config.settings.train)
            result = train_run(
                dataset,
                config,
                folder,
                resume=resume,
                device=device,
                on_epoch=say_epoch if shown and not sys.stderr.isatty() else None,
                watch=stop_on_interrupt(),
                progress=shown,
                processes=processes,
            )
    if processes.rank != 0:
        return INTERRUPTED if result.ended == "interrupted" else 0
    return _say_trained(arguments, config, result, config.split_text(dataset))


def _settings(arguments: argparse.Namespace, saved: RunConfig | None) -> Preset:
    """Return the settings: those of a run to resume or of the preset, with the given changes."""
    changes = changed_settings(arguments)
    if saved is None and arguments.start is not None and arguments.preset is None:
        return RunConfig.load(arguments.start).settings.changed(**changes)
    if saved is None:
        return preset(arguments.preset or "fast", **changes)
    if arguments.preset is None:
        return saved.settings.changed(**changes)
    # A preset given again keeps the saved length of training.
    kept = {name: getattr(saved.settings.train, name) for name in MAY_CHANGE}
    return preset(arguments.preset, **kept | changes)


def new_run_config(
    arguments: argparse.Namespace, settings: Preset, dataset: Dataset, saved: RunConfig | None
) -> RunConfig:
    """Return the configuration of a new run, or of one to resume (``saved``)."""
    data = str(Path(arguments.data).resolve())
    preset_name = getattr(arguments, "start", None) or getattr(arguments, "preset", None)
    settings = cut_to_data(settings, dataset.known_edges(), chosen_settings(arguments, preset_name))
    names = ("ratios", "leave_out", "dates", "stratify", "negatives", "side_nodes")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in names
        if (value := getattr(arguments, name, None)) is not None
    }
    if "leave_out" in given or "dates" in given:
        given["ratios"] = None
    if getattr(arguments, "words", None) is not None:
        given["words"] = language_model_of(arguments)
    if getattr(arguments, "start", None) is not None:
        given["start"] = str(Path(arguments.start).resolve())
        given["start_fingerprint"] = earlier_edges(given["start"])
    if saved is not None:
        return replace(saved, data=data, settings=settings, **given)
    given.setdefault("split_seed", settings.train.seed)
    if "ratios" not in given:
        given["ratios"] = default_ratios(dataset)
    if "stratify" not in given:
        given["stratify"] = _usual_stratify(given, dataset)
    return RunConfig(data, dataset.fingerprint(), settings, **given)


def _usual_stratify(given: dict[str, Any], dataset: Dataset) -> str | None:
    if "dates" in given:
        return "time"
    if dataset.test is not None and given["ratios"] != (1.0,):
        like_test = stratify_like_test(dataset)
        if like_test is not None:
            return like_test
    return "user" if "leave_out" in given else None


def _say_epoch(config: TrainConfig, record: dict[str, Any]) -> None:
    if "val" in record:
        values = _values(config, record)
        say(f"epoch {record['epoch']:>4}  loss {record['loss']:.4f}  validation: {values}")


def _values(config: TrainConfig, record: dict[str, Any]) -> str:
    shown = config.meaningful(record.get("val", {}))
    return "  ".join(f"{name} {value:.4f}" for name, value in shown.items())


def _say_trained(
    arguments: argparse.Namespace, config: RunConfig, result: TrainResult, split: str
) -> int:
    run, epochs = arguments.run, len(result.history)
    if result.ended == "interrupted":
        again = command_line(["train", arguments.data, run, "--resume"])
        complain(f"interrupted; saved to {run}; resume with: {again}")
        return INTERRUPTED
    best = next((record for record in result.history if record["epoch"] == result.best_epoch), {})
    if arguments.json:
        choice = None if result.choice is None else asdict(result.choice)
        found = {"run": run, "ended": result.ended, "epochs": epochs, "best": best}
        print_json(found | {"ranking": choice, "split": split})
        return 0
    reason = "patience ran out" if result.ended == "early" else "all epochs done"
    seconds = sum(record["seconds"] for record in result.history)
    say(f"split: {split}")
    say(f"{epochs} epochs, {seconds:.1f} s of training ({reason})")
    chosen = f"best epoch {result.best_epoch}, validation: {_values(config.settings.train, best)}"
    say(chosen if best else "no validation edges: the model is the last epoch's")
    if result.choice is not None:
        say(f"ranking chosen on {result.choice.num_users:,} validation users: {result.choice}")
    say(f"saved to {run}\nNext:  {shlex.join(['lightgcn', 'evaluate', run])}")
    return 0


def _reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="data with its own test split, such as a folder with train.txt and test.txt"
    )
    parser.add_argument(
        "run",
        nargs="?",
        help="folder to write, or to continue (runs/DATA-PRESET)",
    )
    add_preset(parser)
    add_settings(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="one result for each (0)"
    )


def reproduce_result(arguments: argparse.Namespace) -> int:
    """Reproduce a published result."""
    device = chosen_device(arguments.device)
    if arguments.seed is not None:
        raise ValueError("reproduce takes --seeds, one or more, not --seed")
    name = arguments.preset or "fast"
    settings = preset(name, **changed_settings(arguments))
    run = arguments.run or f"runs/{Path(arguments.data).resolve().name}-{Path(name).stem}"
    dataset = open_dataset(arguments.data, progress=not arguments.json)
    result = reproduce(
        dataset,
        settings,
        run,
        seeds=arguments.seeds,
        device=device,
        say=(lambda line: None) if arguments.json else say,
        watch=stop_on_interrupt,
        progress=not arguments.json,
    )
    if result is None:
        return interrupted(run)
    if arguments.json:
        values = {"run": run, "split": result.split_name, "seeds": result.results}
        print_json(values | {"published": result.published()})
        return 0
    _say_reproduction(result)
    first = Path(run) / f"seed-{arguments.seeds[0]}"
    final = first / ("final" if dataset.val is None else "validation")
    again = shlex.join(["lightgcn", "evaluate", str(final)])
    say(f"saved to {run}\nNext:  {again}   computes the test metrics again")
    return 0


def _say_reproduction(result: Reproduction) -> None:
    count = len(result.results)
    say(f"{'':<38}" + "".join(f"{metric:>18}" for metric in METRICS))
    values = [
        f"{result.mean(name):.4f}" + (f" ± {result.spread(name):.4f}" if count > 1 else "")
        for name in METRICS
    ]
    own = "this run" + (f", mean of {count} seeds" if count > 1 else "")
    say(f"{own:<38}" + "".join(f"{value:>18}" for value in values))
    for method, row in result.published().items():
        say(f"{method:<38}" + "".join(f"{value:>18.4f}" for value in row))


COMMANDS = {
    "train": Command(
        train,
        _train_arguments,
        "train a model into a run folder",
        (
            "lightgcn train prepared runs/first --preset fast",
            "lightgcn train prepared runs/deep --preset paper --num-layers 4 --set l2=1e-3",
            "lightgcn train next-week runs/second --from runs/first",
        ),
    ),
    "reproduce": Command(
        reproduce_result,
        _reproduce_arguments,
        "reproduce a published result: epoch chosen on validation, test set used once",
        (
            "lightgcn reproduce gowalla --preset fast",
            "lightgcn reproduce gowalla runs/best --preset best --seeds 0 1 2",
        ),
    ),
}
