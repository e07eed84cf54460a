"""What an epoch learns from: the checks before it, its batches, and the loss of one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightgcn.adjacency import Adjacency
from lightgcn.config import TrainConfig, parse_metric
from lightgcn.losses import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty
from lightgcn.model import LightGCN
from lightgcn.sampling import sample_negative_items, sample_user_positives, shuffled_batches
from lightgcn.scoring import link_scores
from lightgcn.splitting import LinkSet, Split

_NEGATIVES_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class Batch:
    """What one step learns from, in node numbers (item ``i`` is node ``num_users + i``).

    ``left`` and ``right`` are (B,) pairs; ``labels`` (B,) says which are edges (bce), otherwise all are;
    ``negatives`` is (B, n) nodes that ``left`` has no edge to (bpr).
    """

    left: Tensor
    right: Tensor
    labels: Tensor | None = None
    negatives: Tensor | None = None


def batch_loss(model: LightGCN, adjacency: Adjacency, batch: Batch, config: TrainConfig) -> Tensor:
    """Return the loss of one batch: one propagation, one gather of the batch's rows, the loss, the L2 penalty."""
    if config.loss == "bce" and not config.l2:
        # Of so many links that most nodes are among them: all final embeddings are formed, and no row for each link.
        assert batch.labels is not None
        return bce_loss(link_scores(model.propagate(adjacency), batch.left, batch.right), batch.labels)
    parts = [batch.left, batch.right]
    if batch.negatives is not None:
        parts.append(batch.negatives.reshape(-1))
    nodes, sizes = torch.cat(parts), [len(part) for part in parts]
    final, start = model.embed_nodes(adjacency, nodes)
    left, right, *rest = final.split(sizes)
    if config.loss == "bce":
        assert batch.labels is not None
        loss = bce_loss(torch.linalg.vecdot(left, right), batch.labels)
    elif config.loss == "bpr":
        negatives = rest[0].view(len(left), -1, left.shape[1])
        loss = bpr_loss(torch.linalg.vecdot(left, right), torch.linalg.vecdot(left.unsqueeze(1), negatives))
    else:
        loss = in_batch_softmax_loss(
            left,
            right,
            temperature=config.temperature,
            negative_weight=config.negative_weight,
            block_size=config.block_size,
        )
    if config.l2:
        loss = loss + config.l2 * l2_penalty(start, batch_size=len(left))
    return loss


def epoch_batches(links: LinkSet, config: TrainConfig, generator: torch.Generator) -> Iterator[Batch]:
    """Yield the batches of one epoch, drawn from a generator on the device of the links."""
    num_users = links.message.num_users
    if config.loss == "bce":
        left, right = links.edges
        right = right if links.negative_pairs == "all" else right + num_users
        if config.batch_size is None:
            yield Batch(left, right, links.labels)
            return
        for chosen in shuffled_batches(len(left), config.batch_size, generator):
            yield Batch(left[chosen], right[chosen], links.labels[chosen])
        return
    users, items = links.positives.users, links.positives.items
    size = config.batch_size or len(users)
    if config.positives == "users":
        drawn = sample_user_positives(links.positives, len(users), generator)
        users, items = users[drawn], items[drawn]
        batches = iter(torch.arange(len(users), device=users.device).split(size))
    else:
        batches = shuffled_batches(len(users), size, generator)
    negatives = _epoch_negatives(links, users, config, generator) if config.loss == "bpr" else None
    for chosen in batches:
        drawn_nodes = None if negatives is None else num_users + negatives[chosen].long()
        yield Batch(users[chosen], num_users + items[chosen], negatives=drawn_nodes)


def _epoch_negatives(links: LinkSet, users: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Draw the negatives of all positives of an epoch, (P, n) item indices: in the order of the users that is fastest.

    In int32 where that is enough, and some millions at a time, so that they take little memory beside the graph.
    """
    exclude = links.exclude
    dtype = torch.int32 if exclude.num_items < 2**31 else torch.int64
    result = torch.empty((len(users), config.num_negatives), dtype=dtype, device=users.device)
    step = max(1, _NEGATIVES_AT_A_TIME // config.num_negatives)
    for first in range(0, len(users), step):
        part = users[first : first + step]
        result[first : first + step] = sample_negative_items(exclude, part, generator, config.num_negatives)
    return result


def num_samples(links: LinkSet, config: TrainConfig) -> int:
    """Return how many links an epoch learns from: positives, and for bce negatives too."""
    return links.edges.shape[1] if config.loss == "bce" else links.positives.num_edges


def check_split(model: LightGCN, split: Split, config: TrainConfig) -> None:
    """Find at once what would otherwise end the run at its first validation."""
    for links in (split.train, split.val):
        for graph in (links.message, links.positives):
            if (graph.num_users, graph.num_items) != (model.num_users, model.num_items):
                nodes = f"{model.num_users} users and {model.num_items} items"
                raise ValueError(f"the model has {nodes}, the split is of {graph}")
    for name, links in (("train", split.train), ("validation", split.val)):
        if not links.positives.num_edges:
            raise ValueError(f"the {name} set has no positives")
    if config.loss == "bce" and not split.train.negatives.shape[1]:
        raise ValueError("the bce loss needs negatives, and the train set has none: split with negatives=1.0")
    k = parse_metric(config.metric)[1]
    if k is None and not split.val.negatives.shape[1]:
        raise ValueError(f"metric {config.metric} needs negatives, and the validation set has none: "
                         "split with negatives=1.0 or choose a ranking metric (recall@20)")  # fmt: skip
    if k is not None and k > model.num_items:
        raise ValueError(f"metric {config.metric} asks for {k} items, but there are only {model.num_items}")
