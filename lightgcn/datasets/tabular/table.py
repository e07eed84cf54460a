"""What every kind of table file gives: a header, and some of its columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# Rows left out whose problems are kept.
LISTED = 1000


@dataclass
class Table:
    """Some columns of a table.

    Attributes:
        path: the file, for messages.
        columns: pyarrow arrays by name, all of one length.
        place: returns where a row is in the file, such as "line 7".
        num_skipped: number of malformed rows that were left out.
        skipped: their problems, at most `LISTED`.
    """

    path: Path
    columns: dict[str, Any]
    place: Callable[[int], str]
    num_skipped: int = 0
    skipped: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def skip(self, problem: str) -> None:
        """Count a row that is left out."""
        self.num_skipped += 1
        if len(self.skipped) < LISTED:
            self.skipped.append(problem)


class TableFile(Protocol):
    """A file, or the parts of one table, whose columns are read by name.

    ``header`` has the names of the columns, in the order of the file."""

    path: Path
    header: list[str]

    def read(
        self, names: Sequence[str], ids: Sequence[str] = (), *, skip_bad: bool, progress: bool
    ) -> Table:
        """Return the columns of these names; those of ``ids`` may be dictionaries."""


def joined(tables: Sequence[Table]) -> Table:
    """Return the rows of several tables of the same columns, one after the other.

    Raises:
        ValueError: if a column has another type in a later table.
    """
    import pyarrow

    if len(tables) == 1:
        return tables[0]
    columns = {}
    for name in tables[0].columns:
        columns_of = [(table.columns[name], table.path) for table in tables]
        if any(pyarrow.types.is_dictionary(column.type) for column, _ in columns_of):
            columns_of = [(encoded(column), path) for column, path in columns_of]
        kinds = {str(column.type): path for column, path in columns_of}
        whole = [pyarrow.table({name: column}) for column, _ in columns_of]
        try:
            joint = pyarrow.concat_tables(whole, promote_options="permissive")
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            shown = ", ".join(f"{kind} in {path}" for kind, path in kinds.items())
            raise ValueError(f"column {name!r} has different types in the parts: {shown}") from None
        columns[name] = joint[name]
    ends, end = [], 0
    for table in tables:
        end += table.num_rows
        ends.append(end)

    def place(row: int) -> str:
        part = next(part for part, end in enumerate(ends) if row < end)
        start = ends[part] - tables[part].num_rows
        return f"{tables[part].path.name}, {tables[part].place(row - start)}"

    problems = [problem for table in tables for problem in table.skipped][:LISTED]
    count = sum(table.num_skipped for table in tables)
    return Table(tables[0].path.parent, columns, place, count, problems)


def encoded(column: Any) -> Any:
    """Return strings as a dictionary; any other column as it is."""
    import pyarrow

    return column.dictionary_encode() if pyarrow.types.is_string(column.type) else column


def chunks(column: Any) -> list[Any]:
    """Return the arrays of a column; one, if it is not in chunks."""
    return list(column.chunks) if hasattr(column, "chunks") else [column]


def is_number_text(value: Any) -> bool:
    """Return whether a value of a text table is a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
