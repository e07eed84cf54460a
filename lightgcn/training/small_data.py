"""Settings that were not given, cut to what small data allows; a warning names each."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

from lightgcn.graph.interactions import Interactions
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.batches import check_metric
from lightgcn.training.config import Preset

# Edges that are needed to hold one back from the messages, beside a validation and a test edge.
_LEAST_FOR_DISJOINT = 4


def cut_to_data(settings: Preset, known: Interactions, given: Collection[str]) -> Preset:
    """Return settings whose defaults suit the size of a graph.

    A metric that ranks more items than there are becomes NDCG of all items, since the recall of
    lists of all items is always 1. So does "roc_auc" if every pair is an edge, so that there are no
    negatives. No edge is held back from the messages if there are fewer than four.

    Args:
        settings: of a preset, perhaps with changes.
        known: all edges, those of validation and test among them.
        given: names of settings that the user chose, which stay.

    Raises:
        ValueError: if a given metric ranks more items than there are.

    Warns:
        UserWarning: for each setting that is changed.

    Example:
        >>> import warnings
        >>> from lightgcn import preset
        >>> graph = Interactions([0, 0, 1], [0, 1, 2], num_users=2, num_items=3)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     cut_to_data(preset("fast"), graph, given=()).train.metric
        'ndcg@3'
    """
    changes: dict[str, tuple[Any, str]] = {}
    metric, items = settings.train.metric, known.num_items
    k = parse_metric(metric)[1]
    complete = known.num_edges == known.num_users * known.num_items
    if "metric" in given:
        check_metric(metric, known)
    if k is not None and k > items > 0:
        found = f"{items} item{'s' if items > 1 else ''}"
        changes["metric"] = f"ndcg@{items}", f"{metric} needs {k} items, and the data has {found}"
    elif k is None and complete and items:
        changes["metric"] = f"ndcg@{min(20, items)}", f"no pair is left as a negative for {metric}"
    if settings.train.disjoint and known.num_edges < _LEAST_FOR_DISJOINT:
        edges = f"{known.num_edges} edge{'s' if known.num_edges > 1 else ''}"
        changes["disjoint"] = 0.0, f"the data has only {edges}"
    changes = {name: change for name, change in changes.items() if name not in given}
    for name, (value, reason) in changes.items():
        warnings.warn(f"{name} is {value} here: {reason}", UserWarning, stacklevel=3)
    return settings.changed(**{name: value for name, (value, _) in changes.items()})
