"""Evaluation against loops over users, items and links of a small random graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightgcn import (
    Evaluation,
    Interactions,
    LightGCN,
    RankingConfig,
    Split,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
    link_set,
    normalized_adjacency,
    split_edges,
)
from lightgcn.ranking import popularity, top_k_scores
from lightgcn.ranking.metrics import RANKING_METRICS

USERS, ITEMS = 12, 18


def graph() -> Interactions:
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.35
    return Interactions.from_edge_index(dense.nonzero().T, USERS, ITEMS)


def split(**settings: Any) -> Split:
    return split_edges(graph(), (0.6, 0.2, 0.2), disjoint=0.0, seed=2, **settings)


def model(normalization: Any = None) -> LightGCN:
    return LightGCN(USERS, ITEMS, 5, 2, seed=3, normalization=normalization).double()


def pairs(interactions: Interactions) -> set[tuple[int, int]]:
    return {(user, item) for user, item in interactions.edge_index.T.tolist()}


def naive_ranking(
    users: Tensor, items: Tensor, relevant: set[tuple[int, int]], seen: set[tuple[int, int]], k: int
):  # type: ignore[no-untyped-def]
    """Recall, NDCG and hit rate, averaged over the users who have relevant items."""
    rows = []
    for user in range(USERS):
        wanted = {item for item in range(ITEMS) if (user, item) in relevant}
        if not wanted:
            continue
        left = [item for item in range(ITEMS) if (user, item) not in seen]
        ranked = sorted(left, key=lambda item: (-float(users[user] @ items[item]), item))[:k]
        hits = [rank for rank, item in enumerate(ranked, start=1) if item in wanted]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
        gain = sum(1 / math.log2(rank + 1) for rank in hits)
        rows.append((len(hits) / len(wanted), gain / ideal, float(bool(hits))))
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)], len(rows)


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("normalization", ["mean", "symmetric"])
def test_evaluate_equals_loops(part: str, normalization: Any) -> None:
    links = getattr(split(), part)
    if part == "train":
        links = split_edges(graph(), (0.6, 0.2, 0.2), disjoint=0.4, seed=2).train
    result = evaluate(
        model(normalization), links, ks=(3, 7), metrics=("recall", "ndcg", "hit_rate")
    )

    dense = normalized_adjacency(links.message, normalization, dtype=torch.float64).to_dense()
    table = model().embedding.detach()
    z = (table + dense @ table + dense @ dense @ table) / 3
    for k in (3, 7):
        values, num_users = naive_ranking(
            z[:USERS], z[USERS:], pairs(links.positives), pairs(links.message), k
        )
        assert [result[f"{name}@{k}"] for name in ("recall", "ndcg", "hit_rate")] == pytest.approx(
            values
        )
        assert result.num_users == num_users
    scores = [float(z[user] @ z[USERS + item]) for user, item in links.edges.T.tolist()]
    assert result["roc_auc"] == pytest.approx(roc_auc_score(links.labels.tolist(), scores))
    terms = [
        math.log1p(math.exp(-score if label else score))
        for score, label in zip(scores, links.labels.tolist(), strict=True)
    ]
    assert result["loss"] == pytest.approx(sum(terms) / len(terms))
    assert result.num_links == links.edges.shape[1]


def test_evaluate_with_a_popularity_prior_equals_loops() -> None:
    links = split().val
    chosen = model()
    chosen.ranking = RankingConfig(popularity_prior=0.2)
    result = evaluate(chosen, links, ks=(3,))
    users, items = (
        F.normalize(z.detach()) for z in model().embed(normalized_adjacency(links.message))
    )
    popular = 0.2 * links.message.item_degrees.double().log1p()
    wide = torch.cat([users, torch.ones(USERS, 1)], 1), torch.cat([items, popular.unsqueeze(1)], 1)
    values, _ = naive_ranking(*wide, pairs(links.positives), pairs(links.message), 3)
    assert [result[f"{name}@3"] for name in ("recall", "ndcg", "hit_rate")] == pytest.approx(values)
    scores = [
        float(users[user] @ items[item] + popular[item]) for user, item in links.edges.T.tolist()
    ]
    assert result["roc_auc"] == pytest.approx(roc_auc_score(links.labels.tolist(), scores))
    assert result["recall@3"] != evaluate(model(), links, ks=(3,))["recall@3"]


def test_negatives_of_any_two_nodes() -> None:
    links = split(negative_pairs="all").val
    adjacency = normalized_adjacency(links.message, "mean")
    result = evaluate(model("mean"), links, ks=(3,))
    z = model().propagate(adjacency).detach()
    scores = [
        float(z[user] @ z[USERS + item]) for user, item in links.positives.edge_index.T.tolist()
    ]
    scores += [float(z[left] @ z[right]) for left, right in links.negatives.T.tolist()]
    assert int(links.negatives.max()) >= USERS  # the drawn pairs do hold items
    assert result["roc_auc"] == pytest.approx(roc_auc_score(links.labels.tolist(), scores))


def test_a_prior_or_item_knn_is_refused_for_negatives_of_any_two_nodes() -> None:
    links = split(negative_pairs="all").val
    for ranking in (RankingConfig(popularity_prior=0.0), RankingConfig(item_knn=3)):
        trained = model()
        trained.ranking = ranking
        with pytest.raises(ValueError, match='negative_pairs="all"'):
            evaluate(trained, links, ks=(3,))


def test_without_negatives_link_metrics_are_left_out() -> None:
    links = split(negatives=0.0).val
    result = evaluate(model(), links, ks=(4,), metrics=("recall",))
    assert set(result.metrics) == {"recall@4"} and result.num_links == 0 and result.num_users > 0
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(model(), links, ks=())


def test_without_ks_only_links_are_evaluated() -> None:
    links = split().val
    result = evaluate(model(), links, ks=())
    assert set(result.metrics) == {"roc_auc", "loss"} and result.num_users == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_embeddings_that_are_not_finite_are_counted(value: float) -> None:
    links, broken = split().val, model()
    with torch.no_grad():
        broken.embedding[USERS + int(links.message.items[0])] = value
    with pytest.raises(ValueError, match=r"\d+ of 30 embeddings are not finite: training diverged"):
        evaluate(broken, links)


def test_users_without_relevant_items_are_left_out() -> None:
    relevant = Interactions.from_edge_index(torch.tensor([[1], [0]]), 3, 2)
    users, items = torch.ones(3, 1), torch.tensor([[2.0], [1.0]])
    result = evaluate_ranking(users, items, relevant, ks=(1,), metrics=("recall",))
    assert result["recall@1"] == 1.0 and result.num_users == 1


def test_what_is_to_be_found_is_not_masked() -> None:
    """Train edges that also carry messages, and a test edge that is a train edge too."""
    links = split().train
    assert links.message is links.positives
    result = evaluate(model(), links, ks=(5,), metrics=("recall", "ndcg"))
    users, items = model().embed(normalized_adjacency(links.message))
    values, _ = naive_ranking(users.detach(), items.detach(), pairs(links.positives), set(), 5)
    assert [result["recall@5"], result["ndcg@5"]] == pytest.approx(values[:2]) and values[0] > 0

    # Of the two items that the user saw, the better one is to be found and the other stays masked.
    seen = Interactions.from_edge_index(torch.tensor([[0, 0], [0, 1]]), 1, 3)
    relevant = Interactions.from_edge_index(torch.tensor([[0], [1]]), 1, 3)
    scores = torch.tensor([[3.0], [2.0], [1.0]])
    assert (
        evaluate_ranking(torch.ones(1, 1), scores, relevant, seen=seen, ks=(1,))["recall@1"] == 1.0
    )


def test_list_lengths_of_any_kind() -> None:
    links = split().val
    adjacency = normalized_adjacency(links.message)
    expected = evaluate(model(), links, ks=(3, 5))
    for ks in ([3, 5], np.array([3, 5]), torch.tensor([3, 5]), (np.int64(3), 5)):
        assert evaluate(model(), links, ks=ks) == expected
    users, items = model().embed(adjacency)
    for wrong in (10, "10", torch.tensor(10)):
        with pytest.raises(ValueError, match="ks must be a sequence of list lengths"):
            evaluate(model(), links, ks=wrong)
        with pytest.raises(ValueError, match="ks must be a sequence of list lengths"):
            evaluate_ranking(users, items, links.positives, ks=wrong)


def test_popularity_ranks_by_degree_and_is_evaluated_as_a_model_is() -> None:
    links = split().test
    scores = popularity(links.message).scores
    degrees = links.message.item_degrees.tolist()
    expected = sorted(range(ITEMS), key=lambda item: (-degrees[item], item))
    everybody = torch.arange(USERS)
    assert top_k_scores(scores, everybody, ITEMS, ITEMS).items.tolist() == [expected] * USERS
    result = evaluate_scores(
        scores, links.positives, seen=links.message, ks=(5,), metrics=("recall", "ndcg")
    )
    items = links.message.item_degrees.float().unsqueeze(1)
    values, _ = naive_ranking(
        torch.ones(USERS, 1), items, pairs(links.positives), pairs(links.message), 5
    )
    assert [result["recall@5"], result["ndcg@5"]] == pytest.approx(values[:2])


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_evaluated_as_embeddings_are(dtype: torch.dtype, chunk_size: int | None) -> None:
    """With many equal scores, masked items and lists as long as there are items."""
    links = split().test
    generator = torch.Generator().manual_seed(4)
    users, items = (
        torch.randint(-1, 2, (count, 3), generator=generator).to(dtype) for count in (USERS, ITEMS)
    )
    table = users @ items.T
    kept, asked = table.clone(), []

    def scores(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        first, last = int(rows[0]), int(rows[-1])
        without_gap = last - first + 1 == len(rows)
        return (
            table[first : last + 1] if without_gap else table[rows]
        )  # a view of the caller's own, or a copy

    wanted: Any = {"seen": links.message, "ks": (1, 5, ITEMS), "metrics": tuple(RANKING_METRICS)}
    found = evaluate_scores(scores, links.positives, chunk_size=chunk_size, **wanted)
    assert found == evaluate_ranking(users, items, links.positives, **wanted)
    assert torch.equal(table, kept)
    assert sum(asked) == found.num_users and max(asked) <= (chunk_size or USERS)
    values, _ = naive_ranking(users, items, pairs(links.positives), pairs(links.message), 5)
    assert [found["recall@5"], found["ndcg@5"], found["hit_rate@5"]] == pytest.approx(values)
    assert evaluate_scores(scores, links.positives, ks=(5,)) == evaluate_ranking(
        users, items, links.positives, ks=(5,)
    )


@pytest.mark.slow
def test_only_users_with_something_to_find_are_scored_in_chunks_of_bounded_size() -> None:
    relevant = Interactions.from_edge_index(torch.tensor([[1, 3], [0, 1]]), 5, 1 << 23)
    asked: list[list[int]] = []

    def scores(users: Tensor) -> Tensor:
        asked.append(users.tolist())
        return torch.zeros(1, 1).expand(len(users), 1 << 23)

    assert evaluate_scores(scores, relevant, ks=(1,), metrics=("recall",))["recall@1"] == 0.5
    assert asked == [[1, 3]]
    asked.clear()
    evaluate_scores(scores, relevant, seen=relevant, ks=(2,), chunk_size=1)
    assert asked == [[1], [3]]


def test_scores_of_what_is_to_be_found_are_not_masked() -> None:
    seen = Interactions.from_edge_index(torch.tensor([[0, 0], [0, 1]]), 1, 3)
    relevant = Interactions.from_edge_index(torch.tensor([[0], [1]]), 1, 3)
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    assert evaluate_scores(lambda users: scores, relevant, seen=seen, ks=(1,))["recall@1"] == 1.0


def test_scores_that_do_not_fit_are_refused() -> None:
    links = split().val

    def zeros(users: Tensor) -> Tensor:
        return torch.zeros(len(users), ITEMS)

    with pytest.raises(
        ValueError, match=r"scores must have shape \(\d+, 18\) here, got \(\d+, 17\)"
    ):
        evaluate_scores(lambda users: zeros(users)[:, 1:], links.positives, ks=(3,))
    with pytest.raises(ValueError, match="scores must have shape"):
        evaluate_scores(lambda users: zeros(users)[0], links.positives, ks=(3,))
    with pytest.raises(ValueError, match="scores contain NaN"):
        evaluate_scores(lambda users: zeros(users) * torch.nan, links.positives, ks=(3,))
    with pytest.raises(ValueError, match="unknown metric 'recal'"):
        evaluate_scores(zeros, links.positives, metrics=("recal",))
    with pytest.raises(ValueError, match="k is 19, but there are only 18 items"):
        evaluate_scores(zeros, links.positives, ks=(19,))
    with pytest.raises(ValueError, match=r"chunk_size.*got 0"):
        evaluate_scores(zeros, links.positives, ks=(3,), chunk_size=0)
    other = Interactions.from_edge_index(torch.tensor([[0], [0]]), USERS + 1, ITEMS)
    with pytest.raises(ValueError, match=r"seen is .*13 users.* relevant is .*12 users"):
        evaluate_scores(zeros, links.positives, seen=other, ks=(3,))
    with pytest.raises(ValueError, match="0 users have relevant items"):
        evaluate_scores(zeros, links.positives.select(torch.zeros(0, dtype=torch.int64)), ks=(3,))


def test_what_does_not_fit_is_refused() -> None:
    links = split().val
    normalized_adjacency(links.message)
    with pytest.raises(ValueError, match="unknown metric 'recal'; there are recall, precision"):
        evaluate(model(), links, metrics=("recal",))
    with pytest.raises(ValueError, match="k is 19, but there are only 18 items"):
        evaluate(model(), links, ks=(3, 19))
    with pytest.raises(ValueError, match="k must be an integer"):
        evaluate(model(), links, ks=(0,))
    users, items = torch.ones(USERS, 2), torch.ones(ITEMS + 1, 2)
    with pytest.raises(ValueError, match="12 users and 19 items"):
        evaluate_ranking(users, items, links.positives)
    with pytest.raises(ValueError, match="12 users and 19 items"):
        evaluate_links(users, items, links)
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), USERS, ITEMS)
    with pytest.raises(ValueError, match="0 users have relevant items"):
        evaluate_ranking(users, items[:ITEMS], empty, ks=(3,))
    with pytest.raises(ValueError, match="both classes"):
        evaluate_links(
            users, items[:ITEMS], link_set(links.message, links.positives, negatives=0.0)
        )


def test_a_result_is_read_by_name() -> None:
    result = Evaluation({"recall@20": 0.123456, "loss": 0.5}, num_links=7, num_users=3)
    assert result["loss"] == 0.5
    assert str(result) == "recall@20 0.1235  loss 0.5000  (3 users, 7 links)"
    with pytest.raises(KeyError, match="there are recall@20, loss"):
        result["ndcg@20"]


def test_masks_of_other_nodes_and_no_metrics_are_refused() -> None:
    relevant, few = split().val.positives, Interactions([0], [0], USERS - 1, ITEMS)
    users, items = torch.ones(USERS, 2), torch.ones(ITEMS, 2)
    for ask in (
        lambda **options: evaluate_ranking(users, items, relevant, ks=[1], **options),
        lambda **options: evaluate_scores(
            lambda some: users[some] @ items.T, relevant, ks=[1], **options
        ),
    ):
        with pytest.raises(ValueError, match="seen"):
            ask(seen=few)
        with pytest.raises(ValueError, match="metrics"):
            ask(metrics=[])


def test_evaluation_leaves_no_gradient() -> None:
    links, chosen = split().val, model()
    evaluate(chosen, links, ks=(3,))
    assert chosen.embedding.grad is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    links = split().val
    expected = evaluate(model(), links, ks=(5,))
    moved = links.to("cuda")
    chosen = model().cuda()
    users, items = chosen.embed(moved.message)
    for found in (
        evaluate(chosen, moved, ks=(5,)),
        evaluate(chosen, links, ks=(5,)),
        evaluate_links(users, items, links),
        evaluate_ranking(users, items, links.positives, seen=links.message, ks=(5,)),
    ):
        part = {name: expected[name] for name in found.metrics}
        assert found.metrics == pytest.approx(part)


def test_text_counts_what_was_measured_alone() -> None:
    values = {"roc_auc": 0.75}
    for evaluation, counted in (
        (Evaluation(values, num_links=12_000), "(12,000 links)"),
        (Evaluation(values, num_users=7), "(7 users)"),
        (Evaluation(values, num_links=12_000, num_users=7), "(7 users, 12,000 links)"),
    ):
        assert str(evaluation) == f"roc_auc 0.7500  {counted}"
