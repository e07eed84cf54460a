"""Answers of a recommender against loops and against graphs with the new user in them."""

from __future__ import annotations

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
    normalized_adjacency,
)
from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.graph.side_nodes import SideNodes

USERS, ITEMS = 7, 9
NAMES = ["Dawn", "Night", "Rain", "dawn", "Rain", "Echo", "1999", " Space ", ""]
ARTISTS = ["Ash", "Bel", "Cy", "Dee", "Eve", "Fay", "Gus", "Hal", ""]


def graph(**extra: Any) -> Interactions:
    """User 6 has seen everything but item 8; user 5 and item 8 are isolated but for that."""
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.4
    dense[6], dense[5], dense[:, 8] = True, False, False
    return Interactions.from_edge_index(dense.nonzero().T, USERS, ITEMS, **extra)


def model(num_layers: int = 2, alpha: Any = None) -> LightGCN:
    return LightGCN(USERS, ITEMS, 4, num_layers, alpha, seed=2).double()


def with_prior(chosen: LightGCN, weight: float) -> LightGCN:
    chosen.ranking = RankingConfig(popularity_prior=weight)
    return chosen


def normalised(chosen: LightGCN, normalization: Any) -> LightGCN:
    chosen.normalization = normalization
    return chosen


def recommender(num_layers: int = 2, **extra: Any) -> Recommender:
    columns = {"item_columns": {"name": NAMES, "artist": ARTISTS}}
    return Recommender.from_model(model(num_layers), graph(**extra), **columns)


def string_ids() -> dict[str, Any]:
    return {
        "user_ids": [f"u{n}" for n in range(USERS)],
        "item_ids": [f"track:{n}" for n in range(ITEMS)],
    }


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_recommend_equals_a_naive_ranking(exclude_seen: bool, k: int) -> None:
    interactions = graph()
    users, items = (z.detach() for z in model().embed(normalized_adjacency(interactions)))
    found = recommender()
    for user in range(USERS):
        seen = set(interactions.items_of(user).tolist()) if exclude_seen else set()
        popularity = interactions.item_degrees.double().log1p() / 1024
        row = items @ users[user] if len(interactions.items_of(user)) else popularity
        scores = {item: float(row[item]) for item in range(ITEMS) if item not in seen}
        expected = sorted(scores, key=lambda item: (-scores[item], item))[:k]
        answer = found.recommend(user, k, exclude_seen=exclude_seen)
        assert [one.index for one in answer] == expected
        assert [one.score for one in answer] == pytest.approx([scores[item] for item in expected])


def test_fewer_than_k_come_back_where_nearly_all_is_seen() -> None:
    assert [one.index for one in recommender().recommend(6, 9)] == [8]
    everything = Interactions.from_edge_index(
        torch.cartesian_prod(torch.arange(2), torch.arange(3)).T, 2, 3
    )
    assert Recommender.from_model(LightGCN(2, 3, 4), everything).recommend(0, 3) == []


def test_an_answer_says_all_that_is_known_of_the_item() -> None:
    best = recommender(**string_ids()).recommend("u6", 1)[0]
    assert (best.id, best.index, best.columns) == ("track:8", 8, {"name": "", "artist": ""})


def test_a_popularity_prior_is_in_every_answer_but_similar_items(tmp_path: Path) -> None:
    interactions, weight = graph(), 0.4
    users, items = (
        F.normalize(z.detach()) for z in model().embed(normalized_adjacency(interactions))
    )
    prior = weight * interactions.item_degrees.double().log1p()
    made = Recommender.from_model(with_prior(model(), weight), interactions)
    made.save(tmp_path / "recommender")
    for found in (made, Recommender.load(tmp_path / "recommender")):
        scores = users[0] @ items.T + prior
        assert [one.score for one in found.recommend(0, 3, exclude_seen=False)] == pytest.approx(
            scores.sort(descending=True).values[:3].tolist()
        )
        sent = Ranker.from_model(model(), interactions).fold_in_table[[1, 4]].sum(0).detach()
        scores = F.normalize(sent, dim=0) @ items.T + prior
        scores[[1, 4]] = -torch.inf
        best = found.recommend_new([1, 4], 2)
        assert [one.index for one in best] == scores.argsort(descending=True)[:2].tolist()
        assert [one.score for one in best] == pytest.approx(
            scores.sort(descending=True).values[:2].tolist()
        )
        cosines = items @ items[3]
        cosines[3] = -torch.inf
        assert found.similar_items(3, 1)[0].index == int(cosines.argmax())
        with pytest.raises(ValueError, match="has a user"):
            found.recommend_new([8], 2)


