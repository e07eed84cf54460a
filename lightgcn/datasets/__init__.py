"""Readers of interaction data, each returning a `Dataset`; `open_dataset` picks one by the path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightgcn.core.memory import reading_memory, warn_of_shortage
from lightgcn.datasets.dataset import FILE_NAME, Dataset
from lightgcn.datasets.files import bare_suffix
from lightgcn.datasets.lightgcn_format import has_train_file, read_text, text_file_names
from lightgcn.datasets.mpd.reader import read_mpd
from lightgcn.datasets.mpd.slices import chosen_slices, slice_files
from lightgcn.datasets.synthetic.generate import synthetic_interactions, write_synthetic_mpd
from lightgcn.datasets.tabular import read_table

__all__ = [
    "Dataset",
    "open_dataset",
    "read_mpd",
    "read_table",
    "read_text",
    "synthetic_interactions",
    "write_synthetic_mpd",
]

ACCEPTED = (
    f"a prepared folder ({FILE_NAME}), a folder of MPD slices or a .json slice, a folder with "
    "train.txt or a .txt file "
    "(LightGCN format; also .xz, .gz), or a .csv, .tsv or .parquet table"
)
SUFFIXES = {".json": "mpd", ".txt": "text", ".csv": "table", ".tsv": "table", ".parquet": "table"}


def open_dataset(
    source: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Dataset:
    """Read a dataset of any supported format.

    Args:
        source: a prepared folder, a folder of MPD slices, one or several slices, a LightGCN text
            folder or file, or a table.
        format: "prepared", "mpd", "text" or "table"; "auto" detects it from the file names.
        progress: show a bar on stderr, if that is a terminal.
        options: options of the format's reader: `read_mpd`, `read_text` or `read_table`.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: if the format is unknown or cannot be detected, the reader has no such option,
            or the data is bad.

    Example:
        >>> from pathlib import Path
        >>> written = Path("plays.csv").write_text("user,item\\nann,song 1\\nbob,song 1\\n")
        >>> open_dataset("plays.csv").interactions
        Interactions(2 users, 1 items, 2 edges)
    """
    readers: dict[str, Callable[..., Dataset]] = {
        "prepared": _load,
        "mpd": read_mpd,
        "text": read_text,
        "table": read_table,
    }
    if format == "auto":
        format = _detect(source)
    elif format not in readers:
        raise ValueError(f"format must be auto, {', '.join(readers)}, got {format!r}")
    reader = readers[format]
    if format != "mpd" and not isinstance(source, str | Path):
        raise ValueError(f"only MPD slices may be several files, not format {format!r}")
    _warn_of_memory(source, format, options)
    known = [
        name for name in inspect.signature(reader).parameters if name not in ("source", "progress")
    ]
    unknown = sorted(set(options) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise ValueError(
            f"format {format!r} has no option {', '.join(map(repr, unknown))}; its options are: "
            f"{allowed}"
        )
    return reader(source, progress=progress, **options)


def _warn_of_memory(
    source: str | Path | Sequence[str | Path], format: str, options: dict[str, Any]
) -> None:
    """Warn if reading takes more memory than is available; compressed files count as they are."""
    try:
        if format == "mpd":
            files = chosen_slices(slice_files(source), options.get("slices"))
        else:
            path = Path(source)  # type: ignore[arg-type]
            names = {"prepared": [FILE_NAME], "text": text_file_names()}.get(format, [])
            files = (
                [path / name for name in names if (path / name).is_file()]
                if path.is_dir()
                else [path]
            )
        size = sum(file.stat().st_size for file in files)
    except (OSError, ValueError, TypeError):  # the reader raises a better error
        return
    advice = (
        "read fewer slices (--slices)"
        if format == "mpd"
        else "divide the data, or use a machine with more"
    )
    shown = source if isinstance(source, str | Path) else next(iter(source))
    warn_of_shortage(f"{shown}: reading", reading_memory(size, format), advice)


def _load(source: str | Path, *, progress: bool) -> Dataset:
    path = Path(source)
    return Dataset.load(path.parent if path.name == FILE_NAME else path)


def _detect(source: str | Path | Sequence[str | Path]) -> str:
    if not isinstance(source, str | Path):
        return _detect_several(source)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; check the spelling and the current folder"
        )
    if path.is_dir():
        return _detect_folder(path)
    if path.name == FILE_NAME:
        return "prepared"
    if bare_suffix(path) in SUFFIXES:
        return SUFFIXES[bare_suffix(path)]
    raise ValueError(
        f"{path}: cannot tell the format of a file named {path.name!r}; accepted are {ACCEPTED}"
    )


def _detect_several(sources: Sequence[str | Path]) -> str:
    for path in sources:
        if SUFFIXES.get(bare_suffix(path)) == "table":
            raise ValueError(f"{path}: several tables are not supported; join them into one file")
        if bare_suffix(path) != ".json":
            raise ValueError(f"{path}: several files must be MPD slices, whose names end in .json")
    return "mpd"


def _detect_folder(folder: Path) -> str:
    if (folder / FILE_NAME).is_file():
        return "prepared"
    text, slices = has_train_file(folder), any(folder.glob("mpd.slice.*.json"))
    if text and slices:
        raise ValueError(
            f'{folder}: holds both a train file and MPD slices; give format="text" or format="mpd"'
        )
    if text:
        return "text"
    if slices or any(folder.glob("*.json")):
        return "mpd"
    found = sorted(path.name for path in folder.iterdir())
    shown = (
        ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        or "nothing"
    )
    raise ValueError(
        f"{folder}: cannot tell the format of a folder that holds {shown}; accepted are {ACCEPTED}"
    )
