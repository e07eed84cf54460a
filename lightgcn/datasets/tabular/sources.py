"""Which files hold a table, and what kind each one is."""

from __future__ import annotations

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

    A folder holds ``train.*`` and perhaps ``valid.*`` and ``test.*``, or the parts of one table,
    read in the order of their names; files that begin with "_" or "." are left out.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no table, or files of different kinds.
    """
    if not isinstance(source, str | Path):
        files = [Path(path) for path in source]
        if not files:
            raise ValueError("source: no file given; give a table")
        return {"train": files}
    path = Path(source)
    if not path.is_dir():
        return {"train": [path]}
    named = split_files(path)
    if named:
        return {part: [file] for part, file in named.items()}
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and not any(name.startswith(("_", ".")) for name in file.relative_to(path).parts)
    )
    tables = [file for file in files if bare_suffix(file) in SUFFIXES]
    kinds = sorted({bare_suffix(file) for file in tables})
    if len(kinds) != 1:
        found = ", ".join(file.name for file in files[:5]) or "nothing"
        raise ValueError(
            f"{path}: a folder with the parts of one table holds files of one kind "
            f"({', '.join(SUFFIXES)}); this one holds {found}"
        )
    return {"train": tables}


def split_files(folder: Path) -> dict[str, Path]:
    """Return a folder's files "train", "val" and "test", by their names before the suffix; none if
    there is no train file."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found: dict[str, Path] = {}
    for part, stems in _PARTS.items():
        for file in files:
            if file.name.split(".")[0].lower() in stems and len(file.name.split(".")) > 1:
                found.setdefault(part, file)
    return found if "train" in found else {}


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
