"""Lists of some items alone, against a full sort of these."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, top_k
from lightgcn.ranking import topk as retrieval
from lightgcn.ranking.candidates import candidate_mask
from lightgcn.ranking.topk import TopK

USERS, ITEMS = 6, 24


def whole_numbers(seed: int, rows: int) -> Tensor:
    """Embeddings with exact products and many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, 3), generator=generator).float()


def naive(scores: Tensor, k: int, allowed: Tensor) -> TopK:
    """Sort the allowed items of each row; -inf excludes one."""
    masked = scores.masked_fill(~allowed, -torch.inf)
    best, items = masked.sort(dim=1, descending=True, stable=True)
    return TopK(items[:, :k].masked_fill(best[:, :k] == -torch.inf, -1), best[:, :k])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_lists_equal_a_sort_of_the_candidates(data: st.DataObject) -> None:
    users, items = whole_numbers(data.draw(st.integers(0, 50)), USERS), whole_numbers(7, ITEMS)
    places = st.lists(st.integers(0, ITEMS - 1), max_size=2 * ITEMS)
    only, exclude = data.draw(st.none() | places), data.draw(st.none() | places)
    k = data.draw(st.integers(1, ITEMS))
    edges = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(k)) < 0.3
    allowed = torch.full((ITEMS,), only is None)
    allowed[only or []] = True
    allowed[exclude or []] = False
    scores = (users @ items.T).masked_fill(edges, -torch.inf)
    expected = naive(scores, k, allowed)
    seen = Interactions(*edges.nonzero().T, USERS, ITEMS)
    size = data.draw(st.sampled_from([None, 1, 4]))
    as_masks = {
        name: None
        if given is None
        else torch.zeros(ITEMS).index_fill(0, torch.tensor(given).long(), 1) > 0
        for name, given in (("only", only), ("exclude", exclude))
    }
    for options in ({"only": only, "exclude": exclude}, as_masks, {"only": allowed}):
        found = top_k(users, items, k, seen=seen, chunk_size=size, **options)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("count", [30, 4000, 4997])
def test_drawn_scores_in_any_precision(
    coarse: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "fast_bfloat16", lambda: coarse)
    generator = torch.Generator().manual_seed(count)
    users, items = (torch.randn(n, 16, generator=generator) for n in (200, 5000))
    only = torch.randperm(5000, generator=generator)[:count]
    found = top_k(users, items, 40, only=only)
    scores = users.double() @ items.double().T
    allowed = torch.zeros(5000, dtype=torch.bool).index_fill(0, only, True)
    expected = naive(scores, 40, allowed)
    # 30 candidates fill 30 places.
    torch.testing.assert_close(found.scores.double(), expected.scores, rtol=1e-5, atol=1e-5)
    assert float((found.items == expected.items).double().mean()) > 0.99


def test_every_part_of_a_score_counts_among_few_and_many_candidates() -> None:
    generator = torch.Generator().manual_seed(2)
    edges = (torch.rand(40, 60, generator=generator) < 0.2).nonzero().T
    graph = Interactions(*edges, 40, 60)
    ranker = Ranker.from_model(
        LightGCN(40, 60, 8, seed=1),
        graph,
        config=RankingConfig(0.2, item_knn=5, user_knn=5, spectral=4),
    )
    everybody = torch.arange(40)
    scores = ranker.score_users(everybody).double()
    scores[graph.users, graph.items] = -torch.inf
    for kept in (4, 29, 50):
        only = torch.randperm(60, generator=generator)[:kept]
        allowed = torch.zeros(60, dtype=torch.bool).index_fill(0, only, True)
        for options in ({"only": only}, {"exclude": ~allowed}):
            found, expected = ranker.top_k(7, **options), naive(scores, 7, allowed)
            assert torch.equal(found.items, expected.items)
            torch.testing.assert_close(found.scores.double(), expected.scores, rtol=1e-5, atol=1e-5)
    among_all = ranker.top_k(7, exclude_seen=False, only=[3])
    assert among_all.items[:, 0].tolist() == [3] * 40


def test_nothing_to_choose_from() -> None:
    users, items = whole_numbers(0, 2), whole_numbers(1, 5)
    for options in ({"only": []}, {"exclude": range(5)}, {"only": [1], "exclude": [1]}):
        found = top_k(users, items, 2, **options)
        assert found.items.tolist() == [[-1, -1]] * 2
        assert bool((found.scores == -torch.inf).all())


@pytest.mark.parametrize("name", ["only", "exclude"])
def test_what_is_no_choice_of_items(name: str) -> None:
    for wrong, said in (
        (torch.ones(4, dtype=torch.bool), r"shape \(5,\), got \(4,\)"),
        ([5], r"\[0\] is 5"),
        ([-1], r"\[0\] is -1"),
        ([0.5], "integers"),
        (["a"], "numbers"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*{said}"):
            candidate_mask(5, **{"only": None, "exclude": None} | {name: wrong})
