"""The softmax loss over in-batch items, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Peers, Way, compare
from lightgcn import in_batch_softmax_loss
from lightgcn.core.processor import fast_bfloat16

BATCH, BLOCK, WIDTH, TEMPERATURE, WEIGHT = 8192, 2048, 64, 0.12, 0.84


def by_autograd(users: Tensor, items: Tensor) -> Tensor:
    left, right = (F.normalize(x, dim=1).view(-1, BLOCK, WIDTH) for x in (users, items))
    spread = torch.logsumexp(left @ right.mT / TEMPERATURE, dim=2)
    return (WEIGHT * spread - (left * right).sum(2) / TEMPERATURE).mean()


def three_products(users: Tensor, items: Tensor, dtype: torch.dtype) -> Way:
    logits = torch.empty(BLOCK, BLOCK, dtype=dtype)
    grad_users, grad_items = (
        torch.empty(BLOCK, WIDTH, dtype=dtype),
        torch.empty(BLOCK, WIDTH, dtype=dtype),
    )
    users, items = users.detach().to(dtype), items.detach().to(dtype)

    def run() -> None:
        for left, right in zip(users.split(BLOCK), items.split(BLOCK), strict=True):
            torch.mm(left, right.T, out=logits)
            torch.mm(logits, right, out=grad_users)
            torch.mm(logits.T, left, out=grad_items)

    return run


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 3e-3)], ids=["float32", "bfloat16"]
)
def test_softmax_loss(benchmark: Any, dtype: torch.dtype | None, tolerance: float) -> None:
    if dtype is not None and not fast_bfloat16():
        pytest.skip("this CPU has no instructions for bfloat16")
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(BATCH, WIDTH, generator=generator, requires_grad=True) for _ in range(2)
    )

    def ours() -> tuple[Tensor, ...]:
        loss = in_batch_softmax_loss(
            users,
            items,
            temperature=TEMPERATURE,
            negative_weight=WEIGHT,
            block_size=BLOCK,
            logits_dtype=dtype,
        )
        return loss.detach(), *torch.autograd.grad(loss, (users, items))

    def autograd() -> tuple[Tensor, ...]:
        loss = by_autograd(users, items)
        return loss.detach(), *torch.autograd.grad(loss, (users, items))

    exact = [x.detach().double().requires_grad_() for x in (users, items)]
    loss = by_autograd(*exact)
    for found, reference in zip(
        ours(), (loss.detach(), *torch.autograd.grad(loss, exact)), strict=True
    ):
        assert float((found - reference).norm() / reference.norm()) < tolerance
    peers = Peers()
    peers.add("autograd", lambda: autograd)
    floors = {"3 matrix products": three_products(users, items, dtype or torch.float32)}
    compare(
        benchmark,
        "softmax loss",
        ours,
        variant="bfloat16 logits" if dtype else "float32",
        peers=peers,
        floors=floors,
        note=f"batch {BATCH}, blocks of {BLOCK}; autograd in float32",
    )
