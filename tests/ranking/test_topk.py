"""Top-K lists against a full sort in Python, ties included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightgcn import Interactions, top_k
from lightgcn.ranking.topk import TopK, rank_rows, top_k_scores


def naive(
    users: Tensor, items: Tensor, k: int, seen: set[tuple[int, int]], chosen: list[int]
) -> TopK:
    ranked, scores = [], []
    for user in chosen:
        value = {
            item: float(users[user] @ items[item])
            for item in range(len(items))
            if (user, item) not in seen
        }
        best = sorted(value, key=lambda item: (-value[item], item))[:k]
        ranked.append(best + [-1] * (k - len(best)))
        scores.append([value[item] for item in best] + [-math.inf] * (k - len(best)))
    return TopK(
        torch.tensor(ranked).view(-1, k), torch.tensor(scores, dtype=users.dtype).view(-1, k)
    )


def whole_numbers(seed: int, rows: int, width: int, high: int = 3) -> Tensor:
    """Embeddings whose products are exact in any order of summation: what ties is known, and there
    are many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high + 1, high, (rows, width), generator=generator).float()


def edges(pairs: set[tuple[int, int]], num_users: int, num_items: int) -> Interactions:
    index = torch.tensor(sorted(pairs), dtype=torch.int64).view(-1, 2).T
    return Interactions.from_edge_index(index, num_users, num_items)


def assert_equal(found: TopK, expected: TopK) -> None:
    assert torch.equal(found.items, expected.items)
    assert torch.equal(found.scores, expected.scores)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_lists_equal_a_full_sort_with_ties_by_index(data: st.DataObject) -> None:
    num_users, num_items = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 20))
    width, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99))
    users, items = (
        whole_numbers(seed, num_users, width, 2),
        whole_numbers(seed + 1, num_items, width, 2),
    )
    k = data.draw(st.integers(1, num_items))
    pairs = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1))
    seen = data.draw(st.sets(pairs, max_size=num_users * num_items))
    chosen = data.draw(st.one_of(st.none(), st.lists(st.integers(0, num_users - 1), max_size=12)))
    found = top_k(
        users,
        items,
        k,
        seen=edges(seen, num_users, num_items) if seen else None,
        users=None if chosen is None else torch.tensor(chosen, dtype=torch.int64),
        chunk_size=data.draw(st.one_of(st.none(), st.integers(1, 5))),
    )
    assert_equal(
        found, naive(users, items, k, seen, list(range(num_users)) if chosen is None else chosen)
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 40, 1000, None])
def test_any_chunk_size_gives_equal_lists(chunk_size: int | None) -> None:
    users, items = whole_numbers(0, 40, 4), whole_numbers(1, 300, 4)
    seen = {(user, (7 * user + step) % 300) for user in range(40) for step in range(20)}
    found = top_k(users, items, 25, seen=edges(seen, 40, 300), chunk_size=chunk_size)
    assert_equal(found, naive(users, items, 25, seen, list(range(40))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_drawn_scores_of_any_dtype(dtype: torch.dtype) -> None:
    scores = torch.randn(20, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = scores.sort(dim=1, descending=True, stable=True)
    found = rank_rows(scores, 30)
    assert_equal(found, TopK(expected.indices[:, :30], expected.values[:, :30]))


def test_all_zero_scores_rank_by_index() -> None:
    found = top_k(torch.zeros(3, 2), torch.zeros(9, 2), 4)
    assert found.items.tolist() == [[0, 1, 2, 3]] * 3
    assert not found.scores.any()


def test_a_tie_across_the_cut_keeps_the_lowest_indices() -> None:
    scores = torch.tensor([[1.0, 5.0, 1.0, 1.0, 7.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0, 2.0]])
    found = rank_rows(scores, 3)
    assert found.items.tolist() == [[4, 1, 0], [2, 5, 0]]
    assert found.scores.tolist() == [[7.0, 5.0, 1.0], [3.0, 2.0, 0.0]]


def test_a_user_who_saw_everything_gets_padding() -> None:
    seen = {(1, item) for item in range(5)} | {(0, 3)}
    found = top_k(torch.ones(2, 1), torch.arange(5.0).unsqueeze(1), 5, seen=edges(seen, 2, 5))
    assert found.items.tolist() == [[4, 2, 1, 0, -1], [-1] * 5]
    assert found.scores.tolist() == [[4.0, 2.0, 1.0, 0.0, -math.inf], [-math.inf] * 5]


def test_users_in_any_order_and_repeated() -> None:
    users, items = whole_numbers(0, 6, 3), whole_numbers(1, 30, 3)
    seen = edges({(4, 2), (4, 3), (0, 1)}, 6, 30)
    everyone = top_k(users, items, 5, seen=seen)
    chosen = torch.tensor([4, 0, 4, 5])
    found = top_k(users, items, 5, seen=seen, users=chosen)
    assert torch.equal(found.items, everyone.items[chosen]) and torch.equal(
        found.scores, everyone.scores[chosen]
    )


def test_no_users_give_empty_lists() -> None:
    for found in (
        top_k(torch.ones(3, 2), torch.ones(4, 2), 2, users=torch.zeros(0, dtype=torch.int64)),
        top_k(torch.ones(0, 2), torch.ones(4, 2), 2),
    ):
        assert (
            found.items.shape == found.scores.shape == (0, 2) and found.items.dtype == torch.int64
        )


def test_no_rows_give_empty_lists() -> None:
    found = rank_rows(torch.ones(0, 5), 2)
    assert found.items.shape == found.scores.shape == (0, 2)


def test_embeddings_and_scores_are_left_alone() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0]])
    rank_rows(scores, 2)
    assert scores.tolist() == [[1.0, 2.0, 2.0]]


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_k_below_one_or_no_integer_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        top_k(torch.ones(2, 2), torch.ones(3, 2), k)


