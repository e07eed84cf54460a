"""The time of ``import lightgcn`` in a new process, against ``import torch``."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

from benchmarks.timing import record


def import_seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def test_import(benchmark: Any) -> None:
    times: dict[str, list[float]] = {"torch": [], "lightgcn": []}

    def turn(module: str) -> None:
        times[module].append(import_seconds(module))

    import_seconds("lightgcn")
    benchmark.pedantic(lambda: turn("lightgcn"), setup=lambda: turn("torch"), rounds=7)
    ours, torch = statistics.median(times["lightgcn"]), statistics.median(times["torch"])
    record(
        benchmark,
        "import",
        seconds={"ours": ours, "import torch": torch},
        floors={"import torch": ours / torch},
        note="new processes in turns, without the start of Python",
    )
