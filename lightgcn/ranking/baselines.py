"""Baselines: popularity, and closed forms that score from a user's items.

The closed forms are linear in a user's row of the graph, so they also score users on whom they were
not fitted (`ItemScorer.for_users`). They are computed on the CPU, and edge weights are the values
of the rows. Popularity counts users and ignores weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_indices, checked_number
from lightgcn.core.memory import available_memory
from lightgcn.core.progress import progress_bar
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.item_knn import joined_rows, largest_others

Floats = npt.NDArray[np.floating[Any]]

# Entries of a block of rows: at most 64 MiB of float32 if dense.
_BLOCK = 1 << 24
# Rows of a square matrix that are worked on at a time.
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class ItemScorer:
    """Scores of all items from a user's items; pass its ``scores`` to `lightgcn.evaluate_scores`.

    Attributes:
        history: the users' items.
        score_rows: maps the rows of B users, a (B, num_items) float32 SciPy CSR array, to
            (B, num_items) scores.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> scorer = item_cosine(train, shrinkage=0)
        >>> new_users = Interactions([0], [1], num_users=1, num_items=2)
        >>> scorer.for_users(new_users).scores(torch.tensor([0]))
        tensor([[0.7071, 0.0000]])
    """

    history: Interactions
    score_rows: Callable[[Any], Floats] = field(repr=False)

    def scores(self, users: Tensor) -> Tensor:
        """Return (B, num_items) float32 scores for (B,) users of ``history``, on their device.

        A closed form scores zero for a user without items.

        Raises:
            ValueError: if a user is out of range.
        """
        users = checked_indices("users", users, self.history.num_users, "num_users")
        scores = self.score_rows(self._rows[users.cpu().numpy()])
        return torch.from_numpy(scores.astype(np.float32, copy=False)).to(users.device)

    def for_users(self, history: Interactions) -> ItemScorer:
        """Return the fitted scorer for the users of ``history``, which is over the same items.

        Raises:
            ValueError: if ``history`` has a different number of items.
        """
        history = checked_interactions("history", history)
        if history.num_items != self.history.num_items:
            raise ValueError(
                f"history is {history}, but the scorer has {self.history.num_items} items"
            )
        return replace(self, history=history)

    @cached_property
    def _rows(self) -> Any:
        return self.history.to_scipy().astype(np.float32, copy=False)


def popularity(train: Interactions) -> ItemScorer:
    """Score an item by its number of users, the same for every user.

    Example:
        >>> import torch
        >>> graph = Interactions([0, 1, 1], [0, 0, 1], num_users=2, num_items=3)
        >>> popularity(graph).scores(torch.tensor([0]))
        tensor([[2., 1., 0.]])
    """
    train = checked_interactions("train", train)
    counts = train.item_degrees.cpu().numpy().astype(np.float32)
    return ItemScorer(train, partial(_same_for_all, scores=counts))


def _same_for_all(rows: Any, scores: Floats) -> Floats:
    return np.tile(scores, (rows.shape[0], 1))


def item_cosine(
    train: Interactions,
    neighbours: int = 100,
    *,
    shrinkage: float = 30.0,
    tf_idf: bool = False,
    progress: bool = False,
) -> ItemScorer:
    """Score an item by its summed similarity to those of the user's items that are its neighbours.

    The similarity of two items is xᵢ·xⱼ / (|xᵢ| |xⱼ| + shrinkage) of their columns (Sarwar et al.,
    WWW 2001). Ties break by item index.

    Args:
        train: the graph.
        neighbours: number of neighbours of an item.
        shrinkage: makes items of few users less similar; in the unit of a squared value.
        tf_idf: whether a column's values are √value · log(num_items / number of the user's items).
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``neighbours`` is less than 1 or ``shrinkage`` negative.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> item_cosine(train, shrinkage=0).scores(torch.tensor([1]))
        tensor([[0.0000, 0.7071]])
    """
    from scipy.sparse import diags_array

    train = checked_interactions("train", train)
    checked_count("neighbours", neighbours, 1)
    checked_number("shrinkage", shrinkage, 0)
    matrix = train.to_scipy().astype(np.float32, copy=False)
    if tf_idf:
        rarity = np.log(train.num_items / np.maximum(train.user_degrees.cpu().numpy(), 1)).astype(
            np.float32
        )
        matrix = (diags_array(rarity) @ matrix.sqrt()).tocsr()
    norms = np.sqrt((matrix * matrix).sum(axis=0))
    columns = matrix.T.tocsr()
    found = []
    for first, end in _blocks(train.num_items, "item_cosine", progress):
        products = (columns[first:end] @ matrix).tocsr()
        rows = np.repeat(np.arange(first, end), np.diff(products.indptr))
        scale = norms[rows] * norms[products.indices] + np.float32(shrinkage)
        products.data = np.divide(
            products.data, scale, out=np.zeros_like(products.data), where=scale > 0
        )
        found.append(largest_others(products, np.arange(first, end), neighbours))
    # Row i of the result has the neighbours of i; row j of its transpose the items that have
    # neighbour j.
    nearest = joined_rows(found, train.num_items)
    return ItemScorer(train, partial(weighted_sum, weights=nearest.T.tocsr()))


def ease(train: Interactions, l2: float = 100.0, *, progress: bool = False) -> ItemScorer:
    """Score by EASE (Steck, WWW 2019), the linear item-item model of least squared error.

    B = I − P diag(1 / diag P) with P = (XᵀX + λI)⁻¹ minimises |X − XB|² + λ|B|² over all B of zero
    diagonal; the scores of a user's row x are xB. B is (num_items, num_items) float32, computed in
    place: peak memory is one such matrix.

    Args:
        train: the graph, X.
        l2: λ.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``l2`` is not positive, or too small for float32, or the matrix does not fit
            in memory.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> ease(train, l2=1.0).scores(torch.tensor([1]))
        tensor([[0.0000, 0.3333]])
    """
    train = checked_interactions("train", train)
    checked_number("l2", l2)
    check_memory(train.num_items)
    matrix = train.to_scipy().astype(np.float32, copy=False)
    columns = matrix.T.tocsr()
    size = (train.num_items, train.num_items)
    weights = torch.empty(size, dtype=torch.float32, device="cpu")
    for first, end in _blocks(train.num_items, "ease: XᵀX", progress):
        (columns[first:end] @ matrix).toarray(out=weights[first:end].numpy())
    weights.diagonal().add_(l2)
    if train.num_items and not _invert_(weights):
        raise ValueError(
            f"l2={l2!r} is too small: XᵀX + l2 I has no inverse in float32; use a larger l2"
        )
    weights.div_(-weights.diagonal().clone()).fill_diagonal_(0)
    return ItemScorer(train, partial(weighted_sum, weights=weights.numpy()))


def check_memory(num_items: int) -> None:
    """Raise a ValueError if EASE of ``num_items`` items needs more memory than is available."""
    needed = 4 * num_items * (num_items + 4 * _ROWS)
    available = available_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"EASE of {num_items:,} items needs {needed / 1e9:.1f} GB of memory (num_items² "
            f"float32), {available / 1e9:.1f} GB are available; leave it out, or keep fewer items "
            "(lightgcn.graph.k_core)"
        )


def _invert_(matrix: Tensor) -> bool:
    """Overwrite a symmetric matrix with its inverse, without a second matrix; return whether it is
    positive definite."""
    from scipy.linalg import lapack

    # The transposed view is in LAPACK's order, so that it works in place. Its lower triangle is
    # the upper one here.
    factor, failed = lapack.spotrf(matrix.numpy().T, lower=1, clean=0, overwrite_a=1)
    if failed == 0:
        _, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    for first in range(0, len(matrix), _ROWS):
        rows = slice(first, first + _ROWS)
        corner = matrix[rows, rows]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[first + _ROWS :, rows] = matrix[rows, first + _ROWS :].T
    return bool(failed == 0)


def weighted_sum(rows: Any, weights: Any) -> Floats:
    scores = rows @ weights
    dense: Floats = scores if isinstance(scores, np.ndarray) else scores.toarray()
    return dense


def _blocks(count: int, title: str, progress: bool) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of blocks of rows of a square matrix of items, with a progress bar."""
    size = max(1, _BLOCK // max(count, 1))
    with progress_bar(total=count, desc=title, unit="item", shown=progress) as bar:
        for first in range(0, count, size):
            end = min(first + size, count)
            yield first, end
            bar.update(end - first)
