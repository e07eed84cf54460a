"""The search: better than its start, kept and taken up again, fair by time, and refused where it
does not belong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lightgcn.training.search_space
import lightgcn.training.tuning
from lightgcn import (
    PRESETS,
    Split,
    TrainConfig,
    Trial,
    TuneProgress,
    TuneResult,
    fit,
    preset,
    split_edges,
    tune,
)
from lightgcn.datasets import synthetic_interactions
from lightgcn.training.search_space import (
    SPACE,
    STARTUP_TRIALS,
    first_trials,
    propose,
    search_space,
)
from lightgcn.training.trials import read_trials, trials_table

pytest.importorskip("optuna")

USERS, ITEMS = 60, 45
# A start that learns too slowly to be good.
POOR = preset(
    "fast", init="xavier", embedding_dim=8, learning_rate=3e-4, epochs=6, metric="recall@5"
)
QUICK: dict[str, Any] = {"start": POOR, "fixed": ("epochs", "embedding_dim")}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split() -> Split:
    return split_edges(
        synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3),
        (0.7, 0.15, 0.15),
        disjoint=0,
    )


def without_times(trials: list[Trial]) -> list[Trial]:
    return [
        replace(trial, seconds=0.0, curve=[(epoch, 0.0, value) for epoch, _, value in trial.curve])
        for trial in trials
    ]


def test_a_search_beats_its_start_and_training_with_its_preset_repeats_the_best_trial(
    split: Split, tmp_path: Path
) -> None:
    result = tune(split, tmp_path, trials=10, **QUICK)
    assert result.ended == "trials" and len(result.trials) == 10 and result.best is not None
    alone = fit(POOR.new_model(USERS, ITEMS), split, POOR)
    assert result.trials[0].value == alone.best_value
    assert result.best.value is not None and result.best.value > alone.best_value
    assert result.best.value == max(trial.value or 0.0 for trial in result.trials)

    config = preset(tmp_path / "preset.json")
    assert config == result.config and config != POOR
    again = fit(config.new_model(USERS, ITEMS, split.val.message), split, config)
    assert again.best_value == result.best.value
    found = json.loads((tmp_path / "preset.json").read_text())["found"]
    assert found == {
        "metric": "recall@5",
        "value": result.best.value,
        "epoch": result.best.best_epoch,
        "trial": result.best.number,
    }


def test_the_presets_are_tried_first_and_fixed_settings_stay(split: Split, tmp_path: Path) -> None:
    result = tune(
        split, tmp_path, trials=4, **QUICK | {"fixed": (*QUICK["fixed"], "batch_size", "l2")}
    )
    fast, paper = PRESETS["fast"], PRESETS["paper"]
    assert result.trials[0].settings == {
        name: getattr(POOR, name) for name in result.trials[0].settings
    }
    for trial, expected in zip(result.trials[1:3], (paper, fast), strict=True):
        assert trial.settings == {name: getattr(expected, name) for name in trial.settings}
    for trial in result.trials:
        assert not {"batch_size", "l2", "epochs", "embedding_dim"} & set(trial.settings)
    assert result.config is not None and result.config.batch_size == POOR.batch_size


@pytest.mark.slow
def test_seed_and_number_of_trials_determine_the_result_also_in_two_sessions(
    split: Split, tmp_path: Path
) -> None:
    whole = tune(split, tmp_path / "whole", trials=11, **QUICK)
    tune(split, tmp_path / "parts", trials=4, **QUICK)
    parts = tune(split, tmp_path / "parts", trials=7, **QUICK)
    assert without_times(parts.trials) == without_times(whole.trials)
    assert [trial.number for trial in parts.trials] == list(range(11))
    assert len({json.dumps(trial.settings) for trial in parts.trials}) == 11
    assert read_trials(tmp_path / "parts" / "trials.jsonl") == parts.trials
    other = tune(split, tmp_path / "other", trials=5, **QUICK | {"start": replace(POOR, seed=1)})
    assert other.trials[4].settings != whole.trials[4].settings


class _Unread:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test set was read: {name}")


def test_the_test_set_is_not_read(split: Split, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was read"):
        split._replace(test=_Unread()).to("cpu")  # type: ignore[arg-type]
    tune(split._replace(test=_Unread()), tmp_path, trials=2, **QUICK)  # type: ignore[arg-type]


class _FakeTraining:
    """Stands in for `fit`: each trial has the seconds per epoch and the values that a test gives
    it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *trials: tuple[float, list[float]]) -> None:
        self.now, self.configs, self.trials = 0.0, [], list(trials)  # type: float, list[TrainConfig], list[Any]
        monkeypatch.setattr(
            lightgcn.training.tuning, "time", SimpleNamespace(monotonic=lambda: self.now)
        )
        monkeypatch.setattr(lightgcn.training.tuning, "fit", self)

    def __call__(
        self,
        model: Any,
        split: Any,
        config: TrainConfig,
        *,
        on_epoch: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
    ) -> Any:
        self.configs.append(config)
        seconds, values = self.trials[len(self.configs) - 1]
        for epoch, value in enumerate(values, 1):
            if should_stop():
                return SimpleNamespace(ended="interrupted")
            self.now += seconds
            if isinstance(value, BaseException):
                raise value
            on_epoch({"epoch": epoch, "val": {config.metric: value}})
        return SimpleNamespace(ended="early")


