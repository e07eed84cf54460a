"""The ten best items of every user, own items left out: in a file, beside `implicit` in arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.competitors import seconds_of_script
from benchmarks.graphs import Data
from benchmarks.timing import Peers, Way, compare
from lightgcn import Interactions, LightGCN, Ranker, RankingConfig, Recommender

K, WIDTH, BATCH = 10, 64, 1000

# In a process of its own: implicit wants OpenBLAS on one thread.
IMPLICIT = """
import sys, time
import numpy as np
from scipy.sparse import csr_matrix
from implicit.als import AlternatingLeastSquares

saved, threads, batch = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
users, items = saved["users"], saved["items"]
ones = np.ones(len(saved["columns"]), np.float32)
seen = csr_matrix((ones, saved["columns"], saved["ends"]), shape=(len(users), len(items)))
model = AlternatingLeastSquares(factors=users.shape[1], use_gpu=False, num_threads=threads)
model.user_factors, model.item_factors = users, items

def recommend(first):
    some = np.arange(first, min(first + batch, len(users)))
    return model.recommend(some, seen[some], N=10, filter_already_liked_items=True)

recommend(0)
began = time.perf_counter()
ids = np.concatenate([recommend(first)[0] for first in range(0, len(users), batch)])
print(time.perf_counter() - began)
np.save(sys.argv[3], ids)
"""


def implicit_lists(file: Path, result: Path) -> Way:
    return lambda: seconds_of_script(IMPLICIT, file, torch.get_num_threads(), result, BATCH)


def scores_of(recommender: Recommender, items: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return float64 scores of (num_users, K) items."""
    users, table = recommender.ranker.users.double(), recommender.ranker.items.double()
    parts = torch.from_numpy(items.astype(np.int64)).split(4096)
    rows = users.split(4096)
    return torch.cat([(u.unsqueeze(1) * table[i]).sum(2) for u, i in zip(rows, parts, strict=True)])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_recommend_all(benchmark: Any, data: Data, tmp_path: Path, suffix: str) -> None:
    graph = data.train
    model = LightGCN(graph.num_users, graph.num_items, WIDTH, 3, seed=0)
    recommender = Recommender(
        Ranker.from_model(model, graph, config=RankingConfig(), fold_in=False)
    )
    out, arrays, result = tmp_path / f"lists{suffix}", tmp_path / "in.npz", tmp_path / "out.npy"

    def ours() -> object:
        return recommender.recommend_all(out, K, overwrite=True)

    assert ours() == graph.num_users * K
    chunks = recommender.recommend_in_chunks(K)
    own = np.concatenate([chunk["item"] for chunk in chunks]).reshape(-1, K)
    matrix, ranker = graph.to_scipy(), recommender.ranker
    np.savez(
        arrays,
        users=ranker.users.numpy(),
        items=ranker.items.numpy(),
        columns=matrix.indices,
        ends=matrix.indptr,
    )
    peers = Peers()
    peers.add("implicit", lambda: implicit_lists(arrays, result), needs="implicit")
    compare(
        benchmark,
        "lists of all users",
        ours,
        variant=suffix,
        graph=data.name,
        peers=peers,
        figures=lambda seconds: {"users/s": graph.num_users / seconds["ours"]},
        rounds=5,
        note=f"top {K}, own items left out, to a file; implicit: model.recommend in batches of "
        f"{BATCH}, without a file",
    )
    if peers:
        # No list is worse than theirs, but for what float32 cannot tell apart.
        best, theirs = scores_of(recommender, own), scores_of(recommender, np.load(result))
        assert float((theirs - best).max()) < 1e-5 * float(best.abs().max())
        assert_unseen(graph, own)


def assert_unseen(graph: Interactions, items: np.ndarray[Any, Any]) -> None:
    users = torch.arange(graph.num_users).repeat_interleave(K)
    assert not bool(graph.contains(users, torch.from_numpy(items).flatten()).any())
