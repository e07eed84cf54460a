"""Turn benchmark runs into a page of tables and pictures.

    python -m benchmarks.report bench.json [more.json …] [--gpu gpu.json] [--profile profile.json]
    [--out FOLDER]

Writes RESULTS.md, and where matplotlib is installed ratios.png and scaling.png, into
``benchmarks/`` or another folder. Several files are read as parts of one run; of a step that is in
two, the later counts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.targets import TARGETS

Record = dict[str, Any]
MARKS = {True: "met", False: "**missed**", None: "not measured"}
SCALING_NOTES = Path(__file__).with_name("SCALING.md")


def read_runs(files: Iterable[Path]) -> tuple[dict[str, Any], list[Record]]:
    """Return the machine, and what each benchmark recorded, in the order of the targets."""
    machine: dict[str, Any] = {}
    records: dict[tuple[str, ...], Record] = {}
    for file in files:
        run = json.loads(file.read_text())
        machine = run["machine_info"]
        for benchmark in run["benchmarks"]:
            info = benchmark["extra_info"]
            if "step" in info:
                records[info["step"], info["variant"], info["graph"]] = info
    order = list(TARGETS)
    place = {step: order.index(step) if step in order else len(order) for step, _, _ in records}
    return machine, sorted(records.values(), key=lambda info: place[info["step"]])


def results_page(machine: dict[str, Any], records: Sequence[Record], pictures: bool) -> str:
    """Return the page in Markdown."""
    steps = [record for record in records if record["step"] != "scaling"]
    scaling = sorted(
        (record for record in records if record["step"] == "scaling"),
        key=lambda record: record["edges"],
    )
    parts = [
        "# Results",
        "Written by `python -m benchmarks.report` from a run of `pytest benchmarks`. Medians; ours "
        "and the others took "
        "turns within a test. A figure holds for this machine, a ratio for more.",
        machine_lines(machine),
        "## Targets",
        targets_table(steps),
        "## Ratios",
        "Peers: their time divided by ours, so that 10 is ten times faster. Floors: our time "
        "divided by that of the "
        "least work that the step could be, so that 1 is the best there is.",
    ]
    if pictures and any(record["peers"] for record in steps):
        parts.append("![Times faster than each peer](ratios.png)")
    parts.append(ratios_table(steps))
    notes = {record["step"]: record["note"] for record in reversed(steps) if record["note"]}
    if notes:
        parts.append("\n".join(f"- {step}: {note}" for step, note in reversed(notes.items())))
    skipped = {name: why for record in steps for name, why in record["skipped"].items()}
    if skipped:
        parts.append(
            "Not measured: "
            + "; ".join(f"{name} ({why})" for name, why in sorted(skipped.items()))
            + "."
        )
    if scaling:
        parts += [
            "## Scaling",
            "Graphs of the Million Playlist Dataset's shape, d 64, 3 layers, one size a process.",
        ]
        if pictures:
            parts.append("![Time and memory per edge](scaling.png)")
        parts.append(scaling_table(scaling))
        if SCALING_NOTES.exists():
            parts.append(SCALING_NOTES.read_text().strip())
    return "\n\n".join(parts) + "\n"


def machine_lines(machine: dict[str, Any]) -> str:
    """Return what the run was measured on."""
    versions = ", ".join(
        f"{name} {version}" for name, version in machine.get("versions", {}).items()
    )
    return (
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores')} cores, "
        f"{machine.get('threads')} threads, "
        f"{machine.get('instructions')}, {machine.get('memory_gib')} GiB of memory; "
        f"{machine.get('system')}, "
        f"Python {machine.get('python')}; {versions}."
    )


def targets_table(records: Sequence[Record]) -> str:
    """Return a row per step, graph and target: the bound, what was measured, met or missed."""
    rows = [
        (
            named(record),
            record["graph"],
            f"{what(target, record)} {target['sign']} {number(target['bound'])}",
            number(target["value"]),
            MARKS[target["met"]],
        )
        for record in records
        for target in record["targets"]
    ]
    return table(("step", "graph", "target", "measured", ""), rows)


def what(target: Record, record: Record) -> str:
    """Say what a target's number is."""
    if target["figure"] in record["floors"]:
        return f"time / {target['figure']}"
    return (
        target["figure"]
        if target["figure"] in record["figures"]
        else f"times faster than {target['figure']}"
    )


