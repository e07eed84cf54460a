"""Warnings before and during training, for settings that run but give poor results."""

from __future__ import annotations

import warnings

from lightgcn.graph.links import LinkSet, Split
from lightgcn.graph.negatives import saturated_users
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.batches import learnable_links, num_samples, num_steps
from lightgcn.training.config import TrainConfig

# Fewer steps of Adam than this hardly move a model away from its start.
_FEW_STEPS = 100
# Product of an epoch's steps and edges that takes hours on a CPU; number of steps that the presets
# are made for; product of users and items whose ranking takes a quarter of an hour.
_LONG_EPOCH, _USUAL_STEPS, _LONG_RANKING = 2e10, 50, 1e11
# Share of validation users without train edges that gives a warning.
_SOME_USERS = 0.01
# No entry of an embedding is nearly as large if training converges.
_LARGE_ENTRY = 1e3


def warn_of_settings(split: Split, config: TrainConfig, num_layers: int) -> None:
    """Warn of unused train edges, too few or too many steps, too many validation users, and
    validation users without train edges.

    Warns:
        UserWarning: for each of these.
    """
    found = (
        _unlearned_edges(split.train, config),
        _saturated_users(split.train, config),
        _few_steps(split, config),
        _many_steps(split, config, num_layers),
        _unknown_users(split.val),
        _many_users(split.val, config),
    )
    for message in found:
        if message:
            warnings.warn(message, UserWarning, stacklevel=3)


def warn_of_size(largest: float, at_start: float, epoch: int) -> bool:
    """Warn, and return True, if embeddings have grown as in a diverging run.

    Args:
        largest: their largest entry (`lightgcn.core.checks.largest_entry`).
        at_start: the largest entry before training.
        epoch: number of the epoch, for the message.
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


def _unlearned_edges(train: LinkSet, config: TrainConfig) -> str | None:
    if config.loss == "bce" or config.disjoint or train.message is train.positives:
        return None
    predicted, total = train.positives.num_edges, train.exclude.num_edges
    if predicted + train.message.num_edges != total:  # some edge is both
        return None
    return (
        f"the split is disjoint: only {predicted / total:.0%} of the train edges are targets in an "
        f"epoch, and the {config.loss} loss does not need that; split with disjoint=0, or set "
        "disjoint in the settings if this is meant"
    )


def _saturated_users(train: LinkSet, config: TrainConfig) -> str | None:
    left = learnable_links(train, config)
    if left is train:
        return None
    full = saturated_users(train.exclude).tolist()
    ids = train.positives.user_ids
    first = full[0] if ids is None else ids[full[0]]
    without = train.positives.num_edges - left.positives.num_edges
    nothing = "" if left.positives.num_edges else ", and the model stays as it starts"
    return (
        f"{_count(len(full), 'user')} ({first}{', …' if len(full) > 1 else ''}) with each of the "
        f"{train.exclude.num_items} items: no negative is left to sample, so {without} of "
        f"{train.positives.num_edges} train edges are left out of the {config.loss} loss{nothing}"
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
        f"{per_epoch}), too few to learn much from {samples} samples: try {advice}"
    )


def _many_steps(split: Split, config: TrainConfig, num_layers: int) -> str | None:
    """Warn of an epoch that takes hours: its time is proportional to steps times edges."""
    edges, steps = split.train.message.num_edges, num_steps(split.train, config)
    if num_layers == 0 or split.train.message.device.type != "cpu" or steps * edges < _LONG_EPOCH:
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
        f"each validation ranks {val.positives.num_items} items for {ranked} users; with "
        "eval_users=10000 it ranks them for 10000 users, drawn at random"
    )


def _unknown_users(val: LinkSet) -> str | None:
    users = val.positives.user_degrees > 0
    total = int(users.sum())
    unknown = int((users & (val.message.user_degrees == 0)).sum())
    if not total or unknown / total < _SOME_USERS or _is_cut_in_time(val):
        return None
    return (
        f"{unknown} of {total} validation users have no train edge, so their rankings say nothing: "
        "stratify the split by user, or leave out users of few items"
    )


def _is_cut_in_time(links: LinkSet) -> bool:
    """Return whether no link is earlier than a message edge: then new users are expected, and are
    ranked by popularity."""
    before, after = links.message.order, links.positives.order
    if before is None or after is None or not len(before) or not len(after):
        return False
    return bool(before.max() <= after.min())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
