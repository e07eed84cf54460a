"""`lightgcn plot` and `report`, which read a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightgcn.cli.console import chosen_device, complain, print_json, say
from lightgcn.cli.options import Command
from lightgcn.cli.recommend import note_newer_training
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.experiments.run import RunConfig


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run folder and where its data is."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("--data", help="the run's dataset, if it has moved since training")


def dataset_of_run(arguments: argparse.Namespace) -> Dataset:
    """Return the dataset of a run."""
    config = RunConfig.load(arguments.run)
    try:
        return open_dataset(arguments.data or config.data, progress=not arguments.json)
    except FileNotFoundError as error:
        hint = "" if arguments.data else "; if the run's data has moved, give --data"
        raise FileNotFoundError(f"{error}{hint}") from error


def _dataset_to_show(arguments: argparse.Namespace) -> Dataset:
    """Return the dataset of a run for `plot` and `report`, which compute on the CPU."""
    chosen_device(arguments.device)  # unused, but checked
    dataset = dataset_of_run(arguments)
    note_newer_training(Path(arguments.run))
    return dataset


def _plot_arguments(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    parser.add_argument("--out", help="folder for the pictures (RUN/pictures)")
    parser.add_argument(
        "--nodes", type=int, default=300, help="nodes of the drawn part of the graph (%(default)s)"
    )
    parser.add_argument(
        "--items", type=int, default=2000, help="items on the map, the most popular (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of draws and layouts (%(default)s)"
    )


def plot(arguments: argparse.Namespace) -> int:
    """Draw pictures of a run."""
    from lightgcn.experiments.plots import plot_run

    dataset = _dataset_to_show(arguments)
    files = plot_run(
        dataset,
        arguments.run,
        arguments.out or Path(arguments.run) / "pictures",
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
        complain("note: no map was drawn: it needs at least 10 items")
    return 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    run_arguments(parser)
    parser.add_argument("--out", help="file to write (RUN/report.html)")
    parser.add_argument(
        "--users", type=int, default=200, help="users with recommendations (%(default)s)"
    )
    parser.add_argument(
        "-k", "--k", type=int, default=10, help="recommendations for each (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draw of users (%(default)s)"
    )


def report(arguments: argparse.Namespace) -> int:
    """Write the HTML report of a run."""
    from lightgcn.experiments.report import write_report

    dataset = _dataset_to_show(arguments)
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
    "plot": Command(
        plot,
        _plot_arguments,
        "pictures of a run: curves, degrees, a part of the graph, a map of the items",
        (
            "lightgcn plot runs/first",
            "lightgcn plot runs/first --out pictures --nodes 500 --items 5000",
        ),
    ),
    "report": Command(
        report,
        _report_arguments,
        "a run as one HTML file: settings, data, curves, metrics, recommendations to search",
        (
            "lightgcn report runs/first",
            "lightgcn report runs/first --out first.html --users 1000",
        ),
    ),
}
