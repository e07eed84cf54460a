"""Scores of links against the plain formula, with their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lightgcn.nn.link_scores import link_scores
from lightgcn.ranking.columns import with_popularity_prior


def draw(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype)


def links(count: int, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    left, right = torch.randint(rows, (2, count), generator=generator)
    return left, right


@pytest.mark.parametrize("count", [0, 1, 50, 70_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_and_gradients_are_those_of_the_formula(count: int, dtype: torch.dtype) -> None:
    left, right = links(count, 31)
    x = draw(31, 5, dtype).requires_grad_()
    plain = (
        draw(31, 5, torch.float64 if dtype == torch.float64 else dtype)
        .double()
        .detach()
        .requires_grad_()
    )
    scores, expected = link_scores(x, left, right), (plain[left] * plain[right]).sum(1)
    assert scores.dtype == dtype and scores.shape == (count,)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, count, dtype=torch.float64)
    (scores.double() * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad.double(), plain.grad, rtol=1e-4, atol=1e-4)


def test_gradcheck_with_self_links() -> None:
    left, right = torch.tensor([0, 1, 1, 3]), torch.tensor([0, 2, 2, 0])
    assert torch.autograd.gradcheck(
        lambda x: link_scores(x, left, right), (draw(4, 3, torch.float64).requires_grad_(),)
    )


def test_gradients_are_the_same_bits_twice() -> None:
    left, right = links(30_000, 500)
    grads = []
    for _ in range(2):
        x = draw(500, 32, torch.float32).requires_grad_()
        link_scores(x, left, right).square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1])


def test_second_derivatives_are_those_of_the_formula() -> None:
    left, right = links(40, 12)
    penalties = []
    for score in (link_scores, lambda x, left, right: (x[left] * x[right]).sum(1)):
        x = draw(12, 3, torch.float64).requires_grad_()
        (grad,) = torch.autograd.grad(score(x, left, right).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), x)[0])
    torch.testing.assert_close(*penalties)


def test_torch_func() -> None:
    func, (left, right), x = torch.func, links(40, 12), draw(12, 3, torch.float64)
    along, batch = draw(12, 3, torch.float64) + 1, draw(48, 3, torch.float64).view(4, 12, 3)
    some_left, some_right = left.view(4, 10), right.view(4, 10)

    def plain(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (x[left] * x[right]).sum(1)

    def transforms(score: Callable[..., Tensor]) -> Iterator[object]:
        def cubes(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
            return score(x, left, right).pow(3).sum()

        def of_x(x: Tensor) -> Tensor:
            return score(x, left, right)

        yield func.grad(cubes)(x, left, right)
        yield func.jvp(of_x, (x,), (along,))
        yield func.hessian(cubes)(x, left, right)
        yield func.jacrev(func.jacrev(cubes))(x, left, right)
        yield torch.vmap(of_x)(batch)
        yield torch.vmap(of_x, 1, 1)(batch.movedim(0, 1))
        yield torch.vmap(score, (None, 0, 0))(x, some_left, some_right)
        yield torch.vmap(func.grad(cubes), (0, None, None))(batch, left, right)
        yield torch.vmap(func.grad(cubes), (None, 0, 0))(x, some_left, some_right)
        yield torch.vmap(func.grad(cubes), (0, 0, 0))(batch, some_left, some_right)

    for found, wanted in zip(transforms(link_scores), transforms(plain), strict=True):
        torch.testing.assert_close(found, wanted)


def test_autocast_leaves_the_scores_alone() -> None:
    left, right = links(40, 12)
    results = []
    for enabled in (False, True):
        x = draw(12, 64, torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scores = link_scores(x, left, right)
            results += [scores, *torch.autograd.grad(scores.square().sum(), x)]
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    left, right = links(30_000, 500)
    x = draw(500, 64, dtype).requires_grad_()
    double = x.detach().double().requires_grad_()
    scores, expected = link_scores(x, left, right), (double[left] * double[right]).sum(1)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.double(), expected.to(dtype).double(), rtol=8e-3, atol=1e-2)
    scores.float().mean().backward()
    expected.mean().backward()
    assert x.grad is not None and double.grad is not None
    assert float((x.grad.double() - double.grad).norm() / double.grad.norm()) < 2e-2


def test_the_prior_is_the_formula() -> None:
    users, items, popularity = (
        draw(5, 3, torch.float64),
        draw(7, 3, torch.float64),
        torch.tensor([0, 1, 2, 9, 4, 1, 70]),
    )
    left, right = with_popularity_prior(users, items, popularity, 0.3)
    assert left.shape == (5, 4) and right.shape == (7, 4)
    for user in range(5):
        for item in range(7):
            cosine = float(users[user] @ items[item] / users[user].norm() / items[item].norm())
            wanted = cosine + 0.3 * math.log(1 + int(popularity[item]))
            assert float(left[user] @ right[item]) == pytest.approx(wanted, rel=1e-12)


def test_a_user_of_zeros_is_ranked_by_popularity_alone() -> None:
    left, right = with_popularity_prior(
        torch.zeros(1, 3), draw(4, 3, torch.float32), torch.tensor([3, 8, 0, 5]), 0.1
    )
    assert (left @ right.T).argsort(descending=True).tolist() == [[1, 3, 0, 2]]


@pytest.mark.parametrize(
    ("users", "items", "popularity", "weight", "said"),
    [
        ((2, 3), (4, 2), (4,), 0.1, r"\(2, 3\), \(4, 2\) and \(4,\)"),
        ((2, 3), (4, 3), (2,), 0.1, r"\(2, 3\), \(4, 3\) and \(2,\)"),
        ((2, 3), (4, 3), (4,), -0.1, r"at least 0, got -0\.1"),
        ((2, 3), (4, 3), (4,), math.nan, "at least 0, got nan"),
    ],
)
def test_what_is_no_prior(
    users: tuple[int, int], items: tuple[int, int], popularity: tuple[int], weight: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        with_popularity_prior(torch.ones(users), torch.ones(items), torch.ones(popularity), weight)
