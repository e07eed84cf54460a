"""Split a graph's edges into train, validation and test link sets, with negatives, and without
leaks.

What carries messages, what is predicted and what negatives must avoid are kept apart:

    set         messages flow along          positives                       negatives avoid
    train       train edges not predicted    `disjoint` of the train edges   train edges
    validation  all train edges              validation edges                every known edge
    test        train + validation edges     test edges                      every known edge
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.core.seeding import make_generator, seed_from
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.negatives import sample_negative_node_pairs, sample_negatives

NegativePairs = Literal["user_item", "all"]

# The random streams of one seed; those of a link set are (stream, epoch).
_SPLIT, _TRAIN, _VAL, _TEST = range(4)


@dataclass(frozen=True, eq=False)
class LinkSet:
    """Links to predict, and the graph that may be looked at to predict them.

    Attributes:
        message: the interactions that messages flow along.
        positives: the edges to predict.
        negatives: (2, N) int64 pairs that are no edges.
        negative_pairs: "user_item", or "all" where negatives are pairs of any two nodes (as
            DeepSnap draws them).
    """

    message: Interactions
    positives: Interactions
    negatives: Tensor
    negative_pairs: NegativePairs = "user_item"
    _recipe: _Recipe | None = None

    @cached_property
    def edges(self) -> Tensor:
        """(2, P + N) int64: the positives, then the negatives; each pair once, in one direction.

        Users and items count from zero, each on their own; with ``negative_pairs="all"`` both rows
        hold node numbers instead (item ``i`` is node ``num_users + i``)."""
        positives = self.positives.edge_index
        if self.negative_pairs == "all":
            positives = torch.stack([positives[0], positives[1] + self.positives.num_users])
        return torch.cat([positives, self.negatives], dim=1)

    @cached_property
    def labels(self) -> Tensor:
        """(P + N,) float32: 1 for a positive, 0 for a negative."""
        labels = torch.zeros(self.edges.shape[1], device=self.negatives.device)
        labels[: self.positives.num_edges] = 1.0
        return labels

    @property
    def exclude(self) -> Interactions:
        """The edges that negatives must avoid."""
        return self._recipe.exclude if self._recipe else self.message.union(self.positives)

    @property
    def can_resample(self) -> bool:
        """Whether the set was drawn, so that it can be drawn again."""
        return self._recipe is not None

    @property
    def messages_vary(self) -> bool:
        """Whether other edges carry messages each time that the set is drawn."""
        return self._recipe is not None and self._recipe.message is None

    def of_some_users(self, count: int, *, seed: int | torch.Generator = 0) -> LinkSet:
        """Return the links of some of the users that have positives, drawn at random; messages are
        as they are.

        Negatives that are pairs of any nodes stay all. The result cannot be drawn anew.

        Args:
            count: how many users, or all where there are no more.
            seed: an integer or a CPU generator.

        Raises:
            ValueError: if ``count`` is not positive.
        """
        able = self.positives.user_degrees.nonzero().flatten()
        if checked_count("count", count, 1) >= len(able):
            return LinkSet(self.message, self.positives, self.negatives, self.negative_pairs)
        users = able[
            torch.randperm(len(able), generator=make_generator(seed))[:count].to(able.device)
        ]
        negatives = self.negatives
        if self.negative_pairs != "all":
            negatives = negatives[:, torch.isin(negatives[0], users)]
        return LinkSet(self.message, self.positives.of_users(users), negatives, self.negative_pairs)

    def with_messages(
        self,
        extend: Callable[[Interactions], Interactions],
        widen: Callable[[Interactions], Interactions],
        extended: Interactions | None = None,
    ) -> LinkSet:
        """Return the set with other messages, also where it is drawn anew; the links are the same.

        Args:
            extend: gives what messages flow along in place of some interactions: over the same
                items, and over the same users or over further ones after them.
            widen: gives the same interactions over those users.
            extended: what ``extend`` gives for the messages as they are, where it is known.

        Raises:
            ValueError: if negatives are pairs of any nodes, whose numbers further users would
                shift.
        """
        if self.negative_pairs == "all":
            raise ValueError(
                'negative_pairs="all" numbers all nodes, and cannot go with further ones'
            )
        message = extend(self.message) if extended is None else extended
        positives, recipe = widen(self.positives), self._recipe
        if recipe is not None:
            fixed = None if recipe.message is None else message
            recipe = replace(recipe, message=fixed, extend=extend, widen=widen)
        return LinkSet(message, positives, self.negatives, self.negative_pairs, recipe)

    def resample(self, epoch: int) -> LinkSet:
        """Return this set with its negatives drawn anew and, in disjoint mode, other edges held
        back from the messages.

        The result is determined by the seed of the split and ``epoch`` alone; ``resample(0)``
        equals the first draw.

        Raises:
            ValueError: if ``epoch`` is negative, or the set was put together by hand and has no
                seed.
        """
        if self._recipe is None:
            raise ValueError(
                "this LinkSet was built from given parts; only one that was drawn can be drawn "
                "again"
            )
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        return self._recipe.draw(epoch)

    def to(self, device: torch.device | str) -> LinkSet:
        """Return the same links on another device; what is resampled there comes from that device's
        generator."""
        return _move(self, device, {})

    def __repr__(self) -> str:
        return (
            f"LinkSet({self.positives.num_edges} positives, {self.negatives.shape[1]} negatives, "
            f"messages along {self.message.num_edges} edges)"
        )


class Split(NamedTuple):
    """Train, validation and test link sets over the same nodes."""

    train: LinkSet
    val: LinkSet
    test: LinkSet

    def to(self, device: torch.device | str) -> Split:
        """Return the same split on another device."""
        moved: dict[int, Interactions] = {}
        return Split(*(_move(links, device, moved) for links in self))

    def fingerprint(self) -> str:
        """Return a digest of the train and validation sets, the same on every machine; the test set
        is not read."""
        digest = hashlib.sha256()
        for links in (self.train, self.val):
            for graph in (links.message, links.positives):
                digest.update(graph.fingerprint().encode())
            digest.update(links.negatives.cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How a link set is drawn, so that it can be drawn again for another epoch."""

    pool: Interactions
    message: (
        Interactions | None
    )  # None: what is left of the pool after the supervision edges are taken out
    exclude: Interactions
    num_supervision: int
    negatives: float
    negative_pairs: NegativePairs
    seed: int
    stream: int
    extend: Callable[[Interactions], Interactions] | None = (
        None  # what is done to what is left of the pool
    )
    widen: Callable[[Interactions], Interactions] | None = None  # and to the positives

    def draw(self, epoch: int) -> LinkSet:
        generator = make_generator(self.seed, self.stream, epoch, device=self.pool.device)
        message, positives = self.message, self.pool
        if message is None:
            order = torch.randperm(
                self.pool.num_edges, generator=generator, device=self.pool.device
            )
            supervised = torch.zeros(self.pool.num_edges, dtype=torch.bool, device=self.pool.device)
            supervised[order[: self.num_supervision]] = True
            message, positives = self.pool.select(~supervised), self.pool.select(supervised)
            message = message if self.extend is None else self.extend(message)
        positives = positives if self.widen is None else self.widen(positives)
        sample = sample_negative_node_pairs if self.negative_pairs == "all" else sample_negatives
        negatives = sample(self.exclude, round(self.negatives * positives.num_edges), generator)
        return LinkSet(message, positives, negatives, self.negative_pairs, self)


