"""A folder is held by one process, and by nobody once that process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lightgcn.cli import main as cli
from lightgcn.core.lock import LOCK_FILE, FolderInUseError, folder_lock
from lightgcn.datasets import read_mpd

HOLD = """
import sys, time
from lightgcn.core.lock import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Return a process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_until_the_owner_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    try:
        with (
            pytest.raises(FolderInUseError, match="run: another process writes here"),
            folder_lock(tmp_path / "run"),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with folder_lock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_every_command_that_writes_a_folder_is_refused(
    holder: subprocess.Popen[str], tmp_path: Path, slices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(tmp_path / "run"), str(read_mpd(slices, order=True).save(tmp_path / "prepared"))
    (tmp_path / "text").mkdir()
    for name in ("train", "test"):
        (tmp_path / "text" / f"{name}.txt").write_text(
            "0 1 2\n1 2 0\n" if name == "train" else "0 0\n"
        )
    commands = [
        ["train", data, run],
        ["tune", data, run, "--trials", "1"],
        ["reproduce", str(tmp_path / "text"), run],
        ["demo", "--out", run, "--playlists", "60"],
        ["challenge", "evaluate", data, run, "--playlists", "10"],
    ]
    try:
        for command in commands:
            assert cli.main(command) == 2
            assert "another process writes here; wait for it" in capsys.readouterr().err
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_FILE]
    assert cli.main([*commands[0], "--epochs", "1", "--batch-size", "512"]) == 0
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_folders_made_for_a_lock_go_with_it_unless_something_was_written(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c" / LOCK_FILE).exists()
    assert not (tmp_path / "a").exists()
    with folder_lock(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "file").write_text("x")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    with pytest.raises(KeyError), folder_lock(tmp_path / "d"):
        raise KeyError
    assert not (tmp_path / "d").exists()


def test_the_thread_that_holds_a_folder_may_ask_again_and_no_other(tmp_path: Path) -> None:
    refused = []

    def ask() -> None:
        try:
            with folder_lock(tmp_path):
                pass
        except FolderInUseError as error:
            refused.append(error)

    with folder_lock(tmp_path):
        with folder_lock(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(refused) == 1
    ask()
    assert len(refused) == 1


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ValueError, match="file: is a file; a folder is needed here"),
        folder_lock(tmp_path / "file"),
    ):
        pass


def test_many_processes_that_take_turns_never_hold_a_folder_together(tmp_path: Path) -> None:
    code = """
import sys, time, random
from pathlib import Path
from lightgcn.core.lock import folder_lock, FolderInUseError
mark, held = Path(sys.argv[1]) / "mark", 0
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        with folder_lock(sys.argv[1] + "/run"):
            with mark.open("x"):
                held += 1
            mark.unlink()
    except FolderInUseError:
        pass
print(held)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes) and sum(counts) > 100
