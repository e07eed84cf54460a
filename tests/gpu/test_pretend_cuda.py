"""The pretend device itself: devices do not mix, counts are right, values are the CPU's."""

from __future__ import annotations

import pytest
import torch
from pretend_cuda import PretendCuda
from torch import Tensor, nn

from lightgcn import Interactions, normalized_adjacency

DEVICE = torch.device("cuda:0")


def on(values: Tensor) -> Tensor:
    return values.to("cuda")


def test_tensors_say_where_they_are(cuda: PretendCuda) -> None:
    made = torch.ones(3, dtype=torch.float32, device="cuda")
    for x in (made, made + 1, made[1:], made.double(), made.new_zeros(2), torch.zeros_like(made)):
        assert x.device == DEVICE and x.is_cuda and not x.is_cpu
    assert made.to("cuda") is made and made.cpu().device == torch.device("cpu")
    assert torch.ones(3, dtype=torch.float32).device == torch.device("cpu")
    assert on(torch.eye(2)).to_sparse_csr().device == DEVICE
    here = torch.ones(3, dtype=torch.float32)
    assert torch.as_tensor(here, device="cuda").device == DEVICE
    assert here.device == torch.device("cpu")


def test_modules_move_and_train(cuda: PretendCuda) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.arange(6.0).view(2, 3)
    here = layer(x).square().sum()
    here.backward()
    expected = layer.weight.grad
    layer.zero_grad()
    layer.to("cuda")
    layer(on(x)).square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.device == DEVICE
    assert torch.equal(layer.weight.grad.cpu(), expected)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    optimizer.step()
    assert layer.weight.device == DEVICE
    assert all(part.device == DEVICE for part in optimizer.state[layer.weight].values())


def test_devices_do_not_mix(cuda: PretendCuda) -> None:
    here, there = torch.ones(3), on(torch.ones(3))
    index = torch.tensor([0, 2])
    for mix in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: there.index_select(0, index),
        lambda: there.add_(here),
        lambda: here[on(index)],
        lambda: torch.searchsorted(there, here),
        lambda: torch.from_numpy(here.numpy()) @ there,
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
        there.numpy()
    assert (there * torch.tensor(2.0)).tolist() == [2.0] * 3  # as CUDA, a number of the host
    assert there[index].device == DEVICE


def test_generators_have_a_device(cuda: PretendCuda) -> None:
    here = torch.Generator().manual_seed(3)
    there = torch.Generator(device="cuda").manual_seed(3)
    assert isinstance(there, torch.Generator) and there.device == DEVICE
    expected = torch.randperm(9, generator=here)
    assert torch.equal(torch.randperm(9, generator=there, device="cuda").cpu(), expected)
    for wrong in (
        lambda: torch.rand(3, generator=there),
        lambda: torch.rand(3, generator=here, device="cuda"),
        lambda: torch.empty(3, device="cuda").normal_(generator=here),
    ):
        with pytest.raises(RuntimeError, match="device type for generator"):
            wrong()


def test_launches_are_counted_and_views_are_free(cuda: PretendCuda) -> None:
    x, here = on(torch.ones(4, 4)), torch.ones(4, 4)
    with cuda.counted() as counts:
        here.exp_().sum().item()  # on the CPU
        y = x.t()[1:].unsqueeze(0)
        torch.empty(3, device="cuda")
        assert counts.num_launches == 0
        y = y + 1
        y.mul_(2)
        torch.zeros(3, device="cuda")
    assert counts.launches == {"add": 1, "mul_": 1, "zeros": 1}
    assert counts.num_waits == 0


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.masked_select(x > 1),
        lambda x: x.unique(),
        lambda x: x.long().repeat_interleave(x.long()),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.tensor([1.0, 2.0], device="cuda"),
        lambda x: torch.arange(3.0).to("cuda"),
        lambda x: torch.bincount(x.long()),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_a_wait_is_counted(cuda: PretendCuda, operation: object) -> None:
    x = torch.arange(3.0).to("cuda")
    with cuda.counted() as counts:
        operation(x)  # type: ignore[operator]
    assert counts.num_waits == 1, counts.waits


def test_what_does_not_wait_is_not_counted(cuda: PretendCuda) -> None:
    x = torch.arange(3.0).to("cuda")
    with cuda.counted() as counts:
        x[x > 1] = 0.0
        x.index_add_(0, x.long(), x.clone())
        torch.arange(3.0, device="cuda").repeat_interleave(x.long() * 0 + 2, output_size=6)
        x.sort()
        x[1:] = 2.0
        torch.where(x > 0, x, 0.0)
    assert counts.num_waits == 0, counts.waits


def test_the_line_of_the_library_is_named(cuda: PretendCuda) -> None:
    graph = Interactions([0, 1], [1, 0], num_users=2, num_items=2).to("cuda")
    with cuda.counted() as counts:
        graph.contains(graph.users, graph.items)
        graph.edges_of(graph.users)
    assert all(line.startswith("graph/interactions.py:") for _, line in counts.waits)


def test_sparse_products_and_their_gradient(cuda: PretendCuda) -> None:
    graph = Interactions([0, 0, 1], [0, 1, 1], num_users=2, num_items=2)
    x = torch.arange(8.0).view(4, 2)
    expected = normalized_adjacency(graph) @ x
    there = x.to("cuda").requires_grad_()
    found = normalized_adjacency(graph.to("cuda")) @ there
    assert found.device == DEVICE
    assert torch.allclose(found.detach().cpu(), expected)
    found.sum().backward()
    assert there.grad is not None and there.grad.device == DEVICE
    with pytest.raises(ValueError, match=r"cuda:0.*cpu|cpu.*cuda:0"):
        normalized_adjacency(graph) @ there


def test_nothing_is_left_behind() -> None:
    assert torch.Generator.__module__ != "pretend_cuda"
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
