"""What `fit` and `train` refuse, and that a refusal leaves model and folder as they were."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    GRAPH,
    ITEMS,
    SETTINGS,
    USERS,
    assert_same_bits,
    new_model,
    small_split,
    state,
    trained,
)
from torch import Tensor, nn

import lightgcn
from lightgcn import Interactions, LightGCN, RankingConfig, Split, fit, link_set, split_edges
from lightgcn.core.lock import FolderInUseError
from lightgcn.datasets.synthetic.generate import synthetic_interactions
from lightgcn.training.checkpoint import CHECKPOINT_FILE, HISTORY_FILE, read_history

pytestmark = pytest.mark.usefixtures("one_thread")
PAPER = SETTINGS["paper"]


class OwnForward(LightGCN):
    def forward(self, graph: Any, edges: Any, *, node_pairs: bool = False) -> Tensor:
        return super().forward(graph, edges, node_pairs=node_pairs) + 1


class OwnPropagate(LightGCN):
    def propagate(self, graph: Any) -> Tensor:
        return 2 * super().propagate(graph)


class Wrapper(nn.Module):
    """As DistributedDataParallel holds a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def frozen() -> LightGCN:
    model = new_model(PAPER)
    model.requires_grad_(False)
    return model


def made_in_inference_mode() -> LightGCN:
    with torch.inference_mode():
        return new_model(PAPER)


def refused(
    error: type[Exception], *named: str, folder: Path, model: Any = None, **arguments: Any
) -> None:
    model = new_model(PAPER) if model is None else model
    given = {"split": small_split(PAPER), "settings": PAPER, "run_dir": folder} | arguments
    before = [(one.normalization, one.ranking, state(one)) for one in [model] if _is_model(one)]
    steps: list[bool] = []
    with pytest.raises(error) as caught:
        fit(model, should_stop=lambda: bool(steps.append(True)), **given)
    for text in named:
        assert text in str(caught.value)
    assert not steps and not folder.exists()
    for normalization, ranking, weights in before:
        assert (model.normalization, model.ranking) == (normalization, ranking)
        assert_same_bits(state(model), weights)


def _is_model(given: Any) -> bool:
    return isinstance(given, LightGCN) and not given.embedding.is_inference()


def test_models_that_cannot_be_trained(tmp_path: Path) -> None:
    shape = (USERS, ITEMS, 8, 3)
    for error, model, *named in (
        (TypeError, nn.Linear(3, 3), "model", "Linear"),
        (TypeError, Wrapper(new_model(PAPER)), "model", "Wrapper", ".module"),
        (ValueError, OwnForward(*shape), "model", "OwnForward", "forward"),
        (ValueError, OwnPropagate(*shape), "model", "OwnPropagate", "propagate"),
        (ValueError, frozen(), "model", "requires_grad"),
        (ValueError, made_in_inference_mode(), "model", "inference_mode"),
    ):
        refused(error, *named, folder=tmp_path / "run", model=model)


def test_splits_that_are_something_else(tmp_path: Path) -> None:
    split = small_split(PAPER)
    for given, *named in (
        (GRAPH, "split_edges"),
        (split.train, "LinkSet", "split"),
        (tuple(split), "tuple"),
        (None, "NoneType"),
    ):
        refused(TypeError, "split", *named, folder=tmp_path / "run", split=given)
        with pytest.raises(TypeError, match="split"):
            lightgcn.train(given)  # type: ignore[arg-type]


def test_settings_that_are_something_else_or_contradict_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for given in ({"epochs": 3}, PAPER.model, PAPER.ranking, 3):
        refused(TypeError, "settings", folder=folder, settings=given)
    refused(ValueError, "slow", folder=folder, settings="slow")
    for name, value in (
        ("embedding_dim", 4),
        ("num_layers", 1),
        ("learnable_alpha", True),
        ("normalization", "mean"),
    ):
        model = LightGCN(USERS, ITEMS, 8, 3, normalization="symmetric")
        settings = PAPER.changed(**{name: value, "item_knn": 3})
        refused(ValueError, name, str(value), folder=folder, model=model, settings=settings)


