"""Rankers: new users equal known ones, every tensor moves, and files keep every bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import (
    Interactions,
    LightGCN,
    Ranker,
    RankingConfig,
    Recommender,
    evaluate,
    evaluate_links,
    load_model,
    preset,
    save_model,
    split_edges,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.adjacency import normalized_adjacency
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.ranking.closed_forms import ClosedForms
from lightgcn.ranking.columns import with_popularity_prior
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.time_decay import decayed
from lightgcn.training.config import PRESETS

USERS, ITEMS = 7, 9
# A user with one item, one with all of them, one with none.
ONE, ALL, NONE = 4, 5, 6
RANKINGS = [
    RankingConfig(popularity_prior=prior, item_knn=knn, time_decay=decay)
    for prior, knn, decay in product((None, 0.0, 0.3), (0, 3), (0.0, 0.7))
]


def graph_of(weighted: bool, ordered: bool = True) -> Interactions:
    generator = torch.Generator().manual_seed(1)
    edges = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    edges[ONE], edges[ALL], edges[NONE] = False, True, False
    edges[ONE, 3] = True
    users, items = edges.nonzero().T
    weights = torch.rand(len(users), generator=generator) + 0.1 if weighted else None
    order = torch.randperm(len(users), generator=generator) if ordered else None
    return Interactions(users, items, USERS, ITEMS, weights, order=order)


def model_of(
    config: RankingConfig, normalization: Any = "symmetric", groups: int = 0, **options: Any
) -> LightGCN:
    """A model in which no user has an embedding of its own, as a new user has none."""
    model = LightGCN(USERS + groups, ITEMS, 6, normalization=normalization, **options)
    model.ranking = config
    with torch.no_grad():
        model.embedding[:USERS] = 0
    return model


def rankers() -> Iterator[Ranker]:
    for config, weighted in product(RANKINGS, (False, True)):
        yield Ranker.from_model(model_of(config), graph_of(weighted))


@pytest.mark.parametrize("normalization", ["mean", "symmetric", (0.3, 0.9)])
def test_a_new_user_equals_a_known_one_with_the_same_history(normalization: Any) -> None:
    """With a layer-0 embedding of zero, a user of the graph is what a new one is."""
    side = SideNodes.of(torch.tensor([0, 0, 1, 1, 1, -1, -1, 2, 2]))
    everybody = torch.arange(USERS)
    for config, weighted, layers, groups, dtype in product(
        RANKINGS, (False, True), (1, 3), (None, side), (torch.float32,)
    ):
        model = model_of(config, normalization, num_layers=layers, groups=3 if groups else 0)
        graph = graph_of(weighted)
        ranker = Ranker.from_model(model.to(dtype), graph, side_nodes=groups)
        new = ranker.fold_in(replace(graph))
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
        expected = ranker.score_users(everybody)
        assert expected.dtype == dtype and bool(expected.isfinite().all())
        torch.testing.assert_close(new.score_users(everybody), expected, **tolerance)
        users, items = everybody.repeat_interleave(ITEMS), torch.arange(ITEMS).repeat(USERS)
        pairs = new.score_pairs(users, items).view(USERS, ITEMS)
        torch.testing.assert_close(pairs, expected, **tolerance)
        best, known = new.top_k(4), ranker.top_k(4)
        torch.testing.assert_close(best.scores, known.scores, **tolerance)
        # One at a time and in another order: the others do not matter.
        for user in (ALL, ONE, NONE):
            alone = ranker.fold_in(graph.reindex(torch.tensor([user]), torch.arange(ITEMS)))
            scores = alone.score_users(torch.tensor([0]))[0]
            torch.testing.assert_close(scores, expected[user], **tolerance)


def test_rankers_in_half_precision_are_near_float32() -> None:
    for dtype, config, scale in product((torch.float16, torch.bfloat16), RANKINGS, (None, 1, 1000)):
        graph, model = graph_of(scale is not None), model_of(config)
        if scale is not None:
            graph = replace(graph, weights=graph.weights * scale)  # type: ignore[operator]
        wide = Ranker.from_model(model, graph).fold_in(graph).score_users(torch.arange(USERS))
        ranker = Ranker.from_model(model.to(dtype), graph).fold_in(graph)
        narrow = ranker.score_users(torch.arange(USERS))
        torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0.05)
        pairs = ranker.score_pairs(torch.zeros(ITEMS, dtype=torch.int64), torch.arange(ITEMS))
        torch.testing.assert_close(narrow[0], pairs)
    large = torch.full((3, 1), 6e4, dtype=torch.float16)  # whose products float16 cannot hold
    graph = Interactions([0], [0], 3, 3)
    scores = Ranker(large, large, graph, RankingConfig()).score_users(torch.tensor([1]))
    assert scores.dtype == torch.float32 and bool(scores.isfinite().all())


def test_weights_and_order_of_a_new_user_matter_where_the_ranker_uses_them() -> None:
    for config, weighted in product(RANKINGS, (False, True)):
        graph = graph_of(weighted)
        ranker = Ranker.from_model(model_of(config), graph)
        one = graph.reindex(torch.tensor([ALL]), torch.arange(ITEMS))
        backwards = replace(one, order=-one.order)  # type: ignore[operator]
        for changed, used in ((backwards, bool(config.time_decay)), (skewed(one), True)):
            before, after = (
                ranker.fold_in(each).score_users(torch.tensor([0])) for each in (one, changed)
            )
            assert torch.equal(before, after) != used


def skewed(graph: Interactions) -> Interactions:
    return replace(graph, weights=torch.arange(1.0, graph.num_edges + 1))


def test_a_recommender_answers_a_new_user_as_a_known_one() -> None:
    for config, weighted in product(RANKINGS, (False, True)):
        graph = graph_of(weighted)
        recommender = Recommender(model_of(config), graph)
        for user in range(NONE):
            own = graph.select_users(torch.tensor([user]))
            place = own.order.argsort()  # type: ignore[union-attr]
            weights = None if own.weights is None else own.weights[place].tolist()
            known = recommender.recommend(user, k=ITEMS)
            new = recommender.recommend_new(own.items[place].tolist(), k=ITEMS, weights=weights)
            assert [item.id for item in new] == [item.id for item in known]
            scores = [[item.score for item in items] for items in (new, known)]
            np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def tensors_of(value: Any, path: str = "ranker") -> Iterator[tuple[str, Tensor]]:
    """Every tensor that an object holds, at any depth."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from tensors_of(part, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from tensors_of(part, f"{path}[{place}]")
    elif type(value).__module__.startswith("lightgcn") and hasattr(value, "__dict__"):
        yield from tensors_of(value.__dict__, path)


