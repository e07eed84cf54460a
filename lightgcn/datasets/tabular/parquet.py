"""Parquet: one file; parts are joined by the reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightgcn.core.memory import reading_limit
from lightgcn.datasets.tabular.table import Table

SUFFIXES = (".parquet", ".pq")
# Rows read at a time.
_ROWS = 1 << 14


class ParquetTable:
    """A Parquet file.

    Args:
        path: of the file.
        data: its content, if it does not lie at ``path`` as it is; else None.

    Raises:
        ValueError: if it is not a readable Parquet file.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path, self._data = path, data
        if data is None:
            with path.open("rb"):
                pass  # Without permission, raise here rather than as "truncated" below.
        with _named(path), self._open() as file:
            self.header: list[str] = file.schema_arrow.names

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        source = self.path if self._data is None else pyarrow.BufferReader(self._data)
        return parquet.ParquetFile(source)

    def read(
        self, names: Sequence[str], ids: Sequence[str] = (), *, skip_bad: bool, progress: bool
    ) -> Table:
        """Return the columns of these names; categories become their values."""
        import pyarrow

        wanted = sorted(set(names))
        batches, size, most = [], 0, reading_limit()
        with _named(self.path), self._open() as file:
            # A small Parquet file can expand to any size.
            for batch in file.iter_batches(_ROWS, columns=wanted):
                batches.append(batch)
                size += batch.nbytes
                if most is not None and size > most:
                    raise ValueError(
                        f"{self.path}: needs more than {size / 1e9:.1f} GB to read, a quarter of "
                        "the available memory; divide it, or use a machine with more"
                    )
            schema = pyarrow.schema([file.schema_arrow.field(name) for name in wanted])
            table = pyarrow.Table.from_batches(batches, schema)
            columns = {name: _plain(table[name]) for name in names}
        return Table(self.path, columns, lambda row: f"row {row}")


def _plain(column: Any) -> Any:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if str(column.type) in ("large_string", "string_view"):
        column = column.cast(pyarrow.string())
    return column


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into a ValueError with the file's name."""
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if str(error).startswith(str(path)):  # one of this file's own
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a readable Parquet file ({reason}); it may be truncated"
        ) from error
