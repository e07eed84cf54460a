"""The whole Million Playlist Dataset on one small machine, stage by stage: seconds, peak memory,
bytes an edge.

    python -m benchmarks.full_scale [--share 1.0] [--folder FOLDER] [--stages prepare train …]
    [--beside gowalla]

Slices with the dataset's marginals (`benchmarks.mpd_marginals`) are written some at a time, read
and removed; then come the largest component, the split, an epoch of "fast", the evaluation of
10,000 users, and recommendations. Each stage is a process of its own, as it is for those who type
the commands. The batch grows with the graph, so that an epoch has as many steps as one of Gowalla
has (50): a step passes over the whole graph, so that of equal batches the time of an epoch would
grow with the square of the number of edges.

Peak memory is the resident memory of the process (and, while slices are read, of those that read
for it). Reading is timed without the writing, and the bare parser beside it on slices of the same
run."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from benchmarks.memory import peak_resident_bytes
from benchmarks.mpd_marginals import streamed_slices
from lightgcn import (
    Interactions,
    Recommender,
    Split,
    evaluate,
    fit,
    preset,
    split_edges,
)
from lightgcn.core.memory import use_huge_pages
from lightgcn.datasets import Dataset, open_dataset, read_mpd
from lightgcn.datasets.preprocess import Cuts, prepare_dataset
from lightgcn.graph.links import LinkSet
from lightgcn.nn.model_io import load_model, save_model

T = TypeVar("T")
STAGES = ("prepare", "train", "evaluate", "recommender", "recommend")
STEPS = 50  # of an epoch: Gowalla's 810,128 edges in batches of 16,384
EVALUATED, ASKED = 10_000, 1_000
WINDOW = 50  # slices on the disk at a time, 1.7 GB


class Report:
    """Prints a line of JSON for each step, and keeps what it is about."""

    def __init__(self, stage: str) -> None:
        self.stage, self.edges = stage, 0

    def step(self, name: str, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        began = time.monotonic()
        with peak_resident_bytes() as peak:
            result = work(*arguments, **options)
        self.line(name, time.monotonic() - began, peak.bytes)
        return result

    def line(self, name: str, seconds: float, peak: int, **figures: Any) -> None:
        line = {
            "stage": self.stage,
            "step": name,
            "seconds": round(seconds, 2),
            "peak_gb": round(peak / 1e9, 3),
        }
        print(json.dumps(line | {"edges": self.edges} | figures), flush=True)


def prepare(folder: Path, share: float, beside: Path | None) -> None:
    report = Report("prepare")
    processes = min(2, multiprocessing.cpu_count())
    slices_folder = folder / "slices"
    slices_folder.mkdir()
    with streamed_slices(slices_folder, share, window=WINDOW, keep=2 * processes) as slices:
        began = time.monotonic()
        with peak_resident_bytes(children=True) as peak:
            dataset = read_mpd(slices, processes=processes)
        seconds = time.monotonic() - began - slices.seconds
        bare = (
            bare_seconds(slices.given, processes) * slices.bytes / sum(map(size_of, slices.given))
        )
    # While others were written, what the readers had not yet come to was read, and is charged to
    # them.
    seconds *= 1 + 2 * processes / WINDOW
    report.edges = dataset.interactions.num_edges
    report.line(
        "read",
        seconds,
        peak.bytes,
        json_gb=round(slices.bytes / 1e9, 2),
        share_of_bare_orjson=round(bare / seconds, 3),
        entries=dataset.info["entries"],
        tracks=dataset.interactions.num_items,
    )
    shutil.rmtree(slices_folder)
    prepared, _ = report.step(
        "largest component", prepare_dataset, dataset, Cuts(largest_component=True)
    )
    del dataset
    report.edges = prepared.interactions.num_edges
    report.step("save", prepared.save, folder / "prepared")


def size_of(path: Path) -> int:
    return path.stat().st_size


def bare_seconds(files: list[Path], processes: int) -> float:
    """Return the seconds that as many bare parsers take for files, with all in the page cache."""
    command = "import sys, orjson\nfor name in sys.argv[1:]: orjson.loads(open(name, 'rb').read())"
    for file in files:
        orjson.loads(file.read_bytes())
    began = time.monotonic()
    parsers = [
        subprocess.Popen([sys.executable, "-c", command, *map(str, files[first::processes])])
        for first in range(processes)
    ]
    for parser in parsers:
        parser.wait()
    return time.monotonic() - began


def settings(num_edges: int) -> Any:
    batch = max(16_384, round(0.8 * num_edges / STEPS))
    return preset("fast", epochs=1, batch_size=batch, eval_every=1)


def split_of(graph: Interactions) -> Split:
    return split_edges(graph, disjoint=0.0, negatives=0.0, stratify="user")


def test_links(graph: Interactions) -> LinkSet:
    return split_of(graph).test.sample_users(EVALUATED)


def recommend_each(recommender: Recommender, users: list[Any]) -> None:
    for user in users:
        recommender.recommend(user, k=20)


def epoch_of(path: Path) -> float:
    """Return the seconds an edge of an epoch of "fast" on other data, in batches of 16,384."""
    graph = open_dataset(path).interactions
    config = preset("fast", epochs=3)
    split = split_edges(graph, (1.0,), disjoint=0.0, negatives=0.0)
    model = config.new_model(graph)
    history = fit(model, split, config).history
    return float(np.median([record["seconds"] for record in history]) / graph.num_edges)


def train(folder: Path, share: float, beside: Path | None) -> None:
    report = Report("train")
    dataset = report.step("open", Dataset.load, folder / "prepared")
    graph = dataset.interactions
    report.edges, config = graph.num_edges, settings(graph.num_edges)
    split = report.step("split", split_of, graph)
    some = split.val.sample_users(EVALUATED)
    split = split._replace(val=some, test=some)  # of the test set nothing is needed here
    del dataset, graph
    model = report.step("spectral start", config.new_model, split.val.message)
    shutil.rmtree(folder / "run", ignore_errors=True)  # of an earlier time in the same folder
    seconds = None if beside is None else epoch_of(beside)
    result = report.step("fit", fit, model, split, config, run_dir=folder / "run")
    record = result.history[0]
    ratio = (
        None if seconds is None else record["seconds"] / split.train.positives.num_edges / seconds
    )
    report.line(
        "of it the epoch",
        record["seconds"],
        0,
        batch=config.train.batch_size,
        loss=record["loss"],
        val=record["val"],
        time_per_edge_over_the_other_data=ratio,
    )
    report.line("of it validation, 10,000 users", record["val_seconds"], 0)
    report.step("save", save_model, folder / "model.safetensors", model)


def evaluate_test(folder: Path, share: float, beside: Path | None) -> None:
    report = Report("evaluate")
    dataset = report.step("open", Dataset.load, folder / "prepared")
    report.edges = dataset.interactions.num_edges
    links = report.step("split", test_links, dataset.interactions)
    del dataset  # whose names are not needed here
    model = load_model(folder / "model.safetensors")
    result = report.step("10,000 users", evaluate, model, links)
    report.line("metrics", 0.0, 0, **result.metrics)


def make_recommender(folder: Path, share: float, beside: Path | None) -> None:
    report = Report("recommender")
    dataset = report.step("open", Dataset.load, folder / "prepared")
    graph = dataset.interactions
    report.edges = graph.num_edges
    model = load_model(folder / "model.safetensors")
    columns = {"user_columns": dataset.users, "item_columns": dataset.items}
    recommender = report.step("make", Recommender, model, graph, **columns)
    report.step("save", recommender.save, folder / "recommender.safetensors")


def recommend(folder: Path, share: float, beside: Path | None) -> None:
    report = Report("recommend")
    recommender = report.step("open", Recommender.load, folder / "recommender.safetensors")
    graph = recommender.seen
    report.edges = graph.num_edges
    users = np.random.default_rng(0).permutation(graph.num_users)[:ASKED]
    assert graph.user_ids is not None
    asked = [graph.user_ids[user] for user in users.tolist()]
    report.step("1,000 users, one by one", recommend_each, recommender, asked)


WORK = dict(zip(STAGES, (prepare, train, evaluate_test, make_recommender, recommend), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the dataset's playlists, tracks and entries"
    )
    parser.add_argument(
        "--beside", type=Path, help="other data, whose epoch is timed just before, for each edge"
    )
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        use_huge_pages()  # as the commands do
        WORK[arguments.stage](arguments.folder, arguments.share, arguments.beside)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for stage in arguments.stages:
            command = [
                sys.executable,
                "-m",
                "benchmarks.full_scale",
                "--stage",
                stage,
                "--folder",
                str(folder),
            ]
            beside = ["--beside", str(arguments.beside)] if arguments.beside else []
            subprocess.run([*command, "--share", str(arguments.share), *beside], check=True)


if __name__ == "__main__":
    main()