def test_parts_that_contradict_each_other_are_refused() -> None:
    ranker = Ranker.from_model(model_of(RankingConfig(item_knn=3)), graph_of(True))
    assert ranker.item_knn is not None
    for changed, named in (
        ({"item_knn": None}, "item_knn"),
        ({"config": RankingConfig()}, "item_knn"),
        ({"item_knn": replace(ranker.item_knn, weight=0.7)}, "weight"),
        ({"history": ranker.history.to("meta")}, "device"),
        ({"linked": torch.ones(3, dtype=torch.bool)}, "linked"),
        ({"linked": torch.ones(ITEMS, dtype=torch.int64)}, "linked"),
    ):
        with pytest.raises(ValueError, match=named):
            replace(ranker, **changed)  # type: ignore[arg-type]


def test_the_weights_of_a_score_are_numbers() -> None:
    graph, table = graph_of(True), torch.ones(3, 2)
    for wrong in ("x", None, -1.0, float("nan"), True):
        for ask, named in (
            (lambda wrong: decayed(graph, wrong), "exponent"),
            (lambda wrong: ItemKNN.from_graph(graph, 1, wrong), "weight"),
            (lambda wrong: with_popularity_prior(table, table, torch.ones(3), wrong), "weight"),
        ):
            with pytest.raises(ValueError, match=f"{named} must be .*{wrong!r}"):
                ask(wrong)