def with_a_receiving_row(
    interactions: Interactions, items: dict[int, float], exponents: tuple[float, float]
) -> Tensor:
    """The dense adjacency with one more user in the last row, whose column is empty: it receives
    and sends nothing."""
    nodes = USERS + ITEMS
    dense = torch.zeros(nodes + 1, nodes + 1, dtype=torch.float64)
    dense[:nodes, :nodes] = normalized_adjacency(
        interactions, exponents, dtype=torch.float64
    ).to_dense()
    weights = interactions.weights
    ones = torch.ones(interactions.num_edges) if weights is None else weights
    degrees = torch.zeros(ITEMS, dtype=torch.float64).index_add_(
        0, interactions.items, ones.double()
    )
    for item, weight in items.items():
        if degrees[item] > 0 or exponents[1] == 0:
            dense[nodes, USERS + item] = (
                weight / sum(items.values()) ** exponents[0] / degrees[item] ** exponents[1]
            )
    return dense


def propagated(dense: Tensor, table: Tensor, alpha: list[float]) -> Tensor:
    total = alpha[0] * table
    for weight in alpha[1:]:
        table = dense @ table
        total = total + weight * table
    return total


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("normalization", "exponents"),
    [("mean", (1.0, 0.0)), ("symmetric", (0.5, 0.5)), ((0.3, 0.9), (0.3, 0.9))],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_fold_in_equals_the_graph_with_a_user_who_only_receives(
    normalization: Any, exponents: tuple[float, float], num_layers: int, weighted: bool
) -> None:
    interactions = graph()
    items: dict[int, float] = {1: 1.0, 4: 1.0, 8: 1.0}
    if weighted:
        values = (
            torch.rand(interactions.num_edges, generator=torch.Generator().manual_seed(3)) + 0.5
        )
        interactions = graph(weights=values)
        items = {1: 0.1, 4: 3.3, 8: 1.7}
    alpha = [0.1, 0.4, 0.3, 0.2][: num_layers + 1]
    chosen = model(num_layers, alpha)
    table = torch.cat([chosen.embedding.detach(), torch.zeros(1, 4, dtype=torch.float64)])
    expected = propagated(with_a_receiving_row(interactions, items, exponents), table, alpha)[-1]

    found = Recommender.from_model(normalised(chosen, normalization), interactions)
    weights = list(items.values()) if weighted else None
    torch.testing.assert_close(
        found.fold_in_user(list(items), weights)[:4], expected, rtol=1e-10, atol=1e-12
    )

    answer = found.recommend_new(list(items), 4, weights=weights)
    scores = found.ranker.item_directions @ expected
    scores[list(items)] = -torch.inf
    assert [one.index for one in answer] == scores.argsort(descending=True, stable=True)[
        :4
    ].tolist()
    assert [one.score for one in answer] == pytest.approx(
        scores.sort(descending=True).values[:4].tolist(), rel=1e-5
    )


def test_fold_in_equals_really_adding_the_user_for_the_mean_of_one_layer() -> None:
    interactions, items = graph(), [0, 3, 7]
    chosen = model(1)
    edges = torch.cat([interactions.edge_index, torch.tensor([[USERS] * 3, items])], dim=1)
    larger = LightGCN(USERS + 1, ITEMS, 4, 1).double()
    with torch.no_grad():
        zero = torch.zeros(1, 4, dtype=torch.float64)
        larger.embedding.copy_(
            torch.cat([chosen.embedding[:USERS], zero, chosen.embedding[USERS:]])
        )
    users, _ = larger.embed(
        normalized_adjacency(Interactions.from_edge_index(edges, USERS + 1, ITEMS), "mean")
    )
    found = Recommender.from_model(normalised(chosen, "mean"), interactions).fold_in_user(items)
    torch.testing.assert_close(found[:4], users[USERS], rtol=1e-12, atol=1e-12)


def test_fold_in_with_learned_layer_weights() -> None:
    chosen = model(2, "learnable")
    with torch.no_grad():
        assert isinstance(chosen.alpha, torch.nn.Parameter)
        chosen.alpha.copy_(torch.tensor([0.1, 0.5, 0.4]))
    expected = Recommender.from_model(model(2, [0.1, 0.5, 0.4]), graph()).fold_in_user([1, 2])
    torch.testing.assert_close(
        Recommender.from_model(chosen, graph()).fold_in_user([1, 2]), expected
    )


