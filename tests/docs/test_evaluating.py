"""The blocks of docs/evaluating.md run as written, in their order."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from doc_pages import blocks, blocks_of, run_commands

PAGE = "docs/evaluating.md"
PYTHON, BASH = blocks_of(PAGE, "python"), blocks_of(PAGE, "bash")

pytestmark = pytest.mark.slow


class _Wandb(types.ModuleType):
    """What the page calls of wandb, which sends data to a server."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.config: dict[str, Any] = {}

    def init(self, project: str, config: dict[str, Any]) -> _Wandb:
        self.config = config
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.logged.append((-1, {}))


def run_blocks(blocks: list[str]) -> tuple[dict[str, Any], str]:
    """Run blocks in one namespace; return it and what they printed."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for block in blocks:
            exec(compile(block, "docs/evaluating.md", "exec"), names)
    return names, out.getvalue()


def test_every_block_is_of_a_kind_that_runs() -> None:
    assert len(PYTHON) + len(BASH) == len(blocks(PAGE)) and len(PYTHON) == 10


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names, printed = run_blocks([block for block in PYTHON if "on_epoch" not in block])
    result, found = names["result"], names["found"]
    assert names["low"] < result["ndcg@20"] < names["high"]
    assert set(names["all_of_them"]) == set(result.per_user.values)
    assert 0 < found.p_value <= 1 and found.low <= found.difference <= found.high
    assert "gini@20" in printed and "better for" in printed
    assert len(names["table"]) == result.num_users


def test_tensorboard_gets_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("needs tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    run_blocks([PYTHON[0], next(block for block in PYTHON if "SummaryWriter" in block)])
    read = EventAccumulator(str(tmp_path / "logs"))
    read.Reload()
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3, 4]
    assert read.Scalars("val/recall@20")[-1].value > 0


def test_wandb_gets_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.chdir(tmp_path)
    run_blocks([PYTHON[0], next(block for block in PYTHON if "wandb" in block)])
    assert [step for step, _ in wandb.logged] == [1, 2, 3, 4, -1]
    assert wandb.config["loss"] == "softmax"
    assert any("recall@20" in values for _, values in wandb.logged)


def test_command_blocks_run(tmp_path: Path) -> None:
    results = [run_commands(block, tmp_path) for block in BASH]
    found = "".join(shown for shown, _ in results)
    assert not any("warning" in told for _, told in results)
    for shown in ("ease", "gini@20", "[.", "by number of", "better", "users.csv"):
        assert shown in found
    assert (tmp_path / "users.csv").is_file() and (tmp_path / "users.parquet").is_file()
