"""What a ROC-AUC says, by the negatives that it is of, and what a ranking among sampled negatives
says.

    python -m benchmarks.link_prediction DATA [--epochs 300] [--out link_prediction.json]

DATA is anything that `lightgcn train` takes; of data with a test split of its own only train is
used, and divided .8 : .1 : .1. The `tutorial` preset is trained once with negatives that are pairs
of a user and an item, once with pairs of any two nodes as the tutorial draws them, and the best
epoch of each, by validation AUC, is tested on both kinds. Beside it stand `fast` and popularity;
all are also ranked as is often done: each test item among 100 drawn at random."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn import (
    Split,
    evaluate_links,
    evaluate_ranking,
    fit,
    link_set,
    preset,
    split_edges,
)
from lightgcn.datasets import open_dataset
from lightgcn.graph.negatives import sample_negative_items
from lightgcn.nn.link_scores import products
from lightgcn.ranking import Ranker
from lightgcn.training import Preset

SAMPLED = 100
_EDGES_AT_A_TIME = 1 << 16


def trained(split: Split, config: Preset) -> tuple[Tensor, Tensor, int]:
    """Return the users' and the items' embeddings that score on test, and the best epoch."""
    message = split.test.message
    model = config.new_model(split.val.message)
    result = fit(model, split, config, progress=True)
    ranker = Ranker.from_model(model, message)
    # Of dot products the embeddings alone, which score pairs of any two nodes as well.
    width = None if ranker.config.popularity_prior else ranker.num_columns
    return ranker.users[:, :width], ranker.items[:, :width], result.best_epoch


def sampled_hit_rate(users: Tensor, items: Tensor, split: Split, k: int = 10) -> float:
    """Return the share of test edges whose item is among the k best of it and 100 sampled non-edges
    of the user."""
    positives, hits = split.test.positives, 0
    for chosen in torch.arange(positives.num_edges).split(_EDGES_AT_A_TIME):
        who, what = positives.users[chosen], positives.items[chosen]
        drawn = sample_negative_items(split.test.exclude, who, 0, SAMPLED)
        own = products(users, items, who, what)
        others = products(users, items, who.repeat_interleave(SAMPLED), drawn.flatten()).view(
            -1, SAMPLED
        )
        hits += int(((others > own.unsqueeze(1)).sum(1) < k).sum())
    return hits / positives.num_edges


def figures(
    users: Tensor, items: Tensor, split: Split, *, any_nodes: bool = True
) -> dict[str, float]:
    """Return AUC on both kinds of negatives, recall and NDCG over all items, and the hit rate among
    sampled ones."""
    message, positives = split.test.message, split.test.positives
    found = {}
    for kind in ("user_item", "all") if any_nodes else ("user_item",):
        links = link_set(message, positives, negative_pairs=kind, seed=1)
        found[f"AUC, {kind}"] = evaluate_links(users, items, links)["roc_auc"]
    ranking = evaluate_ranking(users, items, positives, seen=message, metrics=("recall", "ndcg"))
    found |= ranking.metrics
    found[f"hit@10 of {SAMPLED} sampled"] = sampled_hit_rate(users, items, split)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=preset("tutorial").train.epochs)
    parser.add_argument("--out", default="link_prediction.json")
    arguments = parser.parse_args()

    graph = open_dataset(arguments.data).interactions
    rows: dict[str, dict[str, Any]] = {}
    for kind in ("user_item", "all"):
        config = preset("tutorial", epochs=arguments.epochs, negative_pairs=kind, eval_every=5)
        split = split_edges(
            graph, disjoint=config.train.disjoint, negative_pairs=config.train.negative_pairs
        )
        users, items, epoch = trained(split, config)
        rows[f"tutorial, trained on {kind}"] = figures(users, items, split) | {"epoch": epoch}
    split = split_edges(graph, disjoint=0.0)
    users, items, epoch = trained(split, preset("fast", item_knn=0))
    # The prior is a score of items, not of pairs of any nodes.
    rows["fast, item_knn=0"] = figures(users, items, split, any_nodes=False) | {"epoch": epoch}
    degrees = split.test.message.item_degrees.float().unsqueeze(1)
    ones = degrees.new_ones(graph.num_users, 1)
    rows["popularity"] = figures(ones, degrees, split, any_nodes=False)
    Path(arguments.out).write_text(json.dumps(rows, indent=2))
    names = list(rows["tutorial, trained on all"])
    print(f"| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for name, row in rows.items():
        cells = [f"{row[each]:.4g}" if each in row else "–" for each in names]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
