"""Baselines that keep a model honest: popularity, and closed forms that score from a user's items.

The closed forms are linear in a user's row of the graph, so they also score users whom they were
not fitted on (`ItemScorer.for_users`). They are computed on the CPU, and the weights of weighted
edges are the values of the rows; popularity counts users, whatever the weights."""

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
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.nn.spectral import normalized_matrix
from lightgcn.ranking.inversion import check_memory, invert_, reflect_

Floats = npt.NDArray[np.floating[Any]]

# Entries of a block of rows that are formed at a time: at most 64 MiB of float32 where they are
# dense.
_BLOCK = 1 << 24
# Up to so many users or items all eigenvectors are computed, which takes a second or less.
_FEW_NODES = 1000


@dataclass(frozen=True, eq=False)
class ItemScorer:
    """Scores of all items for users whose items are known; `lightgcn.evaluate_scores` takes its
    ``scores``.

    Attributes:
        history: the users' items.
        score_rows: gives (B, num_items) scores for a (B, num_items) float32 SciPy CSR array: the
            rows of B users.
    """

    history: Interactions
    score_rows: Callable[[Any], Floats] = field(repr=False)

    def scores(self, users: Tensor) -> Tensor:
        """Return (B, num_items) float32 scores for (B,) users of ``history``, on their device; a
        closed form scores zero for a user without items.

        Raises:
            ValueError: if a user is out of range.
        """
        users = checked_indices("users", users, self.history.num_users, "num_users")
        scores = self.score_rows(self._rows[users.cpu().numpy()])
        return torch.from_numpy(scores.astype(np.float32, copy=False)).to(users.device)

    def for_users(self, history: Interactions) -> ItemScorer:
        """Return the scorer, fitted as it is, for other users: those of ``history``, over the same
        items.

        Raises:
            ValueError: if ``history`` is over another number of items.
        """
        history = checked_interactions("history", history)
        if history.num_items != self.history.num_items:
            raise ValueError(
                f"the scorer is of {self.history.num_items} items, the history is {history}"
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
    """Score an item by the summed similarity of those among the user's items that are its nearest.

    The similarity of two items is that of their columns, xᵢ·xⱼ / (|xᵢ| |xⱼ| + shrinkage) (Sarwar et
    al., WWW 2001). Of equally near items the first by index are kept.

    Args:
        train: the graph.
        neighbours: how many other items are an item's nearest.
        shrinkage: makes items of few users less similar; in the unit of a squared value.
        tf_idf: whether a column's values are √value · log(num_items / number of the user's items).
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``neighbours`` is less than 1 or ``shrinkage`` negative.
    """
    from scipy.sparse import csr_array, diags_array, vstack

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
    nearest = [csr_array((0, train.num_items), dtype=np.float32)]
    for first, end in _blocks(
        train.num_items, max(1, _BLOCK // max(train.num_items, 1)), "item_cosine", progress
    ):
        products = (columns[first:end] @ matrix).tocsr()
        nearest.append(_nearest(products, first, norms, neighbours, shrinkage))
    # A row of `nearest` has one item's nearest, a row of its transpose the items that one item is
    # near to.
    return ItemScorer(train, partial(_weighted_sum, weights=vstack(nearest).T.tocsr()))


def _nearest(products: Any, first: int, norms: Floats, neighbours: int, shrinkage: float) -> Any:
    """Return the similarities of each row's nearest items, from the dot products of the items from
    ``first`` on."""
    from scipy.sparse import csr_array

    products.sort_indices()
    rows = np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
    items = products.indices
    similarities = products.data / (norms[rows + first] * norms[items] + np.float32(shrinkage))
    similarities[items == rows + first] = -np.inf
    order = np.lexsort((-similarities, rows))
    place = np.arange(len(rows)) - products.indptr[rows]
    kept = order[place < neighbours]
    kept = kept[similarities[kept] > -np.inf]
    return csr_array((similarities[kept], (rows[kept], items[kept])), shape=products.shape)


def gf_cf(
    train: Interactions, rank: int = 256, ideal_weight: float = 0.3, *, progress: bool = False
) -> ItemScorer:
    """Score by a linear and an ideal low-pass filter of the graph: GF-CF (Shen et al., CIKM 2021;
    its authors' code).

    A user's row r gets r (R̃ᵀR̃ + w D^-½ V Vᵀ D^½), with R̃ the train matrix divided by the roots
    of both degrees (sums of weights), D the items' degrees, and V the right singular vectors of R̃
    with the largest singular values. Vectors of singular value zero are left out: they could be
    any.

    Args:
        train: the graph.
        rank: how many singular vectors, where there are as many.
        ideal_weight: w; 0 for the linear filter alone, which the authors take for Amazon-Book.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``rank`` is less than 1 or ``ideal_weight`` negative.
    """
    train = checked_interactions("train", train)
    checked_count("rank", rank, 1)
    checked_number("ideal_weight", ideal_weight, 0)
    normalized, items = normalized_matrix(train)
    by_item = np.divide(1, items, out=np.zeros_like(items), where=items > 0)
    directions = _leading_directions(normalized, rank if ideal_weight else 0, progress)
    normalized = normalized.astype(np.float32)
    filters = partial(
        _filtered,
        to_users=normalized.T.tocsr(),
        to_items=normalized,
        to_directions=(ideal_weight * by_item[:, None] * directions).astype(np.float32),
        from_directions=(directions.T * items).astype(np.float32),
    )
    return ItemScorer(train, filters)


def _filtered(
    rows: Any, to_users: Any, to_items: Any, to_directions: Floats, from_directions: Floats
) -> Floats:
    linear: Floats = (rows @ to_users @ to_items).toarray()
    linear += (rows @ to_directions) @ from_directions
    return linear


def _leading_directions(matrix: Any, rank: int, progress: bool) -> Floats:
    """Return (columns, at most ``rank``) orthonormal right singular vectors, largest singular value
    first."""
    from scipy.sparse.linalg import LinearOperator, eigsh
    from tqdm import tqdm

    if not rank or not matrix.nnz:
        return np.zeros((matrix.shape[1], 0))
    other = matrix.T.tocsr()
    wide = matrix.shape[0] < matrix.shape[1]
    left, right = (matrix, other) if wide else (other, matrix)
    size = left.shape[0]
    if size <= max(rank, _FEW_NODES):
        values, vectors = np.linalg.eigh((left @ right).toarray())
    else:
        with tqdm(desc="gf_cf", unit="product", disable=None if progress else True) as bar:

            def product(vector: Floats) -> Floats:
                bar.update()
                result: Floats = left @ (right @ vector)
                return result

            # A start of our own, so that the result is the same each time.
            start = np.random.default_rng(0).standard_normal(size)
            operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
            values, vectors = eigsh(operator, k=rank, v0=start)
    # Squares of singular values, of which the largest is 1.
    best = [index for index in np.argsort(-values)[:rank] if values[index] > 1e-10]
    values, vectors = values[best], vectors[:, best]
    return other @ vectors / np.sqrt(values) if wide else vectors


def ease(train: Interactions, l2: float = 100.0, *, progress: bool = False) -> ItemScorer:
    """Score by the linear item-item model of least squared error: EASE (Steck, WWW 2019), in closed
    form.

    B = I − P diag(1 / diag P) with P = (XᵀX + λI)⁻¹ minimises |X − XB|² + λ|B|² over all B of zero
    diagonal; a user's row x gets xB. B is (num_items, num_items) float32 and is formed in place:
    one such matrix is the peak of memory.

    Args:
        train: the graph, X.
        l2: λ.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``l2`` is not positive, or too small for float32, or the matrix does not fit
            in memory.
    """
    train = checked_interactions("train", train)
    checked_number("l2", l2)
    check_memory(train.num_items)
    matrix = train.to_scipy().astype(np.float32, copy=False)
    columns = matrix.T.tocsr()
    size = (train.num_items, train.num_items)
    weights = torch.empty(size, dtype=torch.float32, device="cpu")
    for first, end in _blocks(
        train.num_items, max(1, _BLOCK // max(train.num_items, 1)), "ease: XᵀX", progress
    ):
        (columns[first:end] @ matrix).toarray(out=weights[first:end].numpy())
    weights.diagonal().add_(l2)
    try:
        invert_(weights, progress=progress, title="ease: inverse")
    except ValueError as error:
        raise ValueError(
            f"l2={l2!r} is too small: XᵀX + l2 I has no inverse in float32; take a larger l2"
        ) from error
    reflect_(weights)
    weights.div_(-weights.diagonal().clone()).fill_diagonal_(0)
    return ItemScorer(train, partial(_weighted_sum, weights=weights.numpy()))


def _weighted_sum(rows: Any, weights: Any) -> Floats:
    scores = rows @ weights
    dense: Floats = scores if isinstance(scores, np.ndarray) else scores.toarray()
    return dense


def _blocks(count: int, size: int, title: str, progress: bool) -> Iterator[tuple[int, int]]:
    """Give the (first, end) of blocks of rows, behind a progress bar."""
    from tqdm import tqdm

    with tqdm(total=count, desc=title, unit="item", disable=None if progress else True) as bar:
        for first in range(0, count, size):
            end = min(first + size, count)
            yield first, end
            bar.update(end - first)
