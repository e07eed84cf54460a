"""Losses against naive float64 references, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightgcn import bce_loss, bpr_loss, in_batch_softmax_loss, l2_penalty, softmax_loss
from lightgcn.nn import in_batch_softmax


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def naive_in_batch(
    users: Tensor, items: Tensor, temperature: float, weight: float, block_size: int
) -> Tensor:
    users, items = F.normalize(users, dim=1), F.normalize(items, dim=1)
    total = users.new_zeros(())
    for start in range(0, len(users), block_size):
        scores = (
            users[start : start + block_size] @ items[start : start + block_size].T / temperature
        )
        total = total + (weight * scores.logsumexp(1) - scores.diagonal()).sum()
    return total / len(users)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [2048, 8192, 16_384, 32_768])
def test_every_loss_in_half_precision_equals_float64(dtype: torch.dtype, size: int) -> None:
    users = 0.1 * draw(size, 64, dtype=dtype)
    items = (users + 0.1 * draw(size, 64, seed=1)).to(dtype)
    scores, negatives = draw(size, seed=2, dtype=dtype), draw(size, 4, seed=3, dtype=dtype)
    labels = draw(size, seed=4) > 0
    every: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda logits: bce_loss(logits, labels), (scores,)),
        (bpr_loss, (scores, negatives)),
        (softmax_loss, (scores, negatives)),
        (lambda *parts: l2_penalty(*parts, batch_size=size), (users, 100 * items)),
        (in_batch_softmax_loss, (users, items)),
    ]
    for loss, rows in every:
        half, double = (
            [one.to(to).detach().requires_grad_() for one in rows] for to in (dtype, torch.float64)
        )
        found, wanted = loss(*half), loss(*double)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)
        # A gradient is as small as 1 / size: scaled up, as float16 asks for.
        grads = torch.autograd.grad(found * size, half), torch.autograd.grad(wanted * size, double)
        for one, other in zip(*grads, strict=True):
            assert one.dtype == dtype
            assert relative_error(one, other) < (1e-3 if dtype == torch.float16 else 4e-3)


def test_bce_equals_the_formula() -> None:
    logits, labels = draw(50), (draw(50, seed=1) > 0).double()
    expected = 0.0
    for score, label in zip(logits.tolist(), labels.tolist(), strict=True):
        probability = 1 / (1 + math.exp(-score))
        expected -= math.log(probability if label else 1 - probability)
    assert float(bce_loss(logits, labels)) == pytest.approx(expected / 50, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bce_of_extreme_logits_is_finite_and_keeps_its_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    loss = bce_loss(logits, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(5e3)
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0.25, -0.25, 0.0, 0.0])


def test_bce_takes_labels_of_any_dtype() -> None:
    logits, labels = draw(9), draw(9, seed=1) > 0
    for dtype in (torch.bool, torch.int64):
        assert bce_loss(logits, labels.to(dtype)) == bce_loss(logits, labels.double())


def test_bce_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(3, 1\)"):
        bce_loss(torch.zeros(3), torch.zeros(3, 1))


@pytest.mark.parametrize("count", [None, 1, 4])
def test_bpr_equals_the_formula(count: int | None) -> None:
    positive = draw(7)
    negative = draw(7, seed=1) if count is None else draw(7, count, seed=1)
    terms = [
        -math.log(1 / (1 + math.exp(n - p)))
        for p, row in zip(positive.tolist(), negative.view(7, -1).tolist(), strict=True)
        for n in row
    ]
    assert float(bpr_loss(positive, negative)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_bpr_gradient() -> None:
    positive, negative = draw(5).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(bpr_loss, (positive, negative))


def test_bpr_of_extreme_scores_is_finite_and_keeps_its_gradient() -> None:
    positive = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bpr_loss(positive, torch.zeros(2))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(5e3)
    assert positive.grad is not None and positive.grad.tolist() == pytest.approx([-0.5, 0.0])


def test_bpr_refuses_other_shapes_and_names_those_given() -> None:
    wrong = [((3,), (4,)), ((3,), (4, 2)), ((3, 1), (3,)), ((3, 2), (3, 2)), ((), ())]
    for positive, negative in wrong:
        with pytest.raises(ValueError) as caught:
            bpr_loss(torch.zeros(positive), torch.zeros(negative))
        assert f"{positive} and {negative}" in str(caught.value)


def test_softmax_equals_cross_entropy() -> None:
    positive, negative = draw(6), draw(6, 4, seed=1)
    for temperature in (1.0, 0.1, 1e-3):
        logits = torch.cat([positive.unsqueeze(1), negative], 1) / temperature
        expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
        found = softmax_loss(positive, negative, temperature)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_softmax_gradient() -> None:
    inputs = (draw(5).requires_grad_(), draw(5, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda p, n: softmax_loss(p, n, 0.5), inputs)


def test_softmax_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(3,\)"):
        softmax_loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2, 4\)"):
        softmax_loss(torch.zeros(3), torch.zeros(2, 4))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            softmax_loss(torch.zeros(3), torch.zeros(3, 2), temperature)


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 24),
    temperature=st.sampled_from([1.0, 0.12, 0.02, 1e-3, 1e-4]),
    weight=st.sampled_from([1.0, 0.84]),
    block_size=st.sampled_from([1, 5, 8, 24, 100]),
)
def test_in_batch_softmax_equals_autograd(
    size: int, temperature: float, weight: float, block_size: int
) -> None:
    users, items = draw(size, 6).requires_grad_(), draw(size, 6, seed=1).requires_grad_()
    expected = naive_in_batch(users, items, temperature, weight, block_size)
    expected_grads = torch.autograd.grad(3 * expected, (users, items))
    loss = in_batch_softmax_loss(
        users, items, temperature=temperature, negative_weight=weight, block_size=block_size
    )
    grads = torch.autograd.grad(3 * loss, (users, items))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(
            in_batch_softmax_loss(
                users, items, temperature=temperature, negative_weight=weight, block_size=block_size
            ),
            loss,
        )


def test_torch_func() -> None:
    func = torch.func
    users, items, along = draw(10, 4), draw(10, 4, seed=1), draw(10, 4, seed=2)
    batch = draw(3, 10, 4, seed=3)

    def ours(users: Tensor, items: Tensor) -> Tensor:
        return in_batch_softmax_loss(
            users, items, temperature=0.3, negative_weight=0.8, block_size=4
        )

    def naive(users: Tensor, items: Tensor) -> Tensor:
        return naive_in_batch(users, items, 0.3, 0.8, 4)

    for transform in (
        lambda loss: func.grad(loss, (0, 1))(users, items),
        lambda loss: func.jvp(loss, (users, items), (along, -along)),
        lambda loss: func.hessian(loss)(users, items),
        lambda loss: torch.vmap(loss, (0, None))(batch, items),
        lambda loss: torch.vmap(func.grad(loss), (None, 0))(users, batch),
    ):
        torch.testing.assert_close(transform(ours), transform(naive))


def test_in_batch_softmax_does_not_depend_on_how_many_rows_are_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, items = draw(23, 4).requires_grad_(), draw(23, 4, seed=1).requires_grad_()
    results: list[tuple[Tensor, ...]] = []
    for rows in (1 << 22, 50, 1):
        monkeypatch.setattr(in_batch_softmax, "_CHUNK_LOGITS", rows)
        loss = in_batch_softmax_loss(users, items, block_size=10)
        results.append((loss, *torch.autograd.grad(loss, (users, items))))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.12, 0.5])
@pytest.mark.parametrize("block_size", [512, 2048])
def test_in_batch_softmax_in_bfloat16_is_near_float64(temperature: float, block_size: int) -> None:
    tastes = draw(60, 32)[torch.arange(2048) % 60]
    users, items = (tastes + 0.7 * draw(2048, 32, seed=seed) for seed in (1, 2))
    options = {"temperature": temperature, "negative_weight": 0.84, "block_size": block_size}
    found, wanted = [], []
    for result, dtype, logits_dtype in (
        (found, torch.float32, torch.bfloat16),
        (wanted, torch.float64, None),
    ):
        pair = [side.to(dtype).requires_grad_() for side in (users, items)]
        loss = in_batch_softmax_loss(*pair, **options, logits_dtype=logits_dtype)
        result += [
            loss.detach().double(),
            *(part.double() for part in torch.autograd.grad(loss, pair)),
        ]
    assert found[0] == pytest.approx(float(wanted[0]), rel=1e-3)
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert float((one - other).norm() / other.norm()) < 3e-3


def test_in_batch_softmax_in_bfloat16_at_a_low_temperature_takes_the_maximum() -> None:
    users = torch.eye(4, requires_grad=True)
    loss = in_batch_softmax_loss(users, torch.eye(4), temperature=0.02, logits_dtype=torch.bfloat16)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=0.2)
    assert users.grad is not None and bool(users.grad.isfinite().all())


def test_in_batch_softmax_gradcheck() -> None:
    inputs = (draw(7, 3).requires_grad_(), draw(7, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda u, i: in_batch_softmax_loss(
            u, i, temperature=0.3, negative_weight=0.84, block_size=3
        ),
        inputs,
    )
    assert torch.autograd.gradgradcheck(
        lambda u, i: in_batch_softmax_loss(u, i, temperature=0.3, block_size=3), inputs
    )


def test_in_batch_softmax_of_one_side_alone() -> None:
    users, items = draw(7, 3).requires_grad_(), draw(7, 3, seed=1)
    (grad,) = torch.autograd.grad(in_batch_softmax_loss(users, items, block_size=4), users)
    (expected,) = torch.autograd.grad(naive_in_batch(users, items, 0.12, 1.0, 4), users)
    torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-10)


def test_in_batch_softmax_is_of_cosines() -> None:
    users, items = draw(8, 3), draw(8, 3, seed=1)
    longer = in_batch_softmax_loss(users * torch.arange(1, 9).unsqueeze(1), items * 5)
    torch.testing.assert_close(longer, in_batch_softmax_loss(users, items))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_in_batch_softmax_of_opposite_pairs(dtype: torch.dtype) -> None:
    """Every cosine is -1: e^(-2/τ) is all that is left of a row whose shift is the bound."""
    users = torch.eye(1, 4, dtype=dtype).repeat(6, 1).requires_grad_()
    items = -torch.eye(1, 4, dtype=dtype).repeat(6, 1)
    for temperature in (0.12, 0.05, 0.024, 0.02, 0.005):
        loss = in_batch_softmax_loss(users, items, temperature=temperature)
        assert float(loss.detach()) == pytest.approx(math.log(6), rel=1e-4)
        (grad,) = torch.autograd.grad(loss, users)
        assert bool(grad.isfinite().all())


def test_in_batch_softmax_within_autocast_is_the_same() -> None:
    users, items = (
        draw(9, 4, dtype=torch.float32).requires_grad_(),
        draw(9, 4, seed=1, dtype=torch.float32),
    )
    expected = in_batch_softmax_loss(users, items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = in_batch_softmax_loss(users, items)
    assert torch.equal(loss, expected)
    assert torch.equal(*(torch.autograd.grad(one, users)[0] for one in (loss, expected)))


def test_in_batch_softmax_of_a_zero_row_is_finite() -> None:
    users, items = draw(4, 3), draw(4, 3, seed=1)
    users[1] = 0
    users.requires_grad_()
    (grad,) = torch.autograd.grad(in_batch_softmax_loss(users, items), users)
    assert bool(grad.isfinite().all())


def test_in_batch_softmax_of_no_pairs_is_zero() -> None:
    assert float(in_batch_softmax_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def test_in_batch_softmax_leaves_its_arguments_alone() -> None:
    users, items = draw(5, 3), draw(5, 3, seed=1)
    before = users.clone(), items.clone()
    in_batch_softmax_loss(users, items)
    assert torch.equal(users, before[0]) and torch.equal(items, before[1])


def test_in_batch_softmax_gives_the_same_gradient_twice() -> None:
    users, items = (torch.randn(50, 8, requires_grad=True) for _ in range(2))
    loss = in_batch_softmax_loss(users, items)
    loss.backward(retain_graph=True)
    once = users.grad.clone(), items.grad.clone()
    users.grad.zero_(), items.grad.zero_()  # as `zero_grad(set_to_none=False)` does, in place
    loss.backward(retain_graph=True)
    assert torch.equal(users.grad, once[0]) and torch.equal(items.grad, once[1])
    loss.backward()
    torch.testing.assert_close((users.grad, items.grad), (2 * once[0], 2 * once[1]))


def test_in_batch_softmax_refuses_logits_of_integers() -> None:
    with pytest.raises(ValueError, match=r"logits_dtype.*torch\.int32"):
        in_batch_softmax_loss(torch.ones(2, 3), torch.ones(2, 3), logits_dtype=torch.int32)


def test_in_batch_softmax_refuses_bad_arguments() -> None:
    pair = (torch.zeros(3, 2), torch.zeros(3, 2))
    for shapes in (((3, 2), (3, 4)), ((3, 2), (4, 2)), ((3,), (3,))):
        with pytest.raises(ValueError, match=r"expected two \(B, d\)"):
            in_batch_softmax_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    for temperature in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            in_batch_softmax_loss(*pair, temperature=temperature)
    for weight in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="negative_weight"):
            in_batch_softmax_loss(*pair, negative_weight=weight)
    with pytest.raises(ValueError, match="block_size"):
        in_batch_softmax_loss(*pair, block_size=0)


def test_l2_is_half_the_squares_over_the_batch_size() -> None:
    users, positives, negatives = (
        torch.tensor([[1.0, 2.0], [1.0, 2.0]]),
        torch.tensor([[3.0, 0.0]]),
        torch.ones(3, 2),
    )
    assert float(l2_penalty(users, positives, negatives, batch_size=4)) == pytest.approx(
        (10 + 9 + 6) / 2 / 4
    )


def test_l2_gradient_is_the_row_over_the_batch_size() -> None:
    rows = draw(6, 3).requires_grad_()
    (grad,) = torch.autograd.grad(l2_penalty(rows, batch_size=5), rows)
    torch.testing.assert_close(grad, rows.detach() / 5)


def test_l2_refuses_nothing_and_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="needs embeddings"):
        l2_penalty(batch_size=3)
    with pytest.raises(ValueError, match=r"batch_size.*got 0"):
        l2_penalty(torch.ones(2, 2), batch_size=0)


def test_in_batch_softmax_of_views() -> None:
    users, items = draw(8, 20).T, draw(8, 20, seed=1).T
    loss = in_batch_softmax_loss(users, items)
    torch.testing.assert_close(loss, in_batch_softmax_loss(users.contiguous(), items.contiguous()))
