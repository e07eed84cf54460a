"""The command line's options: what each command takes, with an example in its help."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from lightgcn.experiments.run import BASELINES
from lightgcn.training.config import CONCERNS, PRESETS, SETTINGS

Command = Callable[[argparse.Namespace], int]

_SETTINGS = (
    "epochs",
    "embedding_dim",
    "num_layers",
    "batch_size",
    "learning_rate",
    "patience",
    "metric",
    "seed",
)


def build_parser(
    commands: Mapping[str, Command], parser_class: type[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    """Return the parser; a parsed command line has its function as ``command``."""
    parser = parser_class(
        prog="lightgcn",
        description="LightGCN graph collaborative filtering: from playlists or other interactions "
        "to recommendations.",
        epilog="Start with:  lightgcn demo",
    )
    parser.add_argument("--version", action="version", version=f"lightgcn {version_of('lightgcn')}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    shared.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where to compute (%(default)s)",
    )
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    for name, command in commands.items():
        group, _, action = name.rpartition(" ")
        if group not in groups:
            about = _GROUPS[group]
            of_group = groups[""].add_parser(
                group, help=about, description=about[0].upper() + about[1:] + "."
            )
            groups[group] = of_group.add_subparsers(metavar="ACTION", required=True)
        summary, examples, fill = _SPECIFICATIONS[name]
        subparser = groups[group].add_parser(
            action,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=command)
        fill(subparser)
    return parser


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="lightgcn-demo", help="folder for everything it writes (%(default)s)"
    )
    parser.add_argument(
        "--playlists", type=int, default=10_000, help="how many to make up (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of data, split and training (%(default)s)"
    )


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="folder of MPD slices, slice files, LightGCN text folder, or a table",
    )
    parser.add_argument("out", help="dataset folder to write")
    parser.add_argument(
        "--format",
        default="auto",
        choices=["auto", "prepared", "mpd", "text", "table"],
        help="of source (%(default)s)",
    )
    parser.add_argument(
        "--slices",
        type=_slice_range,
        metavar="FIRST:END",
        help="MPD: slices by position; 0:10 is the first ten",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="MPD: read with so many (one per core and 16 MB, up to 8)",
    )
    parser.add_argument(
        "--order",
        action="store_true",
        default=None,
        help="MPD: keep each track's place in its playlist",
    )
    parser.add_argument(
        "--skip-bad-playlists",
        dest="skip_bad",
        action="store_true",
        default=None,
        help="MPD: leave out playlists that are not what they must be, and tell which",
    )
    for name, text in (
        ("user", "column of user ids (user)"),
        ("item", "column of item ids (item)"),
        ("weight", "column of edge weights (none)"),
        ("user-name", "column of user names (none)"),
        ("item-name", "column of item names (none)"),
    ):
        parser.add_argument(f"--{name}", metavar="COLUMN", help=f"table: {text}")
    parser.add_argument(
        "--separator", help="table: what stands between fields (by the file's suffix)"
    )
    parser.add_argument(
        "--test", metavar="FILE", help="text: file with the test split (test.txt beside train.txt)"
    )
    cuts = parser.add_argument_group("a part of the data, cut in this order")
    cuts.add_argument(
        "--sample", type=int, metavar="N", help="N users drawn at random, and their items"
    )
    cuts.add_argument(
        "--k-core",
        type=int,
        metavar="K",
        help="keep users and items with at least K edges among them",
    )
    cuts.add_argument(
        "--largest-component", action="store_true", help="keep the largest connected component"
    )
    cuts.add_argument(
        "--tie-by",
        metavar="COLUMN",
        help="items of one value are tied together in that component: artist_id for tracks of an "
        "artist (MPD)",
    )
    cuts.add_argument(
        "--ego",
        metavar="USER",
        help="keep what is near a user, by id or unique name; #1 is the user whose items are most "
        "popular on average",
    )
    cuts.add_argument("--hops", type=int, help="how near: so many edges (3)")
    cuts.add_argument("--seed", type=int, help="seed of the sample (0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset that is there already"
    )


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="dataset folder, or anything that prepare reads without options"
    )
    parser.add_argument("run", help="run folder to write")
    _add_preset(parser)
    _add_settings(parser, "setting {}")
    _add_split(parser)
    _add_names(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder; --epochs and --patience may change",
    )


def _reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="data with a test split of its own: a folder with train.txt and test.txt, say"
    )
    parser.add_argument(
        "run",
        nargs="?",
        help="folder to write (runs/DATA-PRESET); what it holds already is taken up",
    )
    _add_preset(parser)
    _add_settings(parser, "setting {}")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="one result for each (0)"
    )


def _tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="dataset folder, or anything that prepare reads without options"
    )
    parser.add_argument(
        "out",
        help="folder of the search, which goes on where there is one; preset.json is the result",
    )
    parser.add_argument(
        "--minutes", type=float, help="wall-clock time to search (10; with --trials: no limit)"
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="end after so many, beside those of before"
    )
    parser.add_argument(
        "--start",
        metavar="PRESET",
        help=f"settings to start from: {', '.join(PRESETS)}, or a preset file (fast)",
    )
    parser.add_argument(
        "--max-dim", type=int, default=128, metavar="D", help="largest width to try (%(default)s)"
    )
    _add_settings(parser, "keep {} at this, do not search it")
    _add_split(parser)


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        help=f"settings to start from: {', '.join(PRESETS)}, or a file that tune wrote (fast)",
    )


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--data", help="dataset, where it has moved since training")
    parser.add_argument("-k", "--k", type=int, nargs="+", default=[20], help="list lengths (20)")
    parser.add_argument(
        "--baselines",
        nargs="+",
        choices=[*BASELINES, "all"],
        default=["popularity"],
        metavar="NAME",
        help=f"what to show beside the model: {', '.join(BASELINES)}, or all (popularity)",
    )


def _recommend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder, or a recommender.safetensors file")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="a known user (playlist), by id or unique name")
    who.add_argument(
        "--items",
        nargs="+",
        metavar="ITEM",
        help="a new user's items, by id, name or 'name by artist'",
    )
    who.add_argument("--similar", metavar="ITEM", help="items like this one")
    parser.add_argument("-k", "--k", type=int, default=10, help="how many (%(default)s)")


def _plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--data", help="dataset, where it has moved since training")
    parser.add_argument("--out", help="folder for the pictures (RUN/pictures)")
    parser.add_argument(
        "--nodes", type=int, default=300, help="of the piece of the graph (%(default)s)"
    )
    parser.add_argument(
        "--items", type=int, default=2000, help="on the map, most popular first (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of draws and layouts (%(default)s)")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--data", help="dataset, where it has moved since training")
    parser.add_argument("--out", help="file to write (RUN/report.html)")
    parser.add_argument(
        "--users", type=int, default=200, help="shown with recommendations (%(default)s)"
    )
    parser.add_argument(
        "-k", "--k", type=int, default=10, help="recommendations for each (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of users (%(default)s)")


def _challenge_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="dataset folder, prepared from MPD slices with --order")
    parser.add_argument(
        "out", help="folder to write; what it holds of the same challenge is taken up"
    )
    parser.add_argument(
        "--playlists", type=int, default=10_000, help="to hold out, for all ten tasks (%(default)s)"
    )
    parser.add_argument(
        "--draw-seed", type=int, default=0, help="seed of the draw of playlists (%(default)s)"
    )
    _add_preset(parser)
    _add_settings(parser, "setting {}")
    _add_names(parser)


def _challenge_answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder, or a recommender.safetensors file")
    parser.add_argument("set", help="challenge set (challenge_set.json)")
    parser.add_argument("out", help="submission to write (.csv or .csv.gz)")
    parser.add_argument("--team", default="lightgcn", help="name for its first line (%(default)s)")
    parser.add_argument(
        "--email", default="nobody@example.com", help="address for its first line (%(default)s)"
    )
    parser.add_argument("--no-titles", action="store_true", help="do not look at titles")


def _challenge_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", help="submission (.csv or .csv.gz)")
    parser.add_argument("set", help="the challenge set that it answers")


def _challenge_score(parser: argparse.ArgumentParser) -> None:
    _challenge_check(parser)
    parser.add_argument("holdouts", help="what was held out (holdouts.json of challenge evaluate)")
    parser.add_argument(
        "--data", help="dataset that knows the tracks' artists (train/ beside holdouts)"
    )


def _add_settings(parser: argparse.ArgumentParser, text: str) -> None:
    for name in _SETTINGS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text.format(name))
    others = ", ".join(name for name in SETTINGS if name not in _SETTINGS)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"another setting: {others}",
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ratios",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="train, validation and test shares (0.8 0.1 0.1; 0.9 0.1 where the data brings a "
        "test split); 1 trains on "
        "all there is, for all epochs",
    )
    parser.add_argument(
        "--stratify",
        choices=["user", "last"],
        help="split each user's edges by the ratios, at random or with the last of the list held "
        "out (text data)",
    )
    parser.add_argument(
        "--negatives", type=float, metavar="N", help="negatives per positive of each set (1.0)"
    )


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side-nodes",
        metavar="COLUMN",
        help="items of one value are tied by a further node that carries messages: artist_id for "
        "artists (MPD)",
    )
    parser.add_argument(
        "--words",
        metavar="MODEL",
        help="start from embeddings of names by a language model: its folder, or the name of an "
        "installed one",
    )


def _slice_range(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not colon or not first.isdecimal() or not end.isdecimal():
        raise argparse.ArgumentTypeError(f"expected FIRST:END such as 0:10, got {text!r}")
    return int(first), int(end)


def changed_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the training settings that were given as options or by --set, in the types that they
    have.

    Raises:
        ValueError: naming the setting that there is not, or the value that cannot be read.
    """
    given = {name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
        given[name.strip()] = value.strip()
    if getattr(arguments, "words", None) is not None:
        given.setdefault("init", "words")
    return {name: _setting(name, value) for name, value in given.items()}


def language_model_of(arguments: argparse.Namespace) -> str | None:
    """Return the language model that was given: a folder by its whole path, for the run to be
    resumed from anywhere."""
    if arguments.words == "":
        raise ValueError("--words names no language model")
    if arguments.words is None or not Path(arguments.words).is_dir():
        return arguments.words  # type: ignore[no-any-return]
    return str(Path(arguments.words).resolve())


def _setting(name: str, text: str) -> Any:
    """Read a setting's value in the type that the setting has."""
    kinds = {
        name: hint for config in CONCERNS.values() for name, hint in get_type_hints(config).items()
    }
    if name not in kinds:
        raise ValueError(f"no setting {name!r}; there are {', '.join(kinds)}")
    kind = kinds[name]
    if isinstance(kind, types.UnionType) and text.lower() == "none":
        return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    for number in (int, float):
        if kind in (number, number | None):
            try:
                return number(text)
            except ValueError:
                raise ValueError(
                    f"{name} must be {'an integer' if number is int else 'a number'}, got {text!r}"
                ) from None
    return text


_GROUPS = {
    "challenge": "the RecSys Challenge 2018: playlists to continue from their titles and first "
    "tracks"
}


class _Specification(NamedTuple):
    """What a command is for, how it is called, and what adds its arguments."""

    summary: str
    examples: tuple[str, ...]
    fill: Callable[[argparse.ArgumentParser], None]


_SPECIFICATIONS = {
    "demo": _Specification(
        "synthetic playlists through the whole path, in under two minutes",
        ("lightgcn demo --out lightgcn-demo",),
        _demo,
    ),
    "prepare": _Specification(
        "read raw files once into a dataset folder",
        (
            "lightgcn prepare mpd/data prepared --slices 0:10 --largest-component",
            "lightgcn prepare plays.csv prepared --user listener --item song --item-name title",
        ),
        _prepare,
    ),
    "train": _Specification(
        "train a model into a run folder",
        (
            "lightgcn train prepared runs/first --preset fast",
            "lightgcn train prepared runs/deep --preset paper --num-layers 4 --set l2=1e-3",
        ),
        _train,
    ),
    "reproduce": _Specification(
        "a published result: epoch chosen on validation, test read once",
        (
            "lightgcn reproduce gowalla --preset fast",
            "lightgcn reproduce gowalla runs/best --preset best --seeds 0 1 2",
        ),
        _reproduce,
    ),
    "tune": _Specification(
        "search for settings that suit the data, on validation, into a folder",
        (
            "lightgcn tune prepared tuned --minutes 30",
            "lightgcn tune prepared tuned --trials 50 --embedding-dim 64 --metric ndcg@20",
            "lightgcn train prepared runs/tuned --preset tuned/preset.json",
        ),
        _tune,
    ),
    "evaluate": _Specification(
        "test metrics of a run beside baselines",
        (
            "lightgcn evaluate runs/first --k 10 20 50",
            "lightgcn evaluate runs/first --baselines popularity item_cosine ease gf_cf mf",
        ),
        _evaluate,
    ),
    "recommend": _Specification(
        "recommendations from a run",
        (
            "lightgcn recommend runs/first --user 1042 -k 10",
            'lightgcn recommend runs/first --items "Blue Harbour by The Tidewater Set" '
            "spotify:track:0aB1cD2eF3gH4iJ",
        ),
        _recommend,
    ),
    "plot": _Specification(
        "pictures of a run: curves, degrees, a piece of the graph, a map of the items",
        (
            "lightgcn plot runs/first",
            "lightgcn plot runs/first --out pictures --nodes 500 --items 5000",
        ),
        _plot,
    ),
    "report": _Specification(
        "a run as one HTML file: settings, data, curves, metrics, recommendations to search",
        (
            "lightgcn report runs/first",
            "lightgcn report runs/first --out first.html --users 1000",
        ),
        _report,
    ),
    "challenge evaluate": _Specification(
        "hold playlists out, train on the others, and score the ten tasks beside baselines",
        (
            "lightgcn challenge evaluate prepared challenge",
            "lightgcn challenge evaluate prepared challenge --playlists 1000 --preset best",
        ),
        _challenge_evaluate,
    ),
    "challenge answer": _Specification(
        "answer a challenge set from a run, as a submission",
        (
            "lightgcn challenge answer runs/first challenge_set.json submission.csv.gz --team us "
            "--email us@example.com",
        ),
        _challenge_answer,
    ),
    "challenge check": _Specification(
        "tell what the challenge would refuse in a submission",
        ("lightgcn challenge check submission.csv.gz challenge_set.json",),
        _challenge_check,
    ),
    "challenge score": _Specification(
        "score a submission by task, where what was held out is known",
        (
            "lightgcn challenge score submission.csv challenge/challenge_set.json "
            "challenge/holdouts.json",
        ),
        _challenge_score,
    ),
}
