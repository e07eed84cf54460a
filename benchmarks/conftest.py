"""Options and data of the benchmarks."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.graphs import Data, gowalla_folder, load
from benchmarks.machine import machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="also measure the graph of 66 million edges (minutes, 20 GB)",
    )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Keep what a figure depends on, and no machine's name."""
    machine_info.clear()
    machine_info.update(machine())


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Benchmarks run one at a time, in this process."""
    return 0


@pytest.fixture(scope="session", params=["synthetic", "gowalla"])
def data(request: pytest.FixtureRequest) -> Data:
    """Return a graph of Gowalla's size, and Gowalla itself where its files are."""
    if request.param == "gowalla" and gowalla_folder() is None:
        pytest.skip(
            "needs the Gowalla split: set LIGHTGCN_DATA to the folder that holds gowalla/train.txt"
        )
    return load(request.param)
