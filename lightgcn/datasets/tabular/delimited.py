"""Text tables: a line for each row, and a separator between fields.

pyarrow reads the ordinary file; Python's `csv` reads a file with anything unusual in it (a row of
another length, a quoted field of several lines), and names the line of what is wrong."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightgcn.datasets.files import bare_suffix, with_progress
from lightgcn.datasets.tabular.table import Table, is_number_text

SUFFIXES = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
# Of several characters, or of any number: replaced by one that text does not hold.
_UNIT = "\x1f"
_BLANKS = "blanks"
_WORDS = {"\\t": "\t", "tab": "\t", " ": _BLANKS, "blank": _BLANKS, "space": _BLANKS}
_CANDIDATES = ("::", "\t", ",", ";", "|", _BLANKS)
# Fields with these separators may be in quotes that hold line breaks; with others a quote that
# does not close in its line is a character like any other.
_WITH_QUOTES = (",", ";")
# Rows that are compared with the first line to recognise a header.
_LOOKED_AT = 20
_ROWS = 1 << 17
_BLOCK = 1 << 24
_LIMIT = 1 << 30  # longest line that pyarrow is given, in bytes


class DelimitedText:
    """A text table.

    Args:
        path: of the file, for messages and its suffix.
        data: its content as UTF-8.
        separator: one character, "::", or "blanks" for any run of blanks and tabs; None for that of
            the suffix, if the first line holds it, or the one that the first lines agree on.
        names: names of the columns of a file without a header; "" or "_" for one of no interest.

    Raises:
        ValueError: if the file is empty, or the first line does not fit ``names`` or looks like a
            row though it should be a header, or the other way round.
    """

    def __init__(
        self, path: Path, data: bytes, separator: str | None, names: Sequence[str] | None
    ) -> None:
        self.path = path
        first = re.search(rb"[^\r\n]", data)
        lines = [] if first is None else [n for n in _head(data, first.start()) if n.strip()]
        if first is None or not lines:
            raise ValueError(f"{path}: the file is empty; a header and at least one row are needed")
        self.separator = _separator(path, separator, lines)
        self._one = _UNIT if self.separator in ("::", _BLANKS) else self.separator
        self._data = _with_one_character(path, data, self.separator)
        end = re.compile(rb"\r\n|\n|\r|\Z").search(self._data, first.start())
        assert end is not None
        fields = self._fields(self._data[first.start() : end.start()].decode())
        rest = [self._fields(line) for line in _head(self._data, end.end())]
        self.header = fields if names is None else list(names)
        if names is None:
            _check_header(path, fields)
            self._start = end.end()
        else:
            _check_names(path, list(names), fields, rest)
            self._start = first.start()
        self._lines: array[int] | None = None  # of each row, once one is asked for
        self._first_line = len(re.findall(rb"\r\n|\n|\r", self._data[: self._start])) + 1

    def _fields(self, line: str) -> list[str]:
        """Return the fields of one line."""
        try:
            return next(csv.reader([line], delimiter=self._one, strict=True), [])
        except csv.Error:
            return line.split(self._one)

    def read(
        self, names: Sequence[str], ids: Sequence[str] = (), *, skip_bad: bool, progress: bool
    ) -> Table:
        """Return the columns of these names as strings, or as dictionaries of strings (``ids``)."""
        places = [self.header.index(name) for name in names]
        body = memoryview(self._data)[self._start :]
        quotes = self._data.find(b'"', self._start) >= 0
        closed = not quotes or _quotes_are_closed(body, self._one)
        literal = not closed and self.separator not in _WITH_QUOTES
        if closed or literal:
            encoded = [self.header.index(name) for name in ids if not literal]
            columns = self._by_arrow(body, places, encoded, quotes and closed)
            if columns is not None:
                if literal:
                    columns = [_unquoted(column) for column in columns]
                found = dict(zip(names, columns, strict=True))
                return Table(self.path, found, lambda row: self._place_of(row, literal))
        return self._by_csv(names, places, literal, skip_bad, progress)

    def _by_arrow(
        self, body: memoryview, places: list[int], encoded: list[int], quotes: bool
    ) -> list[Any] | None:
        """Return the columns, or None if a row has another number of fields than the header."""
        import pyarrow
        from pyarrow import csv as arrow_csv

        numbered = [str(place) for place in range(len(self.header))]
        wanted = [numbered[place] for place in places]
        dictionary = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        types = dict.fromkeys(wanted, pyarrow.string())
        types |= {numbered[place]: dictionary for place in encoded}
        try:
            table = arrow_csv.read_csv(
                pyarrow.BufferReader(pyarrow.py_buffer(body)),
                read_options=arrow_csv.ReadOptions(column_names=numbered, block_size=_BLOCK),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self._one, quote_char='"' if quotes else False
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=sorted(set(wanted)),
                    column_types=types,
                    check_utf8=False,
                ),
            )
        except pyarrow.ArrowInvalid:
            return None
        return [table[name] for name in wanted]

    @cached_property
    def _escape(self) -> str | None:
        """A backslash, if quotes close only with \\" for a quote in a field."""
        if self._data.find(b'\\"', self._start) < 0:
            return None
        try:
            for _ in self._rows(False, None):
                pass
        except ValueError:
            return "\\"
        return None

    def _rows(self, literal: bool, escape: str | None) -> Iterator[tuple[int, list[str]]]:
        """Yield the line and the fields of each row.

        Raises:
            ValueError: for a quote that does not close, or closes only after lines that look like
                rows.
        """
        text = self._data[self._start :].decode()
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self._one,
            quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
            strict=True,
            escapechar=escape,
        )
        while True:
            before = reader.line_num
            line = self._first_line + before
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{self.path}, line {line}: {_fault(error)}") from error
            if reader.line_num - before > 1 and self._holds_rows(row):
                raise ValueError(
                    f"{self.path}, line {line}: a quote opens here and closes in line "
                    f"{self._first_line + reader.line_num - 1}, and the lines between look "
                    "like rows; double a quote that is part of a field, and put that field "
                    "in quotes"
                )
            if row:
                yield line, row

    def _holds_rows(self, row: list[str]) -> bool:
        """Return whether a line within a field has as many separators as a row."""
        inside = (line for field in row for line in field.split("\n")[1:])
        return any(line.count(self._one) == len(self.header) - 1 for line in inside)

    def _by_csv(
        self, names: Sequence[str], places: list[int], literal: bool, skip_bad: bool, progress: bool
    ) -> Table:
        import pyarrow

        lines: array[int] = array("q")
        parts: list[list[Any]] = [[] for _ in places]
        pending: list[list[str]] = []
        table = Table(self.path, {}, lambda row: f"line {lines[row]}")

        def flush() -> None:
            for part, values in zip(parts, zip(*pending, strict=True), strict=True):
                part.append(pyarrow.array(values, pyarrow.string()))
            pending.clear()

        rows = self._rows(literal, None if literal else self._escape)
        for line, row in with_progress(rows, progress, total=None, unit="row"):
            if len(row) != len(self.header):
                problem = (
                    f"{self.path}, line {line}: {len(row)} fields, but the header has "
                    f"{len(self.header)}"
                )
                if not skip_bad:
                    shown = " " if self.separator == _BLANKS else self.separator
                    raise ValueError(
                        f"{problem}; is {shown!r} the separator, and is a field that holds it in "
                        "quotes?"
                    )
                table.skip(problem)
                continue
            pending.append([row[place] for place in places])
            lines.append(line)
            if len(pending) == _ROWS:
                flush()
        if pending:
            flush()
        for name, part in zip(names, parts, strict=True):
            column = pyarrow.chunked_array(part, type=pyarrow.string())
            table.columns[name] = _unquoted(column) if literal else column
        return table

    def _place_of(self, row: int, literal: bool) -> str:
        if self._lines is None:
            rows = self._rows(literal, None if literal else self._escape)
            self._lines = array("q", (line for line, _ in rows))
        return f"line {self._lines[row]}"


