"""The parts of a score and their weights, chosen on validation links after training.

A score is a sum of parts, each the scores of one method, times weights. So the parts are computed
once, for the items that may reach the top of a list, and any weights are tried by adding them: from
usual weights one at a time is changed as long as the validation metric gains. A part that is worth
less than 0.2 % is left out. What is found is compared among all items, and on more users.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, link_set
from lightgcn.nn.config import RankingConfig, Similarity
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.closed_forms import ClosedForms
from lightgcn.ranking.evaluation import evaluate_users
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.metrics import RANKING_METRICS, lower_is_better, parse_objective
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.residual import Residual
from lightgcn.ranking.time_decay import decayed, order_is_informative
from lightgcn.ranking.topk import check_k, highest

# Best items of each part that are candidates, and scores that are formed at a time.
_DEPTH, _CHUNK = 150, 1 << 22
# The least gain, relative, that a part must be worth.
_LEAST_WORTH = 0.002
# Above so many edges only the parts that are quick to compute are tried.
MOST_EDGES = 20_000_000
# Defaults of parts that the model's own settings leave out.
_COSINE_NEIGHBOURS, _EASE_NEIGHBOURS, _SIMILAR_USERS, _RANK = 20, 64, 50, 512
# Entries of the spectral embeddings, at most; of more nodes they have fewer columns.
_ENTRIES = 1 << 28
_DECAYS = ((1.0, 0.5), (1.0, 1.0), (2.0, 1.0))
# Weights to start from, beside cosines: within 2 times of the best ones on three data sets.
_USUAL_PRIOR, _USUAL_ITEM_GAIN, _USUAL_USER_GAIN, _USUAL_SPECTRAL = 0.13, 0.4, 0.3, 0.006
# Of the usual weights, the best ones to start from; of what is found, the best ones of different
# kinds to measure among all items, with and without an order.
_STARTS, _FINALS = 3, 2
# Users of the search.
_SEARCHED = 4000
# None is 0, from which a weight would not come back; `_Parts.without_idle` leaves parts out.
_FACTORS = (0.25, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0)
_SWEEPS = 6

Weights = dict[str, float]
Worth = dict[str, float]
# An encoder's scores as a part, and the others.
_COSINE, _DOT, _PRIOR, _SPECTRAL = "cosine", "dot product", "popularity prior", "spectral"
_USER_KNN = "user kNN"
_BASES = (_COSINE, _DOT)
_KNN: dict[Similarity, str] = {"cosine": "item kNN", "ease": "sparse EASE"}


@dataclass(frozen=True)
class RankingChoice:
    """The outcome of `choose_ranking`.

    Attributes:
        config: the parts and their weights.
        values: validation metrics with them.
        alone: the same metrics of the encoder alone, by cosine or dot product.
        before: the same metrics with the settings that the model had.
        worth: by part, how much of what is maximised is lost without it, relative, by the search's
            estimate; empty if nothing is better than the settings that the model had.
        num_users: number of validation users.

    Example:
        >>> found = {"recall@20": 0.2, "ndcg@20": 0.1}
        >>> worth = {"popularity prior": 0.05}
        >>> choice = RankingChoice(RankingConfig(0.1), found, found, found, worth, num_users=9)
        >>> str(choice).split(" (")[0]
        'recall@20 0.2000 ndcg@20 0.1000 by cosine and popularity prior +5.0%'
    """

    config: RankingConfig
    values: dict[str, float]
    alone: dict[str, float]
    before: dict[str, float]
    worth: dict[str, float]
    num_users: int

    def __str__(self) -> str:
        gains = ", ".join(f"{part} {share:+.1%}" for part, share in self.worth.items())
        values, alone = (
            " ".join(f"{name} {value:.4f}" for name, value in found.items())
            for found in (self.values, self.alone)
        )
        base = _DOT if self.config.popularity_prior is None else _COSINE
        if self.config.time_decay:
            gains += f"{', ' if gains else ''}order: time decay {self.config.time_decay:g}"
        return f"{values} by {base}{' and ' if gains else ''}{gains} (encoder alone {alone})"


def choose_ranking(
    model: LightGCN,
    links: LinkSet,
    metric: str = "recall@20",
    *,
    use_order: bool = True,
    num_users: int = 12000,
    seed: int = 0,
    progress: bool = False,
) -> RankingChoice:
    """Choose the parts of a trained model's scores, and their weights, on validation links.

    The parts are the cosine or dot product of the embeddings, the popularity prior, spectral
    embeddings, item kNN by cosine or by regression weights, user kNN, and time decay if the graph
    has an order. Recall and NDCG count alike. The choice is never worse in ``metric`` than the
    embeddings alone; nothing is trained, and the model is left as it is.

    Args:
        model: a trained model.
        links: validation links: their messages are the graph, their positives what to find.
        metric: of its k; its name, if it is another than Recall or NDCG, is what is maximised.
        use_order: whether time decay is tried, if the order means something
            (`lightgcn.ranking.time_decay.order_is_informative`).
        num_users: number of users, drawn at random. The search is on some of them, and what it
            finds is compared on all.
        seed: of the draw.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if there are no positives, the metric is none of ranked lists, or its k is more
            than the number of items.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600), stratify="user")
        >>> model = lightgcn.train(split, "fast", epochs=2, embedding_dim=8, choose_ranking=False)
        >>> choice = choose_ranking(model, split.val, "recall@5")
        >>> choice.values["recall@5"] >= choice.alone["recall@5"]
        True
        >>> model.ranking = choice.config
    """
    name, k = parse_objective(metric)
    if k is None:  # a metric of links
        raise ValueError(f"metric must be one of ranked lists, such as recall@20, got {metric!r}")
    if not links.positives.num_edges:
        raise ValueError("there are no validation links to choose the ranking by")
    device = model.embedding.device
    links = link_set(links.message, links.positives, negatives=0).to(device)
    check_k(k, links.message.num_items)
    sample = links.sample_users(checked_count("num_users", num_users, 1), seed=seed)
    few = sample.sample_users(_SEARCHED, seed=seed + 1)
    off = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), off:
        search = _Search(model, sample, few, name, k, progress)
        return search.run(use_order and order_is_informative(sample.message, seed=seed))


class _Search:
    """A search on the candidates of ``few`` users, and its outcome among all items of ``links``."""

    def __init__(
        self, model: LightGCN, links: LinkSet, few: LinkSet, metric: str, k: int, progress: bool
    ) -> None:
        self.model, self.links, self.few, self.metric, self.k = model, links, few, metric, k
        self.forms = ClosedForms(links.message, progress=progress)
        self.small = links.message.num_edges <= MOST_EDGES
        self.own = model.ranking
        message = links.message
        # All singular vectors together are no filter.
        most = min(message.num_users, message.num_items) // 4
        most = max(1, min(most, _RANK, _ENTRIES // message.num_nodes))
        self.rank = self.own.spectral or most
        self.neighbours: dict[Similarity, int] = {
            "cosine": _COSINE_NEIGHBOURS,
            "ease": _EASE_NEIGHBOURS,
        }
        self.similar_users = self.own.user_knn or _SIMILAR_USERS
        if self.own.item_knn:
            self.neighbours[self.own.item_similarity] = self.own.item_knn

    def run(self, use_order: bool) -> RankingChoice:
        own = self.own if use_order else replace(self.own, time_decay=0.0)
        bases = [self._config_of({base: 1.0}) for base in _BASES]
        finals: dict[RankingConfig, tuple[dict[str, float], Worth]] = {
            config: (self.measured(config), {}) for config in (*bases, self.own)
        }
        alone = max((finals[config][0] for config in bases), key=self.value)
        before = finals[self.own][0]
        if own != self.own:
            del finals[self.own]
        # Of each encoder and kind of neighbours the best, with and without an order.
        for found in self._searched(own, use_order):
            found.sort(key=lambda one: -one[0])
            kinds: set[tuple[str, ...]] = set()
            for _, weights, parts in found:
                kind = next(iter(weights)), *(knn for knn in _KNN.values() if knn in weights)
                if kind not in kinds and len(kinds) < _FINALS:
                    kinds.add(kind)
                    kept, worth = parts.without_idle(weights)
                    config = self._config_of(kept, parts)
                    if config not in finals:
                        finals[config] = self.measured(config), worth
        allowed = [
            (self.objective(values), config)
            for config, (values, _) in finals.items()
            if self.value(values) >= self.value(alone)
        ]
        config = max(allowed, key=lambda one: one[0])[1]
        values, worth = finals[config]
        count = int((self.links.positives.user_degrees > 0).sum())
        return RankingChoice(config, values, alone, before, worth, count)

    def _searched(self, own: RankingConfig, use_order: bool) -> list[list[_Found]]:
        """Return the local optima without an order, and those with one."""
        given = [] if own.time_decay else [self._weights_of(own)]
        plain = self._optima(self._tables((0.0, 0.0)), given)
        if not use_order:
            return [plain]
        start = max(plain, key=lambda one: one[0])[1]
        asked = {(own.time_decay, own.time_decay_weight)} if own.time_decay else set()
        tried: list[tuple[float, Weights, _Tables]] = []
        for decay in sorted({*_DECAYS, *asked}):
            tables = self._tables(decay)
            tried.append((*_Parts(self, tables, [start]).improved(start), tables))
        _, best, tables = max(tried, key=lambda one: one[0])
        parts = _Parts(self, tables, [best])
        return [plain, [(*parts.improved(best), parts)]]

    def _optima(self, tables: _Tables, given: list[Weights]) -> list[_Found]:
        """Return the local optima from given and usual weights.

        Weights may be good because the items that they wrongly prefer are no candidates. So what
        is found makes further candidates, and the search goes on.
        """
        parts = _Parts(self, tables, given)
        starts = sorted((*parts.starts(), *given), key=parts.objective, reverse=True)
        found = [parts.improved(start) for start in starts[:_STARTS]]
        starts = [weights for _, weights in sorted(found, key=lambda one: -one[0])]
        parts = _Parts(self, tables, starts)
        return [(*parts.improved(start), parts) for start in starts]

    def _tables(self, decay: tuple[float, float]) -> _Tables:
        """Return all parts with one exponent and weight of time decay."""
        message = self.few.message
        history = decayed(message, decay[0]) if decay[0] else message
        dense: dict[str, tuple[Tensor, Tensor]] = {}
        for name, prior in ((_COSINE, 0.0), (_DOT, None)):
            config = RankingConfig(prior, time_decay=decay[0], time_decay_weight=decay[1])
            ranker = Ranker.from_model(self.model, message, config=config, fold_in=False)
            dense[name] = ranker.users, ranker.items
        popularity = message.item_degrees.float().log1p().unsqueeze(1)
        dense[_PRIOR] = popularity.new_ones(message.num_users, 1), popularity
        if self.small:
            spectral = self.forms.spectral(self.rank)
            dense[_SPECTRAL] = spectral.users(history), spectral.table
        sparse: dict[str, Residual] = {}
        if self.small:
            sparse[_USER_KNN] = self.forms.user_knn(self.similar_users, 1.0, history)
        for similarity, part in _KNN.items():
            if self.small or similarity != "ease":
                matrix = self.forms.similarity(similarity, self.neighbours[similarity])
                sparse[part] = ItemKNN(history, matrix, 1.0)
        return _Tables(dense, sparse, decay)

    def measured(self, config: RankingConfig) -> dict[str, float]:
        """Return the metrics of settings, among all items."""
        ranker = Ranker.from_model(
            self.model,
            self.links.message,
            config=config,
            fold_in=False,
            closed_forms=self.forms,
        )
        names = tuple(dict.fromkeys(("recall", "ndcg", self.metric)))
        return evaluate_users(ranker, self.links, ks=[self.k], metrics=names).metrics

    def value(self, metrics: dict[str, float]) -> float:
        """Return the metric, negative if lower is better."""
        name = f"{self.metric}@{self.k}"
        return -metrics[name] if lower_is_better(name) else metrics[name]

    def objective(self, metrics: dict[str, float]) -> float:
        """Return Recall plus NDCG, or the metric if it is another."""
        if self.metric in ("recall", "ndcg"):
            return metrics[f"recall@{self.k}"] + metrics[f"ndcg@{self.k}"]
        return self.value(metrics)

    def _weights_of(self, config: RankingConfig) -> Weights:
        """Return the weights of settings."""
        prior = config.popularity_prior
        weights = {_DOT if prior is None else _COSINE: 1.0}
        if prior:
            weights[_PRIOR] = prior
        if config.item_knn and (self.small or config.item_similarity != "ease"):
            weights[_KNN[config.item_similarity]] = config.item_knn_weight
        if config.user_knn and self.small:
            weights[_USER_KNN] = config.user_knn_weight
        if config.spectral and self.small:
            weights[_SPECTRAL] = config.spectral_weight
        return {part: weight for part, weight in weights.items() if weight}

    def _config_of(self, weights: Weights, parts: _Parts | None = None) -> RankingConfig:
        """Return the settings with some weights, of three digits, and the time decay of parts."""
        weights = {part: float(f"{weight:.3g}") for part, weight in weights.items()}
        config = RankingConfig(weights.get(_PRIOR, 0.0) if _COSINE in weights else None)
        if parts is not None and parts.decay[0]:
            decay, weight = parts.decay
            config = replace(config, time_decay=decay, time_decay_weight=weight)
        for similarity, part in _KNN.items():
            if part in weights:
                config = replace(
                    config,
                    item_knn=self.neighbours[similarity],
                    item_knn_weight=weights[part],
                    item_similarity=similarity,
                )
        if _USER_KNN in weights:
            count, weight = self.similar_users, weights[_USER_KNN]
            config = replace(config, user_knn=count, user_knn_weight=weight)
        if _SPECTRAL in weights:
            config = replace(config, spectral=self.rank, spectral_weight=weights[_SPECTRAL])
        return config


class _Tables(NamedTuple):
    """What the scores of each part are computed from: two tables whose product they are, or item
    kNN; and the exponent and weight of the time decay in them."""

    dense: dict[str, tuple[Tensor, Tensor]]
    sparse: dict[str, Residual]
    decay: tuple[float, float]


class _Parts:
    """The scores of each part for the candidates of some users, with one time decay.

    Attributes:
        scores: by part, (B, C) float32; an encoder's has -inf where a user has fewer candidates.
        relevant: (B, C) bool.
        counts: (B,) number of relevant items.
        unit: what a dot product is worth in cosines: the ratio of their standard deviations.
    """

    def __init__(self, search: _Search, tables: _Tables, given: list[Weights]) -> None:
        self.search, self.k, self.decay = search, search.k, tables.decay
        message, positives = search.few.message, search.few.positives
        users = positives.user_degrees.nonzero().flatten()
        self.counts = positives.user_degrees[users]
        found: list[tuple[dict[str, Tensor], Tensor]] = []
        size = max(1, _CHUNK // message.num_items)
        for chunk in users.split(size):
            scores = {
                part: left[chunk].float() @ right.float().T
                for part, (left, right) in tables.dense.items()
            }
            for part, knn in tables.sparse.items():
                rows, items, gains = knn.of_users(chunk)
                scores[part] = torch.zeros_like(scores[_COSINE])
                scores[part][rows, items] = gains
            found.append(_candidates(scores, chunk, message, positives, given, max(_DEPTH, self.k)))
        width = max(relevant.shape[1] for _, relevant in found)
        self.relevant = torch.cat(
            [F.pad(relevant, (0, width - relevant.shape[1])) for _, relevant in found]
        )
        self.scores = {}
        for part in found[0][0]:
            rest = -math.inf if part in _BASES else 0.0
            self.scores[part] = torch.cat(
                [F.pad(x[part], (0, width - x[part].shape[1]), value=rest) for x, _ in found]
            )
        spreads = [
            float(values[values > -math.inf].std(correction=0))
            for values in (self.scores[base] for base in _BASES)
        ]
        self.unit = spreads[1] / spreads[0] if min(spreads) > 0 else 1.0

    def starts(self) -> Iterator[Weights]:
        """Yield usual weights for each encoder's scores and each kind of neighbours."""
        for base, knn in product(_BASES, _KNN.values()):
            if knn not in self.scores:
                continue
            unit = self.unit if base == _DOT else 1.0
            weights = {base: 1.0, knn: _USUAL_ITEM_GAIN * unit}
            if _USER_KNN in self.scores:
                weights[_USER_KNN] = _USUAL_USER_GAIN * unit
            if base == _COSINE:
                weights[_PRIOR] = _USUAL_PRIOR
            if _SPECTRAL in self.scores:
                weights[_SPECTRAL] = _USUAL_SPECTRAL * unit
            yield weights

    def objective(self, weights: Weights) -> float:
        """Return what is maximised, among the candidates."""
        total = _sum(self.scores, weights)
        best = total.topk(min(self.k, total.shape[1]), 1).indices
        hits = F.pad(self.relevant.gather(1, best), (0, self.k - best.shape[1]))
        names = dict.fromkeys(("recall", "ndcg", self.search.metric))
        found = {
            f"{name}@{self.k}": float(RANKING_METRICS[name](hits, self.counts).mean())
            for name in names
        }
        return self.search.objective(found)

    def improved(self, weights: Weights) -> tuple[float, Weights]:
        """Change one weight at a time while the objective gains; the first is always 1."""
        best = self.objective(weights)
        for _ in range(_SWEEPS):
            before = best
            for part in [*weights][1:]:
                for factor in _FACTORS:
                    some = weights | {part: weights[part] * factor}
                    value = self.objective(some)
                    if value > best:
                        best, weights = value, some
            if best <= before:
                break
        return best, weights

    def without_idle(self, weights: Weights) -> tuple[Weights, dict[str, float]]:
        """Leave out parts that are worth too little; return the others' worth as well."""
        while True:
            best, worth, others = self.objective(weights), {}, {}
            for part in [*weights][1:]:
                rest = {name: weight for name, weight in weights.items() if name != part}
                value, others[part] = self.improved(rest)
                worth[part] = (best - value) / max(abs(best), 1e-12)
            idle = min(worth, key=lambda part: worth[part], default="")
            if not idle or worth[idle] >= _LEAST_WORTH:
                return weights, worth
            weights = others[idle]


