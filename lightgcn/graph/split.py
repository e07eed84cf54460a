"""Split a graph's edges into train, validation and test link sets, without leaks.

The edges that carry messages, those that are predicted and those that negatives avoid are kept
apart:

    set         messages flow along          positives                       negatives avoid
    train       train edges not predicted    `disjoint` of the train edges   train edges
    validation  all train edges              validation edges                every known edge
    test        train + validation edges     test edges                      every known edge
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor, is_number
from lightgcn.core.seeding import make_generator, seed_from
from lightgcn.graph.edge_order import checked_order, rank_within_users
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.graph.links import (
    SPLIT_STREAM,
    TEST_STREAM,
    TRAIN_STREAM,
    VAL_STREAM,
    LinkSet,
    NegativePairs,
    Recipe,
    Split,
    check_negatives,
    unweighted,
)


def split_edges(
    interactions: Interactions,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    disjoint: float = 0.0,
    negatives: float = 1.0,
    stratify: Literal["user"] | None = None,
    order: Any = None,
    negative_pairs: NegativePairs = "user_item",
    known: Interactions | None = None,
    train_only: Tensor | None = None,
    seed: int | torch.Generator = 0,
) -> Split:
    """Split the edges at random into train, validation and test link sets with negatives.

    Validation and test get ``floor(ratio * E)`` edges each, but at least one; train gets the rest.

    Args:
        interactions: the whole graph; the work is done on its device.
        ratios: train, validation and test shares, positive and adding up to 1. With two (train,
            validation) the test set is empty, for data with a test split of its own; with one,
            ``(1.0,)``, validation is empty as well.
        disjoint: share of the train edges, rounded down but at least one edge, that are predicted
            and carry no messages; the other train edges carry messages and are not predicted. 0:
            every train edge does both.
        negatives: negatives per positive.
        stratify: "user" splits each user's edges by the ratios and leaves every user at least one
            train edge; a user with too few edges for a part (``floor`` gives 0) has none in it.
        order: (E,) times or places of the edges of ``interactions``, such as its own ``order``;
            types as for `Interactions`. With stratify="user" a user's held-out edges are then its
            last ones, test after validation, instead of random ones; ties go by item.
        negative_pairs: "user_item", or "all" node pairs as DeepSnap draws them (for comparison with
            its figures).
        known: further edges that validation and test negatives avoid, such as a test split that
            came with the data; train negatives do not avoid them.
        train_only: (E,) bool: edges of ``interactions`` that go to train even if they are drawn for
            a held-out set, which is then smaller, such as those that an earlier model was trained
            on.
        seed: an integer, or a generator from which one is drawn.

    Returns:
        A `Split` of three `LinkSet`.

    Raises:
        ValueError: if an argument has another type or is out of range, ``known`` is over other
            nodes, the graph is too small (the message has the number of edges needed), or there are
            too few non-edges for the negatives.

    Example:
        >>> graph = Interactions([0, 0, 0, 1, 1, 1], [0, 1, 2, 2, 3, 4], num_users=2, num_items=9)
        >>> split = split_edges(graph, ratios=(0.6, 0.2, 0.2), seed=0)
        >>> split.train
        LinkSet(4 positives, 4 negatives, messages along 4 edges)
        >>> split.test.message.num_edges, split.test.edges.shape
        (5, torch.Size([2, 2]))
        >>> last = split_edges(graph, (0.6, 0.4), stratify="user", order=[3, 1, 2, 5, 4, 6])
        >>> last.val.positives.edge_index
        tensor([[0, 1],
                [0, 4]])
    """
    interactions = checked_interactions("interactions", interactions)
    val_share, test_share = _check_ratios(ratios)
    if not (is_number(disjoint) and 0 <= disjoint < 1):
        raise ValueError(f"disjoint must be in [0, 1), got {disjoint}")
    if stratify not in (None, "user"):
        raise ValueError(f'stratify must be None or "user", got {stratify!r}')
    check_negatives(negatives, negative_pairs)
    if order is not None and stratify != "user":
        raise ValueError('order holds out the last edges of each user: pass stratify="user" too')
    sort_by = checked_order(order, interactions.num_edges)
    sort_by = None if sort_by is None else sort_by.to(interactions.device)
    every = interactions
    if known is not None:
        known = checked_interactions("known", known).to(interactions.device)
        every = unweighted(interactions).union(unweighted(known))
    seed = seed_from(seed)
    generator = make_generator(seed, SPLIT_STREAM, device=interactions.device)
    min_train = 2 if disjoint else 1
    if stratify == "user":
        part = _divide_by_user(interactions, val_share, test_share, min_train, generator, sort_by)
    else:
        part = _divide(interactions, val_share, test_share, min_train, generator)

    if train_only is not None:
        part = part.masked_fill(_checked_mask(train_only, interactions).to(part.device), 0)
    train, val, test = (interactions.select(part == code) for code in (0, 1, 2))
    num_supervision = train.num_edges
    if disjoint:
        num_supervision = min(max(1, _floor(disjoint * train.num_edges)), train.num_edges - 1)

    def draw(
        pool: Interactions, message: Interactions | None, exclude: Interactions, stream: int
    ) -> LinkSet:
        count = num_supervision if pool is train else pool.num_edges
        recipe = Recipe(pool, message, exclude, count, negatives, negative_pairs, seed, stream)
        return recipe.draw(0)

    return Split(
        draw(train, None if disjoint else train, train, TRAIN_STREAM),
        draw(val, train, every, VAL_STREAM),
        draw(test, train.union(val), every, TEST_STREAM),
    )


def _checked_mask(given: Any, interactions: Interactions) -> Tensor:
    mask = as_tensor("train_only", given)
    if mask.shape != interactions.users.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"train_only must be ({interactions.num_edges},) of torch.bool, got "
            f"{tuple(mask.shape)} of {mask.dtype}"
        )
    return mask


def _check_ratios(ratios: Sequence[float]) -> tuple[float, float]:
    listed = isinstance(ratios, Sequence | np.ndarray) and not isinstance(ratios, str)
    given = list(ratios) if listed else []
    if len(given) not in (1, 2, 3):
        raise ValueError(
            "ratios must be (train, validation, test), (train, validation) or (train,), got "
            f"{ratios!r:.80}"
        )
    try:
        shares = tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"ratios must be numbers, got {ratios!r:.80}") from error
    if not all(math.isfinite(share) and share > 0 for share in shares):
        hint = "; leave the test share out if no test set is wanted" if len(shares) == 3 else ""
        raise ValueError(f"each of the ratios must be a positive number, got {shares}{hint}")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"ratios must add up to 1, got {shares}, which add up to {sum(shares):.6g}"
        )
    # Rounding of the other shares would take up a smaller one.
    if 1 - sum(shares[1:]) < 1e-6:
        raise ValueError(f"ratios must leave a share for train, got {shares}")
    _, val_share, test_share = (*shares, 0.0, 0.0)[:3]
    return val_share, test_share


def _floor(value: float) -> int:
    """Round down, but not for the last bit of a product such as 0.29 * 100."""
    return math.floor(value + 1e-9)


def _divide(
    interactions: Interactions,
    val_share: float,
    test_share: float,
    min_train: int,
    generator: torch.Generator,
) -> Tensor:
    """Return (E,) int64: 0 for a train edge, 1 for validation, 2 for test."""
    num_edges = interactions.num_edges
    num_val, num_test = _held_out(num_edges, val_share, test_share)
    if num_edges - num_val - num_test < min_train:
        needed = _least_edges(num_edges + 1, val_share, test_share, min_train)
        raise ValueError(
            f"too few edges to split: {num_edges}, and at least {needed} are needed for "
            f"{_names(val_share, test_share)} sets with these ratios"
        )
    order = torch.randperm(
        num_edges, generator=generator, dtype=torch.int64, device=interactions.device
    )
    part = torch.zeros(num_edges, dtype=torch.int64, device=interactions.device)
    part[order[:num_val]] = 1
    part[order[num_val : num_val + num_test]] = 2
    return part


def _held_out(total: int, val_share: float, test_share: float) -> tuple[int, int]:
    num_val, num_test = (
        max(1, _floor(share * total)) if share else 0 for share in (val_share, test_share)
    )
    return num_val, num_test


def _least_edges(start: int, val_share: float, test_share: float, min_train: int) -> int:
    """Return the least number of edges, from ``start`` on, that leaves ``min_train`` of them to
    train."""
    # Always enough: rounding and the least of one edge take at most one more for each part. A tiny
    # train share makes it huge; then it is the answer, without a search.
    enough = math.ceil((min_train + 2) / (1 - val_share - test_share)) + 1
    near = range(start, min(enough, start + 100_000))
    return next(
        (n for n in near if n - sum(_held_out(n, val_share, test_share)) >= min_train),
        max(start, enough),
    )


def _names(val_share: float, test_share: float) -> str:
    if test_share:
        return "train, validation and test"
    return "train and validation" if val_share else "train"


def _divide_by_user(
    interactions: Interactions,
    val_share: float,
    test_share: float,
    min_train: int,
    generator: torch.Generator,
    order: Tensor | None,
) -> Tensor:
    degrees = interactions.user_degrees
    num_val, num_test = (
        (share * degrees.double() + 1e-9).floor().long() for share in (val_share, test_share)
    )

    parts = [(1, num_val), (2, num_test)]
    if order is None:
        sequence = torch.randperm(
            interactions.num_edges,
            generator=generator,
            dtype=torch.int64,
            device=interactions.device,
        )
    else:  # the last first, and of these the test edges
        sequence = order.argsort(stable=True).flip(0)
        parts.reverse()
    rank = rank_within_users(interactions, sequence)
    part, taken = torch.zeros_like(rank), torch.zeros_like(degrees)
    for code, count in parts:
        first, taken = taken, taken + count
        part[(rank >= first[interactions.users]) & (rank < taken[interactions.users])] = code

    counts = torch.bincount(part, minlength=3).tolist()
    wanted = (min_train, *(1 for share in (val_share, test_share) if share))
    if any(count < want for count, want in zip(counts, wanted, strict=False)):
        most = int(degrees.max()) if len(degrees) else 0
        # One user with an edge in each part is enough, since any other user adds a train edge.
        others = int((degrees > 0).sum()) > 1
        start = max(most + 1, math.ceil(1 / min(val_share or 1.0, test_share or 1.0) - 1e-9))
        needed = _least_edges(start, val_share, test_share, 1 if others else min_train)
        raise ValueError(
            f"too few edges to split by user: {_names(val_share, test_share)} would get "
            f"{counts[: len(wanted)]} edges; "
            f"some user needs at least {needed} edges for these ratios, and the most that one has "
            f"is {most}"
        )
    return part
