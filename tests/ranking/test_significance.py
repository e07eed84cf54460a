"""Values per user, their intervals and paired comparisons, against SciPy and known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lightgcn import (
    Evaluation,
    Interactions,
    LightGCN,
    evaluate,
    evaluate_ranking,
    evaluate_scores,
    split_edges,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking import PerUser, compare
from lightgcn.ranking.resampling import bootstrap_interval, holm, sign_flip_p_values

SPLIT = split_edges(synthetic_interactions(80, 50, 1200, seed=1), seed=2)


def evaluated(seed: int = 0, **options: Any) -> Evaluation:
    return evaluate(LightGCN(80, 50, 8, seed=seed), SPLIT.test, per_user=True, **options)


def made(values: Tensor, name: str = "recall@5") -> Evaluation:
    """An evaluation with given values of its users."""
    count = len(values)
    graph = Interactions(range(count), [0] * count, count, 1)
    users, zeros = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    kept = PerUser(users, {name: values.float()}, zeros, graph, zeros.int(), torch.tensor([0]))
    return Evaluation({name: float(values.double().mean())}, num_users=count, per_user=kept)


def test_values_per_user_are_those_of_each_user_alone() -> None:
    names = ("recall", "ndcg", "clicks")
    result = evaluated(ks=(3, 10), metrics=names)
    kept, test = result.per_user, SPLIT.test
    assert kept is not None and len(kept) == result.num_users
    assert list(kept.values) == [f"{name}@{k}" for k in (3, 10) for name in names]
    for name, values in kept.values.items():
        assert values.dtype == torch.float32 and float(values.double().mean()) == pytest.approx(
            result[name]
        )
    for row, user in list(enumerate(kept.users.tolist()))[::7]:
        one = replace(
            test,
            positives=test.positives.select_users(torch.tensor([user])),
            negatives=test.negatives[:, :0],
            _recipe=None,
        )
        alone = evaluate(LightGCN(80, 50, 8, seed=0), one, ks=(3, 10), metrics=names)
        assert {name: float(values[row]) for name, values in kept.values.items()} == pytest.approx(
            alone.metrics
        )
        assert int(kept.num_seen[row]) == len(test.message.items_of(user))
        assert int(kept.num_relevant[row]) == len(test.positives.items_of(user))


def test_all_evaluations_keep_the_same_values() -> None:
    users, items = LightGCN(80, 50, 8, seed=0).embed(SPLIT.test.message)
    wanted: Any = {"seen": SPLIT.test.message, "ks": (5,), "per_user": True}
    one = evaluated(ks=(5,)).per_user
    for found in (
        evaluate_ranking(users, items, SPLIT.test.positives, **wanted),
        evaluate_scores(lambda some: users[some] @ items.T, SPLIT.test.positives, **wanted),
    ):
        assert one is not None and found.per_user is not None
        assert torch.equal(found.per_user.users, one.users)
        assert torch.equal(found.per_user.ranks, one.ranks)
        assert torch.equal(found.per_user["ndcg@5"], one["ndcg@5"])
    assert evaluate(LightGCN(80, 50, 8), SPLIT.test).per_user is None


def test_columns_have_the_ids_of_the_graph() -> None:
    graph = SPLIT.test.message
    ids = np.array([f"user {number}" for number in range(80)], dtype=object)
    links = replace(
        SPLIT.test,
        message=graph.with_ids(ids, None),
        positives=SPLIT.test.positives.with_ids(ids, None),
        _recipe=None,
    )
    kept = evaluate(LightGCN(80, 50, 8, seed=0), links, per_user=True).per_user
    assert kept is not None
    columns = kept.columns()
    assert columns["user"].tolist() == [f"user {user}" for user in kept.users.tolist()]
    assert list(columns)[:4] == ["user", "num_train", "num_test", "recall@20"]
    assert columns["num_test"].sum() == links.positives.num_edges


def test_the_interval_is_scipys() -> None:
    result = evaluated()
    assert result.per_user is not None
    for name in ("recall@20", "ndcg@20"):
        values = result.per_user[name].double().numpy()
        wanted = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=0.9, rng=1
        ).confidence_interval
        found = result.interval(name, level=0.9, resamples=20_000)
        width = wanted.high - wanted.low
        assert found == pytest.approx((wanted.low, wanted.high), abs=0.03 * width)
        assert result.intervals(level=0.9, resamples=20_000)[name] == pytest.approx(found)
    low, high = result.interval("recall@20")
    assert result.interval("recall@20", seed=1) != (low, high) == result.interval("recall@20")
    wide = result.interval("recall@20", level=0.99)
    assert wide[0] < low < high < wide[1]


def test_intervals_of_degenerate_values() -> None:
    assert made(torch.full((40,), 0.25)).interval("recall@5") == (0.25, 0.25)
    assert made(torch.tensor([0.5])).interval("recall@5") == (0.5, 0.5)


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, "0.9", None, True, float("nan")])
def test_a_wrong_level_is_named(level: Any) -> None:
    with pytest.raises(ValueError, match=r"level must be between 0 and 1"):
        evaluated().interval("recall@20", level=level)


def test_what_has_no_interval_is_named() -> None:
    with pytest.raises(KeyError, match=r"roc_auc.*recall@20"):
        evaluated().interval("roc_auc")
    with pytest.raises(ValueError, match=r"resamples.*got 0"):
        evaluated().interval("recall@20", resamples=0)
    for without in (evaluate(LightGCN(80, 50, 8), SPLIT.test), evaluated(ks=())):
        for ask in (
            lambda one: one.interval("recall@20"),
            lambda one: one.intervals(),
            lambda one: one.by_history(),
            lambda one: one.by_popularity(),
            lambda one: compare(one, one),
        ):
            with pytest.raises(ValueError, match="per_user=True"):
                ask(without)


def test_a_run_equals_itself() -> None:
    for found in compare(evaluated(), evaluated()).values():
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert (found.p_value, found.better, found.worse, found.equal) == (1, 0, 0, 1)


def test_a_constant_shift() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)).div(2)
    found = compare(made(values), made(values + 0.25), permutations=999)["recall@5"]
    assert (found.difference, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-6)
    assert (found.better, found.worse, found.equal) == (1, 0, 0)
    assert found.p_value == pytest.approx(1 / 1000)
    # Fewer clicks are better.
    clicks = compare(made(values, "clicks@5"), made(values + 0.25, "clicks@5"))["clicks@5"]
    assert (clicks.better, clicks.worse) == (0, 1)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_p_values_are_scipys(shift: float) -> None:
    generator = np.random.default_rng(4)
    first = generator.random(120)
    second = first + generator.normal(shift, 0.2, 120)

    def statistic(x: Any, y: Any, axis: int) -> Any:
        return np.mean(y - x, axis=axis)

    wanted = stats.permutation_test(
        (first, second),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    ).pvalue
    found = sign_flip_p_values(torch.from_numpy(second - first).unsqueeze(1), 20_000).item()
    assert found == pytest.approx(wanted, abs=0.015)
    assert found == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=0.03)


def test_few_users_have_the_exact_p_value() -> None:
    """Of the eight signs of (1, 1, 1), two reach a sum of 3; of (3, 1, -1), four reach 3."""
    for differences, exact in (([1.0, 1.0, 1.0], 2 / 8), ([3.0, 1.0, -1.0], 4 / 8 + 2 / 8)):
        found = sign_flip_p_values(torch.tensor([differences]).T, 40_000).item()
        assert found == pytest.approx(exact, abs=0.015)


def test_rounding_does_not_break_ties() -> None:
    """All sums of 0.1 with as many of each sign are equal, whatever their order."""
    differences = torch.tensor([[0.1], [0.1], [-0.1], [0.3]], dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    exact = ((signs @ differences).abs() >= 0.4 - 1e-9).double().mean().item()
    assert sign_flip_p_values(differences, 40_000).item() == pytest.approx(exact, abs=0.015)


def test_a_metrics_result_does_not_depend_on_the_others() -> None:
    table = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) - 0.45
    assert torch.equal(
        bootstrap_interval(table, 0.95, 200)[:, :1], bootstrap_interval(table[:, :1], 0.95, 200)
    )
    assert torch.equal(sign_flip_p_values(table, 300)[:1], sign_flip_p_values(table[:, :1], 300))


def test_draws_in_parts_cover_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightgcn.ranking import resampling

    table = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) - 0.4
    whole = bootstrap_interval(table, 0.95, 4000), sign_flip_p_values(table, 4000)
    monkeypatch.setattr(resampling, "_AT_A_TIME", 70)
    parts = bootstrap_interval(table, 0.95, 4000), sign_flip_p_values(table, 4000)
    assert torch.allclose(whole[0], parts[0], atol=0.01)
    assert torch.allclose(whole[1], parts[1], atol=0.02)


def test_the_interval_of_a_difference_is_paired() -> None:
    """Users differ much, the systems little: only the paired interval excludes 0."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(200, generator=generator)
    a, b = made(first), made(first + 0.01 + 0.01 * torch.rand(200, generator=generator))
    found = compare(a, b)["recall@5"]
    assert 0.01 < found.low < found.difference < found.high < 0.02
    assert a.interval("recall@5")[1] > b.interval("recall@5")[0]


def test_what_cannot_be_compared_is_named() -> None:
    one, other = made(torch.rand(5)), made(torch.rand(4))
    with pytest.raises(ValueError, match="different users: 1 are in a alone, 0 in b alone"):
        compare(one, other)
    with pytest.raises(ValueError, match=r"no metric in common.*recall@5.*ndcg@5"):
        compare(one, made(torch.rand(5), "ndcg@5"))
    with pytest.raises(TypeError, match="b must be an Evaluation, got dict"):
        compare(one, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="permutations"):
        compare(one, one, permutations=0)
    graph = Interactions(range(5), [0, 0, 0, 0, 1], 5, 2)
    assert one.per_user is not None
    moved = replace(one, per_user=replace(one.per_user, relevant=graph))
    with pytest.raises(ValueError, match="edges to find differ"):
        compare(one, moved)


def test_holm() -> None:
    assert holm([]) == [] and holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == [0.04, 0.04]
