"""Columns of a table as ids, numbers and names, and the rows that have none there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightgcn.datasets.tabular.table import LISTED, Table, chunks, encoded, is_number_text

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
# Texts that programs write for a missing value.
_NOTHING = ("nan", "none", "null", "\\n", "<na>", "nat")
# Suffixes of the names of columns in RecBole's files.
_TYPED = re.compile(r"(.+):(token|token_seq|float|float_seq)")


class Rows:
    """The rows of a table, some of which are left out: malformed ones if ``skip_bad`` is set, and
    those that a threshold drops."""

    def __init__(self, table: Table, skip_bad: bool) -> None:
        self.table, self.skip_bad = table, skip_bad
        self.kept: Mask = np.ones(table.num_rows, np.bool_)
        self.dropped: Counter[str] = Counter()

    def reject(self, bad: Mask, describe: Callable[[int], str]) -> None:
        """Leave malformed rows out, or raise a ValueError that names the first one."""
        found = (bad & self.kept).nonzero()[0].tolist()
        room = LISTED - len(self.table.skipped) if self.skip_bad else 1
        for row in found[:room]:
            problem = f"{self.table.path}, {self.table.place(row)}: {describe(row)}"
            if not self.skip_bad:
                raise ValueError(problem)
            self.table.skip(problem)
        self.table.num_skipped += len(found[room:])
        self.kept &= ~bad

    def drop(self, reason: str, rows: Mask) -> None:
        """Leave sound rows out, counted under a reason."""
        self.dropped[reason] += int((rows & self.kept).sum())
        self.kept &= ~rows

    def value(self, name: str, row: int) -> Any:
        """Return one value of a column."""
        return self.table.columns[name][row].as_py()


def find_column(table: Any, name: str) -> str:
    """Return the column of a name; "user_id" is also that of "user_id:token" (RecBole).

    Raises:
        ValueError: if there is none, or more than one.
    """
    header: list[str] = table.header
    found = [column for column in header if column == name]
    if not found:
        found = [c for c in header if (typed := _TYPED.fullmatch(c)) and typed[1] == name]
    if len(found) != 1:
        fault = "more than one column" if found else "no column"
        raise ValueError(
            f"{table.path}: {fault} {name!r}; the columns are {', '.join(map(repr, header))}"
        )
    return found[0]


def usual_column(table: Any, *names: str) -> str | None:
    """Return the only column with one of some names, whatever its case and punctuation."""
    header: list[str] = table.header
    for name in names:
        found = [column for column in header if _plain(column) == name]
        if len(found) == 1:
            return found[0]
    return None


def _plain(column: str) -> str:
    typed = _TYPED.fullmatch(column)
    return re.sub(r"[^a-z0-9]", "", (typed[1] if typed else column).lower())


@dataclass
class Ids:
    """The ids in a column of several tables.

    Attributes:
        name: of the column.
        codes: (n,) int64 for each table: the row's place in ``values``, -1 for a missing id.
        values: distinct ids, a pyarrow array of strings or int64.
    """

    name: str
    codes: list[npt.NDArray[np.int64]]
    values: Any

    @classmethod
    def of(cls, name: str, parts: Sequence[Rows]) -> Ids:
        """Factorise a column.

        Raises:
            ValueError: for values that are neither integers nor strings, or both.
        """
        import pyarrow
        from pyarrow import compute, types

        parts_of = [chunk for rows in parts for chunk in chunks(encoded(_id_column(name, rows)))]
        kinds = {str(chunk.type): chunk.type for chunk in parts_of}
        if len(kinds) > 1:
            raise ValueError(
                f"column {name!r} has integers in one file and strings in another: "
                f"{', '.join(f'{rows.table.path} {_id_column(name, rows).type}' for rows in parts)}"
            )
        whole = pyarrow.chunked_array(parts_of, type=next(iter(kinds.values()), pyarrow.string()))
        if not types.is_dictionary(whole.type):
            whole = whole.dictionary_encode()
        unified = whole.unify_dictionaries().combine_chunks()
        if hasattr(unified, "chunks"):
            unified = pyarrow.concat_arrays(unified.chunks)
        codes = compute.fill_null(unified.indices, -1).to_numpy(zero_copy_only=False)
        ends = np.cumsum([rows.table.num_rows for rows in parts])[:-1]
        split = [part.astype(np.int64) for part in np.split(codes, ends)]
        return cls(name, split, unified.dictionary)

    def check(self, parts: Sequence[Rows], drop_missing: bool) -> dict[str, int]:
        """Reject rows without an id; drop those whose id is a word for nothing, if asked to.

        Returns:
            How many rows have which of these words, if they stay.
        """
        import pyarrow
        from pyarrow import compute, types

        if not types.is_string(self.values.type):
            for rows, codes in zip(parts, self.codes, strict=True):
                if drop_missing:
                    rows.drop("rows_without_id", codes < 0)
                else:
                    self._reject(rows, codes < 0)
            return {}
        bare = compute.utf8_trim_whitespace(self.values)
        blank = _flags(compute.equal(bare, ""))
        word = _flags(compute.is_in(compute.utf8_lower(bare), pyarrow.array(_NOTHING)))
        words: Counter[str] = Counter()
        for rows, codes in zip(parts, self.codes, strict=True):
            empty = (codes < 0) | blank[codes]
            if drop_missing:
                rows.drop("rows_without_id", empty | word[codes])
            else:
                self._reject(rows, empty)
                for code, count in zip(
                    *np.unique(codes[word[codes] & rows.kept], return_counts=True), strict=True
                ):
                    words[self.values[int(code)].as_py()] += int(count)
        return dict(words)

    def _reject(self, rows: Rows, empty: Mask) -> None:
        rows.reject(
            empty,
            lambda row: (
                f"column {self.name!r} is {rows.value(self.name, row)!r}; every row needs an id "
                "there"
            ),
        )

    def used(self, parts: Sequence[Rows]) -> tuple[list[npt.NDArray[np.int64]], Any, int]:
        """Return the codes of the rows that are kept, among the sorted ids that these have.

        Ids that pandas wrote as floats ("1.0") become integers again if all ids are numbers.

        Returns:
            The codes of each table; the ids as an array of int64 or of strings; and how many ids
            were written as floats.
        """
        from pyarrow import compute, types

        kept = [codes[rows.kept] for rows, codes in zip(parts, self.codes, strict=True)]
        together = np.concatenate(kept) if kept else np.empty(0, np.int64)
        present = np.flatnonzero(np.bincount(together, minlength=len(self.values)))
        values, floats = self.values.take(present), 0
        number = np.full(len(self.values), -1, np.int64)
        if types.is_string(values.type):
            values, floats = _without_decimals(values)
            order = compute.rank(values, tiebreaker="dense").to_numpy(zero_copy_only=False)
            number[present] = order.astype(np.int64) - 1
            distinct = compute.unique(values)
            distinct = distinct.take(compute.sort_indices(distinct))
            ids: Any = np.array(distinct.to_pylist(), dtype=object)
        else:
            ids, number[present] = np.unique(
                values.to_numpy(zero_copy_only=False), return_inverse=True
            )
        return [number[codes] for codes in kept], ids, floats


def reject_headers(users: Ids, items: Ids, parts: Sequence[Rows]) -> None:
    """Reject rows whose user and item are the names of their columns, whatever the case."""
    from pyarrow import compute, types

    flags = []
    for ids in (users, items):
        if not types.is_string(ids.values.type):
            return
        flags.append(_flags(compute.equal(compute.utf8_lower(ids.values), ids.name.lower())))
    for rows, user, item in zip(parts, users.codes, items.codes, strict=True):
        rows.reject(
            flags[0][user] & flags[1][item],
            lambda row, rows=rows: (  # type: ignore[misc]
                f"{rows.value(users.name, row)!r} and {rows.value(items.name, row)!r} are the "
                "names of the columns: a header as a row"
            ),
        )


def _flags(found: Any) -> Mask:
    """Return flags of values, and one False more at the end, for the code -1."""
    return np.append(found.to_numpy(zero_copy_only=False).astype(np.bool_), False)


def _id_column(name: str, rows: Rows) -> Any:
    """Return a column of int64, of strings, or of a dictionary of strings."""
    import pyarrow
    from pyarrow import compute, types

    column = rows.table.columns[name]
    if types.is_null(column.type):
        return column.cast(pyarrow.string())
    if types.is_dictionary(column.type) or types.is_string(column.type):
        return column
    if not types.is_integer(column.type):
        value, hint = rows.value(name, 0), "ids are integers or strings"
        raise ValueError(
            f"{rows.table.path}, {rows.table.place(0)}: column {name!r} is {value!r}; {hint}"
        )
    try:
        return column.cast(pyarrow.int64())
    except pyarrow.ArrowInvalid:
        beyond = pyarrow.scalar(2**63 - 1, pyarrow.uint64())
        large = compute.fill_null(compute.greater(column, beyond), False)
        row = int(large.to_numpy().argmax())
        raise ValueError(
            f"{rows.table.path}, {rows.table.place(row)}: column {name!r} is "
            f"{rows.value(name, row)}, beyond 64-bit signed integers"
        ) from None


def _without_decimals(values: Any) -> tuple[Any, int]:
    """Return ids without ".0", and how many had it; as they are if not all ids are numbers."""
    from pyarrow import compute

    whole = compute.match_substring_regex(values, r"^-?[0-9]+(\.0+)?$")
    decimal = compute.match_substring(values, ".")
    count = compute.sum(decimal).as_py() or 0
    if not count or not compute.all(whole).as_py():
        return values, 0
    return compute.replace_substring_regex(values, r"\.0+$", ""), count


def numbers(column: Any) -> Numbers:
    """Return a column as float64, NaN where there is no number."""
    import pyarrow
    from pyarrow import compute, types

    if types.is_string(column.type):
        column = compute.utf8_trim_whitespace(column)
    try:
        found = column.cast(pyarrow.float64(), safe=False).to_numpy()
        return np.asarray(found, np.float64)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return by_value(column, float)


def by_value(column: Any, parse: Callable[[Any], float]) -> Numbers:
    """Parse each distinct value; NaN for one that cannot be parsed."""
    coded = column.dictionary_encode().unify_dictionaries()
    parsed = []
    dictionary = coded.chunk(0).dictionary if coded.num_chunks else []
    for value in dictionary:
        try:
            parsed.append(parse(value.as_py()))
        except (TypeError, ValueError, OverflowError):
            parsed.append(np.nan)
    table = np.array([*parsed, np.nan])
    last = len(parsed)
    codes = [c.indices.fill_null(last).to_numpy(zero_copy_only=False) for c in coded.chunks]
    return table[np.concatenate(codes)] if codes else table[:0]


def checked_weights(name: str, rows: Rows) -> npt.NDArray[np.float32]:
    """Return a column of positive numbers; other rows are rejected."""
    found = numbers(rows.table.columns[name])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weights = found.astype(np.float32)

    def describe(row: int) -> str:
        value = rows.value(name, row)
        shown = value if is_number_text(value) else repr(value)
        return (
            f"column {name!r} is {shown}; a weight must be a finite positive number, within the "
            "range of float32"
        )

    rows.reject(~(np.isfinite(weights) & (weights > 0)), describe)
    return weights


def drop_low_ratings(name: str, least: float, rows: Rows) -> None:
    """Drop the rows whose rating is below the least one; a rating that is no number is rejected."""
    ratings = numbers(rows.table.columns[name])
    rows.reject(
        ~np.isfinite(ratings),
        lambda row: f"column {name!r} is {rows.value(name, row)!r}; a rating must be a number",
    )
    rows.drop("rows_below_min_rating", ratings < least)


def _texts(column: Any) -> Any:
    """Return a column as strings; lists and other nested values as JSON."""
    import orjson
    import pyarrow

    try:
        return column.cast(pyarrow.string())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        values = column.to_pylist()
        texts = [None if v is None else orjson.dumps(v, default=str).decode() for v in values]
        return pyarrow.array(texts, pyarrow.string())


def first_names(
    codes: Sequence[npt.NDArray[np.int64]], columns: Sequence[Any], count: int
) -> tuple[list[str], int]:
    """Return the first name of each of ``count`` ids, and how many other names they have.

    Args:
        codes: the ids of the rows of each table.
        columns: the names of the same rows.
        count: number of ids.
    """
    import pyarrow
    from pyarrow import compute

    names = pyarrow.chunked_array(
        [part for column in columns for part in chunks(_texts(column))],
        type=pyarrow.string(),
    )
    names = compute.fill_null(names, "").combine_chunks()
    rows = np.concatenate(codes)
    first = np.zeros(count, np.int64)
    first[rows[::-1]] = np.arange(len(rows), dtype=np.int64)[::-1]
    texts = names.dictionary_encode()
    pairs = np.unique(rows * len(texts.dictionary) + texts.indices.to_numpy())
    there = np.bincount(rows, minlength=count) > 0
    found = np.array(names.take(first).to_pylist() if len(names) else [""] * count, dtype=object)
    found[~there] = ""
    return found.tolist(), len(pairs) - int(there.sum())
