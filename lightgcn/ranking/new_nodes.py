"""New users or items given by id, as `Recommender.add_users` and `add_items` take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lightgcn.core.checks import checked_number
from lightgcn.graph.ids import Id, Ids
from lightgcn.graph.interactions import Interactions


class NewNodes(NamedTuple):
    """``links``: a row per new node, over the nodes of the other side; an order by place in its
    list, for a repeated one by its latest. ``ids``: of all nodes of the side, the new ones last."""

    links: Interactions
    ids: Ids


def new_nodes(
    side: str,
    given: Mapping[Id, Any],
    graph: Interactions,
    find: Callable[[Id], int],
) -> NewNodes:
    """Return new nodes of a side ("user" or "item") and their links.

    Args:
        side: of the new nodes.
        given: a list of nodes of the other side by the id of each new node; if the graph is
            weighted, a dict of their weights.
        graph: the present nodes.
        find: returns the index of a node of the other side by its id.

    Raises:
        TypeError: if ``given`` is no dict.
        ValueError: naming the new node, if it is there already, has an id of another type or no
            links, a node of the other side is unknown, or weights are missing, wrong or too many.
    """
    other = "item" if side == "user" else "user"
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{side}s must be a dict of lists such as {{new {side}: [its {other}s]}}, got "
            f"{type(given).__name__}"
        )
    if not given:
        raise ValueError(f"{side}s is empty: there is nothing to add")
    ids, weighted = _all_ids(side, list(given), graph), graph.weights is not None
    rows, places, weights = [], [], []
    for row, (name, linked) in enumerate(given.items()):
        label = f"new {side} {name!r}"
        listed = _links(label, linked, other, weighted)
        if not listed:
            raise ValueError(f"{label} has no {other}s: it needs at least one")
        for each, weight in listed:
            try:
                places.append(find(each))
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            rows.append(row)
            weights.append(weight)
    pairs = torch.tensor([rows, places], dtype=torch.int64, device="cpu")
    count = graph.num_items if side == "user" else graph.num_users
    # Of a repeated pair a graph keeps the smallest order: each gets that of its latest place.
    latest = {pair: place for place, pair in enumerate(zip(rows, places, strict=True))}
    order = [latest[pair] for pair in zip(rows, places, strict=True)]
    links = Interactions.from_edge_index(
        pairs, len(given), count, weights=weights if weighted else None, order=order
    )
    return NewNodes(links, ids)


def _links(label: str, linked: Any, other: str, weighted: bool) -> list[tuple[Id, float]]:
    if weighted:
        if not isinstance(linked, Mapping):
            raise ValueError(
                f"{label}: the graph is weighted, so its {other}s must be a dict of weights, got "
                f"{linked!r:.80}"
            )
        return [
            (each, checked_number(f"{label}: weight of {each!r}", weight))
            for each, weight in linked.items()
        ]
    if isinstance(linked, str | bytes | Mapping) or not isinstance(linked, Iterable):
        raise ValueError(f"{label}: its {other}s must be a list, got {linked!r:.80}")
    values = linked.tolist() if isinstance(linked, torch.Tensor | np.ndarray) else linked
    return [(each, 1.0) for each in values]


def _all_ids(side: str, new: Sequence[Any], graph: Interactions) -> Ids:
    kept, count = (
        (graph.user_ids, graph.num_users) if side == "user" else (graph.item_ids, graph.num_items)
    )
    present = np.arange(count) if kept is None else kept
    integers = present.dtype.kind in "iu" if count else not isinstance(new[0], str)
    known = set(present.tolist())
    for name in new:
        fits = isinstance(name, int | np.integer) and not isinstance(name, bool)
        if fits != integers or not (fits or isinstance(name, str)) or name == "":
            kind = "integers" if integers else "strings"
            raise ValueError(f"new {side} {name!r}: the ids of {side}s are {kind}")
        if name in known:
            raise ValueError(f"new {side} {name!r}: there is such a {side} already")
    dtype = np.int64 if integers else object
    return np.concatenate([present.astype(dtype), np.asarray(list(new), dtype=dtype)])


def joined_columns(
    side: str, kept: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]], count: int
) -> dict[str, list[str]]:
    """Return the columns of present and ``count`` new nodes; "" where a column is not given.

    Raises:
        ValueError: for a column that the present nodes lack.
    """
    for name in new:
        if name not in kept:
            listed = ", ".join(map(repr, kept)) or "none"
            raise ValueError(f"no {side} column {name!r}; the columns are {listed}")
    return {name: [*values, *new.get(name, [""] * count)] for name, values in kept.items()}
