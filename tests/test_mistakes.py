"""Natural mistakes: each call works where the meaning is plain, else its error names what to pass.

`REFUSED` holds the mistakes that people make; the sweep gives every argument every wrong kind of
object, and accepts a result or an error that names the argument.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lightgcn
from lightgcn import (
    Adjacency,
    Interactions,
    LightGCN,
    LinkSet,
    Preset,
    Ranker,
    Recommender,
    Split,
    convert,
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
    fit,
    link_set,
    normalized_adjacency,
    preset,
    propagate,
    ranking,
    split_edges,
    top_k,
    train,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph import subgraph
from lightgcn.graph.side_nodes import SideNodes

USERS, ITEMS = 40, 30
GRAPH = synthetic_interactions(USERS, ITEMS, 300, seed=1)
EDGES = GRAPH.edge_index
WITH_IDS = GRAPH.with_ids(
    np.array([f"u{user}" for user in range(USERS)], dtype=object),
    np.array([f"i{item}" for item in range(ITEMS)], dtype=object),
)
SPLIT = split_edges(GRAPH, stratify="user")
TEST = SPLIT.test
MODEL = LightGCN(USERS, ITEMS, 8, 2)
ADJACENCY = normalized_adjacency(GRAPH)
RECOMMENDER = Recommender(MODEL, WITH_IDS)
RANKER = RECOMMENDER.ranker
Z_USERS, Z_ITEMS = RANKER.users, RANKER.items
FRAME = pd.DataFrame({"user": EDGES[0].tolist(), "item": EDGES[1].tolist()})
ONE = torch.tensor([1])
WANTED = torch.ones(3, requires_grad=True)


class Wrapped(nn.Module):
    """As DistributedDataParallel holds a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def fitted(*arguments: Any) -> Any:
    return fit(LightGCN(USERS, ITEMS, 8, 2), *arguments)