def _rising(to: float, epochs: int) -> list[float]:
    return [to * (epoch + 1) / epochs for epoch in range(epochs)]


def test_a_trial_is_behind_by_seconds_not_by_epochs(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All rise by as much in an epoch; the fourth takes five times as long for one.
    _FakeTraining(
        monkeypatch,
        *[(1.0, _rising(0.5, 20))] * 3,
        (5.0, _rising(0.5, 20)),
        (0.9, _rising(0.5, 20)),
    )
    result = tune(split, tmp_path, minutes=10, trials=5, **QUICK)
    assert [trial.ended for trial in result.trials] == [
        "early",
        "early",
        "early",
        "pruned",
        "early",
    ]
    # It has ten seconds, a sixtieth of the time, before it is compared.
    assert [point[1] for point in result.trials[3].curve] == [5.0, 10.0]
    assert result.trials[3].value == pytest.approx(0.05) and result.trials[3].best_epoch == 2

    _FakeTraining(monkeypatch, *[(1.0, _rising(0.5, 20))] * 3, (5.0, _rising(0.5, 20)))
    by_epochs = tune(split, tmp_path / "epochs", trials=4, **QUICK)
    assert {trial.ended for trial in by_epochs.trials} == {"early"}


def test_a_trial_has_a_tenth_of_the_time_and_the_last_one_counts_with_what_it_reached(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each has seven seconds; the last one, better from the first, has four left.
    _FakeTraining(monkeypatch, *[(1.0, _rising(0.2, 200))] * 8, (1.0, [0.5] * 200))
    lines: list[TuneProgress] = []
    result = tune(split, tmp_path, minutes=1, on_trial=lines.append, **QUICK)
    assert result.ended == "time" and result.trials[0].ended == "limit"
    assert result.trials[0].seconds == 7.0 and result.trials[0].epochs == 7
    assert result.trials[-1].ended == "stopped" and result.trials[-1].seconds < 7
    assert result.best is not None and result.best.value == 0.5
    assert lines[0].seconds_left == 53.0 and lines[-1].seconds_left == 0
    assert lines[-1].best == result.best


def test_epochs_go_on_where_a_trial_was_still_getting_better(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _FakeTraining(monkeypatch, (1.0, _rising(0.5, 150)))
    result = tune(split, tmp_path, trials=1, start=POOR, fixed=("embedding_dim",))
    assert result.config is not None and result.config.epochs == 300
    _FakeTraining(monkeypatch, (1.0, _rising(0.5, 20)))
    result = tune(split, tmp_path / "other", trials=1, start=POOR)
    assert result.config is not None and result.config.epochs == 200


def test_trials_that_diverge_or_run_out_of_memory_count_as_failed(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [
        ValueError("the loss is nan"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
    ]
    fake = _FakeTraining(
        monkeypatch, (1.0, [0.1]), *[(1.0, [0.9, error]) for error in errors], (1.0, [0.2])
    )
    result = tune(split, tmp_path, trials=5, **QUICK)
    assert [trial.ended for trial in result.trials] == [
        "early",
        "failed",
        "failed",
        "failed",
        "early",
    ]
    assert result.best is not None and result.best.number == 4 and result.trials[1].value is None
    assert len(fake.configs) == 5
    table = "\n".join(trials_table(result.trials, "recall@5"))
    assert "trial 1 failed: the loss is nan" in table and "trial 2 failed: MemoryError" in table

    _FakeTraining(monkeypatch, *[(1.0, [ValueError("the loss is nan")])] * STARTUP_TRIALS)
    with pytest.raises(ValueError, match=f"first {STARTUP_TRIALS} trials all failed.*nan"):
        tune(split, tmp_path / "all", trials=20, **QUICK)
    _FakeTraining(monkeypatch, (1.0, [RuntimeError("a bug")]))
    with pytest.raises(RuntimeError, match="a bug"):
        tune(split, tmp_path / "bug", trials=1, **QUICK)


def test_an_interrupted_search_keeps_its_best_and_goes_on(split: Split, tmp_path: Path) -> None:
    asked = iter(range(1000))
    # The start has 6 epochs of one step: it is stopped in the second trial.
    result = tune(split, tmp_path, trials=9, should_stop=lambda: next(asked) >= 9, **QUICK)
    assert result.ended == "interrupted" and [trial.ended for trial in result.trials] == [
        "finished",
        "stopped",
    ]
    assert preset(tmp_path / "preset.json") == result.config
    went_on = tune(split, tmp_path, trials=1, **QUICK)
    assert went_on.trials[:2] == result.trials
    assert (
        went_on.trials[2].settings == result.trials[1].settings
    )  # what was stopped has its turn again


def test_a_record_that_was_cut_off_is_dropped_and_a_lost_preset_written_again(
    split: Split, tmp_path: Path
) -> None:
    result = tune(split, tmp_path, trials=3, **QUICK)
    path, kept = tmp_path / "trials.jsonl", tmp_path / "preset.json"
    whole, best = path.read_bytes(), kept.read_bytes()
    path.write_bytes(whole + whole[:100])
    kept.unlink()
    went_on = tune(split, tmp_path, trials=1, **QUICK)
    assert went_on.trials[:3] == result.trials and len(went_on.trials) == 4
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 4
    assert kept.exists() and (went_on.best != result.best or kept.read_bytes() == best)


def test_another_search_is_refused_and_left_alone(split: Split, tmp_path: Path) -> None:
    tune(split, tmp_path, trials=1, **QUICK)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = split_edges(
        synthetic_interactions(USERS, ITEMS, 700, seed=2, num_tastes=3),
        (0.7, 0.15, 0.15),
        disjoint=0,
    )
    with pytest.raises(ValueError, match=r"study\.json: the search there is of other data"):
        tune(other, tmp_path, trials=1, **QUICK)
    with pytest.raises(ValueError, match="has metric='recall@5', now 'ndcg@5' was given"):
        tune(split, tmp_path, trials=1, **QUICK | {"start": replace(POOR, metric="ndcg@5")})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "study.json").unlink()
    with pytest.raises(FileExistsError, match=r"trials\.jsonl: is there already"):
        tune(split, tmp_path, trials=1, **QUICK)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("study.json", lambda data: data[:40], r"study\.json: not valid JSON"),
        ("study.json", lambda data: b"[]", r"study\.json: not the file of a search"),
        ("trials.jsonl", lambda data: b"{}\n" + data, r"trials\.jsonl, line 1"),
        (
            "trials.jsonl",
            lambda data: data.replace(b'"finished"', b'"won"'),
            r"trials\.jsonl, line 1.*won",
        ),
        (
            "trials.jsonl",
            lambda data: data.replace(b'"num_layers"', b'"warmth"'),
            r"trials\.jsonl, line 1.*warmth",
        ),
        ("trials.jsonl", lambda data: data[20:], r"trials\.jsonl, line 1"),
    ],
)
def test_damaged_files_are_named(
    name: str, damage: Callable[[bytes], bytes], said: str, split: Split, tmp_path: Path
) -> None:
    tune(split, tmp_path, trials=2, **QUICK)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    broken = path.read_bytes()
    with pytest.raises(ValueError, match=said):
        tune(split, tmp_path, trials=1, **QUICK)
    assert path.read_bytes() == broken


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "give minutes, trials, or both"),
        ({"minutes": 0}, "minutes must be a positive number"),
        ({"minutes": float("nan")}, "minutes must be a positive number"),
        ({"trials": 0}, "trials must be an integer of at least 1"),
        ({"trials": 1, "max_dim": 0}, "max_dim must be an integer of at least 1"),
        ({"trials": 1, "fixed": ("warmth",)}, "fixed names no setting 'warmth'"),
        (
            {"trials": 1, "fixed": [dimension.name for dimension in SPACE]},
            "nothing is left to search",
        ),
        ({"trials": 1, "start": preset("fast", metric="loss")}, "cannot choose between losses"),
        ({"trials": 1, "start": preset("fast", metric="recall@99")}, "only 45"),
    ],
)
def test_bad_arguments_are_named_and_leave_no_trace(
    changes: dict[str, Any], said: str, split: Split, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        tune(split, tmp_path / "out", **{"start": POOR} | changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("edges", [3, 700, 60_000, 800_000, 60_000_000])
@pytest.mark.parametrize("name", list(PRESETS))
def test_every_start_is_in_its_space_and_every_proposal_is_a_config(name: str, edges: int) -> None:
    start = PRESETS[name]
    space = search_space(start, edges, max_dim=48)
    widths = next(dimension.choices for dimension in space if dimension.name == "embedding_dim")
    assert max(widths) == max(32, start.embedding_dim)
    first = first_trials(space, start)
    assert first[0] == {dimension.name: getattr(start, dimension.name) for dimension in space}
    told: list[tuple[dict[str, Any], float | None]] = [(settings, 0.1) for settings in first]
    for number in range(len(first), 12):
        settings = propose(space, told, number=number, seed=0)
        assert list(settings) == [dimension.name for dimension in space]
        assert all(dimension.holds(settings[dimension.name]) for dimension in space)
        replace(start, **settings)
        told.append((settings, None if number % 4 == 0 else settings["learning_rate"]))
        json.dumps(settings)


def test_batch_sizes_suit_the_number_of_edges() -> None:
    def sizes(edges: int) -> tuple[int, ...]:
        space = search_space(preset("fast", batch_size=8192), edges, max_dim=64)
        return next(dimension.choices for dimension in space if dimension.name == "batch_size")

    assert sizes(800_000) == (2048, 8192, 16384, 32768)
    assert sizes(5_000) == (128, 512, 2048, 8192)
    assert sizes(60_000_000) == (8192, 32768)


def test_proposals_come_closer_to_what_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    space = [
        dimension
        for dimension in SPACE
        if dimension.name in ("loss", "num_layers", "learning_rate", "temperature")
    ]

    def reached(settings: dict[str, Any]) -> float:
        away = 0.2 * abs(settings["num_layers"] - 3) + abs(
            math.log(settings["learning_rate"] / 0.004)
        )
        return (settings["loss"] == "softmax") * math.exp(
            -away - abs(math.log(settings["temperature"] / 0.3))
        )

    def search() -> list[tuple[dict[str, Any], float | None]]:
        told: list[tuple[dict[str, Any], float | None]] = []
        for number in range(16):
            settings = propose(space, told, number=number, seed=2)
            told.append((settings, reached(settings)))
        return told

    told = search()
    less = [(settings, -(value or 0.0)) for settings, value in told]
    assert propose(space, less, number=16, seed=2, minimize=True) == propose(
        space, told, number=16, seed=2
    )
    assert all(settings["loss"] == "softmax" for settings, _ in told[:STARTUP_TRIALS])
    monkeypatch.setattr(lightgcn.training.search_space, "STARTUP_TRIALS", 100)
    at_random = search()
    assert told[:STARTUP_TRIALS] == at_random[:STARTUP_TRIALS]
    assert max(value or 0.0 for _, value in told) > 1.3 * max(
        value or 0.0 for _, value in at_random
    )


def test_without_optuna_one_line_says_how_to_install_it(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r'pip install "lightgcn\[tune\]"'):
        tune(split, tmp_path / "out", trials=1, **QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_library_does_not_import_optuna_and_a_search_does_not_log(
    split: Split, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, lightgcn, lightgcn.cli.main; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    import optuna

    level = optuna.logging.get_verbosity()
    tune(split, tmp_path, trials=4, **QUICK)
    out, err = capfd.readouterr()
    assert out == "" and err == "" and optuna.logging.get_verbosity() == level


def test_the_table_shows_what_differs() -> None:
    trials = [
        Trial(number, {"num_layers": layers, "loss": "softmax"}, "early", value, 4, 8, 1.5)
        for number, (layers, value) in enumerate([(1, 0.1), (3, 0.3), (2, 0.2)])
    ]
    lines = trials_table(trials, "recall@5", most=2)
    assert len(lines) == 4 and "layers" in lines[1] and "loss" not in lines[1]
    assert [line.split()[:2] for line in lines[2:]] == [["1", "0.3000"], ["2", "0.2000"]]
    assert trials_table(trials, "clicks@5")[2].split()[0] == "0"  # less is better
    assert asdict(TuneResult(trials, trials[1], None, "time"))["best"]["number"] == 1
