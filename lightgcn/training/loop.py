"""The loop of `lightgcn.fit`: epochs of steps, validation, and the choice of the best epoch.

An epoch's random choices are drawn from (seed, epoch). So a resumed run, even from the middle of an
epoch, draws the same as an uninterrupted one and, on a CPU, ends with the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightgcn.core.checks import largest_entry
from lightgcn.core.seeding import make_generator
from lightgcn.graph.adjacency import Adjacency, normalized_adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split
from lightgcn.nn.model import LightGCN
from lightgcn.ranking.closed_forms import ClosedForms
from lightgcn.ranking.metrics import is_better, parse_metric
from lightgcn.training.batches import batch_loss, epoch_batches, learnable_links, num_samples
from lightgcn.training.checkpoint import Progress, RunFiles, weights_of
from lightgcn.training.config import TrainConfig
from lightgcn.training.diagnostics import warn_of_size
from lightgcn.training.sharded import evaluate_shared, processes_of

Ended = Literal["finished", "early", "interrupted"]

_EPOCH_STREAM = 17


class TrainingLoop:
    """The state of a call of `lightgcn.fit`: its arguments and its progress.

    Args:
        model: the model, with its normalisation set.
        split: on the model's device.
        config: settings of the training.
        folder: for checkpoint and history; None to write no files.
    """

    def __init__(
        self, model: LightGCN, split: Split, config: TrainConfig, folder: str | Path | None
    ) -> None:
        self.model, self.split, self.config = model, split, config
        self.processes = processes_of(model)
        self.optimizer = torch.optim.Adam(
            list(model.parameters()),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.files = RunFiles(folder, model, self.optimizer, config, split)
        device = model.embedding.device
        self.progress = Progress(torch.zeros((), dtype=torch.float64, device=device))
        # The gradient of the loss, made once; a backward pass would make it in each step.
        wide = torch.promote_types(model.embedding.dtype, torch.float32)
        self.one = torch.ones((), dtype=wide, device=device)
        self.val_adjacency = self._normalized(split.val.message)
        self.largest_at_start = self._largest_entry()
        self.warned = False
        self.num_samples = 0  # of the current epoch

    def load(self) -> None:
        """Load the checkpoint in the folder, if there is one."""
        self.progress = self.files.load() or self.progress

    def train(
        self,
        on_epoch: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
        bar: Any,
    ) -> Ended:
        """Train to the end; ``bar`` is a progress bar of tqdm."""
        ended: Ended = "finished"
        while self.progress.epoch < self.config.epochs:
            if self._patience_is_over():
                ended = "early"
                break
            if not self._run_epoch(should_stop, bar):
                self.files.save(self.progress)
                return "interrupted"
            record = self._finish_epoch()
            if on_epoch is not None:
                on_epoch(record)
            bar.set_postfix_str(_summary(record, self.config.metric))
        self.files.save(self.progress)
        if self.progress.best:
            self.model.load_state_dict(self.progress.best)
        return ended

    def _run_epoch(self, should_stop: Callable[[], bool] | None, bar: Any) -> bool:
        """Run the rest of the current epoch; return False if it was interrupted."""
        began, now = time.monotonic(), self.progress
        links = self._epoch_links()
        adjacency = self._adjacency(links)
        self.processes.barrier()
        device = now.loss_sum.device
        generator = make_generator(self.config.seed, _EPOCH_STREAM, now.epoch, device=device)
        self.model.train()
        for step, batch in enumerate(epoch_batches(links, self.config, generator)):
            if step < now.step:
                continue
            stop, due = self.processes.any_flag(
                should_stop is not None and should_stop(), self.files.save_is_due()
            )
            if stop or due:
                self._add_seconds(began)
                if stop:
                    return False
                self.files.save(now)
                began = time.monotonic()
            self.optimizer.zero_grad(set_to_none=True)
            loss = batch_loss(self.model, adjacency, batch, self.config, self.processes)
            torch.autograd.backward(loss, self.one)
            if isinstance(self.model.alpha, Tensor) and self.model.alpha.grad is not None:
                # Each process has the part of its columns.
                self.processes.all_reduce_(self.model.alpha.grad)
            self.optimizer.step()
            now.loss_sum.add_(loss.detach(), alpha=len(batch.left))
            now.step += 1
            bar.update()
        # Free the gradient, as large as the table, and the buffers before validation.
        self.optimizer.zero_grad(set_to_none=True)
        adjacency.pattern.buffers_for(self.model.embedding).clear()
        self._add_seconds(began)
        self.num_samples = num_samples(links, self.config)
        return True

    def _add_seconds(self, began: float) -> None:
        float(self.progress.loss_sum)  # waits for the device
        self.progress.seconds += time.monotonic() - began

    def _finish_epoch(self) -> dict[str, Any]:
        now = self.progress
        loss = float(now.loss_sum) / max(1, self.num_samples)
        now.epoch += 1
        if not math.isfinite(loss):
            raise ValueError(
                f"the training loss is {loss} in epoch {now.epoch}: training diverged; lower the "
                f"learning rate ({self.config.learning_rate}) or check the edge weights"
            )
        record: dict[str, Any] = {
            "epoch": now.epoch,
            "loss": loss,
            "seconds": round(now.seconds, 4),
        }
        due = now.epoch % self.config.eval_every == 0 or now.epoch == self.config.epochs
        if due and self.split.val.positives.num_edges:
            record |= self._validate()
        now.step, now.seconds = 0, 0.0
        now.loss_sum.zero_()
        now.history.append(record)
        self.files.add_record(now)
        return record

    def _validate(self) -> dict[str, Any]:
        began, now = time.monotonic(), self.progress
        self.model.eval()
        largest = self._largest_entry()
        self.warned = self.warned or warn_of_size(largest, self.largest_at_start, now.epoch)
        name, k = parse_metric(self.config.metric)
        result = evaluate_shared(
            self.model,
            self._val_links,
            ks=() if k is None else (k,),
            metrics=tuple(dict.fromkeys((name, "recall", "ndcg"))) if k else (),
            closed_forms=self._closed_forms,
        )
        value = result[self.config.metric]
        if not now.best_epoch or is_better(self.config.metric, value, now.best_value):
            now.best_value, now.best_epoch, now.since_best = value, now.epoch, 0
            now.best = {name: tensor.clone() for name, tensor in weights_of(self.model).items()}
        else:
            now.since_best += 1
        return {"val": result.metrics, "val_seconds": round(time.monotonic() - began, 4)}

    def _largest_entry(self) -> float:
        return self.processes.all_reduce_max(largest_entry(self.model.embedding))

    def _patience_is_over(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.progress.since_best >= patience

    def _epoch_links(self) -> LinkSet:
        train = self.split.train
        # Ranking losses draw their own negatives: if all train edges carry messages nothing is left
        # to resample.
        fixed = self.config.loss != "bce" and not train.is_disjoint
        if fixed or not train.can_resample:
            return self._fixed_links
        return learnable_links(train.resample(self.progress.epoch), self.config)

    @cached_property
    def _fixed_links(self) -> LinkSet:
        return learnable_links(self.split.train, self.config)

    def _adjacency(self, links: LinkSet) -> Adjacency:
        """Return the adjacency of a training epoch, in its precision; validation uses float32."""
        known = links.message is self.split.val.message
        adjacency = self.val_adjacency if known else self._normalized(links.message)
        if adjacency.device.type != "cpu":
            for side in (adjacency, adjacency.T):  # made now, not in the first step, and kept
                side.matrix(self.model.embedding.dtype)
            return adjacency
        return replace(adjacency, half_tables=self.config.precision == "mixed")

    def _normalized(self, message: Interactions) -> Adjacency:
        normalization = self.model.normalization
        if normalization is None or normalization == "custom":
            return self.model.adjacency(message)  # raises for "custom"
        return normalized_adjacency(message, normalization)  # not kept with the interactions

    @cached_property
    def _val_links(self) -> LinkSet:
        users, val = self.config.eval_users, self.split.val
        ranks = parse_metric(self.config.metric)[1] is not None
        return val.sample_users(users, seed=self.config.seed) if users and ranks else val

    @cached_property
    def _closed_forms(self) -> ClosedForms:
        """Of the graph of all validations."""
        return ClosedForms(self.split.val.message)


def _summary(record: dict[str, Any], metric: str) -> str:
    value = f", val {metric} {record['val'][metric]:.4f}" if "val" in record else ""
    return f"epoch {record['epoch']}, loss {record['loss']:.4f}{value}"