# A call, and words that its error has: the argument, and what to pass instead.
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: split_edges(EDGES), "interactions", "from_edge_index"),
    (lambda: split_edges(SPLIT), "interactions", ".message|.train"),
    (lambda: fitted(GRAPH), "split", "split_edges"),
    (lambda: fitted(SPLIT.train), "split", "whole split"),
    (lambda: fit(SPLIT, MODEL), "model", "LightGCN"),
    (lambda: fit(Wrapped(MODEL), SPLIT), "model", ".module"),
    (lambda: fitted(SPLIT, {"epochs": 3}), "settings", "preset"),
    (lambda: train(GRAPH), "split", "split_edges"),
    (lambda: train(SPLIT, "quick"), "preset", "fast"),
    (lambda: train(SPLIT, "fast", lr=0.1), "lr", "learning_rate"),
    (lambda: evaluate(MODEL, SPLIT), "links", "split.test"),
    (lambda: evaluate(MODEL, GRAPH), "links", "link_set"),
    (lambda: evaluate(MODEL, EDGES), "links", "LinkSet"),
    (lambda: evaluate(TEST, MODEL), "links", "model comes first"),
    (lambda: evaluate(Wrapped(MODEL), TEST), "model", ".module"),
    (lambda: evaluate(RANKER, TEST), "held-out", "the model itself"),
    (lambda: evaluate(MODEL, TEST, ks=20), "ks", "20"),
    (lambda: evaluate(MODEL, TEST, metrics="recall"), "metrics", "list"),
    (lambda: evaluate_links(Z_USERS, Z_ITEMS, SPLIT), "links", "split.test"),
    (lambda: evaluate_links(Z_ITEMS, Z_USERS, TEST), f"{ITEMS} users", f"{USERS} users"),
    (lambda: evaluate_ranking(Z_USERS, Z_ITEMS, TEST), "relevant", ".positives"),
    (lambda: evaluate_ranking(Z_USERS, Z_ITEMS, TEST.positives, seen=TEST), "seen", ".message"),
    (lambda: evaluate_scores(ranking.popularity(GRAPH), GRAPH), "scores", ".scores"),
    (lambda: evaluate_scores(MODEL, GRAPH), "scores", "evaluate"),
    (lambda: normalized_adjacency(EDGES), "Interactions", "from_edge_index"),
    (lambda: normalized_adjacency(SPLIT), "Interactions", ".message"),
    (lambda: normalized_adjacency(ADJACENCY), "Adjacency", "Interactions"),
    (lambda: normalized_adjacency(GRAPH, "sym"), "normalization", "symmetric"),
    (lambda: Recommender(MODEL, ADJACENCY), "graph", "Interactions"),
    (lambda: Recommender(MODEL, SPLIT.val), "graph", ".message"),
    (lambda: Recommender(MODEL), "graph", "Interactions"),
    (lambda: Recommender(GRAPH, MODEL), "model", "comes first"),
    (lambda: Recommender(RANKER, GRAPH), "graph", "leave"),
    (lambda: Recommender(Wrapped(MODEL), GRAPH), "model", ".module"),
    (lambda: Recommender(MODEL, GRAPH, side_nodes=ONE), "side_nodes", "SideNodes.of"),
    (lambda: Recommender(MODEL, GRAPH, item_columns=["a"]), "item_columns", "dict"),
    (lambda: Ranker.from_model(MODEL, GRAPH, config=preset("fast")), "config", ".ranking"),
    (lambda: RECOMMENDER.recommend("ann"), "user", "ann"),
    (lambda: RECOMMENDER.recommend(3), "user", "3"),
    (lambda: RECOMMENDER.recommend("u1", k=ITEMS + 1), "k is", str(ITEMS)),
    (lambda: RECOMMENDER.recommend("u1", exclude="i1"), "exclude", "'i1'"),
    (lambda: RECOMMENDER.recommend_new("i1"), "items", "list"),
    (lambda: RECOMMENDER.recommend_new(["i1"], weights=[1, 2]), "weights", "as many"),
    (lambda: MODEL(GRAPH, EDGES.T), "edges", "edges.T"),
    (lambda: MODEL(GRAPH, EDGES.float()), "edges", "integers"),
    (lambda: MODEL(GRAPH, EDGES > 3), "edges", "integers"),
    (lambda: MODEL(GRAPH, EDGES + torch.tensor([[0], [USERS]])), "edges", "from_homogeneous"),
    (lambda: MODEL(TEST, EDGES), "LinkSet", ".message"),
    (lambda: MODEL(SPLIT, EDGES), "Split", ".message"),
    (lambda: MODEL(ADJACENCY.to_dense(), EDGES), "dense", "to_sparse"),
    (lambda: MODEL.embed_nodes(GRAPH, [1]), "nodes", "tensor"),
    (lambda: propagate(GRAPH, MODEL.embedding, [1.0]), "adjacency", "normalized_adjacency"),
    (lambda: Adjacency.from_sparse(ADJACENCY, USERS, ITEMS), "sparse", "already"),
    (lambda: RANKER.score_users(ONE - 2), "users", "-1"),
    (lambda: RANKER.score_pairs(ONE, ONE + ITEMS), "items", str(ITEMS + 1)),
    (lambda: RANKER.fold_in(EDGES), "history", "from_edge_index"),
    (lambda: top_k(MODEL, Z_ITEMS, 3), "user_embeddings", "tensor"),
    (lambda: top_k(Z_USERS, Z_ITEMS, 3, seen=TEST), "seen", ".message"),
    (lambda: MODEL(ADJACENCY.to_sparse_coo().requires_grad_(), EDGES), "gradient", "detach"),
    (lambda: Interactions([0], [0], 1, 1, WANTED[:1]), "weights", "detach"),
    (lambda: LightGCN(3, 3, num_layers=2, alpha=WANTED), "alpha", "learnable"),
    (
        lambda: lightgcn.in_batch_softmax_loss(Z_USERS, Z_USERS, temperature=WANTED),
        "temper",
        "number",
    ),
    (lambda: lightgcn.save_model("model", RECOMMENDER), "model", "LightGCN"),
    (lambda: LinkSet(EDGES, EDGES, EDGES), "message", "from_edge_index"),
    (lambda: lightgcn.sample_negative_items(EDGES, ONE, 0), "exclude", "from_edge_index"),
    (lambda: lightgcn.tune(GRAPH, "search", trials=1), "split", "split_edges"),
    (lambda: ranking.ease(EDGES), "train", "from_edge_index"),
    (lambda: Preset("fast"), "model", "preset"),
    (lambda: Interactions.from_edge_index(EDGES.T), "edge_index", "edge_index.T"),
    (lambda: Interactions.from_frame(FRAME, "listener"), "listener", "'user'"),
    (lambda: Interactions.from_edge_index(EDGES, order=["monday"] * 300), "order", "to_datetime"),
]


