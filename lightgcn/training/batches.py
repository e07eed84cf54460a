"""The data of a training step: checks of a split, the batches of an epoch, the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.core.process_group import SINGLE_PROCESS, ProcessGroup
from lightgcn.core.processor import fast_bfloat16
from lightgcn.graph.adjacency import Adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split
from lightgcn.graph.negatives import draw_negative_items, sample_user_positives, shuffled_batches
from lightgcn.nn.config import RankingConfig, check_scores_all_pairs
from lightgcn.nn.link_scores import link_scores
from lightgcn.nn.losses import bce_loss, bpr_loss, in_batch_softmax_part, l2_penalty
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.config import TrainConfig

_NEGATIVES_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Batch:
    """The pairs of one step, in node numbers (item ``i`` is node ``num_users + i``).

    Attributes:
        left: (B,) nodes.
        right: (B,) nodes, paired with ``left``.
        labels: (B,) 1 for an edge, 0 for a negative (bce); None if all pairs are edges.
        negatives: (B, n) nodes without an edge to ``left`` (bpr).
    """

    left: Tensor
    right: Tensor
    labels: Tensor | None = None
    negatives: Tensor | None = None


def batch_loss(
    model: LightGCN,
    adjacency: Adjacency,
    batch: Batch,
    config: TrainConfig,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:
    """Return the loss of one batch, with its L2 penalty.

    With a sharded model all processes call this with the same batch, and get the same loss."""
    if config.loss == "bce" and config.batch_size is None and not config.l2:
        # Most nodes occur in these links: score them without gathering a row for each link.
        assert batch.labels is not None
        scores = link_scores(model.propagate(adjacency), batch.left, batch.right)
        return bce_loss(processes.all_reduce(scores), batch.labels)
    parts = [batch.left, batch.right]
    if batch.negatives is not None:
        parts.append(batch.negatives.reshape(-1))
    final, start = model.embed_nodes(adjacency, torch.cat(parts), with_start=config.l2 > 0)
    if config.loss == "bce":
        assert batch.labels is not None
        left, right = final.chunk(2)
        loss = bce_loss(processes.all_reduce((left * right).sum(1)), batch.labels)
    elif config.loss == "bpr":
        left, right, negatives = final.split([len(part) for part in parts])
        negatives = negatives.view(len(left), -1, left.shape[1])
        positive = (left * right).sum(1)
        negative = (left.unsqueeze(1) * negatives).sum(2)
        if processes.size > 1:  # one message for both
            scores = torch.cat([positive.unsqueeze(1), negative], dim=1)
            scores = processes.all_reduce(scores)
            positive, negative = scores[:, 0], scores[:, 1:]
        loss = bpr_loss(positive, negative)
    else:
        loss = _softmax_loss(final, model.embedding_dim, config, processes)
    if config.l2:
        penalty = processes.all_reduce(l2_penalty(start, batch_size=len(batch.left)))
        loss = torch.add(loss, penalty, alpha=config.l2)
    return loss


def _softmax_loss(
    rows: Tensor, embedding_dim: int, config: TrainConfig, processes: ProcessGroup
) -> Tensor:
    """Return the softmax loss of a batch's rows, first the left and then the right ones.

    Each process scores a part of the batch."""
    size, block = len(rows) // 2, config.block_size
    users, items = slice(0, size), slice(0, size)
    if processes.size > 1:
        parts = [_part(size, block, rank, processes.size) for rank in range(processes.size)]
        sides = rows.chunk(2)
        given = torch.cat(
            [side[some] for part in parts for side, some in zip(sides, part, strict=True)]
        )
        users, items = parts[processes.rank]
        counts = [sum(some.stop - some.start for some in part) for part in parts]
        rows = processes.all_to_all(given, counts, embedding_dim)
    loss = in_batch_softmax_part(
        rows,
        users.stop - users.start,
        users.start - items.start,
        size,
        config.temperature,
        config.negative_weight,
        block,
        _logits_dtype(rows, config),
    )
    return processes.all_reduce(loss)


def _part(size: int, block: int, rank: int, count: int) -> tuple[slice, slice]:
    """Return the users of a batch that a process scores, and the items of their blocks."""
    blocks = math.ceil(size / block)
    if blocks >= count:
        users = slice(
            rank * blocks // count * block, min((rank + 1) * blocks // count * block, size)
        )
        return users, users
    users = slice(rank * size // count, (rank + 1) * size // count)
    return users, slice(
        users.start // block * block, min(math.ceil(users.stop / block) * block, size)
    )


def _logits_dtype(embeddings: Tensor, config: TrainConfig) -> torch.dtype | None:
    mixed = (
        config.precision == "mixed"
        and embeddings.device.type == "cpu"
        and embeddings.dtype == torch.float32
    )
    return torch.bfloat16 if mixed and config.temperature >= 0.05 and fast_bfloat16() else None


def epoch_batches(
    links: LinkSet, config: TrainConfig, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield the batches of one epoch, drawn from a generator on the device of the links."""
    num_users = links.message.num_users
    if not num_samples(links, config):
        return
    if config.loss == "bce":
        left, right = links.edges
        right = right if links.negative_pairs == "all" else right + num_users
        if config.batch_size is None:
            yield Batch(left, right, links.labels)
            return
        for chosen in shuffled_batches(len(left), config.batch_size, generator):
            yield Batch(left[chosen], right[chosen], links.labels[chosen])
        return
    users, nodes = links.positives.users, links.positives.items
    size = config.batch_size or len(users)
    if config.positives == "users":
        drawn = sample_user_positives(links.positives, len(users), generator)
        users, nodes = users[drawn], nodes[drawn]
        order = torch.arange(len(users), dtype=torch.int64, device=users.device)
        batches = iter(order.split(size))
    else:
        batches = shuffled_batches(len(users), size, generator)
    pick = _Picker(users, nodes, num_users)
    if users.device.type != "cpu":
        # One gather an epoch: a device would wait for the host to start small ones in each step.
        pick = _Picker(*pick(torch.cat(list(batches))), 0)
        batches = (slice(first, first + size) for first in range(0, len(users), size))
    known = links.exclude if config.loss == "bpr" else None
    if known is None:
        for chosen in batches:
            yield Batch(*pick(chosen))
        return
    # Negatives are drawn for many batches at a time, as far as memory stays small.
    group_size = max(1, _NEGATIVES_AT_A_TIME // (config.num_negatives * size))
    while group := [pick(chosen) for chosen in islice(batches, group_size)]:
        negatives = num_users + draw_negative_items(
            known, torch.cat([left for left, _ in group]), generator, config.num_negatives
        )
        for pair, drawn_nodes in zip(group, negatives.split(size), strict=True):
            yield Batch(*pair, negatives=drawn_nodes)


class _Picker(NamedTuple):
    """(E,) left nodes, and right ones less an offset; calling it picks some pairs."""

    left: Tensor
    right: Tensor
    offset: int

    def __call__(self, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        right = self.right[chosen]
        return self.left[chosen], right + self.offset if self.offset else right


def learnable_links(links: LinkSet, config: TrainConfig) -> LinkSet:
    """Return the links without the edges of users who have every item: bpr cannot sample negatives
    for them. If every user has every item, bce has no negatives either, and no link is left."""
    num_items = links.positives.num_items
    if config.loss == "bce" and _is_complete(links):
        return replace(links, positives=links.positives.select(links.positives.users < 0))
    most = (
        links.message.user_degrees + links.positives.user_degrees
    )  # an upper bound, without a union
    if config.loss != "bpr" or not bool((most >= num_items).any()):
        return links
    full = links.exclude.user_degrees >= num_items
    if not bool(full.any()):
        return links
    return replace(links, positives=links.positives.select(~full[links.positives.users]))


def _is_complete(links: LinkSet) -> bool:
    """Return whether every pair of a user and an item is an edge, so that there is no negative."""
    pairs = links.positives.num_users * links.positives.num_items
    if links.negatives.shape[1] or links.message.num_edges + links.positives.num_edges < pairs:
        return False
    return links.exclude.num_edges == pairs


def num_samples(links: LinkSet, config: TrainConfig) -> int:
    """Return the number of links of an epoch: positives, and for bce also negatives."""
    return links.edges.shape[1] if config.loss == "bce" else links.positives.num_edges


def num_steps(links: LinkSet, config: TrainConfig) -> int:
    """Return the number of steps of an epoch."""
    samples = num_samples(links, config)
    return math.ceil(samples / (config.batch_size or max(1, samples)))


def check_split(model: LightGCN, split: Split, config: TrainConfig, ranking: RankingConfig) -> None:
    """Raise a ValueError if a split has other nodes than the model, and as `check_links` does."""
    for links in (split.train, split.val):
        for graph in (links.message, links.positives):
            if (graph.num_users, graph.num_items) != (model.num_users, model.num_items):
                nodes = f"{model.num_users} users and {model.num_items} items"
                raise ValueError(f"the model has {nodes}, but the split has {graph}")
    check_links(split, config, ranking)


def check_links(split: Split, config: TrainConfig, ranking: RankingConfig) -> None:
    """Raise a ValueError if the first step or validation of a run would fail."""
    if not split.train.positives.num_edges:
        raise ValueError("the train set has no positives")
    without = not split.train.negatives.shape[1] and not _is_complete(split.train)
    if config.loss == "bce" and without:
        raise ValueError(
            "the bce loss needs negatives, and the train set has none: split with negatives=1.0"
        )
    if not split.val.positives.num_edges:  # nothing to validate on
        return
    if split.val.negative_pairs == "all" and split.val.negatives.shape[1]:
        check_scores_all_pairs(ranking)
    if parse_metric(config.metric)[1] is None and not split.val.negatives.shape[1]:
        raise ValueError(
            f"metric {config.metric} needs negatives, and the validation set has none: "
            "split with negatives=1.0 or choose a ranking metric (recall@20)"
        )
    check_metric(config.metric, split.val.positives)


def check_metric(metric: str, graph: Interactions) -> None:
    """Raise a ValueError if a metric needs longer lists than a graph has items."""
    k = parse_metric(metric)[1]
    if k is not None and k > graph.num_items:
        raise ValueError(
            f"metric {metric} needs lists of {k} items, but there are only {graph.num_items} items"
        )
