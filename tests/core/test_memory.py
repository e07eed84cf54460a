"""What memory there is, and files that are small and would fill it."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightgcn import Adjacency, Interactions, normalized_adjacency, propagate
from lightgcn.cli import main as cli
from lightgcn.core import memory
from lightgcn.datasets import files, read_table, read_text, synthetic_interactions
from lightgcn.graph import adjacency, interactions, pattern


def test_available_memory_is_that_of_the_machine_or_of_its_control_group(tmp_path: Path) -> None:
    assert memory.available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    assert memory.available_memory(tmp_path) == 1_024_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for limit, available in (
        ("700000", 450_000),
        ("100", 0),
        ("260000", 10_000),
        ("9000000", 1_024_000),
        ("max", 1_024_000),
        ("", 1_024_000),
    ):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("300000\n")
        (group / "memory.stat").write_text(
            "anon 5\ninactive_file 20000\nactive_file 20000\nslab_reclaimable 10000\n"
        )
        assert memory.available_memory(tmp_path) == available
    (tmp_path / "proc/meminfo").write_text("no such lines\n")
    assert memory.available_memory(tmp_path) is None


def test_a_shortage_is_a_warning_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, needed in ((9_000_000_000, 9_000_000_000), (None, 10**15)):
        monkeypatch.setattr(memory, "available_memory", lambda available=available: available)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            memory.warn_of_shortage("training", needed, "less")
    monkeypatch.setattr(memory, "available_memory", lambda: 9_000_000_000)
    with pytest.warns(UserWarning, match=r"training .*14\.0 GB.*9\.0 GB.*read fewer slices"):
        memory.warn_of_shortage("training", 14_000_000_000, "read fewer slices")


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_small_file_that_decompresses_to_more_than_there_is_is_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"0 1\n" * 20_000_000  # 80 MB, and a hundred KB on disk
    path = tmp_path / f"train.txt{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix == ".gz" else lzma.compress(data, preset=0))
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000_000)
    monkeypatch.setattr(memory, "LEAST", 10_000_000)
    with pytest.raises(ValueError, match=f"train.txt{suffix}: decompresses to more than 0.0 GB"):
        read_text(path)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert files.read_bytes(path) == data


@pytest.mark.parametrize("kind", ["rows", "letters"])
def test_a_small_parquet_file_that_stands_for_very_much_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    count = 3_000_000 if kind == "rows" else 30_000
    values = np.zeros(count, np.int64) if kind == "rows" else np.full(count, "x" * 2000, object)
    column = pyarrow.array(values)
    parquet.write_table(
        pyarrow.table({"user": column, "item": column}), tmp_path / "t.parquet", compression="zstd"
    )
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    monkeypatch.setattr(memory, "LEAST", 10_000_000)
    monkeypatch.setattr(memory, "available_memory", lambda: 40_000_000)
    with pytest.raises(ValueError, match=r"t\.parquet: needs more than 0\.\d GB"):
        read_table(tmp_path / "t.parquet")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert read_table(tmp_path / "t.parquet").info["entries"] == count


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine say that 1 MB is free."""
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)


