"""Default dtypes and devices and autocast change no result of the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lightgcn
from lightgcn import (
    Adjacency,
    Interactions,
    LightGCN,
    LinkSet,
    Ranker,
    RankingConfig,
    Recommender,
    challenge,
    convert,
)
from lightgcn.datasets import (
    open_dataset,
    read_mpd,
    synthetic_interactions,
    write_synthetic_mpd,
)
from lightgcn.datasets.preprocess import Cuts, prepare_dataset
from lightgcn.graph import subgraph
from lightgcn.graph.links import link_set
from lightgcn.graph.negatives import sample_user_positives, saturated_users, shuffled_batches
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.spectral import spectral_embeddings
from lightgcn.ranking import baselines, graph_filters, sparse_ease
from lightgcn.ranking.item_knn import ItemKNN
from lightgcn.ranking.metrics import RANKING_METRICS
from lightgcn.ranking.residual import residual_of_links
from lightgcn.ranking.time_decay import decayed

USERS, ITEMS = 60, 45


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
        torch.set_default_device(None)


def plain(value: Any) -> Any:
    """Return what a result holds as nested lists, with the dtype and device of each tensor."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            value = value.to_dense()
        return str(value.dtype), str(value.device), value.detach().cpu().double().numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value
    if isinstance(value, Adjacency):
        return str(value.dtype), plain(value.to_dense())
    if isinstance(value, LinkSet):
        return [plain(part) for part in (value.message, value.edges, value.labels)]
    if isinstance(value, LightGCN):
        return {name: plain(part) for name, part in value.state_dict().items()}
    if isinstance(value, Ranker):
        tensors, metadata = value.to_tensors()
        return plain(tensors), metadata
    if isinstance(value, Recommender):
        return plain(value.ranker)
    if isinstance(value, Interactions):
        parts = {"users", "items", "weights", "order", "user_ids", "item_ids"}
        return {name: plain(getattr(value, name)) for name in sorted(parts)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if "seconds" not in str(key)}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def graph_calls() -> dict[str, Callable[[], Any]]:
    graph = synthetic_interactions(USERS, ITEMS, 500, seed=1, num_tastes=3)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(graph.num_edges, generator=generator) + 0.5
    order = torch.randperm(graph.num_edges, generator=generator)
    full = dataclasses.replace(graph, weights=weights, order=order)
    edges, listed = graph.edge_index, graph.edge_index.tolist()
    some, groups = torch.tensor([3, 0, 7]), torch.arange(ITEMS) // 4
    side = SideNodes.of(groups)
    frame = {"user": listed[0], "item": [f"i{i}" for i in listed[1]], "n": weights.tolist()}
    split = lightgcn.split_edges(full, stratify="user")
    again = {"seed": 3, "disjoint": 0.2}

    def split_of(**options: Any) -> list[Any]:
        made = lightgcn.split_edges(full, **again | options)
        return [*made, made.train.resample(2), made.test.sample_users(5), made.fingerprint()]

    return {
        "from_edge_index": lambda: [
            Interactions.from_edge_index(edges),
            Interactions.from_edge_index(listed, weights=weights.tolist(), order=order.tolist()),
            Interactions.from_edge_index(edges.numpy(), USERS, ITEMS, weights=weights.numpy()),
        ],
        "from_frame": lambda: Interactions.from_frame(frame, weight="n", order="n"),
        "from_scipy": lambda: Interactions.from_scipy(full.to_scipy(), weighted=True),
        "Interactions": lambda: [
            full.select(order[:30]),
            full.reindex(some, some),
            full.head_users(5),
            full.union(full),
            full.select_users(some),
            full.edges_of(some),
            full.contains(some, some),
            [full.user_degrees, full.item_degrees, full.indptr, full.items_of(2)],
            full.fingerprint(),
        ],
        "split_edges": lambda: [
            split_of(),
            split_of(stratify="user", order=order),
            split_of(negative_pairs="all"),
        ],
        "link_set": lambda: link_set(split.train.message, split.test.positives, seed=2),
        "negatives": lambda: [
            lightgcn.sample_negatives(graph, 40, 0),
            lightgcn.sample_negative_items(graph, some, 0, 4),
            sample_user_positives(graph, 20, 0),
            saturated_users(graph),
            list(shuffled_batches(30, 8, 0)),
        ],
        "normalized_adjacency": lambda: [
            lightgcn.normalized_adjacency(g, n)  # type: ignore[arg-type]
            for g in (graph, full)
            for n in ("mean", "symmetric", (0.2, 0.9))
        ],
        "subgraph": lambda: [
            subgraph.largest_component(graph, groups),
            subgraph.ego_graph(graph, 3),
            subgraph.k_core(graph, 5),
            subgraph.random_users(graph, 10, seed=0),
            subgraph.locality_order(graph),
            subgraph.rank_users_by_popularity(graph),
            subgraph.graph_statistics(graph),
        ],
        "side_nodes": lambda: [SideNodes.of(groups), side.extend(full), *side.extend_split(split)],
        "convert": lambda: [
            convert.to_homogeneous(graph),
            convert.from_homogeneous(convert.to_homogeneous(graph), USERS, ITEMS),
            convert.from_networkx(convert.to_networkx(full), "weight"),
        ],
        "baselines": lambda: [
            make(full).scores(some)
            for make in (
                baselines.popularity,
                baselines.item_cosine,
                baselines.ease,
                sparse_ease,
                graph_filters.gf_cf,
                graph_filters.cheby_cf,
            )
        ],
        "item_knn": lambda: [
            ItemKNN.from_graph(full, 4).of_users(some),
            ItemKNN.from_graph(full, 4).of_users(some[:0]),
            residual_of_links(ItemKNN.from_graph(full, 4), some, some),
            decayed(full, 0.7),
        ],
        "synthetic": lambda: synthetic_interactions(20, 20, 60, seed=3),
        "spectral": lambda: spectral_embeddings(graph, 4),
    }


