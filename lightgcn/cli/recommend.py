"""`lightgcn recommend`: what comes out of a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn.cli.console import chosen_device, complain, one_line, print_json, say
from lightgcn.cli.options import Command
from lightgcn.core.table_file import SUFFIXES, check_table_path
from lightgcn.experiments.finished import newer_training, recommender_file
from lightgcn.ranking.topk import check_k
from lightgcn.recommendation import Recommendation
from lightgcn.recommender import Recommender

_FILES = ("only", "exclude", "users")
# Items of the user that --explain lists without -k.
_EXPLAINED = 10
# Options that change nothing without one of others.
_NEEDS = {
    "out": ("all", "users"),
    "overwrite": ("all", "users"),
    "explain": ("user",),
    "skip_unknown": ("items",),
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder, or a recommender.safetensors file")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="a known user (playlist), by id or unique name")
    who.add_argument(
        "--items",
        nargs="+",
        metavar="ITEM",
        help="a new user's items, by id, name or 'name by artist', the latest last",
    )
    who.add_argument("--similar", metavar="ITEM", help="items similar to this one")
    who.add_argument("--all", action="store_true", help="all users, to the file of --out")
    who.add_argument("--users", metavar="FILE", help="the users in a file, to the file of --out")
    parser.add_argument(
        "-k", "--k", type=int, help="number of items (10, or all if there are fewer)"
    )
    parser.add_argument("--only", metavar="FILE", help="choose from the items in this file")
    parser.add_argument("--exclude", metavar="FILE", help="leave out the items in this file")
    parser.add_argument(
        "--explain", metavar="ITEM", help="what each item of --user adds to the score of this one"
    )
    parser.add_argument(
        "--skip-unknown", action="store_true", help="leave out unknown --items with a warning"
    )
    parser.add_argument(
        "--most-popular",
        action="store_true",
        help="of several users or items with a given name, take the most popular one",
    )
    parser.add_argument("--out", metavar="FILE", help=f"file to write: {', '.join(SUFFIXES)}")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out")


def recommend(arguments: argparse.Namespace) -> int:
    """Recommend for known users or a new one, list similar items, or explain a score."""
    _check_options(arguments)
    device = chosen_device(arguments.device)
    file = recommender_file(arguments.run)
    ambiguous: Any = "popular" if arguments.most_popular else "error"
    recommender = Recommender.load(file, device, ambiguous=ambiguous)
    note_newer_training(file.parent)
    if arguments.k is not None:
        try:
            check_k(arguments.k, recommender.seen.num_items)
        except ValueError as error:
            raise ValueError(f"-{error}") from error
    if arguments.explain is not None:
        return _explain(recommender, arguments)
    only = _candidates(recommender, arguments)
    if arguments.out is not None:
        return _write_lists(recommender, only, arguments)
    title, tracks = _answer(recommender, only, arguments)
    if arguments.json:
        print_json([asdict(track) for track in tracks])
        return 0
    say(title)
    for rank, track in enumerate(tracks, 1):
        say(f"{rank:>4}  {track.score:8.4f}  {_shown(track)}")
    return 0


def note_newer_training(run: Path) -> tuple[int, int] | None:
    """Print a note if the model is older than the training, which was interrupted."""
    newer = newer_training(run)
    if newer is not None:
        complain(
            f"note: the model in {run} is of {newer[0]} epochs, but training was resumed and "
            f"stopped at {newer[1]}; finish it with lightgcn train --resume"
        )
    return newer


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise a ValueError for options that do not go together, before anything is read."""
    for option, others in _NEEDS.items():
        if getattr(arguments, option) not in (None, False) and not any(
            getattr(arguments, other) not in (None, False) for other in others
        ):
            needed = " or ".join(f"--{other}" for other in others)
            raise ValueError(f"--{option.replace('_', '-')} needs {needed}")
    to_file = arguments.all or arguments.users is not None
    if to_file and arguments.out is None:
        raise ValueError(f"--{'all' if arguments.all else 'users'} needs --out FILE")
    if arguments.explain is not None and (arguments.only or arguments.exclude):
        raise ValueError("--only and --exclude have no effect on --explain: leave them out")
    if sum(getattr(arguments, option) == "-" for option in _FILES) > 1:
        raise ValueError("only one of --only, --exclude and --users can read standard input (-)")
    if arguments.out is not None:
        try:
            check_table_path(arguments.out, overwrite=arguments.overwrite)
        except (ValueError, OSError) as error:
            hint = " (--overwrite replaces it)" if Path(arguments.out).is_file() else ""
            raise ValueError(f"--out {one_line(error)}{hint}") from error


