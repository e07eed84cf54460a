"""EASE with few weights for each item: no matrix of items × items."""

from __future__ import annotations

from functools import partial

import numpy as np

from lightgcn.core.checks import checked_count, checked_number
from lightgcn.core.sorting import largest_of_rows
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.baselines import ItemScorer, item_blocks, weighted_sum, without_diagonal


def sparse_ease(
    train: Interactions, l2: float = 100.0, neighbours: int = 200, *, progress: bool = False
) -> ItemScorer:
    """Score by EASE in which an item's score depends on its ``neighbours`` alone.

    The column of item j minimises |xⱼ − X b|² + λ|b|² over all b that are zero except for j's
    neighbours: the items whose weight would be largest if it were the only one, xᵢ·xⱼ / (|xᵢ|² + λ)
    (the restricted regressions of Steck, NeurIPS 2019, "Markov random fields for collaborative
    filtering"). Items without a common user are no neighbours. Each column is a system of
    ``neighbours`` equations; memory is 12 bytes for each weight.

    Args:
        train: the graph, X.
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
    from scipy.linalg import solve
    from scipy.sparse import csr_array, dia_array

    train = checked_interactions("train", train)
    checked_number("l2", l2)
    checked_count("neighbours", neighbours, 1)
    items = train.num_items
    matrix = train.to_scipy().astype(np.float64)
    columns, by_item = matrix.tocsc(), matrix.T.tocsr()
    squares = np.asarray((matrix * matrix).sum(axis=0)).ravel()
    alone = dia_array((1 / (squares + l2)[None], [0]), shape=(items, items)).tocsr()
    ends, chosen, weights = [0], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for first, end in item_blocks(items, "sparse_ease", progress):
        products = (by_item[first:end] @ matrix @ alone).tocsr()
        nearest = largest_of_rows(without_diagonal(products, first), neighbours)
        for row in range(end - first):
            entries = slice(*nearest.indptr[row : row + 2])
            near = nearest.indices[entries]
            if len(near):
                some = columns[:, near]
                gram = (some.T @ some).toarray()
                gram[np.diag_indices(len(near))] += l2
                target = nearest.data[entries] * (squares[near] + l2)
                weights.append(solve(gram, target, assume_a="pos").astype(np.float32))
                chosen.append(near)
            ends.append(ends[-1] + len(near))
    parts = (np.concatenate(weights), np.concatenate(chosen), np.array(ends))
    to_items = csr_array(parts, shape=(items, items)).T.tocsr()
    return ItemScorer(train, partial(weighted_sum, weights=to_items))
