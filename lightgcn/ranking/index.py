"""An index of the items for nearest-neighbour search with FAISS, and what of a score it lacks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightgcn.core.seeding import make_generator
from lightgcn.core.storage import write_atomic, write_json
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.topk import top_k

# Length of the lists that are compared, and how many users they are of.
_LENGTH, _USERS = 10, 500


class LeftOut(NamedTuple):
    """The parts of a score that are no dot product, and what that changes.

    Attributes:
        parts: their names, such as "item kNN".
        overlap: mean share of the best 10 items (fewer if there are fewer) that the dot product
            alone finds, over ``num_users`` users; own items are left out in both.
        num_users: users that were compared, drawn at random.
    """

    parts: tuple[str, ...]
    overlap: float
    num_users: int

    def __str__(self) -> str:
        return (
            f"{' and no '.join(self.parts)}: its top {_LENGTH} share {self.overlap:.0%} with "
            f"recommend() ({self.num_users} users)"
        )


@torch.no_grad()
def left_out(ranker: Ranker) -> LeftOut | None:
    """Return what ``ranker.users @ ranker.items.T`` lacks of the scores; None for nothing.

    Example:
        >>> from lightgcn import Interactions, LightGCN, Ranker
        >>> graph = Interactions([0, 1], [0, 1], num_users=2, num_items=2)
        >>> left_out(Ranker.from_model(LightGCN(2, 2, 4), graph)) is None
        True
    """
    named = (("item kNN", ranker.item_knn), ("user kNN", ranker.user_knn))
    parts = tuple(name for name, part in named if part is not None and part.weight)
    if not parts:
        return None
    k, history = min(_LENGTH, len(ranker.items)), ranker.history
    able = (history.user_degrees < history.num_items).nonzero().flatten()
    drawn = torch.randperm(len(able), generator=make_generator(0), dtype=torch.int64, device="cpu")[
        :_USERS
    ]
    users = able[drawn.to(able.device)]
    whole = ranker.top_k(k, users).items
    alone = top_k(ranker.users, ranker.items, k, seen=history, users=users).items
    found = (whole.unsqueeze(2) == alone.unsqueeze(1)).any(2) & (whole >= 0)
    share = found.sum(1).double() / (whole >= 0).sum(1).clamp(min=1)
    return LeftOut(parts, float(share.mean()) if len(users) else 1.0, len(users))


def warn_of_left_out(name: str, ranker: Ranker) -> LeftOut | None:
    """Return `left_out`, and warn if it is something; ``name`` is what lacks it."""
    lacks = left_out(ranker)
    if lacks is not None:
        warnings.warn(f"{name} has no {lacks}", UserWarning, stacklevel=3)
    return lacks


def write_index(ranker: Ranker, path: str | Path, ids: list[Any]) -> Path:
    """Write a flat inner-product index of the items, and beside it their ids as a JSON list.

    Row i of the index is item i. Each file is written atomically, the ids first.

    Args:
        ranker: with the items.
        path: of the index.
        ids: (num_items,) ids in the order of the items.

    Returns:
        The path of the ids, ``path`` with ".ids.json" added.

    Raises:
        ValueError: if faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError('an index needs FAISS: pip install "lightgcn[faiss]"') from error
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the path of a file for the index")
    rows = ranker.items.detach().cpu().float().contiguous().numpy()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    beside = path.with_name(path.name + ".ids.json")
    write_json(beside, ids)
    write_atomic(path, lambda temporary: faiss.write_index(index, str(temporary)))
    return beside
