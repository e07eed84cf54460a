"""Kill -9 at random moments: what is on disk is whole, a rerun goes on, and it ends with the same
bits.

    python tests/tools/soak.py [--kills 200] [--seed 0]

Each scenario runs a command in a child process that is killed after a random part of the time that
it takes, a few times over, with a look at the folder after each; then the command may end, and what
it left is compared with what an uninterrupted one left. Checkpoints are written after every epoch
here, so that there is much to interrupt."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lightgcn import Recommender
from lightgcn.cli import main as cli
from lightgcn.core.storage import load_tensors
from lightgcn.datasets import Dataset, read_mpd, synthetic_interactions, write_synthetic_mpd
from lightgcn.experiments.run import RUN_FILES
from lightgcn.nn.model_io import load_model
from lightgcn.training import trainer as training

# Times that a command is killed before it may end.
_KILLS_IN_A_ROW = 3
_TRAIN = ["--epochs", "6", "--batch-size", "512", "--embedding-dim", "16", "--set", "eval_every=2"]


@dataclass
class Scenario:
    """A command to kill.

    Attributes:
        name: what it is called.
        command: gives the arguments, for a folder in which it may have begun.
        check: raises unless what is in the folder is whole.
        result: what an uninterrupted command must leave as well: file to bytes.
        seconds: how long it takes.
    """

    name: str
    command: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    result: Callable[[Path], dict[str, bytes]]
    seconds: float = 0.0
    expected: dict[str, bytes] = field(default_factory=dict)


def in_child(work: Callable[[], object]) -> int:
    """Run something in a child process and return its process number."""
    child = os.fork()
    if child:
        return child
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        training._CHECKPOINT_SECONDS, training._TIMES_SAVING = -1.0, 0
        code = work()
        os._exit(code if isinstance(code, int) else 0)
    except BaseException:
        os._exit(99)


def ended(child: int) -> int | None:
    """Wait for a child and return its exit code, None where it was killed."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None


