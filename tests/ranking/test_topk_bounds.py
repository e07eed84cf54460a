"""Lists by way of coarse products: nothing that belongs in them may be left out, whatever the
scales are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightgcn import Interactions, top_k
from lightgcn.ranking import ItemKNN
from lightgcn.ranking import topk as retrieval
from lightgcn.ranking.coarse_scores import CoarseScores
from lightgcn.ranking.topk import TopK

K = 10


@pytest.fixture(params=[True, False], ids=["bfloat16", "own dtype"])
def coarse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Products in bfloat16, or in the embeddings' dtype, whatever this CPU is fast in, for any
    number of rows."""
    monkeypatch.setattr(retrieval, "fast_bfloat16", lambda: request.param)
    monkeypatch.setattr(retrieval, "_FEW_USERS", 1)
    return bool(request.param)


def embeddings(
    seed: int, num_users: int = 40, num_items: int = 900, width: int = 16
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_users, width, generator=generator), torch.randn(
        num_items, width, generator=generator
    )


def reference(
    users: Tensor,
    items: Tensor,
    k: int,
    seen: Interactions | None = None,
    residual: ItemKNN | None = None,
) -> tuple[Tensor, Tensor]:
    """Return all scores in float64, and the k highest of each user."""
    scores = users.double() @ items.double().T
    if residual is not None:
        rows, near, values = residual.of_users(torch.arange(len(users)))
        scores[rows, near] += values.double()
    if seen is not None:
        scores[seen.users, seen.items] = -torch.inf
    return scores, scores.topk(k, dim=1).values


def assert_best(found: TopK, scores: Tensor, best: Tensor, tolerance: float = 1e-5) -> None:
    chosen = scores.gather(1, found.items)
    scale = scores.where(scores > -torch.inf, 0).abs().amax(1, keepdim=True)
    assert bool(((best - chosen).abs() <= tolerance * scale).all())
    assert bool(((found.scores.double() - chosen).abs() <= tolerance * scale).all())
    assert all(len(set(row)) == len(row) for row in found.items.tolist())


@pytest.mark.parametrize("user_scale", [1e-12, 1.0, 1e8])
@pytest.mark.parametrize("item_scale", [1e-25, 1.0, 1e25])
def test_scales_do_not_matter(coarse: bool, user_scale: float, item_scale: float) -> None:
    users, items = embeddings(0)
    users, items = users * user_scale, items * item_scale
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K), scores, best)


def test_norms_of_all_sizes(coarse: bool) -> None:
    users, items = embeddings(1)
    users = users * torch.logspace(-9, 6, len(users)).unsqueeze(1)
    items = items * torch.logspace(-3, 2, len(items)).unsqueeze(1)
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K), scores, best)


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4, 1e-6])
def test_items_that_bfloat16_cannot_tell_apart(coarse: bool, spread: float) -> None:
    # All items are nearly one: what ranks them is far below the roundoff of a coarse score.
    users, items = embeddings(2)
    items = items[:1] + spread * items
    users = users + 3 * items[:1]
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K), scores, best, 1e-6)


@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0])
def test_scores_of_one_sign(coarse: bool, shift: float) -> None:
    users, items = embeddings(3)
    users, items = (
        torch.cat([users, torch.ones(40, 1)], 1),
        torch.cat([items, torch.full((900, 1), shift)], 1),
    )
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K), scores, best)


def nearly_orthogonal(seed: int) -> tuple[Tensor, Tensor]:
    """A user, and items at right angles to it but for some thousandths, fewer than the products are
    off by."""
    users, items = embeddings(seed, num_users=1)
    user = users / users.norm()
    around = items - (items @ user.T) * user
    return user, around + 1e-3 * items


def test_scores_that_are_small_beside_the_norms(coarse: bool) -> None:
    user, items = nearly_orthogonal(10)
    scores, best = reference(user, items, K)
    assert_best(top_k(user, items, K), scores, best, 1e-3)
    # Only the items are rounded here: a user of powers of 2 is not.
    user = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    items = torch.randn(900, 4, generator=torch.Generator().manual_seed(11))
    items[:, 1] = 1e-3 * items[:, 1] - items[:, 0]
    scores, best = reference(user, items, K)
    assert_best(top_k(user, items, K), scores, best, 1e-3)


