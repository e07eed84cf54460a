"""`lightgcn demo` and `lightgcn prepare`."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lightgcn.cli.console import (
    INTERRUPTED,
    chosen_device,
    complain,
    print_json,
    say,
    stop_on_interrupt,
)
from lightgcn.cli.options import Command
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.datasets.dataset import FILE_NAME, SUMMARY_NAME
from lightgcn.datasets.preprocess import Cuts, Step, prepare_dataset
from lightgcn.experiments.demo import run_demo

# Skipped playlists or rows listed on the terminal.
_SHOWN = 20
# Options of the table reader: the placeholder of the value, and the help.
_COLUMNS = {
    "user": ("COLUMN", "user ids (user, user_id)"),
    "item": ("COLUMN", "item ids (item, item_id)"),
    "time": ("COLUMN", "times, by which a user's items are ordered"),
    "weight": ("COLUMN", "edge weights"),
    "rating": ("COLUMN", "ratings, with --min-rating (rating)"),
    "min_rating": ("NUMBER", "drop rows with a lower rating"),
    "user_name": ("COLUMN", "user names, in the table or in --users"),
    "item_name": ("COLUMN", "item names, in the table or in --items"),
}
_FILES = {
    "columns": ("NAMES", "names of the columns, with commas between, if there is no header"),
    "separator": ("TEXT", "a character, '::', '\\t' or blanks (found in the first lines)"),
    "encoding": ("NAME", "encoding of the text, such as latin-1 (utf-8)"),
}
_NODE_FILES = {
    "items": ("FILE", "file with a row for each item: names and other columns"),
    "item_id": ("COLUMN", "its item ids (as --item)"),
    "item_columns": ("NAMES", "its columns, if it has no header"),
    "users": ("FILE", "file with a row for each user"),
    "user_id": ("COLUMN", "its user ids (as --user)"),
    "user_columns": ("NAMES", "its columns, if it has no header"),
}
_READER_OPTIONS = (
    "slices",
    "processes",
    "order",
    "skip_bad",
    "drop_missing",
    "test",
    "val",
    *_COLUMNS,
    *_FILES,
    *_NODE_FILES,
)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="lightgcn-demo", help="folder for everything it writes (%(default)s)"
    )
    parser.add_argument(
        "--playlists", type=int, default=10_000, help="number of synthetic playlists (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data, split and training (%(default)s)"
    )


def demo(arguments: argparse.Namespace) -> int:
    """Run the whole path on synthetic playlists."""
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


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="MPD folder or slices, LightGCN text folder, or tables (docs/formats.md)",
    )
    parser.add_argument("out", help="dataset folder to write")
    parser.add_argument(
        "--format",
        default="auto",
        choices=["auto", "prepared", "mpd", "text", "lists", "counts", "table"],
        help="format of the source (%(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the dataset in the folder, if any"
    )
    parser.add_argument(
        "--skip-bad",
        "--skip-bad-rows",
        "--skip-bad-playlists",
        dest="skip_bad",
        action="store_true",
        default=None,
        help="skip malformed rows or playlists, and list them",
    )
    for part, name in (("test", "test"), ("val", "validation")):
        parser.add_argument(
            f"--{part}", metavar="FILE", help=f"the data's own {name} set, text or table"
        )
    _mpd_arguments(parser.add_argument_group("Million Playlist Dataset (MPD)"))
    _table_arguments(parser)
    _cut_arguments(parser.add_argument_group("cuts of the data, in this order"))


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    for title, options in (
        ("columns of a table", _COLUMNS),
        ("text of a table", _FILES),
        ("files of users and items", _NODE_FILES),
    ):
        group = parser.add_argument_group(title)
        for name, (metavar, text) in options.items():
            group.add_argument(
                f"--{name.replace('_', '-')}",
                metavar=metavar,
                type=float if name == "min_rating" else str,
                help=text,
            )
        if options is _COLUMNS:
            group.add_argument(
                "--drop-missing",
                action="store_true",
                default=None,
                help="drop rows whose user or item is empty, NaN, None, null or \\N",
            )


def _mpd_arguments(mpd: Any) -> None:
    mpd.add_argument(
        "--slices",
        type=_slice_range,
        metavar="FIRST:END",
        help="slices by position; 0:10 is the first ten",
    )
    mpd.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="number of reading processes (one per core and 50 MB, up to 8)",
    )
    mpd.add_argument(
        "--order",
        action="store_true",
        default=None,
        help="keep each track's position in its playlist",
    )


def _cut_arguments(cuts: Any) -> None:
    cuts.add_argument(
        "--sample", type=int, metavar="N", help="N users drawn at random, and their items"
    )
    cuts.add_argument(
        "--k-core",
        type=int,
        metavar="K",
        help="users and items with at least K edges among themselves",
    )
    cuts.add_argument(
        "--largest-component", action="store_true", help="the largest connected component"
    )
    cuts.add_argument(
        "--tie-by",
        metavar="COLUMN",
        help="for that component, connect items with the same value in a column: artist_id (MPD)",
    )
    cuts.add_argument(
        "--ego",
        metavar="USER",
        help="the nodes near a user, given by id or unique name; #1 is the user whose items are "
        "the most popular on average",
    )
    cuts.add_argument("--hops", type=int, help="radius around that user, in edges (3)")
    cuts.add_argument("--seed", type=int, help="seed of the sample (0)")


def _slice_range(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not colon or not first.isdecimal() or not end.isdecimal():
        raise argparse.ArgumentTypeError(f"expected FIRST:END such as 0:10, got {text!r}")
    return int(first), int(end)


def prepare(arguments: argparse.Namespace) -> int:
    """Read raw files and write a dataset folder."""
    chosen_device(arguments.device)  # unused, but checked
    if not all((*arguments.source, arguments.out)):
        raise ValueError("source and out must be paths, got an empty one")
    out = Path(arguments.out)
    taken = next((path for path in (out, *out.parents) if path.is_file()), None)
    if taken is not None:
        raise ValueError(f"out: {taken} is a file, and out is the folder to write: give it last")
    if (out / FILE_NAME).exists() and not arguments.overwrite:
        raise FileExistsError(
            f"{out}: holds a prepared dataset already; give --overwrite or a different folder"
        )
    options = {
        name: value for name in _READER_OPTIONS if (value := getattr(arguments, name)) is not None
    }
    source: Any = arguments.source[0] if len(arguments.source) == 1 else arguments.source
    read = open_dataset(source, format=arguments.format, progress=not arguments.json, **options)
    given = {field.name: getattr(arguments, field.name) for field in fields(Cuts)}
    cuts = Cuts(**{name: value for name, value in given.items() if value is not None})
    try:
        dataset, steps = prepare_dataset(read, cuts)
    except ValueError as error:
        raise ValueError(f"{arguments.source[0]}: {error}; nothing was written") from error
    dataset.save(out)
    _complain_of_skipped(dataset, out)
    if arguments.json:
        values = [_step_values(step) for step in steps]
        print_json({"out": str(out), "info": dataset.info, "steps": values})
        return 0
    _say_steps(steps)
    if "layout" in dataset.info:
        say(f"  {dataset.info['layout']}")
    for name, value in dataset.info.items():
        if isinstance(value, int) and value and name not in ("edges", "test_edges"):
            say(f"  {name.replace('_', ' '):<32} {value:>12,}")
    say(f"saved to {out}\nNext:  {shlex.join(['lightgcn', 'train', str(out), 'runs/first'])}")
    return 0


def _complain_of_skipped(dataset: Dataset, out: Path) -> None:
    skipped = dataset.info.get("skipped", [])
    for problem in skipped[:_SHOWN]:
        complain(f"skipped: {problem}")
    if len(skipped) > _SHOWN:
        info = dataset.info
        more = info.get("skipped_playlists", info.get("skipped_rows", 0)) - _SHOWN
        complain(f"and {more:,} more, listed in {out / SUMMARY_NAME}")


def _say_steps(steps: list[Step]) -> None:
    width = max(len(step.name) for step in steps)
    for step in steps:
        size = step.statistics
        test = "" if step.test_edges is None else f" {step.test_edges:>12,} test edges"
        say(
            f"{step.name:<{width}} {size.users:>10,} users {size.items:>10,} items "
            f"{size.edges:>12,} edges{test}"
        )
        for side, degrees in (("a user", size.user_degrees), ("an item", size.item_degrees)):
            say(
                f"{'':<{width}}   edges of {side}: mean {degrees.mean:.1f}, median "
                f"{degrees.median:.0f}, 90th percentile {degrees.percentile_90:.0f}, max "
                f"{degrees.most:,}"
            )


def _step_values(step: Step) -> dict[str, Any]:
    size = asdict(step.statistics)
    test = {} if step.test_edges is None else {"test_edges": step.test_edges}
    return {"step": step.name, **size, **test}


COMMANDS = {
    "demo": Command(
        demo,
        _demo_arguments,
        "the whole path on synthetic playlists, in under two minutes",
        ("lightgcn demo --out lightgcn-demo",),
    ),
    "prepare": Command(
        prepare,
        _prepare_arguments,
        "read raw files once into a dataset folder",
        (
            "lightgcn prepare mpd/data prepared --slices 0:10 --largest-component",
            "lightgcn prepare plays.csv prepared --user listener --item song --item-name title",
            "lightgcn prepare ratings.csv prepared --user userId --item movieId --min-rating 4 "
            "--time timestamp --items movies.csv",
        ),
    ),
}
