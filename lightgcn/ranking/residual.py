"""Residuals: terms that add to the dot products of some items of each user, such as item kNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightgcn.graph.interactions import Interactions

# Users whose gains are looked up at a time.
_USERS = 4096
Gains = tuple[Tensor, Tensor, Tensor]


class Residual(Protocol):
    """A term that adds to the dot products of some items of each user."""

    @property
    def history(self) -> Interactions:
        """The graph whose users and items the term covers."""

    def of_users(self, users: Tensor) -> Gains:
        """Return the terms of (B,) users, none negative and no pair twice: (n,) places in
        ``users``, (n,) items, (n,) float32."""


@dataclass(frozen=True, eq=False)
class ResidualSum:
    """The sum of some residuals, each of the same users and items."""

    parts: Sequence[Residual]

    @property
    def history(self) -> Interactions:
        return self.parts[0].history

    def of_users(self, users: Tensor) -> Gains:
        shape = len(users), self.history.num_items
        if users.device.type != "cpu":
            parts = [part.of_users(users) for part in self.parts]
            rows, items, values = (torch.cat(both) for both in zip(*parts, strict=True))
            return added_up(rows, items, values, shape[1])
        total = sum(gains_matrix(part.of_users(users), shape) for part in self.parts)
        return matrix_gains(total.tocsr(), users.device)


def residual_sum(*parts: Residual | None) -> Residual | None:
    """Return the sum of the residuals that are not None: None, the only one, or a sum."""
    some = [part for part in parts if part is not None]
    return ResidualSum(some) if len(some) > 1 else next(iter(some), None)


def residual_of_links(residual: Residual, users: Tensor, items: Tensor) -> Tensor:
    """Return the terms of (B,) pairs of a user and an item, (B,) float32."""
    distinct, place = users.unique(return_inverse=True)
    if users.device.type != "cpu":
        return _of_links_on_device(residual, distinct, place, items)
    order = place.argsort(stable=True)
    place, wanted = place[order].cpu().numpy(), items[order].cpu().numpy()
    gains = np.zeros(len(place), np.float32)
    shape = residual.history.num_items
    for first in range(0, len(distinct), _USERS):
        some = distinct[first : first + _USERS]
        begin, end = np.searchsorted(place, [first, first + len(some)])
        matrix = gains_matrix(residual.of_users(some), (len(some), shape))
        found = matrix[place[begin:end] - first, wanted[begin:end]]
        gains[begin:end] = np.asarray(found).ravel()
    result = torch.empty(len(gains), dtype=torch.float32, device=users.device)
    result[order] = torch.from_numpy(gains).to(users.device)
    return result


def _of_links_on_device(
    residual: Residual, distinct: Tensor, place: Tensor, items: Tensor
) -> Tensor:
    """The same without SciPy, for pairs of the user at ``place`` in ``distinct``."""
    count = residual.history.num_items
    result = torch.zeros(len(items), dtype=torch.float32, device=items.device)
    for first in range(0, len(distinct), _USERS):
        rows, near, values = residual.of_users(distinct[first : first + _USERS])
        if not len(values):
            continue
        keys, order = (rows * count + near).sort()
        wanted = (place - first) * count + items
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        result = torch.where(keys[at] == wanted, values[order[at]], result)
    return result


def added_up(rows: Tensor, items: Tensor, values: Tensor, num_items: int) -> Gains:
    """Return the sums of (n,) values by row and item, sorted; added up in the order given."""
    keys, order = (rows * num_items + items).sort(stable=True)
    keys, counts = torch.unique_consecutive(keys, return_counts=True)
    sums = torch.segment_reduce(values[order], "sum", lengths=counts, unsafe=True)
    rows = torch.div(keys, num_items, rounding_mode="floor")
    return rows, keys - rows * num_items, sums


def gains_matrix(gains: Gains, shape: tuple[int, int]) -> Any:
    """Return (B, num_items) SciPy CSR of `Residual.of_users`."""
    from scipy.sparse import csr_array

    rows, items, values = (part.cpu().numpy() for part in gains)
    return csr_array((values, (rows, items)), shape=shape)


def matrix_gains(matrix: Any, device: torch.device) -> Gains:
    """Return the inverse of `gains_matrix`, on a device."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    items = matrix.indices.astype(np.int64)
    return tuple(torch.from_numpy(part).to(device) for part in (rows, items, matrix.data))  # type: ignore[return-value]


def matrix_to_tensors(matrix: Any) -> dict[str, Tensor]:
    """Return a (R, C) CSR matrix as tensors: ``ends`` (R + 1,), ``items``, ``values``."""
    ends, items = (
        torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices)
    )
    return {"ends": ends, "items": items, "values": torch.from_numpy(matrix.data)}


def matrix_from_tensors(tensors: Mapping[str, Tensor], num_items: int) -> Any:
    """Return the matrix that `matrix_to_tensors` stored, with ``num_items`` columns.

    Raises:
        ValueError: if the tensors are no such matrix, or a value is not finite.
    """
    from scipy.sparse import csr_array

    ends, items, values = (tensors[name].numpy() for name in ("ends", "items", "values"))
    rises = ends.ndim == 1 and ends.size and ends[0] == 0 and bool((np.diff(ends) >= 0).all())
    if not rises or not ends[-1] == len(items) == len(values):
        raise ValueError("the rows of a matrix of neighbours do not fit its entries")
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"a neighbour is outside [0, {num_items})")
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise ValueError("the similarities of neighbours must be finite float32 numbers")
    return csr_array((values, items, ends), shape=(len(ends) - 1, num_items))


def check_residual(residual: Any, num_users: int, num_items: int) -> None:
    """Raise an error unless ``residual`` is None, or a term of so many users and items."""
    if residual is None:
        return
    if not hasattr(residual, "of_users"):
        raise TypeError(
            f"residual must be an ItemKNN, a UserKNN or None, got {type(residual).__name__}"
        )
    history = residual.history
    if (history.num_users, history.num_items) != (num_users, num_items):
        raise ValueError(
            f"the residual is of {history}, the embeddings are of {num_users} users and "
            f"{num_items} items"
        )
