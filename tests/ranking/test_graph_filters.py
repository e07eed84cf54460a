"""Graph filters against dense float64 references, and the singular vectors that they use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightgcn import Interactions
from lightgcn.datasets import synthetic_interactions
from lightgcn.nn import spectral
from lightgcn.nn.spectral import normalized_matrix, right_singular_vectors
from lightgcn.ranking import ItemScorer, cheby_cf, gf_cf


def graph(flip: bool = False, weighted: bool = False) -> Interactions:
    """A random graph, whose last user and last item have no edge, of more users than items."""
    edges = synthetic_interactions(160, 90, 1100, seed=3)
    users, items = edges.users, edges.items
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(len(users), generator=generator) + 0.5 if weighted else None
    if flip:
        return Interactions(items, users, 91, 161, weights)
    return Interactions(users, items, 161, 91, weights)


def everyone(scorer: ItemScorer) -> Any:
    return scorer.scores(torch.arange(scorer.history.num_users)).numpy()


def normalized(x: Any) -> tuple[Any, Any]:
    users, items = x.sum(1), x.sum(0)
    by_user, by_item = (
        np.diag([total**-0.5 if total else 0.0 for total in totals]) for totals in (users, items)
    )
    return by_user @ x @ by_item, items


def eigen(matrix: Any) -> tuple[Any, Any]:
    """All eigenvalues of the item-item graph, decreasing, and the eigenvectors as columns."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return values[::-1], vectors[:, ::-1]


def diagonal(degrees: Any, exponent: float) -> Any:
    return np.diag([degree**exponent if degree else 0.0 for degree in degrees])


def naive_gf_cf(x: Any, rank: int, weight: float) -> Any:
    matrix, degrees = normalized(x)
    values, vectors = eigen(matrix)
    v = vectors[:, : min(rank, int((values > 1e-10).sum()))]
    ideal = diagonal(degrees, -0.5) @ v @ v.T @ diagonal(degrees, 0.5)
    return x @ matrix.T @ matrix + weight * x @ ideal


def naive_cheby_cf(x: Any, rank: int, weight: float, flatness: float, beta: float) -> Any:
    """The plateau itself, by all eigenvectors."""
    matrix, degrees = normalized(x)
    values, vectors = eigen(matrix)
    plateau = 0.5 - 0.5 * np.sign(1 - 2 * values) * np.abs(1 - 2 * values) ** flatness
    v = vectors[:, : min(rank, int((values > 1e-10).sum()))]
    whole = vectors @ np.diag(plateau) @ vectors.T + weight * v @ v.T
    return x @ diagonal(degrees, -beta) @ whole @ diagonal(degrees, beta)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_filters_equal_the_dense_formulas(
    few: bool, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all singular vectors and by block Krylov iteration; with weights and without."""
    monkeypatch.setattr(spectral, "_FEW_NODES", 1000 if few else 0)
    for weighted in (False, True):
        given = graph(flip, weighted)
        x = given.to_scipy().toarray().astype(np.float64)
        for weight in (0.0, 0.3):
            expected = naive_gf_cf(x, 9, weight)
            assert everyone(gf_cf(given, 9, weight)) == pytest.approx(expected, abs=2e-3)
        # With all vectors the plateau is exact.
        scores = everyone(cheby_cf(given, 200, 0.2, flatness=2.5, degree_exponent=0.3))
        expected = naive_cheby_cf(x, 200, 0.2, 2.5, 0.3)
        assert scores == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_rest_of_the_plateau_is_close_to_a_parabola() -> None:
    given = graph()
    x = given.to_scipy().toarray().astype(np.float64)
    values, _ = eigen(normalized(x)[0])
    assert values[40] < 0.25
    expected = naive_cheby_cf(x, 40, 0.2, 1.5, 0.4)
    off = np.abs(everyone(cheby_cf(given, 40)) - expected).max()
    assert off < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("flip", [False, True])
def test_singular_vectors_of_a_large_matrix_are_those_of_numpy(
    flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_FEW_NODES", 0)
    matrix, _ = normalized_matrix(synthetic_interactions(900, 500, 9000, seed=1))
    matrix = (matrix.T if flip else matrix).tocsr()
    values, vectors = right_singular_vectors(matrix, 20)
    again, same = right_singular_vectors(matrix, 20)
    assert torch.equal(values, again) and torch.equal(vectors, same)
    _, expected, right = np.linalg.svd(matrix.toarray())
    assert values.numpy() == pytest.approx(expected[:20], abs=1e-3)
    assert (vectors.T @ vectors).numpy() == pytest.approx(np.eye(20), abs=1e-5)
    captured = np.square(right[:20] @ vectors.numpy()).sum(0)
    assert captured[:15].min() > 0.99


@pytest.mark.parametrize("few", [False, True])
def test_vectors_of_singular_value_zero_are_left_out(
    few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could be any, and would change the scores of new users."""
    monkeypatch.setattr(spectral, "_FEW_NODES", 1000 if few else 0)
    blocks = np.kron(np.eye(5), np.ones((40, 30)))
    users, items = (torch.from_numpy(part) for part in blocks.nonzero())
    given = Interactions(users, items, 200, 150)
    values, vectors = right_singular_vectors(normalized_matrix(given)[0], 8)
    assert values.tolist() == pytest.approx([1.0] * 5) and vectors.shape == (150, 5)
    for scores in (everyone(gf_cf(given)), everyone(cheby_cf(given))):
        assert ((scores > 1e-4) == (blocks > 0)).all()
