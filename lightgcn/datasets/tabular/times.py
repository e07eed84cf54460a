"""A column of a table as times: numbers, or dates in nanoseconds since 1970."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from lightgcn.datasets.tabular.columns import Mask, Rows, by_value, numbers
from lightgcn.datasets.tabular.table import is_number_text


def checked_times(name: str, rows: Rows) -> npt.NDArray[Any]:
    """Return a column of times: numbers as they are, dates as int64 nanoseconds since 1970; other
    rows are rejected."""
    column = rows.table.columns[name]
    numeric = are_numbers(column)
    times, missing = _number_times(column) if numeric else _dates(column)

    wanted = "a number, as in the first row" if numeric else "a number or a date of 1678 to 2261"

    def describe(row: int) -> str:
        hint = "" if numeric else ", such as 2014-03-01 or 2014-03-01T12:00:00"
        return f"column {name!r} is {rows.value(name, row)!r}; a time must be {wanted}{hint}"

    rows.reject(missing, describe)
    return times


def are_numbers(column: Any) -> bool:
    """Return whether a column of times holds numbers, by the first of a column of strings."""
    from pyarrow import types

    if not types.is_string(column.type):
        kinds = (types.is_integer, types.is_floating, types.is_decimal)
        return any(kind(column.type) for kind in kinds)
    first = next((text for text in column.slice(0, 100).to_pylist() if text), "")
    return is_number_text(first)


def _number_times(column: Any) -> tuple[npt.NDArray[Any], Mask]:
    import pyarrow
    from pyarrow import compute, types

    if types.is_string(column.type):
        column = compute.utf8_trim_whitespace(column)
    if not column.null_count:
        try:
            times = column.cast(pyarrow.int64()).to_numpy()
            return times, np.zeros(len(times), np.bool_)
        except pyarrow.ArrowInvalid:
            pass
    found = numbers(column)
    missing = ~np.isfinite(found)
    found = np.where(missing, 0.0, found)
    whole = bool((found == np.floor(found)).all()) and bool((np.abs(found) < 2**53).all())
    return found.astype(np.int64) if whole else found, missing


def _dates(column: Any) -> tuple[npt.NDArray[np.int64], Mask]:
    import pyarrow
    from pyarrow import compute, types

    if types.is_string(column.type):
        column = compute.utf8_trim_whitespace(column)
    for zone in (None, "UTC"):
        kind = pyarrow.timestamp("ns", zone)
        try:
            cast = column.cast(kind).cast(pyarrow.int64())
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            continue
        missing = cast.is_null().to_numpy()
        return compute.fill_null(cast, 0).to_numpy(), missing
    found = by_value(column, _microseconds)
    missing = np.isnan(found)
    return np.where(missing, 0.0, found).astype(np.int64) * 1000, missing


def _microseconds(value: Any) -> float:
    """Return a date's microseconds since 1970, which float64 holds exactly."""
    text = value.isoformat() if hasattr(value, "isoformat") else value
    when = datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.timezone.utc)
    if not 1678 <= when.year <= 2261:
        raise ValueError("beyond the years that nanoseconds hold")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (when - epoch) / datetime.timedelta(microseconds=1)
