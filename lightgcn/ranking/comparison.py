"""A paired comparison of two evaluations of the same users."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightgcn.ranking.metrics import lower_is_better
from lightgcn.ranking.per_user import PerUser
from lightgcn.ranking.resampling import bootstrap_interval, sign_flip_p_values
from lightgcn.ranking.result import Evaluation, kept_by


@dataclass(frozen=True)
class Difference:
    """One metric of two systems, a and b, on the same users.

    Attributes:
        a: the mean of a.
        b: the mean of b.
        difference: b - a.
        low: lower end of the bootstrap interval of the difference.
        high: upper end.
        p_value: of the sign-flip test, two-sided.
        better: share of the users for whom b is better.
        worse: share of the users for whom b is worse.
        equal: share of the others.

    Example:
        >>> found = Difference(0.2, 0.25, 0.05, 0.01, 0.09, 0.02, better=0.3, worse=0.2, equal=0.5)
        >>> print(found)
        0.2000 to 0.2500, +0.0500 [+0.0100, +0.0900], p 0.0200
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    better: float
    worse: float
    equal: float

    def __str__(self) -> str:
        interval = f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.a:.4f} to {self.b:.4f}, {interval}, p {self.p_value:.4f}"


def compare(
    a: Evaluation,
    b: Evaluation,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int | torch.Generator = 0,
) -> dict[str, Difference]:
    """Compare two evaluations with values per user, user by user.

    The interval is the percentile bootstrap of the mean difference; the p-value is of a paired
    randomisation test that flips the signs of the users' differences.

    Args:
        a: the reference, with ``per_user``.
        b: the other one, of the same users and edges to find.
        level: level of the interval.
        resamples: draws of the bootstrap.
        permutations: draws of the test; the least p-value is 1 / (permutations + 1).
        seed: an integer or a generator.

    Returns:
        A `Difference` for each metric that both have for each user.

    Raises:
        ValueError: if values per user are missing, no metric is in both, the users or their edges
            to find differ, or an argument is out of range.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> model = lightgcn.LightGCN(60, 40, embedding_dim=8)
        >>> result = lightgcn.evaluate(model, split.test, per_user=True)
        >>> found = compare(result, result)["ndcg@20"]
        >>> found.difference, found.p_value, found.equal
        (0.0, 1.0, 1.0)
    """
    for name, given in (("a", a), ("b", b)):
        if not isinstance(given, Evaluation):
            raise TypeError(f"{name} must be an Evaluation, got {type(given).__name__}")
    first, second = kept_by(a), kept_by(b)
    _check_same(first, second)
    names = [name for name in first.values if name in second.values]
    if not names:
        ours, theirs = ", ".join(first.values), ", ".join(second.values)
        raise ValueError(f"a and b have no metric in common: a has {ours}, b has {theirs}")
    changes = second.table(names).double() - first.table(names).double()
    lows, highs = bootstrap_interval(changes, level, resamples, seed)
    p_values = sign_flip_p_values(changes, permutations, seed)
    found = {}
    for column, name in enumerate(names):
        change = changes[:, column]
        rises, falls, equal = (
            float(those.double().mean()) for those in (change > 0, change < 0, change == 0)
        )
        better, worse = (falls, rises) if lower_is_better(name) else (rises, falls)
        found[name] = Difference(
            a[name],
            b[name],
            b[name] - a[name],
            float(lows[column]),
            float(highs[column]),
            float(p_values[column]),
            better,
            worse,
            equal,
        )
    return found


def _check_same(a: PerUser, b: PerUser) -> None:
    if not torch.equal(a.users, b.users):
        only_a, only_b = (
            int((~torch.isin(one, other)).sum())
            for one, other in ((a.users, b.users), (b.users, a.users))
        )
        raise ValueError(
            f"the evaluations are of different users: {only_a} are in a alone, {only_b} in b alone"
        )
    # Further users without edges, such as side nodes, do not matter.
    one, other = a.relevant, b.relevant
    same = one.num_items == other.num_items and torch.equal(
        one.edge_index.cpu(), other.edge_index.cpu()
    )
    if not same:
        raise ValueError(f"the edges to find differ: a has {one}, b has {other}")
