"""Reproducing a result: what is chosen on what, that the test set is read once, and going on where
it ended."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from lightgcn import Interactions, preset, sample_negatives, split_edges
from lightgcn.core.storage import read_json
from lightgcn.datasets import Dataset, read_text, synthetic_interactions
from lightgcn.experiments import reproduction as module
from lightgcn.experiments.evaluate import evaluate_run
from lightgcn.experiments.published import KNOWN_SPLITS, PUBLISHED, split_name
from lightgcn.experiments.reproduction import (
    Reproduction,
    reproduce,
)
from lightgcn.experiments.run import RunConfig, split_run

CONFIG = preset(
    "fast",
    epochs=6,
    eval_every=2,
    patience=None,
    batch_size=500,
    embedding_dim=8,
    learning_rate=0.02,
)


def dataset(seed: int = 0) -> Dataset:
    split = split_edges(
        synthetic_interactions(80, 60, 1500, seed=1), (0.7, 0.1, 0.2), disjoint=0.0, seed=seed
    )
    return Dataset(split.test.message, {}, {}, split.test.positives)


def run(
    folder: Path, config: Any = CONFIG, data: Dataset | None = None, **options: Any
) -> Reproduction | None:
    return reproduce(data or dataset(), config, folder, **options)


def test_the_epoch_is_chosen_on_a_part_of_train_and_all_of_train_is_trained_on(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    result = run(tmp_path, seeds=(0, 3), say=lines.append)
    assert result is not None and len(lines) == 7
    for seed, found in zip((0, 3), result.results, strict=True):
        place = tmp_path / f"seed-{seed}"
        history = [
            orjson.loads(line)
            for line in (place / "validation" / "history.jsonl").read_bytes().splitlines()
        ]
        values = {
            record["epoch"]: record["val"]["recall@20"] for record in history if "val" in record
        }
        assert found["epoch"] == max(values, key=lambda epoch: (values[epoch], -epoch))
        choice = read_json(place / "validation" / "trained.json")["ranking"]
        final = RunConfig.load(place / "final")
        assert found["validation"] == choice["values"]
        assert asdict(final.settings.ranking) == choice["config"]
        assert (
            final.ratios == (1.0,)
            and final.settings.train.epochs == found["epoch"]
            and final.settings.train.seed == seed
        )
        again = evaluate_run(Dataset.load(tmp_path / "prepared"), place / "final")["lightgcn"]
        assert (
            found["test"]["recall@20"] == again["recall@20"]
            and found["test"]["ndcg@20"] == again["ndcg@20"]
        )
    one, other = (found["test"]["recall@20"] for found in result.results)
    assert result.mean("recall@20") == pytest.approx((one + other) / 2)
    assert result.spread("recall@20") == pytest.approx(abs(one - other) / 2**0.5)
    assert orjson.loads((tmp_path / "reproduction.json").read_bytes())["seeds"] == result.results


def test_the_test_set_is_read_once_and_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[list[str]] = []
    read = module._test_metrics

    def watched(*arguments: Any) -> Any:
        reads.append(
            sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("trained.json"))
        )
        return read(*arguments)

    monkeypatch.setattr(module, "_test_metrics", watched)
    first, second = run(tmp_path), run(tmp_path)
    assert reads == [["seed-0/final/trained.json", "seed-0/validation/trained.json"]]
    assert first == second


def test_other_test_edges_change_nothing_but_the_test_metrics(tmp_path: Path) -> None:
    data = dataset()
    assert data.test is not None
    elsewhere = sample_negatives(data.interactions.union(data.test), data.test.num_edges, 1)
    other = Dataset(data.interactions, {}, {}, Interactions.from_edge_index(elsewhere, 80, 60))
    first, second = run(tmp_path / "first"), run(tmp_path / "second", data=other)
    assert first is not None and second is not None
    (whole,), (part,) = first.results, second.results
    assert (
        whole["epoch"] == part["epoch"]
        and whole["validation"]["recall@20"] == part["validation"]["recall@20"]
    )
    assert whole["test"] != part["test"]


@pytest.mark.parametrize("stops", [1, 2])
def test_what_was_interrupted_is_taken_up_and_ends_the_same(stops: int, tmp_path: Path) -> None:
    calls = iter(range(10**6))
    watches = iter([lambda: False] * (stops - 1) + [lambda: next(calls) >= 4])
    assert run(tmp_path / "stopped", watch=lambda: nullcontext(next(watches))) is None
    assert not (tmp_path / "stopped" / "seed-0" / "result.json").exists()
    resumed, straight = run(tmp_path / "stopped"), run(tmp_path / "straight")
    assert resumed is not None and straight is not None
    assert resumed.results[0]["test"] == straight.results[0]["test"]


def test_a_folder_of_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="learning_rate cannot change"):
        run(
            tmp_path,
            preset("fast", epochs=6, eval_every=2, patience=None, batch_size=500, embedding_dim=8),
        )
    with pytest.raises(ValueError, match="different data"):
        run(tmp_path, data=dataset(seed=5))


def test_what_cannot_be_reproduced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test split"):
        run(tmp_path, data=Dataset(dataset().interactions, {}, {}))
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="seeds must be one or more distinct integers"):
            run(tmp_path, seeds=seeds)
    assert not list(tmp_path.iterdir())


def test_validation_is_the_end_of_the_lists_where_the_data_has_an_order(tmp_path: Path) -> None:
    lists = {user: [(7 * user + 3 * place) % 50 for place in range(20)] for user in range(60)}
    for name, part in (("train", slice(0, 15)), ("test", slice(15, 20))):
        lines = (" ".join(map(str, [user, *items[part]])) for user, items in lists.items())
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    data = read_text(tmp_path)
    assert run(tmp_path / "out", data=data) is not None
    config, prepared = (
        RunConfig.load(tmp_path / "out" / "seed-0" / "validation"),
        tmp_path / "out" / "prepared",
    )
    assert (config.stratify, config.ratios) == ("last", (0.75, 0.25))
    graph = (split := split_run(config, Dataset.load(prepared))).val.positives
    assert split.train.positives.num_edges + graph.num_edges == 60 * 15
    assert graph.user_ids is not None and graph.item_ids is not None
    for user, item in zip(graph.user_ids[graph.users], graph.item_ids[graph.items], strict=True):
        assert int(item) in lists[int(user)][12:15]
    other = Dataset(replace(data.interactions, order=None), {}, {}, data.test)
    with pytest.raises(ValueError, match="order"):
        split_run(replace(config, fingerprint=other.fingerprint()), other)


def test_published_splits_are_known_by_their_size() -> None:
    assert split_name(dataset()) is None
    assert Reproduction([], "Gowalla").published()["LightGCN, 3 layers"] == (0.1823, 0.1555)
    assert Reproduction([], None).published() == {}
    for rows in PUBLISHED.values():
        assert set(rows) <= set(KNOWN_SPLITS.values())


def test_the_results_page_has_the_published_rows() -> None:
    page = Path(__file__).parents[2] / "docs" / "results.md"
    section, found = "", set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = next((name for name in KNOWN_SPLITS.values() if name in line), "")
        row = re.match(r"\| \*published:\* (.+?) \| (\.\d{4}) \| (\.\d{4}) \|", line)
        assert bool(row) == ("*published:*" in line), line
        if row:
            values = float(row[2]), float(row[3])
            assert PUBLISHED[row[1]][section] == values, line
            found.add((row[1], section))
    wanted = {(name, split) for name, rows in PUBLISHED.items() for split in rows}
    assert found == {pair for pair in wanted if pair[1] != "Amazon-Book"}


def test_gowalla_is_known(gowalla: Path) -> None:
    data = read_text(gowalla)
    assert split_name(data) == "Gowalla"
    assert isinstance(data.interactions, Interactions)
