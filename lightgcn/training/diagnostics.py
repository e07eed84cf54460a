"""Warnings before and while a model is trained: of settings that run, and give a number that says
little."""

from __future__ import annotations

import warnings

from torch import Tensor

from lightgcn.graph.links import LinkSet, Split
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.batches import num_samples, num_steps
from lightgcn.training.config import TrainConfig

# Fewer steps of Adam than this hardly move a model away from its start.
_FEW_STEPS = 100
# Steps of an epoch times edges from which on it takes hours on a CPU, the steps of one that the
# presets are made for, and users times items from which on their ranking takes a quarter of an
# hour.
_LONG_EPOCH, _USUAL_STEPS, _LONG_RANKING = 2e10, 50, 1e11
# Share of validation users without messages from which on they are spoken of.
_SOME_USERS = 0.01
# No entry of an embedding is nearly as large where training converges.
_LARGE_ENTRY = 1e3


def warn_of_settings(split: Split, config: TrainConfig) -> None:
    """Warn of train edges that are not learned from, of too few or too many steps, and of users
    that say nothing.

    Warns:
        UserWarning: for each of these.
    """
    found = (
        _unlearned_edges(split.train, config),
        _few_steps(split, config),
        _many_steps(split, config),
        _unknown_users(split.val),
        _many_users(split.val, config),
    )
    for message in found:
        if message:
            warnings.warn(message, UserWarning, stacklevel=3)


def warn_of_size(largest: float, at_start: float, epoch: int) -> bool:
    """Warn, and return True, where embeddings have grown so large that training is about to
    diverge.

    Args:
        largest: their largest entry (`largest_entry`).
        at_start: the same when training began.
        epoch: to be named.
    """
    if largest < _LARGE_ENTRY * max(1.0, at_start):
        return False
    warnings.warn(
        f"an embedding has grown to {largest:.3g} in epoch {epoch}: training is diverging; lower "
        "the learning rate",
        UserWarning,
        stacklevel=2,
    )
    return True


def largest_entry(embeddings: Tensor) -> float:
    """Return the largest absolute value."""
    if not embeddings.numel():
        return 0.0
    low, high = embeddings.detach().aminmax()  # no copy of the absolute values
    return max(-float(low), float(high))


def _unlearned_edges(train: LinkSet, config: TrainConfig) -> str | None:
    if config.loss == "bce" or config.disjoint or train.message is train.positives:
        return None
    predicted, total = train.positives.num_edges, train.exclude.num_edges
    if predicted + train.message.num_edges != total:  # some edge is both
        return None
    return (
        f"{1 - predicted / total:.0%} of the train edges are not learned from in an epoch: the "
        "split is disjoint, "
        f"which the {config.loss} loss has no need of; split with disjoint=0, or set disjoint in "
        "the config if "
        "this is meant"
    )


def _few_steps(split: Split, config: TrainConfig) -> str | None:
    samples, per_epoch = num_samples(split.train, config), num_steps(split.train, config)
    steps = per_epoch * config.epochs
    if steps >= _FEW_STEPS:
        return None
    wanted = max(1, samples * config.epochs // _FEW_STEPS)
    smaller = config.batch_size is not None and wanted >= 32
    advice = f"a batch size of {wanted} or less" if smaller else "more epochs"
    return (
        f"the whole training is {_count(steps, 'step')} ({_count(config.epochs, 'epoch')} of "
        f"{per_epoch}), too few to "
        f"learn much from {samples} samples: try {advice}"
    )


def _many_steps(split: Split, config: TrainConfig) -> str | None:
    """Speak of an epoch that passes over all edges so often that it takes hours: its time is their
    product."""
    edges, steps = split.train.message.num_edges, num_steps(split.train, config)
    if (
        config.num_layers == 0
        or split.train.message.device.type != "cpu"
        or steps * edges < _LONG_EPOCH
    ):
        return None
    samples = num_samples(split.train, config)
    return (
        f"an epoch is {steps} steps, and each passes over all {edges} edges: with a batch size of "
        f"{samples // _USUAL_STEPS} it would be {_USUAL_STEPS}"
    )


def _many_users(val: LinkSet, config: TrainConfig) -> str | None:
    users = int((val.positives.user_degrees > 0).sum())
    ranked = min(users, config.eval_users or users)
    if parse_metric(config.metric)[1] is None or ranked * val.positives.num_items < _LONG_RANKING:
        return None
    if val.positives.device.type != "cpu":
        return None
    return (
        f"each validation ranks {val.positives.num_items} items for {ranked} users: "
        "eval_users=10000 ranks them for "
        "10000, drawn at random"
    )


def _unknown_users(val: LinkSet) -> str | None:
    users = val.positives.user_degrees > 0
    total = int(users.sum())
    unknown = int((users & (val.message.user_degrees == 0)).sum())
    if not total or unknown / total < _SOME_USERS:
        return None
    return (
        f"{unknown} of {total} validation users have no train edge, so that nothing is known of "
        "them, and they are "
        "ranked for all the same: stratify the split by user, or leave out users of few items"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
