"""Reading slices in pieces and in several processes gives what one process reads as one document."""

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
from lightgcn.datasets.mpd.workers import parts_by_workers, process_count

needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of seven slices, each of several pieces."""
    folder = tmp_path_factory.mktemp("many")
    write_synthetic_mpd(
        folder, num_playlists=210, num_tracks=900, mean_length=30, slice_size=30, seed=5
    )
    return folder


def first_pid(path):
    return int(re.search(r"\d+", path.name)[0])


def assert_same(a, b):
    for name in ("edge_index", "order"):
        one, other = getattr(a.interactions, name), getattr(b.interactions, name)
        assert (one is None and other is None) or torch.equal(one, other)
    assert np.array_equal(a.interactions.user_ids, b.interactions.user_ids)
    assert a.interactions.item_ids.tolist() == b.interactions.item_ids.tolist()
    assert (a.users, a.items, a.info) == (b.users, b.items, b.info)


def compact(source, target):
    """Write the slices of a folder without line breaks: these are read as one document."""
    target.mkdir()
    for path in source.glob("*.json"):
        (target / path.name).write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))))
    return target


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_dataset(folder):
    for order in (False, True):
        alone = read_mpd(folder, processes=1, order=order)
        for processes in (2, 3, 20):
            assert_same(read_mpd(folder, processes=processes, order=order), alone)


def test_slices_in_pieces_and_as_one_document_are_the_same(folder, tmp_path):
    assert min(path.stat().st_size for path in folder.glob("*.json")) > 200_000
    pieces = read_mpd(folder, processes=1, order=True)
    whole = read_mpd(compact(folder, tmp_path / "compact"), processes=1, order=True)
    pieces.info["source"] = whole.info["source"]
    assert_same(pieces, whole)


BETWEEN = "        },\n        {"
BREAKS = {
    "truncated": lambda text: text[:-2000],
    "trailing": lambda text: text + "x",
    "bad tail": lambda text: text[:-1] + "]",
    "no comma": lambda text: text.replace(BETWEEN, "        }\n        {", 1),
    "two commas": lambda text: text.replace(BETWEEN, "        },,\n        {", 1),
    "negative pid": lambda text: re.sub(r'"pid": 7\d,', '"pid": -1,', text, count=1),
    "bad names": lambda text: re.sub(r'"track_name": "[^"]*"', '"track_name": 5', text),
    "bad artist of a track seen before": lambda text: re.sub(
        r'"artist_name": "[^"]*"', '"artist_name": []', text, count=1
    ),
    "same pid": lambda text: re.sub(r'"pid": 7\d,', '"pid": 3,', text, count=1),
    "elsewhere": lambda text: text.replace('"playlists"', '"lists"'),
}


def error_of(folder, processes):
    with pytest.raises((ValueError, OSError)) as caught:
        read_mpd(folder, processes=processes)
    return type(caught.value), str(caught.value)


def broken(folder, change):
    """Write four slices, the third changed and the fourth not JSON, and return the files."""
    files = write_synthetic_mpd(
        folder, num_playlists=120, num_tracks=900, mean_length=20, slice_size=30
    )
    text = change(files[2].read_text(encoding="utf-8"))
    files[2].write_text(text, encoding="utf-8")
    files[3].write_text("not JSON: an error of a later file")
    return files


@pytest.mark.slow
def test_errors_do_not_depend_on_the_number_of_processes(tmp_path):
    for name, change in BREAKS.items():
        broken(tmp_path / name, change)
        assert len({error_of(tmp_path / name, processes) for processes in (1, 2)}) == 1, name


def test_a_broken_slice_is_named_and_a_later_one_is_not(tmp_path):
    for name, change in BREAKS.items():
        files = broken(tmp_path / name, change)
        # A text of a track that an earlier file has is not read.
        wrong = files[3 if "seen before" in name else 2]
        assert error_of(tmp_path / name, 1)[1].startswith(f"{wrong}: "), name


def test_a_slice_that_only_looks_cut_is_read_as_json_reads_it(tmp_path):
    record = {"pid": 1, "tracks": [{"track_uri": "a"}]}
    inner = json.dumps(
        {"info": {"playlists": [record]}, "playlists": [record | {"pid": 2}]}, indent=4
    )
    twice = inner.replace('"info"', '"playlists"')
    path = tmp_path / "mpd.slice.0-999.json"
    for text in (inner, twice):
        path.write_text(text)
        pids = [playlist["pid"] for playlist in json.loads(text)["playlists"]]
        assert read_mpd(path).interactions.user_ids.tolist() == pids
    path.write_text(inner[:-2] + ', "playlist\\u0073": []}')
    with pytest.raises(ValueError, match="no playlist"):
        read_mpd(path)


@pytest.mark.slow
def test_a_file_that_vanishes_is_an_error_when_its_turn_comes(folder):
    files = [*sorted(folder.glob("*.json"))[:2], folder / "mpd.slice.9-9.json"]
    parts = parts_by_workers(files, 2, False)
    assert [next(parts)[0], next(parts)[0]] == files[:2]
    with pytest.raises(FileNotFoundError, match=re.escape(str(files[2]))):
        next(parts)


def run(folder, code, **options):
    """Start a script without a `__main__` guard, with the folder as argument."""
    script = Path(folder).parent / f"script{time.monotonic_ns()}.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


ENDLESS = """
import signal, sys
from itertools import cycle
from pathlib import Path
from lightgcn.datasets import read_mpd
from lightgcn.datasets.mpd.workers import parts_by_workers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
files = cycle(sorted(Path(sys.argv[1]).glob("*.json")))
for number, part in enumerate(parts_by_workers(files, 2, False)):
    if number == 5:
        print("reading", flush=True)
