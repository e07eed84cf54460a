"""Which files hold the slices of the Million Playlist Dataset, and in what order they go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightgcn.datasets.files import archive_members, bare_suffix, existing_file

SLICE_NAME = re.compile(r"mpd\.slice\.\d+-\d+\.json(\.gz|\.xz|\.bz2|\.zst)?")


def has_slices(source: Path) -> bool:
    """Return whether a folder, its folder "data", or a .zip archive holds slices of the MPD."""
    if not source.is_dir():
        return any(SLICE_NAME.fullmatch(Path(name).name) for name in archive_members(source))
    folders = [folder for folder in (source, source / "data") if folder.is_dir()]
    return any(SLICE_NAME.fullmatch(path.name) for folder in folders for path in folder.iterdir())


def slice_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the JSON files of a folder or a .zip archive (or the files given) by the first pid in
    their name, then in natural order.

    The folder may be the whole unpacked dataset, whose slices are in its folder "data".

    Raises:
        FileNotFoundError: if a path is not there.
        ValueError: if a folder holds no JSON file, or no file was given.
    """
    if not isinstance(source, str | Path):
        files = [existing_file(path) for path in source]
        if not files:
            raise ValueError("source: no file given; give a folder or at least one MPD slice")
    elif Path(source).is_dir():
        folder = Path(source)
        data = folder / "data"
        if not any(map(_is_json, folder.iterdir())) and data.is_dir() and has_slices(data):
            folder = data
        named = [path for path in folder.iterdir() if _is_json(path)]
        files = [path for path in named if SLICE_NAME.fullmatch(path.name)] or named
        if not files:
            inner = next(folder.glob("*/mpd.slice.*.json"), None)
            hint = (
                f"; did you mean {inner.parent}?"
                if inner
                else "; mpd.slice.FIRST-LAST.json files are expected"
            )
            raise ValueError(f"{folder}: the folder holds no JSON file{hint}")
    elif Path(source).suffix.lower() == ".zip" and Path(source).is_file():
        members = [Path(source, name) for name in archive_members(Path(source))]
        files = [path for path in members if SLICE_NAME.fullmatch(path.name)]
        files = files or [existing_file(source)]
    else:
        files = [existing_file(source)]
    return sorted(files, key=_order)


def _is_json(path: Path) -> bool:
    return bare_suffix(path) == ".json" and path.is_file() and not path.name.startswith(".")


def _order(path: Path) -> tuple[bool, list[tuple[int, str]]]:
    # Runs of digits compare as numbers, so slices go by their first pid.
    natural = [(int(digits or -1), text) for digits, text in re.findall(r"(\d+)|(\D+)", path.name)]
    return SLICE_NAME.fullmatch(path.name) is None, natural


def chosen_slices(files: list[Path], slices: tuple[int, int] | None) -> list[Path]:
    """Return the files at positions ``(start, stop)``, half-open; all for None.

    Raises:
        ValueError: if the range is empty or leaves the list.
    """
    if slices is None:
        return files
    start, stop = slices
    if not 0 <= start < stop <= len(files):
        raise ValueError(
            f"slices must be (start, stop) with 0 <= start < stop <= {len(files)}, the number of "
            "slices there are, "
            f"got {tuple(slices)!r}"
        )
    return files[start:stop]
