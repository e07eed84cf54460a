"""The ranking that validation chooses: never worse than the embeddings alone, exact, repeatable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import lightgcn
from lightgcn import Interactions, LightGCN, LinkSet, RankingConfig
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.links import link_set
from lightgcn.ranking import Ranker, choose_ranking, evaluate
from lightgcn.ranking import choice as choice_module

METRICS = ("recall", "ndcg")


def trained(order: bool = False) -> tuple[LightGCN, LinkSet]:
    graph = synthetic_interactions(150, 90, 2500, seed=2)
    if order:
        places = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
        graph = replace(graph, order=places)
    split = lightgcn.split_edges(graph, stratify="user", negatives=0)
    model = lightgcn.train(split, "fast", epochs=3, embedding_dim=8, choose_ranking=False)
    return model, split.val


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("metric", ["recall@10", "ndcg@5", "clicks@10", "map@10"])
def test_the_choice_is_what_evaluate_measures_and_no_worse_than_the_encoder_alone(
    metric: str, order: bool
) -> None:
    model, val = trained(order)
    before = model.ranking
    choice = choose_ranking(model, val, metric)
    assert model.ranking == before
    name, k = metric.split("@")
    for config, wanted in (
        (choice.config, choice.values),
        (before if order else replace(before, time_decay=0.0), choice.before),
    ):
        model.ranking = config
        found = evaluate(model, val, ks=[int(k)], metrics=[*METRICS, name])
        for each, value in wanted.items():
            assert found[each] == pytest.approx(value, abs=2e-4)
    better = -1 if name == "clicks" else 1
    assert better * choice.values[metric] >= better * choice.alone[metric]
    if name in METRICS:
        total = [
            sum(values[f"{each}@{k}"] for each in METRICS)
            for values in (choice.values, choice.before)
        ]
        assert total[0] >= total[1] - 2e-4
    assert choice.num_users == len(val.positives.users.unique())


def test_the_choice_repeats() -> None:
    model, val = trained()
    assert choose_ranking(model, val) == choose_ranking(model, val)
    assert choose_ranking(model, val, num_users=50).num_users == 50


def test_lists_that_follow_the_order_get_time_decay_and_shuffled_ones_lose_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    users, length, items = 200, 30, 120
    # A user's taste moves through groups of twelve items.
    taste = torch.randint(0, items // 12, (users, 3), generator=draw).repeat_interleave(10, 1)
    chosen = taste * 12 + torch.randint(0, 12, (users, length), generator=draw)
    rows = torch.arange(users).repeat_interleave(length)
    graph = Interactions(
        rows, chosen.flatten(), users, items, order=torch.arange(length).repeat(users)
    )
    split = lightgcn.split_edges(
        graph, (0.85, 0.15), stratify="user", negatives=0, order=graph.order
    )
    model = lightgcn.train(split, "fast", epochs=3, embedding_dim=16, choose_ranking=False)
    choice = choose_ranking(model, split.val, "recall@5")
    assert choice.config.time_decay > 0 and "order: time decay" in str(choice)
    without = LinkSet(
        replace(split.val.message, order=None), split.val.positives, split.val.negatives
    )
    plain = choose_ranking(model, without, "recall@5")
    assert plain.config.time_decay == 0
    assert choice.values["recall@5"] > 1.05 * plain.values["recall@5"]


@pytest.mark.parametrize("metric", ["roc_auc", "recall", "recall@0"])
def test_a_metric_that_ranks_no_lists_is_refused(metric: str) -> None:
    model, val = trained()
    with pytest.raises(ValueError, match="metric must be"):
        choose_ranking(model, val, metric)


def test_no_validation_links_are_refused() -> None:
    model, val = trained()
    nobody = torch.zeros(val.positives.num_edges, dtype=torch.bool)
    empty = link_set(val.message, val.positives.select(nobody), negatives=0)
    with pytest.raises(ValueError, match="no validation links"):
        choose_ranking(model, empty)


def test_train_chooses_if_the_settings_say_so_and_there_is_a_validation_set() -> None:
    graph = synthetic_interactions(150, 90, 2500, seed=2)
    split = lightgcn.split_edges(graph, stratify="user", negatives=0)
    given: dict[str, Any] = {"epochs": 2, "embedding_dim": 8}
    model = lightgcn.train(split, "fast", **given)
    plain = lightgcn.train(split, "fast", choose_ranking=False, **given)
    assert torch.equal(model.embedding, plain.embedding)
    assert plain.ranking == lightgcn.preset("fast").ranking
    assert model.ranking == choose_ranking(plain, split.val).config
    whole = lightgcn.split_edges(graph, (1.0,), negatives=0)
    assert lightgcn.train(whole, "fast", **given).ranking == plain.ranking


def test_parts_that_only_score_users_and_items_are_refused_with_all_pairs() -> None:
    with pytest.raises(ValueError, match="choose_ranking must be False"):
        lightgcn.preset("tutorial", negative_pairs="all", choose_ranking=True)
    with pytest.raises(ValueError, match="spectral must be 0"):
        lightgcn.preset("tutorial", negative_pairs="all", spectral=4)


@pytest.mark.parametrize("prior", [None, 0.1])
def test_a_chosen_ranking_scores_as_its_parts_summed_in_float64(prior: float | None) -> None:
    model, val = trained()
    graph = val.message
    draw = torch.Generator().manual_seed(0)
    # Weights of many digits, so that no two neighbours are equally near.
    graph = replace(graph, weights=torch.rand(graph.num_edges, generator=draw) + 0.5)
    config = RankingConfig(
        prior, item_knn=5, item_knn_weight=0.3, item_similarity="ease", spectral=6,
        spectral_weight=0.2,
    )  # fmt: skip
    ranker = Ranker.from_model(model, graph, config=config)
    adjacency = lightgcn.normalized_adjacency(graph, "symmetric")
    users, items = (part.detach().double() for part in model.embed(adjacency))
    dense = torch.from_numpy(graph.to_scipy().toarray()).double()
    degrees = dense.sum(0)
    if prior is None:
        wanted = users @ items.T
    else:
        wanted = torch.nn.functional.normalize(users) @ torch.nn.functional.normalize(items).T
        wanted += prior * graph.item_degrees.double().log1p()
    root = degrees.sqrt()
    normalized = dense / dense.sum(1, keepdim=True).sqrt() / root
    vectors = torch.linalg.svd(normalized).Vh[:6].T
    spectral = (dense / root**0.8) @ vectors @ vectors.T * root**0.8
    wanted += 0.2 * spectral / spectral.std(1, correction=0, keepdim=True)
    gains = (dense @ ease_by_hand(dense, 5, 30.0)).clamp(min=0)
    wanted += 0.3 * gains / gains.amax(1, keepdim=True).clamp(min=1e-12)
    everyone = torch.arange(graph.num_users)
    found = ranker.score_users(everyone)
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    some = torch.tensor([3, 8, 8]), torch.tensor([5, 0, 41])
    assert torch.allclose(ranker.score_pairs(*some), found[some], atol=1e-5)
    best = ranker.top_k(7)
    masked = found.masked_fill(dense.bool(), -torch.inf)
    assert torch.allclose(best.scores, masked.topk(7).values, atol=1e-5)
    again = Ranker.from_tensors(*ranker.to_tensors())
    assert torch.equal(again.score_users(everyone), found)
    folded = ranker.fold_in(graph).score_users(everyone)
    spread = (folded - found)[:, :5].abs().max()  # a new user has no embedding of layer 0
    assert float(spread) < 1.5 and torch.isfinite(folded).all()


def ease_by_hand(dense: torch.Tensor, neighbours: int, l2: float) -> torch.Tensor:
    gram = dense.T @ dense
    alone = gram / (gram.diagonal() + l2)
    result = torch.zeros_like(gram)
    for item in range(len(gram)):
        others = alone[item].clone()
        others[item] = -1
        near = others.argsort(descending=True, stable=True)[:neighbours]
        near = near[others[near] > 0]
        system = gram[near][:, near] + l2 * torch.eye(len(near), dtype=torch.float64)
        result[near, item] = torch.linalg.solve(system, gram[near, item])
    return result


def test_a_setting_of_the_ranking_that_is_given_is_kept() -> None:
    graph = synthetic_interactions(80, 60, 900, seed=2)
    split = lightgcn.split_edges(graph, stratify="user", negatives=0)
    model = lightgcn.train(split, "fast", epochs=1, embedding_dim=4, item_knn=0)
    assert model.ranking == lightgcn.preset("fast", item_knn=0).ranking
    assert not lightgcn.preset("fast", popularity_prior=0.2).train.choose_ranking
    assert lightgcn.preset("fast", item_knn=0, choose_ranking=True).train.choose_ranking
    assert lightgcn.preset("fast", epochs=3).train.choose_ranking


def test_lists_longer_than_the_items_are_refused() -> None:
    model, val = trained()
    with pytest.raises(ValueError, match="k is 91, but there are only 90 items"):
        choose_ranking(model, val, "recall@91")


def test_long_lists_are_searched_among_as_many_candidates() -> None:
    graph = synthetic_interactions(120, 600, 2500, seed=3)
    split = lightgcn.split_edges(graph, stratify="user", negatives=0)
    model = lightgcn.train(split, "fast", epochs=1, embedding_dim=4, choose_ranking=False)
    choice = choose_ranking(model, split.val, "recall@300")
    model.ranking = choice.config
    found = evaluate(model, split.val, ks=[300], metrics=METRICS)
    assert choice.values == pytest.approx(found.metrics)


def test_popular_items_are_candidates() -> None:
    # Nothing but popularity tells what is held out, and no part but the prior knows it.
    draw = torch.Generator().manual_seed(0)
    share = 1 / torch.arange(1, 2001.0) ** 0.8
    items = torch.stack([share.multinomial(10, generator=draw) for _ in range(300)])
    number = torch.randperm(2000, generator=draw)[items.flatten()]
    graph = Interactions(torch.arange(300).repeat_interleave(10), number, 300, 2000)
    split = lightgcn.split_edges(graph, stratify="user", negatives=0)
    model = LightGCN(300, 2000, embedding_dim=8, num_layers=0, seed=1)
    choice = choose_ranking(model, split.val, "recall@20")
    model.ranking = choice.config
    found = evaluate(model, split.val, metrics=METRICS)
    assert choice.values == pytest.approx(found.metrics)
    assert choice.values["recall@20"] > 1.5 * choice.alone["recall@20"]


def test_on_a_large_graph_only_quick_parts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightgcn.ranking import choice as module

    monkeypatch.setattr(module, "MOST_EDGES", 10)
    model, val = trained()
    for own in (RankingConfig(0.1, 5), RankingConfig(0.1, 5, item_similarity="ease", spectral=3)):
        model.ranking = own
        found = choose_ranking(model, val, "recall@10")
        if found.config != own:
            assert found.config.item_similarity == "cosine" and not found.config.spectral
        assert found.values["recall@10"] >= found.alone["recall@10"]


def test_tiny_graphs_get_finite_weights() -> None:
    for count in (2, 3, 4, 7):
        nodes = torch.arange(count)
        message = Interactions(nodes, nodes, count, count)
        positives = Interactions(nodes, nodes.roll(1), count, count)
        model = LightGCN(count, count, embedding_dim=4)
        links = link_set(message, positives, negatives=0)
        config = choose_ranking(model, links, "recall@1").config
        assert (config.popularity_prior or 0) < 100 and config.item_knn_weight < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_spectral_embeddings_of_any_dtype_and_of_a_regular_graph(dtype: torch.dtype) -> None:
    users, items = torch.cartesian_prod(torch.arange(4), torch.arange(5)).T
    regular = Interactions(users, items, 4, 5)  # the only singular vector is constant
    config = RankingConfig(0.1, spectral=1, spectral_weight=0.1)
    model = LightGCN(4, 5, embedding_dim=4).to(dtype)
    scores = Ranker.from_model(model, regular, config=config).score_users(torch.arange(4))
    assert float(scores.abs().max()) < 2
    graph = synthetic_interactions(60, 45, 600, seed=1)
    model = LightGCN(60, 45, embedding_dim=4).to(dtype)
    ranker = Ranker.from_model(model, graph, config=RankingConfig(20.0, spectral=4))
    assert torch.isfinite(ranker.score_users(torch.arange(60))).all()
    assert ranker.num_columns == 4 and ranker.num_spectral == 4


def test_the_search_never_steps_to_a_weight_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 a weight could not come back once the others have changed."""
    improved, seen = choice_module._Parts.improved, []

    def watched(self: Any, weights: dict[str, float]) -> Any:
        found = improved(self, weights)
        seen.append((weights, found[1]))
        return found

    monkeypatch.setattr(choice_module._Parts, "improved", watched)
    model, val = trained()
    choose_ranking(model, val)
    assert seen and all(before.keys() == after.keys() for before, after in seen)
    assert all(min(after.values()) > 0 for _, after in seen)
