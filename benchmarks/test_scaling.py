"""The same steps at 0.1, 1, 10 and (with --full) 66 million edges: time and peak memory per
edge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.graphs import MPD
from benchmarks.timing import record

ROOT = Path(__file__).resolve().parent.parent
# Each array in pages of its own, given back when it is freed, so that resident memory is what is
# alive.
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.mark.parametrize("num_edges", [100_000, 1_000_000, 10_000_000, MPD[2]])
def test_scaling(benchmark: Any, num_edges: int, pytestconfig: pytest.Config) -> None:
    if num_edges == MPD[2] and not pytestconfig.getoption("--full"):
        pytest.skip("66 million edges: give --full")
    results: dict[str, dict[str, float]] = {}

    def measure(what: str) -> None:
        command = [sys.executable, "-m", "benchmarks.scaling", str(num_edges), "--what", what]
        environment = os.environ | (OWN_PAGES if what == "memory" else {})
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        results[what] = json.loads(done.stdout)

    measure("memory")
    benchmark.pedantic(measure, args=("time",), rounds=1)
    per_edge = {
        name: {
            "seconds": seconds,
            "ns_per_edge": seconds * 1e9 / num_edges,
            "bytes_per_edge": (results["memory"][name] or 0) / num_edges,
        }
        for name, seconds in results["time"].items()
    }
    record(benchmark, "scaling", graph=f"{num_edges} edges", edges=num_edges, scaling=per_edge)
