"""Reading Million Playlist Dataset slices, against processes that parse the files and drop the
result."""

from __future__ import annotations

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

# High-water marks of this process and, looked at twenty times a second, of its children. Not
# `getrusage`: what that says of a new process begins with the memory of the one that started it.
PEAK = """
import sys, threading, time
from pathlib import Path
from lightgcn.datasets import read_mpd

def kilobytes(process, name):
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)

def watch():
    while True:
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                children[child] = max(children.get(child, 0), kilobytes(child, "VmHWM"))
        time.sleep(0.05)

children = {}
threading.Thread(target=watch, daemon=True).start()
before = kilobytes("self", "VmRSS")
dataset = read_mpd(sys.argv[1], slices=(0, int(sys.argv[2])), processes=int(sys.argv[3]))
print((kilobytes("self", "VmHWM") - before + sum(children.values())) * 1024)
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
        workers = [
            context.Process(target=parse, args=(files[first::processes],))
            for first in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def peak_extra_bytes(folder: Path, count: int, processes: int) -> int:
    """Return the peak memory of reading some slices in a new process and its children, beyond what
    importing takes."""
    command = [sys.executable, "-c", PEAK, str(folder), str(count), str(processes)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.parametrize("processes", [2, 1])
def test_mpd_reading(benchmark: Any, slices: Path, processes: int) -> None:
    files = sorted(slices.iterdir())
    graph = read_mpd(slices, processes=processes).interactions
    # The first playlist of the last slice, by hand.
    playlist = orjson.loads(
        max(files, key=lambda file: int(file.name.split(".")[2].split("-")[0])).read_bytes()
    )
    first = playlist["playlists"][0]
    assert (
        graph.num_users == 1000 * SLICES
        and graph.user_ids is not None
        and graph.item_ids is not None
    )
    user = list(graph.user_ids).index(first["pid"])
    uris = {str(graph.item_ids[item]) for item in graph.items_of(user).tolist()}
    assert uris == {track["track_uri"] for track in first["tracks"]}
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    half, whole = (peak_extra_bytes(slices, count, processes) for count in (SLICES // 2, SLICES))

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
            "peak extra MB": whole / 1e6,
            "peak extra MB, half the slices": half / 1e6,
        },
        rounds=3,
        note=f"{graph.num_edges:,} edges of {graph.num_items:,} tracks; peaks: of all processes, imports left out",
    )