_Found = tuple[float, Weights, _Parts]


def _sum(scores: dict[str, Tensor], weights: Weights) -> Tensor:
    total: Tensor | None = None
    for part, weight in weights.items():
        values = scores[part]
        total = values * weight if total is None else total.add_(values, alpha=weight)
    assert total is not None
    return total


def _candidates(
    scores: dict[str, Tensor],
    users: Tensor,
    message: Interactions,
    positives: Interactions,
    given: list[Weights],
    depth: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return, of (B, num_items) scores, those of each user's candidates, and which are relevant."""
    seen, found = message.edges_of(users), positives.edges_of(users)
    relevant = torch.zeros_like(scores[_COSINE], dtype=torch.bool)
    relevant[found] = True
    chosen = relevant.clone()
    usual = {_COSINE: 1.0, _PRIOR: _USUAL_PRIOR}
    sums = [_sum(scores, weights) for weights in (usual, *given)]
    for values in (*scores.values(), *sums):
        masked = values.clone()
        masked[seen] = -math.inf
        chosen.scatter_(1, highest(masked, min(depth, masked.shape[1])), True)
    chosen[seen] = False
    chosen |= relevant
    counts = chosen.sum(1)
    items = chosen.to(torch.uint8).topk(int(counts.max()), 1).indices.sort(1).values
    valid = chosen.gather(1, items)
    kept = {part: values.gather(1, items) for part, values in scores.items()}
    for base in _BASES:
        kept[base].masked_fill_(~valid, -math.inf)
    return kept, relevant.gather(1, items) & valid