def test_gains_that_make_up_for_the_product(coarse: bool) -> None:
    # Each other item has one user in common with item 0, the user's own, so that all gain the same.
    index = torch.stack(
        [
            torch.arange(900).repeat_interleave(2),
            torch.tensor([[0, j] for j in range(900)]).flatten(),
        ]
    )
    graph = Interactions.from_edge_index(index, 900, 900)
    users, items = nearly_orthogonal(12)
    users, items = users.repeat(900, 1), items / items.norm(dim=1, keepdim=True) / 8 - users
    residual = ItemKNN.from_graph(graph, 899, 1.0)
    scores, best = reference(users, items, K, graph, residual)
    assert_best(top_k(users, items, K, seen=graph, residual=residual), scores, best, 1e-3)


@pytest.mark.parametrize("weight", [1e-4, 0.2, 1e3])
def test_gains_of_neighbours_and_seen_items(coarse: bool, weight: float) -> None:
    users, items = embeddings(4)
    pairs = torch.randint(0, 900, (40, 30), generator=torch.Generator().manual_seed(5))
    index = torch.stack([torch.arange(40).repeat_interleave(30), pairs.flatten()])
    seen = Interactions.from_edge_index(index, 40, 900)
    residual = ItemKNN.from_graph(seen, 5, weight)
    users[3] = 0  # ranked by the gains alone
    scores, best = reference(users, items, K, seen, residual)
    for chunk_size in (None, 7):
        found = top_k(users, items, K, seen=seen, residual=residual, chunk_size=chunk_size)
        assert_best(found, scores, best)


@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_the_scores_of_a_pair_do_not_depend_on_the_way(
    monkeypatch: pytest.MonkeyPatch, chunk_size: int | None
) -> None:
    users, items = embeddings(6)
    found = []
    for fast in (True, False):
        monkeypatch.setattr(retrieval, "fast_bfloat16", lambda fast=fast: fast)
        monkeypatch.setattr(retrieval, "_FEW_USERS", 1)
        found.append(top_k(users, items, K, chunk_size=chunk_size))
    alone = top_k(users, items, K, users=[11])
    assert torch.equal(found[0].items, found[1].items) and torch.equal(
        found[0].scores, found[1].scores
    )
    assert torch.equal(alone.items[0], found[0].items[11]) and torch.equal(
        alone.scores[0], found[0].scores[11]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(coarse: bool, dtype: torch.dtype) -> None:
    users, items = (part.to(dtype) for part in embeddings(7))
    scores, best = reference(users, items, K)
    found = top_k(users, items, K)
    assert found.scores.dtype == torch.promote_types(dtype, torch.float32)
    assert_best(found, scores, best, 2 * torch.finfo(dtype).eps)


def test_many_ties_are_ranked_by_index(coarse: bool) -> None:
    # Users whose best items, all equal, are those of either half.
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(torch.tensor([4, 5]), dim=0)
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(450, 1)
    found = top_k(users, items, K)
    first = (torch.arange(9) >= 4).long().unsqueeze(1)
    assert torch.equal(found.items, first + torch.arange(0, 2 * K, 2))
    assert bool((found.scores == 1).all())


def test_users_without_anything_beside_others(coarse: bool) -> None:
    # Their items are all alike: far more candidates than the other rows have.
    users, items = embeddings(13)
    users[::7] = 0
    scores, best = reference(users, items, K)
    found = top_k(users, items, K)
    assert_best(found, scores, best)
    assert torch.equal(found.items[::7], torch.arange(K).expand(6, K))


def test_users_below_the_normal_numbers(coarse: bool) -> None:
    # Found by an attack on the bound: in float32 the norm of such a user has one digit.
    ulp, gain = 2.0**-8, 0.625
    first = [gain + 2.5 * ulp, -(gain + 1.5 * ulp)]
    second = [gain + 1.5 * ulp, -(gain + 0.5 * ulp)]
    items = torch.tensor([first, second, [-1.0, 0.0], *[[-0.5, -0.5]] * 300]) * 2.0**100
    users = torch.ones(1, 2) * 2.0**-149
    assert top_k(users, items, 1).items.tolist() == [[0]]


@pytest.mark.parametrize(("scale", "weight"), [(1e-18, 0.2), (1e-12, 1e6), (1e-18, 0.0)])
def test_gains_beside_tiny_embeddings(coarse: bool, scale: float, weight: float) -> None:
    users, items = (part * scale for part in embeddings(15))
    index = torch.tensor([[0, 0, 1, 1, 2], [1, 2, 1, 2, 3]])
    residual = ItemKNN.from_graph(Interactions.from_edge_index(index, 40, 900), 2, weight)
    scores, best = reference(users, items, K, residual=residual)
    assert_best(top_k(users, items, K, residual=residual), scores, best, 1e-4)


def test_an_item_much_longer_than_the_others(coarse: bool) -> None:
    users, items = embeddings(14, num_items=5000)
    items[17] *= 1000
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K, chunk_size=10), scores, best)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_error_is_within_its_bound(dtype: torch.dtype, scale: float) -> None:
    users, items = embeddings(8, width=64)
    items = items * scale * torch.logspace(-2, 0, len(items)).unsqueeze(1)
    out = torch.empty(len(users), len(items), dtype=dtype)
    largest = float(items.norm(dim=1).max())
    error = CoarseScores(items, dtype, largest).write(users, out)
    exact = users.double() @ items.double().T
    off = (out.double() - exact).abs() - out.double().abs() * torch.finfo(dtype).eps / 2
    assert bool((off <= error).all())
    assert float(error.max()) < 0.02 * float(exact.abs().max())  # and is worth something


