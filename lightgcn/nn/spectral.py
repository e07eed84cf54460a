"""The leading singular vectors of the normalised interaction matrix, and start embeddings made of
them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.interactions import Interactions


class SpectralDecomposition(NamedTuple):
    """R̃ ≈ ``users`` diag(``values``) ``items``ᵀ: (num_users, r), (r,) decreasing, (num_items, r),
    all float32."""

    users: Tensor
    values: Tensor
    items: Tensor


def normalized_matrix(interactions: Interactions) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return R̃ = D_U^-½ R D_I^-½ as a float64 SciPy CSR array, and (num_items,) the roots of the
    items' degrees."""
    from scipy.sparse import diags_array

    matrix = interactions.to_scipy().astype(np.float64)
    users, items = (np.sqrt(matrix.sum(axis=axis)) for axis in (1, 0))
    by_user, by_item = (
        np.divide(1, root, out=np.zeros_like(root), where=root > 0) for root in (users, items)
    )
    return (diags_array(by_user) @ matrix @ diags_array(by_item)).tocsr(), items


def truncated_svd(interactions: Interactions, rank: int) -> SpectralDecomposition:
    """Return the ``rank`` leading singular triplets of R̃ = D_U^-½ R D_I^-½, by SciPy's ARPACK, on
    the graph's device.

    Deterministic on one machine: the iteration starts from a fixed vector, and of each pair of
    vectors, whose sign is free, the item side is made to sum to a positive number.

    Args:
        interactions: the graph; weights count.
        rank: how many triplets, at most the smaller number of nodes.

    Raises:
        ValueError: if ``rank`` is not in [1, min(num_users, num_items)], or the graph has no edge.
    """
    from scipy.sparse.linalg import svds

    smaller = min(interactions.num_users, interactions.num_items)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= smaller:
        raise ValueError(
            f"rank must be an integer in [1, {smaller}], the smaller number of nodes, got {rank!r}"
        )
    if not interactions.num_edges:
        raise ValueError("a graph without edges has no singular vectors to start from")
    normalized, _ = normalized_matrix(interactions)
    if rank == smaller:
        left, values, right = np.linalg.svd(normalized.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(0).standard_normal(smaller)
        left, values, right = svds(normalized, rank, v0=start, tol=1e-4)
        order = np.argsort(-values)  # svds gives no order
        left, values, right = left[:, order], values[order], right[order]
    signs = np.where(right.sum(1) < 0, -1.0, 1.0)
    parts = (left * signs, values, right.T * signs)
    return SpectralDecomposition(
        *(
            torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(interactions.device)
            for part in parts
        )
    )


def spectral_embeddings(
    interactions: Interactions, dim: int, *, std: float = 0.005
) -> tuple[Tensor, Tensor]:
    """Return start embeddings whose dot products are the best rank-``dim`` approximation of R̃, up
    to a scale.

    Args:
        interactions: the edges that are trained on, and no others.
        dim: width; columns beyond the smaller number of nodes are zero.
        std: standard deviation of all entries together: with the learning rate it says how long the
            start is kept.

    Returns:
        (num_users, dim) and (num_items, dim) float32 on the graph's device.

    Raises:
        ValueError: if ``dim`` < 1 or the graph has no edge.
    """
    rank = min(dim, interactions.num_users, interactions.num_items)
    users, values, items = truncated_svd(interactions, rank)
    start = torch.cat([users, items]) * values.sqrt()
    start = F.pad(start * (std / start.square().mean().sqrt()), (0, dim - rank))
    return start[: interactions.num_users], start[interactions.num_users :]
