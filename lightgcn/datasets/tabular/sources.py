"""Which files hold a table, and what kind each one is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightgcn.datasets.files import bare_suffix, existing_file, read_bytes, utf8
from lightgcn.datasets.streams import COMPRESSIONS
from lightgcn.datasets.tabular.delimited import SUFFIXES as TEXT_SUFFIXES
from lightgcn.datasets.tabular.delimited import DelimitedText
from lightgcn.datasets.tabular.json_lines import SUFFIXES as JSON_SUFFIXES
from lightgcn.datasets.tabular.json_lines import JsonLines, is_json_lines
from lightgcn.datasets.tabular.parquet import SUFFIXES as PARQUET_SUFFIXES
from lightgcn.datasets.tabular.parquet import ParquetTable
from lightgcn.datasets.tabular.table import TableFile

# Suffixes of files that are tables and nothing else.
SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
_PARTS = {"train": ("train",), "val": ("valid", "val", "validation", "dev"), "test": ("test",)}


class FileFormat(NamedTuple):
    """How the text of files is read: as for `read_table`."""

    separator: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None


def open_table(source: str | Path, form: FileFormat) -> TableFile:
    """Open a table: Parquet, JSON Lines or text with separators, by its suffix or its content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not readable, or an option does not fit its kind.
    """
    path = existing_file(source)
    suffix = bare_suffix(path)
    if suffix in PARQUET_SUFFIXES and path.is_file() and path.suffix.lower() not in COMPRESSIONS:
        _check_no_options(path, "a Parquet file", form)
        return ParquetTable(path)
    data = read_bytes(path)
    if data[:4] == b"PAR1" or suffix in PARQUET_SUFFIXES:
        _check_no_options(path, "a Parquet file", form)
        return ParquetTable(path, data)
    data = utf8(path, data, form.encoding)
    text = form.separator is not None or form.columns is not None or suffix in TEXT_SUFFIXES
    if suffix in JSON_SUFFIXES or (not text and is_json_lines(data)):
        _check_no_options(path, "a file of JSON Lines", form._replace(encoding=None))
        return JsonLines(path, data)
    return DelimitedText(path, data, form.separator, form.columns)


def _check_no_options(path: Path, kind: str, form: FileFormat) -> None:
    for name, value in form._asdict().items():
        if value is not None:
            raise ValueError(f"{path}: {kind} has no {name}, got {name}={value!r}")


def table_files(source: str | Path | Sequence[str | Path]) -> dict[str, list[Path]]:
    """Return the files of a table: "train", and "val" and "test" if the folder has such files.

    A folder holds a train set and perhaps a validation and a test set, told by the words in the
    names of files or folders (``train.csv``, ``plays_test.csv``, ``valid/part-0.parquet``), or the
    parts of one table. Parts are read in the order of their names; files that begin with "_" or "."
    are left out.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no table, files of different kinds, or files of a set that are
            not told apart by a number alone.
    """
    if not isinstance(source, str | Path):
        files = [Path(path) for path in source]
        if not files:
            raise ValueError("source: no file given; give a table")
        return {"train": files}
    path = Path(source)
    if not path.is_dir():
        return {"train": [path]}
    if has_train_file(path):
        return _split(path, [file for file in path.iterdir() if file.is_file()], whole=True)
    tables = [file for file in visible_files(path) if bare_suffix(file) in SUFFIXES]
    words = {part for file in tables if (part := _part(file.relative_to(path))[0])}
    if "train" in words and len(words) > 1:
        return _split(path, tables, whole=False)
    kinds = sorted({bare_suffix(file) for file in tables})
    if len(kinds) != 1:
        found = ", ".join(file.name for file in visible_files(path)[:5]) or "nothing"
        raise ValueError(
            f"{path}: a folder with the parts of one table holds files of one kind "
            f"({', '.join(SUFFIXES)}); this one holds {found}"
        )
    return {"train": tables}


def visible_files(folder: Path) -> list[Path]:
    """Return the files of a folder and its folders, without those that begin with "_" or "."."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(name.startswith(("_", ".")) for name in file.relative_to(folder).parts)
    )


def has_train_file(folder: Path) -> bool:
    """Return whether a folder has a file "train" of any suffix."""
    return any(_part_of_stem(file) == "train" for file in folder.iterdir() if file.is_file())


def _part_of_stem(file: Path) -> str | None:
    stem, dot, _ = file.name.partition(".")
    return next((part for part, stems in _PARTS.items() if dot and stem.lower() in stems), None)


def _part(place: Path) -> tuple[str | None, str]:
    """Return the part that a word in a path names, and the path up to there without numbers."""
    for at, name in enumerate(place.parts, start=1):
        words = set(re.split(r"[^a-z]+", name.lower()))
        named = [part for part, stems in _PARTS.items() if words & set(stems)]
        if named:
            start = re.sub(r"[0-9]+", "0", "/".join(place.parts[:at]))
            return (named[0] if len(named) == 1 else None), start
    return None, place.as_posix()


def _split(folder: Path, files: list[Path], *, whole: bool) -> dict[str, list[Path]]:
    """Return the files of each part; if ``whole``, only those whose stem is its name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        part = _part_of_stem(file) if whole else _part(file.relative_to(folder))[0]
        if part is not None:
            found.setdefault(part, []).append(file)
        elif not whole:
            raise _unclear(folder, [file], "no one part")
    for part, named in found.items():
        tables = [file for file in named if bare_suffix(file) in SUFFIXES]
        found[part] = tables or named
        if len({_part(file.relative_to(folder))[1] for file in found[part]}) > 1:
            raise _unclear(folder, found[part], f"the same part ({part})")
    return {part: found[part] for part in _PARTS if part in found}


def _unclear(folder: Path, files: list[Path], what: str) -> ValueError:
    names = ", ".join(file.relative_to(folder).as_posix() for file in files[:5])
    return ValueError(
        f"{folder}: the folder has train, validation or test files, and {names} would be {what}; "
        "name the files: the train table as the source, and --val and --test"
    )


def header_of(files: Sequence[Any]) -> list[str]:
    """Return the header that all parts have.

    Raises:
        ValueError: naming the first part that has another one.
    """
    first = files[0]
    for file in files[1:]:
        if set(file.header) != set(first.header):
            raise ValueError(
                f"{file.path}: its columns are {', '.join(file.header)}, and those of {first.path} "
                f"are {', '.join(first.header)}"
            )
    return list(first.header)
