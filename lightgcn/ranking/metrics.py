"""Ranking and link-prediction metrics as pure functions.

Ranking metrics take the hits of ranked lists and return one value per user:

    hits          (B, k) bool: whether the item at each rank, best first, is relevant
    num_relevant  (B,) integer: the user's relevant items, at least 1

`hits_of` computes the hits of ranked items. Users without relevant items have no value: leave them
out before. Metrics of all lists together are in `list_metrics`."""

from __future__ import annotations

import torch
from torch import Tensor

from lightgcn.core.sorting import sort_values
from lightgcn.graph.interactions import Interactions
from lightgcn.ranking.list_metrics import LIST_METRICS


def hits_of(ranked_items: Tensor, relevant: Interactions, users: Tensor) -> Tensor:
    """Return which ranked items are relevant, (B, k) bool.

    Args:
        ranked_items: (B, k) int64 items, -1 for none.
        relevant: the edges to find.
        users: (B,) integer users of the rows.
    """
    columns = users.unsqueeze(1).expand_as(ranked_items)
    found = relevant.contains(columns.reshape(-1), ranked_items.clamp(min=0).reshape(-1))
    return found.view_as(ranked_items) & (ranked_items >= 0)


def recall(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return hits / |relevant|, (B,) float64."""
    return hits.sum(1).double() / num_relevant


def precision(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return hits / k, (B,) float64."""
    return hits.sum(1).double() / hits.shape[1]


def hit_rate(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return 1 for a list with a hit, else 0, (B,) float64."""
    return hits.any(1).double()


def ndcg(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return DCG / ideal DCG with binary gains 1 / log2(rank + 1), (B,) float64.

    The ideal list has min(k, |relevant|) hits, so the best possible list scores 1 (Järvelin and
    Kekäläinen, 2002)."""
    k = hits.shape[1]
    gains = 1 / torch.arange(2, k + 2, dtype=torch.float64, device=hits.device).log2()
    ideal = gains.cumsum(0)[num_relevant.clamp(max=k) - 1]
    return hits.double() @ gains / ideal


def mrr(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return 1 / rank of the first hit, 0 without a hit, (B,) float64 (the mean is MRR)."""
    first = hits.to(torch.int8).argmax(1)
    return hits.any(1).double() / (first + 1)


def average_precision(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return Σ precision@rank over hits / min(k, |relevant|), (B,) float64 (the mean is MAP)."""
    k = hits.shape[1]
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=hits.device)
    precisions = hits.cumsum(1) / ranks * hits
    return precisions.sum(1) / num_relevant.clamp(max=k)


def r_precision(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return hits among the first |relevant| ranks / |relevant|, (B,) float64 (RecSys Challenge
    2018, tracks only).

    Of a list shorter than |relevant|, the missing ranks count as misses.
    """
    ranks = torch.arange(hits.shape[1], dtype=torch.int64, device=hits.device)
    counted = hits & (ranks < num_relevant.unsqueeze(1))
    return counted.sum(1).double() / num_relevant


def clicks(hits: Tensor, num_relevant: Tensor) -> Tensor:
    """Return ⌊(rank of the first hit − 1) / 10⌋, or 51 without a hit, (B,) float64 (RecSys
    Challenge 2018)."""
    first = hits.to(torch.int8).argmax(1) // 10
    return torch.where(hits.any(1), first, 51).double()


RANKING_METRICS = {
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "map": average_precision,
    "r_precision": r_precision,
    "clicks": clicks,
}


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Return the probability that a random positive scores above a random negative, ties counted as
    one half.

    Args:
        scores: (B,) floating, any monotone measure.
        labels: (B,) 1 (or True) for a positive, 0 for a negative.

    Raises:
        ValueError: if one of the two classes is missing, a score is NaN, or the shapes differ.
    """
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(
            f"expected two (B,) tensors, got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    positive = labels > 0
    num_positive = int(positive.sum())
    num_negative = len(labels) - num_positive
    if num_positive == 0 or num_negative == 0:
        raise ValueError(
            f"ROC-AUC needs both classes, got {num_positive} positives and {num_negative} negatives"
        )
    if bool(scores.isnan().any()):
        raise ValueError("scores contain NaN: the embeddings are not finite")
    # Both are sorted, so that successive binary searches read the same memory.
    negatives, found = sort_values(scores[~positive]), sort_values(scores[positive])
    # Twice the rank statistic stays an integer: negatives below, plus negatives not above.
    doubled = (
        torch.searchsorted(negatives, found).sum()
        + torch.searchsorted(negatives, found, right=True).sum()
    )
    return float(doubled.double() / 2 / num_positive / num_negative)


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split a metric's name: ("recall", 20) of "recall@20", ("roc_auc", None) of "roc_auc".

    Raises:
        ValueError: if there is no such metric.
    """
    base, at, k = str(name).partition("@")
    if not at and base in ("roc_auc", "loss"):
        return base, None
    of_lists = base in RANKING_METRICS or base in LIST_METRICS
    # Only the canonical spelling, because results are looked up by name.
    if at and of_lists and k.isdecimal() and int(k) >= 1 and k == str(int(k)):
        return base, int(k)
    raise ValueError(
        f"metric must be roc_auc, loss, or one of {', '.join((*RANKING_METRICS, *LIST_METRICS))} "
        f"with @k (recall@20), got {name!r}"
    )


def parse_objective(name: str) -> tuple[str, int | None]:
    """Split the name of a metric that can choose between models, as `parse_metric` does.

    Raises:
        ValueError: if there is no such metric, or it does not measure whether lists are right.
    """
    base, k = parse_metric(name)
    if base in LIST_METRICS:
        raise ValueError(
            f"metric {name} does not measure whether lists are right, so it cannot choose a model; "
            f"choose roc_auc, loss, or one of {', '.join(RANKING_METRICS)} with @k"
        )
    return base, k


def lower_is_better(metric: str) -> bool:
    """Return whether lower values of a metric are better.

    Of the metrics of all lists together, a lower Gini index is more even, and a lower popularity
    is less biased towards popular items."""
    return parse_metric(metric)[0] in ("loss", "clicks", "gini", "popularity")


def is_better(metric: str, value: float, than: float) -> bool:
    """Return whether ``value`` is strictly better than ``than``."""
    return value < than if lower_is_better(metric) else value > than
