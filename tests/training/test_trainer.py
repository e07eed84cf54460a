"""Training: learning, choice of the best epoch, early stop, resume to the bit, and what is
refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import (
    Interactions,
    LightGCN,
    LinkSet,
    Split,
    TrainConfig,
    TrainResult,
    evaluate,
    evaluate_ranking,
    fit,
    link_set,
    normalized_adjacency,
    popularity,
    preset,
    split_edges,
)
from lightgcn.core.buffer_pool import BufferPool
from lightgcn.core.seeding import make_generator
from lightgcn.datasets.synthetic.generate import synthetic_interactions
from lightgcn.graph import adjacency as adjacency_module
from lightgcn.training import batches
from lightgcn.training.batches import Batch, batch_loss, epoch_batches, num_steps
from lightgcn.training.trainer import _EPOCH_STREAM, CHECKPOINT_FILE, HISTORY_FILE

USERS, ITEMS = 60, 45
SMALL: dict[str, Any] = {"embedding_dim": 8, "epochs": 4, "eval_every": 2, "patience": None}
CONFIGS = {
    "tutorial": preset("tutorial", **SMALL),
    "paper": preset(
        "paper", **SMALL | {"batch_size": 150, "metric": "recall@5", "num_negatives": 2}
    ),
    "fast": preset(
        "fast", init="xavier", **SMALL | {"batch_size": 150, "metric": "ndcg@5", "block_size": 64}
    ),
    "all at once": TrainConfig(
        **SMALL,
        loss="bpr",
        learnable_alpha=True,
        positives="users",
        disjoint=0.3,
        batch_size=100,
        metric="recall@5",
        weight_decay=1e-4,
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def small_split(config: TrainConfig, seed: int = 0, **settings: Any) -> Split:
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)
    chosen = {"disjoint": config.disjoint, "negative_pairs": config.negative_pairs} | settings
    return split_edges(graph, (0.7, 0.15, 0.15), seed=seed, **chosen)


def new_model(config: TrainConfig, **changes: Any) -> LightGCN:
    model = config.new_model(USERS, ITEMS)
    if changes:
        model.reset_parameters(**changes)
    return model


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if "seconds" not in key} for record in history
    ]


def stop_after(steps: int) -> Callable[[], bool]:
    left = iter([False] * steps)
    return lambda: next(left, True)


def state(model: LightGCN) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        preset("tutorial", epochs=60, embedding_dim=16, metric="recall@10", eval_every=5),
        preset(
            "tutorial",
            epochs=30,
            embedding_dim=16,
            batch_size=1000,
            metric="recall@10",
            eval_every=5,
        ),
        preset(
            "paper",
            epochs=40,
            embedding_dim=16,
            batch_size=500,
            learning_rate=0.02,
            metric="recall@10",
        ),
        preset(
            "paper",
            epochs=40,
            embedding_dim=16,
            batch_size=None,
            learning_rate=0.05,
            metric="recall@10",
        ),
        preset(
            "fast",
            init="xavier",
            epochs=20,
            embedding_dim=16,
            batch_size=500,
            learning_rate=0.01,
            metric="recall@10",
        ),
        preset(
            "paper",
            epochs=40,
            embedding_dim=16,
            batch_size=500,
            learning_rate=0.02,
            metric="recall@10",
            disjoint=0.2,
            positives="users",
            learnable_alpha=True,
        ),
        preset(
            "fast",
            init="xavier",
            epochs=20,
            embedding_dim=16,
            batch_size=500,
            learning_rate=0.01,
            metric="recall@10",
            disjoint=0.2,
            positives="users",
            normalization="mean",
        ),
    ],
    ids=[
        "bce full",
        "bce batches",
        "bpr batches",
        "bpr full",
        "softmax",
        "bpr disjoint",
        "softmax disjoint",
    ],
)
def test_training_lowers_the_loss_and_beats_popularity(config: TrainConfig) -> None:
    graph = synthetic_interactions(200, 150, 4000, seed=1, num_tastes=5)
    split = split_edges(graph, disjoint=config.disjoint, seed=2)
    model = config.new_model(200, 150)
    result = fit(model, split, config)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]

    adjacency = normalized_adjacency(split.test.message, config.normalization)
    found = evaluate(model, adjacency, split.test, ks=(10,))["recall@10"]
    floor = evaluate_ranking(
        *popularity(split.test.message), split.test.positives, seen=split.test.message, ks=(10,)
    )["recall@10"]
    assert found > 1.3 * floor


def test_learnable_layer_weights_are_learned() -> None:
    config = CONFIGS["all at once"]
    model = new_model(config)
    start = state(model)
    fit(model, small_split(config), config)
    assert all(not torch.equal(a, b) for a, b in zip(start, state(model), strict=True))


@pytest.mark.parametrize("name", ["fast", "paper", "tutorial"])
@pytest.mark.parametrize("learnable_alpha", [False, True])
def test_a_large_graph_is_trained_in_tables_that_are_used_again(
    name: str, learnable_alpha: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it were large; the tables are those of an epoch, and gone with it."""
    config = preset(
        name, epochs=3, embedding_dim=40, learnable_alpha=learnable_alpha, precision="float32"
    )
    if name != "tutorial":
        config = replace(config, batch_size=100, eval_every=2)
    config = replace(config, init="normal")
    straight, blocks = new_model(config), new_model(config)
    history = fit(straight, small_split(config), config).history
    monkeypatch.setattr(adjacency_module, "BLOCK_ROWS", 16)
    take, used_again = BufferPool.take, []

    def watch(tables: BufferPool, shape: tuple[int, int], *which: Any) -> Tensor:
        if tables.keep and shape == tuple(blocks.embedding.shape):
            used_again.append(any(table.shape == blocks.embedding.shape for table in tables.spare))
        return take(tables, shape, *which)

    monkeypatch.setattr(BufferPool, "take", watch)
    result = fit(blocks, small_split(config), config)
    assert [record["loss"] for record in result.history] == pytest.approx(
        [record["loss"] for record in history]
    )
    torch.testing.assert_close(state(blocks), state(straight), rtol=1e-4, atol=1e-5)
    steps = num_steps(small_split(config).train, config) * config.epochs
    if (
        name == "tutorial" or learnable_alpha
    ):  # where a step looks at all rows, it is in nobody's tables
        assert not used_again
    else:  # but for the first of each epoch, a gradient is made in the place of the last one
        assert len(used_again) == steps and sum(used_again) == steps - config.epochs