"""


def children(process):
    """Return the ids of a process's children that read slices."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def assert_gone(pids):
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@needs_proc
def test_workers_end_with_ctrl_c_and_with_a_kill_of_the_caller(folder):
    for sent in (signal.SIGINT, signal.SIGKILL):
        process = run(folder, ENDLESS, start_new_session=True)
        assert process.stdout.readline() == "reading\n"
        workers = children(process)
        assert len(workers) == 2
        # As a terminal does, Ctrl-C goes to the workers too.
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.kill()
        said = process.communicate(timeout=60)[1]
        assert_gone(workers)
        if sent == signal.SIGINT:
            assert said.count("Traceback") == 1 and said.strip().endswith("KeyboardInterrupt")


@pytest.mark.slow
@needs_proc
def test_a_worker_that_is_killed_is_an_error_that_names_a_file(folder):
    process = run(folder, ENDLESS)
    assert process.stdout.readline() == "reading\n"
    os.kill(children(process)[0], signal.SIGKILL)
    said = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert said.startswith("ChildProcessError: ") and "mpd.slice." in said
    assert process.returncode == 1


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once(folder):
    process = run(
        folder,
        "import sys\nprint('started')\nfrom lightgcn.datasets import read_mpd\n"
        "print(read_mpd(sys.argv[1], processes=2).interactions.num_users)\n"
        "print(sys.modules['__main__'].__file__ == __file__)\n",
    )
    said = process.communicate(timeout=60)
    assert process.returncode == 0, said[1]
    assert said[0].split() == ["started", "210", "True"] and said[1] == ""


@pytest.mark.slow
def test_a_process_that_may_start_none_reads_alone(folder):
    process = run(
        folder,
        "import sys, multiprocessing\nfrom lightgcn.datasets import read_mpd\n"
        "def users(path): return read_mpd(path, processes=2).interactions.num_users\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(users, sys.argv[1:]))\n",
    )
    said = process.communicate(timeout=60)
    assert said[0] == "[210]\n", said[1]


def test_the_number_of_processes(folder):
    files = list(folder.glob("*.json"))
    assert process_count(files, None) == 1  # too little to be worth a start
    assert [process_count(files, count) for count in (1, 2, 50)] == [1, 2, len(files)]
    assert process_count(iter(files), 50) == 50
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"processes .* got {wrong!r}"):
            read_mpd(folder, processes=wrong)


@pytest.mark.slow
def test_an_iterator_makes_slices_as_they_are_read(folder, tmp_path):
    files = sorted(folder.glob("*.json"), key=first_pid)
    whole = read_mpd(folder, processes=1)
    for count in (1, 2, 3):
        away = tmp_path / str(count)
        away.mkdir()
        lying = []

        def made(count=count, away=away, lying=lying):
            given = []
            for file in files:
                for old in given[: -2 * count]:
                    old.unlink(missing_ok=True)
                lying.append(len(list(away.iterdir())))
                given.append(Path(shutil.copy(file, away)))
                yield given[-1]

        read = read_mpd(made(), processes=count)
        assert read.fingerprint() == whole.fingerprint() and read.items == whole.items
        assert read.info["slices"] == len(files) > 2 * count >= max(lying)
        assert read.info["source"] == [str(away / file.name) for file in files]


def test_an_iterator_without_files_or_with_positions_is_refused(folder):
    with pytest.raises(ValueError, match="source"):
        read_mpd(iter([]))
    with pytest.raises(ValueError, match=re.escape("(0, 1)")):
        read_mpd(iter(folder.glob("*.json")), slices=(0, 1))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_mpd(iter(["nowhere.json"]), processes=1)
