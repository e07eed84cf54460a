"""Real data: train on the Gowalla check-ins for a few epochs and report test Recall@20 once."""

from __future__ import annotations

from pathlib import Path

import pytest

import lightgcn
from lightgcn.datasets import read_text


@pytest.mark.slow
def test_a_few_epochs_on_gowalla_reach_a_useful_recall(gowalla: Path) -> None:
    dataset = read_text(gowalla)
    train = dataset.interactions
    assert dataset.test is not None
    config = lightgcn.preset("fast", epochs=4, eval_every=4, batch_size=8192)
    split = lightgcn.split_edges(train, ratios=(0.95, 0.05), disjoint=0.0, seed=0)
    model = config.new_model(split.val.message)
    result = lightgcn.fit(model, split, config)

    test = lightgcn.link_set(train, dataset.test, negatives=0)
    lightgcn.normalized_adjacency(train, config.model.normalization)
    metrics = lightgcn.evaluate(model, test)
    baseline = lightgcn.evaluate_scores(
        lightgcn.ranking.popularity(train).scores, dataset.test, seen=train
    )
    print(f"validation recall@20 {result.best_value:.4f}; test: {metrics}")
    assert metrics.num_users == 29_858
    # The whole of the preset reaches about .193, popularity alone about .04.
    assert metrics["recall@20"] > 0.18
    assert metrics["recall@20"] > 3 * baseline["recall@20"]
