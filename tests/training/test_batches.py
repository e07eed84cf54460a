"""What an epoch learns from: its batches, and the loss of one batch against a dense reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import (
    SETTINGS,
    USERS,
    new_model,
    small_split,
)
from torch import Tensor

from lightgcn import (
    ModelConfig,
    Preset,
    TrainConfig,
    normalized_adjacency,
    preset,
)
from lightgcn.training.batches import Batch, batch_loss, epoch_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def dense_bpr(
    table: Tensor, dense: Tensor, batch: Batch, config: TrainConfig, num_layers: int
) -> Tensor:
    layers = [table]
    for _ in range(num_layers):
        layers.append(dense @ layers[-1])
    z = torch.stack(layers).mean(0)
    assert batch.negatives is not None
    total = table.new_zeros(())
    penalty = table.new_zeros(())
    for left, right, negatives in zip(batch.left, batch.right, batch.negatives, strict=True):
        penalty = penalty + table[left].square().sum() + table[right].square().sum()
        for negative in negatives:
            difference = z[left] @ z[right] - z[left] @ z[negative]
            total = total - torch.log(torch.sigmoid(difference)) / len(negatives)
            penalty = penalty + table[negative].square().sum()
    return total / len(batch.left) + config.l2 * penalty / 2 / len(batch.left)


@pytest.mark.parametrize("normalization", ["mean", "symmetric"])
def test_bpr_step_equals_a_dense_reference(normalization: Any) -> None:
    settings = Preset(
        ModelConfig(normalization=normalization, embedding_dim=6),
        TrainConfig(l2=0.3, num_negatives=2, batch_size=40),
    )
    split = small_split(settings)
    model = new_model(settings).double()
    batch = next(epoch_batches(split.train, settings.train, torch.Generator().manual_seed(0)))
    assert batch.negatives is not None and batch.negatives.shape == (40, 2)
    assert int(batch.right.min()) >= USERS and int(batch.negatives.min()) >= USERS
    adjacency = normalized_adjacency(split.train.message, normalization)
    loss = batch_loss(model, adjacency, batch, settings.train)
    loss.backward()

    table = model.embedding.detach().clone().requires_grad_()
    dense = normalized_adjacency(split.train.message, normalization, dtype=torch.float64).to_dense()
    expected = dense_bpr(table, dense, batch, settings.train, 3)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.embedding.grad, table.grad, rtol=1e-9, atol=1e-12)


def test_bce_step_equals_a_dense_reference() -> None:
    settings = preset("tutorial", l2=0.1, negative_pairs="all")
    split = small_split(settings)
    model = new_model(settings).double()
    (batch,) = epoch_batches(split.train, settings.train, torch.Generator())
    assert batch.labels is not None and len(batch.left) == split.train.edges.shape[1]
    adjacency = normalized_adjacency(split.train.message, "mean")
    loss = batch_loss(model, adjacency, batch, settings.train)
    z = model.propagate(adjacency)
    scores = torch.stack([z[a] @ z[b] for a, b in zip(batch.left, batch.right, strict=True)])
    expected = F.binary_cross_entropy(scores.sigmoid(), batch.labels.double())
    rows = model.embedding[torch.cat([batch.left, batch.right])]
    torch.testing.assert_close(loss, expected + 0.1 * rows.square().sum() / 2 / len(batch.left))


@pytest.mark.parametrize("name", SETTINGS)
def test_an_epoch_goes_through_every_positive(name: str) -> None:
    settings = SETTINGS[name]
    links = small_split(settings).train
    batches = list(epoch_batches(links, settings.train, torch.Generator().manual_seed(0)))
    pairs = torch.cat([torch.stack([batch.left, batch.right]) for batch in batches], dim=1)
    size = settings.train.batch_size or pairs.shape[1]
    assert [len(batch.left) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    if settings.train.loss == "bce":
        expected = links.edges + torch.tensor([[0], [USERS]])
    else:
        expected = links.positives.edge_index + torch.tensor([[0], [USERS]])
    assert pairs.shape == expected.shape
    if settings.train.positives == "edges":
        assert sorted(pairs.T.tolist()) == sorted(expected.T.tolist())
    else:
        assert bool(links.positives.contains(pairs[0], pairs[1] - USERS).all())
        assert int(torch.bincount(pairs[0]).max()) < int(links.positives.user_degrees.max()) + 10
    for batch in batches:
        if batch.negatives is not None:
            users = batch.left.unsqueeze(1).expand_as(batch.negatives).reshape(-1)
            assert not bool(
                links.exclude.contains(users, batch.negatives.reshape(-1) - USERS).any()
            )


def test_negatives_are_drawn_in_parts_if_there_are_millions() -> None:
    for positives in ("edges", "users"):
        config = TrainConfig(positives=positives, num_negatives=4000, batch_size=100)
        links = small_split(SETTINGS["paper"]).train
        seen = []
        for batch in epoch_batches(links, config, torch.Generator().manual_seed(0)):
            assert batch.negatives is not None
            assert batch.negatives.shape == (len(batch.left), 4000)
            users = batch.left.repeat_interleave(4000)
            items = batch.negatives.flatten() - links.message.num_users
            assert not links.exclude.contains(users, items).any()
            seen.append(batch.left)
        drawn = torch.cat(seen)
        assert len(drawn) == links.positives.num_edges
        assert positives == "users" or torch.equal(drawn.sort().values, links.positives.users)
