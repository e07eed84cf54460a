"""Training and evaluation on a (pretend) device, beside the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from pretend_cuda import PretendCuda

import lightgcn
from lightgcn import Interactions, LightGCN, Preset, Split, TrainConfig
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.ranking import choose_ranking

OnBoth: TypeAlias = Callable[[Callable[[str], Any]], tuple[Any, Any]]

GRAPH = synthetic_interactions(60, 45, 700, seed=1, num_tastes=3)
# Products in bfloat16 are for CPUs.
SMALL: dict[str, Any] = {
    "embedding_dim": 8, "epochs": 2, "eval_every": 1, "patience": None, "precision": "float32",
}  # fmt: skip
WEIGHTED = Interactions(
    GRAPH.users, GRAPH.items, 60, 45, torch.linspace(0.5, 2.0, GRAPH.num_edges),
    order=torch.arange(GRAPH.num_edges),
)  # fmt: skip


def split_on(device: str, settings: Preset, graph: Interactions = GRAPH, **options: Any) -> Split:
    train = settings.train
    return lightgcn.split_edges(
        graph.to(device),
        (0.7, 0.15, 0.15),
        disjoint=train.disjoint,
        negative_pairs=train.negative_pairs,
        **options,
    )


def state_of(model: LightGCN) -> Any:
    """Return the device and the ranking of a model, and its weights on the CPU."""
    weights = {name: part.cpu() for name, part in model.named_parameters()}
    return model.embedding.device.type, model.ranking, weights


def assert_same_states(there: Any, here: Any) -> None:
    assert (there[0], here[0]) == ("cuda", "cpu") and there[1] == here[1]
    torch.testing.assert_close(there[2], here[2], rtol=1e-3, atol=1e-4)


def assert_same_metrics(one: Any, other: Any) -> None:
    assert one.metrics.keys() == other.metrics.keys() and one.num_users == other.num_users
    for name, value in one.metrics.items():
        assert value == pytest.approx(other.metrics[name], rel=1e-3, abs=1e-4), name


PRESETS = [
    *[(name, False) for name in lightgcn.training.config.PRESETS],
    pytest.param("fast", True, marks=pytest.mark.slow),
    pytest.param("best", True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "choose"), PRESETS)
def test_a_preset(on_both: OnBoth, name: str, choose: bool) -> None:
    size = None if name == "tutorial" else 150
    settings = lightgcn.preset(name, **SMALL, batch_size=size, choose_ranking=choose)

    def run(device: str) -> Any:
        split = split_on(device, settings)
        model = lightgcn.train(split, settings)
        evaluation = lightgcn.evaluate(model, split.test, per_user=True)
        return state_of(model), evaluation

    found = on_both(run)
    assert_same_states(found[0][0], found[1][0])
    assert_same_metrics(found[0][1], found[1][1])


SETTINGS = {
    "bpr of users, learnable alpha": {
        "loss": "bpr", "learnable_alpha": True, "positives": "users", "disjoint": 0.3,
        "num_negatives": 2, "batch_size": 100, "weight_decay": 1e-4,
    },
    "bce in batches": {"loss": "bce", "metric": "roc_auc", "batch_size": 100, "l2": 1e-4},
    "bce of node pairs": {
        "loss": "bce", "metric": "roc_auc", "batch_size": None, "l2": 0.0, "negative_pairs": "all",
    },
    "some validation users": {"loss": "bpr", "eval_users": 20, "metric": "recall@5"},
    "features": {"loss": "softmax", "batch_size": 200, "init": "spectral", "l2": 1e-4},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_settings(on_both: OnBoth, name: str, weighted: bool) -> None:
    settings = Preset().changed(**SMALL | SETTINGS[name])

    def run(device: str) -> Any:
        split = split_on(device, settings, WEIGHTED if weighted else GRAPH)
        model = settings.new_model(split.val.message).to(device)
        lightgcn.fit(model, split, settings)
        return state_of(model)

    assert_same_states(*on_both(run))


def test_a_split_on_the_cpu_trains_on_the_device(cuda: PretendCuda) -> None:
    settings = lightgcn.preset("paper", **SMALL, batch_size=150)
    split = split_on("cpu", settings)
    model = lightgcn.train(split, settings, device="cuda")
    assert_same_states(state_of(model), state_of(lightgcn.train(split, settings)))
    assert_same_metrics(
        lightgcn.evaluate(model, split.test), lightgcn.evaluate(model, split.to("cuda").test)
    )


@pytest.mark.slow
@pytest.mark.parametrize("use_order", [False, True])
def test_the_ranking_is_chosen(on_both: OnBoth, use_order: bool) -> None:
    settings = lightgcn.preset("fast", **SMALL, batch_size=150)

    def run(device: str) -> Any:
        split = split_on(device, settings, WEIGHTED, stratify="time")
        model = settings.new_model(split.val.message).to(device)
        return choose_ranking(model, split.val, "recall@10", use_order=use_order).config

    there, here = on_both(run)
    assert there == here


def test_resuming(cuda: PretendCuda, tmp_path: Path) -> None:
    settings = lightgcn.preset("paper", **SMALL | {"epochs": 3}, batch_size=150)
    split = split_on("cuda", settings)
    whole = settings.new_model(split.val.message).to("cuda")
    lightgcn.fit(whole, split, settings)
    calls = iter(range(10**6))
    part = settings.new_model(split.val.message).to("cuda")
    first = lightgcn.fit(
        part, split, settings, run_dir=tmp_path, should_stop=lambda: next(calls) == 7
    )
    assert first.ended == "interrupted"
    other = settings.new_model(split.val.message).to("cuda")
    lightgcn.fit(other, split, settings, run_dir=tmp_path, resume=True)
    assert torch.equal(other.embedding, whole.embedding)
    # A checkpoint of a device goes on on the CPU.
    again = settings.new_model(split.val.message)
    settings = settings.changed(epochs=4)
    result = lightgcn.fit(again, split.to("cpu"), settings, run_dir=tmp_path, resume=True)
    assert len(result.history) == 4 and again.embedding.device.type == "cpu"


def test_side_nodes(on_both: OnBoth) -> None:
    settings = lightgcn.preset("fast", **SMALL, batch_size=150, choose_ranking=False)

    def run(device: str) -> Any:
        side = SideNodes.of(torch.arange(45, device=device) % 9)
        own = split_on(device, settings)
        split = side.extend_split(own)
        model = settings.new_model(split.val.message).to(device)
        lightgcn.fit(model, split, settings)
        recommender = lightgcn.Recommender(model, own.test.message, side_nodes=side)
        return state_of(model), [each.id for each in recommender.recommend(3, 5)]

    there, here = on_both(run)
    assert_same_states(there[0], here[0])
    assert there[1] == here[1]


def test_warm_start_and_files(cuda: PretendCuda, tmp_path: Path) -> None:
    model = LightGCN(60, 45, 8).to("cuda")
    grown = lightgcn.warm_start(model, GRAPH, GRAPH.to("cuda"))
    assert torch.equal(grown.embedding, model.embedding.cpu())
    lightgcn.save_model(tmp_path / "model.safetensors", model)
    assert torch.equal(
        lightgcn.load_model(tmp_path / "model.safetensors").embedding, grown.embedding
    )


def test_tuning(cuda: PretendCuda, tmp_path: Path) -> None:
    settings = lightgcn.preset("fast", **SMALL | {"epochs": 1}, batch_size=150)
    split = split_on("cuda", settings)
    result = lightgcn.tune(
        split, tmp_path / "study", start=settings, trials=2, fixed=["epochs"], device="cuda"
    )
    assert result.best is not None


def test_drawing_on_the_device(cuda: PretendCuda) -> None:
    for options in ({}, {"disjoint": 0.3}, {"stratify": "user"}, {"negatives": 0.5}):
        here, there = (
            lightgcn.split_edges(GRAPH.to(device), seed=3, **options) for device in ("cpu", "cuda")
        )
        assert there.fingerprint() == here.fingerprint(), options
        assert there.train.negatives.device.type == "cuda"
        assert there.train.resample(2).negatives.cpu().equal(here.train.resample(2).negatives)
    there_graph = GRAPH.to("cuda")
    for draw in (
        lambda graph, users: lightgcn.sample_negatives(graph, 40, seed=1),
        lambda graph, users: lightgcn.sample_negative_items(graph, users, 1, 3),
    ):
        users = GRAPH.users[:50]
        assert draw(there_graph, users.to("cuda")).cpu().equal(draw(GRAPH, users))


def test_train_config_alone(cuda: PretendCuda) -> None:
    split = split_on("cuda", Preset())
    model = LightGCN(60, 45, 8, normalization="mean").to("cuda")
    config = TrainConfig(epochs=1, batch_size=200)
    assert lightgcn.fit(model, split, config).best_epoch == 1
    assert model(split.test.message, split.test).device.type == "cuda"
    bad = torch.tensor([[0], [45]])
    with pytest.raises(ValueError, match="45"):
        model(split.test.message, bad)