def test_commands_say_before_they_start_what_they_need_and_what_there_is(
    slices: Path, tmp_path: Path, little: None, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for command in (
        ["prepare", str(slices), str(tmp_path / "prepared")],
        [
            "train",
            str(tmp_path / "prepared"),
            str(tmp_path / "run"),
            "--epochs",
            "1",
            "--batch-size",
            "512",
        ],
        ["recommend", str(tmp_path / "run"), "--user", "3"],
    ):
        assert cli.main(command) == 0
        said.append(capsys.readouterr().err)
    for line, words in zip(
        said,
        ("reading needs about 0.3 GB", "training needs about 0.3 GB", "loading it needs"),
        strict=True,
    ):
        assert words in line and "0.0 GB are available" in line and "warning" in line


@pytest.mark.slow
@pytest.mark.parametrize("choose", [False, True])
def test_what_is_told_is_near_what_is_taken(choose: bool, tmp_path: Path) -> None:
    code = """
import sys, warnings
from lightgcn import preset
from lightgcn.datasets import Dataset, synthetic_interactions
from lightgcn.core.memory import choice_memory, training_memory
from lightgcn.experiments.run import RunConfig
from lightgcn.experiments.train import train_run
warnings.simplefilter("ignore")
Dataset(synthetic_interactions(20_000, 20_000, 500_000), {}, {}).save(sys.argv[1])
dataset = Dataset.load(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before = int(open("/proc/self/statm").read().split()[1]) * 4096
choose = sys.argv[2] == "True"
config = preset("fast", epochs=1, eval_every=1, choose_ranking=choose)
train_run(dataset, RunConfig(sys.argv[1], dataset.fingerprint(), config), sys.argv[1] + "/run")
status = dict(line.partition(":")[::2] for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
told = training_memory(40_000, 500_000, 64)
print(max(told, choice_memory(20_000, 20_000) if choose else 0) / (peak - before))
"""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which says how much memory a process took")
    command = [sys.executable, "-c", code, str(tmp_path), str(choose)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.7 < float(done.stdout) < 2


@pytest.mark.slow
def test_commands_ask_for_huge_pages_unless_the_environment_says_not_to() -> None:
    code = """
import os, sys
import torch
from lightgcn.cli import main as cli
try:
    cli.main(["--version"])
except SystemExit:
    pass
table = torch.ones(16, 1 << 20)
sizes = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup"))
print(sizes["AnonHugePages:"])
"""
    state = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not state.exists() or "[madvise]" not in state.read_text():
        pytest.skip("needs a Linux that gives huge pages to those who ask")
    found = {}
    for asked in (None, "0"):
        environment = {
            name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"
        }
        environment |= {} if asked is None else {"THP_MEM_ALLOC_ENABLE": asked}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        found[asked] = int(done.stdout.split()[-1])
    assert found[None] > found["0"] + 16 * 1024  # kB; of 64 MB, in case memory is in pieces


@pytest.mark.parametrize("limit", [60, 599, 600, 601, 100_000])
def test_indices_are_64_bits_wide_from_where_32_do_not_reach(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if 32 bits ended at so small a number: 300 edges are 600 entries, over 90 nodes."""
    graph = synthetic_interactions(50, 40, 300, seed=1)
    plain = normalized_adjacency(graph)
    for module in (adjacency, interactions, pattern):
        monkeypatch.setattr(module, "INT32_END", limit)
    wide = normalized_adjacency(graph)
    assert wide.pattern.columns.dtype == (torch.int32 if limit > 600 else torch.int64)
    assert graph.to_scipy().indices.dtype == (np.int32 if limit > 300 else np.int64)
    again = Adjacency.from_sparse(plain.to_sparse_coo(), 50, 40)
    assert again.pattern.columns.dtype == (torch.int32 if limit > 600 else torch.int64)
    x = torch.randn(90, 8)
    for half in (False, True):
        wanted = propagate(replace(plain, half_tables=half), x, [0.25] * 4)
        assert torch.equal(propagate(replace(wide, half_tables=half), x, [0.25] * 4), wanted)
    torch.testing.assert_close(propagate(again, x, [0.25] * 4), propagate(plain, x, [0.25] * 4))
    assert torch.equal(wide.to_dense(), plain.to_dense())


def test_keys_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="would overflow 64 bits"):
        Interactions(torch.tensor([0]), torch.tensor([0]), 2**32, 2**31)
    large = Interactions(torch.tensor([2**32 - 2]), torch.tensor([2**31 - 2]), 2**32 - 1, 2**31 - 1)
    assert int(large.keys[0]) == (2**32 - 2) * (2**31 - 1) + 2**31 - 2
