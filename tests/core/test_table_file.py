"""Tables in files: every format, chunk by chunk, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightgcn.core.table_file import SUFFIXES, write_table

TEXTS = ["plain", 'a "quote", comma', "line\nbreak", "", "-x", "Björk"]


def chunks() -> list[dict[str, Any]]:
    """Two chunks of rows, and an empty one between them."""
    table = {
        "id": np.arange(6),
        "text": np.array(TEXTS, dtype=object),
        "score": np.linspace(0.1, 1, 6, dtype=np.float32),
    }
    return [
        {name: values[rows] for name, values in table.items()}
        for rows in (slice(4), slice(0), slice(4, 6))
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back(suffix: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "deep" / f"table{suffix}"
    assert write_table(path, iter(chunks())) == 6
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert list(rows[0]) == ["id", "text", "score"]
        frame = pandas.DataFrame(rows)
    elif suffix == ".parquet":
        frame = pandas.read_parquet(path)
        assert frame["score"].dtype == np.float32 and frame["id"].dtype == np.int64
    else:
        frame = pandas.read_csv(path, keep_default_na=False)
        assert (path.read_bytes()[:2] == b"\x1f\x8b") == suffix.endswith(".gz")
        if suffix.endswith(".gz"):
            assert gzip.decompress(path.read_bytes()).endswith(b"\n")
    assert frame["id"].tolist() == list(range(6)) and frame["text"].tolist() == TEXTS
    np.testing.assert_allclose(frame["score"], np.linspace(0.1, 1, 6), rtol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"

    def failing() -> Iterator[dict[str, Any]]:
        yield chunks()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, failing())
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(ValueError, match="exists already"):
        write_table(path, chunks())
    with pytest.raises(KeyboardInterrupt):
        write_table(path, failing(), overwrite=True)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_chunk_is_gone_when_the_next_one_is_made(tmp_path: Path) -> None:
    made: list[weakref.ref[Any]] = []

    def counted() -> Iterator[dict[str, Any]]:
        for number in range(20):
            # The first and the current one may be held.
            assert sum(column() is not None for column in made) <= 2
            column = np.full(100, number)
            made.append(weakref.ref(column))
            yield {"value": column}
            del column

    assert write_table(tmp_path / "table.jsonl", counted()) == 2000