def _head(data: bytes, start: int) -> list[str]:
    """Return the first whole lines from a place on."""
    part = data[start : start + (1 << 20)]
    lines = part.splitlines()
    if len(part) == 1 << 20 and len(lines) > 1:
        lines = lines[:-1]
    return [line.decode(errors="replace") for line in lines[:_LOOKED_AT]]


def _separator(path: Path, given: str | None, lines: list[str]) -> str:
    if given is not None:
        separator = _WORDS.get(given, given)
        known = separator in _CANDIDATES
        if not known and (len(separator) != 1 or separator in '"\r\n' or ord(separator) > 127):
            raise ValueError(
                f"{path}: separator must be one character that is no quote or line end, '::', "
                f"'\\t', or 'blanks' for any run of blanks, got {given!r}"
            )
        return separator
    usual = SUFFIXES.get(bare_suffix(path))
    if usual is not None and usual in lines[0]:
        return usual
    found = [one for one in _CANDIDATES if len(_counts(one, lines)) == 1]
    found += [one for one in _CANDIDATES if _counts(one, lines)]
    if found:
        return found[0]
    if usual is not None:
        return usual
    raise ValueError(
        f"{path}: no separator found in its first line {lines[0]!r:.80}; give one, such as ','"
    )


def _counts(separator: str, lines: list[str]) -> set[int]:
    """Return how often a separator is in the lines; none if one of them lacks it."""
    if separator == _BLANKS:
        counts = {len(line.split()) - 1 for line in lines}
    else:
        counts = {line.count(separator) for line in lines}
    return set() if 0 in counts else counts


