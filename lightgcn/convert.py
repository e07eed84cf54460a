"""Interactions and embeddings converted from and to the types of other libraries.

For SciPy see `Interactions.from_scipy` and `Interactions.to_scipy`, for data frames
`Interactions.from_frame`. Other libraries are imported when a function needs them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_edge_index
from lightgcn.core.storage import write_atomic
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.index import warn_of_left_out

if TYPE_CHECKING:
    from lightgcn.recommender import Recommender


def from_homogeneous(edge_index: Any, num_users: int, num_items: int) -> Interactions:
    """Return the interactions of an ``edge_index`` in which item i is node ``num_users + i``, as in
    PyG.

    An edge may be there in one direction or in both; it is one edge.

    Args:
        edge_index: (2, E) integers in ``[0, num_users + num_items)``.
        num_users: number of users.
        num_items: number of items.

    Raises:
        ValueError: for another shape or dtype, a node out of range, or an edge between two users or
            two items.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1]])
        >>> from_homogeneous(edge_index, num_users=2, num_items=2).edge_index
        tensor([[0, 1],
                [0, 1]])
    """
    num_users, num_items = (
        checked_count("num_users", num_users),
        checked_count("num_items", num_items),
    )
    left, right = checked_edge_index(edge_index)
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
            f"user in [0, {num_users}) and an item in [{num_users}, {num_users + num_items}); "
            f"{len(wrong)} of {len(left)} edges are not"
        )
    return Interactions(low, high - num_users, num_users, num_items)


def to_homogeneous(interactions: Interactions) -> Tensor:
    """Return a (2, 2E) int64 ``edge_index`` of both directions, in which item i is node ``num_users
    + i``.

    Example:
        >>> to_homogeneous(Interactions([0, 1], [0, 1], num_users=2, num_items=2))
        tensor([[0, 1, 2, 3],
                [2, 3, 0, 1]])
    """
    interactions = checked_interactions("interactions", interactions)
    users, items = interactions.users, interactions.items + interactions.num_users
    return torch.stack([torch.cat([users, items]), torch.cat([items, users])])


def from_networkx(graph: Any, weight: str | None = None) -> Interactions:
    """Return the interactions of a NetworkX graph with the node attribute ``bipartite``: 0 for
    users, 1 for items.

    The names of the nodes become ids and are therefore all integers or all strings on each side. Of
    nodes ("user", id) and ("item", id), as `to_networkx` makes them, the id is the second part.

    Args:
        graph: an undirected graph without parallel edges.
        weight: name of the edge attribute with the weights, or None.

    Raises:
        ValueError: if the graph is directed or has parallel edges, a node has no ``bipartite`` of 0
            or 1, an edge joins two nodes of one side or has no number as weight, or names are
            neither all integers nor all strings.

    Example:
        >>> import networkx
        >>> graph = networkx.Graph([("ann", "song 1"), ("bob", "song 1")])
        >>> networkx.set_node_attributes(graph, {"ann": 0, "bob": 0, "song 1": 1}, "bipartite")
        >>> from_networkx(graph).user_ids
        array(['ann', 'bob'], dtype=object)
    """
    if not hasattr(graph, "is_directed"):
        raise TypeError(f"graph must be a NetworkX graph, got {type(graph).__name__}")
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
        torch.tensor([users, items], dtype=torch.int64, device="cpu"),
        *(len(side) for side in sides),
        weights=None if weight is None else weights,
        user_ids=sides[0],
        item_ids=sides[1],
    )


def to_networkx(interactions: Interactions) -> Any:
    """Return a NetworkX graph of nodes ("user", id) and ("item", id) with the attribute
    ``bipartite``: 0 for users, 1 for items.

    Without ids the indices are used. Edges of a weighted graph have a ``weight``.

    Example:
        >>> graph = to_networkx(Interactions([0], [1], num_users=1, num_items=2, user_ids=["ann"]))
        >>> list(graph.edges)
        [(('user', 'ann'), ('item', 1))]
    """
    import networkx

    interactions = checked_interactions("interactions", interactions)
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

    Embeddings are lists of float32. The dot product of a user's and an item's is the score, without
    what item kNN and user kNN add.

    Args:
        recommender: the recommender with the embeddings.
        folder: the folder to write to; it is created.

    Returns:
        The paths of the two files.

    Warns:
        UserWarning: if item kNN or user kNN is left out, with the measured overlap of the lists
            (`lightgcn.ranking.index`).

    Raises:
        ValueError: if pyarrow is not installed, or a text column is called "id" or "embedding".

    Example:
        >>> import tempfile
        >>> from lightgcn import LightGCN, Recommender
        >>> graph = Interactions([0, 1], [0, 1], num_users=2, num_items=2)
        >>> recommender = Recommender.from_model(LightGCN(2, 2, embedding_dim=4), graph)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in embeddings_to_parquet(recommender, folder)]
        ['users.parquet', 'items.parquet']
    """
    if not hasattr(recommender, "ranker"):
        raise TypeError(f"recommender must be a Recommender, got {type(recommender).__name__}")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow") from error
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
    warn_of_left_out("the dot product of the embeddings", recommender.ranker)
    return written
