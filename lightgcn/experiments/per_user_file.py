"""The file of a model's metrics per user."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightgcn.core.storage import write_atomic
from lightgcn.ranking.result import Evaluation, kept_by


def check_per_user_file(name: str, file: str | Path) -> None:
    """Raise a ValueError that names the argument unless `write_per_user` can write such a file."""
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"{name} must end in .csv or .parquet, got {str(file)!r}")
    if path.is_dir():
        raise ValueError(f"{name}: {path} is a folder")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"{name}: {there} is no folder that can be written to")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(f"{name}: Parquet needs pyarrow: pip install pyarrow") from error


def write_per_user(file: str | Path, evaluation: Evaluation, user_ids: Any = None) -> None:
    """Write a row per user with its id, its numbers of train and test items, and each metric.

    Args:
        file: path that ends in ``.csv`` or ``.parquet``.
        evaluation: with values per user.
        user_ids: (num_users,) ids; None for those of the graph, or indices if it has none.

    Raises:
        ValueError: for a different suffix, or if no values per user were kept.
    """
    check_per_user_file("file", file)
    columns = kept_by(evaluation).columns(user_ids)

    def write(path: Path) -> None:
        if Path(file).suffix.lower() == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table(columns), path)
            return
        with path.open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out)
            rows.writerow(columns)
            # As text, float32 has the digits that it needs.
            cells = (
                column.astype(str) if column.dtype.kind == "f" else column.tolist()
                for column in columns.values()
            )
            rows.writerows(zip(*cells, strict=True))

    write_atomic(file, write)
