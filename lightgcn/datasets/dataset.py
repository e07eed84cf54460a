"""`Dataset`: interactions, columns of text for users and items, and held-out sets that came with
the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.storage import write_json
from lightgcn.core.tensor_file import load_tensors, pack_strings, save_tensors, unpack_strings
from lightgcn.graph.ids import Ids
from lightgcn.graph.interactions import Interactions

FILE_NAME = "dataset.safetensors"
SUMMARY_NAME = "dataset.json"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Interactions with columns of text for their nodes.

    Args:
        interactions: the graph, with the data's ids as ``user_ids`` and ``item_ids``.
        users: column name to one string per user, such as ``{"name": playlist titles}``.
        items: column name to one string per item, such as ``{"name": ..., "artist": ...}``.
        test: a test split that came with the data, over the same nodes; it gets the ids of
            ``interactions``.
        info: JSON values: the source of the data, and counts of merged and dropped entries.
        val: a validation set that came with the data, as ``test``.

    Raises:
        ValueError: if a column has not one string per node, or the test split is over different
            nodes.

    Example:
        >>> graph = Interactions.from_frame({"user": ["ann", "bob"], "item": ["s1", "s1"]})
        >>> dataset = Dataset(graph, users={}, items={"name": ["Airbag"]})
        >>> dataset
        Dataset(2 users, 1 items, 2 edges; columns of items: name)
        >>> folder = dataset.save("prepared")
        >>> Dataset.load(folder).items
        {'name': ['Airbag']}
    """

    interactions: Interactions
    users: dict[str, list[str]]
    items: dict[str, list[str]]
    test: Interactions | None = None
    info: dict[str, Any] = field(default_factory=dict)
    val: Interactions | None = None

    def __post_init__(self) -> None:
        _check_columns("users", self.users, self.interactions.num_users)
        _check_columns("items", self.items, self.interactions.num_items)
        for part, held_out in self.held_out.items():
            object.__setattr__(self, part, _aligned(part, held_out, self.interactions))

    @property
    def held_out(self) -> dict[str, Interactions]:
        """The sets "test" and "val" that came with the data, if there are any."""
        sets = {"test": self.test, "val": self.val}
        return {part: graph for part, graph in sets.items() if graph is not None}

    def known_before_test(self) -> Interactions:
        """Return the interactions with those of the validation set that came with the data."""
        return self.interactions if self.val is None else self.interactions.union(self.val)

    def known_edges(self) -> Interactions:
        """Return the interactions with those of the sets that came with the data."""
        known = self.interactions
        for held_out in self.held_out.values():
            known = known.union(held_out)
        return known

    def __repr__(self) -> str:
        graph = self.interactions
        parts = [f"{graph.num_users:,} users, {graph.num_items:,} items, {graph.num_edges:,} edges"]
        if self.test is not None:
            parts.append(f"{self.test.num_edges:,} test edges")
        for side, columns in (("users", self.users), ("items", self.items)):
            if columns:
                parts.append(f"columns of {side}: {', '.join(columns)}")
        return f"Dataset({'; '.join(parts)})"

    def reindex(self, users: Tensor, items: Tensor) -> Dataset:
        """Return the dataset of the given nodes, in the order given.

        The counts of the graph in ``info`` are updated, and dropped nodes and edges added up there.

        Args:
            users: (n,) int64 distinct indices.
            items: (m,) int64 distinct indices.

        Raises:
            ValueError: for an index out of range or given twice.
        """
        graph = self.interactions.reindex(users, items)
        sets = {part: held_out.reindex(users, items) for part, held_out in self.held_out.items()}
        info = self._recounted(graph, sets)
        columns = _take(self.users, users), _take(self.items, items)
        return Dataset(graph, *columns, sets.get("test"), info, sets.get("val"))

    def groups(self, column: str) -> Tensor:
        """Return the items' groups by a column, such as "artist_id": (num_items,) int64, -1 for an
        empty text.

        Groups are numbered in the order of their first item.

        Raises:
            ValueError: if the items have no such column.
        """
        if column not in self.items:
            there = ", ".join(self.items) or "none"
            raise ValueError(f"items have no column {column!r}; there are {there}")
        numbers: dict[str, int] = {}
        of_item = [
            numbers.setdefault(text, len(numbers)) if text else -1 for text in self.items[column]
        ]
        return torch.tensor(of_item, dtype=torch.int64, device="cpu")

    def _recounted(self, graph: Interactions, sets: dict[str, Interactions]) -> dict[str, Any]:
        now = _counts(graph, sets)
        info = {name: now.get(name, value) for name, value in self.info.items()}
        dropped = {
            "dropped_users": self.interactions.num_users - graph.num_users,
            "dropped_items": self.interactions.num_items - graph.num_items,
            "dropped_edges": self.interactions.num_edges - graph.num_edges,
        }
        for part, held_out in self.held_out.items():
            dropped[f"dropped_{part}_edges"] = held_out.num_edges - sets[part].num_edges
        return info | {name: self.info.get(name, 0) + count for name, count in dropped.items()}

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of the interactions and the sets that came with them."""
        if not self.held_out:
            return self.interactions.fingerprint()
        parts = [self.interactions, *self.held_out.values()]
        text = " ".join(part.fingerprint() for part in parts)
        if self.val is not None:
            text += " val"
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write the dataset to ``folder`` atomically, with a JSON summary, and return the folder.

        Raises:
            ValueError: if ``info`` holds a value that JSON cannot, or a column is not valid
                Unicode.
        """
        folder = Path(folder)
        graph = self.interactions
        metadata = {
            "num_users": graph.num_users,
            "num_items": graph.num_items,
            "user_columns": list(self.users),
            "item_columns": list(self.items),
            "has_test": self.test is not None,
            "has_val": self.val is not None,
            "info": self.info,
        }
        try:
            tensors = _pack_graph("train", graph)
            for part, held_out in self.held_out.items():
                tensors |= _pack_graph(part, held_out)
            for name, ids in (("user_ids", graph.user_ids), ("item_ids", graph.item_ids)):
                if ids is not None:
                    tensors[name] = pack_strings(ids)
            for kind, columns in (("user", self.users), ("item", self.items)):
                tensors |= {
                    f"{kind}_column.{name}": pack_strings(column)
                    for name, column in columns.items()
                }
            save_tensors(folder / FILE_NAME, "dataset", tensors, metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / FILE_NAME}: the dataset cannot be written as JSON ({error})"
            ) from error
        write_json(folder / SUMMARY_NAME, self._summary())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Read a dataset that `save` wrote; it needs only the folder's ``dataset.safetensors``.

        The edges are mapped into memory, so that several processes share them. `save` replaces the
        file and leaves loaded datasets intact; a program that writes into the file changes them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: naming the file, if it is corrupt or its parts do not fit together.
        """
        path = Path(folder) / FILE_NAME
        tensors, metadata = load_tensors(path, "dataset")
        if "train.indptr" in tensors:
            raise ValueError(
                f"{path}: was written by an older version in a different format: prepare the data "
                "again"
            )
        try:
            return _unpack(tensors, metadata)
        except KeyError as error:
            raise ValueError(
                f"{path}: has no {error}; the file was edited or is corrupt"
            ) from error
        except (ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path}: {error}; the file was edited or is corrupt") from error

    def _summary(self) -> dict[str, Any]:
        graph = self.interactions
        return {
            "users": graph.num_users,
            "items": graph.num_items,
            "edges": graph.num_edges,
            "test_edges": None if self.test is None else self.test.num_edges,
            "val_edges": None if self.val is None else self.val.num_edges,
            "weighted": graph.weights is not None,
            "user_ids": _describe_ids(graph.user_ids),
            "item_ids": _describe_ids(graph.item_ids),
            "user_columns": list(self.users),
            "item_columns": list(self.items),
            "info": self.info,
        }


def _check_columns(name: str, columns: Mapping[str, list[str]], count: int) -> None:
    for column, values in columns.items():
        if not isinstance(column, str) or not isinstance(values, list):
            raise ValueError(f"{name}[{column!r}] must be a list of strings under a string name")
        if len(values) != count:
            raise ValueError(
                f"{name}[{column!r}] has {len(values)} values for {count} {name}; one per node is "
                "needed"
            )
        if not all(issubclass(kind, str) for kind in set(map(type, values))):
            at, wrong = next(
                (at, value) for at, value in enumerate(values) if not isinstance(value, str)
            )
            raise ValueError(f"{name}[{column!r}][{at}] is {wrong!r}; a column holds strings")


def _aligned(part: str, held_out: Interactions, train: Interactions) -> Interactions:
    """Return a held-out set under the ids of the train graph, which must be over the same nodes."""
    if (held_out.num_users, held_out.num_items) != (train.num_users, train.num_items):
        raise ValueError(f"{part} must be over the nodes of interactions: {held_out} and {train}")
    pairs = (
        ("user_ids", held_out.user_ids, train.user_ids),
        ("item_ids", held_out.item_ids, train.item_ids),
    )
    for name, own, wanted in pairs:
        if own is not None and (wanted is None or not np.array_equal(own, wanted)):
            raise ValueError(f"{part}.{name} differ from interactions.{name}")
    return held_out.with_ids(train.user_ids, train.item_ids)


def _counts(graph: Interactions, sets: Mapping[str, Interactions]) -> dict[str, int]:
    """Return the readers' counts of a graph, by their names in ``info``."""
    counts = {
        "playlists": graph.num_users,
        "tracks": graph.num_items,
        "edges": graph.num_edges,
        "empty_playlists": int((graph.user_degrees == 0).sum()),
    }
    for part, held_out in sets.items():
        counts[f"{part}_edges"] = held_out.num_edges
        known = graph.contains(held_out.users, held_out.items)
        counts[f"{part}_edges_also_in_train"] = int(known.sum())
    return counts