def scenarios(work: Path) -> list[Scenario]:
    """Write the data that commands read and return what is to be killed."""
    write_synthetic_mpd(
        work / "mpd", num_playlists=150, num_tracks=300, mean_length=25, slice_size=50
    )
    read_mpd(work / "mpd", processes=1).save(work / "prepared")
    graph = synthetic_interactions(60, 50, 900, seed=3)
    (work / "text").mkdir()
    for name, lists in (("train", range(60)), ("test", range(60))):
        lines = []
        for user in lists:
            items = graph.items_of(user).tolist()
            part = items[: len(items) * 4 // 5] if name == "train" else items[len(items) * 4 // 5 :]
            if part:
                lines.append(" ".join(map(str, [user, *part])))
        (work / "text" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return [
        Scenario(
            "prepare",
            lambda out: ["prepare", str(work / "mpd"), str(out), "--overwrite"],
            check_dataset,
            whole,
        ),
        Scenario("train", lambda out: train_command(work / "prepared", out), check_run, learned),
        Scenario(
            "reproduce",
            lambda out: [
                "reproduce",
                str(work / "text"),
                str(out),
                *_TRAIN,
                "--set",
                "precision=float32",
            ],
            lambda out: [check_run(file.parent) for file in out.rglob("run.json")] and None,
            learned,
        ),
    ]


def train_command(data: Path, run: Path) -> list[str]:
    """Return what a person would type next: with --resume where something is there to go on
    with."""
    begun = any((run / name).exists() for name in ("checkpoint.safetensors", "model.safetensors"))
    return ["train", str(data), str(run), *_TRAIN, *(["--resume"] if begun else [])]


def check_dataset(out: Path) -> None:
    if (out / "dataset.safetensors").exists():
        Dataset.load(out)
    if (out / "dataset.json").exists():
        json.loads((out / "dataset.json").read_bytes())


def check_run(run: Path) -> None:
    """Raise unless every file of a run that is there is whole."""
    for name in RUN_FILES:
        if not (run / name).exists():
            continue
        if name.startswith("model"):
            load_model(run / name)
        elif name.startswith("recommender"):
            Recommender.load(run / name)
        elif name.startswith("checkpoint"):
            load_tensors(run / name, "checkpoint")
        elif name.endswith(".json"):
            json.loads((run / name).read_bytes())
        else:
            *lines, _ = (run / name).read_bytes().split(b"\n")
            assert [json.loads(line)["epoch"] for line in lines] == list(range(1, len(lines) + 1))


def whole(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("dataset.safetensors", "dataset.json")}


def learned(out: Path) -> dict[str, bytes]:
    """Return what was learned, and the losses and metrics on the way; not the seconds that it
    took."""
    found = {}
    for file in sorted(out.rglob("*.safetensors")):
        left_over = any(part.startswith(".") for part in file.relative_to(out).parts)
        if not file.name.startswith("checkpoint") and not left_over:
            found[str(file.relative_to(out))] = file.read_bytes()
    for file in sorted(out.rglob("history.jsonl")):
        records = [json.loads(line) for line in file.read_bytes().splitlines()]
        kept = [
            {name: value for name, value in one.ranker.items() if "seconds" not in name}
            for one in records
        ]
        found[str(file.relative_to(out))] = json.dumps(kept).encode()
    return found


def run_to_the_end(scenario: Scenario, out: Path) -> None:
    code = ended(in_child(lambda: cli.main(scenario.command(out))))
    assert code == 0, (
        f"{scenario.name} ended with {code}; LIGHTGCN_DEBUG=1 {' '.join(scenario.command(out))}"
    )


def measure(scenario: Scenario, out: Path) -> None:
    """Run a command without interruption, twice: once for what it leaves, once for how long it
    takes."""
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        run_to_the_end(scenario, out)
        scenario.seconds = time.monotonic() - began
    scenario.expected = scenario.result(out)


def kill(scenario: Scenario, out: Path, draw: random.Random, kills: int) -> int:
    """Kill a command so often, look at the folder after each time, let it end, and return how often
    it was killed."""
    killed = 0
    for _ in range(kills):
        child = in_child(lambda: cli.main(scenario.command(out)))
        time.sleep(draw.random() * scenario.seconds)
        os.kill(child, signal.SIGKILL)
        killed += ended(child) is None
        scenario.check(out)
    run_to_the_end(scenario, out)
    found = scenario.result(out)
    assert found.keys() == scenario.expected.keys(), (
        f"{scenario.name}: {found.keys() ^ scenario.expected.keys()}"
    )
    for name, data in scenario.expected.items():
        assert found[name] == data, (
            f"{scenario.name}: {name} differs from what an uninterrupted run leaves"
        )
    return killed


def save_over(work: Path, draw: random.Random, kills: int) -> int:
    """Kill a process that writes one of two datasets over the other, for ever: the file is always
    one of the two."""
    both = [
        Dataset.load(work / "prepared"),
        Dataset(synthetic_interactions(300, 200, 5000), {}, {}),
    ]
    digests = {dataset.fingerprint() for dataset in both}
    both[0].save(work / "saved")
    killed = 0

    def write() -> None:
        while True:
            for dataset in both:
                dataset.save(work / "saved")

    for _ in range(kills):
        child = in_child(write)
        time.sleep(draw.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        killed += ended(child) is None
        assert Dataset.load(work / "saved").fingerprint() in digests
    return killed


def soak(work: Path, kills: int, seed: int = 0, say: Callable[[str], None] = print) -> int:
    """Kill all scenarios, about so often in all, and return how often it was.

    Raises:
        AssertionError: if something on disk was not whole, or a rerun did not end, or with other
            bits.
    """
    torch.set_num_threads(1)  # a child is forked, and other threads are not
    draw, total = random.Random(seed), 0
    all_scenarios = scenarios(work)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        for scenario in all_scenarios:  # so that no child has to import anything
            cli.main(scenario.command(work / f"warm-{scenario.name}"))
    share = max(1, kills // (len(all_scenarios) + 1))
    for scenario in all_scenarios:
        out, killed = work / "out", 0
        measure(scenario, out)
        while killed < share:
            shutil.rmtree(out, ignore_errors=True)
            killed += kill(scenario, out, draw, min(_KILLS_IN_A_ROW, share - killed))
        say(
            f"{scenario.name}: killed {killed} times in {scenario.seconds:.2f} s of work, and "
            "ended with the same bits"
        )
        total += killed
    killed = save_over(work, draw, share)
    say(f"save: killed {killed} times, and the file was the old or the new one")
    return total + killed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"survived {soak(Path(folder), arguments.kills, arguments.seed)} kills")
    sys.exit(0)
