"""Half-precision tables, gradients and losses where numbers are very small, very large, or all in
one place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch

from lightgcn import (
    Interactions,
    LightGCN,
    Recommender,
    bce_loss,
    bpr_loss,
    evaluate,
    fit,
    in_batch_softmax_loss,
    l2_penalty,
    link_set,
    normalized_adjacency,
    preset,
    propagate,
    softmax_loss,
    split_edges,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.adjacency import Adjacency, adjacency_of, as_adjacency
from lightgcn.nn import link_scores, spectral_embeddings, truncated_svd
from lightgcn.nn.propagation import propagate_rows

ALPHAS = ([0.25] * 4, [0.0, 0.0, 1.0], [0.1, 0.7, 0.2], [1.0, 0.5])


def half(graph: Interactions, normalization: object = "symmetric") -> Adjacency:
    return normalized_adjacency(graph, normalization, half_tables=True)  # type: ignore[arg-type]


def reference(adjacency: Adjacency, x: torch.Tensor, alpha: list[float]) -> torch.Tensor:
    """The layers one by one, dense and in float64."""
    matrix, power = adjacency.to(dtype=torch.float64).to_dense(), x.double()
    total = alpha[0] * power
    for weight in alpha[1:]:
        power = matrix @ power
        total = total + weight * power
    return total


def assert_close_by_norm(found: torch.Tensor, wanted: torch.Tensor, share: float = 1e-3) -> None:
    assert bool(found.isfinite().all())
    assert float((found.double() - wanted).norm()) <= share * float(wanted.norm())


@pytest.mark.parametrize("normalization", ["symmetric", "mean", (0.0, 1.0), (0.3, 0.7)])
def test_half_tables_at_any_scale(normalization: object) -> None:
    adjacency = half(synthetic_interactions(50, 40, 600, seed=1), normalization)
    nodes = torch.tensor([3, 80, 3, 0])
    for scale, alpha in product((1e-30, 1e-12, 1e-5, 1.0, 3e4, 1e10, 1e30), ALPHAS):
        x = scale * torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
        assert adjacency.gathers_half(x)
        expected = reference(adjacency, x, alpha)
        assert_close_by_norm(propagate(adjacency, x, alpha), expected)
        final, start = propagate_rows(adjacency, x, alpha, nodes)
        assert_close_by_norm(final, expected[nodes])
        assert torch.equal(start, x[nodes])


@pytest.mark.parametrize("normalization", ["symmetric", "mean", (0.0, 1.0)])
def test_half_tables_at_every_power_of_two_have_room_and_use_it(normalization: object) -> None:
    # Whatever the scale, the table neither overflows nor falls among the subnormal numbers, where
    # half has few bits.
    adjacency = half(synthetic_interactions(30, 20, 300, seed=1), normalization)
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    for power in range(-100, 100):
        scaled = x * 2.0**power
        for alpha in ([0.0, 1.0], [0.0, 0.001, 5.0], [0.0, 30.0, 30.0, 30.0]):
            assert_close_by_norm(
                propagate(adjacency, scaled, alpha), reference(adjacency, scaled, alpha)
            )


@pytest.mark.parametrize("loss_scale", [1e-12, 1e-6, 1.0, 1e4])
def test_gradients_through_half_tables_at_any_scale(loss_scale: float) -> None:
    graph = synthetic_interactions(50, 40, 600, seed=1)
    adjacency, alpha = half(graph), [0.25] * 4
    weight = torch.randn(90, 8, generator=torch.Generator().manual_seed(1)) * loss_scale
    x = torch.randn(90, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (propagate(adjacency, x, alpha) * weight).sum().backward()
    assert x.grad is not None
    # The gradient of a linear map is its transpose, and a symmetric one's is itself.
    assert_close_by_norm(x.grad, reference(adjacency, weight, alpha))
    x.grad = None
    nodes = torch.arange(0, 90, 7)
    final, start = propagate_rows(adjacency, x, alpha, nodes)
    ((final + start) * weight[nodes]).sum().backward()
    only = torch.zeros_like(weight).index_add_(0, nodes, weight[nodes])
    assert_close_by_norm(x.grad, reference(adjacency, only, alpha) + only.double())


def test_nothing_at_all_stays_nothing() -> None:
    adjacency = half(synthetic_interactions(50, 40, 600, seed=1))
    assert not propagate(adjacency, torch.zeros(90, 8), [0.25] * 4).any()
    x = torch.randn(90, 8)
    final, start = propagate_rows(adjacency, x, [0.0, 0.0, 0.0], torch.tensor([1, 2]))
    assert not final.any() and torch.equal(start, x[[1, 2]])


@pytest.mark.parametrize("normalization", ["symmetric", "mean"])
def test_a_hub_of_a_million_edges(normalization: str) -> None:
    count = 1_000_000
    users = torch.arange(count)
    graph = Interactions(
        torch.cat([users, users[:1000]]),
        torch.cat([torch.zeros_like(users), users[:1000] + 1]),
        count,
        1001,
    )
    x = torch.rand(count + 1001, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    adjacency = half(graph, normalization)
    sums = {}
    for name, one in (("half", adjacency), ("float32", replace(adjacency, half_tables=False))):
        sums[name] = propagate(one, x, [0.0, 1.0])
        assert bool(sums[name].isfinite().all())
    a, b = (1.0, 0.0) if normalization == "mean" else (0.5, 0.5)
    degrees = graph.user_degrees.double()
    hub = ((x[:count].double() * degrees.pow(-b).unsqueeze(1)).sum(0)) * float(count) ** -a
    torch.testing.assert_close(sums["float32"][count].double(), hub, rtol=1e-5, atol=0)
    torch.testing.assert_close(sums["half"][count].double(), hub, rtol=2e-3, atol=0)
    three = propagate(adjacency, x, [0.25] * 4)
    assert_close_by_norm(
        three, propagate(replace(adjacency, half_tables=False), x.double(), [0.25] * 4), 2e-3
    )


@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
@pytest.mark.parametrize(("num_layers", "learnable"), [(0, False), (2, True), (2, False)])
def test_training_of_a_catalogue_of_one_item_and_of_users_without_items(
    loss: str, num_layers: int, learnable: bool, one_thread: None
) -> None:
    users = torch.arange(0, 40, 2)
    graph = Interactions(users, torch.zeros_like(users), 40, 3)
    split = split_edges(graph, (0.8, 0.1, 0.1), disjoint=0.0)
    config = preset(
        "fast",
        loss=loss,
        num_layers=num_layers,
        learnable_alpha=learnable,
        init="normal",
        epochs=3,
        batch_size=8,
        embedding_dim=4,
        metric="recall@1",
        item_knn=2,
    )
    model = config.new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 40, 3)
    )
    fit(model, split, config)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    result = evaluate(model, split.test, ks=(1,))
    assert 0 <= result["recall@1"] <= 1
    if num_layers:
        recommender = Recommender.from_model(model, graph)
        assert [one.index for one in recommender.recommend(1, k=1)] == [
            0
        ]  # of whom nothing is known: what is popular


def test_one_user_and_one_item() -> None:
    graph = Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1)
    model = LightGCN(1, 1, 4, 3)
    users, items = model.embed(normalized_adjacency(graph))
    torch.testing.assert_close(users, (model.embedding[:1] + model.embedding[1:]) / 2)
    torch.testing.assert_close(items, users)
    links = link_set(
        Interactions(
            torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), 1, 1
        ),
        graph,
        negatives=0,
    )
    assert evaluate(model, links, ks=(1,))["recall@1"] == 1


def test_learnable_weights_have_the_gradient_of_float64() -> None:
    graph = synthetic_interactions(30, 20, 200, seed=1)
    adjacency = half(graph)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    grads = []
    for dtype, one in (
        (torch.float32, adjacency),
        (torch.float64, adjacency.to(dtype=torch.float64)),
    ):
        alpha = torch.tensor([0.4, 0.3, 0.2], dtype=dtype, requires_grad=True)
        propagate(one, x.to(dtype), alpha).square().sum().backward()
        assert alpha.grad is not None
        grads.append(alpha.grad.double())
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-3, atol=0)


def everything(*graphs: Interactions) -> Iterator[torch.Tensor]:
    """The results of all functions of graphs and embeddings, with gradients."""
    generator = torch.Generator().manual_seed(0)
    for graph in graphs:
        for normalization, dtype in product(("mean", (0.3, 0.9)), (torch.float32, torch.float64)):
            x = torch.randn(9, 40, generator=generator, dtype=dtype, device="cpu").requires_grad_()
            nodes = torch.tensor([0, 8, 0], device="cpu")
            for adjacency in (
                normalized_adjacency(graph, normalization, half_tables=True),  # type: ignore[arg-type]
                adjacency_of(graph, normalization, dtype=torch.float64),  # type: ignore[arg-type]
                as_adjacency(graph, 4, 5),
                Adjacency.from_sparse(adjacency_of(graph).to_sparse_csr(), 4, 5),
            ):
                z = propagate(adjacency, x, (0.3, 0.3, 0.4))
                final, start = propagate_rows(adjacency, x, (0.3, 0.3, 0.4), nodes)
                scores = link_scores(z, nodes, nodes.flip(0))
                loss = in_batch_softmax_loss(final, start)
                labels = torch.tensor([1, 0, 1], device="cpu")
                for one in (
                    loss,
                    bce_loss(scores, labels),
                    bpr_loss(scores, scores.unsqueeze(1)),
                    softmax_loss(scores, scores.unsqueeze(1)),
                    l2_penalty(final, batch_size=2),
                    (adjacency.T @ (adjacency @ z)).sum(),
                ):
                    yield one
                    yield torch.autograd.grad(one, x, retain_graph=True)[0]
                yield adjacency.to_sparse_coo().to_dense()
        yield from truncated_svd(graph, 2)
        yield from truncated_svd(graph, 4)
        yield from spectral_embeddings(graph, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_default_dtype_and_device_change_nothing(dtype: torch.dtype) -> None:
    users, items = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 2, 3]])
    weights = torch.linspace(1, 2, 5)
    graphs = [Interactions(users, items, 4, 5, some) for some in (None, weights)]
    expected = list(everything(*graphs))
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            found = list(everything(*map(copy.deepcopy, graphs)))
    finally:
        torch.set_default_dtype(usual)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
