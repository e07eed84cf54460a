"""All-item evaluation: top 20 of every user with test items, train masked, six metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.competitors import seconds_of_script
from benchmarks.graphs import Data
from benchmarks.memory import peak_extra_bytes
from benchmarks.timing import Peers, Way, compare
from lightgcn import Interactions, evaluate_ranking, normalized_adjacency, propagate, top_k

K, WIDTH = 20, 64

# In a process of its own: implicit wants OpenBLAS on one thread, and fills stderr with warnings of
# it.
IMPLICIT = """
import sys, time
import numpy as np
from scipy.sparse import csr_matrix
from implicit.cpu.topk import topk

saved = np.load(sys.argv[1])
users, items = saved["users"], saved["items"]
ones = np.ones(len(saved["columns"]), np.float32)
seen = csr_matrix((ones, saved["columns"], saved["ends"]), shape=(len(users), len(items)))
topk(items, users[:64], 20, filter_query_items=seen[:64], num_threads=int(sys.argv[2]))
began = time.perf_counter()
ids, scores = topk(items, users, 20, filter_query_items=seen, num_threads=int(sys.argv[2]))
print(time.perf_counter() - began)
np.save(sys.argv[3], ids[:: len(ids) // 256])
"""


def implicit_top_k(file: Path, result: Path) -> Way:
    return lambda: seconds_of_script(IMPLICIT, file, torch.get_num_threads(), result)


def assert_best(
    users: Tensor, items: Tensor, seen: Interactions, sample: Tensor, found: Tensor
) -> None:
    """No item that was left out scores higher in float64, but for what float32 cannot tell
    apart."""
    scores = users[sample].double() @ items.double().T
    for row, user in enumerate(sample.tolist()):
        scores[row, seen.items_of(user)] = -torch.inf
    best, chosen = scores.topk(K, dim=1).values, scores.gather(1, found)
    assert float((best - chosen.sort(dim=1, descending=True).values).abs().max()) < 1e-5 * float(
        best.abs().max()
    )


def test_evaluation(benchmark: Any, data: Data, tmp_path: Path) -> None:
    graph = data.train
    # Propagated noise: scores spread as they do early in training, by popularity and neighbourhood.
    noise = torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0))
    z = propagate(normalized_adjacency(graph), noise, [0.25] * 4)
    users, items = z[: graph.num_users].contiguous(), z[graph.num_users :].contiguous()

    def ours() -> object:
        return evaluate_ranking(users, items, data.test, seen=graph, ks=(K,))

    sample = torch.arange(0, graph.num_users, graph.num_users // 256)
    assert_best(users, items, graph, sample, top_k(users, items, K, seen=graph, users=sample).items)
    file, result = tmp_path / "arrays.npz", tmp_path / "result.npy"
    matrix = graph.to_scipy()
    np.savez(
        file, users=users.numpy(), items=items.numpy(), columns=matrix.indices, ends=matrix.indptr
    )
    peers = Peers()
    peers.add("implicit top-k", lambda: implicit_top_k(file, result), needs="implicit")
    peak = peak_extra_bytes(ours)

    def products() -> None:
        rows = (1 << 22) // len(items)  # scores that stay in cache
        logits = torch.empty(rows, len(items))
        for block in users.split(rows):
            torch.mm(block, items.T, out=logits[: len(block)])

    compare(
        benchmark,
        "evaluation",
        ours,
        graph=data.name,
        peers=peers,
        floors={"float32 product alone": products},
        figures=lambda seconds: {} if peak is None else {"peak extra MB": peak / 1e6},
        rounds=5,
        note=f"top {K}, train masked, six metrics; implicit: top {K} without metrics, of all users",
    )
    if peers:
        theirs = torch.from_numpy(np.load(result)).long()
        assert_best(
            users, items, graph, torch.arange(0, graph.num_users, graph.num_users // 256), theirs
        )
