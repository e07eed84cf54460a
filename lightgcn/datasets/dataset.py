"""`Dataset`: interactions, columns of text for users and items, and an optional test split."""

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

    def __post_init__(self) -> None:
        _check_columns("users", self.users, self.interactions.num_users)
        _check_columns("items", self.items, self.interactions.num_items)
        if self.test is not None:
            object.__setattr__(self, "test", _aligned(self.test, self.interactions))

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
        test = None if self.test is None else self.test.reindex(users, items)
        info = self._recounted(graph, test)
        return Dataset(graph, _take(self.users, users), _take(self.items, items), test, info)

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

    def _recounted(self, graph: Interactions, test: Interactions | None) -> dict[str, Any]:
        now = _counts(graph, test)
        info = {name: now.get(name, value) for name, value in self.info.items()}
        dropped = {
            "dropped_users": self.interactions.num_users - graph.num_users,
            "dropped_items": self.interactions.num_items - graph.num_items,
            "dropped_edges": self.interactions.num_edges - graph.num_edges,
        }
        if test is not None and self.test is not None:
            dropped["dropped_test_edges"] = self.test.num_edges - test.num_edges
        return info | {name: self.info.get(name, 0) + count for name, count in dropped.items()}

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of the interactions and the test split, if there is one."""
        if self.test is None:
            return self.interactions.fingerprint()
        both = f"{self.interactions.fingerprint()} {self.test.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()

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
            "info": self.info,
        }
        try:
            tensors = _pack_graph("train", graph)
            if self.test is not None:
                tensors |= _pack_graph("test", self.test)
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


def _aligned(test: Interactions, train: Interactions) -> Interactions:
    """Return the test split under the ids of the train graph, which must be over the same nodes."""
    if (test.num_users, test.num_items) != (train.num_users, train.num_items):
        raise ValueError(f"test must be over the nodes of interactions: {test} and {train}")
    pairs = (
        ("user_ids", test.user_ids, train.user_ids),
        ("item_ids", test.item_ids, train.item_ids),
    )
    for name, own, wanted in pairs:
        if own is not None and (wanted is None or not np.array_equal(own, wanted)):
            raise ValueError(f"test.{name} differ from interactions.{name}")
    return test.with_ids(train.user_ids, train.item_ids)


def _counts(graph: Interactions, test: Interactions | None) -> dict[str, int]:
    """Return the readers' counts of a graph, by their names in ``info``."""
    counts = {
        "playlists": graph.num_users,
        "tracks": graph.num_items,
        "edges": graph.num_edges,
        "empty_playlists": int((graph.user_degrees == 0).sum()),
    }
    if test is not None:
        counts["test_edges"] = test.num_edges
        counts["test_edges_also_in_train"] = int(graph.contains(test.users, test.items).sum())
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
    test = _unpack_graph("test", tensors, num_users, num_items) if metadata["has_test"] else None
    columns = [
        {
            name: unpack_strings(tensors[f"{kind}_column.{name}"])
            for name in metadata[f"{kind}_columns"]
        }
        for kind in ("user", "item")
    ]
    return Dataset(graph, columns[0], columns[1], test, info)


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
