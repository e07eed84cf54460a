"""What a `Recommender` answers: recommended items, the parts of a score, lists as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightgcn.graph.ids import Id
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.names import label
from lightgcn.ranking.topk import TopK


@dataclass(frozen=True, repr=False)
class Recommendation:
    """One recommended item.

    Attributes:
        id: the item's id in the data; its index if the data has no ids.
        index: its index in the graph.
        score: its score; only comparable for the same user.
        columns: its values in the item columns ("name", "artist", …).

    Example:
        >>> from lightgcn import Recommendation
        >>> track = Recommendation("t7", 7, 0.9, {"name": "Airbag", "artist": "Radiohead"})
        >>> track.label
        'Airbag by Radiohead'
        >>> track
        Recommendation('t7', 0.9000, 'Airbag by Radiohead')
    """

    id: Id
    index: int
    score: float
    columns: dict[str, str]

    @property
    def label(self) -> str:
        """Name and artist of the item if they are known, else the id."""
        return _label(self.id, self.columns)

    def __repr__(self) -> str:
        named = "" if self.label == str(self.id) else f", {self.label!r}"
        return f"Recommendation({self.id!r}, {self.score:.4f}{named})"


@dataclass(frozen=True)
class Contribution:
    """What one of a user's items adds to a score.

    Attributes:
        id: the item's id in the data; its index if the data has no ids.
        index: its index in the graph.
        contribution: what it adds; negative if it lowers the score.
        parts: the same by part of the score: "embedding", "time_decay", "spectral", "item_knn",
            "user_knn".
        columns: its values in the item columns.
    """

    id: Id
    index: int
    contribution: float
    parts: dict[str, float]
    columns: dict[str, str]

    @property
    def label(self) -> str:
        """Name and artist of the item if they are known, else the id."""
        return _label(self.id, self.columns)


@dataclass(frozen=True)
class Explanation:
    """The parts of a score of a user and an item.

    Attributes:
        score: the score. The contributions of ``items`` and the values of ``other`` sum to it, but
            for rounding.
        items: what each item of the user adds, the largest first.
        other: terms that are not due to the user's items: "own embedding", α₀ times the user's
            layer-0 embedding ("embedding", the whole embedding, if the model has no layers), and
            "popularity".

    Example:
        >>> from lightgcn import Interactions, LightGCN, Recommender
        >>> plays = {"user": ["ann", "ann", "bob"], "item": ["song 1", "song 2", "song 2"]}
        >>> recommender = Recommender(LightGCN(2, 2, seed=0), Interactions.from_frame(plays))
        >>> explanation = recommender.explain("ann", "song 1")
        >>> sorted(item.id for item in explanation.items), list(explanation.other)
        (['song 1', 'song 2'], ['own embedding'])
    """

    score: float
    items: list[Contribution]
    other: dict[str, float]

    def __repr__(self) -> str:
        rows = [f"{item.contribution:+.4f}  {item.label}" for item in self.items]
        rows += [f"{value:+.4f}  ({name})" for name, value in self.other.items()]
        return "\n".join([f"Explanation of the score {self.score:.4f}:", *map("  {}".format, rows)])


def _label(own_id: Id, columns: Mapping[str, str]) -> str:
    return label(columns.get("name", ""), columns.get("artist", "")) or str(own_id)


class ListColumns:
    """Lists of several users as the columns of a table.

    The columns are ``user``, ``rank`` (from 1), ``item`` and ``score``, and of the names that the
    data has ``user_name``, ``item_name`` and ``artist``.
    """

    def __init__(
        self,
        graph: Interactions,
        user_columns: Mapping[str, Sequence[str]],
        item_columns: Mapping[str, Sequence[str]],
    ) -> None:
        self._users = {"user": _ids(graph.user_ids, graph.num_users)}
        self._items = {"item": _ids(graph.item_ids, graph.num_items)}
        for columns, name, title, kept in (
            (user_columns, "name", "user_name", self._users),
            (item_columns, "name", "item_name", self._items),
            (item_columns, "artist", "artist", self._items),
        ):
            if name in columns:
                kept[title] = np.asarray(columns[name], dtype=object)

    def of(self, users: Tensor, best: TopK) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of (B,) users and their lists; places without an item are left
        out."""
        items, scores = best.items.cpu().numpy(), best.scores.cpu().float().numpy()
        rows, ranks = (items >= 0).nonzero()
        owners, items = users.cpu().numpy()[rows], items[rows, ranks]
        by_user = {name: values[owners] for name, values in self._users.items()}
        by_item = {name: values[items] for name, values in self._items.items()}
        return {
            "user": by_user.pop("user"),
            "rank": ranks.astype(np.int32) + 1,
            "item": by_item.pop("item"),
            "score": scores[rows, ranks],
            **by_user,
            **by_item,
        }


def _ids(ids: npt.NDArray[Any] | None, count: int) -> npt.NDArray[Any]:
    return np.arange(count) if ids is None else ids
