"""Which items a list may hold: those of ``only``, without those of ``exclude``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor, checked_indices

# A mask of all items, or indices of some.
Items = Tensor | Sequence[int] | Sequence[bool]
# Up to this share of all items, a copy of their embeddings costs less than scores of all items.
_FEW = 0.25


def candidate_mask(num_items: int, only: Items | None, exclude: Items | None) -> Tensor | None:
    """Return (num_items,) bool on the CPU: which items a list may hold; None for all of them.

    Args:
        num_items: number of items.
        only: the items to choose from, as a (num_items,) bool mask or as (n,) integers; None for
            all of them.
        exclude: items to leave out, in either form; None for none.

    Raises:
        ValueError: naming the argument, for a mask of another length or an index out of range.

    Example:
        >>> candidate_mask(4, only=[3, 1, 0], exclude=torch.tensor([True, False, False, False]))
        tensor([False,  True, False,  True])
    """
    allowed = None if only is None else _mask("only", only, num_items)
    if exclude is None:
        return allowed
    left_out = _mask("exclude", exclude, num_items)
    if allowed is None:
        return ~left_out if bool(left_out.any()) else None
    return allowed & ~left_out


def _mask(name: str, given: Items, num_items: int) -> Tensor:
    values = as_tensor(name, given).cpu()
    if values.dtype == torch.bool:
        if values.shape != (num_items,):
            raise ValueError(
                f"{name} as a mask must have shape ({num_items},), got {tuple(values.shape)}"
            )
        return values
    mask = torch.zeros(num_items, dtype=torch.bool, device="cpu")
    mask[checked_indices(name, values, num_items, "num_items")] = True
    return mask


class Columns(NamedTuple):
    """The columns of a table of scores.

    ``kept`` (n,) int64: the items that have a column, increasing; None for all. ``masked`` (m,)
    int64: the columns that no list may hold; None for none."""

    kept: Tensor | None
    masked: Tensor | None

    @classmethod
    def of(cls, allowed: Tensor | None, device: torch.device) -> Columns:
        """Return the columns of a `candidate_mask`: only the candidates if they are few, else
        all."""
        if allowed is None:
            return cls(None, None)
        if int(allowed.sum()) <= _FEW * len(allowed):
            return cls(allowed.nonzero().flatten().to(device), None)
        return cls(None, (~allowed).nonzero().flatten().to(device))

    def find(self, items: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return the columns of (n,) items, without items that have none, and the entries of other
        (n,) tensors that belong to them."""
        if self.kept is None:
            return items, *others
        place = torch.searchsorted(self.kept, items).clamp_(max=len(self.kept) - 1)
        found = self.kept[place] == items
        return place[found], *(other[found] for other in others)

    def items(self, columns: Tensor) -> Tensor:
        """Return the items of columns; -1 stays -1."""
        if self.kept is None:
            return columns
        return torch.where(columns < 0, columns, self.kept[columns.clamp(min=0)])
