"""Ranking by way of a shortlist: what cannot be among the best of a row is left out, and that is
proven.

The scores of a row may be coarse: products in bfloat16, say, which take a seventh of the time of
those in float32. From a bound on their error follows which items can be among the k best; only
these, some thirty for k = 20, are scored exactly and sorted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Scores that are looked at one by one at a time, at most: 16 MiB of positions.
_PLACES = 1 << 21
# Items that are prepared at a time.
_ITEMS = 1 << 16
# Up to so many candidates, or 4 k, rows are sorted as one table.
_WIDE = 128
# Norms with which nothing overflows, and items need no scaling.
_SMALLEST, _LARGEST = 1e-9, 1e9
# Integers with as many bytes as a float.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_NOT_FINITE = "the embeddings are not finite, or so large that scores are not"
_NAN = "scores contain NaN: the embeddings are not finite"


class TopK(NamedTuple):
    """The best items of each user, best first.

    ``items`` is (B, k) int64 and ``scores`` (B, k) floating. A user with fewer than k items left
    has -1 and -inf in the places that remain."""

    items: Tensor
    scores: Tensor


class CoarseProducts:
    """Products of users and items in a coarse dtype, and how far off they can be.

    Users are divided by their norms and items by the largest of theirs, so that nothing overflows
    or vanishes; items whose dtype and norms are fine as they are are not copied.

    Attributes:
        error_of_adding: by how much the error grows where something is added to a product.

    Args:
        items: (num_items, d) floating.
        dtype: of the products.

    Raises:
        ValueError: if an item is not finite.
    """

    def __init__(self, items: Tensor, dtype: torch.dtype) -> None:
        self._wide = torch.promote_types(items.dtype, torch.float32)
        largest = max(
            (_largest_norm(rows.to(self._wide)) for rows in items.split(_ITEMS)), default=0.0
        )
        keep = dtype == self._wide == items.dtype and _SMALLEST < largest < _LARGEST
        self._scale = 1.0 if keep else largest or 1.0
        self._items, self._item_rounding = items, 0.0
        if not keep:
            self._items = torch.empty_like(items, dtype=dtype)
            for to, rows in zip(self._items.split(_ITEMS), items.split(_ITEMS), strict=True):
                unit = rows.to(self._wide) / self._scale
                to.copy_(unit)
                self._item_rounding = max(
                    self._item_rounding, _largest_norm(unit - to.to(self._wide))
                )
        # The largest norm of an item as it is multiplied.
        self._norm = largest / self._scale + self._item_rounding
        # Adding up d products rounds by d/2 · eps, here and where scores are exact.
        self._adding = (items.shape[1] + 8) * torch.finfo(
            torch.promote_types(dtype, torch.float32)
        ).eps
        if _products_may_be_coarser(items.device):
            self._adding += 2**-7  # TF32, sums in half precision, or products in bfloat16 on a CPU
        # The roundoff of a product, and as much of what is added to it: this is at most the sum
        # less the product.
        self.error_of_adding = torch.finfo(dtype).eps * self._norm
        self._smallest = items.shape[1] * torch.finfo(self._wide).tiny * torch.finfo(self._wide).eps

    def write(self, users: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Write the products of (B, d) users and all items to ``out``: (B, num_items) of the coarse
        dtype.

        Returns:
            (B,) float64 by what a product is to be multiplied to be a score, and (B,) float64 a
            bound on the product's error, but for the one of its own rounding.

        Raises:
            ValueError: if a user is not finite.
        """
        norms = _norms(users)
        if not bool((norms < torch.inf).all()):
            raise ValueError(_NOT_FINITE)
        norms = norms.masked_fill(norms == 0, 1.0)
        # In float64, where the smallest numbers of float32 have all their digits.
        unit = users.double() / norms.unsqueeze(1)
        coarse = unit.to(out.dtype)
        torch.mm(coarse, self._items.T, out=out)
        user_rounding = _norms(unit - coarse.double())
        scale = norms * self._scale
        error = (
            (user_rounding + self._adding) * self._norm
            + 1.01 * self._item_rounding
            + self._smallest / scale
        )
        return scale, error


