"""Item kNN: the nearest neighbours of items, and the scores that they add to those of a model.

Narrow embeddings encode the kinds of items that a user likes; item kNN encodes which items occur
together, at the cost of one sparse matrix product. With S the items of user u and w the similarity
of `nearest_items`,

    score(u, i) = model score + weight · r(u, i) / max_j r(u, j),    r(u, i) = Σ_{j ∈ S} w(j, i)

and no gain where r is negative, as it can be with the weights of `ease_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import INT32_END, checked_count, checked_number
from lightgcn.core.progress import progress_bar
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.residual import Gains, added_up, matrix_gains, matrix_to_tensors

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32 | np.int64]

# Similarities computed at a time, at most: few enough to be sorted in cache.
_BLOCK = 1 << 19
# A sort key of 63 bits: a positive float32 takes 31, row and item share the other 32.
_VALUE_BITS, _FREE_BITS, _LARGEST = 31, 32, (1 << 31) - 1
# Users whose sums are computed at a time.
_USERS = 4096


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Scores from the nearest neighbours of a user's items, to be added to those of a model.

    Attributes:
        history: the users' items; a weighted item counts by its weight.
        similarity: (num_items, num_items) SciPy CSR: row j has the items nearest to item j.
        weight: the gain of the item that is nearest to the user's items, the largest gain.

    Raises:
        ValueError: if ``similarity`` has a wrong shape, or ``weight`` is negative or not finite.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=3)
        >>> item_knn = ItemKNN.from_graph(graph, neighbours=1, weight=0.5)
        >>> item_knn.of_users(torch.tensor([1]))
        (tensor([0]), tensor([1]), tensor([0.5000]))
    """

    history: Interactions
    similarity: Any = field(repr=False)
    weight: float

    def __post_init__(self) -> None:
        shape = (self.history.num_items,) * 2
        if self.similarity.shape != shape:
            raise ValueError(f"similarity must be of shape {shape}, got {self.similarity.shape}")
        checked_number("weight", self.weight, 0)

    @classmethod
    def from_graph(cls, train: Interactions, neighbours: int = 20, weight: float = 0.2) -> ItemKNN:
        """Return item kNN with the similarities and for the users of a graph.

        Args:
            train: the graph; weights count.
            neighbours: number of nearest other items to keep of each item.
            weight: the largest gain of a score.

        Raises:
            ValueError: if ``neighbours`` < 1, or ``weight`` is negative or not finite.
        """
        return cls(train, nearest_items(train, neighbours), weight)

    def for_users(self, history: Interactions) -> ItemKNN:
        """Return the same similarities for the users of another graph."""
        other = replace(self, history=history)
        if "_neighbours" in self.__dict__ and history.device == self.history.device:
            other.__dict__["_neighbours"] = self._neighbours
        return other

    def of_users(self, users: Tensor) -> Gains:
        """Return the gains of (B,) users: (n,) rows of ``users``, sorted, (n,) items, (n,)
        float32."""
        from scipy.sparse import vstack

        if users.device.type != "cpu" and self.history.device == users.device:
            return self._gains_on_device(users)
        histories = history_rows(self.history, users)
        # A row is not sorted by item, because that takes as long as the product.
        found = [
            (histories[first : first + _USERS] @ self.similarity).tocsr()
            for first in range(0, max(1, len(users)), _USERS)
        ]
        sums = found[0] if len(found) == 1 else vstack(found, format="csr")
        return largest_gain(self.weight, sums, users.device)

    def _gains_on_device(self, users: Tensor) -> Gains:
        """The same without SciPy: the products of all pairs of an item of a user and a neighbour
        of it, sorted by user and neighbour, and added up in that order."""
        history, (ends, near, similarity) = self.history, self._neighbours
        rows, edges = history.edge_positions(users)
        own = history.items[edges]
        # Each of the user's items once for each of its neighbours.
        counts = ends[own + 1] - ends[own]
        pairs = torch.repeat_interleave(counts)
        place = torch.arange(len(pairs), dtype=torch.int64, device=users.device)
        place += (ends[own] - (counts.cumsum(0) - counts))[pairs]
        products = similarity[place]
        if history.weights is not None:
            products = products * history.weights[edges].float()[pairs]
        rows, items, sums = added_up(rows[pairs], near[place], products, history.num_items)
        largest = sums.new_zeros(len(users)).scatter_reduce_(0, rows, sums, "amax")
        scale = torch.where(largest > 0, self.weight / largest, 0.0)
        return rows, items, sums.clamp_(min=0).mul_(scale[rows])

    @cached_property
    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """``similarity`` on the device of the history: (num_items + 1,) ends of its rows, (n,)
        neighbours, (n,) float32."""
        parts = matrix_to_tensors(self.similarity).values()
        ends, near, values = (part.to(self.history.device) for part in parts)
        return ends, near, values.float()

    def summands(self, user: Tensor, item: int) -> Floats:
        """Return what each item in the history of one user (1,) adds to r(user, item), (n,)."""
        row = history_rows(self.history, user)
        summands: Floats = row.data * self.similarity[row.indices][:, [item]].toarray().ravel()
        return summands


