"""`Recommender.add_items` and `add_users`: by id, with names, stored, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender
from lightgcn.graph.side_nodes import SideNodes

USERS, ITEMS = 12, 9


def a_graph(ids: bool = True, **extra: Any) -> Interactions:
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(4)) < 0.35
    dense[11] = False
    users, items = dense.nonzero(as_tuple=True)
    if ids:
        extra["user_ids"] = [f"u{n}" for n in range(USERS)]
        extra["item_ids"] = [f"s{n}" for n in range(ITEMS)]
    if extra.pop("weighted", False):
        extra["weights"] = torch.ones(len(users)).double()
    return Interactions(users, items, USERS, ITEMS, **extra)


def a_recommender(graph: Interactions, new_items: bool = True, **ranking: Any) -> Recommender:
    model = LightGCN(USERS, ITEMS, 4, 2, init_std=0.5, seed=1).double()
    model.ranking = RankingConfig(**ranking)
    names = {"name": [f"Song {n}" for n in range(ITEMS)], "artist": ["Ash"] * ITEMS}
    return Recommender(model, graph, item_columns=names, new_items=new_items)


NEW = {"x": ["u1", "u2", "u2"], "y": ["u2"]}


@pytest.mark.parametrize("parts", [{}, {"popularity_prior": 0.1, "item_knn": 3, "user_knn": 3}])
def test_new_items_are_recommended_with_their_names(tmp_path: Path, parts: dict[str, Any]) -> None:
    recommender = a_recommender(a_graph(), **parts)
    grown = recommender.add_items(NEW, columns={"name": ["Dawn", "Dusk"]})
    assert recommender.seen.num_items == ITEMS and grown.seen.num_items == ITEMS + 2
    every = grown.recommend("u3", ITEMS + 2, exclude_seen=False)
    assert len(every) == ITEMS + 2
    labels = {item.id: item.label for item in every}
    assert labels["x"] == "Dawn" and labels["s3"] == "Song 3 by Ash"
    # Its users have it already; it has a known item's place elsewhere.
    assert "x" not in {item.id for item in grown.recommend("u2", ITEMS)}
    assert [item.id for item in grown.recommend("u3", 1, only=["Dusk"])] == ["y"]
    assert "x" in {item.id for item in grown.similar_items("s1", ITEMS + 1)}
    assert {"x", "y"} <= {item.id for item in grown.recommend_new(["s1"], ITEMS + 1)}
    grown.save(tmp_path / "grown")
    loaded = Recommender.load(tmp_path / "grown")
    for user in ("u0", "u2", "u11"):
        found = loaded.recommend(user, 5)
        assert [item.id for item in found] == [item.id for item in grown.recommend(user, 5)]
    again = loaded.add_items({"z": ["u1"]})
    assert again.item_index("z") == ITEMS + 2


def test_a_new_item_alone_tells_nothing_of_a_new_user() -> None:
    grown = a_recommender(a_graph()).add_items(NEW)
    with pytest.raises(ValueError, match="untrained"):
        grown.recommend_new(["x"])
    # Beside others it only counts as one of the user's items.
    alone, beside = (grown.recommend_new(items, 4) for items in (["s1"], ["s1", "x"]))
    assert [item.id for item in beside if item.id != "x"][:3] == [
        item.id for item in alone if item.id != "x"
    ][:3]


def test_the_same_with_indices_for_ids_and_with_weights() -> None:
    grown = a_recommender(a_graph(ids=False)).add_items({40: [1, 2]})
    assert grown.item_index(40) == ITEMS and grown.item_index(3) == 3
    weighted = a_recommender(a_graph(weighted=True))
    light, heavy = (weighted.add_items({"x": {"u1": 1.0, "u2": w}}) for w in (1.0, 50.0))
    plain = a_recommender(a_graph()).add_items({"x": ["u1", "u2"]})
    torch.testing.assert_close(light.ranker.items, plain.ranker.items)
    assert not torch.allclose(light.ranker.items[-1], heavy.ranker.items[-1])


@pytest.mark.parametrize("parts", [{}, {"popularity_prior": 0.1, "item_knn": 3}])
def test_added_users_get_what_recommend_new_gives(parts: dict[str, Any]) -> None:
    recommender = a_recommender(a_graph(), **parts)
    grown = recommender.add_users({"cid": ["s1", "Song 4"], "dot": ["s2"]})
    for user, items in (("cid", ["s1", "s4"]), ("dot", ["s2"])):
        wanted = recommender.recommend_new(items, 5)
        found = grown.recommend(user, 5)
        assert [item.id for item in found] == [item.id for item in wanted]
        np.testing.assert_allclose(
            [item.score for item in found], [item.score for item in wanted], rtol=1e-6
        )
    # New users send nothing, so an item of theirs alone has no embedding.
    with pytest.raises(ValueError, match=r"'x'.*none of its users"):
        grown.add_items({"x": ["cid"]})
    assert grown.add_items({"x": ["cid", "u1"]}).seen.num_users == USERS + 2


def test_refusals_name_the_new_node_and_what_is_wrong() -> None:
    recommender = a_recommender(a_graph())
    kept = recommender.seen.num_items
    for given, *named in (
        ({"s1": ["u1"]}, "'s1'", "already"),
        ({7: ["u1"]}, "7", "strings"),
        ({"": ["u1"]}, "''"),
        ({True: ["u1"]}, "True"),
        ({"x": []}, "'x'", "no users"),
        ({"x": "u1"}, "'x'", "'u1'"),
        ({"x": 3}, "'x'", "3"),
        ({"x": {"u1": 2.0}}, "'x'", "2.0"),
        ({"x": ["nobody"]}, "'x'", "'nobody'"),
        ({"x": ["u11"]}, "'x'", "none of its users"),
        ({}, "empty"),
    ):
        with pytest.raises(ValueError) as caught:
            recommender.add_items(given)
        assert all(text in str(caught.value) for text in named), caught.value
    with pytest.raises(TypeError, match="list"):
        recommender.add_items(["x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'year'.*'name', 'artist'"):
        recommender.add_items(NEW, columns={"year": ["1", "2"]})
    with pytest.raises(ValueError, match="1 values for 2"):
        recommender.add_items(NEW, columns={"name": ["Dawn"]})
    with pytest.raises(ValueError, match=r"new item 'x' is 7|'x'.*integers"):
        a_recommender(a_graph(ids=False)).add_items({"x": [1]})
    weighted = a_recommender(a_graph(weighted=True))
    for given, text in (
        ({"x": ["u1"]}, "weights"),
        ({"x": {"u1": -1.0}}, "-1.0"),
        ({"x": {"u1": float("nan")}}, "nan"),
    ):
        with pytest.raises(ValueError, match=text):
            weighted.add_items(given)
    with pytest.raises(ValueError, match=r"'cid'.*'s99'"):
        recommender.add_users({"cid": ["s99"]})
    with pytest.raises(ValueError, match=r"'u1'.*already"):
        recommender.add_users({"u1": ["s1"]})
    assert recommender.seen.num_items == kept


def test_recommenders_that_cannot_add_say_how_to_make_one() -> None:
    graph = a_graph()
    with pytest.raises(ValueError, match="new_items=True"):
        a_recommender(graph, new_items=False).add_items(NEW)
    model, wider = (LightGCN(count, ITEMS, 4, 2) for count in (USERS, USERS + 1))
    with pytest.raises(ValueError, match="side nodes"):
        groups = SideNodes.of(torch.zeros(ITEMS, dtype=torch.int64))
        Recommender(wider, graph, side_nodes=groups, new_items=True)
    with pytest.raises(ValueError, match="new_items"):
        Recommender(Ranker.from_model(model, graph), new_items=True)


def test_a_file_without_the_table_is_read_and_refuses_new_items(tmp_path: Path) -> None:
    a_recommender(a_graph(), new_items=False).save(tmp_path / "old")
    loaded = Recommender.load(tmp_path / "old")
    assert loaded.recommend("u1", 2)
    with pytest.raises(ValueError, match="new_items=True"):
        loaded.add_items(NEW)