def test_weights_of_a_repeated_item_add_up() -> None:
    weights = torch.rand(graph().num_edges, generator=torch.Generator().manual_seed(3)) + 0.5
    found = recommender(weights=weights)
    expected = found.fold_in_user([1, 2], [3.0, 3.0])
    torch.testing.assert_close(found.fold_in_user([1, 1, 2], [1, 2, 3]), expected)
    torch.testing.assert_close(
        found.fold_in_user(np.array([2, 1, 1]), torch.tensor([3.0, 1, 2])), expected
    )  # type: ignore[arg-type]


def test_questions_as_tensors_and_numpy_numbers() -> None:
    found = recommender()
    assert found.recommend(torch.tensor(3), np.int64(4)) == found.recommend(3, 4)  # type: ignore[arg-type]
    assert found.similar_items(np.int32(3), np.int64(4)) == found.similar_items(3, 4)  # type: ignore[arg-type]
    expected = found.recommend_new([1, 2], 4)
    for items in (torch.tensor([1, 2]), np.array([1, 2]), (np.int64(1), torch.tensor(2))):
        assert found.recommend_new(items, np.int64(4)) == expected  # type: ignore[arg-type]
    named = recommender(**string_ids())
    assert named.recommend(np.str_("u3"), 4) == named.recommend("u3", 4)


