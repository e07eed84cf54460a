"""The parts of a score that are computed from a graph alone, without training: similarities of
items, and spectral embeddings.

Spectral embeddings are an ideal low-pass filter of the graph as a dot product. With R̃ = D_U^-½ R
D_I^-½, V its leading right singular vectors and D the items' degrees, a user with row x scores

    x D^-β V Vᵀ D^β      β = 0.4, which favours popular items a little less than ½

so item i has the embedding d_i^β V_i, and a user the sum of its items' d_i^-2β times theirs (Shen
et al., CIKM 2021; β as in Kim et al., SIGIR 2025). Scores are divided by their standard deviation
over a user's items, so that one weight suits users of few items and of many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.graph.interactions import Interactions
from lightgcn.nn.config import Similarity
from lightgcn.nn.spectral import normalized_matrix, right_singular_vectors
from lightgcn.ranking.item_knn import nearest_items
from lightgcn.ranking.sparse_ease import ease_weights
from lightgcn.ranking.user_knn import UserKNN

# β above.
DEGREE_EXPONENT = 0.4


class SpectralItems(NamedTuple):
    """Spectral embeddings of items, all float32.

    ``table`` (num_items, r) has uncorrelated columns of ``variances`` (r,), so that the variance of
    a user's scores is a weighted sum of squares; ``scale`` (num_items,) is by how much an item
    counts in the sum of a user's.
    """

    table: Tensor
    scale: Tensor
    variances: Tensor

    def to(self, device: torch.device | str) -> SpectralItems:
        return SpectralItems(*(part.to(device) for part in self))

    @torch.no_grad()
    def users(self, history: Interactions) -> Tensor:
        """Return the users' embeddings of (num_users, r), whose scores have a standard deviation of
        1 over all items; zeros for a user without items that have some."""
        known, place = history.items.unique(return_inverse=True)
        weights = self.scale[history.items]
        if history.weights is not None:
            weights = weights * history.weights.to(weights.dtype)
        users = F.embedding_bag(
            place,
            self.table[known].to(weights.dtype),  # the table may be columns of a wider one
            history.indptr,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        with torch.autocast(users.device.type, enabled=False):
            deviations = (users.square() @ self.variances).sqrt_().unsqueeze(1)
        return users / deviations.clamp_(min=1e-12)


def spectral_items(graph: Interactions, rank: int, *, progress: bool = False) -> SpectralItems:
    """Return the spectral embeddings of a graph's items, on its device.

    Args:
        graph: the graph; weights count.
        rank: number of singular vectors, at most.
        progress: show a progress bar on a terminal.
    """
    matrix, roots = normalized_matrix(graph)
    _, vectors = right_singular_vectors(matrix, rank, progress=progress, title="spectral")
    degrees = torch.from_numpy(roots).square()
    scale = torch.where(degrees > 0, degrees.pow(-2 * DEGREE_EXPONENT), 0.0)
    table = vectors * degrees.pow(DEGREE_EXPONENT).unsqueeze(1)
    mean = table.mean(0)
    with torch.autocast(table.device.type, enabled=False):
        covariance = table.T @ table / max(1, len(table)) - torch.outer(mean, mean)
        variances, directions = torch.linalg.eigh(covariance)
        table = table @ directions
    # A constant column changes no ranking.
    varied = variances > 1e-8 * table.square().mean(0)
    parts = (table * varied, scale, variances * varied)
    return SpectralItems(*(part.float().contiguous() for part in parts)).to(graph.device)


class ClosedForms:
    """What scores need of one graph alone, computed when it is first asked for, and kept.

    Args:
        graph: the interactions that messages flow along.
        progress: show progress bars on a terminal.
    """

    def __init__(self, graph: Interactions, *, progress: bool = False) -> None:
        self.graph, self._progress = graph, progress
        self._similarities: dict[tuple[str, int], Any] = {}
        self._spectral: dict[int, SpectralItems] = {}
        self._user_knn: UserKNN | None = None

    def similarity(self, kind: Similarity, neighbours: int) -> Any:
        """Return the matrix of item kNN, (num_items, num_items) CSR; row j has what item j gives to
        others."""
        key = kind, neighbours
        if key not in self._similarities:
            if kind == "ease":
                weights = ease_weights(self.graph, neighbours, progress=self._progress)
                matrix = weights.T.tocsr()
            else:
                matrix = nearest_items(self.graph, neighbours, progress=self._progress)
            self._similarities[key] = matrix
        return self._similarities[key]

    def user_knn(self, neighbours: int, weight: float, history: Interactions) -> UserKNN:
        """Return user kNN for the users of ``history``, the first ones of the graph."""
        if self._user_knn is None:
            self._user_knn = UserKNN.from_graph(self.graph)
        return replace(self._user_knn, history=history, neighbours=neighbours, weight=weight)

    def spectral(self, rank: int) -> SpectralItems:
        """Return the items' spectral embeddings, of ``rank`` columns at most."""
        if rank not in self._spectral:
            self._spectral[rank] = spectral_items(self.graph, rank, progress=self._progress)
        return self._spectral[rank]
