"""What a device computes in another way than a CPU: the loss in large products, propagation by one
matrix, negatives without a wait; and the messages about devices that are mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretend_cuda import PretendCuda
from torch import Tensor

import lightgcn
from lightgcn import (
    Adjacency,
    Interactions,
    LightGCN,
    LinkSet,
    in_batch_softmax_loss,
    normalized_adjacency,
    propagate,
    sample_negative_items,
)
from lightgcn.core.seeding import make_generator
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.negatives import draw_negative_items
from lightgcn.nn import in_batch_softmax
from lightgcn.nn.propagation import propagate_rows

GRAPH = synthetic_interactions(60, 45, 700, seed=1, num_tastes=3)
WEIGHTED = Interactions(GRAPH.users, GRAPH.items, 60, 45, torch.linspace(0.5, 2.0, GRAPH.num_edges))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss_on(device: str, size: int, dtype: torch.dtype, **settings: Any) -> tuple[Tensor, ...]:
    """Return the loss and both gradients, on the CPU."""
    sides = [draw(size, 6, seed=side, dtype=dtype).to(device).requires_grad_() for side in (0, 1)]
    loss = in_batch_softmax_loss(sides[0], sides[1], **settings)
    (3 * loss).backward()
    return loss.detach().cpu(), *(side.grad.cpu() for side in sides if side.grad is not None)


@pytest.mark.parametrize("room", [1 << 26, 300, 100, 50])
@pytest.mark.parametrize("size", [1, 7, 10, 40, 43])
def test_the_loss_in_large_products(
    cuda: PretendCuda, monkeypatch: pytest.MonkeyPatch, size: int, room: int
) -> None:
    """Blocks that are full or not, all at once, some at a time, and one by one."""
    monkeypatch.setattr(in_batch_softmax, "_DEVICE_LOGITS", room)
    for settings in (
        {"block_size": 10, "temperature": 0.2, "negative_weight": 0.7},
        {"block_size": 2048},
        {"block_size": 10, "temperature": 0.001},  # whose exponentials leave the dtype
        {"block_size": 10, "logits_dtype": torch.float32},
    ):
        found = loss_on("cuda", size, torch.float64, **settings)
        expected = loss_on("cpu", size, torch.float64, **settings)
        tolerance = 1e-4 if "logits_dtype" in settings else 1e-9
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_loss_in_other_dtypes(cuda: PretendCuda, dtype: torch.dtype) -> None:
    found, expected = (loss_on(device, 50, dtype, block_size=16) for device in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    with torch.no_grad():
        rows = draw(8, 4, dtype=dtype).to("cuda")
        assert in_batch_softmax_loss(rows, rows).isfinite()


def test_second_derivatives_of_the_loss(cuda: PretendCuda) -> None:
    results = []
    for device in ("cuda", "cpu"):
        rows = draw(9, 4).to(device).requires_grad_()
        loss = in_batch_softmax_loss(rows, rows.flip(0), block_size=4)
        (first,) = torch.autograd.grad(loss, rows, create_graph=True)
        first.square().sum().backward()
        assert rows.grad is not None
        results.append(rows.grad.cpu())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("graph", [GRAPH, WEIGHTED], ids=["plain", "weighted"])
@pytest.mark.parametrize("normalization", ["mean", "symmetric", (0.2, 1.1), (0.0, 0.0)])
def test_propagation_by_one_matrix(
    cuda: PretendCuda, graph: Interactions, normalization: Any
) -> None:
    nodes, weights = torch.tensor([3, 80, 3]), draw(105, 5, seed=2)
    for alpha in ([0.5], [0.0, 0.0], [0.1, 0.9], [0.3, 0.0, 0.2, 0.5], [1.0, -2.0, 0.0],
                  torch.tensor([0.2, 0.3, 0.5])):  # fmt: skip
        results = []
        for device in ("cuda", "cpu"):
            adjacency = normalized_adjacency(graph.to(device), normalization, dtype=torch.float64)
            x = draw(105, 5).to(device).requires_grad_()
            given = alpha.to(device) if isinstance(alpha, Tensor) else alpha
            z = propagate(adjacency, x, given)
            final, start = propagate_rows(adjacency, x, given, nodes.to(device))
            (z * weights.to(device)).sum().add(final.sum() + start.sum()).backward()
            assert x.grad is not None
            product = adjacency @ x.detach() + adjacency.T @ x.detach()
            results.append([part.detach().cpu() for part in (z, final, start, x.grad, product)])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_propagation_without_edges_and_by_a_sparse_matrix(cuda: PretendCuda) -> None:
    empty = Interactions([], [], num_users=2, num_items=1).to("cuda")
    x = torch.ones(3, 2).to("cuda")
    assert propagate(normalized_adjacency(empty), x, [0.5, 0.5]).tolist() == [[0.5, 0.5]] * 3
    dense = torch.tensor([[0.0, 0.5, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    matrix = Adjacency.from_sparse(dense.to_sparse(), 2, 1).to("cuda")
    y = torch.eye(3).to("cuda").requires_grad_()
    propagate(matrix, y, [0.0, 1.0]).square().sum().backward()
    torch.testing.assert_close(propagate(matrix, y, [0.0, 1.0]).detach().cpu(), dense)
    assert y.grad is not None
    torch.testing.assert_close(y.grad.cpu(), 2 * dense.T @ dense)


def test_the_matrix_of_a_symmetric_adjacency_is_kept_once(cuda: PretendCuda) -> None:
    adjacency = normalized_adjacency(GRAPH.to("cuda"))
    assert adjacency.matrix(torch.float32) is adjacency.T.matrix(torch.float32)
    mean = normalized_adjacency(GRAPH.to("cuda"), "mean")
    assert not torch.equal(
        mean.matrix(torch.float32).to_dense(), mean.T.matrix(torch.float32).to_dense()
    )


@pytest.mark.parametrize("count", [1, 3])
def test_negatives_without_a_wait(cuda: PretendCuda, count: int) -> None:
    users = torch.arange(60).repeat_interleave(20).to("cuda")
    there = GRAPH.to("cuda")
    there.contains(users[:1], users[:1])
    there.keys, there.indptr  # noqa: B018  # kept with the graph
    with cuda.counted() as counts:
        generator = make_generator(1, device="cuda")
        items = draw_negative_items(there, users, generator, count)
    assert counts.num_waits == 0, counts.waits
    assert not bool(there.contains(users.repeat_interleave(count), items.view(-1)).any())
    expected = sample_negative_items(GRAPH, users.cpu(), 1, count)
    assert items.cpu().equal(expected)
    with pytest.raises(RuntimeError, match="generator"):
        sample_negative_items(there, users, torch.Generator().manual_seed(1))


def mixed(graph: Interactions) -> list[tuple[str, Any]]:
    """Return calls that mix devices, and what their message must name."""
    there, model = graph.to("cuda"), LightGCN(60, 45, 8)
    table = torch.ones(105, 8)
    negatives = torch.zeros(2, 0, dtype=torch.int64)
    return [
        ("x", lambda: propagate(normalized_adjacency(there), table, [0.5, 0.5])),
        ("x", lambda: normalized_adjacency(graph) @ table.to("cuda")),
        ("x", lambda: model.propagate(normalized_adjacency(there))),
        ("positives", lambda: LinkSet(graph, there, negatives)),
        ("items", lambda: Interactions(graph.users, there.items, 60, 45)),
        ("users", lambda: sample_negative_items(there, graph.users, 1)),
        ("labels", lambda: lightgcn.bce_loss(table[0], table[0].to("cuda"))),
        ("negatives", lambda: LinkSet(there, there, negatives)),
        ("item_embeddings", lambda: lightgcn.top_k(table[:60], table[60:].to("cuda"), 3)),
        ("items", lambda: in_batch_softmax_loss(table, table.to("cuda"))),
        ("nodes", lambda: propagate_rows(
            normalized_adjacency(there), table.to("cuda"), [0.5, 0.5], torch.tensor([1])
        )),
        ("other", lambda: graph.union(there)),
    ]  # fmt: skip


def test_mixed_devices_are_named_with_the_mend(cuda: PretendCuda) -> None:
    for name, call in mixed(GRAPH):
        with pytest.raises(ValueError, match=r"\.to\(") as raised:
            call()
        message = str(raised.value)
        assert name in message and "cuda:0" in message and "cpu" in message, message
        assert "\n" not in message


def test_graphs_are_moved_to_the_model(cuda: PretendCuda) -> None:
    model = LightGCN(60, 45, 8)
    expected = model.propagate(GRAPH)
    for one, graph in ((model, GRAPH.to("cuda")), (LightGCN(60, 45, 8).to("cuda"), GRAPH)):
        found = one.propagate(graph)
        assert found.device == one.embedding.device
        torch.testing.assert_close(found.cpu(), expected)
        pairs = torch.tensor([[0], [1]])
        torch.testing.assert_close(
            one(graph, pairs).cpu(), model(GRAPH, pairs), rtol=1e-4, atol=1e-6
        )
