"""Graph filters: baselines that smooth a user's row over the item-item graph R̃ᵀR̃, in closed form.

R̃ = D_U^-½ R D_I^-½ is the train matrix divided by the roots of both degrees (sums of weights). An
eigenvalue near 1 of R̃ᵀR̃ is a group of items with the same users; one near 0 is noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, checked_number
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.nn.spectral import normalized_matrix, right_singular_vectors, sparse_csr
from lightgcn.ranking.baselines import ItemScorer

Floats = npt.NDArray[np.floating[Any]]


def gf_cf(
    train: Interactions, rank: int = 256, ideal_weight: float = 0.3, *, progress: bool = False
) -> ItemScorer:
    """Score by a linear and an ideal low-pass filter of the graph: GF-CF (Shen et al., CIKM 2021).

    The scores of a user's row r are r (R̃ᵀR̃ + w D^-½ V Vᵀ D^½), with D the items' degrees and V the
    right singular vectors of R̃ with the largest singular values, as in the authors' code. Vectors
    of singular value zero are left out, because they are not unique.

    Args:
        train: the graph.
        rank: number of singular vectors, at most.
        ideal_weight: w; 0 for the linear filter alone, as the authors use for Amazon-Book.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``rank`` is less than 1 or ``ideal_weight`` negative.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> gf_cf(train, ideal_weight=0).scores(torch.tensor([1]))
        tensor([[0.7500, 0.3536]])
    """
    train = checked_interactions("train", train)
    checked_count("rank", rank, 1)
    checked_number("ideal_weight", ideal_weight, 0)
    normalized, roots = normalized_matrix(train)
    used = rank if ideal_weight else 0
    _, vectors = right_singular_vectors(normalized, used, progress=progress, title="gf_cf")
    ideal = torch.full(vectors.shape[1:], ideal_weight, dtype=torch.float64, device="cpu")
    spectral = _low_rank(vectors, roots, ideal)
    return ItemScorer(train, _GraphFilter(normalized, (1.0,), None, *spectral))


def cheby_cf(
    train: Interactions,
    rank: int = 512,
    ideal_weight: float = 0.2,
    *,
    flatness: float = 1.5,
    degree_exponent: float = 0.4,
    progress: bool = False,
) -> ItemScorer:
    """Score by a plateau-shaped filter of the graph: ChebyCF (Kim et al., SIGIR 2025).

    The scores of a user's row r are r D^-β (t(R̃ᵀR̃) + w V Vᵀ) D^β, with D the items' degrees, V the
    right singular vectors of R̃ with the largest singular values, and of an eigenvalue g
    t(g) = ½ − ½ sign(1 − 2g) |1 − 2g|^φ. The authors interpolate t by a Chebyshev polynomial of
    degree 8, which takes 16 sparse products. Here t is exact on V, and on the rest of the spectrum,
    which is close to 0, its best polynomial c₁g + c₂g²: 4 sparse products.

    Args:
        train: the graph.
        rank: number of singular vectors, at most.
        ideal_weight: w.
        flatness: φ, at least 1: how flat t is at g = ½.
        degree_exponent: β; larger favours popular items.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if ``rank`` is less than 1, ``flatness`` less than 1, or another number
            negative.

    Example:
        >>> train = Interactions([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
        >>> cheby_cf(train, ideal_weight=0).scores(torch.tensor([1]))
        tensor([[0.7744, 0.2418]])
    """
    train = checked_interactions("train", train)
    checked_count("rank", rank, 1)
    checked_number("ideal_weight", ideal_weight, 0)
    checked_number("flatness", flatness, 1)
    checked_number("degree_exponent", degree_exponent, 0)
    normalized, roots = normalized_matrix(train)
    values, vectors = right_singular_vectors(normalized, rank, progress=progress, title="cheby_cf")
    squares = values.square()
    weights = _least_squares(float(squares[-1]) if len(squares) else 0.0, flatness)
    on_vectors = _plateau(squares, flatness) + ideal_weight
    for power, weight in enumerate(weights, 1):
        on_vectors -= weight * squares**power
    # A degree is the square of its root.
    after = np.power(roots, 2 * degree_exponent, out=np.zeros_like(roots), where=roots > 0)
    spectral = _low_rank(vectors, after, on_vectors)
    return ItemScorer(train, _GraphFilter(normalized, weights, after, *spectral))


def _low_rank(vectors: Tensor, scale: Floats, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B of A Bᵀ = S⁻¹ V W Vᵀ S, with the diagonals S and W; 0 where S is."""
    column = torch.from_numpy(scale).unsqueeze(1)
    to_vectors = torch.where(column > 0, vectors / column, 0.0)
    return to_vectors, vectors * column * weights


def _plateau(squares: Tensor, flatness: float) -> Tensor:
    x = 1 - 2 * squares
    return 0.5 - 0.5 * x.sign() * x.abs() ** flatness


def _least_squares(end: float, flatness: float) -> tuple[float, float]:
    """Return the coefficients of g and g² that are nearest to the plateau on [0, end]."""
    points = torch.linspace(0, end, 256, dtype=torch.float64, device="cpu")
    powers = torch.stack([points, points.square()], 1)
    solution = np.linalg.lstsq(powers.numpy(), _plateau(points, flatness).numpy(), rcond=None)[0]
    return float(solution[0]), float(solution[1])


class _GraphFilter:
    """Scores of rows: x S⁻¹ (c₁G + c₂G²) S + x A Bᵀ, with G = R̃ᵀR̃."""

    def __init__(
        self,
        matrix: Any,
        weights: tuple[float, ...],
        scale: Floats | None,
        to_vectors: Tensor,
        from_vectors: Tensor,
    ) -> None:
        """Take R̃ (a SciPy CSR array), c, the diagonal of S (None for ones), A and B (num_items, r).

        An item whose scale is 0 has no users.
        """
        matrix = matrix.astype(np.float32)
        self._to_items = matrix
        self._users_of, self._items_of = sparse_csr(matrix.T.tocsr()), sparse_csr(matrix)
        self._weights = weights
        self._before = self._after = None
        if scale is not None:
            inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
            self._before = inverse.astype(np.float32)
            self._after = torch.from_numpy(scale).float()
        self._to_vectors = to_vectors.float().numpy()
        self._from_vectors = from_vectors.float().T.contiguous()

    def __call__(self, rows: Any) -> Floats:
        """Return (B, num_items) scores of a (B, num_items) SciPy CSR array."""
        scaled = rows
        if self._before is not None:
            scaled = rows.copy()
            scaled.data = rows.data * self._before[rows.indices]
        spectral = torch.from_numpy(rows @ self._to_vectors)
        with torch.autocast("cpu", enabled=False):
            users = torch.from_numpy((self._to_items @ scaled.T).toarray())
            mixed = self._weights[0] * users
            for weight in self._weights[1:]:
                users = self._items_of @ (self._users_of @ users)
                mixed += weight * users
            scores = (self._users_of @ mixed).T
            if self._after is not None:
                scores *= self._after
            return torch.addmm(scores, spectral, self._from_vectors).numpy()
