"""What an evaluation keeps about each user and each edge to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.graph.interactions import Interactions


@dataclass(frozen=True, eq=False, repr=False)
class PerUser:
    """The ranking metrics of each user, and the rank of each edge to find; all on the CPU.

    Metrics take 4 bytes for each of the n users, ranks 4 bytes for each edge.

    Attributes:
        users: (n,) int64 indices of the users with something to find, ascending.
        values: (n,) float32 by metric, such as "recall@20".
        num_seen: (n,) int64, the user's items that were known (and masked).
        relevant: the E edges to find.
        ranks: (E,) int32 rank of each edge's item in the user's list, from 1; 0 if it is not among
            the first ``max(ks)``.
        item_users: (num_items,) int64, the known users of each item.

    Example:
        >>> from lightgcn import evaluate_scores
        >>> graph = Interactions([0, 1], [0, 1], num_users=2, num_items=3)
        >>> scores = lambda users: torch.tensor([3.0, 2.0, 1.0]).expand(len(users), 3)
        >>> result = evaluate_scores(scores, graph, ks=[1], metrics=["recall"], per_user=True)
        >>> result.per_user["recall@1"]
        tensor([1., 0.])
    """

    users: Tensor
    values: dict[str, Tensor]
    num_seen: Tensor
    relevant: Interactions
    ranks: Tensor
    item_users: Tensor

    @property
    def num_relevant(self) -> Tensor:
        """(n,) int64, the user's items to find."""
        return self.relevant.user_degrees[self.users]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, metric: str) -> Tensor:
        return self.table([metric])[:, 0]

    def table(self, metrics: Sequence[str]) -> Tensor:
        """Return (n, len(metrics)) values.

        Raises:
            KeyError: if a metric is not one of each user.
        """
        for name in metrics:
            if name not in self.values:
                raise KeyError(
                    f"no values per user of {name!r}; there are {', '.join(self.values)}"
                )
        return torch.stack([self.values[name] for name in metrics], dim=1)

    def columns(self, user_ids: Any = None) -> dict[str, np.ndarray[Any, Any]]:
        """Return "user", "num_train", "num_test" and the metrics as columns of a data frame.

        Args:
            user_ids: (num_users,) ids; None for those of the graph, or indices if it has none.
        """
        ids = self.relevant.user_ids if user_ids is None else user_ids
        users = self.users.numpy()
        named = users if ids is None else np.asarray(ids)[users]
        counts = {"num_train": self.num_seen.numpy(), "num_test": self.num_relevant.numpy()}
        return {"user": named, **counts} | {
            name: values.numpy() for name, values in self.values.items()
        }

    def __repr__(self) -> str:
        return f"PerUser({len(self)} users: {', '.join(self.values)})"


def ranks_of(ranked_items: Tensor, hits: Tensor, relevant: Interactions, users: Tensor) -> Tensor:
    """Return the (E,) int32 ranks of the edges of ``relevant`` in the lists, 0 for none.

    Args:
        ranked_items: (n, k) items.
        hits: (n, k) bool, as of `lightgcn.ranking.metrics.hits_of`.
        relevant: the edges to find.
        users: (n,) users of the rows.
    """
    rows, places = hits.nonzero(as_tuple=True)
    keys = users[rows] * relevant.num_items + ranked_items[rows, places]
    ranks = torch.zeros(relevant.num_edges, dtype=torch.int32, device=hits.device)
    ranks[torch.searchsorted(relevant.keys, keys)] = (places + 1).to(torch.int32)
    return ranks.cpu()
