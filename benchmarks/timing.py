"""Time a step and its alternatives side by side, in turns, so that noise hits all of them alike."""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.targets import TARGETS

# One way of doing a step. One that returns a float has timed itself: those are its seconds.
Way = Callable[[], object]

# Seconds that one alternative may take over all its rounds; slow ones get fewer rounds.
BUDGET = 6.0
# Ways faster than this get an untimed call before each timed one, as the others have emptied the
# caches.
WARM = 0.25


class Peers(dict[str, Way]):
    """The alternatives that are installed, by name; ``skipped`` says what the others lack."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: dict[str, str] = {}

    def add(self, name: str, build: Callable[[], Way], needs: str | None = None) -> None:
        """Build and add an alternative, or skip it, saying so, where the module that it needs is
        not there."""
        if needs is not None and importlib.util.find_spec(needs) is None:
            self.skipped[name] = f"{needs} is not installed"
            warnings.warn(
                f"peer {name!r} is skipped: {needs} is not installed", UserWarning, stacklevel=2
            )
        else:
            self[name] = build()


def seconds_of(way: Way) -> float:
    """Run a way once and return its seconds."""
    began = time.perf_counter()
    result = way()
    took = time.perf_counter() - began
    return result if isinstance(result, float) else took


def median_seconds(way: Way, rounds: int = 5, budget: float = 5.0) -> float:
    """Return the median over some rounds after a first, fewer where that one shows that it is
    slow."""
    first = seconds_of(way)
    return statistics.median(
        seconds_of(way) for _ in range(max(1, min(rounds, int(budget / max(first, 1e-9)))))
    )


def compare(
    benchmark: Any,
    step: str,
    ours: Way,
    *,
    variant: str = "",
    graph: str = "",
    peers: Peers | None = None,
    floors: Mapping[str, Way] | None = None,
    figures: Callable[[dict[str, float]], dict[str, float]] | None = None,
    rounds: int = 15,
    note: str = "",
) -> None:
    """Time ``ours`` by the fixture, and after each of its rounds peers and floors; store the ratios
    of medians.

    Args:
        benchmark: the fixture of pytest-benchmark.
        step: name in `TARGETS`.
        ours: what is measured; checked by the caller.
        variant: which of several ways of ours.
        graph: the data's name.
        peers: alternatives; stored as peer / ours.
        floors: what ours cannot beat; stored as ours / floor.
        figures: further figures, from the median seconds of each way ("ours", and by name).
        rounds: of ours and of fast alternatives.
        note: for the reader of the table.
    """
    peers = Peers() if peers is None else peers
    others = {**peers, **(floors or {})}
    first = {name: seconds_of(way) for name, way in others.items()}
    every = {
        name: math.ceil(rounds / max(1, min(rounds, int(BUDGET / took))))
        for name, took in first.items()
    }
    times: dict[str, list[float]] = {name: [] for name in others}
    own = seconds_of(ours)
    turns = itertools.count()

    def others_take_turns() -> None:
        turn = next(turns)
        for name, way in others.items():
            if turn % every[name] == 0:
                if first[name] < WARM:
                    way()
                times[name].append(seconds_of(way))
        if own < WARM:
            ours()

    benchmark.pedantic(ours, setup=others_take_turns, rounds=rounds)
    if benchmark.disabled:
        return
    median = benchmark.stats.stats.median
    seconds = {"ours": median} | {
        name: statistics.median(measured) for name, measured in times.items()
    }
    record(
        benchmark,
        step,
        variant=variant,
        graph=graph,
        seconds=seconds,
        peers={name: seconds[name] / median for name in peers},
        floors={name: median / seconds[name] for name in floors or {}},
        figures=figures(seconds) if figures else {},
        skipped=peers.skipped,
        note=note,
    )


def record(benchmark: Any, step: str, **info: Any) -> None:
    """Store what was measured beside the targets of the step, for `benchmarks.report`."""
    empty: dict[str, Any] = {"variant": "", "graph": "", "note": ""}
    empty |= {name: {} for name in ("seconds", "peers", "floors", "figures", "skipped")}
    info = empty | info
    values = info["peers"] | info["floors"] | info["figures"]
    # A variant that is shown for comparison is called "also: …" and has no targets; others have
    # those of what was measured, or would have been with the peer installed.
    targets = () if info["variant"].startswith("also:") else TARGETS.get(step, ())
    info["targets"] = [
        {
            "figure": target.figure,
            "sign": target.sign,
            "bound": target.bound,
            "value": value,
            "met": met,
        }
        for target in targets
        if (value := values.get(target.figure)) is not None or target.figure in info["skipped"]
        for met in [None if value is None else target.met(value)]
    ]
    benchmark.extra_info.update({"step": step, **info})
