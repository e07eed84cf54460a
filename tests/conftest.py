"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightgcn.datasets import write_synthetic_mpd


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
    folder = tmp_path_factory.mktemp("mpd")
    write_synthetic_mpd(
        folder, num_playlists=300, num_tracks=400, mean_length=20, slice_size=100, seed=3
    )
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Steps of a small model wait longer for a second thread than they compute, many times longer
    on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
