"""Losses, as functions of scores or embeddings: cross-entropy, BPR, softmax over in-batch items,
L2."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits that are live at a time: 8 MiB of float32, whatever the batch is.
_CHUNK_LOGITS = 1 << 21


def bce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of raw scores: (B,) logits, (B,) labels of 1 and 0.

    Computed on logits, so that a confident score still has a gradient.

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits and labels must have one shape, got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
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
    """
    if positive.ndim != 1 or negative.ndim not in (1, 2) or len(positive) != len(negative):
        raise ValueError(
            f"expected (B,) and (B,) or (B, n), got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
    if negative.ndim == 2:
        positive = positive.unsqueeze(1)
    return F.softplus(negative - positive).mean()


def softmax_loss(positive: Tensor, negative: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sampled-softmax loss: the mean of −log(e^{p/τ} / (e^{p/τ} + Σ e^{n/τ})).

    Args:
        positive: (B,) scores of positives.
        negative: (B, n) scores of the negatives of each.
        temperature: τ > 0.

    Raises:
        ValueError: if the shapes do not fit or ``temperature`` is not positive.
    """
    _check_temperature(temperature)
    if positive.ndim != 1 or negative.ndim != 2 or len(positive) != len(negative):
        raise ValueError(
            f"expected (B,) and (B, n), got {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    logits = torch.cat([positive.unsqueeze(1), negative], dim=1) / temperature
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
    the softmax loss of Wu et al. (SSM, 2022); w < 1 weighs the negatives' spread less, as the
    bilateral loss does (Wu et al., BSL, ICDE 2024). An item that is a positive of the same user
    elsewhere in the block counts as a negative, and a popular item comes up more often.

    Args:
        users: (B, d) embeddings, not normalised.
        items: (B, d) embeddings of the positive of each user.
        temperature: τ > 0.
        negative_weight: w > 0.
        block_size: how many rows are compared with each other.
        logits_dtype: dtype in which logits are held and multiplied, with sums in the embeddings'
            own; None for that one. ``torch.bfloat16`` is about three times as fast on a CPU that
            has instructions for it (`fast_bfloat16`), and within 1e-3 of the loss and 3e-3 of the
            norm of the gradient at τ ≥ 0.1: a logit's error is its 2⁻⁹th part, so it grows with
            1/τ.

    Raises:
        ValueError: if the shapes differ, a setting is not positive or ``logits_dtype`` is not
            floating.
    """
    if users.shape != items.shape or users.ndim != 2:
        raise ValueError(
            f"expected two (B, d) tensors, got {tuple(users.shape)} and {tuple(items.shape)}"
        )
    settings = temperature, negative_weight, block_size, logits_dtype
    return in_batch_softmax_part(
        torch.cat([users, items]), len(users), 0, len(users), *settings, copies=True
    )


def in_batch_softmax_part(
    rows: Tensor,
    num_users: int,
    offset: int,
    batch_size: int,
    temperature: float,
    negative_weight: float,
    block_size: int,
    logits_dtype: torch.dtype | None = None,
    *,
    copies: bool = False,
) -> Tensor:
    """Return what some users of a batch add to `in_batch_softmax_loss`, whose settings these are.

    One tensor holds both, as a gather of the batch's nodes gives it, and the gradient takes its
    place: neither is copied.

    Args:
        rows: (m + n, d) embeddings of m users that follow each other in the batch, and then of the
            n items of the blocks that these are in, whole. Their values are lost where a gradient
            is wanted.
        num_users: m.
        offset: the place among the items of the first user's.
        batch_size: users of the whole batch, of which the loss is the mean.
        copies: whether the gradient is a tensor of its own each time: where it may become a
            caller's ``.grad``, in which others are added up.
    """
    _check_temperature(temperature)
    if block_size < 1 or not negative_weight > 0:
        raise ValueError(
            f"block_size and negative_weight must be positive, got {block_size}, {negative_weight}"
        )
    if logits_dtype is not None and not logits_dtype.is_floating_point:
        raise ValueError(f"logits_dtype must be floating, got {logits_dtype}")
    # Gradients are added up in place in the embeddings' own dtype, which a caller's autocast would
    # mix with another.
    with torch.autocast(rows.device.type, enabled=False):
        loss: Tensor = _InBatchSoftmax.apply(  # type: ignore[no-untyped-call]
            rows,
            num_users,
            offset,
            batch_size,
            temperature,
            negative_weight,
            block_size,
            logits_dtype or rows.dtype,
            copies,
        )
    return loss


class _InBatchSoftmax(torch.autograd.Function):
    """The loss, with its gradient formed in the forward pass, a few rows of logits at a time.

    A chunk's logits are used for the loss and both gradients while they are in cache, and never
    stored: three matrix products, one pass for the exponential and one for its sum."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        num_users: int,
        offset: int,
        batch_size: int,
        temperature: float,
        weight: float,
        block_size: int,
        logits_dtype: torch.dtype,
        copies: bool,
    ) -> Tensor:
        ctx.copies = copies
        values = rows.detach()
        users, items = values.tensor_split([num_users])
        spread, positive = rows.new_zeros(()), rows.new_zeros(())
        wanted = ctx.needs_input_grad[0]
        # Cosines are at most 1, so logits less 1/τ are at most 0, and no pass for the maximum is
        # needed; they are rounded least where they weigh most. Only where the smallest exponential,
        # e^(-2/τ), could leave the dtype is the row's own maximum taken.
        bounded = 2 / temperature < -math.log(torch.finfo(logits_dtype).tiny)
        width = max(1, min(block_size, len(items)))
        shift = users.new_full((width,), 1 / temperature, dtype=logits_dtype).neg_()
        chunk_rows = max(1, min(_CHUNK_LOGITS // width, width))
        buffer = users.new_empty(chunk_rows * width, dtype=logits_dtype)
        factor = 1 / temperature / max(batch_size, 1)
        for start in range(0, len(items), block_size):
            block = slice(start, min(start + block_size, len(items)))
            # The block's users: all of them, but for a part of a batch that begins or ends within
            # the block.
            own = slice(max(start - offset, 0), max(min(block.stop - offset, len(users)), 0))
            at = slice(own.start + offset - start, own.stop + offset - start)
            (left, left_norm), (right, right_norm) = (
                _unit_rows(users[own]),
                _unit_rows(items[block]),
            )
            scaled, targets = (left / temperature).to(logits_dtype), right.to(logits_dtype)
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
                share = weight / sums
                pull_left[chunk] = torch.mm(logits, targets)
                pull_left[chunk] *= share
                pull_right += torch.mm((left[chunk] * share).to(logits_dtype).T, logits)
            positive += torch.dot(left.reshape(-1), right[at].reshape(-1))
            if wanted:
                pull_right = pull_right.T.contiguous()
                pull_right[at] -= left
                # No row is in two blocks.
                users[own] = _through_norm(pull_left.sub_(right[at]), left, left_norm, factor)
                items[block] = _through_norm(pull_right, right, right_norm, factor)
        spread -= len(users) * shift[:1].sum(dtype=spread.dtype)
        if wanted:
            ctx.save_for_backward(values)
        return (weight * spread - positive / temperature) / max(batch_size, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "in_batch_softmax_loss has no second derivative: it forms its gradient in the "
                "forward pass"
            )
        (grad,) = ctx.saved_tensors
        if (
            ctx.copies or grads[0].device.type != "cpu" or grads[0] != 1
        ):  # else none: it is as large as the batch
            grad = grad * grads[0]
        return grad, None, None, None, None, None, None, None, None


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

    Give it the layer-0 embeddings of a batch's users, positives and negatives, one row per
    occurrence.

    Raises:
        ValueError: without embeddings, or if ``batch_size`` < 1.
    """
    if not embeddings or batch_size < 1:
        raise ValueError(
            f"l2_penalty needs embeddings and a batch_size of at least 1, got {len(embeddings)} "
            "tensors "
            f"and {batch_size}"
        )
    squares = torch.stack([embedding.square().sum() for embedding in embeddings]).sum()
    return squares / (2 * batch_size)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
