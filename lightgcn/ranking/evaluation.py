"""Evaluation of link prediction and ranking on a link set, with one type of result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightgcn.core.checks import check_floating
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.graph.links import LinkSet
from lightgcn.nn.config import check_scores_all_pairs
from lightgcn.nn.link_scores import link_scores
from lightgcn.nn.losses import bce_loss
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.lists import checked_ks, measure_lists
from lightgcn.ranking.metrics import roc_auc
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.residual import Residual, check_residual, residual_of_links
from lightgcn.ranking.result import Evaluation
from lightgcn.ranking.topk import TopK, check_scores, top_k, top_k_scores

DEFAULT_METRICS = ("recall", "ndcg", "precision", "hit_rate", "mrr", "map")


@torch.no_grad()
def evaluate(
    model: LightGCN | Ranker,
    links: LinkSet,
    *,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    per_user: bool = False,
) -> Evaluation:
    """Evaluate a model on a link set: ROC-AUC and loss of its links, and a ranking of all items.

    Messages flow along ``links.message`` alone, in the model's normalisation, and the model's
    ``ranking`` determines the scores. In the ranking the positives of the set are relevant, and a
    user's other message edges are masked.

    Args:
        model: a trained model, or a `Ranker` of it over ``links.message``.
        links: the links to predict; link metrics are left out if it has no negatives.
        ks: list lengths, empty for link metrics alone; None for 20, or all items if there are
            fewer.
        metrics: names out of `lightgcn.ranking.metrics.RANKING_METRICS` and
            `lightgcn.ranking.list_metrics.LIST_METRICS`.
        per_user: keep the values of each user (`Evaluation.per_user`), for intervals, comparisons
            and groups.

    Raises:
        TypeError: if ``model`` or ``links`` has a different type.
        ValueError: if a k or a metric's name is wrong, there is nothing to predict, an embedding is
            not finite, or the graph of a ranker differs from ``links.message``.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import synthetic_interactions
        >>> split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))
        >>> model = lightgcn.LightGCN(60, 40, embedding_dim=8)
        >>> sorted(lightgcn.evaluate(model, split.test, metrics=["recall"]).metrics)
        ['loss', 'recall@20', 'roc_auc']
    """
    return evaluate_users(*_checked(model, links), ks=ks, metrics=metrics, per_user=per_user)


def _checked(model: LightGCN | Ranker, links: LinkSet) -> tuple[Ranker, LinkSet]:
    if not isinstance(links, LinkSet):
        raise _no_links(links)
    if not isinstance(model, Ranker):
        ranker = Ranker.from_model(model, links.message, fold_in=False)
        return ranker, links.to(ranker.device)
    links = links.to(model.device)
    if not model.history.same_edges(links.message):
        raise ValueError(
            f"the graph of the ranker is {model.history}, but links.message is {links.message}: a "
            "ranker over a different graph can contain held-out edges; pass the model itself"
        )
    return model, links


def _no_links(given: object) -> TypeError:
    hints = {
        "Split": "; pass one of its sets, such as split.test",
        "Interactions": "; lightgcn.link_set(message, positives) makes one",
        "LightGCN": "; the model comes first, then the links",
    }
    name = type(given).__name__
    return TypeError(f"links must be a LinkSet, got {name}{hints.get(name, '')}")


def evaluate_users(
    ranker: Ranker,
    links: LinkSet,
    *,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    users: Tensor | None = None,
    per_user: bool = False,
) -> Evaluation:
    """Evaluate a ranker over ``links.message``; with (B,) ``users``, rank for these alone.

    Several processes rank a part of the users each; link metrics always cover all links.
    """
    ks, result = checked_ks(ks, links.positives.num_items), Evaluation({})
    if links.negatives.shape[1]:
        left, right = ranker.users, ranker.items
        if links.negative_pairs == "all":
            check_scores_all_pairs(ranker.config)
            # Without the column of popularity, which is of a user and an item.
            left, right = left[:, : ranker.num_columns], ranker.item_directions
        result = evaluate_links(left, right, links, residual=ranker.residual)
    if ks:
        relevant = links.positives if users is None else links.positives.select_users(users)
        ranking = evaluate_ranking(
            ranker.users,
            ranker.items,
            relevant,
            seen=links.message,
            ks=ks,
            metrics=metrics,
            residual=ranker.residual,
            per_user=per_user,
        )
        result = replace(
            ranking, metrics=result.metrics | ranking.metrics, num_links=result.num_links
        )
    if not result.metrics:
        raise ValueError("nothing to evaluate: the links have no negatives and no k was given")
    return result


@torch.no_grad()
def evaluate_links(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    links: LinkSet,
    *,
    residual: Residual | None = None,
) -> Evaluation:
    """Return ROC-AUC and binary cross-entropy ("loss") of a link set under dot-product scores.

    Args:
        user_embeddings: (num_users, d) final embeddings.
        item_embeddings: (num_items, d) final embeddings.
        links: with negatives.
        residual: such as item kNN, added to the scores; not with ``negative_pairs="all"``.

    Raises:
        ValueError: if the set has no positives or no negatives, the embeddings are not of its
            nodes, or a residual is given with ``negative_pairs="all"``.

    Example:
        >>> import torch
        >>> train = Interactions([0], [0], num_users=1, num_items=3)
        >>> test = Interactions([0], [1], num_users=1, num_items=3)
        >>> links = LinkSet(train, test, negatives=torch.tensor([[0], [2]]))
        >>> users, items = torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [-2.0]])
        >>> evaluate_links(users, items, links)["roc_auc"]
        1.0
    """
    if not isinstance(links, LinkSet):
        raise _no_links(links)
    _check_nodes(user_embeddings, item_embeddings, links.positives)
    check_residual(residual, len(user_embeddings), len(item_embeddings))
    left, right = links.edges.to(user_embeddings.device)
    if links.negative_pairs != "all":
        right = right + links.positives.num_users
    logits = link_scores(torch.cat([user_embeddings, item_embeddings]), left, right)
    if residual is not None:
        if links.negative_pairs == "all":
            raise ValueError(
                'a residual scores user-item pairs only, but negative_pairs="all" has other pairs'
            )
        logits += residual_of_links(residual, *links.edges).to(logits.device)
    labels = links.labels.to(logits.device)
    values = {
        "roc_auc": roc_auc(logits, labels),
        "loss": float(bce_loss(logits, labels)),
    }
    return Evaluation(values, num_links=len(logits))


@torch.no_grad()
def evaluate_ranking(
    user_embeddings: Tensor,
    item_embeddings: Tensor,
    relevant: Interactions,
    *,
    seen: Interactions | None = None,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    residual: Residual | None = None,
    per_user: bool = False,
) -> Evaluation:
    """Rank all items for each user with relevant ones and average the metrics over these users.

    Args:
        user_embeddings: (num_users, d) final embeddings.
        item_embeddings: (num_items, d) final embeddings.
        relevant: the edges to find.
        seen: edges whose items are masked for their user, unless they are relevant.
        ks: list lengths, each at most the number of items; None for 20, or all items if there are
            fewer.
        metrics: names out of `lightgcn.ranking.metrics.RANKING_METRICS` and
            `lightgcn.ranking.list_metrics.LIST_METRICS`.
        per_user: keep the values of each user (`Evaluation.per_user`), for intervals, comparisons
            and groups.
        residual: such as item kNN, added to the dot products.

    Raises:
        ValueError: if no user has a relevant item, a k or a metric's name is wrong, or the
            embeddings or ``seen`` are not of the nodes of ``relevant``.

    Example:
        >>> import torch
        >>> users, items = torch.tensor([[1.0]]), torch.tensor([[3.0], [2.0], [1.0]])
        >>> train = Interactions([0], [0], num_users=1, num_items=3)
        >>> test = Interactions([0], [1], num_users=1, num_items=3)
        >>> evaluate_ranking(users, items, test, seen=train, ks=[1], metrics=["recall"])["recall@1"]
        1.0
    """
    relevant = checked_interactions("relevant", relevant, "positives")
    _check_nodes(user_embeddings, item_embeddings, relevant)

    def best(users: Tensor, k: int, seen: Interactions | None) -> TopK:
        return top_k(user_embeddings, item_embeddings, k, seen=seen, users=users, residual=residual)

    return measure_lists(best, relevant, seen, ks, metrics, per_user)


@torch.no_grad()
def evaluate_scores(
    scores: Callable[[Tensor], Tensor],
    relevant: Interactions,
    *,
    seen: Interactions | None = None,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    chunk_size: int | None = None,
    per_user: bool = False,
) -> Evaluation:
    """Evaluate any function that scores all items for a user, as `evaluate_ranking` does.

    Args:
        scores: maps (B,) int64 users to (B, num_items) floating scores; an item of score -inf is
            never ranked.
        relevant: the edges to find.
        seen: edges whose items are masked for their user, unless they are relevant.
        ks: list lengths, each at most the number of items; None for 20, or all items if there are
            fewer.
        metrics: names out of `lightgcn.ranking.metrics.RANKING_METRICS` and
            `lightgcn.ranking.list_metrics.LIST_METRICS`.
        per_user: keep the values of each user (`Evaluation.per_user`), for intervals, comparisons
            and groups.
        chunk_size: users at a time; None for about ten million scores at a time.

    Raises:
        ValueError: if no user has a relevant item, a k or a metric's name is wrong, ``seen`` is of
            different nodes than ``relevant``, or scores have a wrong shape or are NaN.

    Example:
        >>> import torch
        >>> graph = Interactions([0, 1], [0, 1], num_users=2, num_items=3)
        >>> def scores(users):
        ...     return torch.tensor([3.0, 2.0, 1.0]).expand(len(users), 3)
        >>> evaluate_scores(scores, graph, ks=[1], metrics=["recall"])["recall@1"]
        0.5
    """
    relevant = checked_interactions("relevant", relevant, "positives")
    check_scores(scores)

    def best(users: Tensor, k: int, seen: Interactions | None) -> TopK:
        return top_k_scores(scores, users, relevant.num_items, k, seen=seen, chunk_size=chunk_size)

    return measure_lists(best, relevant, seen, ks, metrics, per_user)


def _check_nodes(users: Tensor, items: Tensor, graph: Interactions) -> None:
    check_floating(2, user_embeddings=users, item_embeddings=items)
    if (len(users), len(items)) != (graph.num_users, graph.num_items):
        raise ValueError(
            f"there are embeddings of {len(users)} users and {len(items)} items, but the edges to "
            f"predict are {graph}"
        )
