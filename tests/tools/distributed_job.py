"""What the processes of `test_sharded` run under torchrun: trainings of every loss, into a folder.

The same functions, called in one process, give what these have to equal.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

from lightgcn import LightGCN, evaluate, fit, preset, split_edges
from lightgcn.cli import main as cli
from lightgcn.core import process_group as process_group_module
from lightgcn.core.process_group import SINGLE_PROCESS, ProcessGroup, process_group
from lightgcn.datasets import synthetic_interactions
from lightgcn.nn.model_io import save_model
from lightgcn.ranking.list_metrics import LIST_METRICS
from lightgcn.training import checkpoint
from lightgcn.training.sharded import ShardedLightGCN, evaluate_shared

USERS, ITEMS, WIDTH = 90, 70, 14
EXACT = {"precision": "float32", "embedding_dim": WIDTH}
CASES = {
    # Blocks for every process, blocks that several share, and the rows of one block.
    "softmax": preset("fast", epochs=3, batch_size=700, block_size=96, **EXACT),
    "softmax of one block": preset("fast", epochs=2, batch_size=None, l2=0.01, **EXACT),
    "softmax of two blocks": preset("fast", epochs=2, batch_size=250, block_size=130, **EXACT),
    "mixed softmax": preset("fast", epochs=2, batch_size=700, block_size=96, embedding_dim=WIDTH),
    "bpr": preset("paper", epochs=3, num_negatives=2, learnable_alpha=True, eval_every=1, **EXACT),
    "bce": preset("tutorial", epochs=2, batch_size=512, l2=1e-3, learnable_alpha=True, **EXACT),
    "full-batch bce": preset("tutorial", epochs=3, **EXACT),
}
# A run that is interrupted in its second epoch, and goes on from the checkpoint.
STOPPED = preset(
    "fast", epochs=3, batch_size=300, block_size=96, init="normal", eval_every=1, **EXACT
)
STEPS = 9


def graph():
    return synthetic_interactions(USERS, ITEMS, 2000, seed=1)


def shared(model: LightGCN | None, processes: ProcessGroup) -> LightGCN:
    if processes.size == 1:
        assert model is not None
        return model
    return ShardedLightGCN.from_whole(model, processes)


def train(name: str, folder: Path, processes: ProcessGroup = SINGLE_PROCESS) -> dict:
    """Train one case; write the model and return figures, in process 0."""
    settings = CASES[name]
    split = split_edges(graph(), disjoint=settings.train.disjoint)
    whole = settings.new_model(split.val.message) if processes.rank == 0 else None
    model = shared(whole, processes)
    before = processes.sent
    result = fit(model, split, settings)
    tested = evaluate(model, split.test, ks=(5, 20))
    names = ("recall", "ndcg", *LIST_METRICS)
    parts = evaluate_shared(model, split.test, ks=(5, 20), metrics=names)
    only_means = evaluate_shared(model, split.test, ks=(5, 20), metrics=("recall", "ndcg"))
    assert only_means.metrics == pytest.approx(
        {name: parts[name] for name in only_means.metrics}, rel=1e-6
    )
    with torch.no_grad():
        scores = model(split.test.message, split.test.positives)
    whole = model.whole() if isinstance(model, ShardedLightGCN) else model
    if whole is not None:
        save_model(folder / f"{name}.safetensors", whole)
        torch.testing.assert_close(scores, whole(split.test.message, split.test.positives))
    return {
        "history": [
            {key: value for key, value in record.items() if "seconds" not in key}
            for record in result.history
        ],
        "best_epoch": result.best_epoch,
        "tested": tested.metrics,
        "by parts": parts.metrics,
        "users": tested.num_users,
        "sent": processes.sent - before,
        "columns": model.embedding.shape[1],
    }


def stop(
    folder: Path,
    processes: ProcessGroup = SINGLE_PROCESS,
    *,
    at: int | None = STEPS,
    resume: bool = False,
) -> None:
    """Train ``STOPPED`` up to a step, or to its end; write the model if it comes to that."""
    split = split_edges(graph(), disjoint=0.0)
    whole = STOPPED.new_model(graph()) if processes.rank == 0 else None
    model = shared(whole, processes)
    asked = iter(range(1_000_000))
    # One process alone is asked to stop, and all have to.
    ask = (
        (lambda: next(asked) >= at and processes.rank == processes.size - 1)
        if at is not None
        else None
    )
    result = fit(model, split, STOPPED, run_dir=folder, resume=resume, should_stop=ask)
    assert result.ended == ("finished" if at is None else "interrupted")
    whole = model.whole() if isinstance(model, ShardedLightGCN) else model
    if whole is not None:
        save_model(folder / "model.safetensors", whole)


def differ(processes: ProcessGroup) -> str:
    """Return what is said where one process has other settings than the others."""
    model = shared(LightGCN(USERS, ITEMS, WIDTH) if processes.rank == 0 else None, processes)
    settings = preset(
        "paper",
        epochs=1,
        embedding_dim=WIDTH,
        learning_rate=0.1 if processes.rank == processes.size - 1 else 0.2,
    )
    try:
        fit(model, split_edges(graph()), settings)
    except ValueError as error:
        return str(error)
    return "no error"


def command(arguments: list[str]) -> int:
    """Run the command line with a checkpoint before every step, and little patience."""
    # It may be stopped where the others wait for it, as for one that has work of its own.
    process_group_module.STEP_TIMEOUT, process_group_module.LONG_TIMEOUT = 4.0, 12.0
    checkpoint._CHECKPOINT_SECONDS, checkpoint._TIMES_SAVING = 0.0, 0
    return cli.main(arguments)


def main() -> None:
    if sys.argv[1] == "command":
        sys.exit(command(sys.argv[2:]))
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    with process_group() as processes:
        found = {}
        if what == "cases":
            found = {name: train(name, folder, processes) for name in CASES}
            found["differ"] = differ(processes)
            stop(folder / "run", processes)
        elif what == "resume":
            stop(folder, processes, at=None, resume=True)
        if what == "cases" and processes.rank == 0:
            (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