def rank_shortlists(
    scores: Tensor,
    k: int,
    exact: Callable[[Tensor, Tensor], Tensor],
    *,
    group_size: int = 1,
    error: Tensor | None = None,
    finite: bool = False,
    most: int | None = None,
) -> TopK | None:
    """Rank rows: their k items with the highest exact scores, equal ones by index.

    Args:
        scores: (B, width) floating, contiguous; -inf is no item.
        k: how many, at most width / ``group_size``.
        exact: gives the scores of (n,) rows and (n,) items in them.
        group_size: how many scores are looked at through their maximum; divides the width.
        error: (B,) bounds on how far ``scores`` are from exact ones, before these were rounded to
            the dtype of ``scores``; None where they are the exact ones.
        finite: no score is NaN, so that their bits can be compared in place of them.
        most: how many items to score exactly at most, None for any number.

    Returns:
        A `TopK`; None where more than ``most`` items would have to be scored.

    Raises:
        ValueError: if a score is NaN.
    """
    count, width = scores.shape
    num_groups = width // group_size
    # Group j is every item that is j modulo the number of groups, so that the pass runs along rows
    # of memory.
    groups = scores.view(count, group_size, num_groups)
    bits = groups.view(_BITS[scores.itemsize]) if finite else groups
    maxima = bits.amax(1).view(scores.dtype)
    least = _least(maxima, k, error)
    # Floats above 0 are in the order of their bits, those below in the opposite one.
    if finite and bool((least <= 0).any()):
        maxima = groups.amax(1)
        least = _least(maxima, k, error)
    if bool(least.isnan().any()):
        raise ValueError(_NAN)
    chosen = (maxima >= least.unsqueeze(1)).view(-1).nonzero().flatten()
    if most is not None and len(chosen) > most:
        return None
    if len(chosen) * group_size > _PLACES and count > 1:
        parts = []
        for half in (slice(0, count // 2), slice(count // 2, count)):

            def exact_here(rows: Tensor, items: Tensor, first: int = half.start) -> Tensor:
                return exact(rows + first, items)

            bound = None if error is None else error[half]
            part = rank_shortlists(
                scores[half],
                k,
                exact_here,
                group_size=group_size,
                error=bound,
                finite=finite,
                most=most,
            )
            if part is None:
                return None
            parts.append(part)
        return TopK(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    rows = chosen // num_groups
    members = torch.arange(group_size, dtype=torch.int64, device=scores.device) * num_groups
    places = (rows * (width - num_groups) + chosen).unsqueeze(1) + members
    values = scores.view(-1)[places]
    places = places[(values >= least[rows].unsqueeze(1)) & (values > -torch.inf)].sort().values
    if most is not None and len(places) > most:
        return None
    rows, items = places // width, places % width
    return _rank_candidates(rows, items, exact(rows, items), count, k)


def _least(maxima: Tensor, k: int, error: Tensor | None) -> Tensor:
    """Return (B,) what an item's score must be at least for the item to be one of the k best of its
    row.

    The k groups with the highest maxima have an item each, so the k-th best of a row is no worse
    than the worst of these: m, less its error. The error of the item in question counts as well.
    Beyond ``error`` a score was rounded twice where something was added to the product, which for
    both items is 4 roundoffs of about m; this bound is the fifth, and the exact scores were rounded
    as well. A twentieth more covers that one of these is not exactly m."""
    highest: Tensor = maxima.topk(k, dim=1, sorted=False).values.amin(1)
    if error is None:
        return highest
    highest = highest.to(torch.promote_types(highest.dtype, torch.float32))
    roundoff = (torch.finfo(maxima.dtype).eps + torch.finfo(highest.dtype).eps) / 2
    return (highest - 1.05 * (2 * error + 5 * roundoff * highest.abs())).to(maxima.dtype)


def _rank_candidates(rows: Tensor, items: Tensor, scores: Tensor, count: int, k: int) -> TopK:
    """Return the k best of ``count`` rows, given their candidates in the order of rows and
    items."""
    if bool(scores.isnan().any()):
        raise ValueError(_NAN)
    sizes = torch.bincount(rows, minlength=count)
    ends = sizes.cumsum(0)
    # A row of many candidates, all alike as a rule, would make the table of the others as wide.
    width = max(k, min(int(sizes.max()) if count else 0, max(_WIDE, 4 * k)))
    many = (sizes > width).nonzero().flatten().tolist()
    place = torch.arange(len(rows), dtype=torch.int64, device=rows.device) - (ends - sizes)[rows]
    few = place < width
    table, ids = scores.new_full((count, width), -torch.inf), items.new_full((count, width), -1)
    table[rows[few], place[few]], ids[rows[few], place[few]] = scores[few], items[few]
    values, order = table.sort(dim=1, descending=True, stable=True)
    best = TopK(ids.gather(1, order[:, :k]), values[:, :k].contiguous())
    for row in many:
        own = slice(int(ends[row] - sizes[row]), int(ends[row]))
        values, order = scores[own].sort(descending=True, stable=True)
        best.items[row], best.scores[row] = items[own][order[:k]], values[:k]
    return best


def _products_may_be_coarser(device: torch.device) -> bool:
    """Tell whether products of float32 may be made of coarser numbers, by a setting of the caller's
    or a device."""
    try:
        return device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set for each backend, in ways that this question has no answer for
        return True


def _norms(rows: Tensor) -> Tensor:
    # In float64, where squares of float32 neither overflow nor vanish.
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def _largest_norm(rows: Tensor) -> float:
    """Return the largest norm, by the rows' own dtype where it is of ordinary size: the bound has
    room for that."""
    if not len(rows):
        return 0.0
    largest = float(torch.linalg.vector_norm(rows, dim=1).max())
    if not _SMALLEST < largest < _LARGEST:
        largest = float(_norms(rows).max())
    if not largest < torch.inf:
        raise ValueError(_NOT_FINITE)
    return largest
