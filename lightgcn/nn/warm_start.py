"""A model that starts from one that was trained earlier, on other users and items."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.core.seeding import make_generator
from lightgcn.graph.adjacency import normalized_adjacency
from lightgcn.graph.ids import Ids, index_of_ids
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.nn.model import LightGCN
from lightgcn.nn.model_io import check_whole


@torch.no_grad()
def warm_start(
    model: LightGCN,
    old_graph: Interactions,
    new_graph: Interactions,
    *,
    seed: int | torch.Generator = 0,
) -> LightGCN:
    """Return a model over the nodes of a new graph that starts from a trained one, on the CPU.

    Users and items are matched by id; without ids, by index. A node that the old graph lacks starts
    from the mean of the layer-0 embeddings of its neighbours in the new graph; one without such
    neighbours from normal noise of the old table's standard deviation. So does a node of the old
    graph that had no edge, whose embedding is untrained.

    Args:
        model: trained on ``old_graph``; it is not changed.
        old_graph: the graph whose users and items are those of the model.
        new_graph: the edges that may be used in training, such as ``split.val.message``.
        seed: of the noise.

    Returns:
        An untrained model of the same width, layers, normalisation and ranking, for `lightgcn.fit`.

    Raises:
        TypeError: if ``model`` is not a LightGCN.
        ValueError: if the old graph has other nodes than the model, or the graphs have no user and
            no item in common.

    Example:
        >>> import lightgcn
        >>> old = lightgcn.Interactions.from_frame({"user": ["ann"], "item": ["song 1"]})
        >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
        >>> new = lightgcn.Interactions.from_frame(plays)
        >>> model = lightgcn.warm_start(lightgcn.LightGCN(1, 1, 4), old, new)
        >>> model.num_users, model.num_items
        (2, 2)
        >>> bool((model.embedding[3] == model.embedding[0]).all())  # song 2, from ann
        True
    """
    if not isinstance(model, LightGCN):
        raise TypeError(f"model must be a LightGCN, got {type(model).__name__}")
    old_graph = checked_interactions("old_graph", old_graph).to("cpu")
    new_graph = checked_interactions("new_graph", new_graph).to("cpu")
    check_whole(model)
    if (model.num_users, model.num_items) != (old_graph.num_users, old_graph.num_items):
        raise ValueError(
            f"old_graph is {old_graph}, but the model has {model.num_users} users and "
            f"{model.num_items} items"
        )
    table = model.embedding.detach().cpu().float()
    start = table.new_zeros(new_graph.num_nodes, model.embedding_dim)
    known = torch.zeros(new_graph.num_nodes, dtype=torch.bool, device="cpu")
    shared = 0
    for places, trained, first, last in (
        (
            matches(
                old_graph.user_ids, old_graph.num_users, new_graph.user_ids, new_graph.num_users
            ),
            old_graph.user_degrees > 0,
            0,
            0,
        ),
        (
            matches(
                old_graph.item_ids, old_graph.num_items, new_graph.item_ids, new_graph.num_items
            ),
            old_graph.item_degrees > 0,
            old_graph.num_users,
            new_graph.num_users,
        ),
    ):
        both = (places >= 0).nonzero().flatten()
        shared += len(both)
        both = both[trained[places[both]]]
        start[last + both] = table[first + places[both]]
        known[last + both] = True
    if not shared:
        raise ValueError(
            f"the graphs have no user and no item in common: {_some_ids(old_graph)} and "
            f"{_some_ids(new_graph)}"
        )
    _start_of_others(start, known, new_graph, seed)
    users, items = start.split([new_graph.num_users, new_graph.num_items])
    alpha = model.alpha
    new = LightGCN(
        new_graph.num_users,
        new_graph.num_items,
        model.embedding_dim,
        model.num_layers,
        "learnable" if isinstance(alpha, Tensor) else alpha,
        init=(users, items),
    )
    new.normalization, new.ranking = model.normalization, model.ranking
    if isinstance(alpha, Tensor) and isinstance(new.alpha, Tensor):
        new.alpha.copy_(alpha)
    return new


def matches(old_ids: Ids | None, old_count: int, new_ids: Ids | None, new_count: int) -> Tensor:
    """Return (new_count,) int64: the old index of each new node, -1 for none."""
    old = index_of_ids(old_ids, old_count)
    new = index_of_ids(new_ids, new_count)
    return torch.tensor([old.get(name, -1) for name in new], dtype=torch.int64, device="cpu")


def _start_of_others(
    start: Tensor, known: Tensor, graph: Interactions, seed: int | torch.Generator
) -> None:
    """Fill the rows of nodes that are not known, in place."""
    adjacency = normalized_adjacency(graph, (0.0, 0.0))  # sums; weights count
    sums, weights = adjacency @ start, adjacency @ known.float().unsqueeze(1)
    near = ~known & (weights.squeeze(1) > 0)
    spread = float(start[known].std()) if bool(known.any()) else 0.0
    start[near] = sums[near] / weights[near]
    rest = ~known & ~near
    noise = torch.empty(int(rest.sum()), start.shape[1], dtype=torch.float32, device="cpu")
    start[rest] = noise.normal_(0.0, spread or 0.1, generator=make_generator(seed))


def _some_ids(graph: Interactions) -> str:
    ids = graph.item_ids
    if ids is None:
        return f"items 0 to {graph.num_items - 1}"
    return f"items such as {', '.join(map(repr, ids[:3].tolist()))}"
