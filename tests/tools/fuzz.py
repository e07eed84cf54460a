"""Feed every reader with files that are wrong in every way: a result, or an error that names the
file; nothing else.

    python tests/tools/fuzz.py [--inputs 100000] [--target mpd …] [--seed 0]

Inputs are made from valid files by cutting, repeating, exchanging and overwriting bytes, by putting
hostile values in the place of others (huge numbers, NaN, deep nesting, broken UTF-8, NUL), and for
safetensors files by changing the header and the tensors. Each is read in a child process that may
use so much memory and so many seconds and no more; a crash, a hang, another exception or an error
that does not name the file ends the run with the input that did it. Where a second, naive reader is
at hand, what was read is compared with what that finds."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch

from lightgcn import LightGCN, Recommender, preset
from lightgcn.challenge import (
    make_challenge,
    read_challenge_set,
    read_holdouts,
    read_submission,
    write_challenge_set,
    write_holdouts,
    write_submission,
)
from lightgcn.cli import main as cli
from lightgcn.datasets import Dataset, read_mpd, read_table, read_text, write_synthetic_mpd
from lightgcn.experiments.run import RunConfig
from lightgcn.nn.model_io import load_model, save_model
from lightgcn.training import save_preset
from lightgcn.training.checkpoint import read_history

SECONDS, MEMORY = 20, 3 << 30
Read = Callable[[Path], Any]

HOSTILE = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-0",
    b"1e-400",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"4294967296",
    b"2147483648",
    b"1" * 400,
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'"',
    b"\\",
    b"\\ud800",
    b'"\\ud800"',
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"[" * 2000,
    b'{"a":' * 500,
    b",",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"-1",
    b"0.5",
    b"'",
    b"\xe2\x80\xa8",
    b"1_000",
    b"\xd9\xa3",
    b"0x10",
    b"#",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e300,
    "",
    "x",
    "\x00",
    "\n",
    "🎵",
    "spotify:track:x",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    "a" * 5000,
    list(range(50)),
)


@dataclass(frozen=True)
class Target:
    """A reader, valid files for it, and what a naive reader says of a file, where there is one."""

    name: str
    file: str
    seeds: list[bytes]
    read: Read
    naive: Callable[[bytes], Any] | None = None
    summary: Callable[[Any], Any] | None = None


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a file that is wrong somewhere, or, now and then, still right."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.choice((1, 2, 8, 64, 1000)))
        kind = draw.randrange(8)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            del content[at:end]
        elif kind == 2 and at < len(content):
            content[at] = draw.randrange(256)
        elif kind == 3 and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 4:
            content[at:at] = draw.choice(HOSTILE)
        elif kind == 5:
            content[at:end] = draw.choice(HOSTILE)
        elif kind == 6:
            content[at:at] = content[at:end]
        elif content:
            other = draw.randrange(len(content))
            content[at:end] = content[other : other + end - at]
    return bytes(content)


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """Return JSON with other values in some places, which a change of bytes seldom leaves valid."""
    try:
        document = json.loads(data)
    except ValueError:
        return mutated(data, draw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        document = _changed(document, draw)
    text = json.dumps(document, indent=draw.choice((None, 4)), ensure_ascii=draw.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.randrange(10)
        if kind == 0:
            return {name: one for name, one in value.items() if name != key}
        if kind == 1:
            return value | {draw.choice(("", "x", key + "s")): draw.choice(VALUES)}
        return value | {key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        kind = draw.randrange(10)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def mutated_tensors(data: bytes, draw: random.Random) -> bytes:
    """Return a safetensors file with another header, or other bytes in its tensors."""
    size = struct.unpack("<Q", data[:8])[0]
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return mutated(data, draw)
    body = bytearray(data[8 + size :])
    kind = draw.randrange(4)
    if kind == 0:
        stamp = json.loads(header["__metadata__"]["lightgcn"])
        header["__metadata__"]["lightgcn"] = json.dumps(_changed(stamp, draw))
    elif kind == 1:
        header = _changed(header, draw)
    elif kind == 2 and body:
        for _ in range(draw.choice((1, 4, 32))):
            at = draw.randrange(len(body))
            hostile = draw.choice(
                (b"\xff" * 8, b"\x00" * 8, struct.pack("<f", float("nan")), struct.pack("<q", -1))
            )
            body[at : at + len(hostile)] = hostile[: len(body) - at]
    else:
        names = [name for name in header if name != "__metadata__"]
        one, other = draw.choice(names), draw.choice(names)
        header[one], header[other] = header[other], header[one]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def made(target: Target, draw: random.Random) -> bytes:
    data = draw.choice(target.seeds)
    if data[:2] in (b"{\n", b'{"') and draw.random() < 0.6:
        return mutated_json(data, draw)
    if target.file.endswith(".safetensors") and draw.random() < 0.8:
        return mutated_tensors(data, draw)
    return mutated(data, draw)


def targets(work: Path) -> list[Target]:
    """Write valid files and return what is to be fed."""
    write_synthetic_mpd(work / "mpd", num_playlists=6, num_tracks=20, mean_length=4, slice_size=3)
    write_synthetic_mpd(
        work / "compact", num_playlists=4, num_tracks=9, mean_length=3, slice_size=2, indent=False
    )
    slices = [
        path.read_bytes()
        for folder in ("mpd", "compact")
        for path in sorted((work / folder).glob("*.json"))
    ]
    dataset = read_mpd(work / "mpd", order=True, processes=1)
    dataset.save(work / "prepared")
    write_synthetic_mpd(
        work / "long", num_playlists=80, num_tracks=2000, mean_length=150, slice_size=80
    )
    challenge = make_challenge(read_mpd(work / "long", order=True, processes=1), 10)
    write_challenge_set(work / "set.json", challenge.playlists)
    write_holdouts(work / "holdouts.json", challenge)
    write_submission(
        work / "s.csv",
        {playlist.pid: ["spotify:track:a", "b"] for playlist in challenge.playlists},
        "a",
        "b",
    )
    graph = dataset.interactions
    model = LightGCN(graph.num_users, graph.num_items, 4, 2)
    model.ranking = preset("best", item_knn=3).ranking
    save_model(work / "model.safetensors", model)
    recommender = Recommender(model, graph, user_columns=dataset.users, item_columns=dataset.items)
    recommender.save(work / "recommender.safetensors")
    options = ["--epochs", "2", "--batch-size", "4", "--embedding-dim", "4", "--metric", "recall@2"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert (
            cli.main(
                ["train", str(work / "prepared"), str(work / "run"), *options, "--negatives", "0.5"]
            )
            == 0
        )
    save_preset(work / "preset.json", preset("best"))
    csv = b'user,item,plays,name\r\na,x,1,"one, two"\r\nb,y,2.5,\xc3\xbc\r\na,y,1e3,three\r\n'

    def file(name: str) -> bytes:
        return (work / name).read_bytes()

    return [
        Target(
            "mpd",
            "mpd.slice.0-999.json",
            slices,
            lambda path: read_mpd(path, processes=1),
            naive_mpd,
            mpd_summary,
        ),
        Target(
            "mpd-order",
            "x.json",
            slices,
            lambda path: read_mpd(path, order=True),
            naive_mpd,
            mpd_summary,
        ),
        Target(
            "mpd-lenient", "y.json", slices, lambda path: read_mpd(path, skip_bad=True, processes=1)
        ),
        Target(
            "text",
            "train.txt",
            [b"0 1 2\n1 0\n2\n3 5 5 1\n", b"0\t3\r\n7 1"],
            read_text,
            naive_text,
            text_summary,
        ),
        Target(
            "csv",
            "plays.csv",
            [csv, b"user,item\n1,2\n"],
            _table("plays"),
            naive_csv,
            table_summary,
        ),
        Target("tsv", "plays.tsv", [csv.replace(b",", b"\t")], _table("plays")),
        Target("parquet", "plays.parquet", _parquets(work), _table("plays")),
        Target(
            "dataset",
            "dataset.safetensors",
            [file("prepared/dataset.safetensors")],
            lambda path: Dataset.load(path.parent),
        ),
        Target(
            "recommender", "recommender.safetensors", [file("recommender.safetensors")], _recommend
        ),
        Target("model", "model.safetensors", [file("model.safetensors")], load_model),
        Target(
            "checkpoint",
            "checkpoint.safetensors",
            [file("run/checkpoint.safetensors")],
            _resume(work, options),
        ),
        Target("run", "run.json", [file("run/run.json")], lambda path: RunConfig.load(path.parent)),
        Target(
            "history",
            "history.jsonl",
            [file("run/history.jsonl")],
            lambda path: read_history(path.parent),
        ),
        Target("preset", "preset.json", [file("preset.json")], preset),
        Target(
            "challenge set",
            "set.json",
            [file("set.json")[:4000], file("set.json")],
            read_challenge_set,
        ),
        Target("holdouts", "holdouts.json", [file("holdouts.json")], read_holdouts),
        Target("submission", "s.csv", [file("s.csv")], read_submission),
    ]


def _table(weight: str) -> Read:
    def read(path: Path) -> Dataset:
        header = path.read_bytes()[:200]
        packed = path.suffix == ".parquet"
        return read_table(
            path,
            user="user",
            item="item",
            weight=weight if weight.encode() in header or packed else None,
            separator=None if packed else {".csv": ",", ".tsv": "\t"}[path.suffix],
        )

    return read


def _parquets(work: Path) -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    tables = [
        pyarrow.table({"user": [1, 2, 1], "item": ["a", "b", "b"], "plays": [1.0, 2.0, 3.0]}),
        pyarrow.table({"user": ["a", None], "item": [5, 6], "plays": [1, 2]}),
    ]
    for number, table in enumerate(tables):
        parquet.write_table(
            table, work / f"{number}.parquet", compression="none" if number else "snappy"
        )
    return [(work / f"{number}.parquet").read_bytes() for number in range(len(tables))]


def _recommend(path: Path) -> Any:
    recommender = Recommender.load(path)
    if recommender.seen.num_users and recommender.seen.num_items:
        user = recommender.seen.user_ids[0] if recommender.seen.user_ids is not None else 0
        return recommender.recommend(user, 1)
    return None


def _resume(work: Path, options: list[str]) -> Read:
    """Return what goes on with a run whose checkpoint is the file, in a process of its own that
    ends so or so."""
    from lightgcn.experiments.train import train_run

    dataset = Dataset.load(work / "prepared")
    config = RunConfig.load(work / "run")

    def read(path: Path) -> Any:
        return train_run(dataset, config, path.parent, resume=True)

    return read


def naive_mpd(data: bytes) -> Any:
    """Return each playlist's pid and distinct tracks, by the plainest code there is."""
    document = orjson.loads(data)
    return [
        (one["pid"], len({track["track_uri"] for track in one["tracks"]}))
        for one in document["playlists"]
    ]