def test_products_that_a_setting_makes_coarser_are_ranked_exactly() -> None:
    users, items = embeddings(16)
    before, best = torch.get_float32_matmul_precision(), top_k(users, items, K)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(top_k(users, items, K).items, best.items)
    finally:
        torch.set_float32_matmul_precision(before)


def test_float64_embeddings_multiplied_in_bfloat16(coarse: bool) -> None:
    # Products are added up in float32, where 60 and 2^30 leave little.
    items = torch.tensor([[2.0**30, 60, 60, -(2.0**30)]] + [[2.0**30, 100, 0, -(2.0**30)]] * 399)
    assert (top_k(torch.ones(128, 4).double(), items.double(), 1).items == 0).all()
    users, items = (part.double() * 1e-25 for part in embeddings(17))
    scores, best = reference(users, items, K)
    assert_best(top_k(users, items, K), scores, best, 1e-9)


@pytest.mark.parametrize("exponent", [-133, -128, -127, -126])
def test_users_whose_bfloat16_may_be_taken_for_zero(coarse: bool, exponent: int) -> None:
    users = torch.full((128, 2), 2.0**exponent)
    items = torch.randn(400, 2, generator=torch.Generator().manual_seed(3)) * 2.0**96
    scores, best = reference(users, items, 3)
    assert_best(top_k(users, items, 3), scores, best)


def test_scores_that_may_overflow_are_refused(coarse: bool) -> None:
    for users, items in (
        (torch.tensor([[1e20]]), torch.tensor([[-1e20], [-2e20], [-3e20]])),
        (torch.full((128, 1), 1e10), torch.full((200, 1), -3.4e28)),
        (torch.full((5, 1), 1e10), torch.full((200, 1), -3.4e28)),
    ):
        with pytest.raises(ValueError, match="not finite"):
            top_k(users, items, 2)


def test_float64_users_beyond_float32(coarse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(1, 8, generator=generator, dtype=torch.float64) * 1e40
    items = torch.randn(500, 8, generator=generator) * 1e-20
    try:
        found = top_k(users, items, 5)
    except ValueError as error:
        assert "not finite" in str(error)
    else:
        assert torch.equal(found.items, (users @ items.double().T).topk(5).indices)


def test_half_precision_scores_do_not_overflow() -> None:
    users, items = torch.tensor([[300.0]]).half(), torch.tensor([[-300.0], [-301.0]]).half()
    assert top_k(users, items, 2).scores.tolist() == [[-90000.0, -90300.0]]