def test_what_is_no_question() -> None:
    found = recommender()
    for wrong in (3.0, None, True, [3.0]):
        with pytest.raises(ValueError, match="user must be one id or name"):
            found.recommend(wrong, 3)
    with pytest.raises(ValueError, match=r"item must be one id or name .*got \[3\]"):
        found.similar_items([3], 2)  # type: ignore[arg-type]
    for wrong in (3, torch.tensor(3), np.int64(3)):
        with pytest.raises(ValueError, match="items must be a list"):
            found.recommend_new(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights must be a list, got 2\.0"):
        found.recommend_new([3], 2, weights=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="items must be integers"):
        found.fold_in_user([1.5])  # type: ignore[list-item]


def test_a_repeated_item_counts_once() -> None:
    found = recommender(**string_ids())
    once = found.fold_in_user([2, 5])
    assert torch.equal(found.fold_in_user([2, 5, 2, 2]), once)
    assert torch.equal(found.fold_in_user(torch.tensor([2, 5, 2, 2])), once)  # type: ignore[arg-type]
    assert found.recommend_new(["track:2", "track:5", "track:2"], 3) == found.recommend_new(
        ["track:2", "Echo"], 3
    )


def test_what_a_new_user_cannot_be() -> None:
    found = recommender()
    with pytest.raises(ValueError, match="at least one item"):
        found.recommend_new([], 3)
    with pytest.raises(ValueError, match="items must be a list, got the one string 'Echo'"):
        found.recommend_new("Echo", 3)
    with pytest.raises(ValueError, match="unknown item 77"):
        found.recommend_new([1, 77], 3)
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(
            ValueError, match="weights must be as many as the items, finite and positive"
        ):
            found.recommend_new([1, 2], 3, weights=weights)
    # "12" is not the items "1" and "2".
    for options in ({"exclude": "12"}, {"only": "12"}, {"exclude": b"12"}):
        (name,) = options
        refusal = pytest.raises(ValueError, match=f"{name} must be a list.*12")
        with refusal:
            found.recommend(0, 3, **options)
        with refusal:
            found.recommend_new([1], 3, **options)
    for wrong in (9, -1):
        with pytest.raises(ValueError, match=r"items must be in \[0, 9\)"):
            found.fold_in_user([1, wrong])


def test_a_model_without_layers_cannot_fold_in() -> None:
    bare = Ranker.from_model(model(), graph(), fold_in=False)
    with pytest.raises(ValueError, match="fold_in=False"):
        bare.fold_in(graph())
    found = recommender(0)
    assert found.ranker.fold_in_table is None and len(found.recommend(0, 3)) == 3
    with pytest.raises(ValueError, match=r"cannot fold in.*without layers"):
        found.recommend_new([1], 3)
    with pytest.raises(ValueError, match="without layers"):
        found.ranker.fold_in(graph())


def test_similar_items_are_closest_by_cosine_without_the_item_itself() -> None:
    found = recommender()
    directions = found.ranker.item_directions
    for item in range(ITEMS):
        scores = [
            float(F.cosine_similarity(directions[other], directions[item], dim=0))
            for other in range(ITEMS)
        ]
        expected = sorted(
            (other for other in range(ITEMS) if other != item), key=lambda other: -scores[other]
        )
        answer = found.similar_items(item, ITEMS)
        assert [one.index for one in answer] == expected
        assert [one.score for one in answer] == pytest.approx([scores[other] for other in expected])


@pytest.mark.parametrize("k", [0, -1, 10, 2.0, "3"])
def test_a_k_out_of_range_is_refused(k: Any) -> None:
    found = recommender()
    for ask in (
        lambda: found.recommend(0, k),
        lambda: found.recommend_new([1], k),
        lambda: found.similar_items(1, k),
    ):
        with pytest.raises(
            ValueError,
            match=r"k must be an integer of at least 1|k is 10, but there are only 9 items",
        ):
            ask()


def test_ids_are_indices_where_there_are_none() -> None:
    found = recommender()
    assert found.user_index(3) == found.user_index("3") == found.user_index(np.int64(3)) == 3  # type: ignore[arg-type]
    assert found.recommend(0, 1)[0].id == found.recommend(0, 1)[0].index


def test_integer_ids() -> None:
    ids = {"user_ids": np.arange(USERS) * 10 + 5, "item_ids": np.arange(ITEMS) - 4}
    found = recommender(**ids)
    assert found.user_index(25) == found.user_index("25") == 2
    assert found.item_index(-4) == found.item_index("-4") == 0
    answer = found.recommend(65, 1)[0]
    assert answer.id == 4 and type(answer.id) is int
    with pytest.raises(ValueError, match="unknown user 2: there is no such id among 7 users"):
        found.user_index(2)


def test_string_ids() -> None:
    found = recommender(**string_ids())
    assert found.user_index("u3") == 3 and found.item_index(" track:5 ") == 5
    assert type(found.recommend("u0", 1)[0].id) is str
    with pytest.raises(ValueError, match="unknown user 3"):
        found.user_index(3)
    digits = recommender(item_ids=[str(100 + n) for n in range(ITEMS)])
    assert digits.item_index(103) == digits.item_index("103") == 3


def test_names() -> None:
    found = recommender(**string_ids())
    for name, index in (
        ("Echo", 5),
        ("eCHO", 5),
        (" echo ", 5),
        ("rain by eve", 4),
        ("Dawn by Dee", 3),
        ("1999", 6),
        ("space", 7),
        ("Space by Hal", 7),
    ):
        assert found.item_index(name) == index


def test_an_ambiguous_name_lists_the_candidates() -> None:
    found = recommender(**string_ids())
    with pytest.raises(ValueError) as caught:
        found.item_index("DAWN")
    degrees = graph().item_degrees.tolist()
    assert degrees[3] > degrees[0] == 1  # the most popular comes first
    said = str(caught.value)
    assert "2 items are called 'DAWN'" in said and said.endswith(
        f"track:3 (dawn by Dee, {degrees[3]} users), track:0 (Dawn by Ash, 1 user)"
    )
    popular = Recommender(found.ranker, item_columns=found.item_columns, ambiguous="popular")
    assert popular.item_index("DAWN") == 3
    assert popular.similar_items("dawn", 4) == found.similar_items("track:3", 4)
    assert popular.to("cpu").item_index("dawn") == 3
    with pytest.raises(ValueError, match='ambiguous must be "error" or "popular", got \'first\''):
        Recommender(found.ranker, ambiguous="first")  # type: ignore[arg-type]
    twins = Recommender(
        Ranker(
            torch.ones(1, 2),
            torch.ones(3, 2),
            Interactions.from_edge_index(torch.tensor([[0], [0]]), 1, 3),
            RankingConfig(),
        ),
        item_columns={"name": ["Echo", "Echo", "b"], "artist": ["Fay", "Fay", "c"]},
    )
    with pytest.raises(
        ValueError, match="2 items are called 'echo by fay'; give an id, most popular first: 0 "
    ):
        twins.item_index("echo by fay")


def test_an_unknown_name_lists_what_is_close() -> None:
    found = recommender(**string_ids())
    with pytest.raises(
        ValueError, match=r"unknown item 'igh': .* close to it: track:1 \(Night by Bel, "
    ):
        found.item_index("igh")
    with pytest.raises(ValueError, match=r"unknown item 'xyz': no such id or name among 9 items$"):
        found.item_index("xyz")


def test_an_id_goes_before_a_name() -> None:
    found = Recommender(
        Ranker(
            torch.ones(1, 2),
            torch.ones(3, 2),
            Interactions.from_edge_index(torch.tensor([[0], [0]]), 1, 3),
            RankingConfig(),
        ),
        item_columns={"name": ["2", "b", "c"]},
    )
    assert found.item_index("2") == 2


def test_users_have_names_too() -> None:
    found = Recommender.from_model(
        model(),
        graph(**string_ids()),
        user_columns={"name": [f"Playlist {n}" for n in range(USERS)]},
    )
    assert found.user_index("playlist 4") == 4
    with pytest.raises(
        ValueError, match=r"unknown user 'list 3': .*close to it: u3 \(Playlist 3, "
    ):
        found.user_index("list 3")


@pytest.mark.parametrize("num_layers", [0, 2])
@pytest.mark.parametrize("ids", ["none", "strings", "integers"])
def test_a_loaded_recommender_gives_the_same_answers(
    num_layers: int, ids: str, tmp_path: Path
) -> None:
    extra = {
        "none": {},
        "strings": string_ids(),
        "integers": {
            "user_ids": list(range(5, 5 + USERS)),
            "item_ids": list(range(50, 50 + ITEMS)),
        },
    }[ids]
    saved = recommender(num_layers, **extra)
    saved.save(tmp_path / "deep" / "model.recommender")
    loaded = Recommender.load(tmp_path / "deep" / "model.recommender")
    user = {"none": 2, "strings": "u2", "integers": 7}[ids]
    assert loaded.recommend(user, 5) == saved.recommend(user, 5)
    assert loaded.similar_items("Echo", 5) == saved.similar_items("Echo", 5)
    assert loaded.item_columns == saved.item_columns
    assert (loaded.ranker.fold_in_table is None) == (num_layers == 0)
    if num_layers:
        assert loaded.recommend_new(["Echo", "Night"], 5) == saved.recommend_new(
            ["Echo", "Night"], 5
        )
    assert repr(loaded) == "Recommender(7 users, 9 items, d=4)"


@pytest.mark.parametrize("normalization", ["mean", "symmetric", (0.25, 0.75)])
def test_the_normalisation_is_kept_in_the_file(normalization: Any, tmp_path: Path) -> None:
    saved = Recommender.from_model(normalised(model(), normalization), graph())
    saved.save(tmp_path / "file")
    assert torch.equal(
        Recommender.load(tmp_path / "file").fold_in_user([1, 2, 3]), saved.fold_in_user([1, 2, 3])
    )


def test_weights_of_what_was_seen_are_kept_in_the_file(tmp_path: Path) -> None:
    weights = torch.rand(graph().num_edges, generator=torch.Generator().manual_seed(3)) + 0.5
    saved = recommender(weights=weights)
    saved.save(tmp_path / "file")
    assert Recommender.load(tmp_path / "file").seen.fingerprint() == saved.seen.fingerprint()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"{tmp_path}: is a folder, a recommender file is needed here$"
    ):
        Recommender.load(tmp_path)
    recommender().save(tmp_path / "recommender.safetensors")
    with pytest.raises(ValueError, match=r"is a folder, .*did you mean .*recommender.safetensors"):
        Recommender.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    recommender().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="file: not a readable lightgcn file"):
        Recommender.load(path)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        Recommender.load(tmp_path / "none")
    save_tensors(tmp_path / "other", "checkpoint", {"users": torch.ones(1)})
    with pytest.raises(ValueError, match="other: holds a checkpoint, expected a recommender"):
        Recommender.load(tmp_path / "other")
    (tmp_path / "text").write_text("user,item\n1,2\n")
    with pytest.raises(ValueError, match="text: not a readable lightgcn file"):
        Recommender.load(tmp_path / "text")


