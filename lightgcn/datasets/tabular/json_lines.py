"""JSON Lines: an object for each row."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from lightgcn.datasets.files import with_progress
from lightgcn.datasets.tabular.table import Table

SUFFIXES = (".jsonl", ".ndjson")
_ROWS = 1 << 17
_LOOKED_AT = 100


def is_json_lines(data: bytes) -> bool:
    """Return whether the first line is a whole JSON object."""
    line = data[: 1 << 20].lstrip().partition(b"\n")[0]
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


class JsonLines:
    """A file with one JSON object on each line; its header is the keys of the first hundred.

    Raises:
        ValueError: if the file is empty, or one of these lines is no object.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self._lines = path, data.split(b"\n")
        keys: dict[str, None] = {}
        filled = (at for at, line in enumerate(self._lines) if line.strip())
        for at, _ in zip(filled, range(_LOOKED_AT), strict=False):
            record = self._record(at)
            if isinstance(record, str):
                raise ValueError(f"{path}, line {at + 1}: {record}")
            keys |= dict.fromkeys(record)
        if not keys:
            raise ValueError(f"{path}: the file is empty; a JSON object on each line is needed")
        self.header = list(keys)

    def _record(self, at: int) -> Any:
        """Return the object of a line, or what is wrong with it."""
        try:
            record = orjson.loads(self._lines[at])
        except orjson.JSONDecodeError as error:
            return f"not valid JSON ({error.msg})"
        return record if isinstance(record, dict) else "not a JSON object"

    def read(
        self, names: Sequence[str], ids: Sequence[str] = (), *, skip_bad: bool, progress: bool
    ) -> Table:
        """Return the columns of these names: integers if all values are, else numbers, else
        strings; a missing key is a null. Lists and objects become JSON, but not as ``ids``."""
        lines: array[int] = array("q")
        values: list[list[Any]] = [[] for _ in names]
        table = Table(self.path, {}, lambda row: f"line {lines[row]}")
        count = len(self._lines)
        places = with_progress(range(count), progress, total=count, unit="row")
        for at in places:
            if not self._lines[at].strip():
                continue
            record = self._record(at)
            found = record if isinstance(record, str) else _scalars(record, names, ids)
            if isinstance(found, str):
                problem = f"{self.path}, line {at + 1}: {found}"
                if not skip_bad:
                    raise ValueError(problem)
                table.skip(problem)
                continue
            for column, value in zip(values, found, strict=True):
                column.append(value)
            lines.append(at + 1)
        table.columns = {name: _array(column) for name, column in zip(names, values, strict=True)}
        return table


def _scalars(record: dict[str, Any], names: Sequence[str], ids: Sequence[str]) -> list[Any] | str:
    """Return the values of some keys, or which of the ids is none."""
    for name in ids:
        value = record.get(name)
        if isinstance(value, list | dict | bool):
            return f"{name!r} is {str(value)[:60]}; a number or a string is needed"
        if isinstance(value, float) and abs(value) >= 2**53:  # JSON has no other large integers
            return f"{name!r} is {value}, beyond 64-bit integers; as an id it must be a string"
    found = [record.get(name) for name in names]
    return [
        orjson.dumps(value).decode() if isinstance(value, list | dict | bool) else value
        for value in found
    ]


def _array(values: list[Any]) -> Any:
    import pyarrow

    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int}:
        try:
            return pyarrow.array(values, pyarrow.int64())
        except (OverflowError, pyarrow.ArrowInvalid):
            kinds = {int, str}
    if kinds <= {int, float}:
        return pyarrow.array(values, pyarrow.float64())
    texts = [None if value is None else str(value) for value in values]
    return pyarrow.array(texts, pyarrow.string())
