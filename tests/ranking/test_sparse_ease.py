"""Sparse EASE against the regressions that it stands for, and against EASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightgcn import Interactions
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking import baselines, ease, sparse_ease


def weights_of(scorer: baselines.ItemScorer) -> np.ndarray:
    """The (num_items, num_items) matrix that a user's row is multiplied by."""
    items = torch.arange(scorer.history.num_items)
    alone = Interactions(items, items, len(items), len(items))
    return scorer.for_users(alone).scores(items).numpy()


@pytest.mark.parametrize("weighted", [False, True])
def test_each_column_is_a_regression_on_the_neighbours(weighted: bool) -> None:
    edges = synthetic_interactions(70, 40, 400, seed=2)
    values = torch.rand(len(edges.users), generator=torch.Generator().manual_seed(1)) + 0.5
    given = Interactions(edges.users, edges.items, 70, 40, values if weighted else None)
    x = given.to_scipy().toarray().astype(np.float64)
    found = weights_of(sparse_ease(given, l2=3.0, neighbours=6))
    gram = x.T @ x
    for j in range(40):
        alone = gram[:, j] / (gram.diagonal() + 3.0)
        alone[j] = 0
        near = [i for i in np.lexsort((np.arange(40), -alone))[:6] if alone[i] > 0]
        solved = np.zeros(40)
        if near:
            system = gram[np.ix_(near, near)] + 3.0 * np.eye(len(near))
            solved[near] = np.linalg.solve(system, gram[near, j])
        assert found[:, j] == pytest.approx(solved, abs=1e-5)


def test_with_all_items_as_neighbours_it_is_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_BLOCK", 7 * 30)  # several blocks of items
    generator = torch.Generator().manual_seed(0)
    edges = (torch.rand(200, 30, generator=generator) < 0.4).nonzero().T
    given = Interactions.from_edge_index(edges, 200, 30)
    assert weights_of(sparse_ease(given, 5.0, 30)) == pytest.approx(
        weights_of(ease(given, 5.0)), abs=1e-4
    )


def test_wrong_settings_are_refused() -> None:
    given = synthetic_interactions(20, 10, 60)
    with pytest.raises(ValueError, match=r"neighbours.*0"):
        sparse_ease(given, neighbours=0)
    with pytest.raises(ValueError, match=r"l2.*-1"):
        sparse_ease(given, l2=-1.0)
