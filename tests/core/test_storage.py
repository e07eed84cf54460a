"""Files are complete or absent, whatever interrupts their writer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lightgcn.core.storage import (
    append_jsonl,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from lightgcn.core.tensor_file import load_tensors, save_tensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.json"
    write_json(path, {"old": 1})
    return path


def test_write_atomic_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in (b"old", b"new"):
        write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content))
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(
    existing: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    if existing:
        path.write_bytes(b"old")
    before = os.listdir(tmp_path)
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):

        def write(temporary: Path, error: type[BaseException] = error) -> None:
            temporary.write_bytes(b"half")
            assert temporary.parent.parent == path.parent  # the same file system, for the rename
            assert path.exists() == existing
            raise error("stop")

        with pytest.raises(error):
            write_atomic(path, write)
        assert os.listdir(tmp_path) == before
        assert not existing or path.read_bytes() == b"old"


def test_a_folder_in_the_way_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write_json(tmp_path / "folder", {})
    assert raised.value.filename == str(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_json_that_cannot_be_written_leaves_the_old_file(file: Path) -> None:
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file) == {"old": 1}
    assert os.listdir(file.parent) == [file.name]


def test_the_system_applies_the_umask_and_nothing_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read the umask is to set it, for the files of other threads too."""
    before, set_umask = os.umask(0o022), os.umask
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    try:
        for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
            set_umask(mask)
            save_tensors(tmp_path / "a", "thing", {"a": torch.zeros(1)})
            write_json(tmp_path / "b", {})
            write_json(tmp_path / "b", {})
            for name in ("a", "b"):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    finally:
        set_umask(before)


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"name": "Ærø 🎧", "list": [1, 2.5, None, True], "array": np.arange(3)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value | {"array": [0, 1, 2]}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


def test_broken_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        read_json(path)
    for content in (b"", b'{"a": 1', b"\xff\xfe", b"nan"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            read_json(path)


def test_json_lines_without_a_last_line_that_was_cut_off(tmp_path: Path) -> None:
    path, records = tmp_path / "a.jsonl", [{"epoch": 1}, [2.5, "Ærø\n"], None]
    write_jsonl(path, records[:2])
    append_jsonl(path, records[2])
    assert read_jsonl(path) == records
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_jsonl(path) == records[: whole[:length].count(b"\n")]
    path.write_bytes(b"1\n2\n{\n4\n")
    with pytest.raises(ValueError, match=f"{path}, line 3"):
        read_jsonl(path)
    with pytest.raises(FileNotFoundError):
        read_jsonl(tmp_path / "b.jsonl")


def test_a_full_disk_is_named_by_what_is_appended_to(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        append_jsonl(tmp_path / "history.jsonl", {})
    assert raised.value.filename == str(tmp_path / "history.jsonl")


def leftovers(file: Path) -> list[Path]:
    return list(file.parent.glob(f".{file.name}.*.tmp"))


def test_temporary_folders_of_killed_processes_are_removed(file: Path) -> None:
    old, new, other = (
        file.parent / name for name in (f".{file.name}.x.tmp", f".{file.name}.y.tmp", ".else.x.tmp")
    )
    for path in (old, new, other):
        path.mkdir()
        (path / "half").write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1, 1))
    write_json(file, {})
    assert not old.exists() and new.exists() and other.exists()


@pytest.mark.slow
def test_a_killed_save_leaves_the_old_file_and_nothing_for_long(tmp_path: Path) -> None:
    """safetensors leaves a half-written file of its own, in the same temporary folder."""
    file = tmp_path / "some.safetensors"
    save_tensors(file, "thing", {})
    code = """
import sys, torch
from lightgcn.core.tensor_file import save_tensors
tensor = torch.zeros(30_000_000)
print(1, flush=True)
while True:
    save_tensors(sys.argv[1], "thing", {"a": tensor})
"""
    for delay in (0.02, 0.05, 0.09):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        tensors, _ = load_tensors(file, "thing")
        assert not tensors or tensors["a"].shape == (30_000_000,)
        for folder in leftovers(file):
            os.utime(folder, (1, 1))
        save_tensors(file, "thing", {})
        assert os.listdir(tmp_path) == [file.name]


@pytest.mark.slow
def test_the_temporary_folder_of_a_living_process_is_left_alone(file: Path) -> None:
    code = """
import sys
from lightgcn.core.storage import write_atomic
def write(path):
    path.write_text("1")
    print(1, flush=True)
    input()
write_atomic(sys.argv[1], write)
"""
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        (folder,) = leftovers(file)
        os.utime(folder, (1, 1))
        write_json(file, {"new": 2})
        assert leftovers(file) == [folder]
        process.communicate("\n")
    assert process.returncode == 0 and read_json(file) == 1 and not leftovers(file)
