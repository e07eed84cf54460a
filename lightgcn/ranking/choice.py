"""The parts of a score and their weights, chosen on validation links after training.

A score is a sum of parts, each the scores of one method, times weights. So the parts are computed
once, for the items that may reach the top of a list, and any weights are tried by adding them. The
weights are fitted by a softmax loss over these items, which is smooth, and from there changed one
at a time as long as the validation metric gains. A part that is worth less than 0.2 % is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet
from lightgcn.nn.config import RankingConfig, Similarity
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.closed_forms import ClosedForms
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.metrics import RANKING_METRICS, lower_is_better, parse_metric
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.time_decay import decayed
from lightgcn.ranking.topk import highest

# Best items of each part that are candidates, and scores that are formed at a time.
_DEPTH, _CHUNK = 100, 1 << 24
# The least gain, relative, that a part must be worth.
_LEAST_WORTH = 0.002
# The most that a part counts at first, in standard deviations of the encoder's scores.
_MOST = 30.0
# Above so many edges only the parts that are quick to compute are tried.
_MOST_EDGES = 20_000_000
# Defaults of parts that the model's own settings leave out.
_COSINE_NEIGHBOURS, _EASE_NEIGHBOURS, _RANK = 20, 64, 512
# Entries of the spectral embeddings, at most; of more nodes they have fewer columns.
_ENTRIES = 1 << 28
_DECAYS = ((1.0, 0.5), (1.0, 1.0), (2.0, 1.0))
_FACTORS = (0.0, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0)
_SWEEPS = 4

Weights = dict[str, float]
# An encoder's scores as a part, and the others.
_COSINE, _DOT, _PRIOR, _SPECTRAL = "cosine", "dot product", "popularity prior", "spectral"
_KNN: dict[Similarity, str] = {"cosine": "item kNN", "ease": "sparse EASE"}


@dataclass(frozen=True)
class RankingChoice:
    """The outcome of `choose_ranking`.

    Attributes:
        config: the parts and their weights.
        values: validation metrics with them.
        alone: the same metrics of the encoder alone, by cosine or dot product.
        before: the same metrics with the settings that the model had.
        worth: by part, how much of Recall plus NDCG is lost without it, relative.
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
    num_users: int = 3000,
    seed: int = 0,
    progress: bool = False,
) -> RankingChoice:
    """Choose the parts of a trained model's scores, and their weights, on validation links.

    The parts are the cosine or dot product of the embeddings, the popularity prior, spectral
    embeddings, item kNN by cosine or by regression weights, and time decay if the graph has an
    order. Recall and NDCG count alike. The choice is never worse in ``metric`` than the embeddings
    alone; nothing is trained, and the model is left as it is.

    Args:
        model: a trained model.
        links: validation links: their messages are the graph, their positives what to find.
        metric: of its k; its name, if it is another than Recall or NDCG, is what is maximised.
        use_order: whether time decay is tried.
        num_users: number of users, drawn at random.
        seed: of the draw.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if there are no positives, or the metric is none of ranked lists.

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
    name, k = parse_metric(metric)
    if k is None:
        raise ValueError(f"metric must be one of ranked lists, such as recall@20, got {metric!r}")
    if not links.positives.num_edges:
        raise ValueError("there are no validation links to choose the ranking by")
    device = model.embedding.device
    links = links.to(device)
    sample = links.sample_users(checked_count("num_users", num_users, 1), seed=seed)
    k = min(k, links.message.num_items)
    off = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), off:
        search = _Search(model, sample, name, k, progress)
        return search.run(use_order and sample.message.order is not None)


class _Search:
    def __init__(
        self, model: LightGCN, links: LinkSet, metric: str, k: int, progress: bool
    ) -> None:
        self.model, self.links, self.metric, self.k = model, links, metric, k
        self.progress = progress
        self.forms = ClosedForms(links.message, progress=progress)
        self.small = links.message.num_edges <= _MOST_EDGES
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
        if self.own.item_knn:
            self.neighbours[self.own.item_similarity] = self.own.item_knn

    def run(self, use_order: bool) -> RankingChoice:
        parts, own = _Parts(self, 0.0, 0.0), self.own
        if not use_order:
            own = replace(own, time_decay=0.0)
        base = max((_COSINE, _DOT), key=lambda base: parts.value({base: 1.0}))
        parts.floor, alone = parts.value({base: 1.0}), parts.metrics({base: 1.0})
        found = [parts.improved(start) for start in parts.starts()]
        before = None
        if not own.time_decay:
            before = parts.metrics(self._weights_of(own))
            found.append(parts.improved(self._weights_of(own)))
        best, weights = max(found, key=lambda pair: pair[0])
        decay = (0.0, 0.0)
        if use_order:
            asked = (own.time_decay, own.time_decay_weight)
            for other in sorted({*_DECAYS, asked} if own.time_decay else _DECAYS):
                later = _Parts(self, *other)
                later.floor = parts.floor
                if other == asked and own.time_decay:
                    before = later.metrics(self._weights_of(own))
                found = [later.improved(start) for start in (weights, *later.starts())]
                value, some = max(found, key=lambda pair: pair[0])
                if value > best * (1 + _LEAST_WORTH):
                    best, weights, parts, decay = value, some, later, other
        weights, worth = parts.without_idle(weights)
        weights = {part: float(f"{weight:.3g}") for part, weight in weights.items()}
        config = self._config_of(weights)
        if decay[0]:
            config = replace(config, time_decay=decay[0], time_decay_weight=decay[1])
        values, count = parts.metrics(weights), len(parts.counts)
        assert before is not None
        return RankingChoice(config, values, alone, before, worth, count)

    def _weights_of(self, config: RankingConfig) -> Weights:
        """Return the weights of settings."""
        prior = config.popularity_prior
        weights = {_DOT if prior is None else _COSINE: 1.0}
        if prior:
            weights[_PRIOR] = prior
        if config.item_knn:
            weights[_KNN[config.item_similarity]] = config.item_knn_weight
        if config.spectral and self.small:
            weights[_SPECTRAL] = config.spectral_weight
        return {part: weight for part, weight in weights.items() if weight}

    def _config_of(self, weights: Weights) -> RankingConfig:
        """Return the settings with some weights."""
        config = RankingConfig(weights.get(_PRIOR, 0.0) if _COSINE in weights else None)
        for similarity, part in _KNN.items():
            if part in weights:
                config = replace(
                    config,
                    item_knn=self.neighbours[similarity],
                    item_knn_weight=weights[part],
                    item_similarity=similarity,
                )
        if _SPECTRAL in weights:
            config = replace(config, spectral=self.rank, spectral_weight=weights[_SPECTRAL])
        return config


class _Parts:
    """The scores of each part for the candidates of some users, with one time decay.

    Attributes:
        scores: by part, (B, C) float32; an encoder's has -inf where a user has fewer candidates.
        relevant: (B, C) bool.
        counts: (B,) number of relevant items.
        floor: the least value of the metric that is accepted.
    """

    def __init__(self, search: _Search, time_decay: float, time_decay_weight: float) -> None:
        self.metric, self.k, self.floor = search.metric, search.k, -math.inf
        message, positives = search.links.message, search.links.positives
        users = positives.user_degrees.nonzero().flatten()
        self.counts = positives.user_degrees[users]
        similarities: tuple[Similarity, ...] = ("cosine", "ease") if search.small else ("cosine",)
        history = decayed(message, time_decay) if time_decay else message
        dense: dict[str, tuple[Tensor, Tensor]] = {}
        for name, prior in ((_COSINE, 0.0), (_DOT, None)):
            config = RankingConfig(
                prior, time_decay=time_decay, time_decay_weight=time_decay_weight
            )
            ranker = Ranker.from_model(search.model, message, config=config, fold_in=False)
            dense[name] = ranker.users, ranker.items
        popularity = message.item_degrees.float().log1p().unsqueeze(1)
        dense[_PRIOR] = popularity.new_ones(message.num_users, 1), popularity
        if search.small:
            spectral = search.forms.spectral(RankingConfig(spectral=search.rank))
            dense[_SPECTRAL] = spectral.users(history), spectral.table
        sparse = {}
        for similarity in similarities:
            config = RankingConfig(
                item_knn=search.neighbours[similarity], item_similarity=similarity
            )
            sparse[_KNN[similarity]] = ItemKNN(history, search.forms.similarity(config), 1.0)
        found: list[tuple[dict[str, Tensor], Tensor]] = []
        size = max(1, _CHUNK // message.num_items)
        for chunk in users.split(size):
            scores = {
                part: left[chunk].float() @ right.float().T for part, (left, right) in dense.items()
            }
            for part, knn in sparse.items():
                rows, items, gains = knn.of_users(chunk)
                scores[part] = torch.zeros_like(scores[_COSINE])
                scores[part][rows, items] = gains
            found.append(_candidates(scores, chunk, message, positives))
        width = max(relevant.shape[1] for _, relevant in found)
        self.relevant = torch.cat(
            [F.pad(relevant, (0, width - relevant.shape[1])) for _, relevant in found]
        )
        self.scores = {}
        for part in found[0][0]:
            rest = -math.inf if part in (_COSINE, _DOT) else 0.0
            self.scores[part] = torch.cat(
                [F.pad(x[part], (0, width - x[part].shape[1]), value=rest) for x, _ in found]
            )

    def starts(self) -> Iterator[Weights]:
        """Yield fitted weights for each encoder's scores and each kind of item kNN."""
        for base, knn in product((_COSINE, _DOT), _KNN.values()):
            if knn in self.scores:
                wanted = (base, _SPECTRAL, knn, *((_PRIOR,) if base == _COSINE else ()))
                yield self.fitted([part for part in wanted if part in self.scores])

    def fitted(self, names: list[str]) -> Weights:
        """Return the weights of parts, the first of which has weight 1, that minimise the mean of
        -log softmax over the candidates of a user's relevant items."""
        scores = torch.stack([self.scores[name] for name in names], -1)
        valid = scores[..., 0] > -math.inf
        scores = scores.masked_fill(~valid.unsqueeze(-1), 0.0)
        scales = scores[valid].std(0).clamp(min=1e-12)
        scores = scores / scales
        shares = self.relevant / self.counts.unsqueeze(1)
        with torch.enable_grad():
            weights = torch.full_like(scales, 0.5).requires_grad_()
            optimizer = torch.optim.LBFGS([weights], max_iter=30, line_search_fn="strong_wolfe")

            def loss() -> Tensor:
                optimizer.zero_grad()
                total = (scores @ weights).masked_fill(~valid, -1e9)
                value = -(shares * total.log_softmax(1)).sum(1).mean()
                value.backward()
                return value

            optimizer.step(loss)
        # Of a useless encoder's the weight may be near 0, or negative.
        found = weights.detach().clamp(min=0)
        found = (found / found[0].clamp(min=1e-3)).clamp(max=_MOST) * scales[0] / scales
        return dict(zip(names, found.tolist(), strict=True)) | {names[0]: 1.0}

    def _lists(self, weights: Weights) -> Tensor:
        total: Tensor | None = None
        for part, weight in weights.items():
            scores = self.scores[part]
            total = scores * weight if total is None else total.add_(scores, alpha=weight)
        assert total is not None
        return self.relevant.gather(1, total.topk(min(self.k, total.shape[1]), 1).indices)

    def metrics(self, weights: Weights) -> dict[str, float]:
        hits = F.pad(lists := self._lists(weights), (0, self.k - lists.shape[1]))
        return {
            f"{name}@{self.k}": float(RANKING_METRICS[name](hits, self.counts).mean())
            for name in dict.fromkeys(("recall", "ndcg", self.metric))
        }

    def value(self, weights: Weights) -> float:
        """Return the metric, negative if lower is better."""
        return self._value(self.metrics(weights))

    def _value(self, metrics: dict[str, float]) -> float:
        name = f"{self.metric}@{self.k}"
        return -metrics[name] if lower_is_better(name) else metrics[name]

    def objective(self, weights: Weights) -> float:
        """Return Recall plus NDCG, or the metric if it is another; -inf below the floor."""
        metrics = self.metrics(weights)
        value = self._value(metrics)
        if value < self.floor:
            return -math.inf
        if self.metric in ("recall", "ndcg"):
            return metrics[f"recall@{self.k}"] + metrics[f"ndcg@{self.k}"]
        return value

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
        return best, {part: weight for part, weight in weights.items() if weight}

    def without_idle(self, weights: Weights) -> tuple[Weights, dict[str, float]]:
        """Leave out parts that are worth too little; return the others' worth as well."""
        floor, self.floor = self.floor, -math.inf
        while True:
            best, worth, others = self.objective(weights), {}, {}
            for part in [*weights][1:]:
                rest = {name: weight for name, weight in weights.items() if name != part}
                value, others[part] = self.improved(rest)
                worth[part] = (best - value) / max(abs(best), 1e-12)
            idle = min(worth, key=lambda part: worth[part], default="")
            if not idle or worth[idle] >= _LEAST_WORTH or self.value(others[idle]) < floor:
                return weights, worth
            weights = others[idle]


def _candidates(
    scores: dict[str, Tensor], users: Tensor, message: Interactions, positives: Interactions
) -> tuple[dict[str, Tensor], Tensor]:
    """Return, of (B, num_items) scores, those of each user's candidates, and which are relevant."""
    seen, found = message.edges_of(users), positives.edges_of(users)
    relevant = torch.zeros_like(scores[_COSINE], dtype=torch.bool)
    relevant[found] = True
    chosen = relevant.clone()
    for part, values in scores.items():
        if part != _PRIOR:  # the same items for all
            masked = values.clone()
            masked[seen] = -math.inf
            chosen.scatter_(1, highest(masked, min(_DEPTH, masked.shape[1])), True)
    chosen[seen] = False
    chosen |= relevant
    counts = chosen.sum(1)
    items = chosen.to(torch.uint8).topk(int(counts.max()), 1).indices.sort(1).values
    valid = chosen.gather(1, items)
    kept = {part: values.gather(1, items) for part, values in scores.items()}
    for base in (_COSINE, _DOT):
        kept[base].masked_fill_(~valid, -math.inf)
    return kept, relevant.gather(1, items) & valid