def _answer(
    recommender: Recommender, only: Tensor | None, arguments: argparse.Namespace
) -> tuple[str, list[Recommendation]]:
    """Return a heading and the list of one user, or of similar items."""
    k = arguments.k
    if arguments.user is not None:
        tracks = recommender.recommend(arguments.user, k, only=only)
        return f"for {_described_user(recommender, arguments.user)}", tracks
    if arguments.similar is not None:
        tracks = recommender.similar_items(arguments.similar, k, only=only)
        index = recommender.item_index(arguments.similar)
        return f"similar to {_shown(recommender.item(index))}", tracks
    unknown: Any = "skip" if arguments.skip_unknown else "error"
    tracks = recommender.recommend_new(arguments.items, k, only=only, unknown=unknown)
    return "for a new user with the given items", tracks


def _explain(recommender: Recommender, arguments: argparse.Namespace) -> int:
    explanation = recommender.explain(arguments.user, arguments.explain)
    if arguments.json:
        print_json(asdict(explanation))
        return 0
    item = recommender.item(recommender.item_index(arguments.explain))
    say(f"{_shown(item)} for {_described_user(recommender, arguments.user)}")
    say(f"score {explanation.score:9.4f}")
    count = arguments.k or _EXPLAINED
    for row in explanation.items[:count]:
        say(f"      {row.contribution:+9.4f}  {_shown(row)}")
    rest = explanation.items[count:]
    if rest:
        say(f"      {sum(row.contribution for row in rest):+9.4f}  ({len(rest)} more items)")
    for name, value in explanation.other.items():
        say(f"      {value:+9.4f}  ({name})")
    return 0


def _write_lists(
    recommender: Recommender, only: Tensor | None, arguments: argparse.Namespace
) -> int:
    """Write the lists of all users, or of those of a file."""
    users = None
    if arguments.users is not None:
        ids = recommender.seen.user_ids
        found = _looked_up("--users", arguments.users, recommender.user_index)
        users = [index if ids is None else ids[index] for index in found]
    rows = recommender.recommend_all(
        arguments.out,
        arguments.k,
        users=users,
        only=only,
        overwrite=arguments.overwrite,
        progress=not arguments.json,
    )
    count = recommender.seen.num_users if users is None else len(set(users))
    if arguments.json:
        print_json({"file": arguments.out, "users": count, "rows": rows})
    else:
        say(f"saved {rows:,} recommendations for {count:,} users to {arguments.out}")
    return 0


def _candidates(recommender: Recommender, arguments: argparse.Namespace) -> Tensor | None:
    """Return the mask of --only and --exclude, None without them."""
    if arguments.only is None and arguments.exclude is None:
        return None
    given: dict[str, Any] = {}
    for option in ("only", "exclude"):
        if (file := getattr(arguments, option)) is not None:
            mask = torch.zeros(recommender.seen.num_items, dtype=torch.bool, device="cpu")
            mask[_looked_up(f"--{option}", file, recommender.item_index)] = True
            given[option] = mask
    return recommender.item_mask(**given)


def _looked_up(option: str, file: str, find: Callable[[str], int]) -> list[int]:
    """Return the indices of the ids or names in a file, one a line; "-" is standard input.

    Raises:
        ValueError: naming file, line and value, if one is not found; or if the file is empty, but
            for items to leave out.
    """
    found = []
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            wanted = line.rstrip("\r\n")
            if not wanted.strip():
                continue
            try:
                found.append(find(wanted))
            except ValueError as error:
                raise ValueError(f"{option} {file}, line {number}: {error}") from error
    if not found and option != "--exclude":
        raise ValueError(f"{option} {file}: holds no id and no name")
    return found


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        if file == "-":
            yield sys.stdin
        else:
            with Path(file).open(encoding="utf-8-sig") as lines:
                yield lines
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is no UTF-8 text ({error})") from error


def _described_user(recommender: Recommender, wanted: str) -> str:
    index = recommender.user_index(wanted)
    ids, count = recommender.seen.user_ids, len(recommender.seen.items_of(index))
    name = " ".join(recommender.user_columns.get("name", {index: ""})[index].split())
    shown = f"user {index if ids is None else ids[index]}" + (f', "{name}"' if name else "")
    return f"{shown}, which has {count} item{'' if count == 1 else 's'}"


def _shown(track: Any) -> str:
    """Return an item's label, and its id if that is something else."""
    label, own = track.label, str(track.id)
    return label if label == own else f"{label}  {own}"


COMMANDS = {
    "recommend": Command(
        recommend,
        _arguments,
        "recommendations from a run",
        (
            "lightgcn recommend runs/first --user 1042 -k 10",
            'lightgcn recommend runs/first --items "Blue Harbour by The Tidewater Set" '
            "spotify:track:0aB1cD2eF3gH4iJ",
            "lightgcn recommend runs/first --all --out recommendations.parquet --exclude sold.txt",
            "lightgcn recommend runs/first --user 1042 --explain spotify:track:0aB1cD2eF3gH4iJ",
        ),
    ),
}
