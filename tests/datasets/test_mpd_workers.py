import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lightgcn.datasets import read_mpd, write_synthetic_mpd
from lightgcn.datasets.mpd import slice_reader, workers
from lightgcn.datasets.mpd.workers import parts_by_workers, process_count


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write_synthetic_mpd(
        folder, num_playlists=210, num_tracks=900, mean_length=30, slice_size=30, seed=5
    )
    return folder


def assert_same(a, b):
    assert torch.equal(a.interactions.edge_index, b.interactions.edge_index)
    assert np.array_equal(a.interactions.user_ids, b.interactions.user_ids)
    assert a.interactions.item_ids.tolist() == b.interactions.item_ids.tolist()
    assert (a.users, a.items, a.info) == (b.users, b.items, b.info)


def whole(monkeypatch):
    """Let no slice be cut, so that each is parsed as one document."""
    monkeypatch.setattr(slice_reader, "OPENING", re.compile(rb"(?!)"))


def error_of(folder, processes):
    with pytest.raises((ValueError, OSError)) as caught:
        read_mpd(folder, processes=processes)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("processes", [2, 3, 20])
def test_processes_change_nothing(folder, processes):
    assert_same(read_mpd(folder, processes=processes), read_mpd(folder, processes=1))


def test_pieces_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(slice_reader, "PIECE", 20_000)
    in_pieces = read_mpd(folder, processes=1)
    whole(monkeypatch)
    assert_same(in_pieces, read_mpd(folder, processes=1))


BREAKS = {
    "truncated": lambda text: text[:-2000],
    "trailing": lambda text: text + "x",
    "bad tail": lambda text: text[:-1] + "]",
    "no comma": lambda text: text.replace("        },\n        {", "        }\n        {", 1),
    "two commas": lambda text: text.replace("        },\n        {", "        },,\n        {", 1),
    "negative pid": lambda text: re.sub(r'"pid": 7\d,', '"pid": -1,', text, count=1),
    "bad names": lambda text: re.sub(r'"track_name": "[^"]*"', '"track_name": 5', text),
    "bad artist, seen before": lambda text: re.sub(
        r'"artist_name": "[^"]*"', '"artist_name": []', text, count=1
    ),
    "same pid": lambda text: re.sub(r'"pid": 7\d,', '"pid": 3,', text, count=1),
    "elsewhere": lambda text: text.replace('"playlists"', '"lists"'),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS.keys())
def test_errors_are_those_of_one_document_in_one_process(tmp_path, monkeypatch, change):
    files = write_synthetic_mpd(
        tmp_path, num_playlists=120, num_tracks=900, mean_length=20, slice_size=30
    )
    files[2].write_text(change(files[2].read_text(encoding="utf-8")), encoding="utf-8")
    files[3].write_text("not JSON: an error of a later file")
    monkeypatch.setattr(slice_reader, "PIECE", 20_000)
    found = [error_of(tmp_path, processes) for processes in (1, 2, 4)]
    whole(monkeypatch)
    assert set(found) == {error_of(tmp_path, 1)}
    # A bad name of a track that an earlier file has is passed over, by one process and by many.
    assert found[0][1].startswith(
        f"{files[3 if change is BREAKS['bad artist, seen before'] else 2]}: "
    )


def test_a_slice_that_only_looks_cut_is_read_as_it_is(tmp_path):
    record = {"pid": 1, "tracks": [{"track_uri": "a"}]}
    inner = json.dumps(
        {"info": {"playlists": [record]}, "playlists": [record | {"pid": 2}]}, indent=4
    )
    twice = inner.replace('"info"', '"playlists"')
    for text in (inner, twice, inner[:-2] + ', "playlist\\u0073": []}'):
        path = tmp_path / "mpd.slice.0-999.json"
        path.write_text(text)
        playlists = json.loads(text)["playlists"]
        part = slice_reader.Reader().read(path)
        assert part.pids.tolist() == [playlist["pid"] for playlist in playlists]


def test_a_missing_file_is_the_same_error_in_a_worker(folder):
    files = [*sorted(folder.glob("*.json"))[:2], folder / "mpd.slice.9-9.json"]
    with (
        parts_by_workers(files, 2) as parts,
        pytest.raises(FileNotFoundError, match=re.escape(str(files[2]))),
    ):
        list(parts)


def test_a_worker_that_dies_is_named_with_its_signal(folder, monkeypatch):
    started = workers._Worker.read

    def read(self, path):
        self.process.kill()
        return started(self, path)

    monkeypatch.setattr(workers._Worker, "read", read)
    with pytest.raises(
        ChildProcessError, match=r"mpd\.slice\.0-29\.json: .* was killed by SIGKILL"
    ):
        read_mpd(folder, processes=2)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_the_workers(folder):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom lightgcn.datasets.mpd.workers "
        "import parts_by_workers\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        f"files = sorted(Path({str(folder)!r}).glob('*.json'))\n"
        "with parts_by_workers(files * 5000, 2) as parts:\n"
        "    for number, part in enumerate(parts):\n"
        "        if number == 3: print('reading', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"reading\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1].decode()
    assert said.count("Traceback") == 1 and said.strip().endswith("KeyboardInterrupt")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_workers_end_with_the_process_that_started_them(folder):
    worker = workers._Worker()
    worker.read(next(folder.glob("*.json")))
    worker.requests.close()
    deadline = time.monotonic() + 10
    while worker.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.process.returncode == 0
    worker.stop()


def test_how_many_processes(folder, monkeypatch):
    files = sorted(folder.glob("*.json"))
    assert process_count(files, None) == 1  # too little to be worth a start
    monkeypatch.setattr(workers, "WORTH", 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert process_count(files, None) == min(cores, 8, len(files))
    assert [process_count(files, count) for count in (1, 2, 50)] == [1, 2, len(files)]
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="processes must be a positive integer"):
            process_count(files, wrong)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_iterator_of_slices_that_are_made_as_they_are_read(folder, tmp_path, count):
    files = sorted(
        folder.glob("*.json"), key=lambda path: int(path.name.split(".")[2].split("-")[0])
    )
    away = tmp_path / "made"
    away.mkdir()
    most = 0

    def made():
        nonlocal most
        given = []
        for file in files:
            for old in given[: -2 * count]:
                old.unlink(missing_ok=True)
            most = max(most, len(list(away.iterdir())))
            given.append(Path(shutil.copy(file, away)))
            yield given[-1]

    read = read_mpd(made(), processes=count)
    whole = read_mpd(folder, processes=1)
    assert read.fingerprint() == whole.fingerprint() and read.items == whole.items
    assert read.info["slices"] == len(files) > 2 * count and most <= 2 * count
    assert read.info["source"] == [str(away / file.name) for file in files]


def test_an_iterator_is_refused_where_it_gives_nothing_or_positions_are_asked_of_it(folder):
    with pytest.raises(ValueError, match="no file given; the iterator has none"):
        read_mpd(iter([]))
    with pytest.raises(
        ValueError, match="slices are positions in a list, and source is an iterator"
    ):
        read_mpd(iter(folder.glob("*.json")), slices=(0, 1))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_mpd(iter(["nowhere.json"]), processes=1)
