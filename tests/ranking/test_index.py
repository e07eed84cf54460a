"""The FAISS index finds what `recommend` finds, or says what it lacks."""

from __future__ import annotations

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightgcn import Interactions, LightGCN, RankingConfig, Recommender
from lightgcn.convert import embeddings_to_parquet
from lightgcn.datasets import synthetic_interactions
from lightgcn.ranking.index import left_out


def a_recommender(ids: bool = True, **ranking: Any) -> Recommender:
    graph = synthetic_interactions(80, 60, 900)
    if ids:
        graph = graph.with_ids(
            np.array([f"u{n}" for n in range(80)], object),
            np.array([f"s{n}" for n in range(60)], object),
        )
    model = LightGCN(80, 60, 8, 2, init_std=0.5, seed=2)
    model.ranking = RankingConfig(**ranking)
    return Recommender(model, graph)


@pytest.mark.parametrize(
    "parts", [{}, {"popularity_prior": 0.1}, {"popularity_prior": 0.1, "spectral": 6}]
)
@pytest.mark.parametrize("ids", [False, True])
def test_faiss_finds_the_items_of_recommend(
    tmp_path: Path, ids: bool, parts: dict[str, Any]
) -> None:
    faiss = pytest.importorskip("faiss")
    recommender = a_recommender(ids, **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recommender.export_index(tmp_path / "new" / "items.faiss") is None
    index = faiss.read_index(str(tmp_path / "new" / "items.faiss"))
    names = json.loads((tmp_path / "new" / "items.faiss.ids.json").read_text())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "items.faiss",
        "items.faiss.ids.json",
    ]
    users = [f"u{n}" if ids else n for n in range(80)]
    scores, rows = index.search(recommender.query(users).numpy(), 10)
    for best, found, row in zip(
        recommender.recommend(users, 10, exclude_seen=False), scores, rows, strict=True
    ):
        assert [names[at] for at in row] == [item.id for item in best]
        np.testing.assert_allclose(found, [item.score for item in best], rtol=1e-4, atol=1e-5)
    # One user, and a new one.
    assert torch.equal(recommender.query(users[3]), recommender.query(users)[3])
    given = [names[at] for at in (1, 5, 8)]
    _, rows = index.search(recommender.query_new(given).numpy()[None], 13)
    found = [names[at] for at in rows[0] if names[at] not in given][:10]
    assert found == [item.id for item in recommender.recommend_new(given, 10)]


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"item_knn": 5}, ("item kNN",)),
        ({"user_knn": 5}, ("user kNN",)),
        ({"item_knn": 5, "user_knn": 5}, ("item kNN", "user kNN")),
    ],
)
def test_the_overlap_without_neighbours_is_measured(
    tmp_path: Path, parts: dict[str, Any], named: tuple[str, ...]
) -> None:
    pytest.importorskip("faiss")
    recommender = a_recommender(popularity_prior=0.1, **parts)
    with pytest.warns(UserWarning, match=" and no ".join(named)) as seen:
        lacks = recommender.export_index(tmp_path / "items.faiss")
    ranker = recommender.ranker
    scores = ranker.users @ ranker.items.T
    history = ranker.history
    scores[history.users, history.items] = -torch.inf
    shares = []
    for user in range(80):
        best = {item.index for item in recommender.recommend(f"u{user}", 10)}
        shares.append(len(best & set(scores[user].topk(10).indices.tolist())) / 10)
    assert lacks is not None and lacks.parts == named and lacks.num_users == 80
    assert lacks.overlap == pytest.approx(np.mean(shares)) and lacks.overlap < 1
    assert f"{lacks.overlap:.0%}" in str(seen[0].message)


def test_nothing_is_lacking_without_users_or_weight() -> None:
    assert left_out(a_recommender(item_knn=5, item_knn_weight=0.0).ranker) is None
    full = Interactions([0, 0, 1, 1], [0, 1, 0, 1], 2, 2)
    model = LightGCN(2, 2, 4)
    model.ranking = RankingConfig(item_knn=1)
    lacks = left_out(Recommender(model, full).ranker)
    assert lacks is not None and (lacks.num_users, lacks.overlap) == (0, 1.0)


def test_parquet_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.warns(UserWarning, match="no item kNN: its top 10 share"):
        embeddings_to_parquet(a_recommender(popularity_prior=0.1, item_knn=5), tmp_path)


def test_bad_paths_and_a_missing_faiss_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    recommender = a_recommender()
    with pytest.raises(ValueError, match="is a folder"):
        recommender.export_index(tmp_path)
    with pytest.raises(ValueError, match="'nobody'"):
        recommender.query("nobody")
    with pytest.raises(ValueError, match="'nothing'"):
        recommender.query_new(["nothing"])
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"lightgcn\[faiss\]"):
        recommender.export_index(tmp_path / "items.faiss")
    assert not list(tmp_path.iterdir())
