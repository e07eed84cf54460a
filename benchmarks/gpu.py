"""Everything worth knowing about a CUDA card, in under eight minutes, as one JSON file.

    python -m benchmarks.gpu --out gpu.json

Propagation against the card's copy bandwidth and against COO, CSR and PyG; epochs of the presets,
from some steps of each; evaluation, split and sampling. ``--device cpu --quick`` runs the same code
on a small graph."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.competitors import Propagation, coo_propagation, pyg_propagation
from benchmarks.graphs import Data, gowalla_folder, load
from benchmarks.machine import machine
from lightgcn import (
    Adjacency,
    evaluate_ranking,
    link_set,
    normalized_adjacency,
    propagate,
    sample_negative_items,
    split_edges,
)
from lightgcn.core.seeding import make_generator
from lightgcn.training import PRESETS
from lightgcn.training.batches import batch_loss, epoch_batches

LAYERS, WIDTH = 3, 64
ALPHA = [1 / (LAYERS + 1)] * (LAYERS + 1)
SECONDS = 420.0


class Stopwatch:
    """Times on one device, waiting for it before and after."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median(self, run: Callable[[], object], calls: int = 1) -> float:
        """Return the median seconds of a call over some rounds of ``calls`` calls each, after two
        calls."""
        for _ in range(2):
            run()
        times = []
        for _ in range(self.rounds):
            self.wait()
            began = time.perf_counter()
            for _ in range(calls):
                run()
            self.wait()
            times.append((time.perf_counter() - began) / calls)
        return statistics.median(times)


def copy_bandwidth(watch: Stopwatch, size: int) -> float:
    """Return the bytes per second, read and written, of a copy of ``size`` bytes."""
    source = torch.empty(size, dtype=torch.uint8, device=watch.device).fill_(1)
    target = torch.empty_like(source)
    return 2 * size / watch.median(lambda: target.copy_(source))


def propagation(watch: Stopwatch, data: Data, bandwidth: float) -> dict[str, Any]:
    """Time three layers, forward and backward, by every way there is, and the bytes that the
    gather-sums must move."""
    graph = data.train.to(watch.device)
    adjacency = normalized_adjacency(graph)
    x = torch.nn.Parameter(torch.randn(graph.num_nodes, WIDTH, device=watch.device))
    grad = torch.randn_like(x)
    csr = adjacency.to_sparse_csr()

    def by_csr(table: Tensor) -> Tensor:
        layers = [table]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(csr, layers[-1]))
        return torch.stack(layers).mean(0)

    ways: dict[str, Callable[[], Propagation]] = {
        "ours": lambda: lambda table: propagate(adjacency, table, ALPHA),
        "ours, float16 tables": lambda: half_tables(adjacency),
        "torch.sparse CSR": lambda: by_csr,
        "torch.sparse COO": lambda: coo_propagation(graph, LAYERS),
    }
    if find_spec("torch_geometric"):
        ways["PyG edge_index"] = lambda: pyg_propagation(graph, LAYERS, "edge_index")
        ways["PyG CSR"] = lambda: pyg_propagation(graph, LAYERS, "csr")
    expected = propagate(adjacency.to(dtype=torch.float64), x.detach().double(), ALPHA)
    results: dict[str, Any] = {}
    for name, build in ways.items():
        try:
            way = build()

            def run(way: Propagation = way) -> Tensor:
                x.grad = None
                z = way(x)
                z.backward(grad.to(z.dtype))
                return z.detach()

            error = float((run().double() - expected).norm() / expected.norm())
            assert error < (5e-3 if "float16" in name else 1e-5), f"relative error {error:.1e}"
            seconds = watch.median(run)
        except (RuntimeError, NotImplementedError, AssertionError) as problem:
            # One way that this build of PyTorch lacks must not take the others' figures along.
            results[name] = {"failed": str(problem).splitlines()[0][:200]}
            continue
        moved = 2 * LAYERS * layer_bytes(adjacency, 2 if "float16" in name else 4)
        results[name] = {
            "seconds": seconds,
            "relative_error": error,
            "bytes_per_s": moved / seconds,
            "share_of_copy": moved / seconds / bandwidth,
        }
    return results


def half_tables(adjacency: Adjacency) -> Propagation:
    """Propagation whose operand and layers are float16: a way to try, with gradients cast back at
    the end."""
    return lambda table: propagate(adjacency, table.half(), ALPHA)