def history_rows(graph: Interactions, users: Tensor) -> Any:
    """Return the rows of (B,) users of a graph, (B, num_items) SciPy CSR."""
    from scipy.sparse import csr_array

    users = users.to(graph.device)
    _, places = graph.edge_positions(users)
    items, ends = graph.items[places], graph.user_degrees[users].cumsum(0)
    weights = graph.weights
    values = (
        torch.ones(len(items), dtype=torch.float32, device="cpu")
        if weights is None
        else weights[places].float()
    )
    narrow = torch.int32 if max(len(items), graph.num_items) < INT32_END else torch.int64
    columns, row_ends = (part.to("cpu", narrow).numpy() for part in (items, F.pad(ends, (1, 0))))
    return csr_array((values.cpu().numpy(), columns, row_ends), (len(users), graph.num_items))


def largest_gain(weight: float, sums: Any, device: torch.device) -> Gains:
    """Return the gains of (B, num_items) CSR sums, scaled so that the largest of a row is
    ``weight``; those below 0 become 0. The sums are overwritten."""
    scale = np.zeros(sums.shape[0], np.float32)
    some = np.diff(sums.indptr) > 0
    if some.any():
        largest = np.maximum.reduceat(sums.data, sums.indptr[:-1][some])
        scale[some] = np.divide(weight, largest, out=np.zeros_like(largest), where=largest > 0)
        np.maximum(sums.data, 0, out=sums.data)
    sums.data *= np.repeat(scale, np.diff(sums.indptr))
    return matrix_gains(sums, device)


