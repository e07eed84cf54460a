"""Settings: ranges, presets, names of metrics."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import nn

from lightgcn import Interactions, preset
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training import PRESETS, save_preset
from lightgcn.training.config import SETTINGS

OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "loss": ("hinge", None),
    "normalization": ("row", (0.5, 0.5)),
    "embedding_dim": (0, 2.0, None, True),
    "num_layers": (-1, 1.5, None),
    "learnable_alpha": ("yes", None),
    "init": ("zeros", None),
    "init_std": (-0.1, math.nan, math.inf, "0.1"),
    "epochs": (0, -1, 1.5, None, True),
    "batch_size": (0, -5, 0.5, "all"),
    "learning_rate": (0, -1e-3, math.nan, math.inf, "fast", None),
    "weight_decay": (-1e-5, math.nan, None),
    "l2": (-1e-4, math.inf, None),
    "num_negatives": (0, None, 1.5),
    "positives": ("nodes",),
    "temperature": (0.0, -1.0, math.nan, None),
    "negative_weight": (0.0, -1.0, math.inf),
    "block_size": (0, None),
    "popularity_prior": (-0.1, math.inf, "0.1"),
    "item_knn": (-1, 1.5, None),
    "item_knn_weight": (-0.1, math.nan, None),
    "time_decay": (-0.5, math.inf, None),
    "time_decay_weight": (-0.5, math.nan, None),
    "disjoint": (1.0, -0.1, math.nan, "0.2"),
    "negative_pairs": ("nodes", None),
    "metric": ("recall", "recall@0", "auc", "roc_auc@20", "", None),
    "eval_every": (0, None),
    "patience": (0, -1, 2.5),
    "eval_users": (0, -1, 2.5),
    "precision": ("float16", None),
    "seed": (-1, 1.5, None),
}


def test_every_setting_has_a_range() -> None:
    assert set(OUT_OF_RANGE) == set(SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bad in OUT_OF_RANGE.items() for value in bad]
)
def test_a_setting_out_of_range_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be ") as caught:
        PRESETS["paper"].changed(**{name: value})
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": None},
        {"patience": None},
        {"l2": 0},
        {"weight_decay": 0},
        {"disjoint": 0},
        {"num_layers": 0},
        {"seed": 0},
        {"init_std": 0},
        {"metric": "loss"},
        {"metric": "clicks@500"},
    ],
)
def test_the_ends_of_ranges_are_allowed(changes: dict[str, Any]) -> None:
    config = preset("paper", **changes).flat()
    assert all(config[name] == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall@20", ("recall", 20)),
        ("clicks@500", ("clicks", 500)),
        ("roc_auc", ("roc_auc", None)),
        ("loss", ("loss", None)),
        ("r_precision@1", ("r_precision", 1)),
    ],
)
def test_parse_metric(name: str, expected: tuple[str, int | None]) -> None:
    assert parse_metric(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "recall",
        "recall@",
        "recall@0",
        "recall@-1",
        "recall@x",
        "recall@020",
        "recall@２",
        "@20",
        "loss@3",
        "auc",
    ],
)
def test_parse_metric_names_what_it_cannot_read(name: str) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'"):
        parse_metric(name)


def test_the_tutorial_preset_has_the_tutorial_settings() -> None:
    config = preset("tutorial")
    assert (
        config.train.loss,
        config.model.num_layers,
        config.model.embedding_dim,
        config.train.batch_size,
    ) == (
        "bce",
        3,
        32,
        None,
    )
    assert (
        config.train.learning_rate,
        config.train.weight_decay,
        config.train.l2,
        config.train.epochs,
    ) == (
        0.01,
        1e-5,
        0.0,
        300,
    )
    assert (config.model.normalization, config.train.disjoint, config.train.metric) == (
        "mean",
        0.2,
        "roc_auc",
    )
    # The best of all epochs, as it is there.
    assert (config.train.eval_every, config.train.patience) == (1, None)


def test_the_paper_preset_has_the_paper_settings() -> None:
    config = preset("paper")
    assert (
        config.train.loss,
        config.model.normalization,
        config.model.num_layers,
        config.model.embedding_dim,
    ) == (
        "bpr",
        "symmetric",
        3,
        64,
    )
    assert (
        config.model.init,
        config.model.init_std,
        config.train.batch_size,
        config.train.learning_rate,
    ) == (
        "normal",
        0.1,
        2048,
        1e-3,
    )
    assert (
        config.train.l2,
        config.train.weight_decay,
        config.train.epochs,
        config.train.num_negatives,
    ) == (
        1e-4,
        0.0,
        1000,
        1,
    )
    assert (config.train.disjoint, config.train.metric) == (0.0, "recall@20")


def test_the_fast_preset_has_the_measured_settings() -> None:
    config = preset("fast")
    assert (
        config.train.loss,
        config.model.normalization,
        config.model.num_layers,
        config.model.embedding_dim,
    ) == (
        "softmax",
        "symmetric",
        2,
        64,
    )
    assert (
        config.model.init,
        config.train.temperature,
        config.train.negative_weight,
        config.train.block_size,
    ) == (
        "spectral",
        0.15,
        1.0,
        2048,
    )
    assert (config.train.learning_rate, config.train.l2, config.train.weight_decay) == (
        1e-3,
        0.0,
        0.0,
    )
    assert (config.ranking.popularity_prior, config.ranking.item_knn) == (0.13, 20)


def test_the_best_preset_counts_neighbours() -> None:
    config = preset("best")
    assert (
        config.train.loss,
        config.model.num_layers,
        config.model.embedding_dim,
        config.ranking.item_knn,
    ) == (
        "softmax",
        3,
        64,
        20,
    )
    with pytest.raises(ValueError, match='item_knn must be 0 with negative_pairs="all"'):
        preset("best", negative_pairs="all")


def test_a_preset_takes_changes_and_stays_as_it_is() -> None:
    changed = preset("paper", epochs=5, seed=9)
    assert changed.flat() == PRESETS["paper"].flat() | {"epochs": 5, "seed": 9}
    assert PRESETS["paper"].train.epochs == 1000
    with pytest.raises(FrozenInstanceError):
        changed.train = None  # type: ignore[misc]


def test_unknown_presets_settings_and_values_are_named() -> None:
    with pytest.raises(ValueError, match="no preset 'papper'; there are tutorial, paper, fast"):
        preset("papper")
    with pytest.raises(ValueError, match="no setting 'epoch'; there are "):
        preset("paper", epoch=5)
    with pytest.raises(ValueError, match="epochs must be"):
        preset("paper", epochs=0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert preset("paper", **orjson.loads(orjson.dumps(PRESETS[name].flat()))) == PRESETS[name]


def test_new_model_has_the_settings() -> None:
    model = preset(
        "paper", embedding_dim=7, num_layers=2, learnable_alpha=True, init_std=0.5, seed=4
    ).new_model(Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 30, 40))
    assert (model.num_users, model.num_items, model.embedding_dim, model.num_layers) == (
        30,
        40,
        7,
        2,
    )
    assert isinstance(model.alpha, nn.Parameter)
    assert model.embedding.std().item() == pytest.approx(0.5, rel=0.1)
    again = preset("paper", embedding_dim=7, num_layers=2, init_std=0.5, seed=4).new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 30, 40)
    )
    assert isinstance(again.alpha, tuple) and torch.equal(again.embedding, model.embedding)
    other = preset("paper", embedding_dim=7, seed=5, init_std=0.5).new_model(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 30, 40)
    )
    assert not torch.equal(other.embedding, model.embedding)
    xavier = (
        preset("paper", embedding_dim=7, init="xavier")
        .new_model(Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 30, 40))
        .embedding
    )
    assert xavier.abs().max().item() <= (6 / 77) ** 0.5


def test_positives_by_user_do_not_go_with_cross_entropy() -> None:
    with pytest.raises(ValueError, match="positives='users' goes with bpr and softmax"):
        preset("paper", loss="bce", positives="users")


def test_numpy_numbers_become_plain_ones() -> None:
    config = preset("fast", epochs=np.int64(3), seed=np.uint8(4), learning_rate=np.float32(0.5))
    assert (config.train.epochs, config.train.seed, config.train.learning_rate) == (3, 4, 0.5)
    assert {type(config.train.epochs), type(config.train.seed)} == {int} and type(
        config.train.learning_rate
    ) is float
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
        preset("fast", epochs=np.int64(0))


def test_a_preset_file_gives_the_same_settings_and_takes_changes(tmp_path: Path) -> None:
    config = preset("tutorial", temperature=0.123456789, batch_size=None, seed=7)
    save_preset(tmp_path / "mine.json", config, {"value": 0.5})
    assert preset(tmp_path / "mine.json") == config == preset(str(tmp_path / "mine.json"))
    assert preset(tmp_path / "mine.json", epochs=3) == config.changed(epochs=3)
    with pytest.raises(ValueError, match=r"must end in \.json"):
        save_preset(tmp_path / "mine", config)
    (tmp_path / "part.json").write_text(
        '{"kind": "lightgcn preset", "version": 1, "settings": {"num_layers": 2}}'
    )
    assert preset(tmp_path / "part.json") == preset("paper", num_layers=2)
