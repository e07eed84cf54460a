"""The leading singular vectors of the normalised interaction matrix, and initial embeddings made
from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.graph.interactions import Interactions

# Rows whose singular vectors are computed at a time.
_ROWS = 1 << 16


class SpectralDecomposition(NamedTuple):
    """R̃ ≈ ``users`` diag(``values``) ``items``ᵀ: (num_users, r), (r,) decreasing, (num_items, r),
    all float32."""

    users: Tensor
    values: Tensor
    items: Tensor


def normalized_matrix(interactions: Interactions) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return R̃ = D_U^-½ R D_I^-½ as a float64 SciPy CSR array, and the (num_items,) square roots of
    the items' degrees."""
    from scipy.sparse import diags_array

    matrix = interactions.to_scipy().astype(np.float64)
    users, items = (np.sqrt(matrix.sum(axis=axis)) for axis in (1, 0))
    by_user, by_item = (
        np.divide(1, root, out=np.zeros_like(root), where=root > 0) for root in (users, items)
    )
    return (diags_array(by_user) @ matrix @ diags_array(by_item)).tocsr(), items


def truncated_svd(interactions: Interactions, rank: int) -> SpectralDecomposition:
    """Return the ``rank`` leading singular triplets of R̃ = D_U^-½ R D_I^-½, on the graph's device.

    Computed by SciPy's ARPACK; if ``rank`` is the smaller number of nodes, from the eigenvectors of
    the smaller Gram matrix. Deterministic on one machine: the iteration starts from a fixed vector,
    and each pair of vectors, whose sign is free, has item entries with a positive sum.

    Args:
        interactions: the graph; weights count.
        rank: number of triplets, at most the smaller number of nodes.

    Raises:
        ValueError: if ``rank`` is not in [1, min(num_users, num_items)], or the graph has no edge.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions
        >>> from lightgcn.nn import truncated_svd
        >>> graph = Interactions.from_edge_index(torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]))
        >>> truncated_svd(graph, 1).values
        tensor([1.])
    """
    from scipy.sparse.linalg import svds

    smaller = min(interactions.num_users, interactions.num_items)
    rank = checked_count("rank", rank, 1)
    if rank > smaller:
        raise ValueError(f"rank is {rank}, but the smaller number of nodes is {smaller}")
    if not interactions.num_edges:
        raise ValueError("a graph without edges has no singular vectors to start from")
    normalized, _ = normalized_matrix(interactions)
    if rank == smaller:
        left, values, right = _all_triplets(normalized)
    else:
        start = np.random.default_rng(0).standard_normal(smaller)
        left, values, right = svds(normalized, rank, v0=start, tol=1e-4)
        order = np.argsort(-values)  # svds gives no order
        left, values, right = left[:, order], values[order], right[order]
    signs = np.where(right.sum(1) < 0, -1, 1).astype(right.dtype)
    parts = (left * signs, values, right.T * signs)
    return SpectralDecomposition(
        *(
            torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(interactions.device)
            for part in parts
        )
    )


def _all_triplets(matrix: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return all singular triplets of a sparse matrix, decreasing, as `numpy.linalg.svd` does; its
    smaller side must be small.

    Only the Gram matrix of the smaller side is dense in float64; the vectors of the larger side are
    computed some rows at a time, in float32, and are zero for a singular value of zero."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T.tocsr() if wide else matrix
    squares, vectors = np.linalg.eigh((tall.T @ tall).toarray())
    values = np.sqrt(np.maximum(squares[::-1], 0))
    vectors = vectors[:, ::-1]
    kept = values > 1e-7 * values[0]
    scaled = vectors * np.divide(1, values, out=np.zeros_like(values), where=kept)
    others = np.empty((tall.shape[0], len(values)), np.float32)
    for first in range(0, len(others), _ROWS):
        others[first : first + _ROWS] = tall[first : first + _ROWS] @ scaled
    return (vectors, values, others.T) if wide else (others, values, vectors.T)


def spectral_embeddings(
    interactions: Interactions, dim: int, *, std: float = 0.005
) -> tuple[Tensor, Tensor]:
    """Return initial embeddings whose dot products are the best rank-``dim`` approximation of
    R̃ = D_U^-½ R D_I^-½, up to a scale.

    Args:
        interactions: the training edges.
        dim: width; columns beyond the smaller number of nodes are zero.
        std: standard deviation of all entries together. With the learning rate it determines how
            long training stays near these embeddings.

    Returns:
        (num_users, dim) and (num_items, dim) float32 on the graph's device.

    Raises:
        ValueError: if ``dim`` < 1 or the graph has no edge.

    Example:
        >>> import torch
        >>> from lightgcn import Interactions
        >>> from lightgcn.nn import spectral_embeddings
        >>> graph = Interactions.from_edge_index(torch.tensor([[0, 0, 1], [0, 1, 2]]))
        >>> users, items = spectral_embeddings(graph, 2)
        >>> (users @ items.T).argmax(1)
        tensor([0, 2])
    """
    rank = min(dim, interactions.num_users, interactions.num_items)
    users, values, items = truncated_svd(interactions, rank)
    start = torch.cat([users, items]) * values.sqrt()
    start = F.pad(start * (std / start.square().mean().sqrt()), (0, dim - rank))
    return start[: interactions.num_users], start[interactions.num_users :]