def test_k_above_the_number_of_items_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 4, but there are only 3 items"):
        top_k(torch.ones(2, 2), torch.ones(3, 2), 4)


def test_users_may_be_a_list() -> None:
    users, items = torch.randn(5, 3), torch.randn(4, 3)
    assert torch.equal(
        top_k(users, items, 2, users=[3, 1]).items, top_k(users, items, 2).items[[3, 1]]
    )


def test_scores_of_any_function_are_wide_and_users_are_checked() -> None:
    table = torch.randn(5, 4).half()
    seen = edges({(1, 2)}, 3, 4)
    for users in ([2, 1], (2, 1), torch.tensor([2, 1])):
        best = top_k_scores(table.__getitem__, users, 4, 2, seen=seen)
        assert best.scores.dtype == torch.float32
        assert best.scores[0].tolist() == sorted(table[2].tolist())[:1:-1]
    assert top_k_scores(table.__getitem__, [4], 4, 1).items.tolist() == [[int(table[4].argmax())]]
    for users, named in (([4], "users"), (["a"], "users"), ([[1]], "users")):
        with pytest.raises(ValueError, match=named):
            top_k_scores(table.__getitem__, users, 4, 2, seen=seen)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="seen is Interactions"):
        top_k(torch.ones(2, 2), torch.ones(3, 2), 1, seen=edges({(0, 0)}, 3, 2))
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 4\)"):
        top_k(torch.ones(2, 2), torch.ones(3, 4), 1)
    with pytest.raises(ValueError, match=r"user_embeddings.*\(2,\)"):
        top_k(torch.ones(2), torch.ones(3, 2), 1)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=r"users\[1\] is -?\d+, outside \[0, num_users=2\)"):
            top_k(torch.ones(2, 2), torch.ones(3, 2), 1, users=torch.tensor([0, wrong]))
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="chunk_size"):
            top_k(torch.ones(2, 2), torch.ones(3, 2), 1, chunk_size=wrong)


def test_nan_is_refused_wherever_it_is() -> None:
    for place in range(4):
        scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 2.0, 5.0]])
        scores[1, place] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            rank_rows(scores, 2)
    for users, items in (([[torch.inf]], [[0.0], [1.0]]), ([[1.0]], [[0.0], [-torch.inf]])):
        with pytest.raises(ValueError, match="the embeddings are not finite"):
            top_k(torch.tensor(users), torch.tensor(items), 1)


def test_edges_of_users() -> None:
    graph = edges({(0, 1), (2, 0), (2, 3), (3, 2)}, 4, 4)
    rows, items = graph.edges_of(torch.tensor([2, 1, 3, 2]))
    assert rows.tolist() == [0, 0, 2, 3, 3] and items.tolist() == [0, 3, 2, 0, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    users, items = whole_numbers(0, 40, 4), whole_numbers(1, 300, 4)
    seen = edges(
        {(user, (7 * user + step) % 300) for user in range(40) for step in range(20)}, 40, 300
    )
    found = top_k(users.cuda(), items.cuda(), 25, seen=seen.to("cuda"), chunk_size=16)
    expected = top_k(users, items, 25, seen=seen)
    assert torch.equal(found.items.cpu(), expected.items) and torch.equal(
        found.scores.cpu(), expected.scores
    )
    again = top_k(users.cuda(), items.cuda(), 25, seen=seen, chunk_size=16)
    assert torch.equal(again.items, found.items)


@pytest.mark.parametrize("num_items", [640, 1000, 4099])
@pytest.mark.parametrize("chunk_size", [1, 9, None])
@pytest.mark.parametrize("high", [2, 1000])
def test_selection_by_groups_equals_a_full_sort(
    num_items: int, chunk_size: int | None, high: int
) -> None:
    # Whole numbers below 2 tie all the time, below 1000 hardly ever.
    users, items = whole_numbers(0, 20, 4, high), whole_numbers(1, num_items, 4, high)
    seen = {(user, (7 * user + step) % num_items) for user in range(19) for step in range(60)}
    seen |= {(19, item) for item in range(3, num_items)}
    found = top_k(users, items, 7, seen=edges(seen, 20, num_items), chunk_size=chunk_size)
    assert_equal(found, naive(users, items, 7, seen, list(range(20))))


def test_nan_in_one_of_many_items_is_found() -> None:
    items = torch.randn(5000, 4)
    items[4321, 2] = math.nan
    with pytest.raises(ValueError, match="the embeddings are not finite"):
        top_k(torch.randn(3, 4), items, 10)


def test_embeddings_may_require_a_gradient() -> None:
    users, items = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    found = top_k(users, items, 2)
    assert not found.scores.requires_grad
    assert torch.equal(found.items, top_k(users.detach(), items.detach(), 2).items)
