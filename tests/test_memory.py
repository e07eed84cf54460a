"""What memory there is, and files that are small and would fill it."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from lightgcn import memory
from lightgcn.datasets import files, read_table, read_text, tables


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in place of what the system says; it says that 1,024,000 bytes are free, and knows no group."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    return tmp_path


def test_available_memory_is_what_the_system_says(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available_memory() == 1_024_000
    (machine / "meminfo").unlink()
    monkeypatch.setattr(memory.os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory.available_memory() == 28_672
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available_memory() is None


@pytest.mark.parametrize(("limit", "available"), [("700000", 450_000), ("100", 0), ("max", 1_024_000), ("", 1_024_000)])
def test_a_control_group_may_allow_less(machine: Path, limit: str, available: int) -> None:
    (machine / "memory.max").write_text(limit)
    (machine / "memory.current").write_text("300000\n")
    (machine / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    assert memory.available_memory() == available


def test_a_shortage_is_told_and_enough_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 9_000_000_000)
    assert memory.shortage("training", 9_000_000_000, "less") is None
    wanted = "training needs about 14.0 GB of memory, and 9.0 GB are available: read fewer slices"
    assert memory.shortage("training", 14_000_000_000, "read fewer slices") == wanted
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert memory.shortage("training", 10**15, "less") is None


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_small_file_that_decompresses_to_more_than_there_is_is_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"0 1\n" * 20_000_000  # 80 MB, and a hundred KB on disk
    path = tmp_path / f"train.txt{suffix}"
    path.write_bytes(gzip.compress(data, 1) if suffix == ".gz" else lzma.compress(data, preset=0))
    monkeypatch.setattr(files, "available_memory", lambda: 100_000_000)
    with pytest.raises(ValueError, match=f"train.txt{suffix}: decompresses to more than 0.0 GB"):
        read_text(path)
    monkeypatch.setattr(files, "available_memory", lambda: None)
    assert files.read_bytes(path) == data


def test_a_small_parquet_file_of_very_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, np = pytest.importorskip("pyarrow"), pytest.importorskip("numpy")
    from pyarrow import parquet

    column = pyarrow.array(np.zeros(3_000_000, np.int64))
    parquet.write_table(pyarrow.table({"user": column, "item": column}), tmp_path / "t.parquet", compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000_000)
    with pytest.raises(ValueError, match=r"t\.parquet: a table of 3,000,000 rows needs about 0\.1 GB"):
        read_table(tmp_path / "t.parquet")
    monkeypatch.setattr(tables, "_ROW_BYTES", 1)
    assert read_table(tmp_path / "t.parquet").info["entries"] == 3_000_000
