"""The command line: what each command does with its arguments, and how its errors end."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from lightgcn.cli import challenge
from lightgcn.cli.console import (
    BAD_INPUT,
    INTERRUPTED,
    LOST,
    chosen_device,
    command_line,
    complain,
    interrupted,
    joined_processes,
    one_line,
    print_json,
    remark,
    say,
    stop_on_interrupt,
)
from lightgcn.cli.options import build_parser, changed_settings, language_model_of
from lightgcn.core.checks import is_out_of_memory
from lightgcn.core.lock import holds_files
from lightgcn.core.memory import use_huge_pages
from lightgcn.core.process_group import ProcessLostError, is_launched
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.datasets.dataset import SUMMARY_NAME
from lightgcn.datasets.preprocess import Cuts, Step, prepare_dataset
from lightgcn.experiments.demo import run_demo
from lightgcn.experiments.reproduction import METRICS, reproduce
from lightgcn.experiments.run import (
    BASELINES,
    RunConfig,
    default_ratios,
    evaluate_run,
    newer_training,
    recommender_file,
    split_run,
    train_run,
)
from lightgcn.ranking.evaluation import Evaluation
from lightgcn.recommender import Recommender
from lightgcn.training.config import MAY_CHANGE, Preset, preset
from lightgcn.training.search_space import require_optuna
from lightgcn.training.trainer import CHECKPOINT_FILE, TrainResult
from lightgcn.training.trials import trial_line, trials_table
from lightgcn.training.tuning import PRESET_FILE, tune

# Playlists that were left out which are told one by one.
_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad input, 130 when interrupted."""
    use_huge_pages()
    arguments = build_parser(COMMANDS, _Parser).parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: remark(f"warning: {one_line(message)}")
            if is_launched() and command is not _train:
                raise ValueError(
                    "of the commands only train runs on several processes; start this one without "
                    "torchrun"
                )
            return command(arguments)
    except ProcessLostError as error:
        complain(one_line(error))
        return LOST
    except (ValueError, OSError, MemoryError, OverflowError, RuntimeError, Warning) as error:
        out_of_memory = is_out_of_memory(error)
        if os.environ.get("LIGHTGCN_DEBUG") or (
            isinstance(error, RuntimeError) and not out_of_memory
        ):
            raise
        complain(
            f"out of memory {one_line(error)[:200]}".strip() if out_of_memory else one_line(error)
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted; files that were complete before are unchanged")
        return INTERRUPTED


def _demo(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    result = run_demo(
        arguments.out,
        num_playlists=arguments.playlists,
        seed=arguments.seed,
        device=device,
        say=(lambda line: None) if arguments.json else say,
        watch=stop_on_interrupt(),
        progress=not arguments.json,
    )
    if result is None:
        complain(f"interrupted; what was written so far is in {arguments.out}")
        return INTERRUPTED
    if arguments.json:
        print_json(result)
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    chosen_device(
        arguments.device
    )  # has no use for one, but an option that cannot be met is refused
    out = Path(arguments.out)
    if (out / "dataset.safetensors").exists() and not arguments.overwrite:
        raise FileExistsError(
            f"{out}: holds a prepared dataset already; give --overwrite or another folder"
        )
    names = (
        "slices",
        "processes",
        "order",
        "skip_bad",
        "user",
        "item",
        "weight",
        "user_name",
        "item_name",
        "separator",
        "test",
    )
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    source: Any = arguments.source[0] if len(arguments.source) == 1 else arguments.source
    read = open_dataset(source, format=arguments.format, progress=not arguments.json, **options)
    try:
        dataset, steps = prepare_dataset(read, _cuts(arguments))
    except ValueError as error:
        raise ValueError(f"{arguments.source[0]}: {error}; nothing was written") from error
    dataset.save(out)
    skipped = dataset.info.get("skipped", [])
    for problem in skipped[:_SHOWN]:
        complain(f"left out: {problem}")
    if len(skipped) > _SHOWN:
        complain(
            f"and {dataset.info['skipped_playlists'] - _SHOWN:,} more, listed in "
            f"{out / SUMMARY_NAME}"
        )
    if arguments.json:
        print_json(
            {"out": str(out), "info": dataset.info, "steps": [_step_values(step) for step in steps]}
        )
        return 0
    width = max(len(step.name) for step in steps)
    for step in steps:
        size = step.statistics
        test = "" if step.test_edges is None else f" {step.test_edges:>12,} test edges"
        say(
            f"{step.name:<{width}} {size.users:>10,} users {size.items:>10,} items "
            f"{size.edges:>12,} edges{test}"
        )
        for side, degrees in (("user", size.user_degrees), ("item", size.item_degrees)):
            say(
                f"{'':<{width}}   edges of {'an' if side == 'item' else 'a'} {side}: mean "
                f"{degrees.mean:.1f}, median "
                f"{degrees.median:.0f}, nine tenths at most {degrees.percentile_90:.0f}, most "
                f"{degrees.most:,}"
            )
    for name, value in dataset.info.items():
        if isinstance(value, int) and value and name not in ("edges", "test_edges"):
            say(f"  {name.replace('_', ' '):<32} {value:>12,}")
    say(f"saved to {out}\nNext:  lightgcn train {out} runs/first")
    return 0


def _cuts(arguments: argparse.Namespace) -> Cuts:
    given = {field.name: getattr(arguments, field.name) for field in fields(Cuts)}
    return Cuts(**{name: value for name, value in given.items() if value is not None})


def _step_values(step: Step) -> dict[str, Any]:
    size = asdict(step.statistics)
    test = {} if step.test_edges is None else {"test_edges": step.test_edges}
    return {"step": step.name, **size, **test}


def _train(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    with joined_processes(device) as processes:
        # torchrun starts the same command again after a failure: it goes on from what was saved, if
        # that is its own and not a run that was there before, which it was refused.
        folder = Path(arguments.run)
        restarted = processes.remembers(f"began {folder}")
        resume = arguments.resume or (restarted and (folder / CHECKPOINT_FILE).is_file())
        if resume and folder.is_dir() and not holds_files(folder):
            # Of a run that was killed before its first step.
            remark(f"{folder}: there is nothing to go on from yet; training begins")
            resume = False
        saved = RunConfig.load(arguments.run) if resume else None
        settings = _settings(arguments, saved)
        shown = not arguments.json and processes.rank == 0
        dataset = open_dataset(arguments.data, progress=shown)
        config = _run_config(arguments, settings, dataset, saved)
        result = train_run(
            dataset,
            config,
            arguments.run,
            resume=resume,
            device=device,
            on_epoch=_say_epoch if shown and not sys.stderr.isatty() else None,
            watch=stop_on_interrupt(),
            progress=shown,
            processes=processes,
        )
    if processes.rank != 0:
        return INTERRUPTED if result.ended == "interrupted" else 0
    return _say_trained(arguments, result)


def _say_trained(arguments: argparse.Namespace, result: TrainResult) -> int:
    if result.ended == "interrupted":
        again = command_line(["train", arguments.data, arguments.run, "--resume"])
        complain(f"interrupted; saved to {arguments.run}; go on with: {again}")
        return INTERRUPTED
    best = next((record for record in result.history if record["epoch"] == result.best_epoch), {})
    if arguments.json:
        print_json(
            {
                "run": arguments.run,
                "ended": result.ended,
                "epochs": len(result.history),
                "best": best,
            }
        )
        return 0
    reason = "no better validation for a while" if result.ended == "early" else "all epochs done"
    seconds = sum(record["seconds"] for record in result.history)
    say(f"{len(result.history)} epochs, {seconds:.1f} s of training ({reason})")
    values = "  ".join(f"{name} {value:.4f}" for name, value in best.get("val", {}).items())
    chosen = f"best epoch {result.best_epoch}, validation: {values}"
    say(chosen if best else "no validation edges: the model is the last epoch's")
    say(f"saved to {arguments.run}\nNext:  lightgcn evaluate {arguments.run}")
    return 0


def _settings(arguments: argparse.Namespace, saved: RunConfig | None) -> Preset:
    """Return the training settings: those of the run to resume, where there is one, with what was
    given."""
    changes = changed_settings(arguments)
    if saved is None:
        return preset(arguments.preset or "fast", **changes)
    if arguments.preset is None:
        return saved.settings.changed(**changes)
    # A preset given once more says what the settings are; how long to train stays as it is unless
    # that is given.
    kept = {name: getattr(saved.settings.train, name) for name in MAY_CHANGE}
    return preset(arguments.preset, **kept | changes)


def _run_config(
    arguments: argparse.Namespace, settings: Preset, dataset: Dataset, saved: RunConfig | None
) -> RunConfig:
    data = str(Path(arguments.data).resolve())
    names = ("ratios", "stratify", "negatives", "side_nodes")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(arguments, name, None)) is not None
    }
    if "ratios" in given:
        given["ratios"] = tuple(given["ratios"])
    if getattr(arguments, "words", None) is not None:
        given["words"] = language_model_of(arguments)
    if saved is not None:
        return replace(saved, data=data, settings=settings, **given)
    defaults: dict[str, Any] = {
        "ratios": default_ratios(dataset),
        "split_seed": settings.train.seed,
    }
    return RunConfig(data, dataset.fingerprint(), settings, **defaults | given)


def _reproduce(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    if arguments.seed is not None:
        raise ValueError("reproduce takes --seeds, one or more, in place of --seed")
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
        print_json(
            {
                "run": run,
                "split": result.split_name,
                "seeds": result.results,
                "published": result.published(),
            }
        )
        return 0
    many = len(result.results) > 1
    say(f"{'':<40}" + "".join(f"{metric:>20}" for metric in METRICS))
    values = (
        f"{result.mean(name):.4f}" + (f" ± {result.spread(name):.4f}" if many else "")
        for name in METRICS
    )
    say(
        f"{'this run' + (f', mean of {len(result.results)} seeds' if many else ''):<40}"
        + "".join(f"{value:>20}" for value in values)
    )
    for method, row in result.published().items():
        say(f"{method:<40}" + "".join(f"{value:>20.4f}" for value in row))
    final = Path(run) / f"seed-{arguments.seeds[0]}" / "final"
    say(f"saved to {run}\nNext:  lightgcn evaluate {final}   computes the test metrics again")
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    minutes = 10.0 if arguments.minutes is None and arguments.trials is None else arguments.minutes
    changes = changed_settings(arguments)
    settings = preset(arguments.start or "fast", **changes)
    require_optuna()
    dataset = open_dataset(arguments.data, progress=not arguments.json)
    split = split_run(_run_config(arguments, settings, dataset, None), dataset)
    quiet = arguments.json or sys.stderr.isatty()
    with stop_on_interrupt() as should_stop:
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
            on_trial=None
            if quiet
            else lambda state: say(trial_line(*state, settings.train.metric)),
            progress=not arguments.json,
        )
    best, file = result.best, Path(arguments.out) / PRESET_FILE
    if result.ended == "interrupted":
        found = (
            "nothing is found yet" if best is None else f"the best settings so far are in {file}"
        )
        complain(f"interrupted; {found}; the same command goes on")
        return INTERRUPTED
    if best is None:
        errors = [trial.error for trial in result.trials if trial.error is not None]
        raise ValueError(
            "no trial reached a "
            f"validation{': ' + errors[0] if errors else '; give more --minutes'}"
        )
    if arguments.json:
        trials = [asdict(trial) for trial in result.trials]
        print_json(
            {
                "preset": str(file),
                "metric": settings.train.metric,
                "ended": result.ended,
                "best": asdict(best),
                "trials": trials,
            }
        )
        return 0
    for line in trials_table(result.trials, settings.train.metric):
        say(line)
    say(
        f"best: trial {best.number}, validation {settings.train.metric} {best.value:.4f}; saved "
        f"to {file}"
    )
    again = [
        "lightgcn",
        "train",
        arguments.data,
        "runs/tuned",
        "--preset",
        str(file),
        *_split_options(arguments),
    ]
    say(f"Next:  {shlex.join(again)}")
    return 0


def _split_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that make the same split in another command."""
    options: list[str] = []
    for name in ("ratios", "stratify", "negatives"):
        value = getattr(arguments, name)
        if value is not None:
            options += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return options


def _evaluate(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    dataset = _dataset_of_run(arguments)
    baselines = BASELINES if "all" in arguments.baselines else arguments.baselines
    results = evaluate_run(
        dataset,
        arguments.run,
        ks=arguments.k,
        baselines=baselines,
        device=device,
        progress=not arguments.json,
    )
    newer = _note_newer_training(Path(arguments.run))
    if arguments.json:
        values: dict[str, Any] = {name: asdict(result) for name, result in results.items()}
        if newer is not None:
            values["newer_training"] = {"model_epochs": newer[0], "checkpoint_epochs": newer[1]}
        print_json(values)
        return 0
    _say_evaluations(results)
    return 0


def _dataset_of_run(arguments: argparse.Namespace) -> Dataset:
    config = RunConfig.load(arguments.run)
    try:
        return open_dataset(arguments.data or config.data, progress=not arguments.json)
    except FileNotFoundError as error:
        hint = "" if arguments.data else "; where the data of this run has moved, give --data"
        raise FileNotFoundError(f"{error}{hint}") from error


def _note_newer_training(run: Path) -> tuple[int, int] | None:
    """Say so where a longer run was interrupted, and the model is still the one of before."""
    newer = newer_training(run)
    if newer is not None:
        complain(
            f"note: the model in {run} is of {newer[0]} epochs, and training has gone on to "
            f"{newer[1]} since without "
            "ending; finish it with lightgcn train --resume"
        )
    return newer


def _recommend(arguments: argparse.Namespace) -> int:
    device = chosen_device(arguments.device)
    file = recommender_file(arguments.run)
    recommender = Recommender.load(file, device)
    _note_newer_training(file.parent)
    if arguments.user is not None:
        tracks = recommender.recommend(arguments.user, arguments.k)
        title = f"for user {arguments.user}"
    elif arguments.similar is not None:
        tracks = recommender.similar_items(arguments.similar, arguments.k)
        title = f"like {arguments.similar}"
    else:
        tracks = recommender.recommend_new(arguments.items, arguments.k)
        title = f"for a new user with {len(arguments.items)} items"
    if arguments.json:
        print_json([asdict(track) for track in tracks])
        return 0
    say(title)
    for rank, track in enumerate(tracks, 1):
        label = track.label
        known_as = "" if label == str(track.id) else f"  {track.id}"
        say(f"{rank:>4}  {track.score:8.4f}  {label}{known_as}")
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    from lightgcn.experiments.plots import plot_run

    chosen_device(
        arguments.device
    )  # has no use for one, but an option that cannot be met is refused
    dataset = _dataset_of_run(arguments)
    _note_newer_training(Path(arguments.run))
    out = arguments.out or Path(arguments.run) / "pictures"
    files = plot_run(
        dataset,
        arguments.run,
        out,
        num_nodes=arguments.nodes,
        num_items=arguments.items,
        seed=arguments.seed,
    )
    if arguments.json:
        print_json({"files": [str(file) for file in files]})
        return 0
    for file in files:
        say(str(file))
    if not any(file.stem == "map" for file in files):
        complain("note: no map was drawn, which needs at least 10 items")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from lightgcn.experiments.report import write_report

    chosen_device(
        arguments.device
    )  # has no use for one, but an option that cannot be met is refused
    dataset = _dataset_of_run(arguments)
    _note_newer_training(Path(arguments.run))
    file = write_report(
        dataset,
        arguments.run,
        arguments.out,
        num_users=arguments.users,
        k=arguments.k,
        seed=arguments.seed,
    )
    if arguments.json:
        print_json({"file": str(file)})
    else:
        say(f"saved to {file}")
    return 0


COMMANDS = {
    "demo": _demo,
    "prepare": _prepare,
    "train": _train,
    "reproduce": _reproduce,
    "tune": _tune,
    "evaluate": _evaluate,
    "recommend": _recommend,
    "plot": _plot,
    "report": _report,
    "challenge evaluate": challenge.evaluate,
    "challenge answer": challenge.answer,
    "challenge check": challenge.check,
    "challenge score": challenge.score,
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(BAD_INPUT)


def _say_epoch(record: dict[str, Any]) -> None:
    if "val" in record:
        values = "  ".join(f"{name} {value:.4f}" for name, value in record["val"].items())
        say(f"epoch {record['epoch']:>4}  loss {record['loss']:.4f}  validation: {values}")


def _say_evaluations(results: dict[str, Evaluation]) -> None:
    first = next(iter(results.values()))
    say(f"test: {first.num_users:,} users, {first.num_links:,} links")
    say(f"{'':<16}" + "".join(f"{name:>14}" for name in results))
    for metric in first.metrics:
        values = (result.metrics.get(metric) for result in results.values())
        say(
            f"{metric:<16}"
            + "".join(f"{'-':>14}" if value is None else f"{value:>14.4f}" for value in values)
        )
