"""Training: learning, choice of the best epoch, early stop, and what is refused."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from small_runs import (
    GRAPH,
    ITEMS,
    SETTINGS,
    SMALL,
    USERS,
    assert_same_bits,
    new_model,
    small_split,
    state,
    stop_after,
    trained,
    without_times,
)
from torch import Tensor

from lightgcn import (
    Interactions,
    LinkSet,
    Preset,
    Split,
    evaluate,
    evaluate_scores,
    fit,
    link_set,
    preset,
    split_edges,
)
from lightgcn.core.seeding import make_generator
from lightgcn.datasets.synthetic.generate import synthetic_interactions
from lightgcn.ranking import popularity
from lightgcn.training.batches import batch_loss, epoch_batches
from lightgcn.training.checkpoint import HISTORY_FILE
from lightgcn.training.loop import _EPOCH_STREAM

pytestmark = pytest.mark.usefixtures("one_thread")


LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "bce full": ("tutorial", {"epochs": 60, "eval_every": 5}),
    "bce batches": ("tutorial", {"epochs": 30, "batch_size": 1000, "eval_every": 5}),
    "bpr batches": ("paper", {"epochs": 40, "batch_size": 500, "learning_rate": 0.02}),
    "bpr full": ("paper", {"epochs": 40, "batch_size": None, "learning_rate": 0.05}),
    "softmax": ("fast", {"epochs": 20, "batch_size": 500, "learning_rate": 0.01}),
}
DISJOINT = {"disjoint": 0.2, "positives": "users"}
LEARNING["bpr disjoint"] = (
    "paper",
    LEARNING["bpr batches"][1] | DISJOINT | {"learnable_alpha": True},
)
LEARNING["softmax disjoint"] = (
    "fast",
    LEARNING["softmax"][1] | DISJOINT | {"normalization": "mean"},
)


@pytest.mark.parametrize("name", LEARNING)
def test_training_lowers_the_loss_and_beats_popularity(name: str) -> None:
    base, changes = LEARNING[name]
    start = {"init": "xavier"} if base == "fast" else {}
    settings = preset(base, **changes, **start, embedding_dim=16, metric="recall@10")
    graph = synthetic_interactions(200, 150, 4000, seed=1, num_tastes=5)
    split = split_edges(graph, disjoint=settings.train.disjoint, seed=2)
    model = settings.new_model(graph)
    result = fit(model, split, settings)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]
    found = evaluate(model, split.test, ks=(10,))["recall@10"]
    seen = split.test.message
    floor = evaluate_scores(popularity(seen).scores, split.test.positives, seen=seen, ks=(10,))
    assert found > 1.3 * floor["recall@10"]


def test_learnable_layer_weights_are_learned() -> None:
    settings = SETTINGS["all at once"]
    start, end = state(new_model(settings)), state(trained(settings)[0])
    assert all(not torch.equal(a, b) for a, b in zip(start, end, strict=True))


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_a_gradient_that_a_caller_holds_stays_as_it_was(loss: Any) -> None:
    """On a graph so large that its tables are used again."""
    num_users, num_items, batch = 70_000, 1000, 100
    users = torch.arange(2 * batch) * 300
    graph = Interactions.from_edge_index(
        torch.stack([users, users % num_items]), num_users, num_items
    )
    settings = Preset().changed(
        loss=loss, embedding_dim=8, num_layers=2, batch_size=batch, epochs=2, precision="float32"
    )
    model = settings.new_model(graph)
    held: list[tuple[Tensor, Tensor]] = []

    def hold(parameter: Tensor) -> None:
        assert parameter.grad is not None
        held.append((parameter.grad, parameter.grad.clone()))

    model.embedding.register_post_accumulate_grad_hook(hold)
    fit(model, split_edges(graph, (1.0,), disjoint=0.0), settings)
    assert len(held) == 4
    for gradient, copy in held:
        assert torch.equal(gradient, copy) and bool(gradient.any())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_model_is_left_with_the_best_weights(name: str, tmp_path: Path) -> None:
    settings = SETTINGS[name]
    split = small_split(settings)
    model = new_model(settings)
    seen: list[dict[str, Any]] = []
    result = fit(model, split, settings, run_dir=tmp_path, on_epoch=seen.append)
    k = int(settings.train.metric.partition("@")[2] or 0)
    found = evaluate(model, split.val, ks=(k,) if k else ())
    assert found[settings.train.metric] == result.best_value
    validated = {
        record["epoch"]: record["val"][settings.train.metric]
        for record in result.history
        if "val" in record
    }
    assert list(validated) == [2, 4]
    assert result.best_value == max(validated.values()) == validated[result.best_epoch]

    assert result.ended == "finished"
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    assert (
        seen
        == result.history
        == [orjson.loads(line) for line in (tmp_path / HISTORY_FILE).open("rb")]
    )
    assert all(record["seconds"] >= 0 for record in result.history)


def test_weights_of_an_earlier_epoch_are_brought_back() -> None:
    """A learning rate that ruins the model after its first epochs: the best is not the last."""
    changes = {"epochs": 12, "eval_every": 1, "metric": "recall@5", "learning_rate": 0.3}
    settings = preset("paper", **SMALL | changes)
    model, result = trained(settings)
    best = result.best_epoch
    assert 0 < best < 12
    assert_same_bits(
        state(model), state(trained(settings.changed(epochs=best, eval_every=best))[0])
    )


def test_better_is_lower_for_losses_and_clicks() -> None:
    changes = SMALL | {"epochs": 8, "eval_every": 1, "learning_rate": 0.3}
    for metric, best in (("loss", min), ("clicks@5", min), ("recall@5", max)):
        _, result = trained(preset("tutorial", **changes | {"metric": metric}))
        values = [record["val"][metric] for record in result.history]
        assert len(set(values)) > 1 and result.best_value == best(values)
        assert result.best_epoch == 1 + values.index(best(values))


def test_the_last_epoch_is_always_validated() -> None:
    changes = SMALL | {"epochs": 3, "eval_every": 10, "metric": "recall@5"}
    _, result = trained(preset("fast", init="xavier", **changes))
    assert [("val" in record) for record in result.history] == [False, False, True]
    assert result.best_epoch == 3


def test_without_validation_edges_all_epochs_are_run_and_the_last_weights_kept(
    tmp_path: Path,
) -> None:
    settings = preset("paper", **SMALL | {"epochs": 4, "eval_every": 1, "patience": 1})
    split = split_edges(GRAPH, (1.0,), disjoint=0.0)
    whole, result = trained(settings, split=split)
    assert (result.ended, result.best_epoch, len(result.history)) == ("finished", 0, 4)
    assert math.isnan(result.best_value) and not any("val" in record for record in result.history)
    assert not torch.equal(whole.embedding, new_model(settings).embedding)
    trained(settings, split=split, run_dir=tmp_path, should_stop=stop_after(3))
    resumed, _ = trained(settings, split=split, run_dir=tmp_path, resume=True)
    assert_same_bits(state(whole), state(resumed))


def test_early_stop_when_patience_runs_out() -> None:
    changes = {"epochs": 400, "eval_every": 2, "patience": 3, "metric": "recall@5"}
    _, result = trained(preset("paper", **SMALL | changes | {"learning_rate": 0.2}))
    assert result.ended == "early"
    assert len(result.history) == result.best_epoch + 3 * 2 < 400
    values = [record["val"]["recall@5"] for record in result.history if "val" in record]
    assert max(values[-3:]) <= result.best_value and values[-4] == result.best_value


def test_the_test_set_is_never_read() -> None:
    class Trap:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"the test set was read: {name}")

    settings = SETTINGS["paper"]
    split = small_split(settings)._replace(test=Trap())  # type: ignore[arg-type]
    assert trained(settings, split=split)[1].ended == "finished"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_seed_determines_the_bits_and_global_random_state_is_untouched(name: str) -> None:
    before = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        chosen = SETTINGS[name].changed(seed=seed)
        torch.manual_seed(len(runs))
        model, result = trained(chosen, split=small_split(chosen, seed=seed), start=7)
        runs.append((result, state(model)))
        torch.set_rng_state(before)
        trained(chosen)
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_bits(runs[0][1], runs[1][1])
    assert without_times(runs[0][0].history) == without_times(runs[1][0].history)
    assert not torch.equal(runs[0][1][-1], runs[2][1][-1])


@pytest.mark.parametrize("name", SETTINGS)
def test_two_threads_give_the_same_bits_each_time(name: str) -> None:
    torch.set_num_threads(2)
    assert_same_bits(*(state(trained(SETTINGS[name])[0]) for _ in range(2)))


def test_another_seed_draws_other_batches() -> None:
    settings = SETTINGS["paper"]
    split = small_split(settings)
    first, second = (
        trained(settings.changed(seed=seed), split=split, start=7)[0] for seed in (0, 1)
    )
    assert not torch.equal(first.embedding, second.embedding)


@pytest.mark.parametrize("name", ["tutorial", "all at once"])
def test_what_is_predicted_carries_no_messages_in_disjoint_mode(name: str) -> None:
    settings = SETTINGS[name].changed(learning_rate=1e-12, batch_size=None)
    split, model = small_split(settings), new_model(settings)
    _, result = trained(settings, split=split)
    for epoch, record in enumerate(result.history):
        links = split.train.resample(epoch)
        assert not bool(links.message.contains(links.positives.users, links.positives.items).any())
        generator = make_generator(settings.train.seed, _EPOCH_STREAM, epoch)
        (batch,) = epoch_batches(links, settings.train, generator)
        loss = batch_loss(model, model.adjacency(links.message), batch, settings.train)
        assert record["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_every_epoch_draws_anew() -> None:
    """At a learning rate too small to matter the loss changes only with what is drawn."""
    for name in ("tutorial", "paper", "fast"):
        _, result = trained(SETTINGS[name].changed(learning_rate=1e-12))
        assert len({round(record["loss"], 6) for record in result.history}) > 1, name


def test_progress_prints_nothing_if_stderr_is_not_a_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for progress in (True, False):
        trained(SETTINGS["paper"], progress=progress)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_link_sets_made_by_hand() -> None:
    """A split that the data brings: no recipe to draw train links from again."""
    parts = small_split(SETTINGS["paper"])
    train = LinkSet(parts.train.message, parts.train.positives, parts.train.negatives)
    val = link_set(parts.val.message, parts.val.positives)
    for name in ("paper", "fast", "tutorial"):
        _, result = trained(SETTINGS[name], split=Split(train, val, val))
        assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_weighted_edges() -> None:
    weights = torch.rand(GRAPH.num_edges, generator=torch.Generator().manual_seed(0)) + 0.5
    weighted = Interactions.from_edge_index(GRAPH.edge_index, USERS, ITEMS, weights=weights)
    plain, other = (
        trained(SETTINGS["paper"], split=split_edges(graph, disjoint=0.0))[1].history
        for graph in (GRAPH, weighted)
    )
    assert other[-1]["loss"] < other[0]["loss"]
    assert plain[-1]["loss"] != other[-1]["loss"]


def test_validation_of_some_users_is_that_of_their_links() -> None:
    graph = synthetic_interactions(80, 60, 1500, seed=2)
    settings = preset("paper", epochs=1, embedding_dim=8, eval_every=1, eval_users=9, seed=5)
    split = split_edges(graph, disjoint=0.0)
    model = settings.new_model(graph)
    record = fit(model, split, settings).history[0]
    some = split.val.sample_users(9, seed=5)
    expected = evaluate(model, some, metrics=("recall", "ndcg"))
    assert record["val"] == pytest.approx(expected.metrics) and expected.num_users == 9
    assert evaluate(model, split.val)["recall@20"] != pytest.approx(expected["recall@20"])


def test_a_link_metric_is_of_all_links() -> None:
    settings = preset("tutorial", epochs=1, embedding_dim=8, eval_users=1, seed=5)
    split = split_edges(GRAPH, disjoint=0.0, negatives=0.1)  # many users have no negative
    model = settings.new_model(GRAPH)
    result = fit(model, split, settings)
    assert result.best_value == evaluate(model, split.val, ks=())["roc_auc"]


def test_seconds_are_read_after_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its work took until somebody asks for a number."""
    plain = torch.Tensor.__float__

    def late(tensor: Tensor) -> float:
        time.sleep(0.3)
        return plain(tensor)

    settings = preset("paper", **SMALL | {"epochs": 1}, precision="float32")
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "__float__", late)
        _, result = trained(settings, split=split_edges(GRAPH, (1.0,), disjoint=0.0))
    assert result.history[0]["seconds"] >= 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SETTINGS)
def test_cuda_trains_and_resumes(name: str, tmp_path: Path) -> None:
    settings = SETTINGS[name]
    split = small_split(settings)
    model = new_model(settings).cuda()
    fit(model, split, settings, run_dir=tmp_path, should_stop=stop_after(1))
    result = fit(model, split, settings, run_dir=tmp_path, resume=True)
    assert result.ended == "finished" and model.embedding.is_cuda
    k = int(settings.train.metric.partition("@")[2] or 0)
    found = evaluate(model, split.val, ks=(k,) if k else ())
    assert found[settings.train.metric] == pytest.approx(result.best_value, abs=1e-3)
