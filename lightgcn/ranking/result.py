"""`Evaluation`: the metrics of a model on a link set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightgcn.core.html_table import html_table
from lightgcn.ranking.groups import Group, history_groups, popularity_groups
from lightgcn.ranking.per_user import PerUser
from lightgcn.ranking.resampling import bootstrap_interval


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Metrics by name, and the numbers of users and links behind them.

    Attributes:
        metrics: "roc_auc" and "loss" of the links; "recall@20", "ndcg@20", … means over the users;
            "coverage@20", … of all lists together.
        num_links: number of positives and negatives of the link metrics.
        num_users: number of users with at least one relevant item, for the ranking metrics.
        per_user: the values behind the means, if they were asked for (``per_user=True``).

    Example:
        >>> result = Evaluation({"recall@20": 0.25}, num_users=4)
        >>> result["recall@20"]
        0.25
        >>> print(result)
        recall@20 0.2500  (4 users)
    """

    metrics: dict[str, float]
    num_links: int = 0
    num_users: int = 0
    per_user: PerUser | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics:
            raise KeyError(f"no metric {name!r}; there are {', '.join(self.metrics)}")
        return self.metrics[name]

    def interval(
        self,
        metric: str,
        *,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int | torch.Generator = 0,
    ) -> tuple[float, float]:
        """Return the bootstrap interval of a metric's mean over the users: (low, high).

        It is the percentile interval of the means of ``resamples`` samples of as many users, drawn
        with replacement (Efron, 1979). It covers the choice of test users, not that of the seed
        or of the split.

        Raises:
            KeyError: if the metric is no mean over users.
            ValueError: if no values per user were kept, or ``level`` is not between 0 and 1.

        Example:
            >>> import lightgcn
            >>> from lightgcn.datasets import synthetic_interactions
            >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
            >>> model = lightgcn.LightGCN(60, 40, embedding_dim=8)
            >>> result = lightgcn.evaluate(model, split.test, per_user=True)
            >>> low, high = result.interval("recall@20")
            >>> low < result["recall@20"] < high
            True
        """
        table = kept_by(self).table([metric])
        low, high = bootstrap_interval(table, level, resamples, seed)[:, 0].tolist()
        return low, high

    def intervals(
        self,
        *,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int | torch.Generator = 0,
    ) -> dict[str, tuple[float, float]]:
        """Return `interval` of every metric that is a mean over users."""
        kept = kept_by(self)
        lows, highs = bootstrap_interval(
            kept.table(list(kept.values)), level, resamples, seed
        ).tolist()
        return dict(zip(kept.values, zip(lows, highs, strict=True), strict=True))

    def by_history(self, bands: int | Sequence[int] = 4) -> list[Group]:
        """Return all means over users by the number of a user's known items.

        Args:
            bands: number of bands of about as many users each, or the lower ends of the bands.
                Users with equal numbers are in the same band, so there can be fewer.

        Raises:
            ValueError: if no values per user were kept, or ``bands`` is wrong.

        Example:
            >>> import lightgcn
            >>> from lightgcn.datasets import synthetic_interactions
            >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
            >>> model = lightgcn.LightGCN(60, 40, embedding_dim=8)
            >>> result = lightgcn.evaluate(model, split.test, per_user=True)
            >>> sum(group.num_users for group in result.by_history(3)) == result.num_users
            True
        """
        return history_groups(kept_by(self), bands)

    def by_popularity(self, bands: int | Sequence[int] = 4) -> list[Group]:
        """Return recall by the number of known users of the item to find.

        Recall within a band is of the user's edges in it; lists are the same for all bands.

        Args:
            bands: number of bands of about as many edges each, or the lower ends of the bands.

        Raises:
            ValueError: if no values per user were kept, or ``bands`` is wrong.

        Example:
            >>> import lightgcn
            >>> from lightgcn.datasets import synthetic_interactions
            >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
            >>> model = lightgcn.LightGCN(60, 40, embedding_dim=8)
            >>> result = lightgcn.evaluate(model, split.test, per_user=True)
            >>> [list(group.metrics) for group in result.by_popularity([0, 10])]
            [['recall@20'], ['recall@20']]
        """
        kept = kept_by(self)
        ks = dict.fromkeys(int(name.partition("@")[2]) for name in kept.values)
        return popularity_groups(kept, bands, list(ks))

    def summary(self) -> dict[str, Any]:
        """Return the metrics and the two numbers as JSON values."""
        return {
            "metrics": self.metrics,
            "num_links": self.num_links,
            "num_users": self.num_users,
        }

    def _measured(self) -> str:
        counts = ((self.num_users, "users"), (self.num_links, "links"))
        return ", ".join(f"{count:,} {noun}" for count, noun in counts if count)

    def __str__(self) -> str:
        values = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"{values}  ({self._measured()})"

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        unranked = "" if self.num_users else ", not ranked"
        return f"Evaluation({values}; {self._measured()}{unranked})"

    def _repr_html_(self) -> str:
        rows = [[name, f"{value:.4f}"] for name, value in self.metrics.items()]
        return html_table(self._measured(), ["metric", "value"], rows)


def kept_by(evaluation: Evaluation) -> PerUser:
    """Return the values per user; a ValueError names the argument that keeps them."""
    if evaluation.per_user is None:
        raise ValueError(
            "the evaluation has no values per user: evaluate with per_user=True and metrics that "
            "are means over users"
        )
    return evaluation.per_user
