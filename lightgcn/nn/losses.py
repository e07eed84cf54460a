"""Losses, as functions of scores or embeddings: cross-entropy, BPR, softmax over in-batch items,
L2.

Half-precision inputs are converted: sums, means and the returned loss are in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import check_floating, checked_count, checked_number

# Logits that are live at a time: 8 MiB of float32, whatever the batch is.
_CHUNK_LOGITS = 1 << 21


def bce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of raw scores: (B,) logits, (B,) labels of 1 and 0.

    Computed on logits, so that a confident score still has a gradient.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> bce_loss(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
        tensor(0.2201)
    """
    check_floating(logits=logits)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits and labels must have one shape, got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    logits = _widened(logits)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the Bayesian personalised ranking loss: the mean of −log σ(positive − negative).

    Rendle et al., UAI 2009. The mean over pairs, not the sum, and without the regulariser
    (`l2_penalty`).

    Args:
        positive: (B,) scores of positives.
        negative: (B,) or (B, n) scores of the negatives of each.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> import torch
        >>> bpr_loss(torch.tensor([2.0, 1.0]), torch.tensor([[0.0, 1.0], [1.0, 3.0]]))
        tensor(0.8151)
    """
    check_floating(positive=positive, negative=negative)
    if positive.ndim != 1 or negative.ndim not in (1, 2) or len(positive) != len(negative):
        raise ValueError(
            f"expected (B,) and (B,) or (B, n), got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
    if negative.ndim == 2:
        positive = positive.unsqueeze(1)
    return F.softplus(_widened(negative) - _widened(positive)).mean()


def softmax_loss(positive: Tensor, negative: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sampled-softmax loss: the mean of −log(e^{p/τ} / (e^{p/τ} + Σ e^{n/τ})).

    Args:
        positive: (B,) scores of positives.
        negative: (B, n) scores of the negatives of each.
        temperature: τ > 0.

    Raises:
        ValueError: if the shapes do not fit or ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> softmax_loss(torch.tensor([2.0, 1.0]), torch.tensor([[0.0, 1.0], [1.0, 3.0]]))
        tensor(1.3236)
    """
    if not (isinstance(temperature, Tensor) and temperature.ndim == 0):  # which may be learned
        checked_number("temperature", temperature)
    check_floating(positive=positive, negative=negative)
    if positive.ndim != 1 or negative.ndim != 2 or len(positive) != len(negative):
        raise ValueError(
            f"expected (B,) and (B, n), got {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    logits = _widened(torch.cat([positive.unsqueeze(1), negative], dim=1)) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def in_batch_softmax_loss(
    users: Tensor,
    items: Tensor,
    *,
    temperature: float = 0.12,
    negative_weight: float = 1.0,
    block_size: int = 2048,
    logits_dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the softmax loss of each user's item against the items of its block, on cosine scores.

    With s the cosine of user and item, τ the temperature and w the negative weight, the mean over
    the batch of −s⁺/τ + w · log Σ_j e^{s_j/τ}, where j runs over the items of the block. w = 1 is
    the softmax loss of Wu et al. (SSM, 2022); w < 1 weighs the negatives less, as the bilateral
    loss does (Wu et al., BSL, ICDE 2024). An item that is a positive of the same user elsewhere in
    the block counts as a negative, and a popular item comes up more often.

    Works with `torch.func`. Second derivatives are computed by plain autograd, which is slower.

    Args:
        users: (B, d) embeddings, not normalised.
        items: (B, d) embeddings of the positive of each user.
        temperature: τ > 0.
        negative_weight: w > 0.
        block_size: how many rows are compared with each other.
        logits_dtype: dtype of the logits and their matrix products, with sums in the embeddings'
            own dtype, float32 at least; None for that one. ``torch.bfloat16`` is about three times
            as fast on a CPU that supports it (`lightgcn.core.processor.fast_bfloat16`), and within
            1e-3 of the loss and 3e-3 of the norm of the gradient at τ ≥ 0.1: a logit's error is its
            2⁻⁹th part, so it grows with 1/τ.

    Raises:
        ValueError: if the shapes differ, a setting is not positive or ``logits_dtype`` is not
            floating.

    Example:
        >>> import torch
        >>> from lightgcn import in_batch_softmax_loss
        >>> users, items = torch.eye(3), torch.eye(3)
        >>> in_batch_softmax_loss(users, items, temperature=0.5)
        tensor(0.2395)
    """
    check_floating(users=users, items=items)
    if users.shape != items.shape or users.ndim != 2:
        raise ValueError(
            f"expected two (B, d) tensors, got {tuple(users.shape)} and {tuple(items.shape)}"
        )
    settings = temperature, negative_weight, block_size, logits_dtype
    return in_batch_softmax_part(torch.cat([users, items]), len(users), 0, len(users), *settings)


def in_batch_softmax_part(
    rows: Tensor,
    num_users: int,
    offset: int,
    batch_size: int,
    temperature: float,
    negative_weight: float,
    block_size: int,
    logits_dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the share of some users of a batch in `in_batch_softmax_loss`, with its settings.

    Both sides are in one tensor, as a gather of the batch's nodes gives them.

    Args:
        rows: (m + n, d) embeddings of m consecutive users of the batch, and then of the n items of
            the blocks that these are in, whole.
        num_users: m.
        offset: the position among the items of the first user's.
        batch_size: users of the whole batch: the loss is their mean.
    """
    checked_number("temperature", temperature)
    checked_number("negative_weight", negative_weight)
    checked_count("block_size", block_size, 1)
    floating = isinstance(logits_dtype, torch.dtype) and logits_dtype.is_floating_point
    if logits_dtype is not None and not floating:
        raise ValueError(f"logits_dtype must be a floating torch.dtype, got {logits_dtype!r}")
    batch = max(batch_size, 1)
    wanted = rows.requires_grad and torch.is_grad_enabled()
    part = _Part(
        num_users, offset, batch, temperature, negative_weight, block_size, logits_dtype, wanted
    )
    loss: Tensor
    loss, _ = _InBatchSoftmax.apply(rows, part)  # type: ignore[no-untyped-call]
    return loss


@dataclass(frozen=True)
class _Part:
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


def _plain_in_batch_softmax(rows: Tensor, part: _Part) -> Tensor:
    """The loss by differentiable functions, for second derivatives and `torch.func`."""
    users, items = F.normalize(_widened(rows), dim=1).tensor_split([part.num_users])
    total = items.new_zeros(())
    for own, theirs, block in part.blocks(len(items)):
        with torch.autocast(rows.device.type, enabled=False):
            logits = users[own] @ items[block].T / part.temperature
        positive = (users[own] * items[theirs]).sum() / part.temperature
        total = total + part.weight * logits.logsumexp(1).sum() - positive
    return total / part.batch_size


class _InBatchSoftmax(torch.autograd.Function):
    """The loss and its gradient, formed in the forward pass some rows of logits at a time.

    The logits are used for the loss and both gradients while they are in cache, and never stored:
    three matrix products, one pass for the exponential and one for its sum."""

    @staticmethod
    def forward(rows: Tensor, part: _Part) -> tuple[Tensor, Tensor]:
        with torch.autocast(rows.device.type, enabled=False):
            return _loss_and_gradient(_widened(rows.detach()), part)

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
        info: Any, in_dims: tuple[int, None], rows: Tensor, part: _Part
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        plain = partial(_plain_in_batch_softmax, part=part)
        return (torch.vmap(plain, in_dims[:1])(rows), rows.new_empty(0)), (0, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        plain = partial(_plain_in_batch_softmax, part=ctx.part)
        return torch.func.jvp(plain, ctx.saved_tensors[:1], tangents[:1])[1], None


def _loss_and_gradient(rows: Tensor, part: _Part) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient in ``rows``, which is empty if it is not wanted."""
    users, items = rows.tensor_split([part.num_users])
    gradient = torch.zeros_like(rows) if part.wanted else rows.new_empty(0)
    grad_users, grad_items = gradient.tensor_split([part.num_users])
    spread, positive = rows.new_zeros(()), rows.new_zeros(())
    dtype = part.logits_dtype or rows.dtype
    # Cosines are at most 1, so logits less 1/τ are at most 0, and no pass for the maximum is
    # needed; they are rounded least where they weigh most. Only if the smallest exponential,
    # e^(-2/τ), could leave the dtype is the row's own maximum taken.
    bounded = 2 / part.temperature < -math.log(torch.finfo(dtype).tiny)
    width = max(1, min(part.block_size, len(items)))
    shift = users.new_full((width,), 1 / part.temperature, dtype=dtype).neg_()
    chunk_rows = max(1, min(_CHUNK_LOGITS // width, width))
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


def l2_penalty(*embeddings: Tensor, batch_size: int) -> Tensor:
    """Return ½ Σ‖e‖² / ``batch_size`` over the rows of (B, d) tensors: the LightGCN authors'
    regulariser.

    Args:
        embeddings: layer-0 embeddings of a batch's users, positives and negatives, one row per
            occurrence.
        batch_size: number of positives.

    Raises:
        ValueError: without embeddings, or if ``batch_size`` < 1.

    Example:
        >>> import torch
        >>> l2_penalty(torch.ones(2, 3), torch.zeros(2, 3), batch_size=2)
        tensor(1.5000)
    """
    checked_count("batch_size", batch_size, 1)
    if not embeddings:
        raise ValueError("l2_penalty needs embeddings, got none")
    for embedding in embeddings:
        check_floating(embeddings=embedding)
    squares = torch.stack([_widened(embedding).square().sum() for embedding in embeddings]).sum()
    return squares / (2 * batch_size)


def _widened(x: Tensor) -> Tensor:
    """Return half precision in float32, other floating tensors as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
