"""A step on one, two or four processes: seconds, bytes sent, memory, beside what the model of
docs/scale.md says.

    python -m benchmarks.sharding [--edges 1000000] [--processes 1 2 4]

Every job is started by torchrun with one thread a process and runs the same epoch of "fast", 64
wide. The bytes are counted by the library; the system's counter of the loopback device, which also
counts headers and acknowledgements, is read beside it. What the model takes from this machine is
measured in this run, by one process: the time of a step for 16, 32 and 64 columns without exchange.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.graphs import mpd_shaped
from benchmarks.memory import peak_resident_bytes
from lightgcn import LightGCN, fit, preset, split_edges
from lightgcn.core.process_group import process_group
from lightgcn.datasets.mpd.workers import available_cores
from lightgcn.training.sharded import ShardedLightGCN

WIDTH, BATCH, EPOCHS = 64, 16_384, 3


def loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines() if Path("/proc/net/dev").exists() else []
    return next((int(line.split()[9]) for line in lines if line.split()[0] == "lo:"), 0)


def work(edges: int, width: int) -> dict[str, Any] | None:
    """Train some epochs in this process and its processes; return figures in process 0."""
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(1)
    graph = mpd_shaped(edges)
    split = split_edges(graph, (1.0,), disjoint=0.0, negatives=0.0)
    config = preset("fast", epochs=EPOCHS, batch_size=BATCH, init="normal", embedding_dim=width)
    with process_group() as processes:
        model: LightGCN | None = None
        if processes.rank == 0:
            model = LightGCN(
                graph.num_users, graph.num_items, width, config.model.num_layers, init_std=0.005
            )
        if processes.size > 1 or model is None:
            model = ShardedLightGCN.from_whole(model, processes)
        processes.barrier()
        sent, wire = processes.sent, loopback_bytes()
        with peak_resident_bytes() as peak:
            result = fit(model, split, config)
        sent, wire = processes.sent - sent, loopback_bytes() - wire
        total = processes.all_reduce_numbers(
            torch.tensor([float(sent), float(peak.bytes)], dtype=torch.float64)
        ).tolist()
        own = model.embedding.numel() * 4
    steps = EPOCHS * -(-graph.num_edges // BATCH)
    rows = 2 * graph.num_edges * EPOCHS / steps
    share = (processes.size - 1) / processes.size
    return (
        {
            "processes": processes.size,
            "columns": width,
            "edges": graph.num_edges,
            "nodes": graph.num_nodes,
            "step_seconds": min(record["seconds"] for record in result.history) * EPOCHS / steps,
            "sent_bytes_a_step": sent / steps,
            "limit_bytes_a_step": 2 * rows * width * 4 * share,
            "loopback_over_counted": wire / total[0] if total[0] else None,
            "table_and_optimiser_mb": 3 * own / 1e6,
            "mean_peak_gb": total[1] / processes.size / 1e9,
        }
        if processes.rank == 0
        else None
    )


def run(processes: int, edges: int, width: int) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        "-m",
        "benchmarks.sharding",
        "--work",
        str(width),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--edges", str(edges)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        figures = work(arguments.edges, arguments.work)
        if figures is not None:
            print(json.dumps(figures))
        return
    for processes in arguments.processes:
        alone = run(1, arguments.edges, WIDTH // processes)["step_seconds"]
        found = run(processes, arguments.edges, WIDTH)
        # A process has its columns' propagation, and its part of the loss, which does not shrink
        # with its columns.
        found["step_seconds_of_its_columns_alone"] = alone
        found["cores"] = available_cores()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
