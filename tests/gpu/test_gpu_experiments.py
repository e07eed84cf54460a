"""Runs on a (pretend) device: a reproduction, the challenge, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
from pretend_cuda import PretendCuda

import lightgcn
from lightgcn import split_edges
from lightgcn.challenge import run_challenge
from lightgcn.cli import main as cli
from lightgcn.datasets import Dataset, read_mpd, synthetic_interactions, write_synthetic_mpd
from lightgcn.experiments.reproduction import reproduce

OnBoth: TypeAlias = Callable[[Callable[[str], Any]], tuple[Any, Any]]
SMALL: dict[str, Any] = {
    "epochs": 2, "eval_every": 1, "patience": None, "embedding_dim": 8, "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    split = split_edges(synthetic_interactions(80, 60, 1500, seed=1), (0.7, 0.1, 0.2))
    return Dataset(split.test.message, {}, {}, split.test.positives)


@pytest.fixture(scope="module")
def playlists(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("mpd")
    write_synthetic_mpd(
        folder, num_playlists=300, num_tracks=800, mean_length=110, slice_size=300, seed=5
    )
    return read_mpd(folder, order=True)


def test_a_reproduction(on_both: OnBoth, dataset: Dataset, tmp_path: Path) -> None:
    settings = lightgcn.preset("fast", **SMALL, batch_size=500, choose_ranking=False)
    there, here = on_both(
        lambda device: reproduce(dataset, settings, tmp_path / device, device=device)
    )
    for metric in ("recall@20", "ndcg@20"):
        assert there.mean(metric) == pytest.approx(here.mean(metric), abs=1e-3)


@pytest.mark.slow
def test_the_challenge(on_both: OnBoth, playlists: Dataset, tmp_path: Path) -> None:
    settings = lightgcn.preset(
        "fast", **SMALL, batch_size=4096, choose_ranking=False, time_decay=0.1
    )
    there, here = on_both(
        lambda device: run_challenge(
            playlists, settings, tmp_path / device, num_playlists=10, device=device
        )
    )
    for method, scores in there.scores.items():
        for task, values in scores.items():
            expected = here.scores[method][task]
            assert values.r_precision == pytest.approx(expected.r_precision, abs=0.02), method


def test_the_command_line(
    cuda: PretendCuda, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = str(dataset.save(tmp_path / "data")), str(tmp_path / "run")
    options = ["--epochs", "2", "--embedding-dim", "8", "--batch-size", "200"]
    options += ["--set", "choose_ranking=false"]
    with cuda.counted() as counts:
        assert cli.main(["train", data, run, "--device", "cuda", *options]) == 0
    assert counts.num_launches > 500  # it was there
    capsys.readouterr()
    assert cli.main(["evaluate", run, "--device", "cuda", "--json"]) == 0
    there = orjson.loads(capsys.readouterr().out)
    assert cli.main(["evaluate", run, "--device", "cpu", "--json"]) == 0
    here = orjson.loads(capsys.readouterr().out)
    for method, values in there.items():
        expected = here[method]["metrics"]
        assert values["metrics"] == pytest.approx(expected, rel=1e-3, abs=1e-4), method