def _move(links: LinkSet, device: torch.device | str, moved: dict[int, Interactions]) -> LinkSet:
    """Move a link set; graphs that were one object before (`moved`, by identity) are one object
    after."""

    def move(graph: Interactions) -> Interactions:
        if id(graph) not in moved:
            moved[id(graph)] = graph.to(device)
        return moved[id(graph)]

    recipe = links._recipe
    if recipe is not None:
        message = None if recipe.message is None else move(recipe.message)
        recipe = replace(
            recipe, pool=move(recipe.pool), message=message, exclude=move(recipe.exclude)
        )
    negatives = links.negatives.to(device)
    return LinkSet(
        move(links.message), move(links.positives), negatives, links.negative_pairs, recipe
    )


def split_edges(
    interactions: Interactions,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    disjoint: float = 0.0,
    negatives: float = 1.0,
    stratify: Literal["user"] | None = None,
    order: Tensor | None = None,
    negative_pairs: NegativePairs = "user_item",
    known: Interactions | None = None,
    seed: int | torch.Generator = 0,
) -> Split:
    """Split the edges at random into train, validation and test link sets with negatives.

    Validation and test get ``floor(ratio * E)`` edges each, but at least one; train gets the rest.

    Args:
        interactions: the whole graph; the work is done on its device.
        ratios: train, validation and test shares, positive and adding up to 1. With two (train,
            validation) the test set is empty, for data that brings a test split of its own; with
            one, ``(1.0,)``, validation is empty as well, to train on all there is for a number of
            epochs that is known.
        disjoint: share of the train edges, rounded down but at least one edge, that are predicted
            and carry no messages; the other train edges carry messages and are not predicted. 0:
            every train edge does both.
        negatives: negatives per positive.
        stratify: "user" splits each user's edges by the ratios and leaves every user at least one
            train edge; a user with too few edges for a part (``floor`` gives 0) has none in it.
        order: (E,) numbers of the edges, such as times or places in a list: with stratify="user" a
            user's held-out edges are then the last ones, test after validation, and not random
            ones; equal numbers go by item.
        negative_pairs: "user_item", or "all" node pairs as DeepSnap draws them (for comparison with
            its figures).
        known: further edges that validation and test negatives avoid, such as a test split that
            came with the data; train negatives do not know them.
        seed: an integer, or a generator from which one is drawn.

    Returns:
        A `Split` of three `LinkSet`.

    Raises:
        ValueError: if an argument is out of range, ``known`` is over other nodes, the graph is too
            small (the message says how many edges are needed), or there are too few non-edges for
            the negatives.
    """
    val_share, test_share = _check_ratios(ratios)
    if not 0 <= disjoint < 1:
        raise ValueError(f"disjoint must be in [0, 1), got {disjoint}")
    if not (math.isfinite(negatives) and negatives >= 0):
        raise ValueError(
            f"negatives must be a finite number per positive, at least 0, got {negatives}"
        )
    if stratify not in (None, "user"):
        raise ValueError(f'stratify must be None or "user", got {stratify!r}')
    if negative_pairs not in ("user_item", "all"):
        raise ValueError(f'negative_pairs must be "user_item" or "all", got {negative_pairs!r}')
    if order is not None:
        order = _checked_order(order, interactions, stratify)
    seed = seed_from(seed)
    generator = make_generator(seed, _SPLIT, device=interactions.device)
    min_train = 2 if disjoint else 1
    if stratify == "user":
        part = _divide_by_user(interactions, val_share, test_share, min_train, generator, order)
    else:
        part = _divide(interactions, val_share, test_share, min_train, generator)

    train, val, test = (interactions.select(part == code) for code in (0, 1, 2))
    seen = train.union(val)
    every = (
        interactions
        if known is None
        else _pattern(interactions).union(_pattern(known.to(interactions.device)))
    )
    num_supervision = train.num_edges
    if disjoint:
        num_supervision = min(max(1, _floor(disjoint * train.num_edges)), train.num_edges - 1)
    recipes = (
        _Recipe(
            train,
            None if disjoint else train,
            train,
            num_supervision,
            negatives,
            negative_pairs,
            seed,
            _TRAIN,
        ),
        _Recipe(val, train, every, val.num_edges, negatives, negative_pairs, seed, _VAL),
        _Recipe(test, seen, every, test.num_edges, negatives, negative_pairs, seed, _TEST),
    )
    return Split(*(recipe.draw(0) for recipe in recipes))


