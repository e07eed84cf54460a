"""Tables of interactions, one row each: CSV, TSV (also compressed) and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightgcn.core.memory import reading_limit
from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.files import bare_suffix, existing_file, read_bytes, with_progress
from lightgcn.graph.interactions import Interactions

SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Rows of Parquet read at a time.
_ROWS = 1 << 14
Column = npt.NDArray[Any]
Where = Callable[[int], str]  # row position -> its place in the file, for messages


def read_table(
    source: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    weight: str | None = None,
    user_name: str | None = None,
    item_name: str | None = None,
    separator: str | None = None,
    progress: bool = False,
) -> Dataset:
    """Read a table with a header and one interaction a row.

    Users and items are the sorted distinct ids: strings in CSV and TSV, integers or strings in
    Parquet. Repeated rows become one edge with the sum of their weights; a node gets the name of
    its first row. ``info`` counts repeated rows and differing later names.

    Args:
        source: a .csv or .tsv file (perhaps .gz or .xz), or a .parquet file.
        user: name of the column of user ids.
        item: name of the column of item ids.
        weight: name of a column of finite positive numbers.
        user_name: name of a column with a name for each row's user.
        item_name: name of a column with a name for each row's item.
        separator: one character; None to choose it by the suffix.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and row, for a missing column or id, one column for two of users,
            items and weights, a wrong weight, a row with too few or too many fields, a table
            without rows, or Parquet without pyarrow installed.

    Example:
        >>> from pathlib import Path
        >>> written = Path("plays.csv").write_text("who,what,n\\nann,a,2\\nann,a,1\\nbob,b,5\\n")
        >>> dataset = read_table("plays.csv", user="who", item="what", weight="n")
        >>> dataset.interactions.weights
        tensor([3., 5.])
    """
    path = existing_file(source)
    if user == item or weight in (user, item):
        twice = user if user == item else weight
        raise ValueError(
            f"{path}: column {twice!r} is given twice; users, items and weights must be different "
            "columns"
        )
    wanted = [name for name in (user, item, weight, user_name, item_name) if name is not None]
    if bare_suffix(path) == ".parquet":
        if separator is not None:
            raise ValueError(
                f"{path}: a Parquet file has no separator, got separator={separator!r}"
            )
        columns, where = _read_parquet(path, wanted)
    else:
        columns, where = _read_csv(path, wanted, _separator(path, separator), progress)
    count = len(columns[user])
    if count == 0:
        raise ValueError(f"{path}: the table has a header and no rows")
    frame = {
        "user": _checked_ids(path, user, columns[user], where),
        "item": _checked_ids(path, item, columns[item], where),
    }
    if weight is not None:
        frame["weight"] = _checked_weights(path, weight, columns[weight], where)
    try:
        graph = Interactions.from_frame(frame, weight=None if weight is None else "weight")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    info = {"format": "table", "source": str(source), "entries": count, "edges": graph.num_edges}
    info["duplicate_entries"] = count - graph.num_edges
    texts: dict[str, dict[str, list[str]]] = {"user": {}, "item": {}}
    for kind, name, ids in (
        ("user", user_name, graph.user_ids),
        ("item", item_name, graph.item_ids),
    ):
        if name is not None and ids is not None:
            texts[kind]["name"], passed_over = _names(frame[kind], columns[name], ids)
            info[f"{kind}_names_passed_over"] = passed_over
    return Dataset(graph, texts["user"], texts["item"], None, info)


def _separator(path: Path, given: str | None) -> str:
    if given is not None:
        if len(given) != 1 or given in '"\r\n':
            raise ValueError(
                f"{path}: separator must be one character and no quote or line end, got {given!r}"
            )
        return given
    suffix = bare_suffix(path)
    if suffix not in SEPARATORS:
        raise ValueError(
            f"{path}: no table by its suffix {suffix!r}; .csv, .tsv (also .gz, .xz) and .parquet "
            "are accepted, or give a separator"
        )
    return SEPARATORS[suffix]


def _read_csv(
    path: Path, wanted: list[str], separator: str, progress: bool
) -> tuple[dict[str, Column], Where]:
    import csv
    import io

    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text ({error}); convert it, or it may be compressed or binary"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path}: the file is empty; a header and at least one row are needed")
        places = _places(path, header, wanted)
        for row in with_progress(reader, progress, total=None, unit="row"):
            if len(row) != len(header):
                if not row:  # a blank line
                    continue
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}; is {separator!r} the separator, and is a field that holds it "
                    "in quotes?"
                )
            rows.append([row[place] for place in places])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: not readable as a table ({error})"
        ) from error
    columns = zip(*rows, strict=True) if rows else ([] for _ in wanted)
    arrays = {
        name: np.array(values, dtype=object) for name, values in zip(wanted, columns, strict=True)
    }
    return arrays, lambda row: f"line {lines[row]}"


def _read_parquet(path: Path, wanted: list[str]) -> tuple[dict[str, Column], Where]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f'{path}: reading Parquet needs pyarrow: pip install "lightgcn[parquet]"'
        ) from error
    with path.open("rb"):
        pass  # Without permission, raise here rather than as "truncated" below.
    try:
        with parquet.ParquetFile(path) as file:
            _places(path, file.schema_arrow.names, wanted)
            # pyarrow returns a column twice if it is named twice.
            names = sorted(set(wanted))
            batches, size, most = [], 0, reading_limit()
            # A small Parquet file can expand to any size.
            for batch in file.iter_batches(_ROWS, columns=names):
                batches.append(batch)
                size += batch.nbytes
                if most is not None and size > most:
                    raise ValueError(
                        f"{path}: needs more than {size / 1e9:.1f} GB to read, a quarter of the "
                        "available memory; divide it, or use a machine with more"
                    )
            schema = pyarrow.schema([file.schema_arrow.field(name) for name in names])
            table = pyarrow.Table.from_batches(batches, schema)
        arrays = {name: _of_arrow(table[name]) for name in wanted}
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a readable Parquet file ({reason}); it may be truncated"
        ) from error
    return arrays, lambda row: f"row {row}"


def _of_arrow(column: Any) -> Column:
    # NumPy has no missing integer: such a column stays an array of objects until it is refused by
    # row.
    return np.array(column.to_pylist(), dtype=object) if column.null_count else np.asarray(column)


def _places(path: Path, header: list[str], wanted: list[str]) -> list[int]:
    for name in wanted:
        if header.count(name) != 1:
            fault = "no column" if name not in header else "more than one column"
            raise ValueError(
                f"{path}: {fault} {name!r}; the columns are {', '.join(map(repr, header))}"
            )
    return [header.index(name) for name in wanted]


def _checked_ids(path: Path, name: str, values: Column, where: Where) -> Column:
    if values.dtype.kind in "iu":
        if values.dtype.kind == "u" and int(values.max()) >= 2**63:
            row = int(values.argmax())
            raise ValueError(
                f"{path}, {where(row)}: column {name!r} is {values[row]}, beyond 64-bit signed "
                "integers"
            )
        return values
    for row, value in enumerate(values.tolist()):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(
                f"{path}, {where(row)}: column {name!r} is {value!r}; every row needs an id there"
            )
        if not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(
                f"{path}, {where(row)}: column {name!r} is {value!r}; ids are integers or strings"
            )
    return values


def _checked_weights(
    path: Path, name: str, values: Column, where: Where
) -> npt.NDArray[np.float32]:
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
    else:
        listed = values.tolist()
        try:
            numbers = np.array(list(map(float, listed)))
        except (TypeError, ValueError):
            row = next(row for row, value in enumerate(listed) if not _is_number(value))
            raise ValueError(
                f"{path}, {where(row)}: column {name!r} is {listed[row]!r}; a weight must be a "
                "finite positive number"
            ) from None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weights = numbers.astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}, {where(row)}: column {name!r} is {values[row]}; a weight must be finite and "
            "positive, and within the range of float32"
        )
    return weights


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _names(keys: Column, names: Column, ids: Column) -> tuple[list[str], int]:
    """Return the first row's name for each id ("" if missing), and the number of other names."""
    texts = ["" if name is None else str(name) for name in names.tolist()]
    pairs = list(zip(keys.tolist(), texts, strict=True))
    first = dict(reversed(pairs))
    return [first[key] for key in ids.tolist()], len(set(pairs)) - len(first)
