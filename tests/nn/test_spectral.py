"""The truncated SVD and the spectral start against dense linear algebra in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from lightgcn import Interactions, preset
from lightgcn.nn import spectral_embeddings, truncated_svd
from lightgcn.nn.spectral import normalized_matrix

USERS, ITEMS = 23, 17


def graph(**extra: Any) -> Interactions:
    """User 3 and item 5 are isolated."""
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(4)) < 0.3
    dense[3], dense[:, 5] = False, False
    return Interactions.from_edge_index(dense.nonzero().T, USERS, ITEMS, **extra)


def dense_normalized(interactions: Interactions) -> Tensor:
    matrix = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    weights = (
        torch.ones(interactions.num_edges) if interactions.weights is None else interactions.weights
    )
    matrix[interactions.users, interactions.items] = weights.double()
    users, items = matrix.sum(1).clamp(min=1e-9).rsqrt(), matrix.sum(0).clamp(min=1e-9).rsqrt()
    return users.unsqueeze(1) * matrix * items


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 16, 17])
def test_the_best_approximation_of_its_rank(rank: int, weighted: bool) -> None:
    weights = torch.rand(graph().num_edges, generator=torch.Generator().manual_seed(5)) + 0.5
    interactions = graph(weights=weights) if weighted else graph()
    found = truncated_svd(interactions, rank)
    left, values, right = torch.linalg.svd(dense_normalized(interactions), full_matrices=False)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    torch.testing.assert_close(found.values.double(), values[:rank], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        (found.users * found.values @ found.items.T).double(), best, rtol=1e-3, atol=1e-4
    )
    assert found.users.shape == (USERS, rank) and found.items.shape == (ITEMS, rank)


def test_signs_are_fixed_and_isolated_nodes_are_zero() -> None:
    first, again = truncated_svd(graph(), 5), truncated_svd(graph(), 5)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert bool((first.items.sum(0) > -1e-5).all())
    assert float(first.users[3].abs().max()) < 1e-5 and float(first.items[5].abs().max()) < 1e-5


@pytest.mark.slow
def test_all_triplets_of_a_long_matrix_stay_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 users of 300,000 items: 154 MB dense in float64, and so is nothing of it."""
    generator = torch.Generator().manual_seed(0)
    users, items = torch.arange(300_000) % 64, torch.arange(300_000)
    more = torch.randint(64, (300_000,), generator=generator)
    long = Interactions(torch.cat([users, more]), torch.cat([items, items]), 64, 300_000)
    monkeypatch.setattr(csr_array, "toarray", small_only(csr_array.toarray))
    for interactions, flip in ((long, False), (transposed(long), True)):
        found = truncated_svd(interactions, 64)
        small, large = (found.items, found.users) if flip else (found.users, found.items)
        assert small.shape == (64, 64) and large.shape == (300_000, 64)
        torch.testing.assert_close(small.T @ small, torch.eye(64), rtol=0, atol=1e-4)
        torch.testing.assert_close(large.T @ large, torch.eye(64), rtol=0, atol=1e-4)
        assert float(found.values[0]) == pytest.approx(1, rel=1e-5)
        assert bool((found.values.diff() <= 0).all())
        matrix = normalized_matrix(interactions)[0]
        product = torch.from_numpy(matrix @ found.items.double().numpy())
        torch.testing.assert_close(
            product, (found.users * found.values).double(), rtol=1e-4, atol=1e-5
        )


def small_only(toarray: Any) -> Any:
    def checked(self: Any, *args: Any) -> Any:
        assert self.shape == (64, 64)
        return toarray(self, *args)

    return checked


def transposed(graph: Interactions) -> Interactions:
    return Interactions(graph.items, graph.users, graph.num_items, graph.num_users)


def test_a_rank_out_of_range_is_refused() -> None:
    for rank in (0, 18, 2.0, True):
        with pytest.raises(ValueError, match=rf"rank .*{rank}"):
            truncated_svd(graph(), rank)  # type: ignore[arg-type]
    found = truncated_svd(graph(), np.int64(3))  # type: ignore[arg-type]
    assert torch.equal(found.values, truncated_svd(graph(), 3).values)


def test_the_start_is_the_decomposition_at_the_scale_asked_for() -> None:
    users, items = spectral_embeddings(graph(), 6, std=0.02)
    assert float(torch.cat([users, items]).square().mean().sqrt()) == pytest.approx(0.02, rel=1e-5)
    found = truncated_svd(graph(), 6)
    wanted, scores = found.users * found.values @ found.items.T, users @ items.T
    torch.testing.assert_close(scores / scores.norm(), wanted / wanted.norm(), rtol=1e-4, atol=1e-5)


def test_a_width_beyond_the_nodes_is_filled_up_with_zeros() -> None:
    users, items = spectral_embeddings(graph(), 20)
    assert users.shape == (USERS, 20) and not users[:, 17:].any() and not items[:, 17:].any()


def test_a_graph_without_edges_is_refused() -> None:
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 3, 4)
    with pytest.raises(ValueError, match="without edges"):
        spectral_embeddings(empty, 2)


def test_settings_make_a_model_that_starts_so() -> None:
    config = preset("paper", init="spectral", init_std=0.01, embedding_dim=6)
    model = config.new_model(graph())
    assert torch.equal(
        model.embedding.detach(), torch.cat(spectral_embeddings(graph(), 6, std=0.01))
    )
