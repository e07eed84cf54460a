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

from lightgcn import Interactions, ModelConfig, Preset, RankingConfig, TrainConfig, preset
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training.config import CONCERNS, PRESETS, SETTINGS, save_preset

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


def test_a_setting_out_of_range_is_named_with_its_value() -> None:
    assert set(OUT_OF_RANGE) == set(SETTINGS)
    assert len(SETTINGS) == len(set(SETTINGS)), "two concerns have a setting of one name"
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            for make in (lambda **given: Preset().changed(**given), _concern_of(name)):
                with pytest.raises(ValueError, match=rf"^{name} must be ") as caught:
                    make(**{name: value})
                assert str(value) in str(caught.value)


def _concern_of(name: str) -> Any:
    return next(config for config in CONCERNS.values() if name in config.__dataclass_fields__)


def test_the_ends_of_ranges_are_allowed() -> None:
    ends = {
        "batch_size": None,
        "patience": None,
        "l2": 0,
        "weight_decay": 0,
        "disjoint": 0,
        "num_layers": 0,
        "seed": 0,
        "init_std": 0,
        "item_knn_weight": 0,
    }
    for metric in ("loss", "clicks@500"):
        settings = Preset().changed(**ends, metric=metric)
        assert settings.flat() == Preset().flat() | ends | {"metric": metric}


def test_parse_metric() -> None:
    for name, expected in (
        ("recall@20", ("recall", 20)),
        ("clicks@500", ("clicks", 500)),
        ("roc_auc", ("roc_auc", None)),
        ("loss", ("loss", None)),
        ("r_precision@1", ("r_precision", 1)),
    ):
        assert parse_metric(name) == expected
    for name in ("recall", "recall@", "recall@0", "recall@-1", "recall@x", "recall@020"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            parse_metric(name)
    for name in ("recall@２", "@20", "loss@3", "auc"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            parse_metric(name)


def test_presets_have_the_settings_that_were_measured() -> None:
    tutorial = {
        "loss": "bce",
        "num_layers": 3,
        "embedding_dim": 32,
        "batch_size": None,
        "learning_rate": 0.01,
        "weight_decay": 1e-5,
        "l2": 0.0,
        "epochs": 300,
        "normalization": "mean",
        "disjoint": 0.2,
        "metric": "roc_auc",
        # The best of all epochs, as in the tutorial.
        "eval_every": 1,
        "patience": None,
        "popularity_prior": None,
    }
    paper = {
        "loss": "bpr",
        "normalization": "symmetric",
        "num_layers": 3,
        "embedding_dim": 64,
        "init": "normal",
        "init_std": 0.1,
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "l2": 1e-4,
        "weight_decay": 0.0,
        "epochs": 1000,
        "num_negatives": 1,
        "disjoint": 0.0,
        "metric": "recall@20",
        "popularity_prior": None,
        "item_knn": 0,
    }
    fast = {
        "loss": "softmax",
        "normalization": "symmetric",
        "num_layers": 2,
        "embedding_dim": 64,
        "init": "spectral",
        "temperature": 0.15,
        "negative_weight": 1.0,
        "block_size": 2048,
        "learning_rate": 1e-3,
        "l2": 0.0,
        "weight_decay": 0.0,
        "popularity_prior": 0.13,
        "item_knn": 20,
        "time_decay": 0.0,
    }
    best = fast | {"num_layers": 3, "time_decay": 2.0, "time_decay_weight": 1.0}
    for name, wanted in (("tutorial", tutorial), ("paper", paper), ("fast", fast), ("best", best)):
        flat = preset(name).flat()
        assert {setting: flat[setting] for setting in wanted} == wanted, name


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match='item_knn must be 0 with negative_pairs="all"'):
        preset("best", negative_pairs="all")
    with pytest.raises(ValueError, match="positives='users'"):
        TrainConfig(loss="bce", positives="users")


def test_a_preset_takes_changes_and_stays_as_it_is() -> None:
    changed = preset("paper", epochs=5, seed=9, num_layers=1, item_knn=3)
    changes = {"epochs": 5, "seed": 9, "num_layers": 1, "item_knn": 3}
    assert changed.flat() == PRESETS["paper"].flat() | changes
    assert changed.model == ModelConfig(num_layers=1) and changed.ranking == RankingConfig(
        item_knn=3
    )
    assert PRESETS["paper"].train.epochs == 1000
    with pytest.raises(FrozenInstanceError):
        changed.train = TrainConfig()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        changed.train.epochs = 6  # type: ignore[misc]


def test_unknown_presets_settings_and_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"'papper'.*tutorial, paper, fast"):
        preset("papper")
    with pytest.raises(ValueError, match=r"'epoch'.*epochs.*epoch=5"):
        preset("paper", epoch=5)
    with pytest.raises(ValueError, match="epochs must be"):
        preset("paper", epochs=0)


def test_presets_survive_json() -> None:
    for name, settings in PRESETS.items():
        read = orjson.loads(orjson.dumps(settings.flat()))
        assert Preset().changed(**read) == settings == preset(name)


def test_new_model_has_the_settings() -> None:
    graph = Interactions.from_edge_index([[0, 1], [0, 1]], 30, 40)
    base = Preset().changed(embedding_dim=7, num_layers=2, init_std=0.5, seed=4, item_knn=5)
    model = base.changed(learnable_alpha=True, normalization="mean").new_model(graph)
    shape = (model.num_users, model.num_items, model.embedding_dim, model.num_layers)
    assert shape == (30, 40, 7, 2)
    assert isinstance(model.alpha, nn.Parameter)
    assert (model.normalization, model.ranking) == ("mean", RankingConfig(item_knn=5))
    assert model.embedding.std().item() == pytest.approx(0.5, rel=0.1)
    again = base.new_model(graph)
    assert isinstance(again.alpha, tuple) and torch.equal(again.embedding, model.embedding)
    assert not torch.equal(base.changed(seed=5).new_model(graph).embedding, model.embedding)
    xavier = base.changed(init="xavier").new_model(graph).embedding
    assert xavier.abs().max().item() <= (6 / 77) ** 0.5


def test_numpy_numbers_become_plain_ones() -> None:
    settings = preset("fast", epochs=np.int64(3), seed=np.uint8(4), init_std=np.float32(0.5))
    flat = settings.flat()
    for name, value in (("epochs", 3), ("seed", 4), ("init_std", 0.5)):
        assert flat[name] == value and type(flat[name]) is type(value)
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
        preset("fast", epochs=np.int64(0))


def test_a_preset_file_gives_the_same_settings_and_takes_changes(tmp_path: Path) -> None:
    settings = preset("tutorial", temperature=0.123456789, batch_size=None, seed=7, item_knn=3)
    save_preset(tmp_path / "mine.json", settings, {"value": 0.5})
    assert preset(tmp_path / "mine.json") == settings == preset(str(tmp_path / "mine.json"))
    assert preset(tmp_path / "mine.json", epochs=3) == settings.changed(epochs=3)
    with pytest.raises(ValueError, match=r"\.json"):
        save_preset(tmp_path / "mine", settings)
    (tmp_path / "part.json").write_text(
        '{"kind": "lightgcn preset", "version": 1, "settings": {"num_layers": 2}}'
    )
    assert preset(tmp_path / "part.json") == Preset(ModelConfig(num_layers=2))
