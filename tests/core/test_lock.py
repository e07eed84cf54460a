"""A folder is held by one process, and by nobody once that process is gone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.slow
def test_another_process_is_refused_until_the_owner_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    try:
        with pytest.raises(FolderInUseError, match="run: "), folder_lock(tmp_path / "run"):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with folder_lock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK_FILE).exists()


@pytest.mark.slow
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


def is_refused(folder: Path) -> bool:
    try:
        with folder_lock(folder):
            return False
    except FolderInUseError:
        return True


def is_refused_in_a_thread(folder: Path) -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(is_refused, folder).result()


def test_the_thread_that_holds_a_folder_may_lock_it_again_and_no_other(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with folder_lock(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
        assert is_refused_in_a_thread(tmp_path)
    assert not is_refused_in_a_thread(tmp_path)


def test_a_forked_child_is_refused_and_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"):
        child = os.fork()
        if not child:
            os._exit(is_refused(tmp_path / "run"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert is_refused_in_a_thread(tmp_path / "run")


def test_what_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for blocking in (
            tmp_path / "file",
            tmp_path / "pipe",
            tmp_path / "socket",
            Path("/dev/null"),
        ):
            for path in (blocking, blocking / "run", blocking / "a" / "b"):
                with pytest.raises(ValueError, match=f"{blocking}: "), folder_lock(path):
                    pass
    assert cli.main(["train", "data", "/dev/null"]) == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe", "socket"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder_lock(tmp_path / "run"):
        (tmp_path / "run" / "file").write_text("x")
    assert os.listdir(tmp_path / "run") == ["file"]


@pytest.mark.slow
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
