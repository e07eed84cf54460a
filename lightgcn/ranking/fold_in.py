"""New items and new users that stay, added to a `Ranker` without training.

A new node receives messages from its neighbours and sends none. Let m(u) be the messages of user u
to a new item (``Ranker.user_table``), w the weights of the edges and A = D⁻ᵃ P D⁻ᵇ. A new item i of
the users U has the final embedding

    z_i = Σ_{k≥1} αₖ Σ_{u ∈ U} A_iu e_u^(k-1) = n⁻ᵃ Σ_{u ∈ U} w_iu m(u)
    m(u) = d_u⁻ᵇ Σ_{k≥1} αₖ e_u^(k-1)        n = Σ_{u ∈ U} w_iu

The layer-0 term is zero, n is the item's own degree, and the degrees d_u and the layers e_u of the
other nodes are those of the graph without it. So the scores are those of the bigger graph in which
the new nodes only receive. The parts of a score for a new item:

    dot product or cosine, popularity prior    exact
    spectral embeddings                        exact: V_i = Σ⁻² Vᵀ R̃ᵀ r̃_i, with its own degree
    item kNN, "cosine"                         exact: as a neighbour, and with neighbours
    item kNN, "ease"                           absent: a regression has no weights for it
    user kNN                                   exact: that of the bigger graph
    time decay                                 users are not moved towards it; for item kNN and user
                                               kNN it is the latest item of its users
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.graph.ids import Ids
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.closed_forms import DEGREE_EXPONENT
from lightgcn.ranking.explanation import UserScales, user_scales
from lightgcn.ranking.item_knn import ItemKNN, joined_rows, largest_others, row_blocks
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.received import power, received, row_sums, weight_sums
from lightgcn.ranking.time_decay import decayed
from lightgcn.ranking.user_knn import UserKNN

# Similarities looked at at a time, at most.
_BLOCK = 1 << 22


@torch.no_grad()
def add_items(ranker: Ranker, links: Interactions, item_ids: Ids | None = None) -> Ranker:
    """Return a ranker with further items, which are numbered after the present ones.

    Args:
        ranker: made with ``new_items=True``.
        links: the users of the new items, over the ranker's users and the new items alone.
        item_ids: (num_items,) ids of all items, the new ones last; None for none.

    Raises:
        ValueError: if the ranker has no table of users, ``links`` is over other users or weighted
            otherwise than the ranker's graph, or none of an item's users sends messages.

    Example:
        >>> from lightgcn import Interactions, LightGCN, Ranker
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=2)
        >>> ranker = Ranker.from_model(LightGCN(2, 2, embedding_dim=4), graph, new_items=True)
        >>> add_items(ranker, Interactions([1], [0], num_users=2, num_items=1)).top_k(1).items
        tensor([[2],
                [0]])
    """
    table, history = ranker.user_table, ranker.history
    links = checked_interactions("links", links).to(ranker.device)
    if table is None:
        raise ValueError(
            "new items need a table of the users' messages, which this ranker lacks: make it with "
            "new_items=True"
        )
    if links.num_users != history.num_users:
        raise ValueError(f"links is {links}, but the ranker has {history.num_users} users")
    _check_weights("links", links, history)
    sends = table.any(1)
    unknown = torch.bincount(links.items[sends[links.users]], minlength=links.num_items) == 0
    if bool(unknown.any()):
        raise ValueError(
            f"new item {int(unknown.nonzero()[0])} has no user who sends messages: each needs one "
            "of the users that the ranker was made with, who has items"
        )
    linked = ranker.history.item_degrees > 0 if ranker.linked is None else ranker.linked
    # The graph that messages flow along: without what was added before.
    graph = history.select(sends[history.users] & linked[history.items])
    by_item = _transposed(links)
    rows = ranker.item_rows(received(by_item, table, ranker.user_exponent), by_item.user_degrees)
    parts = [rows, *_spectral_rows(ranker, graph, by_item)]
    new_rows = torch.cat([part.to(ranker.items.dtype) for part in parts], 1)
    grown = _grown(
        history, links, 0, history.num_items, user_ids=history.user_ids, item_ids=item_ids
    )
    weighted = decayed(grown, ranker.config.time_decay) if ranker.config.time_decay else grown
    knn, near = ranker.item_knn, ranker.user_knn
    if knn is not None:
        knn = ItemKNN(weighted, _grown_similarity(ranker, graph, links), knn.weight)
    if near is not None:
        near = _with_profiles(near, weighted, new_items=links)
    return replace(
        ranker,
        items=torch.cat([ranker.items, new_rows]),
        history=grown,
        item_knn=knn,
        fold_in_table=_padded(ranker.fold_in_table, links.num_items),
        linked=_padded(linked, links.num_items),
        spectral_scale=_padded(ranker.spectral_scale, links.num_items),
        user_knn=near,
        counted=_old_edges(ranker, grown),
    )


@torch.no_grad()
def add_users(ranker: Ranker, history: Interactions, user_ids: Ids | None = None) -> Ranker:
    """Return a ranker with further users, who are numbered after the present ones.

    Args:
        ranker: one that can fold in, and without side nodes.
        history: the items of the new users, as for `Ranker.fold_in`.
        user_ids: (num_users,) ids of all users, the new ones last; None for none.

    Raises:
        ValueError: as `Ranker.fold_in`, if ``history`` is weighted otherwise than the ranker's
            graph, or the ranker has user kNN with side nodes.

    Example:
        >>> from lightgcn import Interactions, LightGCN, Ranker
        >>> graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=2)
        >>> ranker = Ranker.from_model(LightGCN(2, 2, embedding_dim=4), graph)
        >>> add_users(ranker, Interactions([0], [1], num_users=1, num_items=2)).top_k(1).items
        tensor([[-1],
                [ 0],
                [ 0]])
    """
    known, near = ranker.history, ranker.user_knn
    history = checked_interactions("history", history)
    _check_weights("history", history, known)
    if near is not None and near.profiles.shape[0] != known.num_users:
        raise ValueError("users cannot be added to a ranker that has user kNN with side nodes")
    folded = ranker.fold_in(history)
    history = folded.history
    grown = _grown(known, history, known.num_users, 0, user_ids=user_ids, item_ids=known.item_ids)
    weighted = decayed(grown, ranker.config.time_decay) if ranker.config.time_decay else grown
    knn = ranker.item_knn
    return replace(
        ranker,
        users=torch.cat([ranker.users, folded.users]),
        history=grown,
        item_knn=knn and knn.for_users(weighted),
        linked=known.item_degrees > 0 if ranker.linked is None else ranker.linked,
        user_knn=near and _with_profiles(near, weighted, new_users=history),
        user_table=_padded(ranker.user_table, history.num_users),
        user_scales=_grown_scales(ranker, history),
        counted=_old_edges(ranker, grown),
    )


def _old_edges(ranker: Ranker, grown: Interactions) -> Tensor | None:
    """Return `Ranker.counted` of the grown history: edges of a present user and a new item do not
    count, all those of a new user do."""
    present = grown.users < len(ranker.users)
    if ranker.counted is None and not bool((present & (grown.items >= len(ranker.items))).any()):
        return None
    counted = torch.ones(grown.num_edges, dtype=torch.bool, device=grown.device)
    old = present & (grown.items < len(ranker.items))
    counted[present] = False
    # Edges are sorted by user, then item: those of the old graph are in the same order.
    counted[old] = True if ranker.counted is None else ranker.counted
    return counted


def _grown_scales(ranker: Ranker, history: Interactions) -> UserScales | None:
    """Return `Ranker.user_scales` with those of the users of ``history``."""
    scales, config = ranker.user_scales, ranker.config
    if scales is None or ranker.fold_in_table is None:
        return None
    users = received(history, ranker.fold_in_table, ranker.user_exponent)
    weighted = decayed(history, config.time_decay) if config.time_decay else history
    new = user_scales(users, ranker.item_directions, weighted, config)
    return UserScales(*(torch.cat(parts) for parts in zip(scales, new, strict=True)))


def _check_weights(name: str, links: Interactions, history: Interactions) -> None:
    if (links.weights is None) != (history.weights is None):
        wanted = "no weights" if history.weights is None else "weights"
        raise ValueError(f"{name} must have {wanted}, as the ranker's graph, got {links}")


def _transposed(links: Interactions) -> Interactions:
    return Interactions(
        links.items, links.users, links.num_items, links.num_users, weights=links.weights
    )


def _spectral_rows(ranker: Ranker, graph: Interactions, by_item: Interactions) -> list[Tensor]:
    """Return the spectral columns of new items in a list, (M, r); an empty list if there are none.

    The table has d^β V D with D a rotation. With X = R̃ V D, XᵀX = Dᵀ Σ² D, so a new column r̃ of R̃
    has the row r̃ᵀ X (XᵀX)⁻¹ of V D."""
    scale = ranker.spectral_scale
    if scale is None:
        return []
    columns = ranker.items[:, ranker.items.shape[1] - ranker.num_spectral :].double()
    # The items' degrees are in the scale, d^-2β.
    degrees = power(scale.double(), -1 / (2 * DEGREE_EXPONENT))
    vectors = columns * (power(degrees, -0.5 - DEGREE_EXPONENT)).unsqueeze(1)
    by_user = power(weight_sums(graph, graph.users, graph.num_users), -0.5).unsqueeze(1)
    images = row_sums(graph, vectors) * by_user
    own = weight_sums(by_item, by_item.users, by_item.num_users)
    sums = row_sums(by_item, images * by_user) * power(own, DEGREE_EXPONENT - 0.5).unsqueeze(1)
    return [sums @ torch.linalg.pinv(images.T @ images, hermitian=True)]


def _grown(
    history: Interactions, links: Interactions, first_user: int, first_item: int, **ids: Any
) -> Interactions:
    """Return the edges of both graphs, those of ``links`` at nodes from the first ones on; new
    edges of a graph with an order come last."""
    orders = None
    if history.order is not None:
        last = history.order.max() + 1 if history.num_edges else 0
        given = torch.zeros_like(links.users) if links.order is None else links.order
        orders = torch.cat([history.order, (given - given.min() + last).to(history.order.dtype)])
    weights = None
    if history.weights is not None and links.weights is not None:
        weights = torch.cat([history.weights, links.weights.to(history.weights.dtype)])
    new_users, new_items = (links.num_users, 0) if first_user else (0, links.num_items)
    return Interactions(
        torch.cat([history.users, links.users + first_user]),
        torch.cat([history.items, links.items + first_item]),
        history.num_users + new_users,
        history.num_items + new_items,
        weights,
        order=orders,
        **ids,
    )


def _grown_similarity(ranker: Ranker, graph: Interactions, links: Interactions) -> Any:
    """Return the matrix of item kNN with rows and columns for new items; they are empty for the
    weights of regressions."""
    from scipy.sparse import csr_array, hstack, vstack

    assert ranker.item_knn is not None
    old, new = graph.num_items, links.num_items
    similarity = ranker.item_knn.similarity
    if ranker.config.item_similarity == "ease":
        similarity = similarity.copy()
        similarity.resize((old + new, old + new))
        return similarity
    by_user = power(weight_sums(graph, graph.users, graph.num_users), -0.25).cpu().numpy()
    present, added = (
        _scaled(part, by_user, power(weight_sums(part, part.items, part.num_items), -0.5))
        for part in (graph, links)
    )
    # To all items: the present, then the new ones.
    near = (added.T.tocsr() @ hstack([present, added], format="csr")).tocsr()
    back = hstack([similarity, near[:, :old].T.tocsr()], format="csr")
    every = vstack([back, near], format="csr").astype(np.float32)
    found = [
        largest_others(every[first:end], np.arange(first, end), ranker.config.item_knn)
        for first, end in row_blocks(np.diff(every.indptr), _BLOCK, old + new)
    ]
    return csr_array(joined_rows(found, old + new))


def _scaled(graph: Interactions, by_user: Any, by_item: Tensor) -> Any:
    from scipy.sparse import diags_array

    matrix = graph.to_scipy().astype(np.float32)
    return (diags_array(by_user) @ matrix @ diags_array(by_item.cpu().numpy())).tocsr()


def _with_profiles(
    near: UserKNN,
    history: Interactions,
    *,
    new_items: Interactions | None = None,
    new_users: Interactions | None = None,
) -> UserKNN:
    """Return user kNN of the bigger graph for the users of ``history``."""
    from scipy.sparse import hstack, vstack

    join, added = (hstack, new_items) if new_users is None else (vstack, new_users)
    assert added is not None
    matrix = added.to_scipy().astype(np.float32)
    profiles = join([near.profiles, matrix], format="csr")
    return UserKNN.from_profiles(
        history, profiles, near.neighbours, near.weight, are_own=near.are_own
    )


def _padded(values: Tensor | None, count: int) -> Tensor | None:
    """Return (N + count, …): zeros after the rows; None for None."""
    if values is None:
        return None
    return torch.cat([values, values.new_zeros(count, *values.shape[1:])])
