"""How much the host does for a device: kernel launches, and waits, of a step and of a request.

An operator counts as one launch, though a sort or a product may be several. The numbers are what
was reached; the targets are 60 launches for a step of "fast", 40 of "paper", 30 of "tutorial"."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pretend_cuda import Counts, PretendCuda

import lightgcn
from lightgcn import LightGCN, Ranker, RankingConfig, Recommender, normalized_adjacency
from lightgcn.datasets import synthetic_interactions
from lightgcn.training import loop as loop_module
from lightgcn.training.loop import TrainingLoop

GRAPH = synthetic_interactions(900, 700, 45_000, seed=1)


@dataclass
class Steps:
    """A progress bar that notes the counts after each step, and before the first."""

    counts: Counts
    marks: list[tuple[int, int]] = field(default_factory=list)

    def note(self) -> None:
        self.marks.append((self.counts.num_launches, self.counts.num_waits))

    update = note

    def of_steps(self) -> list[tuple[int, int]]:
        """Return the launches and waits of each step."""
        return [
            (after[0] - before[0], after[1] - before[1])
            for before, after in zip(self.marks, self.marks[1:], strict=False)
        ]


def run_epochs(
    cuda: PretendCuda, monkeypatch: pytest.MonkeyPatch, name: str, epochs: int = 1
) -> tuple[Steps, Counts]:
    """Return what each step counts in the last of some epochs, and the whole of it."""
    changes = {"init": "normal"} if name == "fast" else {}
    settings = lightgcn.preset(name, **changes)
    split = lightgcn.split_edges(GRAPH.to("cuda"), (0.9, 0.1), disjoint=settings.train.disjoint)
    model = settings.new_model(split.val.message).to("cuda")
    model.normalization = settings.model.normalization
    loop = TrainingLoop(model, split, settings.train, None)
    drawn = loop_module.epoch_batches
    for _ in range(epochs):
        with cuda.counted() as counts:
            steps = Steps(counts)

            def batches(*args: Any, steps: Steps = steps) -> Any:
                for batch in drawn(*args):
                    if not steps.marks:
                        steps.note()  # what follows are steps, what came before is the epoch's
                    yield batch

            monkeypatch.setattr(loop_module, "epoch_batches", batches)
            assert loop._run_epoch(None, steps)
        loop.progress.epoch += 1
        loop.progress.step = 0
    return steps, counts


@pytest.mark.parametrize(("name", "launches"), [("fast", 35), ("paper", 40), ("tutorial", 27)])
def test_a_step(
    cuda: PretendCuda, monkeypatch: pytest.MonkeyPatch, name: str, launches: int
) -> None:
    steps, counts = run_epochs(cuda, monkeypatch, name, epochs=2)
    found = steps.of_steps()
    assert found[0] == (launches, 0)
    # The last batch of an epoch may have a block that is not full, multiplied by itself.
    assert all(step[0] <= launches + 12 and step[1] == 0 for step in found)
    # One wait is for the loss of the record; further ones are for distinct negatives.
    ready = steps.marks[0][1]
    assert counts.num_waits - ready == 1
    assert ready <= (4 if name == "tutorial" else 0), counts.waits


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalization", ["mean", "symmetric", (0.3, 0.9)])
def test_the_adjacency_of_an_epoch_is_made_on_the_device(
    cuda: PretendCuda, normalization: Any, weighted: bool
) -> None:
    graph = GRAPH
    if weighted:
        graph = lightgcn.Interactions(
            GRAPH.users, GRAPH.items, 900, 700, torch.rand(GRAPH.num_edges).add_(0.1)
        )
    there = graph.to("cuda")
    with cuda.counted() as counts:
        found = normalized_adjacency(there, normalization)
        chosen = torch.zeros(there.num_edges, dtype=torch.bool, device="cuda")
        chosen[:100] = True
        positives, message = there.divide(chosen, 100)
        normalized_adjacency(message, normalization)
    assert counts.num_waits == 0, counts.waits
    assert positives.num_edges == 100 and message.num_edges == graph.num_edges - 100
    expected = normalized_adjacency(graph, normalization)
    for name in ("row_ends", "columns"):
        here = getattr(expected.pattern, name)
        assert getattr(found.pattern, name).cpu().equal(here) and here.dtype == torch.int32
    torch.testing.assert_close(found.to("cpu").to_dense(), expected.to_dense())
    torch.testing.assert_close(found.matrix(torch.float32).to_dense().cpu(), expected.to_dense())


CONFIGS = {
    "plain": RankingConfig(),
    "cosines": RankingConfig(popularity_prior=0.1),
    "item kNN": RankingConfig(popularity_prior=0.1, item_knn=20),
}


@pytest.mark.parametrize(("name", "waits"), [("plain", 3), ("cosines", 3), ("item kNN", 6)])
def test_a_request(cuda: PretendCuda, name: str, waits: int) -> None:
    model = LightGCN(900, 700, 16, normalization="symmetric").to("cuda").eval()
    model.ranking = CONFIGS[name]
    recommender = Recommender(model, GRAPH.to("cuda"))
    recommender.recommend(1, 10)
    with cuda.counted() as counts:
        recommender.recommend(2, 10)
    assert counts.num_waits <= waits, counts.waits
    with cuda.counted() as counts:
        recommender.recommend([2, 3, 4], 10)
    assert counts.num_waits <= waits, counts.waits


@pytest.mark.parametrize("name", CONFIGS)
def test_a_validation_copies_no_table(cuda: PretendCuda, name: str) -> None:
    split = lightgcn.split_edges(GRAPH.to("cuda"), (0.8, 0.1, 0.1))
    model = LightGCN(900, 700, 64, normalization="symmetric").to("cuda").eval()
    model.ranking = CONFIGS[name]
    ranker = Ranker.from_model(model, split.val.message)
    ranker.top_k(20)  # what is kept with the graph
    with cuda.counted() as counts:
        ranker.top_k(20)
        ranker.score_pairs(*split.val.edges)
    # The marks of users to rank again, and the numbers of all users.
    assert counts.bytes_to_cpu <= 9 * 900 + 100
    with cuda.counted() as counts:
        lightgcn.evaluate(model, split.val)
    graph_bytes = 8 * split.val.message.num_edges
    built_once = 3 * graph_bytes if name == "item kNN" else 0
    assert counts.bytes_to_cpu < 64 * 900 + built_once < model.embedding.nbytes + built_once


def test_sums_of_the_same_operators() -> None:
    assert Counts(Counter({"mm": 2, "add": 1})).num_launches == 3
