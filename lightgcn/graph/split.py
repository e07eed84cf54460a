"""Split a graph's edges into train, validation and test link sets, without leaks.

The edges that carry messages, those that are predicted and those that negatives avoid are kept
apart:

    set         messages flow along          positives                       negatives avoid
    train       train edges not predicted    `disjoint` of the train edges   train edges
    validation  all train edges              validation edges                every known edge
    test        train + validation edges     test edges                      every known edge
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor, is_number
from lightgcn.core.seeding import make_generator, seed_from
from lightgcn.graph.edge_order import checked_order
from lightgcn.graph.edge_parts import (
    checked_dates,
    checked_leave_out,
    checked_ratios,
    floor,
    leave_out_parts,
    parts_by_date,
    parts_by_time,
    parts_by_user,
    random_parts,
)
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
    warn_of_negatives,
)


def split_edges(
    interactions: Interactions,
    ratios: Sequence[float] | None = None,
    *,
    leave_out: Sequence[int] | None = None,
    dates: Sequence[Any] | None = None,
    disjoint: float = 0.0,
    negatives: float | None = None,
    stratify: Literal["user", "time"] | None = None,
    order: Any = None,
    negative_pairs: NegativePairs = "user_item",
    known: Interactions | None = None,
    train_only: Tensor | None = None,
    seed: int | torch.Generator = 0,
) -> Split:
    """Split the edges into train, validation and test link sets with negatives.

    One of ``ratios``, ``leave_out`` and ``dates`` gives the sizes of the parts. With ratios
    validation and test get ``floor(ratio * E)`` random edges each, but at least one; train gets the
    rest.

    Args:
        interactions: the whole graph; the work is done on its device.
        ratios: train, validation and test shares, positive and adding up to 1; None for (0.8, 0.1,
            0.1). With two (train, validation) the test set is empty, for data with a test split of
            its own; with one, ``(1.0,)``, validation is empty as well.
        leave_out: numbers of validation and test edges of each user, such as (1, 1), or (1,) for an
            empty test set. A user keeps at least one train edge; of too few others the test edges
            come first, so with (1, 1) a user of two edges has one in train and one in test.
        dates: first time of validation and first time of test, or the first alone for an empty test
            set: ISO strings, dates or datetimes (without zone: UTC), or numbers in the unit of the
            order. If the order is numbers, dates are converted to its unit (seconds, milliseconds,
            microseconds or nanoseconds since 1970, by its magnitude).
        disjoint: share of the train edges, rounded down but at least one edge, that are predicted
            and carry no messages; the other train edges carry messages and are not predicted. 0:
            every train edge does both.
        negatives: negatives per positive; None for 1, or for as many as there are, with a warning.
        stratify: "user" splits each user's edges by the ratios and leaves every user at least one
            train edge; a user with too few edges for a part (``floor`` gives 0) has none in it.
            "time" holds out the last shares of all edges. Edges of equal times stay together: a cut
            moves to the nearest change of time.
        order: (E,) times or places of the edges of ``interactions``, such as its own ``order``;
            types as for `Interactions`. With stratify="user" or ``leave_out`` a user's held-out
            edges are then its last ones, test after validation, instead of random ones; ties go by
            item. With stratify="time" or ``dates`` None is the graph's own order.
        negative_pairs: "user_item", or "all" node pairs as DeepSnap draws them (for comparison with
            its figures).
        known: further edges that validation and test negatives avoid, such as a test split that
            came with the data; train negatives do not avoid them.
        train_only: (E,) bool: edges of ``interactions`` that go to train even if they are drawn for
            a held-out set, which is then smaller, such as those that an earlier model was trained
            on.
        seed: an integer, or a generator from which one is drawn.

    Returns:
        A `Split` of three `LinkSet`. After a cut in time, validation and test may have users and
        items without a train edge.

    Raises:
        ValueError: if an argument has another type or is out of range, arguments contradict each
            other, an order is needed and missing, ``known`` is over other nodes, a part would be
            empty (the message has the number of edges needed, or the times there are), or there are
            fewer non-edges than the given ``negatives`` ask for.

    Warns:
        UserWarning: if there are too few non-edges for one negative per positive, the default.

    Example:
        >>> graph = Interactions([0, 0, 0, 1, 1, 1], [0, 1, 2, 2, 3, 4], num_users=2, num_items=9)
        >>> split = split_edges(graph, ratios=(0.6, 0.2, 0.2), seed=0)
        >>> split.train
        LinkSet(4 positives, 4 negatives, messages along 4 edges)
        >>> split.test.message.num_edges, split.test.edges.shape
        (5, torch.Size([2, 2]))
        >>> last = split_edges(graph, leave_out=(1,), order=[3, 1, 2, 5, 4, 6])
        >>> last.val.positives.edge_index
        tensor([[0, 1],
                [0, 4]])
        >>> in_time = split_edges(graph, stratify="time", order=[3, 1, 2, 5, 4, 6])
        >>> in_time.test.positives.edge_index
        tensor([[1],
                [4]])
    """
    interactions = checked_interactions("interactions", interactions)
    if not (is_number(disjoint) and 0 <= disjoint < 1):
        raise ValueError(f"disjoint must be in [0, 1), got {disjoint}")
    check_negatives(negatives, negative_pairs)
    every = interactions
    if known is not None:
        known = checked_interactions("known", known).to(interactions.device)
        every = unweighted(interactions).union(unweighted(known))
    seed = seed_from(seed)
    division = _Division.checked(interactions, ratios, leave_out, dates, stratify, order)
    generator = make_generator(seed, SPLIT_STREAM, device=interactions.device)
    part = division.parts(interactions, 2 if disjoint else 1, generator)

    if train_only is not None:
        part = part.masked_fill(_checked_mask(train_only, interactions).to(part.device), 0)
    train, val, test = (interactions.select(part == code) for code in (0, 1, 2))
    num_supervision = train.num_edges
    if disjoint:
        num_supervision = min(max(1, floor(disjoint * train.num_edges)), train.num_edges - 1)

    def draw(
        pool: Interactions, message: Interactions | None, exclude: Interactions, stream: int
    ) -> LinkSet:
        count = num_supervision if pool is train else pool.num_edges
        recipe = Recipe(pool, message, exclude, count, negatives, negative_pairs, seed, stream)
        return recipe.draw(0)

    split = Split(
        draw(train, None if disjoint else train, train, TRAIN_STREAM),
        draw(val, train, every, VAL_STREAM),
        draw(test, train.union(val), every, TEST_STREAM),
    )
    if negatives is None:
        warn_of_negatives(train=split.train, validation=split.val, test=split.test)
    return split


def _checked_mask(given: Any, interactions: Interactions) -> Tensor:
    mask = as_tensor("train_only", given)
    if mask.shape != interactions.users.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"train_only must be ({interactions.num_edges},) of torch.bool, got "
            f"{tuple(mask.shape)} of {mask.dtype}"
        )
    return mask


_STRATIFY = ("user", "time")


@dataclass(frozen=True)
class _Division:
    """The arguments of a split that say which edge goes to which part, checked.

    Attributes:
        shares: of validation and test, for a split by ratios.
        leave_out: numbers of validation and test edges of each user.
        dates: as they were given.
        stratify: as for `split_edges`.
        order: (E,) to sort by, on the device of the edges.
    """

    shares: tuple[float, float] | None
    leave_out: tuple[int, int] | None
    dates: Sequence[Any] | None
    stratify: str | None
    order: Tensor | None

    @classmethod
    def checked(
        cls,
        interactions: Interactions,
        ratios: Any,
        leave_out: Any,
        dates: Any,
        stratify: Any,
        order: Any,
    ) -> _Division:
        given = {"ratios": ratios, "leave_out": leave_out, "dates": dates}
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise ValueError(f"{names[0]} and {names[1]} exclude each other: give one of them")
        if stratify is not None and (not isinstance(stratify, str) or stratify not in _STRATIFY):
            raise ValueError(f'stratify must be None, "user" or "time", got {stratify!r}')
        for name, other in (("leave_out", "time"), ("dates", "user")):
            if given[name] is not None and stratify == other:
                raise ValueError(f'{name} and stratify="{other}" exclude each other')
        shares = None
        if leave_out is None and dates is None:
            shares = checked_ratios((0.8, 0.1, 0.1) if ratios is None else ratios)
        if leave_out is not None:
            leave_out = checked_leave_out(leave_out)
        in_time = stratify == "time" or dates is not None
        if order is not None and not in_time and stratify is None and leave_out is None:
            raise ValueError(
                'order is for a split by user or in time: pass stratify="user", stratify="time" '
                "or leave_out too"
            )
        if order is None and in_time:
            order = interactions.order
        if order is None and in_time:
            asked = 'stratify="time"' if dates is None else "dates"
            raise ValueError(f"{asked} needs the times of the edges, and the graph has no order")
        sort_by = checked_order(order, interactions.num_edges)
        sort_by = None if sort_by is None else sort_by.to(interactions.device)
        return cls(shares, leave_out, dates, stratify, sort_by)

    def parts(
        self, interactions: Interactions, min_train: int, generator: torch.Generator
    ) -> Tensor:
        """Return (E,) int64: 0 for a train edge, 1 for validation, 2 for test."""
        if self.leave_out is not None:
            return leave_out_parts(interactions, self.leave_out, min_train, generator, self.order)
        if self.dates is not None:
            assert self.order is not None
            cuts = checked_dates(self.dates, self.order)
            return parts_by_date(self.order, cuts, self.dates, min_train)
        assert self.shares is not None
        if self.stratify == "time":
            assert self.order is not None
            return parts_by_time(self.order, self.shares, min_train)
        if self.stratify == "user":
            return parts_by_user(interactions, self.shares, min_train, generator, self.order)
        return random_parts(interactions, self.shares, min_train, generator)
