"""The text format of the LightGCN authors: each line has a user index and then item indices; and
lines that begin with the count of their items, whose user is the number of the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import existing_file, read_bytes, with_progress
from lightgcn.datasets.streams import COMPRESSIONS
from lightgcn.graph.interactions import Interactions

LARGEST = 2**31 - 2
# An index above the first, and above the second times the count of numbers in the files, is taken
# for a raw id: each node costs memory in every table.
MANY_NODES, NODES_PER_NUMBER = 1_000_000, 1000
Numbers = npt.NDArray[np.int64]
Layout = Literal["auto", "lists", "counts"]
# Names of a folder's files, before the suffix.
_PARTS = {"train": ("train",), "test": ("test",), "val": ("valid", "val", "validation")}


def read_text(
    source: str | Path,
    *,
    test: str | Path | None = None,
    val: str | Path | None = None,
    layout: Layout = "auto",
    progress: bool = False,
) -> Dataset:
    """Read interactions in the LightGCN text format, with the file's indices as node indices.

    The order of a user's items becomes the edges' ``order``. A user may have several lines, or no
    item. A repeated pair is one edge; ``info`` counts repeats, and the test edges that are also
    train edges (they are kept). Nodes are counted over all files.

    Args:
        source: a folder with ``train.txt`` and perhaps ``test.txt`` and ``valid.txt``, or a train
            file. A name may end in .gz, .xz, .bz2 or .zst.
        test, val: a file of the test or the validation set, instead of the folder's.
        layout: "lists" for lines of a user and its items; "counts" for lines of the number of items
            and the items, of the user with the number of the line; "auto" tells them apart.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and value, for anything but integers in [0, 2**31 - 2], for an
            empty file, and for an index so high that it must be a raw id: above a million, and
            above 1000 times the count of numbers in the files; with layout "auto" also for lines
            that look like rows of user, item and weight.

    Example:
        >>> from pathlib import Path
        >>> written = Path("train.txt").write_text("0 0 1\\n1 2\\n")
        >>> read_text("train.txt").interactions
        Interactions(2 users, 3 items, 3 edges)
    """
    source = Path(source)
    files = {} if source.is_dir() else {"train": existing_file(source)}
    for part, given in (("train", None), ("test", test), ("val", val)):
        found = Path(given) if given is not None else _in_folder(source, part)
        if found is not None and part not in files:
            files[part] = found
    if "train" not in files:
        looked_for = ", ".join(_names("train"))
        raise FileNotFoundError(
            f"{source}: the folder holds no train file; looked for {looked_for}"
        )
    read = with_progress(files.items(), progress, total=len(files), unit="file")
    parsed = {part: _parse(file, read_bytes(file)) for part, file in read}
    if layout == "auto":
        layout = _layout(files["train"], parsed["train"])
    if layout == "counts":
        parsed = {part: _by_line(files[part], lines) for part, lines in parsed.items()}
    _check_indices(files, parsed)
    num_users = max(lines.most for lines in parsed.values()) + 1
    num_items = max(int(lines.items.max()) for lines in parsed.values()) + 1
    graphs, places = {}, 0  # the order of held-out edges continues that of train
    for part, lines in parsed.items():
        order = torch.arange(places, places + len(lines.items), dtype=torch.int64, device="cpu")
        pair = torch.from_numpy(lines.users), torch.from_numpy(lines.items)
        graphs[part] = Interactions(*pair, num_users, num_items, order=order)
        places += len(lines.items)
    train = graphs["train"]
    info: dict[str, Any] = {
        "format": "text",
        "source": str(source),
        "entries": len(parsed["train"].items),
        "edges": train.num_edges,
    }
    info["duplicate_entries"] = info["entries"] - train.num_edges
    for part in ("test", "val"):
        if part in graphs:
            graph, entries = graphs[part], len(parsed[part].items)
            info[f"{part}_source"] = str(files[part])
            info[f"{part}_entries"], info[f"{part}_edges"] = entries, graph.num_edges
            info[f"{part}_duplicate_entries"] = entries - graph.num_edges
            also = train.contains(graph.users, graph.items)
            info[f"{part}_edges_also_in_train"] = int(also.sum())
    if layout == "counts":
        info["layout"] = "read as lines of a count of items and the items (counts)"
    return Dataset(train, {}, {}, graphs.get("test"), info, graphs.get("val"))


def _names(part: str) -> list[str]:
    stems = _PARTS[part]
    return [f"{stem}.txt{suffix}" for stem in stems for suffix in ("", *COMPRESSIONS)]


def text_file_names() -> list[str]:
    """Return the names of files of this format."""
    return [name for part in _PARTS for name in _names(part)]


def _in_folder(folder: Path, part: str) -> Path | None:
    return next((folder / name for name in _names(part) if (folder / name).is_file()), None)


def has_train_file(folder: Path) -> bool:
    """Return whether a folder holds a train file of this format."""
    return _in_folder(folder, "train") is not None


class _Lines(NamedTuple):
    """The numbers of a file: the user and the item of each pair, (E,) int64; the first number and
    the count of further ones of each line, (n,) int64; and the largest first number."""

    users: Numbers
    items: Numbers
    firsts: Numbers
    counts: Numbers
    most: int


def _layout(path: Path, lines: _Lines) -> Layout:
    """Return the layout of a train file.

    Raises:
        ValueError: if it looks like rows of user, item and weight: all lines have as many numbers,
            three or four, and users come back on other lines.
    """
    repeated = len(np.unique(lines.firsts)) < len(lines.firsts)
    counts = np.unique(lines.counts)
    if repeated and len(counts) > 1 and bool((lines.firsts == lines.counts).all()):
        return "counts"
    if repeated and len(counts) == 1 and int(counts[0]) in (2, 3):
        fields = ("user", "item", "weight", "time")[: int(counts[0]) + 1]
        raise ValueError(
            f"{path}: every line has {len(fields)} numbers, and users come back on other lines: "
            'this looks like one edge a line ("user item weight"), and not like a user and its '
            f"items. Read it as a table (--columns {','.join(fields)}, and --weight weight if the "
            "weights count), or with --format lists if lines are lists after all"
        )
    return "lists"


def _by_line(path: Path, lines: _Lines) -> _Lines:
    """Return the lines of the layout "counts" with their numbers as users."""
    wrong = np.flatnonzero(lines.firsts != lines.counts)
    if len(wrong):
        line = int(wrong[0])
        raise ValueError(
            f"{path}, line {line + 1}: begins with {lines.firsts[line]}, and {lines.counts[line]} "
            "numbers follow; in this layout the first number is the count of the others"
        )
    users = np.repeat(np.arange(len(lines.counts), dtype=np.int64), lines.counts)
    return lines._replace(users=users, most=len(lines.counts) - 1)


def _parse(path: Path, data: bytes) -> _Lines:
    text = np.frombuffer(data.removeprefix(b"\xef\xbb\xbf"), dtype=np.uint8)
    digit = (text >= ord("0")) & (text <= ord("9"))
    newline = (text == ord("\n")) | (text == ord("\r"))  # empty lines do not count
    space = newline | (text == ord(" ")) | (text == ord("\t"))
    if not bool((digit | space).all()):
        _explain(path, data)
    edges = np.diff(digit.astype(np.int8), prepend=0, append=0)
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if len(starts) == 0:
        raise ValueError(
            f"{path}: the file is empty; each line must hold a user index and then item indices"
        )
    width = int((stops - starts).max())
    if width > len(str(LARGEST)):
        _explain(path, data)
    values = np.zeros(len(starts), np.int64)
    for place in range(width):
        inside = starts + place < stops
        digits = text[np.minimum(starts + place, stops - 1)].astype(np.int64) - ord("0")
        values = np.where(inside, values * 10 + digits, values)
    if int(values.max()) > LARGEST:
        _explain(path, data)
    lines = np.searchsorted(np.flatnonzero(newline), starts)
    first = np.diff(lines, prepend=-1) != 0
    users = values[first][np.cumsum(first) - 1]
    if bool(first.all()):
        raise ValueError(
            f"{path}: no line holds an item; each must hold a user index and then item indices"
        )
    firsts, at = values[first], np.flatnonzero(first)
    counts = np.diff(at, append=len(values)) - 1
    return _Lines(users[~first], values[~first], firsts, counts, int(users.max()))


def _check_indices(files: dict[str, Path], parsed: dict[str, _Lines]) -> None:
    """Raise a ValueError if the highest index is too high for the count of numbers."""
    highest = {part: max(lines.most, int(lines.items.max())) for part, lines in parsed.items()}
    numbers = sum(len(np.unique(lines.users)) + len(lines.items) for lines in parsed.values())
    part = max(highest, key=highest.__getitem__)
    path, most = files[part], highest[part]
    if most > max(MANY_NODES, NODES_PER_NUMBER * numbers):
        raise ValueError(
            f"{path}: the highest index is {most}, with {numbers} numbers in all; indices count "
            "nodes from zero without gaps. Are these raw ids? Give them as a table (.csv with a "
            "header user,item)"
        )


def _explain(path: Path, data: bytes) -> NoReturn:
    """Raise a ValueError that names the first wrong value and its line."""
    lines = re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))
    for number, line in enumerate(lines, start=1):
        for token in re.split(rb"[ \t]+", line):
            if re.fullmatch(rb"[0-9]{0,10}", token) and int(token or b"0") <= LARGEST:
                continue
            raise ValueError(
                f"{path}, line {number}: {_fault(token)}; "
                f"each value must be an integer from 0 to {LARGEST}, with whitespace between"
            )
    raise AssertionError("a file was refused that has nothing wrong")


def _fault(token: bytes) -> str:
    try:
        shown = repr(token.decode("utf-8")[:40])
    except UnicodeDecodeError:
        return f"{token[:40]!r} is not text (the file may be compressed or binary)"
    if re.fullmatch(rb"-[0-9]+", token):
        return f"{shown} is negative (indices count from zero)"
    if re.fullmatch(rb"[0-9]+", token):
        return f"{shown} is too large (raw ids need a table with user and item columns)"
    if re.fullmatch(rb"[+-]?[0-9]*\.[0-9]*([eE][+-]?[0-9]+)?", token):
        hint = "a table of ratings is read with --columns user,item,rating"
        return f"{shown} is not an integer ({hint})"
    return f"{shown} is not a number (this format has no header and no other separator)"
