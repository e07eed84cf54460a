"""From ranked lists to an `Evaluation`: which metrics, for which users, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.ranking.list_metrics import LIST_METRICS, OF_KNOWN_ITEMS, counts_of
from lightgcn.ranking.metrics import RANKING_METRICS, hits_of
from lightgcn.ranking.per_user import PerUser, ranks_of
from lightgcn.ranking.result import Evaluation
from lightgcn.ranking.topk import TopK, check_k

DEFAULT_K = 20


def measure_lists(
    best: Callable[[Tensor, int, Interactions | None], TopK],
    relevant: Interactions,
    seen: Interactions | None,
    ks: Sequence[int] | None,
    metrics: Sequence[str],
    per_user: bool,
) -> Evaluation:
    """Return the metrics of the lists of ``best(users, k, seen)``, as `evaluate_ranking` does."""
    names = _checked_names(metrics, seen)
    if seen is not None:
        seen = checked_interactions("seen", seen).to(relevant.device)
        if (seen.num_users, seen.num_items) != (relevant.num_users, relevant.num_items):
            raise ValueError(f"seen is {seen}, but relevant is {relevant}: the nodes differ")
    ks = checked_ks(ks, relevant.num_items)
    users = relevant.user_degrees.nonzero().flatten()
    if not len(users) or not ks or not names:
        raise ValueError(
            f"nothing to evaluate: {len(users)} users have relevant items, ks is {ks}, metrics is "
            f"{names}"
        )
    known = relevant.select(relevant.users[:0]) if seen is None else seen
    # If train edges both carry messages and are predicted, masking them would hide all that is
    # relevant.
    if seen is not None and bool(seen.contains(relevant.users, relevant.items).any()):
        seen = seen.select(~relevant.contains(seen.users, seen.items))
    items = best(users, max(ks), seen).items.to(relevant.device)
    hits, num_relevant = hits_of(items, relevant, users), relevant.user_degrees[users]
    values, kept = {}, {}
    for k in ks:
        counts = counts_of(items[:, :k], relevant.num_items)
        for name in names:
            if name in LIST_METRICS:
                of_lists = LIST_METRICS[name](counts, known.item_degrees, known.num_users)
                values[f"{name}@{k}"] = of_lists
                continue
            of_users = RANKING_METRICS[name](hits[:, :k], num_relevant)
            values[f"{name}@{k}"] = float(of_users.mean())
            if per_user:
                kept[f"{name}@{k}"] = of_users.to("cpu", torch.float32)
    details = None
    if per_user and kept:
        num_seen, ranks = known.user_degrees[users].cpu(), ranks_of(items, hits, relevant, users)
        item_users = known.item_degrees.cpu()
        details = PerUser(users.cpu(), kept, num_seen, relevant.to("cpu"), ranks, item_users)
    return Evaluation(values, num_users=len(users), per_user=details)


def _checked_names(metrics: Sequence[str], seen: Interactions | None) -> list[str]:
    if isinstance(metrics, str | Tensor) or not isinstance(metrics, Iterable):
        raise ValueError(f'metrics must be a list of names such as ["recall"], got {metrics!r:.80}')
    names = list(metrics)
    for name in names:
        if str(name) not in RANKING_METRICS and str(name) not in LIST_METRICS:
            there = ", ".join((*RANKING_METRICS, *LIST_METRICS))
            raise ValueError(f"unknown metric {name!r}; there are {there}")
        if seen is None and name in OF_KNOWN_ITEMS:
            raise ValueError(f"metric {name} counts the known users of items: pass seen")
    return names


def checked_ks(ks: Sequence[int] | None, num_items: int) -> tuple[int, ...]:
    """Return list lengths, those by default for None; a ValueError names one out of range."""
    if ks is None:
        return (min(DEFAULT_K, num_items),)
    given = as_tensor("ks", ks).tolist() if isinstance(ks, np.ndarray | Tensor) else ks
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ValueError(f"ks must be a sequence of list lengths such as (10, 20), got {ks!r}")
    lengths = tuple(int(k) if isinstance(k, np.integer) else k for k in given)
    for k in lengths:
        check_k(k, num_items)
    return lengths
