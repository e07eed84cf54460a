"""Reading a CSV file of interactions, against polars, which reads and factorises the same two
columns and makes no graph of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.timing import compare
from lightgcn.datasets import read_table

ROWS = int(os.environ.get("LIGHTGCN_BENCH_ROWS", "10000000"))
_PART = 500_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write rows of half a million users and 200,000 items, popular ones more often."""
    path, draw = tmp_path_factory.mktemp("tables") / "plays.csv", np.random.default_rng(0)
    with path.open("w") as file:
        file.write("user,item,rating,time\n")
        for _ in range(0, ROWS, _PART):
            users, items = draw.integers(0, 500_000, _PART), draw.zipf(1.2, _PART) % 200_000
            ratings, times = (
                draw.integers(1, 6, _PART),
                draw.integers(1_300_000_000, 1_500_000_000, _PART),
            )
            columns = (part.tolist() for part in (users, items, ratings, times))
            file.writelines(f"u{u},{i},{r},{t}\n" for u, i, r, t in zip(*columns, strict=True))
    yield path
    path.unlink()


def test_table_reading(benchmark: Any, table: Path) -> None:
    polars = pytest.importorskip("polars")
    kinds = {"user": polars.String, "item": polars.String}

    def by_polars() -> list[tuple[Any, Any]]:
        frame = polars.read_csv(table, columns=list(kinds), schema_overrides=kinds)
        factors = []
        for name in kinds:
            codes = frame[name].cast(polars.Categorical)
            factors.append((codes.to_physical().to_numpy(), codes.unique().cast(polars.String)))
        return factors

    def ours() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the ratings are not used
            return read_table(table)

    graph = ours().interactions
    (users, user_ids), (items, item_ids) = by_polars()
    pairs = np.unique(users.astype(np.int64) << 32 | items)
    assert (graph.num_users, graph.num_items) == (len(user_ids), len(item_ids))
    assert graph.num_edges == len(pairs)
    compare(
        benchmark,
        "table reading",
        ours,
        graph=f"{ROWS:,} rows, {table.stat().st_size / 1e6:.0f} MB",
        floors={"polars": by_polars},
        figures=lambda seconds: {"million rows/s": ROWS / seconds["ours"] / 1e6},
        rounds=5,
        note="ours: ids, sorted edges without repeats; polars: the two columns, factorised",
    )