def model_calls(folder: Path) -> dict[str, Callable[[], Any]]:
    graph = synthetic_interactions(USERS, ITEMS, 500, seed=1, num_tastes=3)
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    graph = dataclasses.replace(graph, order=order)
    split = lightgcn.split_edges(graph, stratify="user", seed=1)
    disjoint = lightgcn.split_edges(graph, disjoint=0.3)
    small: dict[str, Any] = {"embedding_dim": 8, "epochs": 2, "batch_size": 100}
    model = LightGCN(USERS, ITEMS, 8, 2)
    model.ranking = RankingConfig(0.2, 4, time_decay=0.8)
    recommender = Recommender(model, graph)
    ranker = recommender.ranker
    users, items = (part.detach() for part in model.embed(graph))
    some, edges = torch.tensor([3, 0, 7]), graph.edge_index.tolist()
    features = torch.rand(USERS, 4), torch.rand(ITEMS, 4)

    def trained(settings: str, links: Any = split, **options: Any) -> list[Any]:
        path = folder / f"{settings}-{torch.get_default_dtype()}-{len(list(folder.iterdir()))}"
        chosen = lightgcn.preset(settings, **small | options)
        first = chosen.new_model(links.val.message)
        result = lightgcn.fit(first, links, chosen, run_dir=path)
        longer = chosen.changed(epochs=3)
        again = chosen.new_model(links.val.message)
        resumed = lightgcn.fit(again, links, longer, run_dir=path, resume=True)
        return [first, result, again, resumed, lightgcn.evaluate(again, links.test)]

    def saved() -> list[Any]:
        lightgcn.save_model(folder / "model", model)
        recommender.save(folder / "recommender")
        return [lightgcn.load_model(folder / "model"), Recommender.load(folder / "recommender")]

    return {
        "LightGCN": lambda: [
            LightGCN(5, 4, 3, alpha=alpha, init=init)  # type: ignore[arg-type]
            for alpha in (None, "learnable", [0.1, 0.2, 0.3, 0.4])
            for init in ("normal", "xavier")
        ],
        "features": lambda: [LightGCN(USERS, ITEMS, d, init=features) for d in (2, 4, 6)],
        "forward": lambda: [
            model(graph, given) for given in (edges, graph, split.test, graph.edge_index)
        ],
        "edge_index": lambda: [model(edges, edges), model(graph.edge_index.numpy(), edges)],
        "embed_nodes": lambda: model.embed_nodes(graph, some),
        "tutorial": lambda: trained("tutorial", disjoint),
        "paper": lambda: trained("paper", positives="users", num_negatives=2),
        "fast": lambda: trained("fast", item_knn=4, block_size=32),
        "best": lambda: trained("best", learnable_alpha=True),
        "train": lambda: lightgcn.train(split, "fast", **small),
        "evaluate": lambda: [
            lightgcn.evaluate(model, split.test, ks=(3, 10), metrics=RANKING_METRICS),
            lightgcn.evaluate_links(users, items, split.test),
            lightgcn.evaluate_ranking(users, items, split.test.positives, seen=graph),
            lightgcn.evaluate_scores(ranker.score_users, split.test.positives),
        ],
        "top_k": lambda: [
            lightgcn.top_k(users, items, 5),
            lightgcn.top_k(users, items, 5, users=[1, 2], seen=graph, residual=ranker.item_knn),
            lightgcn.top_k(users, items, 5, users=some[:0]),
            lightgcn.top_k(users.bfloat16(), items.bfloat16(), 5, chunk_size=7),
        ],
        "Ranker": lambda: [
            Ranker.from_model(model, graph),
            ranker.score_users(some),
            ranker.score_pairs(some, some),
            ranker.top_k(4, some),
            ranker.fold_in(graph),
            ranker.fold_in(graph).score_users(some),
        ],
        "Recommender": lambda: [
            recommender.recommend(3),
            recommender.recommend([3, 4], exclude=[1], only=range(9), k=3),
            recommender.recommend_new([3, 4, 5], weights=[1, 2, 3]),
            recommender.similar_items(3, only=[1, 2, 3]),
            recommender.item_mask(exclude=[1]),
            recommender.explain(3, 4),
            list(recommender.recommend_in_chunks(2)),
            recommender.fold_in_user([1, 2]),
        ],
        "files": saved,
    }