def ratios_table(records: Sequence[Record]) -> str:
    """Return a row per step and graph: the time, ratios to peers and floors, and further
    figures."""
    rows = []
    for record in records:
        seconds = record["seconds"].get("ours")
        figures = {name: value for name, value in record["figures"].items() if name != "seconds"}
        cells = [_list(record[kind], suffix) for kind, suffix in (("peers", "×"), ("floors", "×"))]
        rows.append((named(record), record["graph"], duration(seconds), *cells, _list(figures, "")))
    return table(("step", "graph", "ours", "faster than", "of the floor", "figures"), rows)


def scaling_table(records: Sequence[Record]) -> str:
    """Return a row per step and number of edges: time and memory, and both per edge."""
    rows = [
        (
            name,
            f"{record['edges']:,}",
            duration(values["seconds"]),
            f"{values['ns_per_edge']:.1f}",
            f"{values['bytes_per_edge']:.0f}",
        )
        for name in records[0]["scaling"]
        for record in records
        for values in [record["scaling"][name]]
    ]
    return table(("step", "edges", "time", "ns per edge", "peak extra bytes per edge"), rows)


def gpu_section(results: dict[str, Any]) -> str:
    """Return the figures of `benchmarks.gpu` as a section."""
    machine, graph = results["machine"], results["graph"]
    rows = []
    for name, values in results.get("propagation", {}).items():
        if "failed" in values:
            rows.append((name, f"failed: {values['failed']}", "", ""))
        else:
            share = f"{values['share_of_copy']:.2f}"
            rows.append(
                (name, duration(values["seconds"]), f"{values['bytes_per_s'] / 1e9:.0f}", share)
            )
    lines = [
        f"{name} preset: {values['seconds_per_epoch']:.2f} s an epoch "
        f"({duration(values['seconds_per_step'])} a step)"
        for name in ("paper", "fast")
        if (values := results.get(f"epoch_{name}"))
    ]
    if "evaluation" in results:
        lines.append(f"evaluation of all users: {duration(results['evaluation']['seconds'])}")
    if "drawing" in results:
        drawing = results["drawing"]
        lines.append(
            f"split: {drawing['split_edges_per_s'] / 1e6:.1f} million edges/s; "
            f"negatives: {drawing['negatives_per_s'] / 1e6:.0f} million/s"
        )
    return "\n\n".join(
        [
            f"## {machine.get('gpu', results['device'])}",
            f"{graph['name']}, {graph['edges']:,} edges; torch {machine['versions']['torch']}, "
            f"CUDA {machine.get('cuda')}; copy {results['copy_bytes_per_s'] / 1e9:.0f} GB/s.",
            table(
                ("propagation, 3 layers, forward + backward", "time", "GB/s", "share of copy"), rows
            ),
            "\n".join(f"- {line}" for line in lines),
        ]
    )


def profile_section(profile: dict[str, Any]) -> str:
    """Return where the seconds of the fast preset go."""
    total = sum(profile["seconds"].values())
    rows = [
        (name, f"{value:.3f} s", f"{value / total:.1%}")
        for name, value in profile["seconds"].items()
    ]
    rest = sum(value for name, value in profile["seconds"].items() if name not in profile["work"])
    return "\n\n".join(
        [
            "## Where the seconds go",
            f"`python -m benchmarks.profile_fast`: {profile['epochs']} epochs of the `fast` preset "
            "on "
            f"{profile['graph']}, {total:.2f} s. Neither propagation, loss nor evaluation: "
            f"{rest / total:.1%} (target ≤ 10%, {MARKS[rest / total <= 0.1]}).",
            table(("part", "time", "share"), rows),
        ]
    )


def named(record: Record) -> str:
    return f"{record['step']}, {record['variant']}" if record["variant"] else record["step"]


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _list(values: dict[str, float], suffix: str) -> str:
    return "<br>".join(f"{name} {number(value)}{suffix}" for name, value in values.items()) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="JSON files of pytest --benchmark-json")
    parser.add_argument("--gpu", type=Path, help="JSON file of benchmarks.gpu")
    parser.add_argument("--profile", type=Path, help="JSON file of benchmarks.profile_fast --json")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    arguments = parser.parse_args()
    machine, records = read_runs(arguments.runs)
    pictures = find_spec("matplotlib") is not None
    page = results_page(machine, records, pictures)
    if arguments.profile:
        page += "\n" + profile_section(json.loads(arguments.profile.read_text())) + "\n"
    if arguments.gpu:
        page += "\n" + gpu_section(json.loads(arguments.gpu.read_text())) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "RESULTS.md").write_text(page)
    if pictures:
        from benchmarks.pictures import draw

        draw(records, arguments.out)
    print(
        f"wrote {arguments.out / 'RESULTS.md'}"
        + ("" if pictures else "; no pictures: matplotlib is not installed")
    )


if __name__ == "__main__":
    main()
