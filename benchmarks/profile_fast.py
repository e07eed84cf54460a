"""Where the seconds of a training run go: the `fast` preset, by the wall clock.

    python -m benchmarks.profile_fast [--epochs 3] [--graph gowalla|synthetic] [--json]

Functions are wrapped in timers; what one wrapped function spends in another counts for the inner
one, but for evaluation, which counts whole."""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch

import lightgcn.nn.in_batch_softmax
import lightgcn.nn.propagation
import lightgcn.ranking.closed_forms
import lightgcn.training.batches
import lightgcn.training.loop
from benchmarks.graphs import gowalla_folder, load
from lightgcn import Preset, Split, fit, preset, split_edges

# What an epoch is for; the rest should stay under a tenth.
WORK = ("propagation", "loss", "evaluation")


class Clock:
    """Seconds by name, of the innermost name that is being timed."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.stack: list[str] = []
        self.since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self.stack:
            self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a name, or under "evaluation" where that called it."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self.stack.append("evaluation" if "evaluation" in self.stack else name)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self.stack.pop()

        return run

    def timed_iterator(
        self, name: str, function: Callable[..., Iterator[Any]]
    ) -> Callable[..., Iterator[Any]]:
        def run(*args: Any, **kwargs: Any) -> Iterator[Any]:
            advance = self.timed(name, functools.partial(next, function(*args, **kwargs), None))
            while (item := advance()) is not None:
                yield item

        return run


def profile(split: Split, config: Preset) -> dict[str, float]:
    """Train a new model and return seconds by name; they add up to the whole call of `fit`."""
    clock = Clock()
    model = config.new_model(split.val.message)
    places: list[tuple[Any, str, str]] = [
        (lightgcn.training.loop, "evaluate_shared", "evaluation"),
        (lightgcn.training.loop, "normalized_adjacency", "adjacency"),
        (lightgcn.ranking.closed_forms, "nearest_items", "item kNN"),
        (lightgcn.training.loop, "batch_loss", "gathering rows"),
        (torch.Tensor, "backward", "rest of backward"),
        (torch.optim.Adam, "step", "optimiser"),
        (torch.optim.Adam, "zero_grad", "optimiser"),
    ]
    places += [
        (lightgcn.training.batches, name, "loss")
        for name in ("bce_loss", "bpr_loss", "l2_penalty", "in_batch_softmax_part")
    ]
    for module, name in (
        (lightgcn.nn.propagation, "propagation"),
        (lightgcn.nn.in_batch_softmax, "loss"),
    ):
        for function in vars(module).values():
            if isinstance(function, type) and issubclass(function, torch.autograd.Function):
                places += [(function, "forward", name), (function, "backward", name)]
    patches = []
    for owner, attribute, name in places:
        wrapped: Any = clock.timed(name, getattr(owner, attribute))
        patches.append(
            patch.object(owner, attribute, staticmethod(wrapped) if _is_static(owner) else wrapped)
        )
    batches = clock.timed_iterator("sampling and batches", lightgcn.training.batches.epoch_batches)
    patches.append(patch.object(lightgcn.training.loop, "epoch_batches", batches))
    for change in patches:
        change.start()
    try:
        clock.timed("other", fit)(model, split, config)
    finally:
        for change in patches:
            change.stop()
    return dict(sorted(clock.seconds.items(), key=lambda pair: -pair[1]))


def _is_static(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--graph",
        choices=["gowalla", "synthetic"],
        default="gowalla" if gowalla_folder() else "synthetic",
    )
    parser.add_argument("--epochs", type=int, default=preset("fast").train.epochs)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the synthetic graph (1: as Gowalla)"
    )
    parser.add_argument("--json", action="store_true", help="print the seconds as JSON")
    arguments = parser.parse_args()
    split = split_edges(load(arguments.graph, arguments.scale).train, (0.9, 0.1), disjoint=0.0)
    # Once before, so that what a process does only once is not counted for an epoch's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile(split, preset("fast", epochs=1))
    seconds = profile(split, preset("fast", epochs=arguments.epochs))
    total = sum(seconds.values())
    if arguments.json:
        print(
            json.dumps(
                {
                    "graph": arguments.graph,
                    "epochs": arguments.epochs,
                    "work": WORK,
                    "seconds": seconds,
                }
            )
        )
        return
    print(f"{arguments.graph}, {arguments.epochs} epochs of the fast preset, {total:.2f} s")
    for name, value in seconds.items():
        print(f"  {name:22} {value:7.3f} s  {value / total:6.1%}")
    rest = sum(value for name, value in seconds.items() if name not in WORK)
    print(f"neither {', '.join(WORK[:-1])} nor {WORK[-1]}: {rest / total:.1%} (to stay under 10%)")


if __name__ == "__main__":
    main()
