"""The command line as a user runs it: processes, Ctrl-C, terminals, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_runs import FAST, lightgcn

from lightgcn.nn.model_io import load_model

pytestmark = pytest.mark.slow


def test_mpd_files_to_recommendations_as_subprocesses(slices: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "prepared", tmp_path / "run"
    prepared = json.loads(lightgcn("prepare", slices, out, "--largest-component", "--json").stdout)
    assert prepared["info"]["playlists"] == 300 and prepared["steps"][-1]["edges"] > 1000
    trained = json.loads(lightgcn("train", out, run, *FAST, "--json").stdout)
    assert trained["epochs"] <= 12 and trained["best"]["val"]["recall@20"] > 0
    metrics = json.loads(lightgcn("evaluate", run, "--k", 5, 20, "--json").stdout)
    assert (
        metrics["lightgcn"]["metrics"]["recall@20"] > metrics["popularity"]["metrics"]["recall@20"]
    )
    assert metrics["lightgcn"]["metrics"]["roc_auc"] > 0.5
    assert json.loads((run / "test.json").read_text()) == metrics

    playlists = [
        p for path in sorted(slices.iterdir()) for p in json.loads(path.read_text())["playlists"]
    ]
    known = next(playlist for playlist in playlists if len(playlist["tracks"]) > 10)
    tracks = json.loads(
        lightgcn("recommend", run, "--user", known["pid"], "-k", 7, "--json").stdout
    )
    assert len(tracks) == 7 and all(
        track["columns"]["name"] and track["columns"]["artist"] for track in tracks
    )
    assert not {track["id"] for track in tracks} & {track["track_uri"] for track in known["tracks"]}
    some = known["tracks"][:5]
    given = [some[0]["track_uri"], f"{some[1]['track_name']} by {some[1]['artist_name']}"]
    new = json.loads(lightgcn("recommend", run, "--items", *given, "--json").stdout)
    assert len(new) == 10 and not {track["id"] for track in new} & {
        track["track_uri"] for track in some[:2]
    }
    text = lightgcn("recommend", run, "--similar", some[0]["track_uri"], "-k", 3).stdout
    assert text.count(" by ") == 4  # the heading has the item's name too


def test_ctrl_c_saves_and_resume_ends_with_the_same_bits(prepared: Path, tmp_path: Path) -> None:
    settings = ["--preset", "paper", "--epochs", "30", "--batch-size", "128"]
    settings += ["--set", "eval_every=5"]
    lightgcn("train", prepared, tmp_path / "whole", *settings)
    command = [sys.executable, "-m", "lightgcn", "train", prepared, tmp_path / "cut", *settings]
    process = subprocess.Popen(
        map(str, command), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    history = tmp_path / "cut" / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        history.exists() and history.read_bytes().count(b"\n") >= 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "saved to" in err and "--resume" in err
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    done = len(history.read_text().splitlines())
    assert 3 <= done < 30

    lightgcn("train", prepared, tmp_path / "cut", "--resume")
    whole, cut = (load_model(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert torch.equal(whole.embedding, cut.embedding)
    assert len(history.read_text().splitlines()) == 30


def test_ctrl_c_in_tune_names_the_best_so_far_and_the_same_command_goes_on(
    prepared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    small = ["--embedding-dim", 8, "--epochs", 4, "--batch-size", 512]
    command = ["tune", prepared, out, "--minutes", 1, *small]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightgcn", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "preset.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert str(out / "preset.json") in err
    again = lightgcn("tune", prepared, out, "--trials", 1, *small, "--json")
    assert len(json.loads(again.stdout)["trials"]) > 1


def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(own_run: Path) -> None:
    evaluate, closed = ["evaluate", own_run], 141
    for command, codes in (
        (evaluate, {closed}),
        ([*evaluate, "--json"], {closed}),
        (["train", "--help"], {0, closed}),  # argparse may ignore a closed pipe
        ([], {2, closed}),
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "lightgcn", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=120) in codes, command


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_progress_bar(prepared: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "lightgcn", "train", prepared, tmp_path / "run", *FAST]
    process = subprocess.Popen(map(str, command), stderr=child, stdout=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait(timeout=120) == 0
    assert b"train" in shown and b"step" in shown and b"recall@20" in shown
