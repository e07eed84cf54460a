"""What each ingredient of the `fast` or `best` preset is worth on validation: mean and spread over
seeds, as a table.

    python -m benchmarks.ablation DATA [--preset fast] [--seeds 0 1 2] [--out ablation.json]

DATA is a folder in the LightGCN format. Validation is what `lightgcn reproduce` chooses on: the end
of each user's list, as large a share of train as test is of all. The test set is not read."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from lightgcn import LightGCN, Split, evaluate, fit, preset, split_edges
from lightgcn.datasets import read_text
from lightgcn.graph.subgraph import locality_order
from lightgcn.training import Preset

METRICS = ("recall@20", "ndcg@20")
PLAIN: dict[str, Any] = {"item_knn": 0}
DOT: dict[str, Any] = {"item_knn": 0, "popularity_prior": None}
ORDERED: dict[str, Any] = {"time_decay": 2.0, "time_decay_weight": 1.0}
EASE: dict[str, Any] = {"item_knn": 64, "item_similarity": "ease"}
SPECTRAL: dict[str, Any] = {"spectral": 512, "spectral_weight": 0.01}

# By preset what is trained, by the changes to it; and of each what it is scored by, by further
# changes.
TRAINED: dict[str, dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]]] = {
    "fast": {
        "fast": ({}, {"": {}, "without neighbours": PLAIN, "and by dot products": DOT}),
        "random start (Xavier)": (
            {"init": "xavier"},
            {"": {}, "without neighbours": PLAIN, "and by dot products": DOT},
        ),
        "no layers (matrix factorisation)": (
            {"num_layers": 0},
            {"": {}, "without neighbours": PLAIN},
        ),
        "1 layer": ({"num_layers": 1}, {"": {}, "without neighbours": PLAIN}),
        "4 layers": ({"num_layers": 4}, {"": {}, "without neighbours": PLAIN}),
        "temperature .12": (
            {"temperature": 0.12, "popularity_prior": 0.11},
            {"": {}, "without neighbours": PLAIN},
        ),
        "blocks of 512": ({"block_size": 512}, {"": {}, "without neighbours": PLAIN}),
        "float32 throughout": ({"precision": "float32"}, {"": {}, "without neighbours": PLAIN}),
    },
    "best": {
        "best": (
            {},
            {
                "": {},
                "without neighbours": PLAIN,
                "with time decay": ORDERED,
                "with EASE weights": EASE,
                "with EASE weights and spectral embeddings": EASE | SPECTRAL,
            },
        ),
        "8 epochs": ({"epochs": 8}, {"": {}, "with time decay": ORDERED}),
        "2 layers": ({"num_layers": 2}, {"": {}, "with time decay": ORDERED}),
        "no layers (matrix factorisation)": (
            {"num_layers": 0},
            {"": {}, "with time decay": ORDERED},
        ),
    },
}


def scores(split: Split, model: LightGCN, config: Preset) -> dict[str, float]:
    """Return the validation metrics of a model under the scoring of some settings."""
    model.ranking = config.ranking
    found = evaluate(model, split.val, metrics=("recall", "ndcg"))
    return {name: found[name] for name in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--preset", choices=[*TRAINED], default="fast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="the preset's own")
    parser.add_argument("--out", default="ablation.json")
    arguments = parser.parse_args()

    dataset = read_text(arguments.data)
    dataset = dataset.reindex(*locality_order(dataset.interactions))
    graph = dataset.interactions
    share = (
        0.2
        if dataset.test is None
        else dataset.test.num_edges / (dataset.test.num_edges + graph.num_edges)
    )
    ratios = (1 - round(share, 2), round(share, 2))
    split = split_edges(
        graph, ratios, stratify="user", order=graph.order, disjoint=0.0, negatives=0.0
    )
    epochs = arguments.epochs or preset(arguments.preset).train.epochs
    rows: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        for name, (changes, scorings) in TRAINED[arguments.preset].items():
            # One validation, of the last epoch: what is compared is the same number of epochs.
            config = preset(
                arguments.preset, **{"seed": seed, "epochs": epochs, "eval_every": 10**6} | changes
            )
            began = time.perf_counter()
            model = config.new_model(split.val.message)
            start_seconds = time.perf_counter() - began
            result = fit(model, split, config)
            seconds = start_seconds + sum(record["seconds"] for record in result.history)
            for scoring, more in scorings.items():
                row = rows.setdefault(
                    f"{name}, {scoring}" if scoring else name, {"seconds": [], "values": []}
                )
                row["seconds"].append(seconds)
                row["values"].append(
                    scores(split, model, preset(arguments.preset, **changes | more))
                )
            print(f"seed {seed}  {seconds:6.1f} s  {name}: {rows[name]['values'][-1]}", flush=True)
    Path(arguments.out).write_text(
        json.dumps(
            {"preset": arguments.preset, "epochs": epochs, "ratios": ratios, "rows": rows}, indent=2
        )
    )
    print(f"| | {' | '.join(METRICS)} | seconds to the preset's |\n|---|---|---|---|")
    base = statistics.mean(rows[arguments.preset]["seconds"])
    for name, row in rows.items():
        cells = [_cell([values[metric] for values in row["values"]]) for metric in METRICS]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(row['seconds']) / base:.2f} |")


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    main()
