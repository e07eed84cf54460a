"""Killed processes, full disks and folders that may not be written to: one clear line, and nothing
is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soak
import torch

from lightgcn.cli import main as cli
from lightgcn.core import storage as checkpoint
from lightgcn.datasets import Dataset, read_mpd, synthetic_interactions

TRAIN = ["--epochs", "2", "--batch-size", "512", "--embedding-dim", "16"]


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        assert soak.soak(tmp_path, kills=16, say=lambda _: None) >= 16
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def prepared(slices: Path, tmp_path: Path) -> Path:
    return read_mpd(slices).save(tmp_path / "prepared")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("lightgcn: "), err
    for word in words:
        assert word in err


def test_a_full_disk_is_one_line_and_keeps_the_old_file(
    small_disk: Path, prepared: Path, slices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Dataset(synthetic_interactions(50, 40, 300), {}, {})
    small.save(small_disk / "out")
    before = content(small_disk)
    assert cli.main(["prepare", str(slices), str(small_disk / "out"), "--overwrite", "--json"]) == 2
    assert_one_line(capsys, "dataset.safetensors", "No space left on device")
    assert content(small_disk) == before
    assert cli.main(["train", str(prepared), str(small_disk / "run"), *TRAIN, "--json"]) == 2
    assert_one_line(capsys, "run", "No space left on device")
    assert Dataset.load(small_disk / "out").fingerprint() == small.fingerprint()
    assert not list(small_disk.rglob("*.tmp"))


def test_a_disk_that_fills_up_during_training_keeps_the_checkpoint(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", str(prepared), str(run), *TRAIN]) == 0
    whole, before = tmp_path / "whole", content(run)
    assert cli.main(["train", str(prepared), str(whole), *TRAIN, "--epochs", "4"]) == 0
    capsys.readouterr()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "fsync", full)
        assert (
            cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "4", "--json"]) == 2
        )
    assert_one_line(capsys, "No space left on device")
    after = content(run)
    for name in (
        "checkpoint.safetensors",
        "model.safetensors",
        "recommender.safetensors",
        "trained.json",
    ):
        assert after[name] == before[name]
    assert cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "4"]) == 0
    assert content(run)["model.safetensors"] == content(whole)["model.safetensors"]


READ_ONLY = [
    lambda data, out: ["train", data, f"{out}/run", *TRAIN],
    lambda data, out: ["prepare", data, f"{out}/prepared"],
    lambda data, out: ["demo", "--out", f"{out}/demo", "--playlists", "60"],
    lambda data, out: ["tune", data, f"{out}/tuned", "--trials", "1"],
]


@pytest.mark.parametrize("command", READ_ONLY, ids=["train", "prepare", "demo", "tune"])
def test_a_folder_that_may_not_be_written_to_is_named(
    command: object,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    made = Path.mkdir

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        # What the system says to those who are not root, whom it stops nowhere.
        if self.is_relative_to(locked) and self != locked:
            raise PermissionError(13, "Permission denied", str(self))
        made(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert callable(command)
    assert cli.main([*command(str(prepared), str(locked)), "--json"]) == 2
    assert_one_line(capsys, str(locked), "Permission denied")
    assert not list(locked.iterdir())
