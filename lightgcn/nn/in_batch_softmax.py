"""The softmax loss over in-batch items and its gradient, in one pass.

A CPU forms some rows of logits at a time and uses them while they are in cache. A device multiplies
all blocks of a batch in one batched product for each of the three that are needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits that are live at a time: 8 MiB of float32 on a CPU, whatever the batch is; 256 MiB on a
# device, which needs large products to be busy.
_CHUNK_LOGITS, _DEVICE_LOGITS = 1 << 21, 1 << 26


@dataclass(frozen=True)
class Part:
    """The settings of `in_batch_softmax_part`, and whether a gradient is wanted."""

    num_users: int
    offset: int
    batch_size: int
    temperature: float
    weight: float
    block_size: int
    logits_dtype: torch.dtype | None
    wanted: bool

    def blocks(self, num_items: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield for each block: its users, their items, and all its items.

        A part of a batch may begin or end within a block.
        """
        for start in range(0, num_items, self.block_size):
            stop = min(start + self.block_size, num_items)
            first = max(start - self.offset, 0)
            last = max(min(stop - self.offset, self.num_users), first)
            yield (
                slice(first, last),
                slice(first + self.offset, last + self.offset),
                slice(start, stop),
            )

    def fits_large_products(self, rows: Tensor) -> bool:
        """Whether ``rows`` are a whole batch on a device, of one dtype and blocks that fit."""
        size, dtype = self.num_users, self.logits_dtype or rows.dtype
        whole = 2 * size == len(rows) and self.offset == 0 and dtype == rows.dtype
        fits = 0 < min(self.block_size, size) ** 2 <= _DEVICE_LOGITS
        return rows.device.type != "cpu" and whole and fits

    def is_bounded(self, dtype: torch.dtype) -> bool:
        """Whether the smallest exponential, e^(-2/τ), is a normal number of a dtype.

        Cosines are at most 1, so logits less 1/τ are at most 0, and no pass for the maximum is
        needed; they are rounded least where they weigh most. Only otherwise is the row's own
        maximum taken."""
        return 2 / self.temperature < -math.log(torch.finfo(dtype).tiny)


def _plain_in_batch_softmax(rows: Tensor, part: Part) -> Tensor:
    """The loss by differentiable functions, for second derivatives and `torch.func`."""
    users, items = F.normalize(widened(rows), dim=1).tensor_split([part.num_users])
    total = items.new_zeros(())
    for own, theirs, block in part.blocks(len(items)):
        with torch.autocast(rows.device.type, enabled=False):
            logits = users[own] @ items[block].T / part.temperature
        positive = (users[own] * items[theirs]).sum() / part.temperature
        total = total + part.weight * logits.logsumexp(1).sum() - positive
    return total / part.batch_size