def _take(columns: Mapping[str, list[str]], kept: Tensor) -> dict[str, list[str]]:
    places = kept.tolist()
    return {name: [values[place] for place in places] for name, values in columns.items()}


def _pack_graph(prefix: str, graph: Interactions) -> dict[str, Tensor]:
    """Return the edges in the types of the graph, so that a file is mapped without conversion."""
    tensors = {f"{prefix}.{name}": getattr(graph, name) for name in ("users", "items")}
    if graph.weights is not None:
        tensors[f"{prefix}.weights"] = graph.weights
    if graph.order is not None:
        narrow = not graph.order.is_floating_point() and (
            not graph.num_edges
            or -(2**31) <= int(graph.order.min()) <= int(graph.order.max()) < 2**31
        )
        tensors[f"{prefix}.order"] = graph.order.to(torch.int32) if narrow else graph.order
    return tensors


def _unpack_graph(
    prefix: str, tensors: Mapping[str, Tensor], num_users: int, num_items: int
) -> Interactions:
    users, items = tensors[f"{prefix}.users"], tensors[f"{prefix}.items"]
    weights, order = (tensors.get(f"{prefix}.{name}") for name in ("weights", "order"))
    try:
        return Interactions.from_sorted(users, items, num_users, num_items, weights, order=order)
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error


