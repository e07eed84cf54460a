"""Tables written a chunk at a time: Parquet, CSV (also compressed) and JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
import orjson

from lightgcn.core.storage import write_atomic

Chunk = Mapping[str, npt.NDArray[Any]]
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl")


def check_table_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of a table to write.

    Raises:
        ValueError: if its suffix is none of `SUFFIXES`, or there is such a file already that is not
            to be replaced.
        IsADirectoryError: if it is a folder.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES) or path.name in SUFFIXES:
        raise ValueError(f"{path}: the file's name must end in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, where a file is to be written")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; overwrite it, or give a different file")
    return path


def write_table(path: str | Path, chunks: Iterable[Chunk], *, overwrite: bool = False) -> int:
    """Write chunks of rows to a file of the format of its suffix; return the number of rows.

    One chunk is in memory at a time. The rows are written to a temporary file, which becomes
    ``path`` at the end: if anything fails, nothing is left behind.

    Args:
        path: the file; .parquet, .csv, .csv.gz or .jsonl.
        chunks: one or more, each with the same columns: integers, floats, or strings (object).
        overwrite: whether to replace a file.

    Raises:
        ValueError: as `check_table_path`, or if pyarrow is not installed.

    Example:
        >>> import numpy as np
        >>> write_table("t.jsonl", [{"user": np.array([7, 8]), "score": np.array([0.5, 0.25])}])
        2
        >>> print(Path("t.jsonl").read_text(), end="")
        {"user":7,"score":0.5}
        {"user":8,"score":0.25}
    """
    path = check_table_path(path, overwrite=overwrite)
    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        opened = _open_lines if path.suffix == ".jsonl" else _open_arrow
        remaining = iter(chunks)
        first = next(remaining)
        with opened(temporary, first) as write_chunk:
            for chunk in chain([first], remaining):
                write_chunk(chunk)
                rows += len(next(iter(chunk.values())))

    write_atomic(path, write)
    return rows


@contextmanager
def _open_lines(path: Path, first: Chunk) -> Iterator[Any]:
    with path.open("wb") as file:

        def write(chunk: Chunk) -> None:
            rows = zip(*(column.tolist() for column in chunk.values()), strict=True)
            file.write(
                b"".join(
                    orjson.dumps(
                        dict(zip(chunk, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE
                    )
                    for row in rows
                )
            )

        yield write


@contextmanager
def _open_arrow(path: Path, first: Chunk) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.csv as csv
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"{path.name}: writing it needs pyarrow: pip install pyarrow") from error
    schema = pa.schema(
        (name, pa.string() if column.dtype == object else pa.from_numpy_dtype(column.dtype))
        for name, column in first.items()
    )
    if path.suffix == ".parquet":
        opened = pq.ParquetWriter(path, schema)
    elif path.suffix == ".gz":
        opened = csv.CSVWriter(pa.CompressedOutputStream(str(path), "gzip"), schema)
    else:
        opened = csv.CSVWriter(str(path), schema)
    with opened as writer:
        yield lambda chunk: writer.write_table(pa.table(dict(chunk), schema=schema))