def dense_bpr(
    table: Tensor, dense: Tensor, batch: Batch, config: TrainConfig, num_layers: int
) -> Tensor:
    layers = [table]
    for _ in range(num_layers):
        layers.append(dense @ layers[-1])
    z = torch.stack(layers).mean(0)
    assert batch.negatives is not None
    total = table.new_zeros(())
    penalty = table.new_zeros(())
    for left, right, negatives in zip(batch.left, batch.right, batch.negatives, strict=True):
        penalty = penalty + table[left].square().sum() + table[right].square().sum()
        for negative in negatives:
            difference = z[left] @ z[right] - z[left] @ z[negative]
            total = total - torch.log(torch.sigmoid(difference)) / len(negatives)
            penalty = penalty + table[negative].square().sum()
    return total / len(batch.left) + config.l2 * penalty / 2 / len(batch.left)


@pytest.mark.parametrize("normalization", ["mean", "symmetric"])
def test_bpr_step_equals_a_dense_reference(normalization: Any) -> None:
    config = TrainConfig(
        normalization=normalization, embedding_dim=6, l2=0.3, num_negatives=2, batch_size=40
    )
    split = small_split(config)
    model = new_model(config).double()
    batch = next(epoch_batches(split.train, config, torch.Generator().manual_seed(0)))
    assert batch.negatives is not None and batch.negatives.shape == (40, 2)
    assert int(batch.right.min()) >= USERS and int(batch.negatives.min()) >= USERS
    adjacency = normalized_adjacency(split.train.message, normalization)
    loss = batch_loss(model, adjacency, batch, config)
    loss.backward()

    table = model.embedding.detach().clone().requires_grad_()
    dense = normalized_adjacency(split.train.message, normalization, dtype=torch.float64).to_dense()
    expected = dense_bpr(table, dense, batch, config, 3)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.embedding.grad, table.grad, rtol=1e-9, atol=1e-12)


