"""Three layers of propagation, forward and backward, and the memory that they take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.competitors import peer_propagations
from benchmarks.floors import gather_sums
from benchmarks.graphs import Data
from benchmarks.memory import LiveBytes
from benchmarks.timing import Peers, Way, compare, record
from lightgcn import Interactions, normalized_adjacency, propagate
from lightgcn.graph.subgraph import locality_order

LAYERS, WIDTH = 3, 64
ALPHA = [1 / (LAYERS + 1)] * (LAYERS + 1)


def operands(num_nodes: int) -> tuple[torch.nn.Parameter, Tensor]:
    """Return a table of embeddings and a gradient of the size that a mean loss has."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(num_nodes, WIDTH, generator=generator) for _ in range(2))
    return torch.nn.Parameter(0.1 * x), 1e-6 * grad


def forward_and_backward(
    way: Callable[[Tensor], Tensor], x: torch.nn.Parameter, grad: Tensor
) -> Way:
    def run() -> Tensor:
        x.grad = None
        z = way(x)
        z.backward(grad)
        return z.detach()

    return run


def assert_right(
    run: Way,
    x: torch.nn.Parameter,
    expected: tuple[Tensor, Tensor],
    tolerances: tuple[float, float],
) -> None:
    """Compare value and gradient with the float64 ones, relative to their norms."""
    z = run()
    assert isinstance(z, Tensor) and x.grad is not None
    for found, reference, tolerance in zip((z, x.grad), expected, tolerances, strict=True):
        assert float((found - reference).norm() / reference.norm()) < tolerance


def in_float64(graph: Interactions, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return value and gradient by powers of the normalised matrix in SciPy; it is symmetric."""
    matrix = normalized_adjacency(graph, dtype=torch.float64).to_sparse_csr()
    from scipy.sparse import csr_array

    parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
    operator = csr_array(tuple(part.numpy() for part in parts), shape=tuple(matrix.shape))
    results = []
    for start in (x, grad):
        layers = [start.detach().double().numpy()]
        for _ in range(LAYERS):
            layers.append(operator @ layers[-1])
        results.append(torch.from_numpy(sum(layers) / len(layers)))
    return results[0], results[1]


@pytest.mark.parametrize("variant", ["half tables", "float32", "half tables, reordered"])
def test_propagation(benchmark: Any, data: Data, variant: str) -> None:
    graph, half = data.train, variant.startswith("half")
    given = graph
    if variant.endswith("reordered"):
        graph = graph.reindex(*locality_order(graph))
    x, grad = operands(graph.num_nodes)
    expected = in_float64(graph, x, grad)
    adjacency = normalized_adjacency(graph, half_tables=half)
    ours = forward_and_backward(lambda table: propagate(adjacency, table, ALPHA), x, grad)
    assert_right(ours, x, expected, (1e-3, 2e-3) if half else (1e-5, 1e-5))

    peers = Peers()
    if half:
        # On the nodes as they come: to put them in another order is a part of ours.
        expected = in_float64(given, x, grad)
        for name, (build, needs) in peer_propagations(given, LAYERS).items():
            peers.add(
                name, partial(lambda build: forward_and_backward(build(), x, grad), build), needs
            )
        for run in peers.values():
            assert_right(run, x, expected, (1e-5, 1e-5))
    dtype = torch.float16 if half else torch.float32
    floors = {"6 gather-sums": gather_sums(adjacency, dtype, [WIDTH], 2 * LAYERS)}
    if not half:
        floors["6 gather-sums by 32 columns"] = gather_sums(
            adjacency, dtype, [WIDTH // 2] * 2, 2 * LAYERS
        )
    note = "3 layers, d 64, forward and backward with a dense gradient; peers have the nodes in their own order"
    compare(
        benchmark,
        "propagation",
        ours,
        variant=variant,
        graph=data.name,
        peers=peers,
        floors=floors,
        note=note,
    )


@pytest.mark.parametrize("half", [True, False], ids=["half tables", "float32"])
def test_memory_of_propagation(benchmark: Any, data: Data, half: bool) -> None:
    adjacency = normalized_adjacency(data.train, half_tables=half)
    assert adjacency.pattern.values is None and adjacency.transposed is adjacency.pattern
    x, grad = operands(adjacency.num_nodes)
    least = x.nbytes // 8  # not the vectors of scales
    kept = [adjacency.pattern.row_ends, adjacency.pattern.columns]

    def live_buffers(num_layers: int) -> tuple[float, float]:
        """Return the most (N, d) float32 buffers alive in the forward and the backward pass,
        operand included."""
        with LiveBytes([x, *kept], least) as forward:
            z = propagate(adjacency, x, [1.0] * (num_layers + 1))
        with LiveBytes([grad, *kept], least) as backward:
            torch.autograd.grad(z, x, grad)
        return 1 + forward.most / x.nbytes, 1 + backward.most / x.nbytes

    live_buffers(2)  # scales are made once
    by_layers = {num_layers: live_buffers(num_layers) for num_layers in range(2, 9)}
    benchmark.pedantic(live_buffers, args=(LAYERS,), rounds=1)
    most = max(max(pair) for pair in by_layers.values())
    growth = max(abs(a - b) for a, b in zip(by_layers[8], by_layers[LAYERS], strict=True))
    assert most <= 4 and growth < 1e-3
    record(
        benchmark,
        "propagation memory",
        variant="half tables" if half else "float32",
        graph=data.name,
        figures={"N×d buffers": round(most, 2), "growth with layers": round(growth, 3)},
        note="forward or backward with its operand, K = 2 to 8, vectors left out; no values, no transposed copy",
    )
