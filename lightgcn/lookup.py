"""Finding a node by what a person calls it: its id, its name, or "name by artist"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Id = int | str


def index_of_ids(ids: Any, count: int) -> dict[Id, int]:
    """Return each id's index; indices are the ids where there are none."""
    return {value: index for index, value in enumerate(range(count) if ids is None else ids.tolist())}


def find_node(side: str, wanted: Id, index: Mapping[Id, int], columns: Mapping[str, Sequence[str]]) -> int:
    """Return the index of a node given by id, by an id as text, by unique name, or by "name by artist".

    Raises:
        ValueError: if there is none (some with a name close to it are listed), or several have the name.
    """
    if wanted in index:
        return index[wanted]
    text = str(wanted).strip()
    if text in index:
        return index[text]
    if text.removeprefix("-").isdecimal() and int(text) in index:
        return index[int(text)]
    names, artists = columns.get("name"), columns.get("artist")
    if names is None:
        raise ValueError(f"unknown {side} {wanted!r}: there is no such id among {len(index)} {side}s")
    sought = text.casefold()
    folded = [name.strip().casefold() for name in names]
    found = [place for place, name in enumerate(folded) if name == sought]
    if not found and artists is not None:
        pairs = zip(folded, artists, strict=True)
        found = [
            place for place, (name, artist) in enumerate(pairs) if f"{name} by {artist.strip().casefold()}" == sought
        ]
    if len(found) == 1:
        return found[0]
    ids = list(index)
    listed = found or [place for place, name in enumerate(folded) if sought and sought in name]
    options = ", ".join(f"{ids[place]} ({_label(place, names, artists)})" for place in listed[:5])
    if found:
        raise ValueError(f"{len(found)} {side}s are called {wanted!r}; give an id: {options}")
    hint = f"; close to it: {options}" if options else ""
    raise ValueError(f"unknown {side} {wanted!r}: no such id or name among {len(index)} {side}s{hint}")


def _label(place: int, names: Sequence[str], artists: Sequence[str] | None) -> str:
    return names[place] + (f" by {artists[place]}" if artists is not None and artists[place] else "")
