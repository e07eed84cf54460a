"""Pictures of a run: ratios to peers as bars, time and memory per edge as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#555555",
)
MARKERS = "os^Dv"


def draw(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write ratios.png and scaling.png, each where there is something to draw, and return them."""
    written = []
    bars = _bars(records)
    if bars:
        written.append(_save(_ratios(bars), folder / "ratios.png"))
    scaling = sorted(
        (record for record in records if record["step"] == "scaling"),
        key=lambda record: record["edges"],
    )
    if scaling:
        written.append(_save(_scaling(scaling), folder / "scaling.png"))
    return written


def _bars(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, float, float | None]]:
    """Return (step, peer, ratio, target), of Gowalla where a step was measured on two graphs."""
    on_gowalla = {
        (record["step"], record["variant"]) for record in records if record["graph"] == "gowalla"
    }
    bars = []
    for record in records:
        if (record["step"], record["variant"]) in on_gowalla and record["graph"] != "gowalla":
            continue
        name = ", ".join(filter(None, (record["step"], record["variant"].removeprefix("also: "))))
        targets = {target["figure"]: target["bound"] for target in record["targets"]}
        bars += [(name, peer, ratio, targets.get(peer)) for peer, ratio in record["peers"].items()]
    return bars


def _ratios(bars: Sequence[tuple[str, str, float, float | None]]) -> Any:
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.34 * len(bars)), layout="constrained")
    places, place, previous = [], 0.0, None
    for step, *_ in bars:
        place += 1.0 if step == previous else 1.7
        previous = step
        places.append(place)
    axes.barh(places, [ratio for *_, ratio, _ in bars], height=0.72, color=BLUE, label="measured")
    for y, (_, _, ratio, target) in zip(places, bars, strict=True):
        missed = target is not None and ratio < target
        axes.annotate(
            f"{ratio:.3g}×",
            (max(ratio, target or 0), y),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=GREY,
            fontsize=9,
            fontweight="bold" if missed else "normal",
        )
    goals = [
        (target, y) for y, (*_, target) in zip(places, bars, strict=True) if target is not None
    ]
    if goals:
        bounds, heights = zip(*goals, strict=True)
        axes.scatter(
            bounds,
            heights,
            marker="|",
            s=230,
            linewidths=2.5,
            color=ORANGE,
            label="target",
            zorder=3,
        )
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(
        min(0.8, *(0.8 * ratio for *_, ratio, _ in bars)),
        2.2 * max(max(r, t or 0) for *_, r, t in bars),
    )
    axes.set_yticks(places, [f"vs {peer}" for _, peer, *_ in bars], fontsize=9)
    axes.invert_yaxis()
    previous = None
    for y, (step, *_) in zip(places, bars, strict=True):
        if step != previous:
            axes.annotate(
                step,
                (0, y - 0.78),
                (4, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                fontsize=9,
                fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        previous = step
    axes.set_ylim(places[-1] + 0.7, places[0] - 1.3)
    axes.set_xlabel("times faster than the peer (log scale)")
    axes.set_title(
        "How many times faster each step is, measured side by side (bold: target missed)",
        loc="left",
        fontsize=11,
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=True, fontsize=9)
    return figure


def _scaling(records: Sequence[dict[str, Any]]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    edges = [record["edges"] for record in records]
    for name, color, marker in zip(
        records[0]["scaling"], (BLUE, ORANGE, GREEN, SKY, PURPLE), MARKERS, strict=False
    ):
        for axes, key in ((left, "ns_per_edge"), (right, "bytes_per_edge")):
            values = [record["scaling"][name][key] for record in records]
            axes.plot(edges, values, color=color, marker=marker, linewidth=2, label=name)
    for axes, title in ((left, "nanoseconds per edge"), (right, "peak extra bytes per edge")):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("edges")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.8)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    return figure


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
