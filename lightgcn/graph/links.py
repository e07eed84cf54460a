"""Links to predict, with the graph that messages flow along and the negatives: one part of a split.

A link set that was drawn keeps its recipe, so that its negatives (and, in a disjoint split, the
edges held back from the messages) can be drawn again for each epoch."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightgcn.core.checks import (
    check_same_device,
    checked_count,
    checked_edge_index,
    checked_indices,
    checked_number,
)
from lightgcn.core.seeding import make_generator, seed_from
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.graph.negatives import (
    num_negatives,
    sample_negative_node_pairs,
    sample_negatives,
)

NegativePairs = Literal["user_item", "all"]

# Random streams of one seed; a link set draws from (stream, epoch).
SPLIT_STREAM, TRAIN_STREAM, VAL_STREAM, TEST_STREAM = range(4)


@dataclass(frozen=True, eq=False)
class LinkSet:
    """Links to predict, and the graph that messages flow along to predict them.

    `split_edges` and `link_set` draw one; a split made elsewhere is put together from its parts.

    Attributes:
        message: the interactions that messages flow along.
        positives: the edges to predict, over the same nodes.
        negatives: (2, N) int64 pairs that are no edges.
        negative_pairs: "user_item", or "all" if negatives are pairs of any two nodes (as DeepSnap
            draws them).

    Raises:
        ValueError: if a part has another type, the graphs are over different nodes, or
            ``negatives`` are not (2, N) integers in range.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> held_out = Interactions([1], [2], num_users=2, num_items=3)
        >>> links = LinkSet(train, held_out, negatives=torch.tensor([[0], [2]]))
        >>> links.edges
        tensor([[1, 0],
                [2, 2]])
        >>> links.labels
        tensor([1., 0.])
    """

    message: Interactions
    positives: Interactions
    negatives: Tensor
    negative_pairs: NegativePairs = "user_item"
    _recipe: Recipe | None = None

    def __post_init__(self) -> None:
        message = checked_interactions("message", self.message)
        positives = checked_interactions("positives", self.positives)
        if (message.num_users, message.num_items) != (positives.num_users, positives.num_items):
            raise ValueError(
                f"message and positives are over different nodes: {message} and {positives}"
            )
        negatives = checked_edge_index(self.negatives, "negatives")
        check_same_device(message=message, positives=positives, negatives=negatives)
        if self._recipe is None:  # drawn ones are in range
            check_negatives(1.0, self.negative_pairs)
            counts: tuple[tuple[int, str], ...] = (
                (positives.num_users, "num_users"),
                (positives.num_items, "num_items"),
            )
            if self.negative_pairs == "all":
                counts = ((positives.num_nodes, "num_nodes"),) * 2
            for row, (count, name) in enumerate(counts):
                checked_indices(f"negatives[{row}]", negatives[row], count, name)
        object.__setattr__(self, "negatives", negatives)

    @cached_property
    def edges(self) -> Tensor:
        """(2, P + N) int64: the positives, then the negatives; each pair once, in one direction.

        Users and items both count from zero; with ``negative_pairs="all"`` both rows hold node
        numbers instead (item ``i`` is node ``num_users + i``)."""
        positives = self.positives.edge_index
        if self.negative_pairs == "all":
            positives = torch.stack([positives[0], positives[1] + self.positives.num_users])
        return torch.cat([positives, self.negatives], dim=1)

    @cached_property
    def labels(self) -> Tensor:
        """(P + N,) float32: 1 for a positive, 0 for a negative."""
        labels = torch.zeros(self.edges.shape[1], dtype=torch.float32, device=self.negatives.device)
        labels[: self.positives.num_edges] = 1.0
        return labels

    @cached_property
    def exclude(self) -> Interactions:
        """The edges that negatives avoid."""
        if self._recipe is not None:
            return self._recipe.exclude
        return unweighted(self.message).union(unweighted(self.positives))

    @property
    def can_resample(self) -> bool:
        """Whether the set was drawn from a seed, so that it can be drawn again."""
        return self._recipe is not None

    @property
    def is_disjoint(self) -> bool:
        """Whether each draw holds other edges back from the messages, to be predicted."""
        return self._recipe is not None and self._recipe.message is None

    def resample(self, epoch: int) -> LinkSet:
        """Return this set with its negatives drawn anew and, in disjoint mode, other edges held
        back from the messages.

        The result is determined by the seed of the split and ``epoch`` alone; ``resample(0)``
        equals the first draw.

        Raises:
            ValueError: if ``epoch`` is not an integer of at least 0, or the set was put together by
                hand and has no seed.
        """
        if self._recipe is None:
            raise ValueError(
                "this LinkSet was built from given parts and has no seed to draw again from: build "
                "it with lightgcn.link_set(message, positives, seed=…)"
            )
        return self._recipe.draw(checked_count("epoch", epoch))

    def sample_users(self, count: int, *, seed: int | torch.Generator = 0) -> LinkSet:
        """Return the links of randomly drawn users that have positives; messages stay.

        Negatives that are pairs of any nodes all stay. The result cannot be resampled.

        Args:
            count: how many users; all, if there are no more.
            seed: an integer or a generator.

        Raises:
            ValueError: if ``count`` is not a positive integer.
        """
        able = self.positives.user_degrees.nonzero().flatten()
        if checked_count("count", count, 1) >= len(able):
            return LinkSet(self.message, self.positives, self.negatives, self.negative_pairs)
        drawn = torch.randperm(
            len(able), generator=make_generator(seed), dtype=torch.int64, device="cpu"
        )
        users = able[drawn[:count].to(able.device)]
        negatives = self.negatives
        if self.negative_pairs != "all":
            negatives = negatives[:, torch.isin(negatives[0], users)]
        positives = self.positives.select_users(users)
        return LinkSet(self.message, positives, negatives, self.negative_pairs)

    def map_messages(
        self,
        extend: Callable[[Interactions], Interactions],
        widen: Callable[[Interactions], Interactions],
        extended: Interactions | None = None,
    ) -> LinkSet:
        """Return the set with a function applied to its messages, at each later draw too; the links
        stay.

        Args:
            extend: maps a message graph to another one over the same items, and over the same users
                or over further ones after them.
            widen: maps a graph to the same edges over those users.
            extended: ``extend(self.message)``, if it is known already.

        Raises:
            ValueError: if negatives are pairs of any nodes, whose numbers further users would
                shift.
        """
        if self.negative_pairs == "all":
            raise ValueError('negative_pairs="all" numbers all nodes, and further users shift them')
        message = extend(self.message) if extended is None else extended
        positives, recipe = widen(self.positives), self._recipe
        if recipe is not None:
            fixed = None if recipe.message is None else message
            recipe = replace(recipe, message=fixed, extend=extend, widen=widen)
        return LinkSet(message, positives, self.negatives, self.negative_pairs, recipe)

    def to(self, device: torch.device | str) -> LinkSet:
        """Return the same links on another device; later draws use a generator of that device."""
        return _move(self, device, {})

    def __repr__(self) -> str:
        return (
            f"LinkSet({self.positives.num_edges} positives, {self.negatives.shape[1]} negatives, "
            f"messages along {self.message.num_edges} edges)"
        )


class Split(NamedTuple):
    """Train, validation and test link sets over the same nodes.

    Example:
        >>> from lightgcn import split_edges
        >>> graph = Interactions([0, 0, 1, 1, 2], [0, 1, 1, 2, 3], num_users=3, num_items=4)
        >>> train, val, test = split_edges(graph, ratios=(0.6, 0.2, 0.2))
        >>> len(train.positives.users), len(val.positives.users), len(test.positives.users)
        (3, 1, 1)
    """

    train: LinkSet
    val: LinkSet
    test: LinkSet

    def to(self, device: torch.device | str) -> Split:
        """Return the same split on another device."""
        moved: dict[int, Interactions] = {}
        return Split(*(_move(links, device, moved) for links in self))

    def fingerprint(self) -> str:
        """Return a digest of the train and validation sets, the same on every machine; the test set
        does not enter it."""
        digest = hashlib.sha256()
        for links in (self.train, self.val):
            for graph in (links.message, links.positives):
                digest.update(graph.fingerprint().encode())
            digest.update(links.negatives.cpu().numpy().tobytes())
        return digest.hexdigest()


def link_set(
    message: Interactions,
    positives: Interactions,
    *,
    negatives: float | None = None,
    negative_pairs: NegativePairs = "user_item",
    known: Interactions | None = None,
    seed: int | torch.Generator = 0,
) -> LinkSet:
    """Build a link set from a split that came with the data, and draw its negatives.

    Negatives avoid both the messages and the positives.

    Args:
        message: the interactions that messages flow along (train, or train and validation).
        positives: the edges to predict, over the same nodes.
        negatives: negatives per positive; 0 if only rankings are evaluated; None as for
            `split_edges`.
        negative_pairs: as for `split_edges`.
        known: further edges that the negatives avoid.
        seed: an integer, or a generator from which one is drawn.

    Raises:
        ValueError: if an argument is out of range, the graphs are over different nodes, or there
            are fewer non-edges than the given ``negatives`` ask for.

    Warns:
        UserWarning: if there are too few non-edges for one negative per positive, the default.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=4)
        >>> test = Interactions([1], [2], num_users=2, num_items=4)
        >>> link_set(train, test, negatives=2.0)
        LinkSet(1 positives, 2 negatives, messages along 3 edges)
    """
    message = checked_interactions("message", message)
    positives = checked_interactions("positives", positives)
    check_negatives(negatives, negative_pairs)
    exclude = unweighted(message).union(unweighted(positives))
    if known is not None:
        exclude = exclude.union(unweighted(checked_interactions("known", known)))
    recipe = Recipe(
        pool=positives,
        message=message,
        exclude=exclude,
        num_supervision=positives.num_edges,
        negatives=negatives,
        negative_pairs=negative_pairs,
        seed=seed_from(seed),
        stream=TEST_STREAM,
    )
    links = recipe.draw(0)
    if negatives is None:
        warn_of_negatives(test=links)
    return links


def check_negatives(negatives: float | None, negative_pairs: str) -> None:
    """Raise a ValueError unless the arguments of these names are allowed."""
    if negatives is not None:
        checked_number("negatives", negatives, 0)
    if negative_pairs not in ("user_item", "all"):
        raise ValueError(f'negative_pairs must be "user_item" or "all", got {negative_pairs!r}')


def warn_of_negatives(**sets: LinkSet) -> None:
    """Warn if link sets have fewer negatives than positives; called with each set by its name."""
    counts = {
        name: (links.negatives.shape[1], len(links.positives.users)) for name, links in sets.items()
    }
    fewer = [
        f"{name} {found} for {wanted}" for name, (found, wanted) in counts.items() if found < wanted
    ]
    if fewer:
        warnings.warn(
            "so few pairs are no edges that there is not a negative for each positive: "
            f"{', '.join(fewer)}",
            UserWarning,
            stacklevel=3,
        )


def unweighted(graph: Interactions) -> Interactions:
    """Return the graph without weights."""
    return graph if graph.weights is None else replace(graph, weights=None)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a link set is drawn, so that it can be drawn again for another epoch.

    Attributes:
        pool: the edges that positives are taken from.
        message: the graph that messages flow along; None (disjoint mode): the pool without the
            edges that are predicted.
        exclude: the edges that negatives avoid.
        num_supervision: in disjoint mode, how many edges of the pool are predicted.
        negatives: negatives per positive; None for one, as far as there are so many.
        negative_pairs: as for `split_edges`.
        seed: the seed of the split.
        stream: the random stream of this set.
        extend: applied to the messages of a disjoint draw, if not None.
        widen: applied to the positives, if not None.
    """

    pool: Interactions
    message: Interactions | None
    exclude: Interactions
    num_supervision: int
    negatives: float | None
    negative_pairs: NegativePairs
    seed: int
    stream: int
    extend: Callable[[Interactions], Interactions] | None = None
    widen: Callable[[Interactions], Interactions] | None = None

    def draw(self, epoch: int) -> LinkSet:
        """Return the link set of an epoch."""
        device = self.pool.device
        generator = make_generator(self.seed, self.stream, epoch, device=device)
        message, positives = self.message, self.pool
        if message is None:
            num_edges = self.pool.num_edges
            order = torch.randperm(num_edges, generator=generator, dtype=torch.int64, device=device)
            supervised = torch.zeros(num_edges, dtype=torch.bool, device=device)
            supervised[order[: self.num_supervision]] = True
            if device.type == "cpu":  # by masks, which is faster there
                message, positives = self.pool.select(~supervised), self.pool.select(supervised)
            else:
                positives, message = self.pool.divide(supervised, self.num_supervision)
            message = message if self.extend is None else self.extend(message)
        positives = positives if self.widen is None else self.widen(positives)
        every_pair = self.negative_pairs == "all"
        count = num_negatives(self.exclude, positives.num_edges, self.negatives, every_pair)
        sample = sample_negative_node_pairs if every_pair else sample_negatives
        negatives = sample(self.exclude, count, generator)
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
