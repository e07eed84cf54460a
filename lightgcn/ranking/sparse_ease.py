"""EASE with few weights for each item: no matrix of items × items."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from lightgcn.core.checks import INT32_END, checked_count, checked_number
from lightgcn.core.progress import progress_bar
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.baselines import ItemScorer, weighted_sum
from lightgcn.ranking.item_knn import joined_rows, largest_others

# Items whose systems are solved at a time.
_ITEMS = 64


def sparse_ease(
    train: Interactions, l2: float = 100.0, neighbours: int = 200, *, progress: bool = False
) -> ItemScorer:
    """Score by EASE in which an item's score depends on its ``neighbours`` alone.

    The weights are those of `ease_weights`.

    Args:
        train: the graph.
        l2: λ.
        neighbours: number of weights of an item, at most.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``l2`` is not positive or ``neighbours`` less than 1.

    Example:
        >>> import torch
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> sparse_ease(train, l2=1.0).scores(torch.tensor([1]))
        tensor([[0.0000, 0.3333]])
    """
    weights = ease_weights(train, neighbours, l2=l2, progress=progress, title="sparse_ease")
    return ItemScorer(train, partial(weighted_sum, weights=weights.T.tocsr()))


def ease_weights(
    train: Interactions,
    neighbours: int = 64,
    *,
    l2: float = 30.0,
    progress: bool = False,
    title: str = "EASE",
) -> Any:
    """Return the weights of EASE restricted to some neighbours of each item.

    The weights of item j minimise |xⱼ − X b|² + λ|b|² over all b that are zero except for j's
    neighbours: the items whose weight would be largest if it were the only one, xᵢ·xⱼ / (|xᵢ|² + λ)
    (the restricted regressions of Steck, NeurIPS 2019, "Markov random fields for collaborative
    filtering"). Items without a common user are no neighbours; ties break by item index. Each item
    is a system of ``neighbours`` equations; memory is 8 bytes for each weight.

    Args:
        train: the graph, X; weights count.
        neighbours: number of weights of an item, at most.
        l2: λ.
        progress: show a progress bar on a terminal.
        title: of the bar.

    Returns:
        (num_items, num_items) float32 SciPy CSR array: row j has the weights of j's neighbours.

    Raises:
        ValueError: if ``l2`` is not positive or ``neighbours`` less than 1.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> ease_weights(train, 1, l2=1.0).toarray().round(2)
        array([[0.  , 0.5 ],
               [0.33, 0.  ]], dtype=float32)
    """
    train = checked_interactions("train", train)
    checked_number("l2", l2)
    checked_count("neighbours", neighbours, 1)
    systems = _Systems(train, l2, neighbours)
    count = train.num_items
    size = max(1, min(_ITEMS, INT32_END // max(train.num_users, 1)))
    blocks = [(first, min(first + size, count)) for first in range(0, count, size)]
    found = []
    with (
        progress_bar(total=count, desc=title, unit="item", shown=progress) as bar,
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
    ):
        for (first, end), part in zip(blocks, threads.map(systems.solve, blocks), strict=True):
            found.append(part)
            bar.update(end - first)
    return joined_rows(found, count)


class _Systems:
    """The systems of equations of the items of a graph, for blocks of items at a time."""

    def __init__(self, train: Interactions, l2: float, neighbours: int) -> None:
        self.l2, self.neighbours, self.num_users = l2, neighbours, train.num_users
        matrix = train.to_scipy().astype(np.float32, copy=False)
        squares = np.asarray((matrix * matrix).sum(axis=0, dtype=np.float64)).ravel()
        self.alone = 1 / (squares + l2)
        self.by_item = matrix.T.tocsr()
        self.scaled = matrix.copy()
        self.scaled.data = (matrix.data * self.alone[matrix.indices]).astype(np.float32)

    def solve(self, block: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Return the weights of the items [first, end), their neighbours, and counts by item."""
        from scipy.sparse import csr_array

        first, end = block
        products = (self.by_item[first:end] @ self.scaled).tocsr()
        values, near, counts = largest_others(products, np.arange(first, end), self.neighbours)
        item = np.repeat(np.arange(end - first), counts)
        place = np.arange(len(near)) - np.repeat(np.cumsum(counts) - counts, counts)
        # A row for each neighbour of each item, with users of its own for each item: so one sparse
        # product forms the neighbours' inner products of all items.
        begins = self.by_item.indptr[near]
        lengths = self.by_item.indptr[near + 1] - begins
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        entries = np.arange(ends[-1]) - np.repeat(ends[:-1] - begins, lengths)
        users = self.by_item.indices[entries] + np.repeat(item * self.num_users, lengths)
        shape = (len(near), (end - first) * self.num_users)
        columns = csr_array((self.by_item.data[entries], users, ends), shape=shape)
        inner = (columns @ columns.T).tocsr()
        rows = np.repeat(np.arange(len(near)), np.diff(inner.indptr))
        width = int(counts.max(initial=0))
        gram = np.zeros((end - first, width, width))
        gram[item[rows], place[rows], place[inner.indices]] = inner.data
        gram[:, np.arange(width), np.arange(width)] += self.l2
        targets = np.zeros((end - first, width, 1))
        targets[item, place, 0] = values / self.alone[near]
        factors = torch.linalg.cholesky(torch.from_numpy(gram))
        weights = torch.cholesky_solve(torch.from_numpy(targets), factors)[..., 0].numpy()
        return weights[item, place].astype(np.float32), near, counts