def test_a_file_that_lacks_a_part_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    recommender(**string_ids()).save(path)
    tensors, metadata = load_tensors(path, "recommender")
    for lacking in ("users", "items", "seen.users", "seen.items"):
        rest = {name: tensor for name, tensor in tensors.items() if name != lacking}
        save_tensors(path, "recommender", rest, metadata)
        with pytest.raises(ValueError, match=f"file: not a complete recommender .*{lacking}"):
            Recommender.load(path)
    save_tensors(path, "recommender", tensors, {})
    with pytest.raises(ValueError, match=r"not a complete recommender"):
        Recommender.load(path)
    for wrong in (
        {"users": tensors["users"][:3]},
        {"users": tensors["users"] * torch.nan},
        {"item.ids": tensors["user.ids"]},
        {"item.ids": torch.zeros(3, dtype=torch.uint8)},
    ):
        save_tensors(path, "recommender", tensors | wrong, metadata)
        with pytest.raises(ValueError, match="file: not a complete recommender"):
            Recommender.load(path)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    broken = model()
    with torch.no_grad():
        broken.embedding[0, 0] = torch.nan
    with pytest.raises(ValueError, match="are not finite"):
        Recommender.from_model(broken, graph())
    good = recommender()
    assert good.ranker.fold_in_table is not None
    with pytest.raises(ValueError, match="1 of 25 embeddings are not finite"):
        fold_in = good.ranker.fold_in_table.clone()
        fold_in[2, 1] = torch.inf
        replace(good.ranker, fold_in_table=fold_in)