def link_set(
    message: Interactions,
    positives: Interactions,
    *,
    negatives: float = 1.0,
    negative_pairs: NegativePairs = "user_item",
    seed: int | torch.Generator = 0,
) -> LinkSet:
    """Build a link set from a split that is given: negatives avoid both the messages and the
    positives.

    Args:
        message: the interactions that messages flow along (train, or train and validation).
        positives: the edges to predict, over the same nodes.
        negatives: negatives per positive; 0 where only ranking is evaluated.
        negative_pairs: as for `split_edges`.
        seed: an integer or a generator.

    Raises:
        ValueError: if the two are over different nodes, or there are too few non-edges.
    """
    exclude = message.union(positives)
    recipe = _Recipe(
        positives,
        message,
        exclude,
        positives.num_edges,
        negatives,
        negative_pairs,
        seed_from(seed),
        _TEST,
    )
    return recipe.draw(0)


def _check_ratios(ratios: Sequence[float]) -> tuple[float, float]:
    shares = tuple(float(ratio) for ratio in ratios)
    if len(shares) not in (1, 2, 3):
        raise ValueError(
            "ratios must be (train, validation, test), (train, validation) or (train,), got "
            f"{shares}"
        )
    if not all(math.isfinite(share) and share > 0 for share in shares):
        hint = "; leave the test share out where no test set is wanted" if len(shares) == 3 else ""
        raise ValueError(f"each of the ratios must be a positive number, got {shares}{hint}")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"ratios must add up to 1, got {shares}, which add up to {sum(shares):.6g}"
        )
    # So small a share is no share: roundings of the others would take it.
    if 1 - sum(shares[1:]) < 1e-6:
        raise ValueError(f"ratios must leave a share for train, got {shares}")
    _, val_share, test_share = (*shares, 0.0, 0.0)[:3]
    return val_share, test_share


