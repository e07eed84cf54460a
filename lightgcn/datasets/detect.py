"""The format of a source, by its names and its content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import orjson

from lightgcn.datasets.dataset import FILE_NAME
from lightgcn.datasets.files import bare_suffix, existing_file
from lightgcn.datasets.lightgcn_format import has_train_file
from lightgcn.datasets.mpd.slices import has_slices
from lightgcn.datasets.streams import (
    DAMAGED,
    archive_and_member,
    compression_of,
    decompressed,
    open_stream,
)
from lightgcn.datasets.tabular.json_lines import is_json_lines
from lightgcn.datasets.tabular.sources import SUFFIXES as TABLE_SUFFIXES
from lightgcn.datasets.tabular.sources import has_train_file as has_train_table

ACCEPTED = (
    f"a prepared folder ({FILE_NAME}), a folder, archive or slice of the MPD, text in the LightGCN "
    "format (train.txt), or a table: text with separators, JSON Lines or Parquet, also in parts"
)
_HEAD = 1 << 16


def detect_format(source: str | Path | Sequence[str | Path]) -> str:
    """Return "prepared", "mpd", "text" or "table".

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: if the format cannot be told.
    """
    if not isinstance(source, str | Path):
        kinds = {_of_file(Path(path)) for path in source}
        if len(kinds) != 1 or kinds & {"text", "prepared"}:
            raise ValueError(
                "several files must be MPD slices or the parts of one table, got "
                f"{', '.join(map(str, source))[:200]}"
            )
        return kinds.pop()
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() == ".zip" and path.is_file() and has_slices(path):
        return "mpd"
    return _of_file(path)


def _of_file(given: Path) -> str:
    path = existing_file(given)
    if path.name == FILE_NAME:
        return "prepared"
    suffix = bare_suffix(path)
    if suffix in TABLE_SUFFIXES or (not path.is_file() and archive_and_member(path) is None):
        return "table"  # by its suffix, or a pipe, which is read once
    head = _head(path)
    if suffix == ".json" and head.lstrip().startswith(b"["):
        raise ValueError(
            f"{path}: a JSON list; rows are needed as JSON Lines, one object on each line, as "
            f"written by: jq -c '.[]' {path.name}"
        )
    if suffix == ".json":
        return "table" if is_json_lines(head) and not _is_slice(head) else "mpd"
    if head[:4] == b"PAR1" or is_json_lines(head):
        return "table"
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    if suffix == ".txt" and (not lines or re.fullmatch(rb"[\d\s]+", lines[0]) or len(lines) < 2):
        return "text"
    if not lines:
        raise ValueError(f"{path}: the file is empty; accepted are {ACCEPTED}")
    if b"\0" in head[:1024]:
        raise ValueError(f"{path}: is neither text nor a known format; accepted are {ACCEPTED}")
    if all(re.fullmatch(rb"[\d \t]+", line) for line in lines):
        # Lines of one length are rows; a list of items varies.
        return "table" if len({len(line.split()) for line in lines}) == 1 else "text"
    return "table"


def _head(path: Path) -> bytes:
    try:
        with open_stream(path) as stream:
            head = stream.read(_HEAD)
        if (packed := compression_of(head)) is not None:  # without the suffix, as on stdin
            with decompressed(open_stream(path), packed) as stream:
                head = stream.read(_HEAD)
        return head.removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path}: not readable ({error})") from error


def _is_slice(head: bytes) -> bool:
    """Return whether the first line is a whole slice of the MPD."""
    return "playlists" in orjson.loads(head.lstrip().partition(b"\n")[0])


def _of_folder(folder: Path) -> str:
    if (folder / FILE_NAME).is_file():
        return "prepared"
    text, slices = has_train_file(folder), has_slices(folder)
    if text and slices:
        raise ValueError(
            f'{folder}: holds both a train file and MPD slices; give format="text" or format="mpd"'
        )
    if text:
        return _of_file(next(iter(sorted(folder.glob("train.txt*")))))
    if slices:
        return "mpd"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if has_train_table(folder) or any(bare_suffix(path) in TABLE_SUFFIXES for path in files):
        return "table"
    if any(folder.glob("*.json")):
        return "mpd"
    found = sorted(path.name for path in folder.iterdir())
    shown = (
        ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        or "nothing"
    )
    raise ValueError(
        f"{folder}: cannot tell the format of a folder that holds {shown}; accepted are {ACCEPTED}"
    )
