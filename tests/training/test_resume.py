"""Resumed training: the same bits as an uninterrupted run, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from small_runs import (
    ITEMS,
    SETTINGS,
    SMALL,
    USERS,
    assert_same_bits,
    new_model,
    small_split,
    state,
    stop_after,
    trained,
    without_times,
)

import lightgcn
from lightgcn import LightGCN, LinkSet, RankingConfig, Split, fit, link_set, preset
from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.datasets import synthetic_interactions
from lightgcn.training import TrainResult
from lightgcn.training.checkpoint import CHECKPOINT_FILE, HISTORY_FILE, read_history

pytestmark = pytest.mark.usefixtures("one_thread")

# Steps an epoch of each of SETTINGS on `small_split`: 1, 4, 4, 2.
STOPS = {
    "tutorial": (0, 1, 2, 3),
    "paper": (0, 1, 4, 6, 8, 15),
    "fast": (2, 4, 11),
    "all at once": (1, 2, 5),
}


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / HISTORY_FILE).open("rb")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_resumed(
    found: tuple[LightGCN, TrainResult], expected: tuple[LightGCN, TrainResult], folder: Path
) -> None:
    assert_same_bits(state(found[0]), state(expected[0]))
    assert without_times(found[1].history) == without_times(expected[1].history)
    for name in ("best_epoch", "best_value", "ended"):
        assert getattr(found[1], name) == getattr(expected[1], name)
    assert history_of(folder) == found[1].history


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_run_equals_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    settings = SETTINGS[name]
    expected = trained(settings)
    for steps in STOPS[name]:
        folder = tmp_path / str(steps)
        _, first = trained(settings, run_dir=folder, should_stop=stop_after(steps))
        assert first.ended == "interrupted"
        # The start of the model that goes on does not matter: the checkpoint holds all of it.
        found = trained(settings, start=99, run_dir=folder, resume=True)
        assert_resumed(found, expected, folder)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_interrupted_at_every_step_equals_the_uninterrupted_one(
    name: str, tmp_path: Path
) -> None:
    settings, rounds, ended = SETTINGS[name], 0, "interrupted"
    while ended == "interrupted":
        options: dict[str, Any] = {"run_dir": tmp_path, "resume": True}
        start = 99 if rounds else None
        found = trained(settings, start=start, should_stop=stop_after(1), **options)
        rounds, ended = rounds + 1, found[1].ended
    assert rounds == {"tutorial": 4, "paper": 16, "fast": 16, "all at once": 8}[name]
    assert_resumed(found, trained(settings), tmp_path)


def test_an_interrupted_model_holds_the_weights_of_its_last_step(tmp_path: Path) -> None:
    settings = SETTINGS["paper"]
    model, result = trained(settings, run_dir=tmp_path, should_stop=stop_after(0))
    assert_same_bits(state(model), state(new_model(settings)))
    assert result.history == [] and result.best_epoch == 0 and math.isnan(result.best_value)
    model, _ = trained(settings, run_dir=tmp_path / "other", should_stop=stop_after(1))
    assert not torch.equal(model.embedding, new_model(settings).embedding)


def test_resume_from_nothing_starts_anew(tmp_path: Path) -> None:
    settings = SETTINGS["fast"]
    resumed, _ = trained(settings, run_dir=tmp_path / "new" / "folder", resume=True)
    assert_same_bits(state(trained(settings)[0]), state(resumed))


def test_a_run_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    trained(SETTINGS["fast"], run_dir=tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}.*resume=True"):
        trained(SETTINGS["fast"], run_dir=tmp_path)
    assert files_of(tmp_path) == before


def test_a_history_without_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    """As a run leaves it that diverged."""
    (tmp_path / HISTORY_FILE).write_bytes(b'{"epoch": 1}\n')
    _, result = trained(SETTINGS["fast"], run_dir=tmp_path)
    assert history_of(tmp_path) == result.history


def test_a_finished_run_is_resumed_for_more_epochs(tmp_path: Path) -> None:
    settings = SETTINGS["paper"]
    longer = settings.changed(epochs=6)
    trained(settings, run_dir=tmp_path)
    found = trained(longer, run_dir=tmp_path, resume=True)
    assert_resumed(found, trained(longer), tmp_path)


def test_a_run_that_ended_early_stays_ended_until_patience_grows(tmp_path: Path) -> None:
    changes = SMALL | {"epochs": 60, "eval_every": 1, "metric": "recall@5", "learning_rate": 0.2}
    short = preset("paper", **changes | {"patience": 2})
    long = short.changed(patience=6)
    model, first = trained(short, run_dir=tmp_path)
    assert first.ended == "early"
    again, second = trained(short, start=99, run_dir=tmp_path, resume=True)
    assert second.ended == "early" and second.history == first.history
    assert_same_bits(state(again), state(model))
    assert_resumed(trained(long, run_dir=tmp_path, resume=True), trained(long), tmp_path)


def test_records_after_the_checkpoint_are_dropped_from_the_history(tmp_path: Path) -> None:
    settings = SETTINGS["paper"]
    trained(settings, run_dir=tmp_path, should_stop=stop_after(5))
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(b'{"epoch": 2, "loss": 0.0')  # a power cut in the middle of a line
    _, result = trained(settings, run_dir=tmp_path, resume=True)
    assert history_of(tmp_path) == result.history


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    trained(SETTINGS["paper"], run_dir=tmp_path, should_stop=stop_after(5))
    return tmp_path


def refused(
    folder: Path,
    *wanted: str,
    model: LightGCN | None = None,
    split: Split | None = None,
    **changes: Any,
) -> None:
    """Resume with something else: an error that names the file and what is wanted, and the folder
    and the model stay as they were."""
    settings, before = SETTINGS["paper"].changed(**changes), files_of(folder)
    model = model or new_model(settings)
    weights, ranking, normalization = state(model), model.ranking, model.normalization
    with pytest.raises(ValueError) as caught:
        fit(
            model,
            split or small_split(SETTINGS["paper"]),
            settings.train,
            run_dir=folder,
            resume=True,
        )
    for text in (CHECKPOINT_FILE, *wanted):
        assert text in str(caught.value)
    assert files_of(folder) == before
    assert_same_bits(state(model), weights)
    assert (model.ranking, model.normalization) == (ranking, normalization)


def test_resume_refuses_another_model(checkpoint: Path) -> None:
    wider, ranked = LightGCN(USERS, ITEMS, 9, 3), LightGCN(USERS, ITEMS, 8, 3)
    ranked.ranking = RankingConfig(item_knn=5)
    refused(checkpoint, "(105, 8)", "(105, 9)", model=wider)
    refused(checkpoint, "3", "2", model=LightGCN(USERS, ITEMS, 8, 2))
    refused(checkpoint, "alpha", model=LightGCN(USERS, ITEMS, 8, 3, [0.0, 0.0, 0.0, 1.0]))
    refused(checkpoint, "alpha", model=LightGCN(USERS, ITEMS, 8, 3, "learnable"))
    refused(checkpoint, "normalization", model=LightGCN(USERS, ITEMS, 8, 3, normalization="mean"))
    refused(checkpoint, "item_knn", model=ranked)


def test_resume_refuses_other_settings(checkpoint: Path) -> None:
    for name, value in {"learning_rate": 0.5, "l2": 0.0, "seed": 4, "batch_size": None}.items():
        refused(checkpoint, f"{name}=", repr(value), **{name: value})


@pytest.mark.filterwarnings("ignore:.*disjoint:UserWarning")
def test_resume_refuses_other_data(checkpoint: Path) -> None:
    settings = SETTINGS["paper"]
    whole = small_split(settings)
    # With the same seed these have the same validation edges, and still they are other data.
    held_back, more = small_split(settings, disjoint=0.3), small_split(settings, negatives=2.0)
    first = whole.train.positives.select(torch.arange(100))
    fewer = whole._replace(train=link_set(whole.val.message, first))
    positives = whole.val.positives.select(torch.arange(1, 50))
    val = whole._replace(val=LinkSet(whole.val.message, positives, whole.val.negatives))
    for other in (small_split(settings, seed=1), held_back, more, fewer, val):
        refused(checkpoint, "different data", split=other)


def test_resume_refuses_a_truncated_checkpoint(checkpoint: Path) -> None:
    path = checkpoint / CHECKPOINT_FILE
    data = path.read_bytes()
    for kept in (0, 5, 200, len(data) // 2, int(0.99 * len(data))):
        path.write_bytes(data[:kept])
        refused(checkpoint)


def test_resume_refuses_a_checkpoint_that_lacks_something(checkpoint: Path) -> None:
    path = checkpoint / CHECKPOINT_FILE
    tensors, metadata = load_tensors(path, "checkpoint")
    for lacking in ("history", "config", "data", "model", "step"):
        rest = {key: value for key, value in metadata.items() if key != lacking}
        save_tensors(path, "checkpoint", tensors, rest)
        refused(checkpoint, lacking)
    for lacking in ("loss_sum", "model.embedding", "optimizer.0.exp_avg"):
        rest = {key: tensor for key, tensor in tensors.items() if key != lacking}
        save_tensors(path, "checkpoint", rest, metadata)
        refused(checkpoint, lacking.rpartition(".")[2])
    save_tensors(path, "dataset", tensors, metadata)
    refused(checkpoint, "dataset")


def test_resume_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="run_dir"):
        trained(SETTINGS["paper"], resume=True)


def test_train_goes_on_for_more_epochs_with_the_batch_size_of_the_run(tmp_path: Path) -> None:
    """On a small graph the batch size follows the number of epochs, which may change."""
    split = lightgcn.split_edges(synthetic_interactions(60, 40, 600), stratify="user")
    changes = {"embedding_dim": 4, "eval_every": 1, "patience": None, "run_dir": tmp_path}
    for epochs in (7, 14):
        lightgcn.train(split, "fast", epochs=epochs, resume=True, **changes)
    assert [record["epoch"] for record in read_history(tmp_path)] == list(range(1, 15))
    with pytest.raises(ValueError, match="learning_rate"):
        lightgcn.train(split, "fast", epochs=14, resume=True, learning_rate=0.5, **changes)
