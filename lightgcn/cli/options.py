"""The parser, and the options that several commands share."""

from __future__ import annotations

import argparse
import difflib
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

from lightgcn.cli.console import BAD_INPUT, complain
from lightgcn.training.config import CONCERNS, PRESETS, SETTINGS

# Settings with an option of their own: the placeholder of the value, and the help.
_OPTIONS = {
    "epochs": ("N", "maximum number of passes over the training data"),
    "embedding_dim": ("N", "width of the embeddings"),
    "num_layers": ("N", "number of propagation layers; 0 is matrix factorisation"),
    "batch_size": ("N", "training links per step; none for one step per epoch"),
    "learning_rate": ("RATE", "learning rate of Adam"),
    "patience": ("N", "validations without a new best before training stops; none for never"),
    "metric": ("NAME", "validation metric that chooses the best epoch, such as ndcg@10 or roc_auc"),
    "seed": ("N", "seed of the split, of the initial weights and of every random draw"),
}
_GROUPS = {"challenge": "the RecSys Challenge 2018: continue playlists from a title or some tracks"}
# Options of arguments that errors name.
_ARGUMENTS = {
    "ratios": "--ratios",
    "leave_out": "--leave-out",
    "dates": "--split-date",
    "stratify": "--stratify",
    "negatives": "--negatives",
    "metric": "--metric",
}
_LIKE_AN_OPTION = re.compile("--[a-z]+(-[a-z]+)*")
DATA_HELP = "dataset folder, or anything that prepare reads without options"


class Command(NamedTuple):
    """A command: its function, its arguments, a summary, and examples of command lines."""

    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    summary: str
    examples: tuple[str, ...]


class _Value(str):
    """A token of the command line that is a value, though it begins with "-"."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and in which values may begin with "-".

    A token that begins with "-" and is no option of the command is the value of the option before
    it, if that still takes one: ``--user -u0xQ``, ``--items -b0xQ _b2xQ``. One that reads as a
    mistyped option, "--" and lower-case words, is an error that names it.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args is not None and self._subparsers is None:  # a command's own arguments
            args = self._with_values(args)
        return super().parse_known_args(args, namespace)

    def _parse_optional(self, arg_string: str) -> Any:
        # None for a value.
        return None if isinstance(arg_string, _Value) else super()._parse_optional(arg_string)

    def _with_values(self, args: Sequence[str]) -> list[str]:
        """Return the tokens, those marked that are values and begin with "-"."""
        marked: list[str] = []
        taking: argparse.Action | None = None  # the option that takes the next value
        taken = 0
        for place, token in enumerate(args):
            if token == "--":
                return [*marked, *args[place:]]
            lacks_value = taking is not None and not taken
            option = self._option_of(token, lacks_value)
            if option is not None:
                # The value may be in the same token: --option=value, -k5.
                alone = token in option.option_strings or self._abbreviated(token) == option
                taking, taken = option if alone and option.nargs != 0 else None, 0
            elif taking is not None:
                is_text = taking.type is None and taking.choices is None
                token = _Value(token) if token.startswith("-") and is_text else token
                taking, taken = taking if taking.nargs == "+" else None, taken + 1
            marked.append(token)
        return marked

    def _option_of(self, token: str, lacks_value: bool) -> argparse.Action | None:
        """Return the option that a token is; None for a value.

        Args:
            token: of the command line.
            lacks_value: whether the option before it needs a value.
        """
        options, (name, equals, _) = self._option_string_actions, token.partition("=")
        found = options.get(token) or (options.get(name) if equals else None)
        if found is not None or (found := self._abbreviated(name)) is not None:
            return found
        if _LIKE_AN_OPTION.fullmatch(name):
            close = difflib.get_close_matches(
                name, [each for each in options if len(each) > 2], 1, 0.7
            )
            self.error(f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else ""))
        short = options.get(token[:2])
        if short is None or token.startswith("--") or lacks_value or short.nargs == 0:
            return None
        convert: Any = short.type or str
        try:  # -k5, but not the id -kX5
            convert(token[2:])
        except ValueError:
            return None
        return short

    def _abbreviated(self, name: str) -> argparse.Action | None:
        """Return the only option that begins with a name such as --overw."""
        if not _LIKE_AN_OPTION.fullmatch(name):
            return None
        options = self._option_string_actions
        found = {id(options[each]): options[each] for each in options if each.startswith(name)}
        return next(iter(found.values())) if len(found) == 1 else None

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(BAD_INPUT)


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser. It sets ``command`` to the function of the command, or to one that prints
    the help if there is no command."""
    parser = _Parser(
        prog="lightgcn",
        description="LightGCN graph collaborative filtering: from playlists or other interactions "
        "to recommendations.",
        epilog="Start with:  lightgcn demo",
    )
    parser.add_argument("--version", action="version", version=f"lightgcn {version_of('lightgcn')}")
    parser.set_defaults(command=partial(_show_help, parser))
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    shared.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where to compute (%(default)s)",
    )
    groups: dict[str, Any] = {"": parser.add_subparsers(metavar="COMMAND")}
    for name, command in commands.items():
        group, _, action = name.rpartition(" ")
        if group not in groups:
            about = _GROUPS[group]
            of_group = groups[""].add_parser(group, help=about, description=_sentence(about))
            of_group.set_defaults(command=partial(_show_help, of_group))
            groups[group] = of_group.add_subparsers(metavar="ACTION")
        subparser = groups[group].add_parser(
            action,
            help=command.summary,
            description=_sentence(command.summary),
            epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=command.run)
        command.add_arguments(subparser)
    return parser