def test_to_moves_every_tensor() -> None:
    for ranker in rankers():
        ranker.top_k(2)  # what is computed on the way must not stay behind
        kept = dict(tensors_of(ranker))
        moved = dict(tensors_of(ranker.to("meta")))
        assert {"ranker.users", "ranker.items", "ranker.history.users"} <= moved.keys()
        assert moved and {tensor.device.type for tensor in moved.values()} == {"meta"}
        assert {tensor.device.type for tensor in kept.values()} == {"cpu"}
        for name in moved:
            assert (moved[name].shape, moved[name].dtype) == (kept[name].shape, kept[name].dtype)


def test_a_recommender_keeps_every_bit_in_its_file(tmp_path: Path) -> None:
    for number, ranker in enumerate(rankers()):
        file = tmp_path / f"{number}.recommender"
        Recommender(ranker).save(file)
        loaded = Recommender.load(file).ranker
        assert loaded.config == ranker.config
        assert dict(tensors_of(loaded)).keys() >= {"ranker.users", "ranker.fold_in_table"}
        everybody = torch.arange(USERS)
        for one, other in ((ranker, loaded), (ranker.fold_in(ranker.history),) * 2):
            assert torch.equal(one.score_users(everybody), other.score_users(everybody))
        assert torch.equal(
            ranker.fold_in(ranker.history).score_users(everybody),
            loaded.fold_in(loaded.history).score_users(everybody),
        )
        for one, other in zip(ranker.top_k(5), loaded.top_k(5), strict=True):
            assert torch.equal(one, other)


def test_the_scores_of_a_model_survive_its_file_and_its_state(tmp_path: Path) -> None:
    graph = graph_of(True)
    for config, normalization, alpha in product(
        RANKINGS, ("mean", "symmetric", (0.3, 0.9)), (None, [0.1, 0.2, 0.3, 0.4], "learnable")
    ):
        model = LightGCN(USERS, ITEMS, 6, alpha=alpha, normalization=normalization, seed=1)  # type: ignore[arg-type]
        model.ranking = config
        expected = Ranker.from_model(model, graph).score_users(torch.arange(USERS))
        other = LightGCN(USERS, ITEMS, 6, alpha=alpha)  # type: ignore[arg-type]
        other.load_state_dict(model.state_dict())
        save_model(tmp_path / "model", model)
        for found in (other, load_model(tmp_path / "model")):
            scores = Ranker.from_model(found, graph).score_users(torch.arange(USERS))
            assert torch.equal(scores, expected)
            assert (found.normalization, found.ranking) == (model.normalization, model.ranking)


def test_a_state_of_another_model_is_refused_before_a_weight_is_written() -> None:
    saved = LightGCN(USERS, ITEMS, 6, 3, normalization="mean", seed=1).state_dict()
    for name, options in (
        ("num_layers", {"num_layers": 2}),
        ("alpha", {"alpha": [0.4, 0.3, 0.2, 0.1]}),
        ("alpha", {"alpha": "learnable"}),
        ("normalization", {"normalization": "symmetric"}),
        ("normalization", {"normalization": (0.3, 0.9)}),
        ("embedding", {"embedding_dim": 5}),
        ("embedding", {"num_items": ITEMS + 1}),
    ):
        shape: dict[str, Any] = {"num_items": ITEMS, "embedding_dim": 6, "normalization": "mean"}
        model = LightGCN(USERS, **shape | options)
        wrapped = torch.nn.ModuleDict({"encoder": model, "head": torch.nn.Linear(2, 2)})
        inner = {f"encoder.{key}": value for key, value in saved.items()}
        for module, state in ((model, saved), (wrapped, inner)):
            before = [part.detach().clone() for part in module.parameters()]
            with pytest.raises(ValueError, match=name):
                module.load_state_dict(state)
            assert all(map(torch.equal, before, module.parameters()))
            kept = (shape | options)["normalization"], RankingConfig()
            assert (model.normalization, model.ranking) == kept