def test_bce_step_equals_a_dense_reference() -> None:
    config = preset("tutorial", l2=0.1, negative_pairs="all")
    split = small_split(config)
    model = new_model(config).double()
    (batch,) = epoch_batches(split.train, config, torch.Generator())
    assert batch.labels is not None and len(batch.left) == split.train.edges.shape[1]
    loss = batch_loss(model, normalized_adjacency(split.train.message, "mean"), batch, config)
    z = model.propagate(normalized_adjacency(split.train.message, "mean"))
    scores = torch.stack([z[a] @ z[b] for a, b in zip(batch.left, batch.right, strict=True)])
    expected = F.binary_cross_entropy(scores.sigmoid(), batch.labels.double())
    rows = model.embedding[torch.cat([batch.left, batch.right])]
    torch.testing.assert_close(loss, expected + 0.1 * rows.square().sum() / 2 / len(batch.left))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_epoch_goes_through_every_positive(name: str) -> None:
    config = CONFIGS[name]
    links = small_split(config).train
    batches = list(epoch_batches(links, config, torch.Generator().manual_seed(0)))
    pairs = torch.cat([torch.stack([batch.left, batch.right]) for batch in batches], dim=1)
    size = config.batch_size or pairs.shape[1]
    assert [len(batch.left) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    if config.loss == "bce":
        expected = links.edges + torch.tensor([[0], [USERS]])
    else:
        expected = links.positives.edge_index + torch.tensor([[0], [USERS]])
    assert pairs.shape == expected.shape
    if config.positives == "edges":
        assert sorted(pairs.T.tolist()) == sorted(expected.T.tolist())
    else:
        assert bool(links.positives.contains(pairs[0], pairs[1] - USERS).all())
        assert int(torch.bincount(pairs[0]).max()) < int(links.positives.user_degrees.max()) + 10
    for batch in batches:
        if batch.negatives is not None:
            users = batch.left.unsqueeze(1).expand_as(batch.negatives).reshape(-1)
            assert not bool(
                links.exclude.contains(users, batch.negatives.reshape(-1) - USERS).any()
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_is_left_with_the_best_weights(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    split = small_split(config)
    model = new_model(config)
    seen: list[dict[str, Any]] = []
    result = fit(model, split, config, run_dir=tmp_path, on_epoch=seen.append)
    k = int(config.metric.partition("@")[2] or 0)
    adjacency = normalized_adjacency(split.val.message, config.normalization)
    found = evaluate(
        model, adjacency, split.val, ks=(k,) if k else (), **config.scoring(split.val.message)
    )
    assert found[config.metric] == result.best_value
    validated = {
        record["epoch"]: record["val"][config.metric]
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
    """A learning rate that ruins the model after its first epochs: the best epoch is not the
    last."""
    config = preset(
        "paper",
        **SMALL | {"epochs": 12, "eval_every": 1, "metric": "recall@5", "learning_rate": 0.3},
    )
    split = small_split(config)
    model = new_model(config)
    result = fit(model, split, config)
    assert 0 < result.best_epoch < 12
    short = new_model(config)
    fit(
        short,
        split,
        preset(
            "paper",
            **SMALL
            | {
                "epochs": result.best_epoch,
                "eval_every": result.best_epoch,
                "metric": "recall@5",
                "learning_rate": 0.3,
            },
        ),
    )
    assert_same_bits(state(model), state(short))


@pytest.mark.parametrize(("metric", "best"), [("loss", min), ("clicks@5", min), ("recall@5", max)])
def test_better_is_lower_for_losses_and_clicks(
    metric: str, best: Callable[[list[float]], float]
) -> None:
    config = preset(
        "tutorial", **SMALL | {"epochs": 8, "eval_every": 1, "metric": metric, "learning_rate": 0.3}
    )
    result = fit(new_model(config), small_split(config), config)
    values = [record["val"][metric] for record in result.history]
    assert len(set(values)) > 1
    assert result.best_value == best(values) and result.best_epoch == 1 + values.index(best(values))


def test_the_last_epoch_is_always_validated() -> None:
    config = preset(
        "fast", init="xavier", **SMALL | {"epochs": 3, "eval_every": 10, "metric": "recall@5"}
    )
    result = fit(new_model(config), small_split(config), config)
    assert [("val" in record) for record in result.history] == [
        False,
        False,
        True,
    ] and result.best_epoch == 3


def test_without_validation_edges_all_epochs_are_run_and_the_last_weights_kept(
    tmp_path: Path,
) -> None:
    config = preset("paper", **SMALL | {"epochs": 4, "eval_every": 1, "patience": 1})
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)
    split = split_edges(graph, (1.0,), disjoint=0.0)
    whole, stopped, resumed = new_model(config), new_model(config), new_model(config)
    result = fit(whole, split, config)
    assert (result.ended, result.best_epoch, len(result.history)) == ("finished", 0, 4)
    assert math.isnan(result.best_value) and not any("val" in record for record in result.history)
    assert not torch.equal(whole.embedding, new_model(config).embedding)
    fit(stopped, split, config, run_dir=tmp_path, should_stop=stop_after(3))
    fit(resumed, split, config, run_dir=tmp_path, resume=True)
    assert_same_bits(state(whole), state(resumed))


def test_early_stop_when_patience_runs_out() -> None:
    config = preset(
        "paper",
        **SMALL
        | {
            "epochs": 400,
            "eval_every": 2,
            "patience": 3,
            "metric": "recall@5",
            "learning_rate": 0.2,
        },
    )
    result = fit(new_model(config), small_split(config), config)
    assert result.ended == "early"
    assert len(result.history) == result.best_epoch + 3 * 2 < 400
    values = [record["val"]["recall@5"] for record in result.history if "val" in record]
    assert max(values[-3:]) <= result.best_value and values[-4] == result.best_value


def test_the_test_set_is_never_read() -> None:
    class Trap:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"the test set was read: {name}")

    config = CONFIGS["paper"]
    split = small_split(config)._replace(test=Trap())  # type: ignore[arg-type]
    assert fit(new_model(config), split, config).ended == "finished"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_seed_determines_the_bits_and_global_random_state_is_untouched(name: str) -> None:
    config = CONFIGS[name]
    before = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        chosen = TrainConfig(**{**vars(config), "seed": seed})
        model = new_model(chosen, seed=7)
        torch.manual_seed(len(runs))
        runs.append((fit(model, small_split(chosen, seed=seed), chosen), state(model)))
        torch.set_rng_state(before)
        fit(new_model(chosen), small_split(chosen), chosen)
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_bits(runs[0][1], runs[1][1])
    assert without_times(runs[0][0].history) == without_times(runs[1][0].history)
    assert not torch.equal(runs[0][1][-1], runs[2][1][-1])


@pytest.mark.parametrize("name", CONFIGS)
def test_two_threads_give_the_same_bits_each_time(name: str) -> None:
    torch.set_num_threads(2)
    config = CONFIGS[name]
    runs = []
    for _ in range(2):
        model = new_model(config)
        fit(model, small_split(config), config)
        runs.append(state(model))
    assert_same_bits(*runs)


def test_another_seed_draws_other_batches() -> None:
    split = small_split(CONFIGS["paper"])
    models = []
    for seed in (0, 1):
        config = TrainConfig(**{**vars(CONFIGS["paper"]), "seed": seed})
        models.append(new_model(config, seed=7))
        fit(models[-1], split, config)
    assert not torch.equal(models[0].embedding, models[1].embedding)


@pytest.mark.parametrize("name", ["tutorial", "all at once"])
def test_what_is_predicted_carries_no_messages_in_disjoint_mode(name: str) -> None:
    config = TrainConfig(**{**vars(CONFIGS[name]), "learning_rate": 1e-12, "batch_size": None})
    split = small_split(config)
    history = fit(new_model(config), split, config).history
    for epoch, record in enumerate(history):
        links = split.train.resample(epoch)
        assert not bool(links.message.contains(links.positives.users, links.positives.items).any())
        adjacency = normalized_adjacency(links.message, config.normalization)
        generator = make_generator(config.seed, _EPOCH_STREAM, epoch)
        (batch,) = epoch_batches(links, config, generator)
        loss = batch_loss(new_model(config), adjacency, batch, config).detach()
        assert record["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_every_epoch_draws_anew() -> None:
    """At a learning rate too small to matter the loss changes only with what is drawn."""
    for name in ("tutorial", "paper", "fast"):
        config = TrainConfig(**{**vars(CONFIGS[name]), "learning_rate": 1e-12})
        history = fit(new_model(config), small_split(config), config).history
        assert len({round(record["loss"], 6) for record in history}) > 1, name


def test_progress_prints_nothing_where_stderr_is_no_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = CONFIGS["paper"]
    fit(new_model(config), small_split(config), config, progress=True)
    fit(new_model(config), small_split(config), config)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_link_sets_made_by_hand() -> None:
    """A split that the data brings: no recipe to draw train links from again."""
    parts = small_split(CONFIGS["paper"])
    train = LinkSet(parts.train.message, parts.train.positives, parts.train.negatives)
    val = link_set(parts.val.message, parts.val.positives)
    for name in ("paper", "fast", "tutorial"):
        config = CONFIGS[name]
        result = fit(new_model(config), Split(train, val, val), config)
        assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_weighted_edges() -> None:
    graph = synthetic_interactions(USERS, ITEMS, 700, seed=1, num_tastes=3)
    weights = torch.rand(700, generator=torch.Generator().manual_seed(0)) + 0.5
    weighted = Interactions.from_edge_index(graph.edge_index, USERS, ITEMS, weights=weights)
    config = CONFIGS["paper"]
    runs = []
    for given in (graph, weighted):
        model = new_model(config)
        runs.append(fit(model, split_edges(given, disjoint=0.0), config).history)
    assert runs[1][-1]["loss"] < runs[1][0]["loss"]
    assert runs[0][-1]["loss"] != runs[1][-1]["loss"]


# Steps per epoch of each of CONFIGS on `small_split`: 1, 4, 4, 2.
STOPS = {
    "tutorial": (0, 1, 2, 3),
    "paper": (0, 1, 4, 6, 8, 15),
    "fast": (2, 4, 11),
    "all at once": (1, 2, 5),
}


@pytest.mark.parametrize(
    ("name", "steps"), [(name, steps) for name, stops in STOPS.items() for steps in stops]
)
def test_a_resumed_run_equals_the_uninterrupted_one(name: str, steps: int, tmp_path: Path) -> None:
    config = CONFIGS[name]
    whole = new_model(config)
    expected = fit(whole, small_split(config), config)

    stopped = new_model(config)
    first = fit(
        stopped, small_split(config), config, run_dir=tmp_path, should_stop=stop_after(steps)
    )
    assert first.ended == "interrupted"
    # The start of the model that goes on does not matter: the checkpoint holds all of it.
    model = new_model(config, seed=99)
    result = fit(model, small_split(config), config, run_dir=tmp_path, resume=True)
    assert_resumed(model, result, whole, expected, tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_interrupted_at_every_step_equals_the_uninterrupted_one(
    name: str, tmp_path: Path
) -> None:
    config = CONFIGS[name]
    whole = new_model(config)
    expected = fit(whole, small_split(config), config)
    rounds = 0
    while True:
        model = new_model(config, seed=99) if rounds else new_model(config)
        result = fit(
            model,
            small_split(config),
            config,
            run_dir=tmp_path,
            resume=True,
            should_stop=stop_after(1),
        )
        rounds += 1
        if result.ended != "interrupted":
            break
    assert rounds == {"tutorial": 4, "paper": 16, "fast": 16, "all at once": 8}[name]
    assert_resumed(model, result, whole, expected, tmp_path)


def assert_resumed(
    model: LightGCN, result: TrainResult, whole: LightGCN, expected: TrainResult, folder: Path
) -> None:
    assert_same_bits(state(model), state(whole))
    assert without_times(result.history) == without_times(expected.history)
    assert (result.best_epoch, result.best_value, result.ended) == (
        expected.best_epoch,
        expected.best_value,
        expected.ended,
    )
    assert [orjson.loads(line) for line in (folder / HISTORY_FILE).open("rb")] == result.history


def test_an_interrupted_model_holds_the_weights_of_its_last_step(tmp_path: Path) -> None:
    config = CONFIGS["paper"]
    model = new_model(config)
    result = fit(model, small_split(config), config, run_dir=tmp_path, should_stop=stop_after(0))
    assert_same_bits(state(model), state(new_model(config)))
    assert result.history == [] and result.best_epoch == 0 and math.isnan(result.best_value)
    fit(model, small_split(config), config, run_dir=tmp_path / "other", should_stop=stop_after(1))
    assert not torch.equal(model.embedding, new_model(config).embedding)


def test_resume_from_nothing_starts_anew(tmp_path: Path) -> None:
    config = CONFIGS["fast"]
    plain, resumed = new_model(config), new_model(config)
    fit(plain, small_split(config), config)
    fit(resumed, small_split(config), config, run_dir=tmp_path / "new" / "folder", resume=True)
    assert_same_bits(state(plain), state(resumed))


def test_a_run_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    config = CONFIGS["fast"]
    fit(new_model(config), small_split(config), config, run_dir=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"{tmp_path}: holds a checkpoint; .*resume=True"):
        fit(new_model(config), small_split(config), config, run_dir=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_history_without_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    """What is left of a run that diverged."""
    config = CONFIGS["fast"]
    (tmp_path / HISTORY_FILE).write_bytes(b'{"epoch": 1}\n')
    result = fit(new_model(config), small_split(config), config, run_dir=tmp_path)
    assert [orjson.loads(line) for line in (tmp_path / HISTORY_FILE).open("rb")] == result.history


def test_a_finished_run_is_resumed_for_more_epochs(tmp_path: Path) -> None:
    config = CONFIGS["paper"]
    longer = TrainConfig(**{**vars(config), "epochs": 6})
    whole = new_model(config)
    expected = fit(whole, small_split(config), longer)
    fit(new_model(config), small_split(config), config, run_dir=tmp_path)
    model = new_model(config)
    result = fit(model, small_split(config), longer, run_dir=tmp_path, resume=True)
    assert_resumed(model, result, whole, expected, tmp_path)


def test_a_run_that_ended_early_stays_ended_until_patience_grows(tmp_path: Path) -> None:
    changes = SMALL | {"epochs": 60, "eval_every": 1, "metric": "recall@5", "learning_rate": 0.2}
    short, long = (
        preset("paper", **changes | {"patience": 2}),
        preset("paper", **changes | {"patience": 6}),
    )
    model = new_model(short)
    first = fit(model, small_split(short), short, run_dir=tmp_path)
    assert first.ended == "early"
    again = new_model(short, seed=99)
    second = fit(again, small_split(short), short, run_dir=tmp_path, resume=True)
    assert second.ended == "early" and second.history == first.history
    assert_same_bits(state(again), state(model))

    whole = new_model(long)
    expected = fit(whole, small_split(long), long)
    resumed = new_model(long)
    assert_resumed(
        resumed,
        fit(resumed, small_split(long), long, run_dir=tmp_path, resume=True),
        whole,
        expected,
        tmp_path,
    )


def test_records_after_the_checkpoint_are_dropped_from_the_history(tmp_path: Path) -> None:
    config = CONFIGS["paper"]
    fit(new_model(config), small_split(config), config, run_dir=tmp_path, should_stop=stop_after(5))
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(b'{"epoch": 2, "loss": 0.0')  # a power cut in the middle of a line
    result = fit(new_model(config), small_split(config), config, run_dir=tmp_path, resume=True)
    assert [orjson.loads(line) for line in (tmp_path / HISTORY_FILE).open("rb")] == result.history


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = CONFIGS["paper"]
    fit(new_model(config), small_split(config), config, run_dir=tmp_path, should_stop=stop_after(5))
    return tmp_path


def resume(
    folder: Path, model: LightGCN | None = None, split: Split | None = None, **changes: Any
) -> TrainResult:
    config = TrainConfig(**{**vars(CONFIGS["paper"]), **changes})
    return fit(
        model or new_model(CONFIGS["paper"]),
        split or small_split(CONFIGS["paper"]),
        config,
        run_dir=folder,
        resume=True,
    )


def test_resume_refuses_another_model(checkpoint: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"checkpoint.safetensors: holds embedding of shape \(105, 8\), .*\(105, 9\)",
    ):
        resume(checkpoint, LightGCN(USERS, ITEMS, 9, 3))
    with pytest.raises(
        ValueError, match=r"checkpoint.safetensors: .*num_layers': 3.*num_layers': 2"
    ):
        resume(checkpoint, LightGCN(USERS, ITEMS, 8, 2))
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: .*alpha"):
        resume(checkpoint, LightGCN(USERS, ITEMS, 8, 3, [0.0, 0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: .*alpha"):
        resume(checkpoint, LightGCN(USERS, ITEMS, 8, 3, "learnable"))


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 0.5}, {"l2": 0.0}, {"seed": 4}, {"batch_size": None}]
)
def test_resume_refuses_other_settings(checkpoint: Path, changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=rf"checkpoint.safetensors: was trained with {name}="):
        resume(checkpoint, **changes)


@pytest.mark.filterwarnings("ignore:.*train edges are not learned from:UserWarning")
def test_resume_refuses_other_data(checkpoint: Path) -> None:
    config = CONFIGS["paper"]
    whole = small_split(config)
    # With the same seed these have the same validation edges, and still they are other data.
    held_back, more = small_split(config, disjoint=0.3), small_split(config, negatives=2.0)
    fewer = whole._replace(
        train=link_set(whole.val.message, whole.train.positives.select(torch.arange(100)))
    )
    val = LinkSet(
        whole.val.message, whole.val.positives.select(torch.arange(1, 50)), whole.val.negatives
    )
    for other in (small_split(config, seed=1), held_back, more, fewer, whole._replace(val=val)):
        with pytest.raises(ValueError, match=r"checkpoint.safetensors: was trained on other data"):
            resume(checkpoint, split=other)


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.99])
def test_resume_refuses_a_truncated_checkpoint(checkpoint: Path, kept: float) -> None:
    path = checkpoint / CHECKPOINT_FILE
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=rf"{CHECKPOINT_FILE}: not a readable lightgcn file"):
        resume(checkpoint)


def test_resume_refuses_a_checkpoint_that_lacks_something(checkpoint: Path) -> None:
    from lightgcn.core.storage import load_tensors, save_tensors

    path = checkpoint / CHECKPOINT_FILE
    tensors, metadata = load_tensors(path, "checkpoint")
    for lacking in ("history", "config", "data", "model", "step"):
        rest = {key: value for key, value in metadata.items() if key != lacking}
        save_tensors(path, "checkpoint", tensors, rest)
        with pytest.raises(ValueError, match=f"not a checkpoint to go on from .*{lacking}"):
            resume(checkpoint)
    save_tensors(path, "checkpoint", {"model.embedding": tensors["model.embedding"]}, metadata)
    with pytest.raises(ValueError, match=r"not a checkpoint to go on from .*loss_sum"):
        resume(checkpoint)
    save_tensors(path, "dataset", tensors, metadata)
    with pytest.raises(ValueError, match="holds a dataset, expected a checkpoint"):
        resume(checkpoint)


def test_resume_needs_a_folder() -> None:
    config = CONFIGS["paper"]
    with pytest.raises(ValueError, match="resume needs the run_dir"):
        fit(new_model(config), small_split(config), config, resume=True)


@pytest.mark.parametrize("name", ["tutorial", "paper"])
@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_diverging_training_ends_with_an_error(name: str, learning_rate: float) -> None:
    config = TrainConfig(**{**vars(CONFIGS[name]), "learning_rate": learning_rate, "epochs": 20})
    with pytest.raises(ValueError, match="diverged; lower the learning rate"):
        fit(new_model(config), small_split(config), config)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_that_are_nan_end_the_first_epoch_with_an_error(name: str) -> None:
    config = TrainConfig(**{**vars(CONFIGS[name]), "eval_every": 100})
    model = new_model(config)
    with torch.no_grad():
        model.embedding[3, 0] = torch.nan
    with pytest.raises(ValueError, match="the training loss is nan in epoch 1: training diverged"):
        fit(model, small_split(config), config)


def test_what_would_end_the_run_later_is_refused_at_once() -> None:
    def refused(message: str, split: Split, model: LightGCN | None = None, **changes: Any) -> None:
        config = TrainConfig(**{**vars(CONFIGS["paper"]), **changes})
        steps: list[bool] = []
        with pytest.raises(ValueError, match=message):
            fit(
                model or new_model(config),
                split,
                config,
                should_stop=lambda: bool(steps.append(True)),
            )
        assert not steps

    whole = small_split(CONFIGS["paper"])
    bare = small_split(CONFIGS["paper"], negatives=0.0)
    other = split_edges(synthetic_interactions(USERS, ITEMS + 1, 700, seed=1), seed=0)
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), USERS, ITEMS)
    refused(
        "model has 61 users and 45 items, the split is of .*60 users",
        whole,
        LightGCN(61, ITEMS, 8, 1),
    )
    refused(
        "60 users and 45 items, the split is of .*46 items",
        Split(whole.train, other.val, other.test),
    )
    refused("bce loss needs negatives", bare, loss="bce")
    refused("roc_auc needs negatives", bare, metric="roc_auc")
    refused("recall@46 asks for 46 items, but there are only 45", whole, metric="recall@46")
    refused(
        "train set has no positives", whole._replace(train=link_set(whole.train.message, empty))
    )


