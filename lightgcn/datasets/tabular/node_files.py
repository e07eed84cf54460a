"""Files with a row for each user or item: their names and other columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightgcn.datasets.tabular.columns import Ids, Rows, find_column, first_names, usual_column
from lightgcn.datasets.tabular.sources import FileFormat, open_table
from lightgcn.graph.ids import Ids as NodeIds


@dataclass(frozen=True)
class NodeFile:
    """A file of users or items.

    Attributes:
        path: of the file.
        id: column of the ids; None for that of the interactions' column, if it has one, or one
            named "item" or "item_id" (users: "user", "user_id").
        name: column of the names; None for "name" or "title", if there is one.
        columns: names of the columns of a file without a header.
    """

    path: str | Path
    id: str | None = None
    name: str | None = None
    columns: tuple[str, ...] | None = None


def node_columns(
    file: NodeFile, kind: str, usual: str, ids: NodeIds, form: FileFormat, *, skip_bad: bool
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return all columns of a file for the nodes that have ids, "" for a node that it lacks.

    Args:
        file: the file.
        kind: "user" or "item".
        usual: the interactions' column of these ids.
        ids: the nodes' ids, matched as text.
        form: of the interactions; a file with another suffix finds its own separator.
        skip_bad: leave malformed rows out.

    Returns:
        The columns, the names as "name"; and counts for the dataset's ``info``.
    """
    import pyarrow

    opened = open_table(file.path, FileFormat(None, form.encoding, file.columns))
    key = file.id
    if key is None:
        key = usual if usual in opened.header else usual_column(opened, f"{kind}id", kind, "id")
    if key is None:
        raise ValueError(
            f"{file.path}: no column of {kind} ids was found; the columns are "
            f"{', '.join(map(repr, opened.header))}: name it (--{kind}-id)"
        )
    key = find_column(opened, key)
    name = usual_column(opened, "name", "title", f"{kind}name", f"{kind}title")
    name = find_column(opened, file.name) if file.name is not None else name
    others = [column for column in opened.header if column not in (key, name, "", "_")]
    wanted = [key, *([] if name is None else [name]), *others]
    for column in wanted:
        find_column(opened, column)  # there once
    table = opened.read(wanted, [key], skip_bad=skip_bad, progress=False)
    rows = Rows(table, skip_bad)
    found = Ids.of(key, [rows])
    found.check([rows], drop_missing=False)
    (codes,), own, _ = found.used([rows])
    place = {str(value): at for at, value in enumerate(ids.tolist())}
    to_node = np.array([place.get(str(value), -1) for value in own.tolist()], np.int64)
    nodes = to_node[codes]
    kept = nodes >= 0
    mask = pyarrow.array(kept)
    columns = {}
    for column in wanted[1:]:
        values: Any = table.columns[column].filter(pyarrow.array(rows.kept)).filter(mask)
        texts, _ = first_names([nodes[kept]], [values], len(ids))
        # A column "name" beside the one that was chosen keeps its values under another name.
        other = "name_column" if column == "name" else column
        columns["name" if column == name else other] = texts
    there = int(np.unique(nodes[kept]).size)
    if not there:
        shown = ", ".join(map(repr, own[:3].tolist()))
        warnings.warn(
            f"{file.path}: no row has an id of the interactions' {kind}s: column {key!r} has "
            f"{shown}, and the interactions have {', '.join(map(repr, ids[:3].tolist()))}",
            stacklevel=2,
        )
    counts = {
        f"{kind}s_not_in_their_file": len(ids) - there,
        f"{kind}_rows_of_no_interaction": int((~kept).sum()),
        f"{kind}_rows_repeated": int(kept.sum()) - there,
        f"skipped_{kind}_rows": table.num_skipped,
    }
    return columns, {name: count for name, count in counts.items() if count}


def check_unread(kind: str, given: Sequence[tuple[str, Any]]) -> None:
    """Raise a ValueError if an option of a node file is given without the file."""
    for option, value in given:
        if value is not None:
            raise ValueError(f"{option}={value!r} is a column of the file of {kind}s: give {kind}s")
