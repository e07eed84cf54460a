from __future__ import annotations

from collections.abc import Iterator

import pytest
from pretend_cuda import PretendCuda, pretend_cuda


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    """Make ``device="cuda"`` work, on labelled CPU tensors (tests/tools/pretend_cuda.py)."""
    with pretend_cuda() as device:
        yield device
