"""Interactions and embeddings from and to what other libraries hold.

SciPy has `Interactions.from_scipy` and `Interactions.to_scipy`, data frames have
`Interactions.from_frame`. Nothing here imports another library before it is called for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_integers, checked_pairs
from lightgcn.core.storage import write_atomic
from lightgcn.graph.interactions import Interactions

if TYPE_CHECKING:
    from lightgcn.recommender import Recommender


def from_homogeneous(edge_index: Tensor, num_users: int, num_items: int) -> Interactions:
    """Return the interactions of an ``edge_index`` in which item i is node ``num_users + i``, as
    PyG has it.

    An edge may be there in one direction or in both; it is one edge.

    Args:
        edge_index: (2, E) integers in ``[0, num_users + num_items)``.
        num_users: number of users.
        num_items: number of items.

    Raises:
        ValueError: for another shape or dtype, a node out of range, or an edge between two users or
            two items.
    """
    num_users, num_items = (
        checked_count("num_users", num_users),
        checked_count("num_items", num_items),
    )
    left, right = (checked_integers("edge_index", side) for side in checked_pairs(edge_index))
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    wrong = (
        ((low < 0) | (low >= num_users) | (high < num_users) | (high >= num_users + num_items))
        .nonzero()
        .flatten()
    )
    if len(wrong):
        edge = int(wrong[0])
        raise ValueError(
            f"edge_index[:, {edge}] is ({int(left[edge])}, {int(right[edge])}), no edge between a "
            "user in "
            f"[0, {num_users}) and an item in [{num_users}, {num_users + num_items}); {len(wrong)} "
            "edges are not"
        )
    return Interactions(low, high - num_users, num_users, num_items)


def to_homogeneous(interactions: Interactions) -> Tensor:
    """Return a (2, 2E) int64 ``edge_index`` of both directions, in which item i is node ``num_users
    + i``."""
    users, items = interactions.users, interactions.items + interactions.num_users
    return torch.stack([torch.cat([users, items]), torch.cat([items, users])])


def from_networkx(graph: Any, weight: str | None = None) -> Interactions:
    """Return the interactions of a NetworkX graph whose nodes say by ``bipartite`` 0 that they are
    users, by 1 items.

    Nodes keep their names as ids, so these are all integers or all strings on either side; of nodes
    ("user", id) and ("item", id), as `to_networkx` makes them, the second part.

    Args:
        graph: an undirected graph without parallel edges.
        weight: name of the edges' weights, if they have any.

    Raises:
        ValueError: if the graph is directed or has parallel edges, a node does not say on which
            side it is, two of one side are joined, an edge has no such weight or one that is no
            number, or names are of several kinds.
    """
    if graph.is_directed() or graph.is_multigraph():
        raise ValueError(
            f"expected an undirected graph without parallel edges, got a {type(graph).__name__}: "
            "nx.Graph(g)"
        )
    sides: tuple[list[Any], list[Any]] = ([], [])
    index: dict[Any, int] = {}
    for node, side in graph.nodes(data="bipartite"):
        if not isinstance(side, int | np.integer) or side not in (0, 1):
            raise ValueError(
                f"node {node!r} must have bipartite=0 (a user) or bipartite=1 (an item), got "
                f"{side!r}"
            )
        index[node] = len(sides[side])
        kind = ("user", "item")[side]
        pair = isinstance(node, tuple) and len(node) == 2 and node[0] == kind
        sides[side].append(node[1] if pair else node)
    users, items, weights = [], [], []
    for left, right, value in graph.edges(data=weight, default=None):
        if graph.nodes[left]["bipartite"] == graph.nodes[right]["bipartite"]:
            raise ValueError(f"the edge between {left!r} and {right!r} joins two nodes of one side")
        user, item = (left, right) if graph.nodes[left]["bipartite"] == 0 else (right, left)
        if weight is not None and not isinstance(value, int | float | np.number):
            found = "no such number" if value is None else repr(value)
            raise ValueError(
                f"the edge between {left!r} and {right!r} must have a number as {weight!r}, got "
                f"{found}"
            )
        users.append(index[user])
        items.append(index[item])
        weights.append(value)
    return Interactions.from_edge_index(
        torch.tensor([users, items], dtype=torch.int64),
        *(len(side) for side in sides),
        weights=None if weight is None else torch.tensor(weights, dtype=torch.float32),
        user_ids=sides[0],
        item_ids=sides[1],
    )


def to_networkx(interactions: Interactions) -> Any:
    """Return a NetworkX graph of nodes ("user", id) and ("item", id), which say by ``bipartite`` 0
    or 1 what they are.

    Ids are indices where there are none. Edges of a weighted graph have a ``weight``.
    """
    import networkx

    graph = networkx.Graph()
    names = []
    for side, (kind, ids, count) in enumerate(
        (
            ("user", interactions.user_ids, interactions.num_users),
            ("item", interactions.item_ids, interactions.num_items),
        )
    ):
        names.append([(kind, name) for name in (range(count) if ids is None else ids.tolist())])
        graph.add_nodes_from(names[side], bipartite=side)
    edges = zip(interactions.users.tolist(), interactions.items.tolist(), strict=True)
    pairs = [(names[0][user], names[1][item]) for user, item in edges]
    if interactions.weights is None:
        graph.add_edges_from(pairs)
    else:
        triples = zip(pairs, interactions.weights.tolist(), strict=True)
        graph.add_weighted_edges_from((user, item, weight) for (user, item), weight in triples)
    return graph


def embeddings_to_parquet(recommender: Recommender, folder: str | Path) -> list[Path]:
    """Write ``users.parquet`` and ``items.parquet``: a row per node with its id, its text columns
    and its embedding.

    Embeddings are lists of float32; the dot product of a user's and an item's is the score, but for
    what neighbours add. (Extra ``lightgcn[parquet]``.)

    Raises:
        ValueError: if pyarrow is not installed, or a text column is called "id" or "embedding".
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError('Parquet needs pyarrow: pip install "lightgcn[parquet]"') from error
    folder = Path(folder)
    written = []
    seen = recommender.seen
    for kind, vectors, ids, columns in (
        ("users", recommender.ranker.users, seen.user_ids, recommender.user_columns),
        ("items", recommender.ranker.items, seen.item_ids, recommender.item_columns),
    ):
        rows = vectors.detach().cpu().float().contiguous().numpy()
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        names = list(range(len(rows))) if ids is None else ids.tolist()
        taken = {"id", "embedding"} & columns.keys()
        if taken:
            raise ValueError(
                f"{kind} have a column {taken.pop()!r}, which the file needs for itself: rename it"
            )
        table = pa.table({"id": names, **columns, "embedding": values})
        file = folder / f"{kind}.parquet"
        write_atomic(file, partial(pq.write_table, table))
        written.append(file)
    return written
