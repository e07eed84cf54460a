"""The ids that a data's owner gives to nodes, and the columns of data frames that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightgcn.core.checks import is_missing
from lightgcn.graph.edge_order import checked_order

Ids = npt.NDArray[Any]


def checked_ids(name: str, values: Ids | None, count: int) -> Ids | None:
    """Return ids as `ids_array` does, or raise a ValueError if they are not ``count`` distinct ones
    of one kind."""
    if values is None:
        return None
    ids = ids_array(values)
    assert ids is not None
    if ids.ndim != 1 or len(ids) != count:
        raise ValueError(f"{name} must be {count} values, one per node, got shape {ids.shape}")
    if ids.dtype.kind not in "iu" and not set(map(type, ids.tolist())) <= {str}:
        others = [value for value in ids if not isinstance(value, str)]
        wrong = next(
            (value for value in others if not isinstance(value, int) or not _fits_64_bits(value)),
            others[0],
        )
        raise ValueError(f"{name} must be all integers of 64 bits or all strings, got {wrong!r}")
    if len(set(ids.tolist())) != count:
        counts = Counter(ids.tolist())
        repeated = next(value for value in counts if counts[value] > 1)
        raise ValueError(f"{name} must be distinct, {repeated!r} is there more than once")
    return ids


def ids_array(values: Sequence[Any] | Ids | None) -> Ids | None:
    """Return ids as an int64 array or as an object array of strings, whatever sequence they came
    in."""
    if values is None:
        return None
    if not isinstance(values, np.ndarray):
        values = list(values) if isinstance(values, Iterable) else [values]
    # A list of strings must not become a fixed-width array: one long id would set the width of all.
    strings = not isinstance(values, np.ndarray) and len(values) > 0 and isinstance(values[0], str)
    array = np.asarray(values, dtype=object if strings else None)
    if array.dtype.kind in "iu" and (not array.size or _fits_64_bits(int(array.max()))):
        return array.astype(np.int64, copy=False)
    return np.asarray(values, dtype=object)


def _column(frame: Any, name: str) -> Any:
    columns = list(frame.keys()) if isinstance(frame, Mapping) else None
    if columns is None:
        columns = list(getattr(frame, "column_names", getattr(frame, "columns", [])))
    if name not in columns:
        raise ValueError(f"no column {name!r}; the columns are {', '.join(map(repr, columns))}")
    return frame[name]


def factorize(frame: Any, name: str) -> tuple[npt.NDArray[np.int64], Ids]:
    """Return each row's index among the column's sorted distinct values, and those values."""
    column = _column(frame, name)
    if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
        raise ValueError(
            f"column {name!r} must be a list, an array or a column of ids, got "
            f"{type(column).__name__}"
        )
    if isinstance(column, list | tuple):  # an array would make one type of several, silently
        listed = [v.item() if isinstance(v, np.generic) else v for v in column]
    else:
        values = np.asarray(column)
        if values.ndim != 1:
            raise ValueError(f"column {name!r} must have one dimension, got {values.ndim}")
        if values.dtype.kind in "iu":
            ids, codes = np.unique(values, return_inverse=True)
            return codes.astype(np.int64), ids
        listed = values.tolist()
    kinds = set(map(type, listed))
    if kinds == {int} and all(map(_fits_64_bits, listed)):
        return factorize({name: np.asarray(listed, dtype=np.int64)}, name)
    if not kinds <= {str} or "" in listed:
        _refuse_ids(name, listed)
    distinct = sorted(set(listed))
    index = {value: place for place, value in enumerate(distinct)}
    codes = np.fromiter(map(index.__getitem__, listed), np.int64, len(listed))
    return codes, np.asarray(distinct, dtype=object)


def _fits_64_bits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _refuse_ids(name: str, listed: list[Any]) -> NoReturn:
    for row, value in enumerate(listed):
        if is_missing(value) or value == "":
            raise ValueError(
                f"column {name!r}, row {row}: missing value ({value!r}); ids must not be missing "
                "or empty"
            )
    wanted = str if type(listed[0]) is str else int
    row = next(
        row
        for row, value in enumerate(listed)
        if type(value) is not wanted or (isinstance(value, int) and not _fits_64_bits(value))
    )
    raise ValueError(
        f"column {name!r}, row {row}: {listed[row]!r} is no id; ids are all integers of 64 bits or "
        "all strings"
    )


def weight_column(frame: Any, name: str, num_rows: int) -> npt.NDArray[np.float32]:
    """Return a column of finite positive numbers; a ValueError names the column and the row."""
    values = _column(frame, name)
    try:
        weights = np.array(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} must hold numbers: {error}") from error
    if weights.shape != (num_rows,):
        raise ValueError(f"column {name!r} must have {num_rows} rows, got {len(weights)}")
    wrong = (~(np.isfinite(weights) & (weights > 0))).nonzero()[0]
    if len(wrong):
        row, value = int(wrong[0]), weights[wrong[0]]
        problem = "missing value" if np.isnan(value) else f"{value} is no weight"
        raise ValueError(f"column {name!r}, row {row}: {problem}; weights are finite and positive")
    return weights


def order_column(frame: Any, name: str, num_rows: int) -> npt.NDArray[Any]:
    """Return a column of numbers or times as `checked_order` does; a ValueError names the
    column."""
    try:
        order = checked_order(_column(frame, name), num_rows)
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from error
    assert order is not None
    return order.numpy()


def take_ids(ids: Ids | None, nodes: Tensor) -> Ids:
    """Return the ids of some nodes; their indices if there are no ids."""
    kept = nodes.cpu().numpy()
    return kept.astype(np.int64) if ids is None else ids[kept]


def node_name(ids: Ids | None, index: int) -> str:
    """Return how a message names a node: by its id, or by its index if there are no ids."""
    return repr(index if ids is None else ids[index : index + 1].tolist()[0])


Id = int | str


def index_of_ids(ids: Any, count: int) -> dict[Id, int]:
    """Return each id's index; if there are no ids, indices serve as ids."""
    return {
        value: index for index, value in enumerate(range(count) if ids is None else ids.tolist())
    }
