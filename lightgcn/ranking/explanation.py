"""A score as a sum over the user's items.

With x_u the user's final embedding, A the normalised adjacency and e_i^(k) the items after k
layers,

    x_u = α₀ e_u^(0) + Σ_j A_uj m_j,    m_j = Σ_{k≥1} αₖ e_j^(k-1)    (the fold-in table)

so item j of the user adds A_uj m_j · x_i to the score of item i, and what is left is due to the
user's own layer-0 embedding. Cosines divide by ‖x_u‖; time decay adds items by their age. Spectral
embeddings, item kNN and user kNN are sums over the user's items as they are, scaled by user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightgcn.graph.interactions import Interactions
from lightgcn.nn.config import RankingConfig
from lightgcn.nn.link_scores import unit_rows
from lightgcn.ranking.received import power
from lightgcn.ranking.residual import residual_of_links
from lightgcn.ranking.time_decay import decayed, latest_sums

if TYPE_CHECKING:
    from lightgcn.ranking.ranker import Ranker


class ScoreParts(NamedTuple):
    """A score (float), and what adds up to it, in float64.

    ``items`` (n,) int64 are those of the user; ``by_item`` has what each adds, (n,), by the part of
    the score that it adds it to; ``other`` has the terms that are not due to items."""

    score: float
    items: Tensor
    by_item: dict[str, Tensor]
    other: dict[str, float]


class UserScales(NamedTuple):
    """By what the embedding of a user is multiplied on its way to a row of ``Ranker.users``, and by
    what the sum of its latest directions: (num_users,) float32 each."""

    embedding: Tensor
    latest: Tensor

    def of_first(self, count: int) -> UserScales:
        """Return those of the first users."""
        return UserScales(self.embedding[:count].clone(), self.latest[:count].clone())


def user_scales(
    users: Tensor, items: Tensor, history: Interactions, config: RankingConfig
) -> UserScales:
    """Return the scales of (num_users, d) final embeddings.

    Args:
        users: the embeddings as they come from the model.
        items: (num_items, d), the same.
        history: the graph, `decayed` if the config has time decay.
        config: the parts of a score.
    """
    embedding = torch.ones(len(users), dtype=torch.float32, device=users.device)
    latest = torch.zeros_like(embedding)
    rows = users.float() if users.dtype.itemsize < 4 else users
    if config.time_decay:
        sums = latest_sums(items, history)
        embedding, latest = _inverse_norm(rows), config.time_decay_weight * _inverse_norm(sums)
        rows = rows * embedding.unsqueeze(1) + sums * latest.unsqueeze(1)
    if config.popularity_prior is not None:
        scale = _inverse_norm(rows)
        embedding, latest = embedding * scale, latest * scale
    return UserScales(embedding.float(), latest.float())


def _inverse_norm(rows: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.where(norms > 0, 1 / norms, 0.0)


@torch.no_grad()
def explain_score(ranker: Ranker, user: int, item: int) -> ScoreParts:
    """Return the score of a user and an item, both indices in range, and its parts.

    Raises:
        ValueError: if the ranker's scores are cosines or have time decay, and it lacks
            ``user_scales``.
    """
    config, chosen = ranker.config, torch.tensor([user], dtype=torch.int64, device=ranker.device)
    own = ranker.history.select_users(chosen)
    weights, latest = _counted_weights(ranker, own, chosen)
    row, target = ranker.users[user].double(), ranker.items[item].double()
    width = ranker.num_columns
    whole = float(row[:width] @ target[:width])
    by_item: dict[str, Tensor] = {}
    if ranker.fold_in_table is None:
        other = {"embedding": whole}
    else:
        by_item = _of_embedding(ranker, user, own.items, weights, latest, target[:width])
        other = {"own embedding": whole - sum(float(part.sum()) for part in by_item.values())}
    popularity = float(row[width] * target[width])
    if row[width]:
        other["popularity"] = popularity
    if ranker.spectral_scale is not None and ranker.spectral_variances is not None:
        table = ranker.items[:, width + 1 :]
        sent = table[own.items].double() * ranker.spectral_scale[own.items].double().unsqueeze(1)
        sent = sent * latest.unsqueeze(1)
        total = sent.sum(0)
        deviation = (total.square() @ ranker.spectral_variances.double()).sqrt().clamp(min=1e-12)
        by_item["spectral"] = sent @ target[width + 1 :] * config.spectral_weight / deviation
    by_item |= _of_neighbours(ranker, user, item)
    score = float(ranker.score_pairs(chosen, chosen.new_tensor([item])))
    return ScoreParts(score, own.items, by_item, other)


def _of_embedding(
    ranker: Ranker, user: int, items: Tensor, weights: Tensor, latest: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Return what messages of the user's items, and their order, add by way of the embeddings."""
    config, scales = ranker.config, ranker.user_scales
    scale, of_latest = 1.0, 0.0
    if scales is not None:
        scale, of_latest = float(scales.embedding[user]), float(scales.latest[user])
    elif config.popularity_prior is not None or config.time_decay:
        raise ValueError(
            "this ranker cannot explain a score: it lacks user_scales, the lengths of the users' "
            "embeddings; make it again by Ranker.from_model"
        )
    assert ranker.fold_in_table is not None
    sent = weights * power(weights.sum(), -ranker.user_exponent)
    parts = {"embedding": ranker.fold_in_table[items].double() @ target * sent * scale}
    if config.time_decay:
        directions = unit_rows(ranker.item_directions[items]).double()
        parts["time_decay"] = directions @ target * latest * of_latest
    return parts


def _of_neighbours(ranker: Ranker, user: int, item: int) -> dict[str, Tensor]:
    """Return what item kNN and user kNN add by each of the user's items."""
    chosen = torch.tensor([user], dtype=torch.int64, device=ranker.device)
    parts: dict[str, Tensor] = {}
    for name, part in (("item_knn", ranker.item_knn), ("user_knn", ranker.user_knn)):
        if part is None:
            continue
        gain = residual_of_links(part, chosen, chosen.new_tensor([item])).double().cpu()
        summands = torch.from_numpy(part.summands(chosen, item)).double()
        # The gain is their sum, scaled; a sum that is not positive is no gain.
        scale = gain / summands.sum() if float(gain) else 0.0
        parts[name] = (summands * scale).to(ranker.device)
    return parts


def _counted_weights(ranker: Ranker, own: Interactions, user: Tensor) -> tuple[Tensor, Tensor]:
    """Return by what each item of a user counts in its row, and with time decay: (n,) each; 0 for
    items that were added after the row was computed."""
    counted = torch.ones_like(own.items, dtype=torch.bool)
    if ranker.counted is not None:
        counted = ranker.counted[ranker.history.edge_positions(user)[1]]
    known = own.select(counted)
    graphs = known, decayed(known, ranker.config.time_decay) if ranker.config.time_decay else known
    weights, latest = (
        torch.zeros_like(counted, dtype=torch.float64).masked_scatter_(counted, _weights(graph))
        for graph in graphs
    )
    return weights, latest


def _weights(graph: Interactions) -> Tensor:
    if graph.weights is not None:
        return graph.weights.double()
    return torch.ones(graph.num_edges, dtype=torch.float64, device=graph.device)
