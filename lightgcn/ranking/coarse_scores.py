"""Products of users with all items in a dtype that is fast, and a bound on their error."""

from __future__ import annotations

import torch
from torch import Tensor

NOT_FINITE = "the embeddings are not finite, or so large that scores are not"


class CoarseScores:
    """Products of users with all items in one dtype, and a bound on their error.

    Args:
        items: (num_items, d).
        dtype: of the products.
        largest: `largest_norm` of the items.

    Attributes:
        finite: on a device, whether all scores so far are finite, which the caller reads; on a CPU
            None, and `write` raises the error.
    """

    finite: Tensor | None = None

    def __init__(self, items: Tensor, dtype: torch.dtype, largest: float | Tensor) -> None:
        self.dtype, self._items, self._largest = dtype, items.to(dtype), largest
        self._item_error: float | Tensor = 0.0
        if dtype.itemsize <= 2:
            self._item_error = largest_norm(items, self._items)
        wide = torch.finfo(torch.promote_types(dtype, torch.float32))  # in which products are added
        # Sums of d products, and of these with gains, round by at most d/2 + 2 eps, here and in
        # exact scores.
        self._adding = (items.shape[1] + 8) * wide.eps
        # Some processors take numbers below the normal ones for zeros.
        self._tiny = items.shape[1] * wide.tiny * (1.0 + largest)
        if _products_may_be_coarser(items.device):
            self._adding += 2**-7  # TF32, or bfloat16 on a CPU

    def write(self, users: Tensor, out: Tensor) -> Tensor:
        """Write the products of (B, d) users to ``out`` (B, num_items); return (B, 1) float64
        bounds on their error but for the rounding of each product to ``out``'s dtype."""
        rounded = users.to(out.dtype)
        torch.mm(rounded, self._items.T, out=out)
        norms, errors = _norms(users), _norms(users.double() - rounded.double())
        length = self._largest + self._item_error
        bound: Tensor = (
            norms * (self._item_error + self._adding * length) + errors * length + self._tiny
        )
        # An infinite score would be taken for a seen item's. bfloat16's largest number is a little
        # below float32's, and lists must not depend on it.
        limit = torch.bfloat16 if out.dtype == torch.float32 else out.dtype
        finite = (norms * length + bound < torch.finfo(limit).max).all()
        if users.device.type != "cpu":
            self.finite = finite if self.finite is None else self.finite & finite
        elif not bool(finite):
            raise ValueError(NOT_FINITE)
        return bound


def largest_norm(rows: Tensor, rounded: Tensor | None = None) -> float | Tensor:
    """Return the largest norm of a row, or of its rounding error: on a device as a float64 tensor,
    for which the host does not wait, and which may not be finite."""
    if rows.device.type != "cpu":
        return _norms(rows if rounded is None else rows.double() - rounded.double()).max()
    largest, wide = 0.0, torch.promote_types(rows.dtype, torch.float32)
    for first in range(0, len(rows), 1 << 16):
        part = rows[first : first + (1 << 16)].to(wide)
        if rounded is not None:
            part = part - rounded[first : first + (1 << 16)].to(wide)
        norm = float(torch.linalg.vector_norm(part, dim=1).max())
        norm = norm if 1e-9 < norm < 1e9 else float(_norms(part).max())
        if not norm < torch.inf:
            raise ValueError(NOT_FINITE)
        largest = max(largest, norm)
    return largest


def _norms(rows: Tensor) -> Tensor:
    # In float64, where squares of float32 neither overflow nor vanish.
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    return norms


def _products_may_be_coarser(device: torch.device) -> bool:
    """Return whether float32 products may be formed from coarser numbers, by a setting."""
    try:
        return device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set for each backend apart
        return True