def test_what_would_end_the_run_later_is_refused_at_once(tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", small_split(PAPER)
    bare = small_split(PAPER, negatives=0.0)
    other = split_edges(synthetic_interactions(USERS, ITEMS + 1, 700, seed=1), seed=0)
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), USERS, ITEMS)
    larger = LightGCN(USERS + 1, ITEMS, 8, 3)
    mixed = Split(whole.train, other.val, other.test)
    without = whole._replace(train=link_set(whole.train.message, empty))
    refused(ValueError, f"{USERS + 1} users", f"{USERS} users", folder=folder, model=larger)
    refused(ValueError, f"{ITEMS} items", f"{ITEMS + 1} items", folder=folder, split=mixed)
    refused(ValueError, "train set", "positives", folder=folder, split=without)
    for name, value, split in (
        ("loss", "bce", bare),
        ("metric", "roc_auc", bare),
        ("metric", f"recall@{ITEMS + 1}", whole),
    ):
        settings = PAPER.changed(**{name: value})
        refused(ValueError, value, folder=folder, settings=settings, split=split)
    pairs = small_split(PAPER, negative_pairs="all")
    for name, weight in (("item_knn", 3), ("popularity_prior", 0.1)):
        settings = PAPER.changed(**{name: weight})
        refused(ValueError, name, "negative_pairs", folder=folder, settings=settings, split=pairs)
        model = new_model(settings)
        for given in (settings.train, None):
            refused(ValueError, name, folder=folder, model=model, settings=given, split=pairs)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    folder, errors = tmp_path / "run", []

    def another(_: dict[str, Any]) -> None:
        with ThreadPoolExecutor() as pool:
            job = pool.submit(fit, new_model(PAPER), small_split(PAPER), PAPER, run_dir=folder)
            errors.append(job.exception())

    result = fit(new_model(PAPER), small_split(PAPER), PAPER, run_dir=folder, on_epoch=another)
    assert len(errors) == 4 and all(isinstance(error, FolderInUseError) for error in errors)
    assert read_history(folder) == result.history
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT_FILE, HISTORY_FILE]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_caller_may_be_under_no_grad_or_in_inference_mode(name: str) -> None:
    settings = SETTINGS[name]
    expected, _ = trained(settings)
    for mode in (torch.no_grad, torch.inference_mode):
        model = new_model(settings)
        with mode():
            split = small_split(settings)
            fit(model, split, settings)
            short = lightgcn.train(split, settings, epochs=1, init="normal")
        assert_same_bits(state(model), state(expected))
        assert short.embedding.requires_grad and not short.embedding.is_inference()
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_training_that_diverges_ends_with_an_error() -> None:
    for name in ("tutorial", "paper"):
        for rate in (1e30, 1e38):
            with pytest.raises(ValueError, match=rf"diverged.*{rate:g}".replace("+", r"\+")):
                trained(SETTINGS[name].changed(learning_rate=rate, epochs=20))
    for settings in SETTINGS.values():
        model = new_model(settings)
        with torch.no_grad():
            model.embedding[3, 0] = torch.nan
        with pytest.raises(ValueError, match=r"nan.*epoch 1"):
            fit(model, small_split(settings), settings.changed(eval_every=100))


def test_the_model_keeps_the_normalisation_and_the_ranking_of_its_settings() -> None:
    settings = SETTINGS["fast"].changed(normalization="mean", item_knn=7)
    model = LightGCN(USERS, ITEMS, 8, settings.model.num_layers)
    fit(model, small_split(settings), settings)
    assert (model.normalization, model.ranking) == ("mean", settings.ranking)
    plain = LightGCN(USERS, ITEMS, 8, 1)
    fit(plain, small_split(settings), settings.train)
    assert (plain.normalization, plain.ranking) == ("symmetric", RankingConfig())