def _unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Dataset:
    num_users, num_items, info = metadata["num_users"], metadata["num_items"], metadata["info"]
    if not isinstance(info, dict):
        raise ValueError(f"info is a {type(info).__name__}, not an object")
    graph = _unpack_graph("train", tensors, num_users, num_items)
    ids = [_ids(tensors.get(name)) for name in ("user_ids", "item_ids")]
    graph = graph.with_ids(*ids)
    test, val = (
        _unpack_graph(part, tensors, num_users, num_items) if metadata.get(f"has_{part}") else None
        for part in ("test", "val")
    )
    columns = [
        {
            name: unpack_strings(tensors[f"{kind}_column.{name}"])
            for name in metadata[f"{kind}_columns"]
        }
        for kind in ("user", "item")
    ]
    return Dataset(graph, columns[0], columns[1], test, info, val)


def _ids(packed: Tensor | None) -> Ids | None:
    if packed is None:
        return None
    values = unpack_strings(packed)
    # A fixed-width string array would take the longest id's width for every node.
    kind = np.int64 if values and all(type(value) is int for value in values) else object
    return np.array(values, dtype=kind)


def _describe_ids(ids: Ids | None) -> str | None:
    if ids is None:
        return None
    return "integers" if ids.dtype.kind in "iu" else "strings"
