from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightgcn import (
    Interactions,
    Recommender,
    evaluate,
    fit,
    normalized_adjacency,
    preset,
    split_edges,
)
from lightgcn.cli import main as cli
from lightgcn.core.storage import read_json
from lightgcn.datasets import Dataset, read_mpd, synthetic_interactions
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.ranking.time_decay import decayed

GROUPS = torch.tensor([5, -1, 9, 5, 9, 2, 9])


@pytest.fixture
def graph() -> Interactions:
    return Interactions(
        torch.tensor([0, 0, 1, 2, 2, 2]),
        torch.tensor([0, 2, 4, 1, 5, 6]),
        3,
        7,
        user_ids=torch.tensor([7, 8, 9]).numpy(),
    )


def test_groups_of_several_items_become_users_who_have_them(graph: Interactions) -> None:
    side = SideNodes.of(GROUPS)
    assert side.num_groups == 2 and side.group_of_item.tolist() == [0, -1, 1, 0, 1, -1, 1]
    extended = side.extend(graph)
    added = [[3, 0], [3, 3], [4, 2], [4, 4], [4, 6]]
    assert extended.edge_index.T.tolist() == graph.edge_index.T.tolist() + added
    assert (extended.num_users, extended.num_items) == (5, 7)
    wide = side.widen(graph)
    assert wide.edge_index.tolist() == graph.edge_index.tolist() and wide.num_users == 5


def test_weights_are_the_mean_and_order_is_the_first() -> None:
    graph = Interactions(
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 1, 2]),
        2,
        7,
        torch.tensor([1.0, 2.0, 6.0]),
        order=torch.tensor([4, 9, 5]),
    )
    extended = SideNodes.of(GROUPS).extend(graph)
    assert extended.weights is not None and extended.order is not None
    assert extended.weights[3:].tolist() == [3.0] * 5 and extended.order[3:].tolist() == [4] * 5


