"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# One thread in each worker and in each process that a test starts: the workers fill the cores.
# PyTorch reads this when it is imported, which is later.
os.environ["OMP_NUM_THREADS"] = "1"

# The same few examples each time; `--hypothesis-profile long` draws others in each run.
settings.register_profile("short", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=200, deadline=None)
settings.load_profile("short")


@pytest.fixture(scope="session")
def gowalla() -> Path:
    """Return the folder of the Gowalla check-ins in the LightGCN split."""
    folder = Path(os.environ.get("LIGHTGCN_DATA", "data")) / "gowalla"
    if not any(folder.glob("train.txt*")):
        pytest.skip(
            "needs the Gowalla split: set LIGHTGCN_DATA to the folder that holds gowalla/train.txt"
        )
    return folder


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three small MPD slices."""
    from lightgcn.datasets import write_synthetic_mpd

    folder = tmp_path_factory.mktemp("mpd")
    write_synthetic_mpd(
        folder, num_playlists=300, num_tracks=400, mean_length=20, slice_size=100, seed=3
    )
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Begin every test with one thread, whatever the one before it set."""
    import torch

    torch.set_num_threads(1)
