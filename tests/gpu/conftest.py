from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pretend_cuda import PretendCuda, pretend_cuda


@pytest.fixture
def on_both() -> Callable[[Callable[[str], Any]], tuple[Any, Any]]:
    """Return a function that gives what ``run(device)`` returns on the device and on the CPU."""

    def results(run: Callable[[str], Any]) -> tuple[Any, Any]:
        here = run("cpu")  # outside, where it is faster
        with pretend_cuda():
            return run("cuda"), here

    return results


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    """Make ``device="cuda"`` work, on labelled CPU tensors (tests/tools/pretend_cuda.py)."""
    with pretend_cuda() as device:
        yield device