class InBatchSoftmax(torch.autograd.Function):
    """The loss and its gradient, formed in the forward pass some rows of logits at a time.

    The logits are used for the loss and both gradients while they are in cache, and never stored:
    three matrix products, one pass for the exponential and one for its sum."""

    @staticmethod
    def forward(rows: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        with torch.autocast(rows.device.type, enabled=False):
            rows = widened(rows.detach())
            function = _in_large_products if part.fits_large_products(rows) else _loss_and_gradient
            return function(rows, part)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        rows, ctx.part = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, output[1])
        ctx.save_for_forward(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        rows, gradient = ctx.saved_tensors
        if grads[0] is None:
            return None, None
        if torch.is_grad_enabled() or not gradient.numel():
            plain = partial(_plain_in_batch_softmax, part=ctx.part)
            return torch.func.vjp(plain, rows)[1](grads[0])[0], None
        # Not in place, as it may become a caller's .grad, to which others are added.
        return (gradient * grads[0]).to(rows.dtype), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], rows: Tensor, part: Part
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        plain = partial(_plain_in_batch_softmax, part=part)
        return (torch.vmap(plain, in_dims[:1])(rows), rows.new_empty(0)), (0, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        plain = partial(_plain_in_batch_softmax, part=ctx.part)
        return torch.func.jvp(plain, ctx.saved_tensors[:1], tangents[:1])[1], None


def _loss_and_gradient(rows: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient in ``rows``, which is empty if it is not wanted."""
    users, items = rows.tensor_split([part.num_users])
    gradient = torch.zeros_like(rows) if part.wanted else rows.new_empty(0)
    grad_users, grad_items = gradient.tensor_split([part.num_users])
    spread, positive = rows.new_zeros(()), rows.new_zeros(())
    dtype = part.logits_dtype or rows.dtype
    bounded = part.is_bounded(dtype)
    width = max(1, min(part.block_size, len(items)))
    shift = users.new_full((width,), 1 / part.temperature, dtype=dtype).neg_()
    room = _CHUNK_LOGITS if rows.device.type == "cpu" else _DEVICE_LOGITS
    chunk_rows = max(1, min(room // width, width))
    buffer = users.new_empty(chunk_rows * width, dtype=dtype)
    factor = 1 / part.temperature / part.batch_size
    for own, theirs, block in part.blocks(len(items)):
        (left, left_norm), (right, right_norm) = _unit_rows(users[own]), _unit_rows(items[block])
        at = slice(theirs.start - block.start, theirs.stop - block.start)
        scaled, targets = (left / part.temperature).to(dtype), right.to(dtype)
        pull_left = torch.empty_like(left)
        # Its transpose adds up faster: rows of it are as long as those of the logits.
        pull_right = right.new_zeros(right.T.shape)
        for first in range(0, len(left), chunk_rows):
            chunk = slice(first, min(first + chunk_rows, len(left)))
            logits = buffer[: (chunk.stop - first) * len(targets)].view(-1, len(targets))
            torch.addmm(shift[: len(targets)], scaled[chunk], targets.T, out=logits)
            if not bounded:
                highest = logits.amax(1, keepdim=True)
                spread += highest.sum(dtype=spread.dtype)
                logits.sub_(highest)
            sums = logits.exp_().sum(1, keepdim=True, dtype=spread.dtype)
            spread += sums.log().sum()
            if part.wanted:
                share = part.weight / sums
                pull_left[chunk] = torch.mm(logits, targets)
                pull_left[chunk] *= share
                pull_right += torch.mm((left[chunk] * share).to(dtype).T, logits)
        positive += torch.dot(left.reshape(-1), right[at].reshape(-1))
        if part.wanted:
            pull_right = pull_right.T.contiguous()
            pull_right[at] -= left
            grad_users[own] = _through_norm(pull_left.sub_(right[at]), left, left_norm, factor)
            grad_items[block] = _through_norm(pull_right, right, right_norm, factor)
    spread -= len(users) * shift[:1].sum(dtype=spread.dtype)
    loss = (part.weight * spread - positive / part.temperature) / part.batch_size
    return loss, gradient


def _in_large_products(rows: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """The same for a whole batch, with as many of its blocks as fit in each batched product."""
    size, temperature = part.num_users, part.temperature
    block = min(part.block_size, size)
    unit, norm = _unit_rows(rows)
    pull = torch.empty_like(unit)
    shift = unit.new_full((1, 1, 1), -1 / temperature)
    ends = list(range(0, size // block * block, max(1, _DEVICE_LOGITS // block**2) * block))
    ends = sorted({*ends, size // block * block, size})
    spread = []
    for first, last in pairwise(ends):
        shape = (-1, min(block, last - first))
        users, items = slice(first, last), slice(size + first, size + last)
        left, right = unit[users].unflatten(0, shape), unit[items].unflatten(0, shape)
        logits = torch.baddbmm(shift, left, right.mT, alpha=1 / temperature)
        if not part.is_bounded(rows.dtype):
            highest = logits.amax(2, keepdim=True)
            spread.append(highest.sum())
            logits.sub_(highest)
        sums = logits.exp_().sum(2, keepdim=True)
        spread.append(sums.log().sum())
        if part.wanted:
            logits.mul_(part.weight / sums)
            pulls = pull[users].unflatten(0, shape), pull[items].unflatten(0, shape)
            torch.baddbmm(right, logits, right, beta=-1, out=pulls[0])
            torch.baddbmm(left, logits.mT, left, beta=-1, out=pulls[1])
        del logits
    positive = torch.dot(unit[:size].reshape(-1), unit[size:].reshape(-1))
    # Σ (w · (log Σ e^(s/τ) + 1/τ) − s⁺/τ) / B
    total = sum(spread[1:], spread[0]).add_(positive, alpha=-1 / temperature / part.weight)
    loss = total.add_(size / temperature).mul_(part.weight / part.batch_size)
    if not part.wanted:
        return loss, rows.new_empty(0)
    return loss, _through_norm(pull, unit, norm, 1 / temperature / part.batch_size)


def _unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, d) x / ‖x‖ and (B, 1) norms, of at least 1e-12 as `torch.nn.functional.normalize`
    has it."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)
    return x / norm, norm


def _through_norm(grad: Tensor, unit: Tensor, norm: Tensor, factor: float) -> Tensor:
    """Return ``factor`` times the gradient in x of a function of x / ‖x‖ whose gradient there is
    ``grad``."""
    along = torch.linalg.vecdot(grad, unit).unsqueeze(1)
    return grad.addcmul_(unit, along, value=-1).mul_(factor / norm)


def widened(x: Tensor) -> Tensor:
    """Return half precision in float32, other floating tensors as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