def test_mistakes_are_refused_with_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, (call, *words) in enumerate(REFUSED):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        for word in words:
            assert any(each in str(caught.value) for each in word.split("|")), (place, caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_plain_works() -> None:
    expected = MODEL(GRAPH, EDGES)
    forms: tuple[Any, ...] = (EDGES.tolist(), EDGES.numpy(), EDGES.int(), tuple(EDGES), GRAPH)
    for form in forms:
        assert torch.equal(MODEL(GRAPH, form), expected)
        assert torch.equal(MODEL(form, EDGES), expected)
        if form is not GRAPH:
            assert Interactions.from_edge_index(form, USERS, ITEMS).same_edges(GRAPH)
    built = Interactions.from_edge_index(np.stack([FRAME["user"], FRAME["item"]]))
    columns = Interactions(FRAME["user"], FRAME["item"], USERS, ITEMS)
    assert built.same_edges(GRAPH) and columns.same_edges(GRAPH)
    times = pd.date_range("2020", periods=GRAPH.num_edges).to_series()
    for order in (times, times.to_numpy(), times.tolist(), list(range(GRAPH.num_edges))):
        by_time = split_edges(GRAPH, stratify="user", order=order)
        last = by_time.test.positives
        assert torch.equal(last.users.unique(), TEST.positives.users.unique())
    assert GRAPH.select([0, 2]).num_edges == 2
    assert torch.equal(RANKER.score_users([1, 2]), RANKER.score_users(torch.tensor([1, 2])))  # type: ignore[arg-type]
    scores = evaluate_scores(lambda users: Z_USERS[users] @ Z_ITEMS.T, TEST.positives)
    arrays = evaluate_scores(lambda users: (Z_USERS[users] @ Z_ITEMS.T).numpy(), TEST.positives)  # type: ignore[arg-type,return-value]
    assert arrays == scores


def objects() -> dict[str, Any]:
    """One of each kind of thing that a caller may hold."""
    return {
        "edge_index": EDGES,
        "list": EDGES.tolist(),
        "numpy": EDGES.numpy(),
        "frame": FRAME,
        "graph": GRAPH,
        "adjacency": ADJACENCY,
        "split": SPLIT,
        "links": TEST,
        "model": MODEL,
        "wrapped": Wrapped(MODEL),
        "ranker": RANKER,
        "recommender": RECOMMENDER,
        "scorer": ranking.popularity(GRAPH),
        "none": None,
        "text": "twelve",
        "number": 3.5,
        "negative": -1,
        "nan": float("nan"),
        "true": True,
        "floats": torch.rand(3, 4),
        "bools": EDGES > 3,
        "scalar": torch.tensor(3),
        "scipy": GRAPH.to_scipy(),
        "sparse": ADJACENCY.to_sparse_coo(),
        "dict": {},
        "set": {1, 2},
        "class": LightGCN,
        "settings": preset("fast"),
    }


# A call of one argument, by the words of which its error has one.
SWEEP: list[tuple[str, Callable[[Any], Any]]] = [
    ("interactions", lambda x: split_edges(x)),
    ("ratios", lambda x: split_edges(GRAPH, x)),
    ("order", lambda x: split_edges(GRAPH, stratify="user", order=x)),
    ("known", lambda x: split_edges(GRAPH, known=x)),
    ("seed", lambda x: split_edges(GRAPH, seed=x)),
    ("disjoint", lambda x: split_edges(GRAPH, disjoint=x)),
    ("negatives", lambda x: split_edges(GRAPH, negatives=x)),
    ("split", lambda x: None if x is SPLIT else fitted(x)),
    ("model", lambda x: None if x is MODEL else fit(x, SPLIT)),
    ("split", lambda x: None if x is SPLIT else train(x)),
    ("links", lambda x: evaluate(MODEL, x)),
    ("model|ranker", lambda x: evaluate(x, TEST)),
    ("ks|k is|k must", lambda x: None if x is TEST else evaluate(MODEL, TEST, ks=x)),
    ("metric", lambda x: evaluate(MODEL, TEST, metrics=x)),
    ("links", lambda x: evaluate_links(Z_USERS, Z_ITEMS, x)),
    ("embeddings", lambda x: evaluate_links(x, Z_ITEMS, TEST)),
    ("embeddings", lambda x: evaluate_links(Z_USERS, x, TEST)),
    ("residual", lambda x: evaluate_links(Z_USERS, Z_ITEMS, TEST, residual=x)),
    ("relevant", lambda x: evaluate_ranking(Z_USERS, Z_ITEMS, x)),
    ("embeddings", lambda x: evaluate_ranking(x, Z_ITEMS, GRAPH)),
    ("seen", lambda x: evaluate_ranking(Z_USERS, Z_ITEMS, TEST.positives, seen=x)),
    ("residual", lambda x: evaluate_ranking(Z_USERS, Z_ITEMS, GRAPH, residual=x)),
    ("relevant", lambda x: evaluate_scores(RANKER.score_users, x)),
    ("seen", lambda x: evaluate_scores(RANKER.score_users, TEST.positives, seen=x)),
    ("Interactions", lambda x: normalized_adjacency(x)),
    ("normalization", lambda x: normalized_adjacency(GRAPH, x)),
    ("dtype", lambda x: normalized_adjacency(GRAPH, dtype=x)),
    ("sparse|adjacency", lambda x: Adjacency.from_sparse(x, USERS, ITEMS)),
    ("adjacency", lambda x: propagate(x, MODEL.embedding, (0.5, 0.5))),
    ("x must", lambda x: propagate(ADJACENCY, x, (0.5, 0.5))),
    ("alpha", lambda x: propagate(ADJACENCY, MODEL.embedding, x)),
    ("edges", lambda x: MODEL(GRAPH, x)),
    ("edge_index|graph|adjacency|items", lambda x: MODEL(x, EDGES)),
    ("nodes", lambda x: MODEL.embed_nodes(GRAPH, x)),
    ("num_users", lambda x: LightGCN(x, 3)),
    ("embedding_dim", lambda x: LightGCN(3, 3, x)),
    ("alpha", lambda x: LightGCN(3, 3, alpha=x)),
    ("init|features", lambda x: LightGCN(3, 3, init=x)),
    ("init_std", lambda x: LightGCN(3, 3, init_std=x)),
    ("normalization", lambda x: LightGCN(3, 3, normalization=x)),
    ("model", lambda x: None if x is RANKER else Recommender(x, GRAPH)),
    ("graph", lambda x: Recommender(MODEL, x)),
    ("side_nodes", lambda x: Recommender(MODEL, GRAPH, side_nodes=x)),
    ("item_columns", lambda x: Recommender(MODEL, GRAPH, item_columns=x)),
    ("user", lambda x: RECOMMENDER.recommend(x)),
    ("k must|k is", lambda x: RECOMMENDER.recommend("u1", x)),
    ("exclude|item", lambda x: RECOMMENDER.recommend("u1", exclude=x)),
    ("only|item", lambda x: RECOMMENDER.recommend("u1", only=x)),
    ("item", lambda x: RECOMMENDER.recommend_new(x)),
    ("weights", lambda x: RECOMMENDER.recommend_new(["i1", "i2"], weights=x)),
    ("item", lambda x: RECOMMENDER.similar_items(x)),
    ("only|item", lambda x: RECOMMENDER.similar_items("i1", only=x)),
    ("user", lambda x: RECOMMENDER.explain(x, "i1")),
    ("item", lambda x: RECOMMENDER.explain("u1", x)),
    ("only|exclude|item", lambda x: RECOMMENDER.item_mask(exclude=x)),
    ("users|user", lambda x: RECOMMENDER.recommend_in_chunks(users=x)),
    ("unknown", lambda x: RECOMMENDER.recommend_new(["i1"], unknown=x)),
    ("only", lambda x: RANKER.top_k(2, only=x)),
    ("exclude", lambda x: RANKER.top_k(2, exclude=x)),
    ("config", lambda x: Ranker.from_model(MODEL, GRAPH, config=x)),
    ("history", lambda x: RANKER.fold_in(x)),
    ("users", lambda x: RANKER.top_k(2, x)),
    ("seen", lambda x: RANKER.top_k(2, seen=x)),
    ("users", lambda x: RANKER.score_users(x)),
    ("users", lambda x: RANKER.score_pairs(x, ONE)),
    ("items", lambda x: RANKER.score_pairs(ONE, x)),
    ("embeddings", lambda x: top_k(x, Z_ITEMS, 3)),
    ("embeddings", lambda x: top_k(Z_USERS, x, 3)),
    ("residual", lambda x: top_k(Z_USERS, Z_ITEMS, 3, residual=x)),
    ("chunk_size", lambda x: top_k(Z_USERS, Z_ITEMS, 3, chunk_size=x)),
    ("edge_index", lambda x: Interactions.from_edge_index(x)),
    ("num_users", lambda x: Interactions.from_edge_index(EDGES, x)),
    ("weights", lambda x: Interactions.from_edge_index(EDGES, weights=x)),
    ("order", lambda x: Interactions.from_edge_index(EDGES, order=x)),
    ("column", lambda x: Interactions.from_frame(x)),
    ("SciPy", lambda x: Interactions.from_scipy(x)),
    ("users", lambda x: Interactions(x, GRAPH.items, USERS, ITEMS)),
    ("edges|edge positions", lambda x: GRAPH.select(x)),
    ("users", lambda x: GRAPH.select_users(x)),
    ("user", lambda x: GRAPH.items_of(x)),
    ("other", lambda x: GRAPH.union(x)),
    ("message", lambda x: LinkSet(x, TEST.positives, TEST.negatives)),
    ("positives", lambda x: LinkSet(GRAPH, x, TEST.negatives)),
    ("negatives", lambda x: LinkSet(GRAPH, TEST.positives, x)),
    ("message", lambda x: link_set(x, TEST.positives)),
    ("split.train", lambda x: None if x is TEST else fitted(Split(x, SPLIT.val, TEST))),
    ("exclude", lambda x: lightgcn.sample_negatives(x, 3, 0)),
    ("num_samples", lambda x: lightgcn.sample_negatives(GRAPH, x, 0)),
    ("users", lambda x: lightgcn.sample_negative_items(GRAPH, x, 0)),
    ("seed", lambda x: lightgcn.sample_negative_items(GRAPH, ONE, x)),
    ("num_negatives", lambda x: lightgcn.sample_negative_items(GRAPH, ONE, 0, x)),
    ("logits", lambda x: lightgcn.bce_loss(x, torch.ones(3))),
    ("labels", lambda x: lightgcn.bce_loss(torch.ones(3), x)),
    ("positive|(B, n)", lambda x: lightgcn.bpr_loss(x, torch.ones(3))),
    ("negative|(B, n)", lambda x: lightgcn.softmax_loss(torch.ones(3), x)),
    ("temperature", lambda x: lightgcn.softmax_loss(torch.ones(3), torch.ones(3, 2), x)),
    ("users|(B, d)", lambda x: lightgcn.in_batch_softmax_loss(x, torch.ones(3, 2))),
    ("embeddings", lambda x: lightgcn.l2_penalty(x, batch_size=2)),
    ("batch_size", lambda x: lightgcn.l2_penalty(torch.ones(3, 2), batch_size=x)),
    ("preset", lambda x: preset(x)),
    ("epochs", lambda x: preset("fast", epochs=x)),
    ("model", lambda x: Preset(x)),
    ("train", lambda x: ranking.popularity(x)),
    ("train", lambda x: ranking.gf_cf(x)),
    ("history", lambda x: ranking.popularity(GRAPH).for_users(x)),
    ("users", lambda x: ranking.popularity(GRAPH).scores(x)),
    ("train", lambda x: ranking.nearest_items(x, 3)),
    ("edge_index", lambda x: convert.from_homogeneous(x, USERS, ITEMS)),
    ("interactions", lambda x: convert.to_homogeneous(x)),
    ("NetworkX", lambda x: convert.from_networkx(x)),
    ("group", lambda x: SideNodes.of(x)),
    ("interactions", lambda x: subgraph.k_core(x, 2)),
    ("user", lambda x: subgraph.ego_graph(GRAPH, x)),
]


def test_every_wrong_kind_of_argument_is_named_or_works() -> None:
    for place, (words, call) in enumerate(SWEEP):
        for kind, given in objects().items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    call(given)
            except (TypeError, ValueError) as error:
                named = any(word in str(error) for word in words.split("|"))
                assert named, (place, words, kind, error)
            except Exception as error:
                raise AssertionError((place, words, kind)) from error
