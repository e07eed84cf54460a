"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightgcn.datasets import write_synthetic_mpd


@pytest.fixture(scope="session")
def gowalla() -> Path:
    """Return the folder of the Gowalla check-ins in the LightGCN split."""
    folder = Path(os.environ.get("LIGHTGCN_DATA", "data")) / "gowalla"
    if not any(folder.glob("train.txt*")):
        pytest.skip("needs the Gowalla split: set LIGHTGCN_DATA to the folder that holds gowalla/train.txt")
    return folder


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three small MPD slices."""
    folder = tmp_path_factory.mktemp("mpd")
    write_synthetic_mpd(folder, num_playlists=300, num_tracks=400, mean_length=20, slice_size=100, seed=3)
    return folder
