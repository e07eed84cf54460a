"""What each step is meant to reach: ratios to named peers, to the floor, and absolute figures."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Target(NamedTuple):
    """A bound on one figure of a step: a peer (times faster), a floor (times the floor's time) or a
    measured figure."""

    figure: str
    sign: Literal["≥", "≤"]
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "≥" else value <= self.bound


TARGETS = {
    "propagation": (
        Target("PyG edge_index", "≥", 50),
        Target("PyG CSR", "≥", 12),
        Target("torch COO", "≥", 15),
        Target("6 gather-sums", "≤", 1.5),
    ),
    "propagation memory": (Target("N×d buffers", "≤", 4), Target("growth with layers", "≤", 0)),
    "softmax loss": (Target("autograd", "≥", 5),),
    "BPR step": (
        Target("PyG edge_index", "≥", 45),
        Target("PyG CSR", "≥", 10),
        Target("torch COO", "≥", 13),
    ),
    "negatives": (
        Target("million triples/s", "≥", 20),
        Target("PyG structured_negative_sampling", "≥", 30),
    ),
    "evaluation": (Target("implicit top-k", "≥", 1.5), Target("peak extra MB", "≤", 256)),
    "lists of all users": (Target("implicit", "≥", 1.0),),
    "adjacency": (Target("seconds", "≤", 0.3),),
    "split": (Target("DeepSnap", "≥", 100),),
    "tutorial epoch": (Target("PyG + scikit-learn", "≥", 10),),
    "table reading": (Target("polars", "≤", 1.5),),
    "MPD reading": (Target("share of bare orjson.loads", "≥", 0.70),),
    "import": (Target("import torch", "≤", 1.15),),
}