def _with_one_character(path: Path, data: bytes, separator: str) -> bytes:
    if separator not in ("::", _BLANKS):
        return data
    if _UNIT.encode() in data:
        raise ValueError(f"{path}: holds the control character 0x1F; is it a text file?")
    unit = _UNIT.encode()
    if separator == "::":
        return data.replace(b"::", unit)
    data = re.sub(rb"[ \t]+", unit, data)
    for end in (b"\n", b"\r"):  # blanks around a line separate nothing
        data = data.replace(end + unit, end).replace(unit + end, end)
    return data.strip(unit)


def _check_header(path: Path, fields: list[str]) -> None:
    if all(is_number_text(name) for name in fields):
        usual = ["user", "item", "rating", "time"][: len(fields)]
        usual += ["_"] * (len(fields) - len(usual))
        raise ValueError(
            f"{path}: the first line ({', '.join(fields[:6])}) is numbers, so it looks like a row "
            f"and not like a header; name the columns, such as --columns {','.join(usual)}"
        )


def _check_names(path: Path, names: list[str], fields: list[str], rest: list[list[str]]) -> None:
    if len(names) != len(fields):
        raise ValueError(
            f"{path}: {len(names)} columns are named ({', '.join(names)}), but the first line has "
            f"{len(fields)} fields: {', '.join(map(repr, fields[:6]))}"
        )
    rows = [row for row in rest if len(row) == len(fields)]
    columns = zip(*rows, strict=True)
    numeric = [at for at, column in enumerate(columns) if all(map(is_number_text, column))]
    if numeric and not any(is_number_text(fields[at]) for at in numeric):
        raise ValueError(
            f"{path}: the first line ({', '.join(fields[:6])}) looks like a header, but columns "
            "were named as for a file without one; leave them out, or remove that line"
        )


def _quotes_are_closed(body: memoryview, separator: str) -> bool:
    """Return whether every quote is at the start or the end of a field, doubled quotes aside, and
    no quoted field goes over several lines."""
    text = np.frombuffer(body, np.uint8)
    at = np.flatnonzero(text == ord('"'))
    if len(at) % 2:
        return False
    opening, closing = at[::2], at[1::2]
    doubled = closing[:-1] + 1 == opening[1:]
    ends = np.array([ord(separator), ord("\n"), ord("\r")], np.uint8)
    starts_field = (opening == 0) | np.isin(text[np.maximum(opening - 1, 0)], ends)
    ends_field = closing == len(text) - 1
    ends_field |= np.isin(text[np.minimum(closing + 1, len(text) - 1)], ends)
    if not (starts_field[0] and ends_field[-1]):
        return False
    if not (doubled | (starts_field[1:] & ends_field[:-1])).all():
        return False
    breaks = np.flatnonzero((text == ord("\n")) | (text == ord("\r")))
    return bool((np.searchsorted(breaks, opening) == np.searchsorted(breaks, closing)).all())


def _unquoted(column: Any) -> Any:
    """Take the quotes off fields that are in quotes."""
    from pyarrow import compute

    quoted = compute.match_substring_regex(column, '(?s)^".*"$')
    if not compute.any(quoted).as_py():
        return column
    bare = compute.replace_substring(compute.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return compute.if_else(quoted, bare, column)


def _fault(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return (
            "a quote opens here and does not close; double a quote that is part of a field, and "
            "put that field in quotes"
        )
    return f"not readable as a table ({error})"