def test_a_user_without_a_negative_is_named() -> None:
    full = torch.cartesian_prod(torch.arange(3), torch.arange(4)).T
    graph = Interactions.from_edge_index(full, 3, 4)
    val = link_set(graph, graph, negatives=0.0)
    config = TrainConfig(metric="recall@2", epochs=1)
    with pytest.raises(ValueError, match=r"user \d has an edge to each of the 4 items"):
        fit(LightGCN(3, 4, 2, 1), Split(val, val, val), config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CONFIGS)
def test_cuda_trains_and_resumes(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    split = small_split(config)
    model = new_model(config).cuda()
    fit(model, split, config, run_dir=tmp_path, should_stop=stop_after(1))
    result = fit(model, split, config, run_dir=tmp_path, resume=True)
    assert result.ended == "finished" and model.embedding.is_cuda
    val = split.val.to("cuda")
    k = int(config.metric.partition("@")[2] or 0)
    adjacency = normalized_adjacency(val.message, config.normalization)
    found = evaluate(model, adjacency, val, ks=(k,) if k else (), **config.scoring(val.message))
    assert found[config.metric] == pytest.approx(result.best_value, abs=1e-3)


def test_a_config_by_name_is_refused_with_a_hint() -> None:
    config = CONFIGS["fast"]
    with pytest.raises(
        ValueError, match=r'must be a TrainConfig, got \'fast\'; lightgcn.preset\("fast"\)'
    ):
        fit(new_model(config), small_split(config), "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("positives", ["edges", "users"])
def test_negatives_drawn_in_parts_are_of_their_users(
    positives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = preset(
        "paper", **SMALL | {"positives": positives, "num_negatives": 3, "batch_size": 16}
    )
    links = small_split(config).train
    monkeypatch.setattr(batches, "_NEGATIVES_AT_A_TIME", 100)
    seen = []
    for batch in batches.epoch_batches(links, config, torch.Generator().manual_seed(0)):
        assert batch.negatives is not None and batch.negatives.shape == (len(batch.left), 3)
        users = batch.left.repeat_interleave(3)
        assert not links.exclude.contains(
            users, batch.negatives.flatten() - links.message.num_users
        ).any()
        seen.append(batch.left)
    drawn = torch.cat(seen)
    assert len(drawn) == links.positives.num_edges
    assert positives == "users" or torch.equal(drawn.sort().values, links.positives.users)


def test_validation_of_some_users_is_that_of_their_links(tmp_path):
    graph = synthetic_interactions(80, 60, 1500, seed=2)
    config = preset("paper", epochs=1, embedding_dim=8, eval_every=1, eval_users=9, seed=5)
    split = split_edges(graph, disjoint=0.0)
    model = config.new_model(80, 60)
    record = fit(model, split, config, run_dir=tmp_path).history[0]
    some = split.val.sample_users(9, seed=5)
    adjacency = normalized_adjacency(some.message, config.normalization)
    expected = evaluate(model, adjacency, some, metrics=("recall", "ndcg"))
    assert record["val"] == pytest.approx(expected.metrics) and expected.num_users == 9
    whole = evaluate(model, adjacency, split.val)
    assert whole["recall@20"] != pytest.approx(expected["recall@20"])