def layer_bytes(adjacency: Adjacency, itemsize: int) -> int:
    """Return the bytes of one gather-sum with no row found in a cache: a row and an index an entry,
    and the result."""
    entries, nodes = len(adjacency.pattern.columns), adjacency.num_nodes
    row = WIDTH * itemsize
    index = adjacency.pattern.columns.element_size()
    return entries * (row + index) + nodes * (row + index)


def epoch(watch: Stopwatch, data: Data, name: str, steps: int) -> dict[str, Any]:
    """Time some steps of a preset and return the seconds of all steps of an epoch."""
    config, graph = PRESETS[name], data.train.to(watch.device)
    links = link_set(graph, graph, negatives=0)
    model = config.new_model(graph).to(watch.device)
    adjacency = normalized_adjacency(
        graph, config.model.normalization, half_tables=config.train.precision == "mixed"
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.learning_rate, fused=True)
    assert config.train.batch_size is not None
    total = -(-graph.num_edges // config.train.batch_size)

    def batches() -> Iterator[Any]:
        for number in range(sys.maxsize):
            yield from epoch_batches(
                links, config.train, make_generator(0, number, device=watch.device)
            )

    drawn = batches()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        batch_loss(model, adjacency, next(drawn), config.train).backward()
        optimizer.step()

    seconds = watch.median(step, calls=min(steps, total))
    return {"seconds_per_step": seconds, "steps": total, "seconds_per_epoch": seconds * total}


def evaluation(watch: Stopwatch, data: Data) -> dict[str, float]:
    """Time the ranking of all items for all users with test items, and its metrics."""
    train, test = data.train.to(watch.device), data.test.to(watch.device)
    z = propagate(
        normalized_adjacency(train), torch.randn(train.num_nodes, WIDTH, device=watch.device), ALPHA
    )
    users, items = z[: train.num_users], z[train.num_users :]
    k = min(20, train.num_items)
    return {
        "seconds": watch.median(lambda: evaluate_ranking(users, items, test, seen=train, ks=(k,)))
    }


def drawing(watch: Stopwatch, data: Data) -> dict[str, float]:
    """Time the split of all edges and one exact negative for each."""
    graph = data.train.to(watch.device)
    generator = make_generator(0, device=watch.device)
    negatives = sample_negative_items(graph, graph.users, generator)
    assert not bool(graph.contains(graph.users, negatives[:, 0]).any())
    split = watch.median(lambda: split_edges(graph))
    sampling = watch.median(lambda: sample_negative_items(graph, graph.users, generator))
    return {
        "split_seconds": split,
        "split_edges_per_s": graph.num_edges / split,
        "negatives_seconds": sampling,
        "negatives_per_s": graph.num_edges / sampling,
    }


def measure(device: str, quick: bool) -> dict[str, Any]:
    """Return all results; a part that is begun after `SECONDS` is left out, and named under
    "skipped"."""
    began = time.monotonic()
    watch = Stopwatch(torch.device(device), rounds=2 if quick else 9)
    data = (
        load("gowalla")
        if gowalla_folder() and not quick
        else load("synthetic", 0.02 if quick else 1.0)
    )
    results: dict[str, Any] = {
        "machine": machine(device),
        "device": device,
        "graph": {
            "name": data.name,
            "users": data.train.num_users,
            "items": data.train.num_items,
            "edges": data.train.num_edges,
        },
        "copy_bytes_per_s": copy_bandwidth(watch, 1 << (20 if quick else 30)),
        "skipped": [],
    }
    steps = 2 if quick else 20
    parts: dict[str, Callable[[], Any]] = {
        "propagation": lambda: propagation(watch, data, results["copy_bytes_per_s"]),
        "epoch_paper": lambda: epoch(watch, data, "paper", steps),
        "epoch_fast": lambda: epoch(watch, data, "fast", steps),
        "evaluation": lambda: evaluation(watch, data),
        "drawing": lambda: drawing(watch, data),
    }
    for name, part in parts.items():
        if time.monotonic() - began > SECONDS:
            results["skipped"].append(name)
            continue
        started = time.monotonic()
        results[name] = part()
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    results["seconds"] = time.monotonic() - began
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="a small graph and few rounds, to try the code"
    )
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device here: run this on a machine that has one, or try it with --device cpu "
            "--quick"
        )
        return 2
    results = measure(arguments.device, arguments.quick)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"wrote {arguments.out} after {results['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
