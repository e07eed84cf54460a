"""`lightgcn evaluate` and `compare`: what a run's model is worth on its test set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightgcn.cli.console import chosen_device, print_json, say
from lightgcn.cli.options import Command
from lightgcn.cli.recommend import note_newer_training
from lightgcn.cli.results import dataset_of_run, run_arguments
from lightgcn.datasets import Dataset
from lightgcn.experiments.compare import compare_runs
from lightgcn.experiments.evaluate import BASELINES, evaluate_run
from lightgcn.experiments.per_user_file import check_per_user_file, write_per_user
from lightgcn.experiments.run import RunConfig
from lightgcn.ranking.comparison import Difference
from lightgcn.ranking.groups import Group
from lightgcn.ranking.result import Evaluation

_WIDTH = 80


def _add_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-k", "--k", type=int, nargs="+", help="list lengths (20, or all items if there are fewer)"
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    _add_k(parser)
    parser.add_argument(
        "--baselines",
        nargs="+",
        choices=[*BASELINES, "all"],
        default=["popularity"],
        metavar="NAME",
        help=f"baselines to show beside the model: {', '.join(BASELINES)}, or all (popularity)",
    )
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="show 95%% bootstrap intervals of the means over users",
    )
    parser.add_argument(
        "--groups",
        action="store_true",
        help="also show the model's metrics by length of the user's history, and its recall by "
        "popularity of the item to find",
    )
    parser.add_argument(
        "--per-user",
        metavar="FILE",
        help="write the model's metrics of each user to FILE (.csv or .parquet)",
    )


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a run on its test set, beside baselines."""
    device = chosen_device(arguments.device)
    if arguments.per_user is not None:
        check_per_user_file("--per-user", arguments.per_user)
    dataset = dataset_of_run(arguments)
    _check_k(arguments.k, dataset)
    baselines = BASELINES if "all" in arguments.baselines else arguments.baselines
    results = evaluate_run(
        dataset,
        arguments.run,
        ks=arguments.k,
        baselines=baselines,
        device=device,
        progress=not arguments.json,
        per_user=arguments.intervals or arguments.groups or arguments.per_user is not None,
    )
    newer = note_newer_training(Path(arguments.run))
    model = results["lightgcn"]
    if arguments.per_user is not None:
        write_per_user(arguments.per_user, model, dataset.interactions.user_ids)
    if arguments.json:
        values: dict[str, Any] = {
            name: _json_values(result, arguments.intervals) for name, result in results.items()
        }
        if arguments.groups:
            values["groups"] = {
                "history": [asdict(group) for group in model.by_history()],
                "popularity": [asdict(group) for group in model.by_popularity()],
            }
        if newer is not None:
            values["newer_training"] = {"model_epochs": newer[0], "checkpoint_epochs": newer[1]}
        print_json(values)
        return 0
    config = RunConfig.load(arguments.run).settings.train
    _say_evaluations(results, arguments.intervals, list(config.meaningful(model.metrics)))
    if arguments.groups:
        say("\nby number of the user's train items")
        _say_groups(model.by_history())
        say("\nby number of train users of the item to find")
        _say_groups(model.by_popularity())
    if arguments.per_user is not None:
        say(f"\nmetrics of {model.num_users:,} users saved to {arguments.per_user}")
    return 0


def _check_k(ks: list[int] | None, dataset: Dataset) -> None:
    """Raise a ValueError that names the option, before anything is computed."""
    count = dataset.interactions.num_items
    for k in ks or ():
        if not 1 <= k <= count:
            raise ValueError(f"--k must be at least 1 and at most the {count} items, got {k}")


def _json_values(result: Evaluation, intervals: bool) -> dict[str, Any]:
    return result.summary() | ({"intervals": result.intervals()} if intervals else {})


def _say_evaluations(
    results: Mapping[str, Evaluation], intervals: bool, metrics: Sequence[str]
) -> None:
    first = next(iter(results.values()))
    links = f", {first.num_links:,} links (positive and negative)" if first.num_links else ""
    say(f"test: {first.num_users:,} users{links}")
    columns = {}
    for name, result in results.items():
        bounds = result.intervals() if intervals else {}
        cells = [_cell(result.metrics.get(metric), bounds.get(metric)) for metric in metrics]
        columns[name] = cells
    _say_table(metrics, columns)


