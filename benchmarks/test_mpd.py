"""Reading Million Playlist Dataset slices, against processes that parse the files and drop the result."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.timing import Way, compare
from lightgcn.datasets import read_mpd, write_synthetic_mpd

# Slices of 1,000 playlists, 33 MB each as the originals; fewer for a quick look.
SLICES = int(os.environ.get("LIGHTGCN_BENCH_SLICES", "20"))

BARE = "bare orjson.loads"

PEAK = """
import json, resource, sys
from lightgcn.datasets import read_mpd
dataset = read_mpd(sys.argv[1], slices=(0, int(sys.argv[2])), processes=int(sys.argv[3]))
peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps([peak * 1024, dataset.interactions.num_edges]))
"""


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mpd")
    write_synthetic_mpd(folder, num_playlists=1000 * SLICES, num_tracks=200_000, mean_length=66.35)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def parse(files: list[Path]) -> None:
    for file in files:
        orjson.loads(file.read_bytes())


def bare(files: list[Path], processes: int) -> Way:
    """Return as many bare parsers as processes, each with its share of the files."""
    if processes == 1:
        return lambda: parse(files)
    context = multiprocessing.get_context("fork")

    def run() -> None:
        workers = [context.Process(target=parse, args=(files[first::processes],)) for first in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def peak(folder: Path, count: int, processes: int) -> tuple[int, int]:
    """Return the peak resident bytes of reading some slices in a new process, and the edges that were read."""
    command = [sys.executable, "-c", PEAK, str(folder), str(count), str(processes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    most, edges = json.loads(done.stdout)
    return most, edges


@pytest.mark.parametrize("processes", [2, 1])
def test_mpd_reading(benchmark: Any, slices: Path, processes: int) -> None:
    files = sorted(slices.iterdir())
    graph = read_mpd(slices, processes=processes).interactions
    # The first playlist of the last slice, by hand.
    playlist = orjson.loads(max(files, key=lambda file: int(file.name.split(".")[2].split("-")[0])).read_bytes())
    first = playlist["playlists"][0]
    assert graph.num_users == 1000 * SLICES and graph.user_ids is not None and graph.item_ids is not None
    user = list(graph.user_ids).index(first["pid"])
    uris = {str(graph.item_ids[item]) for item in graph.items_of(user).tolist()}
    assert uris == {track["track_uri"] for track in first["tracks"]}
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    half, all_of_it = (peak(slices, count, processes) for count in (SLICES // 2, SLICES))

    def ours() -> None:
        read_mpd(slices, processes=processes)

    compare(
        benchmark,
        "MPD reading",
        ours,
        variant="2 processes" if processes == 2 else "also: 1 process",
        graph=f"{SLICES} slices, {megabytes:.0f} MB",
        floors={BARE: bare(files, processes)},
        figures=lambda seconds: {
            "share of bare orjson.loads": seconds[BARE] / seconds["ours"],
            "MB/s": megabytes / seconds["ours"],
            "peak MB": all_of_it[0] / 1e6,
            "peak MB, half the slices": half[0] / 1e6,
        },
        rounds=3,
        note=f"{all_of_it[1]:,} edges; as many bare processes; peak: of the process and its largest child",
    )