def mpd_summary(dataset: Dataset) -> Any:
    graph = dataset.interactions
    assert graph.user_ids is not None
    return list(zip(graph.user_ids.tolist(), graph.user_degrees.tolist(), strict=True))


def naive_text(data: bytes) -> Any:
    pairs = set()
    for line in re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf")):
        user, *items = [int(token) for token in line.split()] or [None]
        pairs |= {(user, item) for item in items}
    return sorted(pairs)


def text_summary(dataset: Dataset) -> Any:
    return [tuple(pair) for pair in dataset.interactions.edge_index.T.tolist()]


def naive_csv(data: bytes) -> Any:
    import csv

    text = data.decode("utf-8-sig")
    return len(
        {(row["user"], row["item"]) for row in csv.DictReader(io.StringIO(text, newline=""))}
    )


def table_summary(dataset: Dataset) -> Any:
    return dataset.interactions.num_edges


class Failure(Exception):
    """An input did something else than give a result or a named error."""


def feed(target: Target, folder: Path, data: bytes) -> str:
    """Read one input and return "result" or "refused"; anything else raises."""
    path = folder / target.file
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = target.read(path)
    except (ValueError, OSError, Warning) as error:
        if target.file not in str(error) and str(folder) not in str(error):
            raise Failure(f"{type(error).__name__} that does not name the file: {error}") from error
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if target.naive is not None and target.summary is not None:
        expected = target.naive(data)
        if target.summary(found) != expected:
            raise Failure(f"read as {target.summary(found)!r:.300}, and is {expected!r:.300}")
    return "result"


