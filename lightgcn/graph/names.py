"""Nodes by what people call them: by id, by name, by "name by artist"; and what is close to it."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightgcn.core.checks import as_tensor
from lightgcn.graph.ids import Id, index_of_ids
from lightgcn.graph.interactions import Interactions

Ambiguous = Literal["error", "popular"]
Unknown = Literal["error", "skip"]
# Candidates that a message lists, and what two texts must have in common to be close (difflib).
_LISTED, _CLOSE = 5, 0.6
# Names that are compared at a time, and of these how many are compared letter by letter.
_BLOCK, _BEST = 1 << 16, 20
# Longer texts are compared by their beginning.
_LONGEST = 200
# Unknown items that a message names.
_NAMED = 3
_ACCENTS = re.compile("[\u0300-\u036f]")


class NodeNames:
    """The users or the items of a graph by their ids and names.

    Args:
        side: "user" or "item".
        graph: the graph; indices serve as ids if it has none.
        columns: its text columns; "name", "artist" and "album" are used.
        ambiguous: what to do with a name that several have: "error", or take the most "popular".

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], 2, 2, item_ids=["s1", "s2"])
        >>> songs = NodeNames("item", graph, {"name": ["Dawn", "Dusk"], "artist": ["Ash", "Bel"]})
        >>> songs.find("s1"), songs.find("dusk"), songs.find("Dusk by Bel")
        (0, 1, 1)
        >>> songs.find("Dask")
        Traceback (most recent call last):
        ValueError: unknown item 'Dask': no such id or name among 2 items; close to it: s2 (Dusk...
    """

    def __init__(
        self,
        side: Literal["user", "item"],
        graph: Interactions,
        columns: Mapping[str, Sequence[str]],
        ambiguous: Ambiguous = "error",
    ) -> None:
        if not isinstance(ambiguous, str) or ambiguous not in ("error", "popular"):
            raise ValueError(f'ambiguous must be "error" or "popular", got {ambiguous!r}')
        self.side, self.graph, self.columns, self.ambiguous = side, graph, columns, ambiguous

    @cached_property
    def index(self) -> dict[Id, int]:
        """The index of each node by its id."""
        return index_of_ids(self._ids, self._count)

    def find(self, wanted: Any) -> int:
        """Return the index of a node given by id, by an id as text, by name, or by "name by
        artist".

        Raises:
            ValueError: if it is neither a string nor an integer, there is no such node (the message
                lists what is close), or several have the name and none is to be chosen.
        """
        found = self.lookup(wanted)
        if not found:
            raise ValueError(self._unknown(_one_id(self.side, wanted)))
        if len(found) > 1 and self.ambiguous == "error":
            raise ValueError(
                f"{len(found)} {self.side}s are called {wanted!r}; give an id, most popular first: "
                f"{self._described(found)}"
            )
        return found[0]

    def find_known(self, given: Sequence[Any], unknown: Unknown) -> list[int | None]:
        """Return the indices of several nodes, as `find`; None for those that are skipped.

        Raises:
            ValueError: as `find`; if unknown ones are skipped, only if there is no other one.

        Warns:
            UserWarning: counting and naming those that are skipped.
        """
        if not isinstance(unknown, str) or unknown not in ("error", "skip"):
            raise ValueError(f'unknown must be "error" or "skip", got {unknown!r}')
        found = [
            self.find(each) if unknown == "error" or self.lookup(each) else None for each in given
        ]
        places = zip(given, found, strict=True)
        missing = [repr(plain(each)) for each, place in places if place is None]
        shown = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        if missing and len(missing) == len(given):
            raise ValueError(f"none of the {len(given)} given {self.side}s is known: {shown}")
        if missing:
            warnings.warn(
                f"{len(missing)} of {len(given)} {self.side}s are unknown and left out: {shown}",
                UserWarning,
                stacklevel=3,
            )
        return found

    def lookup(self, wanted: Any) -> list[int]:
        """Return the indices of the nodes that are called so, the most popular first."""
        wanted = _one_id(self.side, wanted)
        if wanted in self.index:
            return [self.index[wanted]]
        text = str(wanted).strip()
        if text in self.index:
            return [self.index[text]]
        if text.removeprefix("-").isdecimal() and int(text) in self.index:
            return [self.index[int(text)]]
        found = self._called(text) or self._called_by_artist(text)
        if len(found) > 1:
            found.sort(key=lambda place: (-int(self._degrees[place]), place))
        return found

    def label(self, place: int) -> str:
        """Return name and artist of a node, "" if it has none."""
        name, artist = (self.columns.get(column) for column in ("name", "artist"))
        return label(name[place] if name else "", artist[place] if artist else "")

    @property
    def _ids(self) -> Any:
        return self.graph.user_ids if self.side == "user" else self.graph.item_ids

    @property
    def _count(self) -> int:
        return self.graph.num_users if self.side == "user" else self.graph.num_items

    @property
    def _degrees(self) -> Tensor:
        return self.graph.user_degrees if self.side == "user" else self.graph.item_degrees

    @cached_property
    def _hashes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The sorted hashes of all names, and where each name is: 16 bytes for each of them, which
        a dictionary of millions of strings would take many times over."""
        names = self.columns.get("name", ())
        hashes = np.fromiter((hash(_folded(name)) for name in names), np.int64, len(names))
        order = hashes.argsort(kind="stable")
        return hashes[order], order

    def _called(self, text: str) -> list[int]:
        names, sought = self.columns.get("name"), _folded(text)
        if names is None:
            return []
        hashes, order = self._hashes
        first, end = (
            int(np.searchsorted(hashes, hash(sought), side=side)) for side in ("left", "right")
        )
        return [place for place in order[first:end].tolist() if _folded(names[place]) == sought]

    def _called_by_artist(self, text: str) -> list[int]:
        artists, parts = self.columns.get("artist"), _folded(text).split(" by ")
        if artists is None:
            return []
        return [
            place
            for cut in range(1, len(parts))
            for place in self._called(" by ".join(parts[:cut]))
            if _folded(artists[place]) == " by ".join(parts[cut:]).strip()
        ]

    def _unknown(self, wanted: Id) -> str:
        """Return the message about a node that there is not."""
        names, text = self.columns.get("name"), str(wanted)
        kind = "there is no such id" if names is None else "no such id or name"
        close: list[int] = []
        if names is not None:
            close = close_texts(text, names)
            if not close and "artist" in self.columns and " by " in text:
                close = close_texts(text.rpartition(" by ")[0], names)
        if not close and self._ids is not None and self._ids.dtype == object:
            close = close_texts(text, self._ids)
        hint = f"; close to it: {self._described(close)}" if close else ""
        return f"unknown {self.side} {wanted!r}: {kind} among {self._count} {self.side}s{hint}"

    def _described(self, places: Sequence[int]) -> str:
        """Return ids with what tells the nodes apart."""
        other = "item" if self.side == "user" else "user"
        albums, texts = self.columns.get("album"), []
        for place in places[:_LISTED]:
            count = int(self._degrees[place])
            facts = [self.label(place), albums[place] if albums is not None else ""]
            facts.append(f"{count} {other}{'' if count == 1 else 's'}")
            own = place if self._ids is None else self._ids[place]
            texts.append(f"{own} ({', '.join(fact for fact in facts if fact)})")
        more = len(places) - _LISTED
        return ", ".join(texts) + (f", and {more} more" if more > 0 else "")


def label(name: str = "", artist: str = "") -> str:
    """Return "name by artist", "name", or "" without a name, on one line."""
    name, artist = " ".join(name.split()), " ".join(artist.split())
    return f"{name} by {artist}" if name and artist else name


def close_texts(wanted: str, texts: Sequence[str] | npt.NDArray[Any]) -> list[int]:
    """Return the places of the texts that are most like one, the closest first, five at most.

    Case and accents do not count. Texts that share most pairs of letters with ``wanted``, or have
    it in them, are found by a pass over all of them as bytes; difflib compares only these.

    Example:
        >>> close_texts("Bjork", ["Björk", "Bark", "Adele"])
        [0, 1]
    """
    (sought,) = _plain([wanted])
    if not sought.strip():
        return []
    is_wanted = np.zeros(1 << 16, bool)
    pairs, _ = _letter_pairs([sought])
    is_wanted[pairs] = True
    matcher = SequenceMatcher(None, "", sought[:_LONGEST], autojunk=False)
    found: list[tuple[float, int]] = []
    for first in range(0, len(texts), _BLOCK):
        block = _plain(texts[first : first + _BLOCK])
        codes, line = _letter_pairs(block)
        shared = np.bincount(line[is_wanted[codes]], minlength=len(block))
        lengths = np.bincount(line, minlength=len(block)) + len(pairs)
        alike = 2 * np.minimum(shared, len(pairs)) / lengths
        alike += [sought in text for text in block]
        for place in np.argsort(-alike, kind="stable")[:_BEST].tolist():
            matcher.set_seq1(block[place][:_LONGEST])
            ratio = matcher.ratio()
            if ratio >= _CLOSE or sought in block[place]:
                found.append((-max(ratio, _CLOSE), first + place))
    return [place for _, place in sorted(found)[:_LISTED]]


def _letter_pairs(texts: list[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return all pairs of neighbouring bytes, with the ends of each text, and the text of each."""
    letters = np.frombuffer(("\n" + "\n".join(texts) + "\n").encode(errors="replace"), np.uint8)
    pairs = (letters[:-1].astype(np.uint16) << 8) | letters[1:]
    return pairs, np.cumsum(letters[:-1] == ord("\n")) - 1


def _plain(texts: Iterable[Any]) -> list[str]:
    """Return texts without case, accents and line breaks; all at once, since millions one by one
    take many times as long."""
    joined = "\n".join(str(text).strip().replace("\n", " ") for text in texts).casefold()
    if not joined.isascii():
        joined = _ACCENTS.sub("", unicodedata.normalize("NFKD", joined))
    return joined.split("\n")


def _folded(text: str) -> str:
    return text.strip().casefold()


def _one_id(side: str, given: Any) -> Id:
    value = plain(given)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{side} must be one id or name (an integer or a string), got {given!r}")
    return value


def plain(value: Any) -> Any:
    """Return a NumPy number or string, or a tensor or an array of no dimensions, as Python's."""
    scalar = isinstance(value, Tensor | np.ndarray) and value.ndim == 0
    return value.item() if scalar or isinstance(value, np.integer | np.str_) else value


def listed(name: str, given: Any) -> list[Any]:
    """Return a list, a tensor or any other iterable but a string as a list.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(given, str | bytes):
        raise ValueError(f"{name} must be a list, got the one string {given!r}")
    values = as_tensor(name, given) if isinstance(given, Tensor) else given
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, got {given!r}")
    return list(values)


def checked_columns(
    side: str, columns: Mapping[str, Sequence[str]] | None, count: int
) -> dict[str, list[str]]:
    """Return text columns as lists, by position (a pandas series is indexed by label).

    Raises:
        TypeError: if ``columns`` is no mapping.
        ValueError: if a column has not ``count`` values, or one is no string.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(
            f'{side}_columns must be a dict such as {{"name": names}}, got {type(columns).__name__}'
        )
    return {name: _column(side, name, values, count) for name, values in (columns or {}).items()}


def _column(side: str, name: str, values: Sequence[str], count: int) -> list[str]:
    given = [values] if isinstance(values, str) else list(values)
    if len(given) != count or isinstance(values, str):
        raise ValueError(f"{side} column {name!r} has {len(given)} values for {count} {side}s")
    for at, value in enumerate(given):
        if not isinstance(value, str):
            raise ValueError(
                f'{side} column {name!r}[{at}] is {value!r}; a column holds strings ("" for a '
                "missing one)"
            )
    return [str(value) for value in given]