@pytest.mark.parametrize("similarity", ["cosine", "ease"])
def test_closed_forms_that_are_known_already_change_nothing(similarity: Any) -> None:
    config = RankingConfig(item_knn=3, item_similarity=similarity, spectral=4)
    graph, model = graph_of(True), model_of(config)
    given = Ranker.from_model(model, graph, closed_forms=ClosedForms(graph))
    own = Ranker.from_model(model, graph)
    assert torch.equal(given.score_users(torch.arange(USERS)), own.score_users(torch.arange(USERS)))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_user_of_whom_nothing_is_known_is_ranked_by_popularity(name: str) -> None:
    edges = synthetic_interactions(60, 40, 500, seed=4)
    graph = Interactions(edges.users, edges.items, 61, 40)  # the last user has no edges
    settings = preset(name, embedding_dim=8, init="normal")
    model = settings.new_model(graph)
    model.ranking = settings.ranking
    ranker = Ranker.from_model(model, graph)
    popular = graph.item_degrees.argsort(descending=True, stable=True)
    assert ranker.top_k(40, torch.tensor([60])).items[0].tolist() == popular.tolist()
    assert ranker.top_k(40, torch.tensor([0])).items[0].tolist() != popular.tolist()
    nothing = Interactions(graph.users[:0], graph.items[:0], 1, 40)
    assert ranker.fold_in(nothing).top_k(40).items[0].tolist() == popular.tolist()


def test_without_a_weight_of_popularity_it_still_ranks_for_users_without_edges() -> None:
    edges = synthetic_interactions(60, 40, 500, seed=4)
    graph = Interactions(edges.users, edges.items, 61, 40)
    model = LightGCN(61, 40, embedding_dim=8, seed=1)
    ranker = Ranker.from_model(model, graph, config=RankingConfig(0.0))
    popular = graph.item_degrees.argsort(descending=True, stable=True).tolist()
    nothing = Interactions(graph.users[:0], graph.items[:0], 1, 40)
    assert ranker.top_k(40, torch.tensor([60])).items[0].tolist() == popular
    assert ranker.fold_in(nothing).top_k(40).items[0].tolist() == popular
    users, items = (F.normalize(x) for x in model.embed(normalized_adjacency(graph)))
    scores = ranker.score_users(torch.arange(60))
    torch.testing.assert_close(scores, users[:60] @ items.T, rtol=1e-5, atol=1e-6)


def test_links_of_any_two_nodes_are_scored_by_the_embeddings_alone() -> None:
    edges = synthetic_interactions(100, 80, 1500, seed=0)
    graph = Interactions(edges.users, edges.items, 150, 80)  # a third without edges
    links = split_edges(graph, negative_pairs="all").test
    model = LightGCN(150, 80, embedding_dim=8, seed=1)
    users, items = (x.detach() for x in model.embed(links.message))
    users[links.message.user_degrees == 0] = 0.0
    alone = evaluate_links(users, items, links)
    found = evaluate(model, links, ks=())
    assert found.metrics == pytest.approx(alone.metrics)


def test_popularity_for_users_without_edges_changes_no_other_score() -> None:
    edges = synthetic_interactions(60, 40, 500, seed=4)
    graph = Interactions(edges.users, edges.items, 61, 40)
    model = LightGCN(61, 40, embedding_dim=8, seed=1).double()
    ranker = Ranker.from_model(model, graph)
    users, items = model.embed(normalized_adjacency(graph))
    scores = ranker.score_users(torch.arange(61))
    torch.testing.assert_close(scores[:60], users[:60] @ items.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        scores[60], graph.item_degrees.double().log1p() / 1024, rtol=1e-6, atol=0.0
    )
