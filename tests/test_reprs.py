"""What a notebook and an interactive session show of the objects people look at."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from lightgcn import (
    Evaluation,
    Interactions,
    LightGCN,
    Recommendation,
    evaluate,
    fit,
    preset,
    split_edges,
)
from lightgcn.datasets import Dataset, synthetic_interactions
from lightgcn.training import TrainResult

SPLIT = split_edges(synthetic_interactions(60, 40, 600))


@pytest.fixture(scope="module")
def result() -> TrainResult:
    settings = preset("paper", epochs=30, batch_size=64, embedding_dim=4, eval_every=3)
    return fit(settings.new_model(SPLIT.val.message), SPLIT, settings)


def cells(html: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Reader().feed(html)
    return found


def test_an_evaluation() -> None:
    links = evaluate(LightGCN(60, 40, 4), SPLIT.test, ks=())
    assert "0 users" not in repr(links) and "not ranked" in repr(links)
    assert f"{links.num_links:,} links" in repr(links)
    ranked = evaluate(LightGCN(60, 40, 4), SPLIT.test, per_user=True)
    assert "not ranked" not in repr(ranked) and f"{ranked.num_users} users" in repr(ranked)
    assert f"recall@20 {ranked['recall@20']:.4f}" in repr(ranked) and "\n" not in repr(ranked)
    shown = cells(ranked._repr_html_())
    assert shown[shown.index("recall@20") + 1] == f"{ranked['recall@20']:.4f}"
    assert len(shown) == 3 + 2 * len(ranked.metrics)
    assert repr(ranked.per_user).startswith(f"PerUser({ranked.num_users} users")


def test_text_in_a_table_is_escaped() -> None:
    html = Evaluation({"<script>": 1.0}, num_users=1)._repr_html_()
    assert "<script>" not in html and "<script>" in cells(html)


def test_a_training_result(result: TrainResult) -> None:
    best = result.history[result.best_epoch - 1]["val"]
    text = repr(result)
    assert len(text) < 250 and "\n" not in text
    for part in ("30 epochs", result.ended, f"best epoch {result.best_epoch}"):
        assert part in text
    assert f"recall@20 {best['recall@20']:.4f}" in text
    shown = cells(result._repr_html_())
    assert f"{best['recall@20']:.4f}" in shown and str(result.best_epoch) in shown


def test_a_training_result_without_validation() -> None:
    split = split_edges(synthetic_interactions(60, 40, 600), (1.0,))
    settings = preset("paper", epochs=2, batch_size=64, embedding_dim=4)
    done = fit(settings.new_model(split.val.message), split, settings)
    assert "best" not in repr(done) and "2 epochs" in repr(done)
    assert "2 epochs" in done._repr_html_()


def test_a_recommendation_is_one_short_line() -> None:
    track = Recommendation("t7", 7, 0.912345, {"name": "Airbag", "artist": "Radiohead"})
    assert repr(track) == "Recommendation('t7', 0.9123, 'Airbag by Radiohead')"
    assert repr(Recommendation(7, 7, 0.5, {})) == "Recommendation(7, 0.5000)"


def test_data() -> None:
    graph = Interactions([0, 1], [0, 0], 2, 1)
    dataset = Dataset(graph, {}, {"name": ["Airbag"]}, test=Interactions([0], [0], 2, 1))
    for part in ("2 users", "1 items", "2 edges", "1 test edges", "name"):
        assert part in repr(dataset)
    for shown in (SPLIT, SPLIT.test, graph, dataset):
        assert len(repr(shown)) < 300 and "tensor" not in repr(shown)
