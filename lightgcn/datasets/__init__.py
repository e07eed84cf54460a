"""Readers of interaction data, each returning a `Dataset`; `open_dataset` picks one by the path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightgcn.core.memory import reading_memory, warn_of_shortage
from lightgcn.datasets.dataset import FILE_NAME, Dataset
from lightgcn.datasets.detect import detect_format
from lightgcn.datasets.lightgcn_format import read_text, text_file_names
from lightgcn.datasets.mpd.reader import read_mpd
from lightgcn.datasets.mpd.slices import chosen_slices, slice_files
from lightgcn.datasets.synthetic.generate import synthetic_interactions, write_synthetic_mpd
from lightgcn.datasets.tabular import read_table
from lightgcn.datasets.tabular.sources import table_files

__all__ = [
    "Dataset",
    "open_dataset",
    "read_mpd",
    "read_table",
    "read_text",
    "synthetic_interactions",
    "write_synthetic_mpd",
]


def open_dataset(
    source: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    progress: bool = False,
    **options: Any,
) -> Dataset:
    """Read a dataset of any supported format.

    Args:
        source: a prepared folder, a folder or archive of MPD slices, one or several slices, a
            LightGCN text folder or file, or a table, also in parts.
        format: "prepared", "mpd", "table", or "text" (also "lists" or "counts", its two layouts);
            "auto" detects it from names and content.
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
        "lists": partial(read_text, layout="lists"),
        "counts": partial(read_text, layout="counts"),
        "table": read_table,
    }
    if format == "auto":
        format = detect_format(source)
        others = set(options) - set(_options_of(read_text))
        of_table = others - {"skip_bad", "drop_missing", "encoding"}  # by these alone, no table
        if format == "text" and of_table and others <= set(_options_of(read_table)):
            format = "table"
    elif format not in readers:
        raise ValueError(f"format must be auto, {', '.join(readers)}, got {format!r}")
    reader = readers[format]
    if format not in ("mpd", "table") and not isinstance(source, str | Path):
        raise ValueError(f"several files must be MPD slices or tables, not format {format!r}")
    _warn_of_memory(source, format, options)
    known = _options_of(reader)
    unknown = sorted(set(options) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise ValueError(
            f"format {format!r} has no option {', '.join(map(repr, unknown))}; its options are: "
            f"{allowed}"
        )
    return reader(source, progress=progress, **options)


def _options_of(reader: Callable[..., Dataset]) -> list[str]:
    names = inspect.signature(reader).parameters
    return [name for name in names if name not in ("source", "progress", "layout")]


def _warn_of_memory(
    source: str | Path | Sequence[str | Path], format: str, options: dict[str, Any]
) -> None:
    """Warn if reading takes more memory than is available; compressed files count as they are."""
    try:
        if format == "mpd":
            files = chosen_slices(slice_files(source), options.get("slices"))
        elif format == "table":
            files = [file for part in table_files(source).values() for file in part]
        else:
            path = Path(source)  # type: ignore[arg-type]
            names = [FILE_NAME] if format == "prepared" else text_file_names()
            files = [path]
            if path.is_dir():
                files = [path / name for name in names if (path / name).is_file()]
        size = sum(file.stat().st_size for file in files)
    except (OSError, ValueError, TypeError):  # the reader raises a better error
        return
    advice = (
        "read fewer slices (--slices)"
        if format == "mpd"
        else "divide the data, or use a machine with more"
    )
    shown = source if isinstance(source, str | Path) else next(iter(source))
    kind = "text" if format in ("lists", "counts") else format
    warn_of_shortage(f"{shown}: reading", reading_memory(size, kind), advice)


def _load(source: str | Path, *, progress: bool) -> Dataset:
    path = Path(source)
    return Dataset.load(path.parent if path.name == FILE_NAME else path)