@pytest.mark.parametrize("disjoint", [0.0, 0.3])
def test_messages_pass_through_groups_and_links_stay(disjoint: float) -> None:
    graph = synthetic_interactions(40, 30, 300, seed=1)
    side = SideNodes.of(torch.arange(30) // 4)
    plain = split_edges(graph, disjoint=disjoint, seed=2)
    split = side.extend_split(plain)
    for links, before in zip(split, plain, strict=True):
        assert links.positives.edge_index.tolist() == before.positives.edge_index.tolist()
        assert torch.equal(links.negatives, before.negatives)
        assert links.message.fingerprint() == side.extend(before.message).fingerprint()
        again, again_before = links.resample(3), before.resample(3)
        assert again.message.fingerprint() == side.extend(again_before.message).fingerprint()
        assert again.positives.edge_index.tolist() == again_before.positives.edge_index.tolist()
        assert again.positives.num_users == again.message.num_users == 48
        assert torch.equal(again.negatives, again_before.negatives)
    train, reference = split.train, plain.train
    for epoch in range(
        25
    ):  # one after the other, as in training: what was drawn before is gone by then
        train, reference = train.resample(epoch), reference.resample(epoch)
        assert train.message.fingerprint() == side.extend(reference.message).fingerprint()
    assert split.train.is_disjoint == (disjoint > 0)
    if not disjoint:
        assert split.train.message is split.val.message


def test_an_item_of_no_user_hears_its_group() -> None:
    graph = Interactions(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 3)
    side = SideNodes.of(torch.tensor([0, 1, 0]))
    x = torch.eye(6, dtype=torch.float64)  # two users, a group, three items
    dense = normalized_adjacency(side.extend(graph), "symmetric", dtype=torch.float64) @ x
    assert float(dense[5, 2]) == pytest.approx(
        1 / 2**0.5
    )  # the group has two items, the item one neighbour
    assert float(dense[2, 5]) == pytest.approx(1 / 2**0.5)
    assert float((dense @ dense)[5, 3]) == pytest.approx(
        1 / 2 / 2**0.5
    )  # and through it the item with a user


@pytest.mark.parametrize("loss", ["softmax", "bpr", "bce"])
def test_training_learns_with_groups_and_a_recommender_leaves_them_out(loss: str) -> None:
    graph = synthetic_interactions(60, 40, 700, seed=1)
    side = SideNodes.of(torch.arange(40) // 5)
    split = side.extend_split(split_edges(graph, disjoint=0.2 if loss == "bce" else 0.0, seed=2))
    config = preset(
        "fast",
        loss=loss,
        epochs=4,
        batch_size=128,
        item_knn=5,
        embedding_dim=8,
        metric="recall@10",
    )
    model = config.new_model(split.val.message)
    result = fit(model, split, config)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    recommender = Recommender.from_model(model, graph, side_nodes=side)
    assert len(recommender.ranker.users) == 60 and recommender.seen is graph
    z = model.propagate(normalized_adjacency(side.extend(graph)))
    unit = torch.nn.functional.normalize(z[:60].detach())
    torch.testing.assert_close(recommender.ranker.users[:, :-1], unit)
    # A user folded in by its items is scored as by the extended graph, whose groups are no users to
    # recommend to.
    items = graph.items_of(3).tolist()
    new, known = recommender.recommend_new(items, 5), recommender.recommend(3, 5)
    assert not {one.index for one in new} & set(items) and len(known) == 5
    knn = recommender.ranker.item_knn
    assert knn is not None and knn.history.num_users == 60
    assert float(knn.of_users(torch.tensor([3]))[2].max()) == pytest.approx(0.2)
    assert evaluate(model, split.test, ks=(10,)).num_users > 0


def test_a_resumed_run_with_disjoint_edges_ends_with_the_same_bits(tmp_path: Path) -> None:
    graph = synthetic_interactions(60, 40, 700, seed=1)
    split = SideNodes.of(torch.arange(40) // 5).extend_split(
        split_edges(graph, disjoint=0.3, seed=2)
    )
    config = preset("tutorial", epochs=20, embedding_dim=8)
    models = [
        config.new_model(Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 68, 40))
        for _ in range(2)
    ]
    fit(models[0], split, config)
    stops = iter([False] * 9 + [True])
    fit(models[1], split, config, run_dir=tmp_path, should_stop=lambda: next(stops))
    fit(models[1], split, config, run_dir=tmp_path, resume=True)
    assert torch.equal(models[0].embedding, models[1].embedding)


def test_recency_goes_with_groups() -> None:
    graph = synthetic_interactions(30, 20, 200, seed=1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    graph = Interactions(graph.users, graph.items, 30, 20, order=order)
    side = SideNodes.of(torch.arange(20) // 5)
    config = preset("best", embedding_dim=8, item_knn=3, time_decay=2.0)
    model = config.new_model(side.extend(graph))
    recommender = Recommender.from_model(model, graph, side_nodes=side)
    wanted = decayed(graph, config.ranking.time_decay)
    assert recommender.ranker.item_knn is not None
    assert recommender.ranker.item_knn.history.fingerprint() == wanted.fingerprint()


def test_groups_come_from_a_column_on_the_command_line(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, run = read_mpd(slices).save(tmp_path / "prepared"), tmp_path / "run"
    options = ["--epochs", "2", "--batch-size", "512", "--side-nodes", "artist_id"]
    assert cli.main(["train", str(prepared), str(run), *options]) == 0
    assert read_json(run / "run.json")["side_nodes"] == "artist_id"
    dataset = Dataset.load(prepared)
    recommender = Recommender.load(run / "recommender.safetensors")
    assert len(recommender.ranker.users) == dataset.interactions.num_users
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--baselines", "popularity", "mf", "--json"]) == 0
    assert cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "3"]) == 0
    assert cli.main(["recommend", str(run), "--user", "5", "-k", "3"]) == 0
    assert cli.main(["train", str(prepared), str(run), "--resume", "--side-nodes", "album"]) == 2
    assert "side_nodes cannot change" in capsys.readouterr().err
    assert (
        cli.main(["train", str(prepared), str(tmp_path / "other"), "--side-nodes", "colour"]) == 2
    )
    assert "no column 'colour'; there are name, artist" in capsys.readouterr().err


def test_what_cannot_be_is_refused(graph: Interactions) -> None:
    with pytest.raises(ValueError, match="no group has more than one item"):
        SideNodes.of(torch.arange(5))
    with pytest.raises(ValueError, match="groups must be integers"):
        SideNodes.of(torch.rand(5))
    with pytest.raises(ValueError, match="side nodes are of 7 items"):
        SideNodes.of(GROUPS).extend(Interactions(torch.tensor([0]), torch.tensor([0]), 1, 2))
    links = split_edges(synthetic_interactions(20, 7, 60), negative_pairs="all").val
    with pytest.raises(ValueError, match='negative_pairs="all"'):
        SideNodes.of(GROUPS).extend_links(links)
    with pytest.raises(ValueError, match=r"count must be in \[0, 3\]"):
        graph.head_users(4)
    assert graph.head_users(2).edge_index.tolist() == [[0, 0, 1], [0, 2, 4]]
    assert graph.head_users(0).num_edges == 0
