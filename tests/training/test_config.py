"""Settings: ranges, presets, files, names of metrics."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import nn

from lightgcn import Interactions, ModelConfig, Preset, RankingConfig, TrainConfig, preset
from lightgcn.ranking.metrics import parse_metric
from lightgcn.training import PRESETS, save_preset

OUT_OF_RANGE: dict[type, dict[str, tuple[Any, ...]]] = {
    ModelConfig: {
        "embedding_dim": (0, 2.0, None, True),
        "num_layers": (-1, 1.5, None),
        "normalization": ("row", (0.5, 0.5)),
        "learnable_alpha": ("yes", None),
        "init": ("zeros", None),
        "init_std": (-0.1, math.nan, math.inf, "0.1"),
    },
    TrainConfig: {
        "loss": ("hinge", None),
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
        "disjoint": (1.0, -0.1, math.nan, "0.2"),
        "negative_pairs": ("nodes", None),
        "metric": ("recall", "recall@0", "auc", "roc_auc@20", "", None),
        "eval_every": (0, None),
        "eval_users": (0, -1, 2.5),
        "patience": (0, -1, 2.5),
        "precision": ("float16", None),
        "choose_ranking": ("yes", None),
        "use_order": ("yes", None),
        "seed": (-1, 1.5, None),
    },
    RankingConfig: {
        "popularity_prior": (-0.1, math.inf, "0.1"),
        "item_knn": (-1, 1.5, None),
        "item_knn_weight": (-0.1, math.nan, None),
        "item_similarity": ("jaccard", None),
        "user_knn": (-1, 1.5, None),
        "user_knn_weight": (-0.1, math.nan, None),
        "spectral": (-1, 1.5, None),
        "spectral_weight": (-0.1, math.nan, None),
        "time_decay": (-0.5, math.inf, None),
        "time_decay_weight": (-0.5, math.nan, None),
    },
}


@pytest.mark.parametrize("config", OUT_OF_RANGE)
def test_a_setting_out_of_range_is_named_with_its_value(config: type) -> None:
    assert set(OUT_OF_RANGE[config]) == {field.name for field in fields(config)}
    for name, values in OUT_OF_RANGE[config].items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} must ") as caught:
                config(**{name: value})
            assert str(value) in str(caught.value)
            with pytest.raises(ValueError, match=f"^{name} must "):
                preset("paper", **{name: value})


def test_the_ends_of_ranges_are_allowed() -> None:
    for changes in (
        {"batch_size": None, "patience": None, "l2": 0, "weight_decay": 0, "disjoint": 0},
        {"num_layers": 0, "init_std": 0, "seed": 0, "popularity_prior": 0, "item_knn": 0},
        {"metric": "loss"},
        {"metric": "clicks@500"},
    ):
        flat = preset("paper", **changes).flat()
        assert {name: flat[name] for name in changes} == changes


def test_parse_metric() -> None:
    assert parse_metric("recall@20") == ("recall", 20)
    assert parse_metric("r_precision@1") == ("r_precision", 1)
    assert parse_metric("roc_auc") == ("roc_auc", None)
    for name in ("recall", "recall@", "recall@-1", "recall@x", "recall@020", "recall@２", "@20"):
        with pytest.raises(ValueError, match="metric") as caught:
            parse_metric(name)
        assert repr(name) in str(caught.value)


def test_presets_have_the_settings_of_their_sources() -> None:
    published = {
        "tutorial": {
            "loss": "bce",
            "num_layers": 3,
            "embedding_dim": 32,
            "normalization": "mean",
            "batch_size": None,
            "learning_rate": 0.01,
            "weight_decay": 1e-5,
            "l2": 0.0,
            "epochs": 300,
            "disjoint": 0.2,
            "metric": "roc_auc",
            "eval_every": 1,  # the best of all epochs
            "patience": None,
        },
        "paper": {
            "loss": "bpr",
            "num_layers": 3,
            "embedding_dim": 64,
            "normalization": "symmetric",
            "init": "normal",
            "init_std": 0.1,
            "batch_size": 2048,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "l2": 1e-4,
            "epochs": 1000,
            "num_negatives": 1,
            "disjoint": 0.0,
            "metric": "recall@20",
            "popularity_prior": None,
            "item_knn": 0,
        },
    }
    for name, settings in published.items():
        flat = preset(name).flat()
        assert {setting: flat[setting] for setting in settings} == settings


def test_changes_go_to_the_concern_that_they_are_of() -> None:
    changed = preset("paper", epochs=5, num_layers=1, item_knn=7)
    assert (changed.train.epochs, changed.model.num_layers, changed.ranking.item_knn) == (5, 1, 7)
    assert changed.flat() == PRESETS["paper"].flat() | {
        "epochs": 5,
        "num_layers": 1,
        "item_knn": 7,
    }
    assert PRESETS["paper"].train.epochs == 1000
    with pytest.raises(FrozenInstanceError):
        changed.train.epochs = 6  # type: ignore[misc]


def test_unknown_presets_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="'papper'"):
        preset("papper")
    with pytest.raises(ValueError, match="epoch=5"):
        preset("paper", epoch=5)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="positives='users'"):
        TrainConfig(loss="bce", positives="users")
    for name, changes in (("item_knn", {}), ("popularity_prior", {"item_knn": 0})):
        with pytest.raises(ValueError, match=name):
            preset("best", negative_pairs="all", **changes)


def test_numpy_numbers_become_plain_ones() -> None:
    config = preset("fast", epochs=np.int64(3), seed=np.uint8(4), learning_rate=np.float32(0.5))
    values = (config.train.epochs, config.train.seed, config.train.learning_rate)
    assert values == (3, 4, 0.5)
    assert [type(value) for value in values] == [int, int, float]
    with pytest.raises(ValueError, match=r"epochs must .*, got 0"):
        preset("fast", epochs=np.int64(0))


def test_new_model_has_the_settings() -> None:
    graph = Interactions.from_edge_index(torch.tensor([[0], [0]]), 30, 40)
    shape = {"embedding_dim": 7, "num_layers": 2, "init_std": 0.5}
    settings = preset("paper", **shape, learnable_alpha=True, normalization="mean", item_knn=3)
    model = settings.changed(seed=4).new_model(graph)
    assert (model.num_users, model.num_items, model.embedding_dim, model.num_layers) == (
        30,
        40,
        7,
        2,
    )
    assert model.normalization == "mean" and model.ranking == settings.ranking
    assert isinstance(model.alpha, nn.Parameter)
    assert model.embedding.std().item() == pytest.approx(0.5, rel=0.1)
    again = preset("paper", **shape, seed=4).new_model(graph)
    assert isinstance(again.alpha, tuple) and torch.equal(again.embedding, model.embedding)
    other = preset("paper", **shape, seed=5).new_model(graph)
    assert not torch.equal(other.embedding, model.embedding)
    xavier = preset("paper", **shape, init="xavier").new_model(graph).embedding
    assert xavier.abs().max().item() <= (6 / 77) ** 0.5
    with pytest.raises(ValueError, match="--words"):
        preset("paper", init="words").new_model(graph)


def test_a_preset_file_gives_the_same_settings_and_takes_changes(tmp_path: Path) -> None:
    mine = preset("tutorial", temperature=0.123456789, batch_size=None, seed=7)
    for name, settings in {"mine": mine, **PRESETS}.items():
        file = tmp_path / f"{name}.json"
        save_preset(file, settings, {"value": 0.5})
        assert preset(file) == settings == preset(str(file))
        assert preset(file, epochs=3) == settings.changed(epochs=3)
    with pytest.raises(ValueError, match=r"mine: .*\.json"):
        save_preset(tmp_path / "mine", mine)


def test_a_preset_file_may_lack_settings_and_is_named_if_it_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    good = {"kind": "lightgcn preset", "version": 1, "settings": {"num_layers": 2}}
    file.write_bytes(orjson.dumps(good))
    assert preset(file) == Preset(ModelConfig(num_layers=2))
    for bad, value in (
        ([], "kind"),
        ({"kind": "other"}, "kind"),
        (good | {"version": 2}, "2"),
        (good | {"settings": {"epochs": "60"}}, "epochs .*'60'"),
        (good | {"settings": {"warmth": 3}}, "warmth=3"),
    ):
        file.write_bytes(orjson.dumps(bad))
        with pytest.raises(ValueError, match=rf"part\.json.*{value}"):
            preset(file)
