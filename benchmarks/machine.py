"""What a figure was measured on: hardware and versions, without names and paths."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "orjson",
    "torch_geometric",
    "implicit",
    "scikit-learn",
    "deepsnap",
)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return the processor, memory, accelerator and versions, as JSON values."""
    about: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if torch.device(device).type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return about


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    place = ", ".join(
        f"{word} {fields[key].strip()}"
        for word, key in (("family", "cpu family"), ("model", "model"))
        if key in fields
    )
    return f"{fields.get('model name', platform.machine()).strip()} ({place})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
