"""Losses, as functions of scores or embeddings: cross-entropy, BPR, softmax over in-batch items,
L2.

Half-precision inputs are converted: sums, means and the returned loss are in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import (
    check_floating,
    check_same_device,
    checked_count,
    checked_number,
)
from lightgcn.nn.in_batch_softmax import InBatchSoftmax, Part, widened


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
    check_same_device(logits=logits, labels=labels)
    logits = widened(logits)
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
    check_same_device(positive=positive, negative=negative)
    if negative.ndim == 2:
        positive = positive.unsqueeze(1)
    return F.softplus(widened(negative) - widened(positive)).mean()


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
    check_same_device(positive=positive, negative=negative)
    logits = widened(torch.cat([positive.unsqueeze(1), negative], dim=1)) / temperature
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
    check_same_device(users=users, items=items)
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
    part = Part(
        num_users, offset, batch, temperature, negative_weight, block_size, logits_dtype, wanted
    )
    loss: Tensor
    loss, _ = InBatchSoftmax.apply(rows, part)  # type: ignore[no-untyped-call]
    return loss


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
    parts = [widened(embedding).square().sum() for embedding in embeddings]
    squares = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
    return squares / (2 * batch_size)
