"""Bootstrap and permutation of values per user, and Holm's correction.

Values are (n, m): n users, m metrics. All metrics share the draws, so that a metric's result does
not depend on which others are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, is_number
from lightgcn.core.seeding import make_generator, seed_from

# Random numbers at a time: few enough to stay in cache.
_AT_A_TIME = 1 << 17


def bootstrap_interval(
    values: Tensor, level: float, resamples: int, seed: int | torch.Generator = 0
) -> Tensor:
    """Return the percentile bootstrap intervals of the column means, (2, m) float64: low, high.

    Args:
        values: (n, m) floating, n at least 1.
        level: share of the resampled means inside, between 0 and 1.
        resamples: how many times n users are drawn with replacement.
        seed: an integer or a generator.

    Raises:
        ValueError: if ``level`` or ``resamples`` is out of range.

    Example:
        >>> values = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
        >>> bootstrap_interval(values, 0.95, 1000).flatten().tolist()
        [0.0, 1.0]
    """
    if not (is_number(level) and 0 < level < 1):
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level!r}")
    resamples = checked_count("resamples", resamples, 1)
    generator = make_generator(seed)
    table, count = values.to("cpu", torch.float64), len(values)
    means = torch.empty(resamples, table.shape[1], dtype=torch.float64, device="cpu")
    size = max(1, _AT_A_TIME // count)
    for first in range(0, resamples, size):
        rows = min(size, resamples - first)
        drawn = torch.randint(
            count, (rows, count), generator=generator, dtype=torch.int64, device="cpu"
        )
        drawn += torch.arange(rows, dtype=torch.int64, device="cpu").unsqueeze(1) * count
        times = torch.bincount(drawn.flatten(), minlength=rows * count).view(rows, count)
        means[first : first + rows] = times.double() @ table / count
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
    return torch.quantile(means, tails, dim=0)


def sign_flip_p_values(
    differences: Tensor, permutations: int, seed: int | torch.Generator = 0
) -> Tensor:
    """Return two-sided p-values of the column means under random signs, (m,) float64.

    If two systems are alike, the sign of each user's difference is a coin toss. With T the mean,
    p = (1 + draws with |T*| >= |T|) / (1 + draws) (Smucker, Allan and Carterette, 2007).

    Args:
        differences: (n, m) floating.
        permutations: number of draws.
        seed: an integer or a generator.

    Raises:
        ValueError: if ``permutations`` is no positive integer.

    Example:
        >>> sign_flip_p_values(torch.tensor([[0.0, 1.0]] * 30), 999).tolist()
        [1.0, 0.001]
    """
    permutations = checked_count("permutations", permutations, 1)
    table = differences.to("cpu", torch.float64).numpy()
    total, reach = table.sum(0), np.abs(table).sum(0)
    # Sums of the same numbers in a different order are equal but for rounding.
    least = np.abs(total) - 1e-12 * reach
    random, found = np.random.default_rng(seed_from(seed)), np.zeros(table.shape[1], np.int64)
    count = len(table)
    size = max(1, _AT_A_TIME // max(count, 1))
    for first in range(0, permutations, size):
        rows = min(size, permutations - first)
        drawn = np.frombuffer(random.bytes(-(-rows * count // 8)), np.uint8)
        signs = np.unpackbits(drawn, count=rows * count).reshape(rows, count)
        flipped = 2 * (signs.astype(np.float64) @ table) - total
        found += (np.abs(flipped) >= least).sum(0)
    return torch.from_numpy((1 + found) / (1 + permutations))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method (1979), in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, most = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = most
    return corrected