def nearest_items(train: Interactions, neighbours: int = 20, *, progress: bool = False) -> Any:
    """Return the ``neighbours`` nearest other items of each item.

    The similarity of i and j is Σ_u d_u^-½ r_ui r_uj / √(d_i d_j) with d the degrees: the cosine of
    the two items' columns, with users of many items weighted down. Ties break by item index; items
    without a common user are not neighbours.

    Args:
        train: the graph; weights count.
        neighbours: number of items to keep of each item.
        progress: show a progress bar on a terminal.

    Returns:
        (num_items, num_items) float32 SciPy CSR array of similarities.

    Raises:
        ValueError: if ``neighbours`` < 1.

    Example:
        >>> graph = Interactions([0, 0, 1, 1], [0, 1, 1, 2], num_users=2, num_items=3)
        >>> nearest_items(graph, 1).toarray().round(2)
        array([[0. , 0.5, 0. ],
               [0.5, 0. , 0. ],
               [0. , 0.5, 0. ]], dtype=float32)
    """
    from scipy.sparse import diags_array

    train = checked_interactions("train", train)
    neighbours = checked_count("neighbours", neighbours, 1)
    matrix, count = train.to_scipy().astype(np.float32, copy=False), train.num_items
    users, items = (np.asarray(matrix.sum(axis=axis)) for axis in (1, 0))
    by_user = np.power(users, -0.25, out=np.zeros_like(users), where=users > 0)
    by_item = np.power(items, -0.5, out=np.zeros_like(items), where=items > 0)
    scaled = (diags_array(by_user) @ matrix @ diags_array(by_item)).tocsr().astype(np.float32)
    columns = scaled.T.tocsr()
    # An item has at most as many similarities as its users have items.
    most = torch.zeros(count, dtype=torch.int64, device="cpu").index_add_(
        0, train.items.cpu(), train.user_degrees.cpu()[train.users.cpu()]
    )
    found: list[tuple[Floats, Integers, Integers]] = []
    with progress_bar(total=count, desc="neighbours", unit="item", shown=progress) as bar:
        for first, end in row_blocks(most.numpy(), _BLOCK, count):
            products = (columns[first:end] @ scaled).tocsr()
            found.append(largest_others(products, np.arange(first, end), neighbours))
            bar.update(end - first)
    return joined_rows(found, count)


def joined_rows(found: Sequence[tuple[Floats, Integers, Integers]], count: int) -> Any:
    """Return the (count, count) CSR array of blocks of rows: values, columns, counts by row."""
    from scipy.sparse import csr_array

    if not found:
        return csr_array((count, count), dtype=np.float32)
    values, near, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return csr_array((values, near, np.concatenate([[0], np.cumsum(counts)])), shape=(count, count))


def row_blocks(
    entries: npt.NDArray[np.int64], most: int, num_columns: int
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of blocks of rows for `largest_others`: one row, or as many as have
    ``most`` entries together, at most, and fit its sort keys.

    Args:
        entries: (R,) an upper bound on each row's entries.
        most: entries of a block.
        num_columns: of the matrix.
    """
    ends = np.concatenate([[0], np.cumsum(entries)])
    rows = 1 << min(_FREE_BITS - _item_bits(num_columns), 20)
    first, count = 0, len(entries)
    while first < count:
        end = int(np.searchsorted(ends, ends[first] + most, side="right")) - 1
        end = min(max(end, first + 1), first + rows)
        yield first, end
        first = end


def largest_others(
    similarities: Any, own: npt.NDArray[np.int64], neighbours: int
) -> tuple[Floats, Integers, Integers]:
    """Return each row's largest entries without its ``own`` column: values, columns, counts by row.
    There are as many rows as in a block of `row_blocks`, at most.

    Each entry becomes one integer of row, descending value and item: sorting integers takes a tenth
    of the time of sorting by several keys, and ties break by item."""
    size, item_bits = similarities.shape[0], _item_bits(similarities.shape[1])
    rows = np.repeat(np.arange(size), np.diff(similarities.indptr))
    items, values = similarities.indices.astype(np.int64), similarities.data
    other = (items != own[rows]) & (values > 0)
    rows, items, values = rows[other], items[other], values[other]
    # The bits of positive floats are in the order of the floats.
    descending = _LARGEST - values.view(np.int32).astype(np.int64)
    keys = np.sort((rows << (_VALUE_BITS + item_bits)) | (descending << item_bits) | items)
    counts = np.bincount(rows, minlength=size)
    place = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = keys[place < neighbours]
    kept = (_LARGEST - ((keys >> item_bits) & _LARGEST)).astype(np.int32).view(np.float32)
    near = keys & ((1 << item_bits) - 1)
    # int32 if it suffices, as SciPy does: for millions of items these take gigabytes.
    return (
        kept,
        near.astype(np.int32 if item_bits < 32 else np.int64),
        np.minimum(counts, neighbours),
    )


def _item_bits(num_items: int) -> int:
    return max(num_items - 1, 1).bit_length()