def dataset_calls(folder: Path) -> dict[str, Callable[[], Any]]:
    slices, texts = folder / "slices", folder / "texts"
    texts.mkdir()
    write_synthetic_mpd(
        slices, num_playlists=400, num_tracks=1200, mean_length=90, slice_size=200, seed=5
    )
    (texts / "train.txt").write_text("0 1 2\n1 0 3\n")
    (texts / "test.txt").write_text("0 3\n1 1\n")
    (folder / "plays.csv").write_text("user,item,n\nann,a,2\nbob,b,1\nann,b,3\n")
    dataset = read_mpd(slices, order=True)
    made = challenge.make_challenge(dataset, 10, seed=3)
    graph = made.train.interactions
    model = LightGCN(graph.num_users, graph.num_items, 8, normalization="symmetric")
    columns: dict[str, Any] = {
        "user_columns": made.train.users,
        "item_columns": made.train.items,
    }
    recommenders = []
    for prior, neighbours in ((0.2, 5), (None, 0)):
        model.ranking = RankingConfig(prior, neighbours)
        recommenders.append(Recommender(model, graph, **columns))
    names = recommenders[0].user_columns["name"]
    titles = challenge.TitleIndex(names, graph)
    known = [playlist for playlist in made.playlists if playlist.seeds]

    return {
        "mpd": lambda: [read_mpd(slices, order=True), read_mpd(slices, processes=2)],
        "text": lambda: [open_dataset(texts), open_dataset(texts / "train.txt")],
        "table": lambda: open_dataset(folder / "plays.csv", user="user", item="item", weight="n"),
        "prepare": lambda: prepare_dataset(
            dataset, Cuts(k_core=2, sample=100, largest_component=True)
        )[0],
        "file": lambda: open_dataset(dataset.save(folder / "saved")),
        "make_challenge": lambda: challenge.make_challenge(dataset, 10, seed=3),
        "answers": lambda: [
            [
                challenge.answer_playlists(one, made.playlists, index, k=20)
                for one in recommenders
                for index in (None, titles)
            ],
            challenge.popular_tracks(recommenders[0], made.playlists, k=20),
            challenge.neighbouring_tracks(recommenders[0], known, k=20),
        ],
        "title_index": lambda: challenge.TitleIndex(names, graph).directions(
            [names[0], "nothing like it"], recommenders[1].ranker.users
        ),
    }


AROUND: dict[str, Callable[[], Any]] = {
    "float64": lambda: defaults(torch.float64, "meta"),
    "float16": lambda: defaults(torch.float16, "meta"),
    "bfloat16": lambda: defaults(torch.bfloat16, "meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def check(calls: dict[str, Callable[[], Any]], around: str) -> None:
    for name, call in calls.items():
        expected = plain(call())
        with AROUND[around]():
            found = call()
        np.testing.assert_equal(plain(found), expected, err_msg=name)


@pytest.mark.parametrize("around", AROUND)
def test_graphs_and_baselines(around: str) -> None:
    check(graph_calls(), around)


@pytest.mark.parametrize("around", AROUND)
def test_models_training_and_rankings(around: str, tmp_path: Path) -> None:
    check(model_calls(tmp_path), around)


@pytest.mark.slow
def test_datasets_and_the_challenge(tmp_path: Path) -> None:
    calls = dataset_calls(tmp_path)
    for around in ("bfloat16", "autocast"):
        check(calls, around)