def _cell(value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    if bounds is None:
        return f"{value:.4f}"
    low, high = map(_short, bounds)
    return f"{_short(value)} [{low}, {high}]"


def _short(value: float) -> str:
    """Return a number without the zero before its point, as papers print it."""
    return f"{value:.4f}".removeprefix("0") if 0 <= value < 1 else f"{value:.4f}"


def _say_groups(groups: Sequence[Group]) -> None:
    metrics = list(groups[0].metrics)
    columns = {
        group.label: [
            f"{group.num_users:,}",
            f"{group.num_edges:,}",
            *(f"{group.metrics[metric]:.4f}" for metric in metrics),
        ]
        for group in groups
    }
    _say_table(["users", "test items", *metrics], columns)


def _say_table(rows: Sequence[str], columns: Mapping[str, Sequence[str]]) -> None:
    """Print columns under their names; those beyond 80 characters follow in a further table."""
    first = max(map(len, rows)) + 1
    widths = {name: max(map(len, (name, *cells))) + 2 for name, cells in columns.items()}
    names, room = list(columns), _WIDTH - first
    while len(names) > 1 and sum(widths[name] for name in names) > room:
        names.pop()
    say(f"{'':<{first}}" + "".join(f"{name:>{widths[name]}}" for name in names))
    for place, row in enumerate(rows):
        cells = "".join(f"{columns[name][place]:>{widths[name]}}" for name in names)
        say(f"{row:<{first}}{cells}")
    rest = {name: cells for name, cells in columns.items() if name not in names}
    if rest:
        say("")
        _say_table(rows, rest)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder: the reference")
    parser.add_argument("others", nargs="+", metavar="other", help="run folders to compare with it")
    parser.add_argument("--data", help="the runs' dataset, if it has moved since training")
    _add_k(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling (%(default)s)")


def compare(arguments: argparse.Namespace) -> int:
    """Compare runs with the first one, user by user, on their test set."""
    device = chosen_device(arguments.device)
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {arguments.seed}")
    dataset = dataset_of_run(arguments)
    _check_k(arguments.k, dataset)
    folders = [arguments.run, *arguments.others]
    found = compare_runs(dataset, folders, ks=arguments.k, seed=arguments.seed, device=device)
    for folder in folders:
        note_newer_training(Path(folder))
    runs = list(zip(arguments.others, found.differences, strict=True))
    if arguments.json:
        compared = [
            {"run": folder, "metrics": {name: asdict(one) for name, one in metrics.items()}}
            for folder, metrics in runs
        ]
        users = found.evaluations[0].num_users
        print_json({"reference": arguments.run, "num_users": users, "runs": compared})
        return 0
    say(f"test: {found.evaluations[0].num_users:,} users; a: {arguments.run}")
    for folder, metrics in runs:
        say(f"\nb: {folder}")
        _say_differences(metrics)
    say("\n[95% interval] by bootstrap; p of a sign-flip test; better, worse, equal: users")
    if len(runs) > 1:
        say(f"p corrected for {len(runs)} comparisons per metric (Holm)")
    return 0


def _say_differences(metrics: Mapping[str, Difference]) -> None:
    say(f"{'':<13}{'a':>7}{'b':>7}  {'b - a':<23}{'p':>7}{'better':>7}{'worse':>6}{'equal':>6}")
    for name, one in metrics.items():
        change = f"{_signed(one.difference)} [{_signed(one.low)}, {_signed(one.high)}]"
        say(
            f"{name:<13}{_short(one.a):>7}{_short(one.b):>7}  {change:<23}"
            f"{_short(one.p_value):>7}{one.better:>7.0%}{one.worse:>6.0%}{one.equal:>6.0%}"
        )


def _signed(value: float) -> str:
    return ("-" if round(value, 4) < 0 else "+") + _short(abs(value))


COMMANDS = {
    "evaluate": Command(
        evaluate,
        _evaluate_arguments,
        "test metrics of a run beside baselines",
        (
            "lightgcn evaluate runs/first --k 10 20 50",
            "lightgcn evaluate runs/first --baselines popularity ease gf_cf cheby_cf mf",
            "lightgcn evaluate runs/first --intervals --groups --per-user users.csv",
        ),
    ),
    "compare": Command(
        compare,
        _compare_arguments,
        "differences between runs on the same test set, with intervals and p-values",
        ("lightgcn compare runs/first runs/second", "lightgcn compare runs/a runs/b runs/c -k 10"),
    ),
}
