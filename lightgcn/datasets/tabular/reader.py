"""`read_table`: tables of interactions to a `Dataset`."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightgcn.core.checks import is_number
from lightgcn.datasets.dataset import Dataset
from lightgcn.datasets.tabular.columns import (
    Ids,
    Rows,
    checked_weights,
    drop_low_ratings,
    find_column,
    first_names,
    reject_headers,
    usual_column,
)
from lightgcn.datasets.tabular.node_files import NodeFile, check_unread, node_columns
from lightgcn.datasets.tabular.sources import FileFormat, header_of, open_table, table_files
from lightgcn.datasets.tabular.table import LISTED, joined
from lightgcn.datasets.tabular.times import are_numbers, checked_times
from lightgcn.graph.ids import Ids as NodeIds
from lightgcn.graph.interactions import Interactions

# Names of columns that hold how much a user likes an item, or dislikes it.
_RATINGS = ("rating", "ratings", "stars", "score", "overall")


def read_table(
    source: str | Path | Sequence[str | Path],
    *,
    user: str | None = None,
    item: str | None = None,
    weight: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    time: str | None = None,
    user_name: str | None = None,
    item_name: str | None = None,
    columns: Sequence[str] | str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    skip_bad: bool = False,
    drop_missing: bool = False,
    test: str | Path | None = None,
    val: str | Path | None = None,
    users: str | Path | None = None,
    user_id: str | None = None,
    user_columns: Sequence[str] | str | None = None,
    items: str | Path | None = None,
    item_id: str | None = None,
    item_columns: Sequence[str] | str | None = None,
    progress: bool = False,
) -> Dataset:
    """Read tables with one interaction a row: CSV, TSV and other text, JSON Lines, Parquet.

    Users and items are the sorted distinct ids: strings in text, integers or strings elsewhere. A
    repeated pair becomes one edge, with the sum of its weights and its earliest time; a node gets
    the name of its first row. ``info`` counts everything that is left out or merged. The method is
    for implicit feedback: every row that is read counts as a positive.

    Args:
        source: a file, several parts, or a folder with parts or with ``train.*``, ``valid.*`` and
            ``test.*``. A name may end in .gz, .xz, .bz2 or .zst; a member of a .zip archive is
            ``archive.zip/member``; a pipe is read once.
        user: column of user ids; None for "user" or "user_id".
        item: column of item ids; None for "item" or "item_id".
        weight: column of finite positive numbers.
        rating: column of ratings; None for "rating", if ``min_rating`` is given.
        min_rating: rows with a lower rating are dropped, and counted.
        time: column of times, numbers or dates (ISO 8601, without zone in UTC), which becomes the
            edges' ``order``.
        user_name, item_name: column with a name for each row's user or item; of the file of users
            or items, if that is given.
        columns: names of the columns of text without a header, as a list or with commas between.
        separator: one character, "::", or "blanks" for any run of blanks and tabs; None to find it.
        encoding: of text, such as "latin-1"; None for UTF-8 (or UTF-16 by its byte order mark).
        skip_bad: leave malformed rows out; ``info["skipped_rows"]`` counts them and
            ``info["skipped"]`` describes the first thousand.
        drop_missing: drop rows whose user or item is empty, "NaN", "None", "null" or "\\\\N".
        test, val: files of the test and the validation set, with the same columns.
        users, items: a file with a row for each user or item, whose columns become those of the
            nodes.
        user_id, item_id: its column of ids; None for that of the interactions' column.
        user_columns, item_columns: names of its columns if it has no header.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and row, for a missing column or id, one column for two of users,
            items and weights, a wrong weight, rating or time, a row with too few or too many
            fields, a quote that does not close, a header that looks like a row, or a table without
            rows.

    Warns:
        UserWarning: if ids are words for a missing value, or a column of ratings is not used.

    Example:
        >>> from pathlib import Path
        >>> written = Path("plays.csv").write_text("who,what,n\\nann,a,2\\nann,a,1\\nbob,b,5\\n")
        >>> dataset = read_table("plays.csv", user="who", item="what", weight="n")
        >>> dataset.interactions.weights
        tensor([3., 5.])
        >>> written = Path("u.data").write_text("1\\t10\\t5\\n1\\t11\\t2\\n2\\t10\\t4\\n")
        >>> read_table("u.data", columns="user,item,rating", min_rating=4).interactions
        Interactions(2 users, 1 items, 2 edges)
    """
    files = table_files(source)
    for part, given in (("test", test), ("val", val)):
        if given is not None:
            files[part] = [Path(given)]
    form = FileFormat(separator, encoding, _listed("columns", columns))
    node_files = {
        "user": _node_file("user", users, user_id, user_name, user_columns),
        "item": _node_file("item", items, item_id, item_name, item_columns),
    }
    wanted = _Wanted(user, item, weight, rating, min_rating, time)
    names = {"user": user_name, "item": item_name}
    for kind, node_file in node_files.items():
        if node_file is not None:
            names[kind] = None
    return _Reader(files, form, wanted, names, skip_bad, drop_missing, progress).dataset(
        source, node_files
    )


@dataclass(frozen=True)
class _Wanted:
    """The columns to read, as they were given."""

    user: str | None
    item: str | None
    weight: str | None
    rating: str | None
    min_rating: float | None
    time: str | None

    def __post_init__(self) -> None:
        least = self.min_rating
        if least is not None and not (is_number(least) and math.isfinite(least)):
            raise ValueError(f"min_rating must be a finite number, got {least!r}")
        if self.rating is not None and least is None:
            raise ValueError(
                f"rating={self.rating!r} needs min_rating, the least rating that counts as a "
                "positive (--min-rating); weight takes a column as the weights of edges"
            )

    def resolved(self, table: Any) -> dict[str, str]:
        """Return the columns of a table, by what they are for.

        Raises:
            ValueError: if one is not there, or serves twice.
        """
        found = {}
        for kind in ("user", "item"):
            given = getattr(self, kind)
            usual = usual_column(table, kind, f"{kind}id") if given is None else None
            found[kind] = usual or find_column(table, given or kind)
        rating = self.rating
        if self.min_rating is not None and rating is None:
            rating = usual_column(table, "rating") or "rating"
        for kind, name in (("weight", self.weight), ("rating", rating), ("time", self.time)):
            if name is not None:
                found[kind] = find_column(table, name)
        used = Counter(found[kind] for kind in ("user", "item", "weight", "time") if kind in found)
        twice = next((name for name, count in used.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"{table.path}: column {twice!r} is given twice; users, items, weights and times "
                "must be different columns"
            )
        return found


class _Reader:
    """Reads the parts of a dataset by the same columns."""

    def __init__(
        self,
        files: dict[str, list[Path]],
        form: FileFormat,
        wanted: _Wanted,
        names: dict[str, str | None],
        skip_bad: bool,
        drop_missing: bool,
        progress: bool,
    ) -> None:
        self.form, self.drop_missing, self.wanted = form, drop_missing, wanted
        self.skip_bad, self.progress = skip_bad, progress
        self.info: dict[str, Any] = {}
        self.parts: dict[str, Rows] = {}
        self.files = files
        self.names: dict[str, str] = {}
        for part, paths in files.items():
            opened = [open_table(path, form) for path in paths]
            header = header_of(opened)
            of_part = wanted.resolved(opened[0])
            if part == "train":
                self.columns = of_part
                self.names = {
                    kind: find_column(opened[0], name)
                    for kind, name in names.items()
                    if name is not None
                }
                self._warn_of_ratings(paths[0], header, wanted)
            else:
                for name in self.names.values():
                    find_column(opened[0], name)
            if of_part != self.columns:
                raise ValueError(
                    f"{paths[0]}: its columns are {', '.join(header)}, other than those of "
                    f"{files['train'][0]}"
                )
            read = list(dict.fromkeys([*self.columns.values(), *self.names.values()]))
            keys = [self.columns["user"], self.columns["item"]]
            tables = [one.read(read, keys, skip_bad=skip_bad, progress=progress) for one in opened]
            table = joined(tables)
            if len(tables) == 1:
                table.path = paths[0]
            if table.num_rows + table.num_skipped == 0:
                raise ValueError(f"{paths[0]}: the table has a header and no rows")
            self.parts[part] = Rows(table, skip_bad)

    def _warn_of_ratings(self, path: Path, header: list[str], wanted: _Wanted) -> None:
        unused = [name for name in header if name not in self.columns.values()]
        plain = {name: name.partition(":")[0].lower() for name in unused}
        rating = next((name for name in unused if plain[name] in _RATINGS), None)
        if rating is not None and wanted.min_rating is None:
            warnings.warn(
                f"{path}: column {rating!r} is not used: every row counts as a positive, since the "
                "method is for implicit feedback; to keep good ratings only, give a least one "
                f"(--rating {rating} --min-rating 4)",
                stacklevel=4,
            )

    def dataset(self, source: Any, node_files: dict[str, NodeFile | None]) -> Dataset:
        """Return the dataset, with its test and validation sets."""
        parts = list(self.parts.values())
        self._check_times()
        values = [self._values(rows) for rows in parts]
        ids = {kind: Ids.of(self.columns[kind], parts) for kind in ("user", "item")}
        for kind, column in ids.items():
            self._warn_of_words(kind, column.check(parts, self.drop_missing))
        reject_headers(ids["user"], ids["item"], parts)
        for part, rows in self.parts.items():
            if not rows.kept.any():
                raise ValueError(f"{self.files[part][0]}: no row is left; {self._left_out(rows)}")
        codes: dict[str, list[npt.NDArray[np.int64]]] = {}
        own: dict[str, NodeIds] = {}
        for kind, column in ids.items():
            codes[kind], own[kind], floats = column.used(parts)
            self._count(f"{kind}_ids_written_as_floats", floats)
        graphs = []
        for at, rows in enumerate(parts):
            kept: dict[str, Any] = {name: v[rows.kept] for name, v in values[at].items()}
            users: Any = codes["user"][at]
            items: Any = codes["item"][at]
            graph = Interactions(
                users,
                items,
                num_users=len(own["user"]),
                num_items=len(own["item"]),
                weights=kept.get("weight"),
                user_ids=own["user"],
                item_ids=own["item"],
                order=kept.get("time"),
            )
            graphs.append(graph)
        texts = {
            kind: self._texts(kind, codes[kind], own[kind], node_files[kind])
            for kind in ("user", "item")
        }
        named = dict(zip(self.parts, graphs, strict=True))
        listed = str(source) if isinstance(source, str | Path) else list(map(str, source))
        info = {"format": "table", "source": listed, "columns": self.columns}
        info |= self._counts(named)
        return Dataset(
            named["train"], texts["user"], texts["item"], named.get("test"), info, named.get("val")
        )

    def _values(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return weights and times of a part, and drop the rows with low ratings."""
        found: dict[str, npt.NDArray[Any]] = {}
        if "rating" in self.columns:
            assert self.wanted.min_rating is not None
            drop_low_ratings(self.columns["rating"], self.wanted.min_rating, rows)
        if "weight" in self.columns:
            found["weight"] = checked_weights(self.columns["weight"], rows)
        if "time" in self.columns:
            found["time"] = checked_times(self.columns["time"], rows)
        return found

    def _check_times(self) -> None:
        """Raise a ValueError if times are numbers in one part and dates in another."""
        if "time" not in self.columns:
            return
        name = self.columns["time"]
        of_train, *others = (are_numbers(rows.table.columns[name]) for rows in self.parts.values())
        for part, numeric in zip(list(self.parts)[1:], others, strict=True):
            if numeric != of_train:
                kinds = ("numbers", "dates") if numeric else ("dates", "numbers")
                raise ValueError(
                    f"{self.files[part][0]}: column {name!r} holds {kinds[0]}, and {kinds[1]} in "
                    f"{self.files['train'][0]}; times must be of one kind"
                )

    def _texts(
        self,
        kind: str,
        codes: list[npt.NDArray[np.int64]],
        ids: NodeIds,
        file: NodeFile | None,
    ) -> dict[str, list[str]]:
        if file is not None:
            columns, counts = node_columns(
                file, kind, self.columns[kind], ids, self.form, skip_bad=self.skip_bad
            )
            for name, count in counts.items():
                self._count(name, count)
            return columns
        if kind not in self.names:
            return {}
        import pyarrow

        columns_of = [
            rows.table.columns[self.names[kind]].filter(pyarrow.array(rows.kept))
            for rows in self.parts.values()
        ]
        texts, passed_over = first_names(codes, columns_of, len(ids))
        self.info[f"{kind}_names_passed_over"] = passed_over
        return {"name": texts}

    def _count(self, name: str, count: int) -> None:
        if count:
            self.info[name] = self.info.get(name, 0) + count

    def _warn_of_words(self, kind: str, words: dict[str, int]) -> None:
        if words:
            shown = ", ".join(f"{word!r} ({count:,})" for word, count in words.items())
            total = sum(words.values())
            warnings.warn(
                f"{self.files['train'][0]}: column {self.columns[kind]!r} has these words in "
                f"{total:,} row{'s' * (total > 1)}: {shown}. They are read as ids of {kind}s; if "
                "they mean missing values, drop these rows (drop_missing, --drop-missing)",
                stacklevel=4,
            )

    def _left_out(self, rows: Rows) -> str:
        counts = rows.dropped + Counter({"skipped_rows": rows.table.num_skipped})
        return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())

    def _counts(self, graphs: dict[str, Interactions]) -> dict[str, Any]:
        """Return the counts of all parts for ``info``."""
        found: dict[str, Any] = {}
        for part, graph in graphs.items():
            rows = self.parts[part]
            prefix = "" if part == "train" else f"{part}_"
            entries = int(rows.kept.sum())
            found[f"{prefix}entries"], found[f"{prefix}edges"] = entries, graph.num_edges
            found[f"{prefix}duplicate_entries"] = entries - graph.num_edges
            if part != "train":
                found[f"{part}_source"] = str(self.files[part][0])
                known = graphs["train"].contains(graph.users, graph.items)
                found[f"{part}_edges_also_in_train"] = int(known.sum())
            for reason, count in rows.dropped.items():
                self._count(reason, count)
            self._count("skipped_rows", rows.table.num_skipped)
        problems = [one for rows in self.parts.values() for one in rows.table.skipped]
        if problems:
            self.info["skipped"] = problems[:LISTED]
        return found | self.info


def _listed(name: str, given: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Return names given as a list or with commas between."""
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else list(given)
    if not names or not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name} must be names of columns, got {given!r}")
    return tuple(one.strip() for one in names)


def _node_file(
    kind: str,
    path: str | Path | None,
    id: str | None,
    name: str | None,
    columns: Sequence[str] | str | None,
) -> NodeFile | None:
    if path is None:
        check_unread(kind, [(f"{kind}_id", id), (f"{kind}_columns", columns)])
        return None
    return NodeFile(path, id, name, _listed(f"{kind}_columns", columns))