def _pattern(graph: Interactions) -> Interactions:
    return graph if graph.weights is None else replace(graph, weights=None)


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
    order = torch.randperm(num_edges, generator=generator, device=interactions.device)
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
    # Enough in any case, since rounding and the least of one edge take at most one more for each
    # part. A train share near nothing makes it huge: then it is the answer, and not searched for by
    # counting.
    enough = math.ceil((min_train + 2) / (1 - val_share - test_share)) + 1
    near = range(start, min(enough, start + 100_000))
    return next(
        (n for n in near if n - sum(_held_out(n, val_share, test_share)) >= min_train),
        max(start, enough),
    )


def _names(val_share: float, test_share: float) -> str:
    return (
        "train, validation and test"
        if test_share
        else "train and validation"
        if val_share
        else "train"
    )


def _checked_order(order: Tensor, interactions: Interactions, stratify: str | None) -> Tensor:
    order = torch.as_tensor(order).to(interactions.device)
    if stratify != "user":
        raise ValueError(
            'order says which edges of a user are the last: give stratify="user" with it'
        )
    if order.shape != interactions.users.shape:
        raise ValueError(
            f"order must have shape ({interactions.num_edges},), got {tuple(order.shape)}"
        )
    if order.is_floating_point() and bool(order.isnan().any()):
        raise ValueError(
            f"order[{int(order.isnan().nonzero()[0])}] is NaN; each edge must have its place"
        )
    return order


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
            interactions.num_edges, generator=generator, device=interactions.device
        )
    else:  # the last first, and of these the test edges
        sequence = order.argsort(stable=True).flip(0)
        parts.reverse()
    rank = interactions.ranks(sequence)
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