def _hang(*_: Any) -> None:
    raise Failure(f"took more than {SECONDS} seconds")


def _child(target: Target, folder: Path, seed: int, inputs: int, report: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _in_use(), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _hang)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    for number in range(inputs):
        data = made(target, random.Random(f"{target.name} {seed + number}"))
        try:
            counts[feed(target, folder, data)] += 1
        except BaseException:
            (folder / "failed").write_bytes(data)
            where = f"{target.name}, input {seed + number}, kept in {folder / 'failed'}"
            text = f"{where}\n{traceback.format_exc()}"
            os.write(report, text.encode("utf-8", "replace")[:60_000])
            os._exit(1)
    os.write(report, json.dumps(counts).encode())
    os._exit(0)


def _in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(target: Target, folder: Path, inputs: int, seed: int = 0) -> Counter[str]:
    """Feed a target with so many inputs, in a process of its own, and return how many gave a result
    or were refused.

    Raises:
        Failure: with what an input did, and where it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        _child(target, folder, seed, inputs, send)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        file = folder / target.file
        raise Failure(
            f"{target.name}: the process died of signal {os.WTERMSIG(status)} over {file}"
        )
    if os.WEXITSTATUS(status):
        raise Failure(said)
    return Counter(json.loads(said))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--target", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work, failed = Path(tempfile.mkdtemp()), 0
    for target in targets(work):
        if arguments.target and target.name not in arguments.target:
            continue
        began = time.monotonic()
        try:
            counts = fuzz(target, work / "fed" / target.name, arguments.inputs, arguments.seed)
        except Failure as failure:
            failed += 1
            print(failure, flush=True)
            continue
        seconds = time.monotonic() - began
        print(
            f"{target.name:<16}{arguments.inputs:>9,} inputs {dict(counts)} in {seconds:.0f} s",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
