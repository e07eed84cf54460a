"""The text format of the LightGCN authors: each line has a user index and then item indices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import COMPRESSIONS, read_bytes, with_progress
from lightgcn.graph.interactions import Interactions

LARGEST = 2**31 - 2
# An index above the first, and above the second times the count of numbers in the files, is taken
# for a raw id: each node costs memory in every table.
MANY_NODES, NODES_PER_NUMBER = 1_000_000, 1000
Numbers = npt.NDArray[np.int64]


def read_text(
    source: str | Path, *, test: str | Path | None = None, progress: bool = False
) -> Dataset:
    """Read interactions in the LightGCN text format, with the file's indices as node indices.

    The order of a user's items becomes the edges' ``order``. A user may have several lines, or no
    item. A repeated pair is one edge; ``info`` counts repeats, and the test edges that are also
    train edges (they are kept). Nodes are counted over both files.

    Args:
        source: a folder with ``train.txt`` and perhaps ``test.txt``, or a train file. A name may
            end in .xz or .gz.
        test: a test file, instead of the folder's.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and value, for anything but integers in [0, 2**31 - 2], for an
            empty file, and for an index so high that it must be a raw id: above a million, and
            above 1000 times the count of numbers in the files.

    Example:
        >>> from pathlib import Path
        >>> written = Path("train.txt").write_text("0 0 1\\n1 2\\n")
        >>> read_text("train.txt").interactions
        Interactions(2 users, 3 items, 3 edges)
    """
    source = Path(source)
    train_file = _in_folder(source, "train") if source.is_dir() else source
    if train_file is None:
        looked_for = ", ".join(_names("train"))
        raise FileNotFoundError(
            f"{source}: the folder holds no train file; looked for {looked_for}"
        )
    test_file = (
        Path(test) if test is not None else _in_folder(source, "test") if source.is_dir() else None
    )
    files = [train_file] if test_file is None else [train_file, test_file]
    parsed = [
        _parse(file, read_bytes(file))
        for file in with_progress(files, progress, total=len(files), unit="file")
    ]
    _check_indices(files, parsed)
    num_users = max(most for _, _, most in parsed) + 1
    num_items = max(int(items.max()) for _, items, _ in parsed) + 1
    graphs, places = [], 0  # the order of test edges continues that of train
    for users, items, _ in parsed:
        order = torch.arange(places, places + len(items), dtype=torch.int64, device="cpu")
        pair = torch.from_numpy(users), torch.from_numpy(items)
        graphs.append(Interactions(*pair, num_users, num_items, order=order))
        places += len(items)
    train, held_out = graphs[0], graphs[1] if test_file is not None else None
    info = {
        "format": "text",
        "source": str(source),
        "entries": len(parsed[0][0]),
        "edges": train.num_edges,
    }
    info["duplicate_entries"] = len(parsed[0][0]) - train.num_edges
    if held_out is not None:
        info["test_source"] = str(test_file)
        info["test_entries"], info["test_edges"] = len(parsed[1][0]), held_out.num_edges
        info["test_duplicate_entries"] = len(parsed[1][0]) - held_out.num_edges
        info["test_edges_also_in_train"] = int(train.contains(held_out.users, held_out.items).sum())
    return Dataset(train, {}, {}, held_out, info)


def _names(part: str) -> list[str]:
    return [f"{part}.txt{suffix}" for suffix in ("", *COMPRESSIONS)]


def text_file_names() -> list[str]:
    """Return the names of files of this format."""
    return [*_names("train"), *_names("test")]


def _in_folder(folder: Path, part: str) -> Path | None:
    return next((folder / name for name in _names(part) if (folder / name).is_file()), None)


def has_train_file(folder: Path) -> bool:
    """Return whether a folder holds a train file of this format."""
    return _in_folder(folder, "train") is not None


def _parse(path: Path, data: bytes) -> tuple[Numbers, Numbers, int]:
    """Return each pair's user and item, (E,) int64, and the largest user index of any line."""
    text = np.frombuffer(data.removeprefix(b"\xef\xbb\xbf"), dtype=np.uint8)
    digit = (text >= ord("0")) & (text <= ord("9"))
    newline = text == ord("\n")
    space = newline | (text == ord(" ")) | (text == ord("\t")) | (text == ord("\r"))
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
    return users[~first], values[~first], int(users.max())


def _check_indices(files: list[Path], parsed: list[tuple[Numbers, Numbers, int]]) -> None:
    """Raise a ValueError if the highest index is too high for the count of numbers."""
    highest = [max(most, int(items.max())) for _, items, most in parsed]
    numbers = sum(len(np.unique(users)) + len(items) for users, items, _ in parsed)
    path, most = files[int(np.argmax(highest))], max(highest)
    if most > max(MANY_NODES, NODES_PER_NUMBER * numbers):
        raise ValueError(
            f"{path}: the highest index is {most}, with {numbers} numbers in all; indices count "
            "nodes from zero without gaps. Are these raw ids? Give them as a table (.csv with a "
            "header user,item)"
        )


def _explain(path: Path, data: bytes) -> NoReturn:
    """Raise a ValueError that names the first wrong value and its line."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        for token in re.split(rb"[ \t\r]+", line):
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
        return f"{shown} is not an integer (this format has no weights or ratings)"
    return f"{shown} is not a number (this format has no header and no other separator)"
