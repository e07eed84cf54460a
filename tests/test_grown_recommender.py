"""New items and users in a `Recommender`, beside all else that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightgcn import Interactions, LightGCN, RankingConfig, Recommender

USERS, ITEMS = 7, 8
CONFIGS = {
    "dot product": RankingConfig(),
    "prior": RankingConfig(popularity_prior=0.1),
    "cosine": RankingConfig(popularity_prior=0.0),
    "time decay": RankingConfig(time_decay=1.0),
    "spectral": RankingConfig(spectral=2, spectral_weight=0.3, time_decay=0.5),
    "all": RankingConfig(0.2, 3, 0.2, "cosine", 2, 0.3, 2, 0.1, 0.7, 0.5),
}
# Their contributions are terms of a user's row, which new items do not change.
OF_THE_ROW = ("embedding", "time_decay", "spectral")


def a_recommender(config: RankingConfig, *, weighted: bool = False, **options: Any) -> Recommender:
    generator = torch.Generator().manual_seed(4)
    edges = torch.rand(USERS, ITEMS, generator=generator) < 0.45
    edges[0, :4] = True
    edges[5] = edges[:, 7] = False  # a user and an item without edges
    users, items = edges.nonzero().T
    graph = Interactions(
        users,
        items,
        USERS,
        ITEMS,
        torch.rand(len(users), generator=generator) + 0.5 if weighted else None,
        user_ids=[f"u{user}" for user in range(USERS)],
        item_ids=[f"i{item}" for item in range(ITEMS)],
        order=torch.randperm(len(users), generator=generator),
    )
    model = LightGCN(USERS, ITEMS, 4, 2, normalization="mean", seed=2)
    model.ranking = config
    return Recommender(model, graph, new_items=True, **options)


def new(*ids: str, weighted: bool = False) -> Any:
    return dict.fromkeys(ids, 1.5) if weighted else list(ids)


def shares_of(recommender: Recommender, user: str, item: str) -> dict[tuple[str, str], float]:
    explanation = recommender.explain(user, item)
    total = sum(row.contribution for row in explanation.items) + sum(explanation.other.values())
    assert total == pytest.approx(explanation.score, abs=2e-6)
    return {
        (row.id, part): share
        for row in explanation.items
        for part, share in row.parts.items()
        if part in OF_THE_ROW
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_new_items_leave_the_explanations_of_a_row_as_they_were(
    name: str, weighted: bool, tmp_path: Path
) -> None:
    made = a_recommender(CONFIGS[name], weighted=weighted)
    grown = made.add_items({"n0": new("u0", "u1", weighted=weighted)})
    grown = grown.add_items({"n1": new("u0", "u5", "u2", weighted=weighted)})
    grown.save(tmp_path / "file")
    for each in (grown, Recommender.load(tmp_path / "file")):
        for user, item in (("u0", "i0"), ("u1", "i3"), ("u2", "i5"), ("u5", "i1")):
            before, after = shares_of(made, user, item), shares_of(each, user, item)
            added = {key: share for key, share in after.items() if key not in before}
            assert after == pytest.approx(before | added, abs=1e-6)
            assert {key[0] for key in added} <= {"n0", "n1"}
            assert not any(added.values())
        assert each.explain("u0", "n1").score == pytest.approx(
            {row.id: row.score for row in each.recommend("u0", 10, exclude_seen=False)}["n1"],
            abs=1e-6,
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_user_is_explained_as_a_known_one(name: str, weighted: bool, tmp_path: Path) -> None:
    made = a_recommender(CONFIGS[name], weighted=weighted)
    liked = new("i1", "i3", "i7", weighted=weighted)
    grown = made.add_users({"ann": liked})
    width = made.ranker.num_columns
    table = made.ranker.fold_in_table
    assert table is not None
    weights = torch.tensor(1.5 if weighted else 1.0, dtype=torch.float64)
    sent = table[[1, 3, 7]].double() * weights / (3 * weights)  # "mean": divided by the degree
    target = made.ranker.items[2, :width].double()
    before = shares_of(grown, "ann", "i2")
    length = _length(made, sent.sum(0), liked)
    for row, item in zip(sent, ("i1", "i3", "i7"), strict=True):
        assert before[item, "embedding"] == pytest.approx(float(row @ target) / length, abs=1e-6)
    # A later item of the new user changes nothing of it.
    grown = grown.add_items({"n0": new("ann", "u0", weighted=weighted)})
    after = shares_of(grown, "ann", "i2")
    assert {key: after[key] for key in before} == pytest.approx(before, abs=1e-6)
    grown.save(tmp_path / "file")
    assert shares_of(Recommender.load(tmp_path / "file"), "ann", "i2") == pytest.approx(after)


def _length(recommender: Recommender, row: torch.Tensor, liked: Any) -> float:
    """By what the embedding of a new user is divided in its row."""
    config, scale = recommender.ranker.config, 1.0
    if config.time_decay:
        scale = float(row.norm())
        ages = torch.arange(len(liked) - 1, -1, -1, dtype=torch.float64)
        weights = (1 + ages) ** -config.time_decay
        directions = recommender.ranker.item_directions[[1, 3, 7]].double()
        directions = directions / directions.norm(dim=1, keepdim=True)
        latest = (weights.unsqueeze(1) * directions).sum(0)
        row = row / scale + config.time_decay_weight * latest / latest.norm()
    return scale * (1.0 if config.popularity_prior is None else float(row.norm()))


def test_a_repeated_item_of_a_new_user_counts_at_its_latest_place() -> None:
    made = a_recommender(CONFIGS["time decay"])
    grown = made.add_users({"ann": ["i1", "i2", "i3", "i1"]})
    wanted = made.recommend_new(["i1", "i2", "i3", "i1"], 4)
    found = grown.recommend("ann", 4)
    assert [row.id for row in found] == [row.id for row in wanted]
    assert [row.score for row in found] == pytest.approx([row.score for row in wanted], abs=1e-6)


def test_a_new_user_of_untrained_items_alone_is_named() -> None:
    made = a_recommender(CONFIGS["dot product"])
    with pytest.raises(ValueError, match="'bob'"):
        made.add_users({"ann": ["i1"], "bob": ["i7"]})
    grown = made.add_items({"n0": ["u0"]})
    with pytest.raises(ValueError, match="'bob'"):
        grown.add_users({"bob": ["n0", "i7"]})


def test_the_choice_among_equal_names_is_kept() -> None:
    names = ["Song"] * ITEMS
    made = a_recommender(CONFIGS["prior"], item_columns={"name": names}, ambiguous="popular")
    most = int(made.seen.item_degrees.argmax())
    for each in (made.add_items({"n0": ["u0"]}), made.add_users({"ann": ["i1"]}), made.to("cpu")):
        assert each.item_index("Song") == most


@pytest.mark.parametrize("name", CONFIGS)
def test_lists_of_all_users_are_those_of_each(name: str) -> None:
    grown = a_recommender(CONFIGS[name]).add_items({"n0": ["u0", "u5"], "n1": ["u2"]})
    grown = grown.add_users({"ann": ["i1", "n0"]})
    only = grown.item_mask(exclude=["i2", "n1"])
    rows = list(grown.recommend_in_chunks(4, only=only))
    columns = {key: np.concatenate([chunk[key] for chunk in rows]) for key in rows[0]}
    for user in grown.seen.user_ids.tolist():  # type: ignore[union-attr]
        mine = columns["user"] == user
        wanted = [row.id for row in grown.recommend(user, 4, only=only)]
        assert columns["item"][mine].tolist() == wanted
        assert not {"i2", "n1"} & set(wanted)
