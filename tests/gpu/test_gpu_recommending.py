"""Rankers, recommenders, baselines and the challenge on a (pretend) device, beside the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_cuda import PretendCuda
from torch import Tensor

import lightgcn
from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking import cheby_cf, ease, gf_cf, item_cosine, popularity, sparse_ease

PLAIN = synthetic_interactions(60, 45, 700, seed=1, num_tastes=3)
IDS = {
    "user_ids": [f"u{user}" for user in range(60)],
    "item_ids": [f"i{item}" for item in range(45)],
}
GRAPH = Interactions(
    PLAIN.users, PLAIN.items, 60, 45, torch.linspace(0.5, 2.0, PLAIN.num_edges),
    order=torch.arange(PLAIN.num_edges), **IDS,
)  # fmt: skip
RANKINGS = {
    "dot products": RankingConfig(),
    "cosines": RankingConfig(popularity_prior=0.1),
    "item kNN": RankingConfig(popularity_prior=0.1, item_knn=5),
    "ease neighbours": RankingConfig(popularity_prior=0.1, item_knn=5, item_similarity="ease"),
    "user kNN": RankingConfig(user_knn=5),
    "all": RankingConfig(
        popularity_prior=0.1, item_knn=5, user_knn=5, time_decay=5, spectral=4,
        spectral_weight=0.3,
    ),
}  # fmt: skip
ranked = pytest.mark.parametrize("config", RANKINGS.values(), ids=RANKINGS.keys())


def model_with(config: RankingConfig = RANKINGS["all"]) -> LightGCN:
    model = LightGCN(60, 45, 8, normalization="symmetric", seed=2).eval()
    model.ranking = config
    return model


def both(
    function: Callable[[LightGCN, Interactions], Any], config: RankingConfig
) -> tuple[Any, Any]:
    """Return what a function gives on the device, and on the CPU."""
    there = function(model_with(config).to("cuda"), GRAPH.to("cuda"))
    return there, function(model_with(config), GRAPH)


def assert_close(there: Any, here: Any) -> None:
    assert type(there) is type(here)
    if isinstance(there, Tensor):
        assert there.device.type == "cuda" and here.device.type == "cpu"
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)
    elif isinstance(there, float):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-5)
    elif isinstance(there, list | tuple):
        assert len(there) == len(here)
        for one, other in zip(there, here, strict=True):
            assert_close(one, other)
    elif hasattr(there, "id"):
        assert there.id == here.id
        assert_close(there.score, here.score)
    else:
        assert there == here


@ranked
def test_a_ranker(cuda: PretendCuda, config: RankingConfig) -> None:
    def results(model: LightGCN, graph: Interactions) -> Any:
        ranker = Ranker.from_model(model, graph)
        assert ranker.device == graph.device
        users = torch.tensor([3, 0, 3], device=graph.device)
        history = graph.select_users(torch.arange(5, device=graph.device)).head_users(5)
        folded = ranker.fold_in(history)
        return [
            tuple(ranker.top_k(5)),
            tuple(ranker.top_k(45, users)),
            tuple(ranker.top_k(5, users, exclude_seen=False, only=range(9), exclude=[3])),
            tuple(folded.top_k(5)),
            ranker.score_users(users),
            ranker.score_pairs(graph.users, graph.items),
        ]

    assert_close(*both(results, config))


@ranked
def test_a_recommender(cuda: PretendCuda, config: RankingConfig, tmp_path: Path) -> None:
    def results(model: LightGCN, graph: Interactions) -> Any:
        new_items = not (config.user_knn or config.spectral)
        recommender = Recommender(model, graph, new_items=new_items)
        chunks = list(recommender.recommend_in_chunks(3, users=["u4", "u1"]))
        explanation = recommender.explain("u1", "i7")
        found = [
            recommender.recommend("u3", 4),
            recommender.recommend(["u3", "u9"], 4, exclude=["i3"], exclude_seen=False),
            recommender.recommend("u3", 4, only=["i1", "i2", "i30", "i31"]),
            recommender.recommend_new(["i1", "i2"], 4, weights=[1.0, 2.0]),
            recommender.similar_items("i1", 4),
            [list(chunk["item"]) for chunk in chunks],
            float(explanation.score),
            recommender.query("u1").shape,
        ]
        grown = recommender.add_users({"new": {"i1": 1.0, "i2": 2.0}})
        assert grown.ranker.device == graph.device
        found.append(grown.recommend("new", 4))
        if new_items:
            wider = recommender.add_items({"j": {"u1": 1.0, "u2": 2.0}})
            assert wider.ranker.device == graph.device
            found.append(wider.recommend("u3", 4))
        path = tmp_path / f"{graph.device.type}.recommender"
        recommender.save(path)
        other = "cpu" if graph.device.type == "cuda" else "cuda"
        for moved in (
            Recommender.load(path, graph.device),
            recommender.to(other),
            recommender.to(other).to(graph.device),
        ):
            assert_same_lists(moved.recommend("u3", 4), found[0])
            assert_same_lists(moved.recommend_new(["i1", "i2"], 4, weights=[1.0, 2.0]), found[3])
        return found

    assert_close(*both(results, config))


def assert_same_lists(one: Any, other: Any) -> None:
    assert [each.id for each in one] == [each.id for each in other]


@ranked
def test_evaluation(cuda: PretendCuda, config: RankingConfig) -> None:
    def results(model: LightGCN, graph: Interactions) -> Any:
        split = lightgcn.split_edges(graph, (0.7, 0.15, 0.15))
        evaluation = lightgcn.evaluate(model, split.test, ks=(3, 10), per_user=True)
        bounds = (
            evaluation.confidence_intervals() if hasattr(evaluation, "confidence_intervals") else {}
        )
        return [list(evaluation.metrics.values()), list(bounds.values())]

    assert_close(*both(results, config))


def test_what_is_given_on_the_cpu_is_moved(cuda: PretendCuda) -> None:
    model = model_with().to("cuda")
    expected = Recommender(model, GRAPH.to("cuda")).recommend("u3", 5)
    assert_same_lists(Recommender(model, GRAPH).recommend("u3", 5), expected)
    links = lightgcn.split_edges(GRAPH, (0.7, 0.15, 0.15)).test
    assert lightgcn.evaluate(model, links).metrics == pytest.approx(
        lightgcn.evaluate(model, links.to("cuda")).metrics
    )
    ranker = Ranker.from_model(model, GRAPH)
    assert ranker.top_k(3, torch.tensor([1])).items.device.type == "cuda"
    users, items = ranker.users, ranker.items
    best = lightgcn.top_k(users, items, 3, seen=GRAPH, users=[1], exclude=torch.tensor([2]))
    assert best.items.device.type == "cuda"


BASELINES: dict[str, Callable[[Interactions], Any]] = {
    "popularity": popularity,
    "item_cosine": item_cosine,
    "ease": ease,
    "sparse_ease": sparse_ease,
    "gf_cf": gf_cf,
    "cheby_cf": cheby_cf,
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(cuda: PretendCuda, name: str) -> None:
    """They compute on the CPU, by SciPy and LAPACK, and give their scores on the users' device."""
    here, there = BASELINES[name](GRAPH), BASELINES[name](GRAPH.to("cuda"))
    users = torch.tensor([1, 5])
    assert_close(there.scores(users.to("cuda")), here.scores(users))
    links = lightgcn.split_edges(GRAPH, (0.7, 0.15, 0.15)).test
    found = [
        lightgcn.evaluate_scores(
            BASELINES[name](part.message).scores, part.positives, seen=part.message
        )
        for part in (links.to("cuda"), links)
    ]
    assert found[0].metrics == pytest.approx(found[1].metrics, rel=1e-4)