def test_parts_that_do_not_fit_are_refused() -> None:
    good = recommender()
    with pytest.raises(ValueError, match="do not fit Interactions"):
        replace(good.ranker, users=good.ranker.users[:3])
    with pytest.raises(ValueError, match="do not fit Interactions"):
        replace(good.ranker, items=good.ranker.items[:, :2])
    with pytest.raises(ValueError, match=r"fold_in_table must have shape \(9, 4\)"):
        replace(good.ranker, fold_in_table=good.ranker.items[:, :2])
    with pytest.raises(ValueError, match="item column 'name' has 2 values for 9 items"):
        Recommender(good.ranker, item_columns={"name": ["a", "b"]})
    with pytest.raises(ValueError, match="user column 'title' has 1 values for 7 users"):
        Recommender(good.ranker, user_columns={"title": ["a"]})
    with pytest.raises(ValueError, match="over 7 users and 9 items"):
        Recommender.from_model(
            model(), Interactions.from_edge_index(torch.tensor([[0], [0]]), USERS, ITEMS + 1)
        )


def test_columns_go_by_place_and_hold_plain_strings(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    good = recommender()
    shuffled = pandas.Series(NAMES, index=range(ITEMS - 1, -1, -1))
    for names in (shuffled, np.array(NAMES), tuple(NAMES)):
        found = Recommender(good.ranker, item_columns={"name": names})
        assert [found.item(index).columns["name"] for index in range(ITEMS)] == NAMES
        assert all(type(name) is str for name in found.item_columns["name"])
        found.save(tmp_path / "file")
        assert Recommender.load(tmp_path / "file").item_columns == {"name": NAMES}


@pytest.mark.parametrize("wrong", [None, 3, float("nan"), b"x"])
def test_a_column_of_anything_but_strings_is_refused(wrong: Any) -> None:
    good = recommender()
    with pytest.raises(ValueError, match=r"item column 'name'\[2\] is .*; a column holds strings"):
        Recommender(
            good.ranker,
            item_columns={"name": [*NAMES[:2], wrong, *NAMES[3:]]},
        )
    with pytest.raises(ValueError, match="item column 'name' has 1 values"):
        Recommender(good.ranker, item_columns={"name": "ninechars"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(tmp_path: Path) -> None:
    expected = recommender()
    found = Recommender.from_model(model().cuda(), graph())
    found.save(tmp_path / "file")
    for one in (found, Recommender.load(tmp_path / "file", "cuda")):
        assert one.ranker.items.is_cuda
        for ask in (
            lambda r: r.recommend(1, 5),
            lambda r: r.recommend_new([1, 2], 5),
            lambda r: r.similar_items(3, 5),
        ):
            assert [answer.index for answer in ask(one)] == [
                answer.index for answer in ask(expected)
            ]


def test_a_new_user_with_unknown_items_alone_is_refused() -> None:
    # An item without users sends nothing in the symmetric normalisation, and in others what is
    # not trained.
    ordered = replace(graph(), order=torch.arange(graph().num_edges))
    for normalization, decay in product(("symmetric", "mean", (0.5, 0.0)), (0.0, 1.0)):
        chosen = normalised(model(), normalization)
        chosen.ranking = RankingConfig(time_decay=decay)
        found = Recommender(chosen, ordered)
        with pytest.raises(ValueError, match="has a user"):
            found.recommend_new([8], 3)
        assert found.recommend_new([8, 0], 3)


def test_a_group_gives_a_new_item_messages(tmp_path: Path) -> None:
    for groups, known in (([0] * ITEMS, True), ([0, 0] + [-1] * (ITEMS - 2), False)):
        chosen = LightGCN(USERS + 1, ITEMS, 4, 2, normalization="mean", seed=2)
        made = Recommender(chosen, graph(), side_nodes=SideNodes.of(torch.tensor(groups)))
        made.save(tmp_path / "file")
        for found in (made, Recommender.load(tmp_path / "file")):
            if known:
                assert found.recommend_new([8], 3)
                continue
            with pytest.raises(ValueError, match="has a user"):
                found.recommend_new([8], 3)


def test_a_recommender_of_no_users_comes_back(tmp_path: Path) -> None:
    nobody = Interactions([], [], 0, 2, user_ids=[], item_ids=["a", "b"])
    ranker = Ranker(torch.ones(0, 2), torch.ones(2, 2), nobody, RankingConfig())
    Recommender(ranker).save(tmp_path / "file")
    found = Recommender.load(tmp_path / "file")
    assert (found.seen.num_users, list(found.seen.item_ids)) == (0, ["a", "b"])
    assert found.similar_items("a", 1)[0].id == "b"


def test_lists_of_some_items_and_a_mask_made_once() -> None:
    found = recommender(**string_ids())
    everything = found.recommend("u0", ITEMS, exclude_seen=False)
    only, exclude = ["Echo", "track:1", "track:7", "1999", "track:8"], ["1999", "track:0"]
    wanted = {5, 1, 7, 8}
    mask = found.item_mask(only=only, exclude=exclude)
    assert mask.dtype == torch.bool and mask.nonzero().flatten().tolist() == sorted(wanted)
    assert bool(found.item_mask().all())
    expected = [one for one in everything if one.index in wanted]
    options: list[dict[str, Any]] = [
        {"only": only, "exclude": exclude},
        {"only": mask},
        {"only": mask.numpy()},
        {"exclude": ~mask},
    ]
    for choice in options:
        assert found.recommend("u0", ITEMS, exclude_seen=False, **choice) == expected
        several = found.recommend(["u0", "u0"], ITEMS, exclude_seen=False, **choice)
        assert several == [expected] * 2
        near = found.similar_items("track:7", ITEMS)
        alike = found.similar_items("track:7", ITEMS, **choice)
        assert [one.id for one in alike] == [one.id for one in near if one.index in wanted - {7}]
        scores = [one.score for one in near if one.index in wanted - {7}]
        assert [one.score for one in alike] == pytest.approx(scores)
        new = found.recommend_new(["track:2"], ITEMS)
        assert found.recommend_new(["track:2"], ITEMS, **choice) == [
            one for one in new if one.index in wanted
        ]
    nothing = torch.zeros(ITEMS, dtype=torch.bool)
    assert found.recommend("u0", only=nothing) == found.similar_items("track:7", only=[]) == []
    with pytest.raises(ValueError, match=r"only as a mask must have shape \(9,\), got \(3,\)"):
        found.recommend("u0", only=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="unknown item 'no such'"):
        found.similar_items("track:7", exclude=["no such"])


def test_a_default_k_is_cut_to_the_number_of_items_and_a_given_one_is_refused() -> None:
    found = recommender()
    assert len(found.recommend(6, exclude_seen=False)) == ITEMS
    assert len(found.recommend_new([1])) == ITEMS - 1
    assert len(found.similar_items(1)) == ITEMS - 1
    assert sum(len(chunk["item"]) for chunk in found.recommend_in_chunks(exclude_seen=False)) == 63
    for ask in (found.recommend, found.similar_items, found.recommend_in_chunks):
        with pytest.raises(ValueError, match="k is 10, but there are only 9 items"):
            ask(*(() if ask == found.recommend_in_chunks else (6,)), k=10)


def test_unknown_items_of_a_new_user_are_skipped_with_a_warning() -> None:
    found = recommender(**string_ids())
    items = ["new 1", "track:2", "new 2", "Echo", "new 3", "new 4"]
    expected = found.recommend_new(["track:2", "Echo"], 4)
    with pytest.warns(UserWarning, match=r"4 of 6 items .* 'new 1', 'new 2', 'new 3', …"):
        assert found.recommend_new(items, 4, unknown="skip") == expected
    with pytest.raises(ValueError, match="unknown item 'new 1'"):
        found.recommend_new(items, 4)
    with pytest.raises(ValueError, match=r"none of the 2 given items is known: 'new 1', 'new 2'"):
        found.recommend_new(["new 1", "new 2"], 4, unknown="skip")
    with pytest.raises(ValueError, match="2 items are called 'dawn'"):
        found.recommend_new(["new 1", "dawn"], 4, unknown="skip")
    with pytest.raises(ValueError, match="unknown must be"):
        found.recommend_new(items, 4, unknown="drop")  # type: ignore[arg-type]
    weighted = recommender(weights=torch.rand(graph().num_edges) + 0.5)
    with pytest.warns(UserWarning, match="1 of 3 items"):
        skipped = weighted.recommend_new([2, 77, 5], 4, weights=[1.0, 9.0, 3.0], unknown="skip")
    assert skipped == weighted.recommend_new([2, 5], 4, weights=[1.0, 3.0])
    refused = pytest.raises(ValueError, match="weights must be as many")
    with refused, pytest.warns(UserWarning, match="1 of 3 items"):
        weighted.recommend_new([2, 77, 5], 4, weights=[1.0], unknown="skip")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".jsonl"])
def test_lists_of_all_users_in_a_file_equal_a_dense_ranking(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr("lightgcn.recommender._USERS", 3)  # several chunks
    interactions = graph(**string_ids())
    users, items = (z.detach() for z in model().embed(normalized_adjacency(interactions)))
    scores = users @ items.T
    scores[interactions.user_degrees == 0] = interactions.item_degrees.double().log1p() / 1024
    scores[interactions.users, interactions.items] = -torch.inf
    found = Recommender(
        model(),
        interactions,
        user_columns={"name": [f'List "{n}", long' for n in range(USERS)]},
        item_columns={"name": NAMES, "artist": ARTISTS, "album": NAMES},
    )
    file = tmp_path / f"lists{suffix}"
    for chosen in (None, ["u5", "u0", "u5", 'list "3", long']):
        rows = []
        order = range(USERS) if chosen is None else [5, 0, 3]
        for user in order:
            values, best = scores[user].sort(descending=True, stable=True)
            rows += [
                (f"u{user}", rank + 1, f"track:{item}", float(value), NAMES[item], ARTISTS[item])
                for rank, (value, item) in enumerate(
                    zip(values[:5], best[:5].tolist(), strict=True)
                )
                if float(value) > -torch.inf
            ]
        count = found.recommend_all(file, 5, users=chosen, overwrite=chosen is not None)
        read = {
            ".parquet": pandas.read_parquet,
            ".jsonl": lambda path: pandas.read_json(path, lines=True, dtype=False),
        }.get(
            suffix,
            lambda path: pandas.read_csv(path, keep_default_na=False, dtype={"item_name": str}),
        )
        frame = read(file)
        assert list(frame) == ["user", "rank", "item", "score", "user_name", "item_name", "artist"]
        assert count == len(frame) == len(rows)
        for place, name in ((0, "user"), (1, "rank"), (2, "item"), (4, "item_name"), (5, "artist")):
            assert frame[name].tolist() == [row[place] for row in rows]
        assert frame["score"].tolist() == pytest.approx([row[3] for row in rows], rel=1e-5)
        assert frame["user_name"][0] == f'List "{order[0]}", long'
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_chunks_of_lists_for_other_stores() -> None:
    found = recommender()
    (chunk,) = found.recommend_in_chunks(3, users=[2, 0], exclude=[4], exclude_seen=False)
    lists = found.recommend([2, 0], 3, exclude=[4], exclude_seen=False)
    assert chunk["user"].tolist() == [2] * 3 + [0] * 3
    assert chunk["item"].tolist() == [one.id for some in lists for one in some]
    assert chunk["rank"].tolist() == [1, 2, 3] * 2


def test_lists_that_fail_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recommender()
    for name in ("lists", "lists.xlsx", ".csv", "lists.json"):
        with pytest.raises(ValueError, match=rf"{name}.*must end in \.parquet, \.csv"):
            found.recommend_all(tmp_path / name)
    (tmp_path / "old.csv").write_text("kept")
    with pytest.raises(ValueError, match=r"old\.csv: exists already"):
        found.recommend_all(tmp_path / "old.csv")
    for options in ({"users": ["nobody"]}, {"k": 100}, {"only": ["nothing"]}):
        with pytest.raises(ValueError, match=r"nobody|100|nothing"):
            found.recommend_all(tmp_path / "new.csv", **options)
    monkeypatch.setattr("lightgcn.recommender._USERS", 2)
    whole, calls = Ranker.top_k, iter(range(9))
    for error in (KeyboardInterrupt, ValueError):

        def failing(*args: Any, error: Any = error, **options: Any) -> Any:
            if next(calls) % 2:
                raise error("in the second chunk")
            return whole(*args, **options)

        monkeypatch.setattr(Ranker, "top_k", failing)
        for name in ("new.parquet", "old.csv"):
            with pytest.raises(error):
                found.recommend_all(tmp_path / name, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "kept"


def test_autocast_leaves_the_answers_alone() -> None:
    from lightgcn.datasets import synthetic_interactions

    graph = synthetic_interactions(120, 80, 1500)
    model = LightGCN(120, 80, embedding_dim=16, num_layers=2, seed=0)
    config = RankingConfig(popularity_prior=0.2, spectral=8, user_knn=5, item_knn=5)

    def answers() -> str:
        made = Recommender(Ranker.from_model(model, graph, config=config))
        explained = made.explain(0, 7)
        return str([made.recommend([0, 1], 5), made.recommend_new([1, 2], 5), explained])

    outside = answers()
    with torch.autocast("cpu", torch.bfloat16):
        assert answers() == outside
