"""What all commands share: help, devices, one clear line for errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runs import refusal

from lightgcn.cli import data as data_commands
from lightgcn.cli import main as cli
from lightgcn.core.checks import is_out_of_memory


def test_help_of_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split(), "--help"])
        assert ended.value.code == 0
        assert f"  lightgcn {command} " in capsys.readouterr().out.partition("examples:")[2]


def test_a_command_line_without_a_command_shows_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, names in (([], cli.COMMANDS), (["challenge"], ("answer", "check", "score"))):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert err == "" and all(name.split()[0] in out for name in names)


def test_options_of_settings_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "reproduce", "tune", "challenge evaluate"):
        with pytest.raises(SystemExit):
            cli.main([*command.split(), "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert "passes over the training data" in out and "item_knn_weight" in out
        assert command == "tune" or "fast: 8; best: 16" in out


def test_cuda_asked_for_where_there_is_none(
    prepared: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run"
    for command in (
        ("train", prepared, out),
        ("prepare", prepared, out),
        ("recommend", run, "--user", "0"),
        ("evaluate", run),
        ("demo", "--out", out),
    ):
        assert "no CUDA device" in refusal(capsys, *command, "--device", "cuda")
    assert not out.exists()


def test_out_of_memory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_with(error: Exception) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(data_commands, "open_dataset", fail)

    allocator = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"
    for error in (
        MemoryError(),
        RuntimeError(allocator),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ):
        fails_with(error)
        assert "out of memory" in refusal(capsys, "prepare", tmp_path, tmp_path / "out")
    fails_with(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["prepare", str(tmp_path), str(tmp_path / "out")])


def test_torch_that_cannot_allocate_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
