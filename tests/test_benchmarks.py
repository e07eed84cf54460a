"""The benchmarks' own programs: the report of a made-up run, the GPU command on a CPU, the profile
of a small graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def made_up(step: str, **info: Any) -> dict[str, Any]:
    empty = {
        "variant": "",
        "graph": "gowalla",
        "note": "",
        "seconds": {},
        "peers": {},
        "floors": {},
        "figures": {},
    }
    return {"extra_info": empty | {"step": step, "skipped": {}, "targets": []} | info}


RUN = {
    "machine_info": {
        "cpu": "Made-up CPU",
        "cores": 2,
        "threads": 2,
        "versions": {"torch": "2.0"},
        "node": "secret",
    },
    "benchmarks": [
        made_up(
            "propagation",
            seconds={"ours": 0.02, "PyG": 1.0},
            peers={"PyG": 50.0},
            floors={"gather-sums": 1.75},
            skipped={"Other": "other is not installed"},
            targets=[
                {"figure": "PyG", "sign": "≥", "bound": 50, "value": 50.0, "met": True},
                {"figure": "gather-sums", "sign": "≤", "bound": 1.5, "value": 1.75, "met": False},
                {"figure": "Other", "sign": "≥", "bound": 2, "value": None, "met": None},
            ],
        ),
        *(
            made_up(
                "scaling",
                graph=f"{edges} edges",
                edges=edges,
                scaling={
                    "split": {"seconds": edges * 5e-8, "ns_per_edge": 50.0, "bytes_per_edge": 96.0}
                },
            )
            for edges in (1_000_000, 100_000)
        ),
        {"extra_info": {}},
    ],
}


def test_the_report_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(RUN))
    profile = {
        "graph": "gowalla",
        "epochs": 2,
        "work": ["loss"],
        "seconds": {"loss": 9.5, "other": 0.5},
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    done = run(
        "benchmarks.report",
        tmp_path / "bench.json",
        "--profile",
        tmp_path / "profile.json",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "RESULTS.md").read_text()
    # Each target is marked.
    assert "| propagation | gowalla | times faster than PyG ≥ 50 | 50 | met |" in page
    assert "| propagation | gowalla | time / gather-sums ≤ 1.5 | 1.75 | **missed** |" in page
    assert "| propagation | gowalla | times faster than Other ≥ 2 | – | not measured |" in page
    assert "Other (other is not installed)" in page
    # Scaling goes by size, and the profile's shares are there.
    small, large = (
        page.index("| split | 100,000 | 5 ms | 50.0 | 96 |"),
        page.index("| split | 1,000,000 | 50 ms |"),
    )
    assert small < large
    assert (
        "nor evaluation: 5.0% (target ≤ 10%, met)" in page and "| loss | 9.500 s | 95.0% |" in page
    )
    # The processor is named, the machine is not.
    assert "Made-up CPU, 2 cores" in page and "torch 2.0" in page
    assert "secret" not in page
    if find_spec("matplotlib") is not None:
        for name in ("ratios.png", "scaling.png"):
            assert f"({name})" in page
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_gpu_command_runs_on_a_cpu_for_a_try(tmp_path: Path) -> None:
    done = run("benchmarks.gpu", "--device", "cpu", "--quick", "--out", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert not results["skipped"] and results["copy_bytes_per_s"] > 0
    assert results["propagation"]["ours"]["relative_error"] < 1e-5
    assert results["propagation"]["torch.sparse COO"]["share_of_copy"] > 0
    for name in ("epoch_paper", "epoch_fast"):
        epoch = results[name]
        assert epoch["seconds_per_epoch"] == pytest.approx(
            epoch["seconds_per_step"] * epoch["steps"]
        )
    assert results["evaluation"]["seconds"] > 0 and results["drawing"]["negatives_per_s"] > 0

    (tmp_path / "bench.json").write_text(json.dumps(RUN))
    done = run(
        "benchmarks.report",
        tmp_path / "bench.json",
        "--gpu",
        tmp_path / "gpu.json",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "paper preset: " in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_gpu_command_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = run("benchmarks.gpu", "--out", tmp_path / "gpu.json")
    assert done.returncode == 2
    assert (
        done.stdout.startswith("no CUDA device")
        and done.stdout.count("\n") == 1
        and not done.stderr
    )
    assert not (tmp_path / "gpu.json").exists()


def test_profile_attributes_all_of_the_time() -> None:
    done = run(
        "benchmarks.profile_fast",
        "--graph",
        "synthetic",
        "--scale",
        "0.02",
        "--epochs",
        "2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)["seconds"]
    for name in ("propagation", "loss", "optimiser", "evaluation", "sampling and batches", "other"):
        assert seconds[name] > 0