def _show_help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    parser.print_help()
    return BAD_INPUT


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def add_preset(parser: argparse.ArgumentParser, option: str = "--preset") -> None:
    """Add the option for the preset."""
    parser.add_argument(
        option,
        metavar="PRESET",
        help=f"settings to start from: {', '.join(PRESETS)}, or a file that tune wrote (fast)",
    )


def add_settings(parser: argparse.ArgumentParser, *, fixed: bool = False) -> None:
    """Add the options that change settings; ``fixed`` for a search, which keeps given settings."""
    for name, (metavar, text) in _OPTIONS.items():
        about = f"do not search: {text}" if fixed else f"{text} ({_preset_values(name)})"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=about)
    others = ", ".join(name for name in SETTINGS if name not in _OPTIONS)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"change a setting; NAME is one of {others}; see help(lightgcn.ModelConfig), "
        "help(lightgcn.TrainConfig) and help(lightgcn.RankingConfig)",
    )


def _preset_values(name: str) -> str:
    """Return the value of a setting in each preset."""
    presets: dict[str, list[str]] = {}
    for preset, settings in PRESETS.items():
        value = settings.flat()[name]
        presets.setdefault(str("none" if value is None else value), []).append(preset)
    if len(presets) == 1:
        return next(iter(presets))
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in presets.items())


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the options of the split."""
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--ratios",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="shares of the training, validation and test edges (0.8 0.1 0.1; 0.9 0.1 for data "
        "with its own test split); 1 trains on all edges, for all epochs",
    )
    sizes.add_argument(
        "--leave-out",
        type=int,
        nargs="+",
        metavar="N",
        help="instead of ratios: numbers of validation and test edges of each user (1 1), random "
        "ones, or with --stratify last the most recent",
    )
    sizes.add_argument(
        "--split-date",
        dest="dates",
        type=_date,
        nargs="+",
        metavar="DATE",
        help="instead of ratios: first date of the validation edges and, unless the data has its "
        "own test split, of the test edges, such as 2014-01-01 2014-02-01, in UTC; or numbers in "
        "the unit of the data",
    )
    parser.add_argument(
        "--stratify",
        choices=["user", "last", "time"],
        help="split per user: 'user' at random, 'last' holds out each user's most recent items; or "
        "'time': the most recent edges of all (last and time: for data with an order); chosen by "
        "the data if it has its own test split",
    )
    parser.add_argument(
        "--negatives",
        type=float,
        metavar="N",
        help="negatives per positive in each set (1, or as many as there are)",
    )


def _date(text: str) -> str | float:
    """Return a number as such, and a date as its text, which the data's order gives a meaning."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def option_of(argument: str) -> str:
    """Return the option of an argument of `split_edges`, or of a setting."""
    return _ARGUMENTS[argument]


@contextmanager
def errors_name_options() -> Iterator[None]:
    """Replace, in an error, the name of the argument that it begins with by its option's."""
    try:
        yield
    except ValueError as error:
        name, text = re.split(r"(?![a-z_])", str(error), maxsplit=1)
        if type(error) is not ValueError or name not in _ARGUMENTS:
            raise
        raise ValueError(f"{_ARGUMENTS[name]}{text}") from error


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add the options that use names and other columns of the data."""
    parser.add_argument(
        "--side-nodes",
        metavar="COLUMN",
        help="add a node per value of an item column, connected to the items with that value; it "
        "only passes messages: artist_id for artists (MPD)",
    )
    parser.add_argument(
        "--words",
        metavar="MODEL",
        help="initialise with sentence embeddings of names; MODEL is the folder of a language "
        "model, or the name of an installed one",
    )


def changed_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given as options or by --set, converted to their types.

    Raises:
        ValueError: naming the unknown setting, or the value that cannot be read.
    """
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
        given[name.strip()] = value.strip()
    if getattr(arguments, "words", None) is not None:
        given.setdefault("init", "words")
    return {name: _setting(name, value) for name, value in given.items()}


def chosen_settings(arguments: argparse.Namespace, preset: str | None) -> Collection[str]:
    """Return the names of the settings that the user chose: all, with a preset's file."""
    return SETTINGS if str(preset).endswith(".json") else changed_settings(arguments)


def language_model_of(arguments: argparse.Namespace) -> str | None:
    """Return the given language model, a folder as an absolute path, so that the run can be resumed
    from any folder."""
    words: str | None = arguments.words
    if words == "":
        raise ValueError("--words is empty; it takes a folder, or the name of an installed model")
    return str(Path(words).resolve()) if words is not None and Path(words).is_dir() else words


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
                wanted = "an integer" if number is int else "a number"
                raise ValueError(f"{name} must be {wanted}, got {text!r}") from None
    return text
