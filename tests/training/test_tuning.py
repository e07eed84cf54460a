"""The search: better than its start, kept and taken up again, fair by time, and refused where it
does not belong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lightgcn.training.tuning
from lightgcn import RankingConfig, Split, fit, preset, split_edges, tune
from lightgcn.datasets import synthetic_interactions
from lightgcn.training import PRESETS, TuneResult
from lightgcn.training.search_space import STARTUP_TRIALS, first_trials, search_space
from lightgcn.training.trials import Trial, trials_table

pytest.importorskip("optuna")

USERS, ITEMS = 60, 45
# A start that learns too slowly to be good.
POOR = preset(
    "fast",
    choose_ranking=False,
    init="xavier",
    embedding_dim=8,
    learning_rate=3e-4,
    epochs=6,
    metric="recall@5",
)
QUICK: dict[str, Any] = {"start": POOR, "fixed": ("epochs", "embedding_dim")}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split() -> Split:
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)
    return split_edges(graph, (0.7, 0.15, 0.15), disjoint=0)


@pytest.fixture(scope="module")
def result(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneResult, Path]:
    folder = tmp_path_factory.mktemp("search")
    return tune(split, folder, trials=STARTUP_TRIALS + 1, **QUICK), folder


def without_times(trials: list[Trial]) -> list[dict[str, Any]]:
    return [{**trial.__dict__, "seconds": 0.0} for trial in trials]


def test_a_search_beats_its_start_and_its_preset_repeats_the_best_trial(split, result) -> None:
    found, folder = result
    assert found.best is not None and found.settings is not None
    assert found.best.value > 1.2 * found.trials[0].value
    settings = preset(folder / "preset.json")
    assert settings == found.settings
    model = settings.new_model(split.val.message)
    history = fit(model, split, settings)
    assert history.best_value == found.best.value
    assert history.best_epoch == found.best.best_epoch


def test_the_start_and_the_presets_are_tried_first_and_fixed_settings_stay(split, result) -> None:
    found, _ = result
    space = search_space(POOR, split.train.positives.num_edges, max_dim=128, fixed=QUICK["fixed"])
    first = first_trials(space, POOR)
    assert [trial.settings for trial in found.trials[: len(first)]] == first
    assert not {"epochs", "embedding_dim"} & found.trials[0].settings.keys()
    assert found.settings.model.embedding_dim == 8 and found.settings.train.epochs == 6


def test_two_sessions_give_what_one_gives(split, result, tmp_path) -> None:
    whole, _ = result
    tune(split, tmp_path, trials=4, **QUICK)
    second = tune(split, tmp_path, trials=STARTUP_TRIALS - 3, **QUICK)
    assert without_times(second.trials) == without_times(whole.trials)


def test_an_interrupted_search_keeps_its_best_and_tries_the_same_settings_again(
    split, result, tmp_path
) -> None:
    whole, _ = result
    seen: list[Any] = []
    steps = iter(range(10**6))
    stop = {"at": math.inf}

    def should_stop() -> bool:
        return next(steps) > stop["at"]

    def on_trial(state: Any) -> None:
        seen.append(state)
        if len(seen) == 3:
            stop["at"] = -1

    part = tune(split, tmp_path, trials=9, should_stop=should_stop, on_trial=on_trial, **QUICK)
    assert part.ended == "interrupted" and len(part.trials) == 3
    assert preset(tmp_path / "preset.json") == part.settings
    rest = tune(split, tmp_path, trials=2, **QUICK)
    assert without_times(rest.trials) == without_times(whole.trials[:5])


def test_the_test_set_is_not_read(split, tmp_path) -> None:
    hidden = split._replace(test=None)
    assert tune(hidden, tmp_path, trials=1, **QUICK).best is not None


@pytest.mark.slow
def test_the_time_ends_the_search_and_a_trial_has_a_tenth_of_it(
    split, tmp_path, monkeypatch
) -> None:
    clock = {"now": 0.0}

    def monotonic() -> float:
        clock["now"] += 0.01
        return clock["now"]

    monkeypatch.setattr(lightgcn.training.tuning, "time", SimpleNamespace(monotonic=monotonic))
    found = tune(split, tmp_path, minutes=1.0, start=POOR.changed(batch_size=64))
    assert found.ended == "time"
    assert all(trial.seconds <= 12 for trial in found.trials)
    assert found.trials and found.best is not None


def test_trials_that_diverge_or_run_out_of_memory_count_as_failed(
    split, tmp_path, monkeypatch
) -> None:
    real = fit
    calls = iter(range(100))

    def failing(*arguments: Any, **options: Any) -> Any:
        number = next(calls)
        if number == 1:
            raise ValueError("the training loss is nan")
        if number == 2:
            raise torch.OutOfMemoryError("no memory")
        return real(*arguments, **options)

    monkeypatch.setattr(lightgcn.training.tuning, "fit", failing)
    found = tune(split, tmp_path, trials=4, **QUICK)
    assert [trial.ended == "failed" for trial in found.trials] == [False, True, True, False]
    assert "nan" in found.trials[1].error and "no memory" in found.trials[2].error


def test_a_search_in_which_everything_fails_ends(split, tmp_path, monkeypatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise ValueError("diverged like this")

    monkeypatch.setattr(lightgcn.training.tuning, "fit", failing)
    with pytest.raises(ValueError, match="diverged like this"):
        tune(split, tmp_path, trials=50, **QUICK)


def test_a_journal_that_was_cut_off_goes_on_and_a_lost_preset_is_written_again(
    split, tmp_path, monkeypatch
) -> None:
    before = tune(split, tmp_path, trials=3, **QUICK)
    journal = tmp_path / "study.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    (tmp_path / "preset.json").unlink()
    write = Path.write_bytes

    def write_others(path: Path, data: bytes) -> int:
        assert path != journal  # which would be empty in between
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_others)
    after = tune(split, tmp_path, trials=1, **QUICK)
    assert without_times(after.trials[:3]) == without_times(before.trials)
    assert (tmp_path / "preset.json").is_file()


def test_another_search_is_refused_and_left_alone(split, tmp_path) -> None:
    tune(split, tmp_path, trials=1, **QUICK)
    journal = (tmp_path / "study.log").read_bytes()
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=2, num_tastes=3)
    others: list[tuple[Any, dict[str, Any], str]] = [
        (split_edges(graph), QUICK, "data"),
        (split, QUICK | {"start": POOR.changed(learning_rate=1e-3)}, "start"),
        (split, QUICK | {"fixed": ("epochs",)}, "fixed"),
        (split, QUICK | {"max_dim": 64}, "max_dim"),
    ]
    for other, options, named in others:
        with pytest.raises(ValueError, match=named) as refused:
            tune(other, tmp_path, trials=1, **options)
        assert str(tmp_path) in str(refused.value)
    assert (tmp_path / "study.log").read_bytes() == journal


def test_a_damaged_journal_is_named(split, tmp_path) -> None:
    (tmp_path / "study.log").write_text("not a journal\nat all\n")
    with pytest.raises(ValueError, match=r"study\.log"):
        tune(split, tmp_path, trials=1, **QUICK)


def test_a_preset_without_a_search_is_not_overwritten(split, tmp_path) -> None:
    (tmp_path / "preset.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"preset\.json"):
        tune(split, tmp_path, trials=1, **QUICK)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "minutes"),
        ({"minutes": 0}, "minutes"),
        ({"trials": 0}, "trials"),
        ({"trials": 1, "max_dim": 0}, "max_dim"),
        ({"trials": 1, "fixed": ["width"]}, "width"),
        ({"trials": 1, "start": preset("fast", metric="loss")}, "loss"),
        ({"trials": 1, "start": preset("fast", init_std=0)}, "init_std"),
        ({"trials": 1, "start": preset("fast", item_knn_weight=0.0)}, "item_knn_weight"),
        ({"trials": 1, "start": preset("fast", time_decay_weight=0.0)}, "time_decay_weight"),
    ],
)
def test_bad_arguments_are_named_and_leave_no_trace(split, tmp_path, options, named) -> None:
    with pytest.raises(ValueError, match=named):
        tune(split, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_the_start_is_tried_as_it_is_and_what_is_zero_may_be_fixed(split, tmp_path) -> None:
    start = POOR.changed(learning_rate=1 / 900, init_std=0, negative_weight=2 / 3)
    fixed = (*QUICK["fixed"], "init_std")
    first = tune(split, tmp_path, trials=1, start=start, fixed=fixed).trials[0]
    assert first.settings == {name: start.flat()[name] for name in first.settings}


@pytest.mark.parametrize("chosen", [False, True])
def test_what_is_chosen_after_training_is_not_searched(split, tmp_path, chosen: bool) -> None:
    start = POOR.changed(choose_ranking=chosen)
    found = tune(split, tmp_path, trials=1, start=start, fixed=QUICK["fixed"])
    searched = found.trials[0].settings.keys()
    assert {"popularity_prior", "item_knn", "time_decay"} <= searched or chosen
    assert not (chosen and {*RankingConfig.__dataclass_fields__} & searched)
    assert "temperature" in searched
    assert found.settings is not None and found.settings.train.choose_ranking is chosen


def test_with_negatives_of_any_two_nodes_parts_of_user_item_scores_are_left_out(tmp_path) -> None:
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)
    pairs = split_edges(graph, negative_pairs="all")
    start = POOR.changed(popularity_prior=None, item_knn=0, metric="roc_auc", epochs=2)
    found = tune(pairs, tmp_path, trials=6, start=start, fixed=QUICK["fixed"])
    assert all(trial.ended != "failed" for trial in found.trials)
    assert not {"popularity_prior", "item_knn"} & found.trials[0].settings.keys()


def test_every_start_is_in_its_space() -> None:
    for name in PRESETS:
        for edges in (100, 10_000, 1_000_000, 66_000_000):
            start = preset(name)
            space = search_space(start, edges, max_dim=64)
            for settings in first_trials(space, start):
                start.changed(**settings)
                assert all(each.holds(settings[each.name]) for each in space)
                for each in space:
                    assert each.decode(each.encode(settings[each.name])) == settings[each.name]


def test_without_optuna_one_line_says_how_to_install_it(split, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="Optuna"):
        tune(split, tmp_path, trials=1)


@pytest.mark.slow
@pytest.mark.slow
def test_the_library_does_not_import_optuna() -> None:
    code = "import sys, lightgcn, lightgcn.cli.main; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_fits_a_terminal_and_shows_the_best_first(result) -> None:
    found, folder = result
    lines = trials_table(found.trials, "recall@5")
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[0] == str(found.best.number)
    assert json.loads((folder / "preset.json").read_text())["found"]["value"] == found.best.value
