"""The processes that train one model together, and what they say to each other.

Each holds some columns of the embedding table. What goes between them are sums of scores, rows of a
batch, and once in a while a question that all have to answer alike."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import accumulate
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

# Rows of a table that go from process to process at a time.
BLOCK_ROWS = 1 << 16
# Seconds after which a process that does not answer is taken for lost: in a step, at the beginning,
# and where one works and the others wait (a start, a file).
STEP_TIMEOUT, JOIN_TIMEOUT, LONG_TIMEOUT = 45.0, 300.0, 3600.0


class ProcessLostError(Exception):
    """Another process of the job is gone, or does not answer.

    No `OSError`: what handles a file that cannot be written is not to take it for one.
    """


class ProcessGroup:
    """One process alone; `DistributedGroup` is one of several.

    Attributes:
        rank: the number of this process, from 0; process 0 writes the files.
        size: how many there are.
        local_size: how many of them are on this machine.
        sent: bytes that this process has sent in sums and exchanges.
    """

    rank = 0
    size = 1
    local_size = 1
    sent = 0

    def column_counts(self, width: int) -> list[int]:
        """Return how many of a table's columns each process holds: they differ by one at most.

        Raises:
            ValueError: if there are fewer columns than processes.
        """
        if width < self.size:
            raise ValueError(
                f"embedding_dim={width} has fewer columns than there are processes ({self.size})"
            )
        return [width // self.size + (rank < width % self.size) for rank in range(self.size)]

    def columns(self, width: int) -> slice:
        """Return which of a table's columns this process holds."""
        ends = list(accumulate(self.column_counts(width), initial=0))
        return slice(ends[self.rank], ends[self.rank + 1])

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum of what all processes give, on each: a tensor of the same shape
        everywhere.

        What is made of it has to be the same everywhere too; the gradient goes to this process's
        part without a word to the others."""
        return part

    def all_to_all(self, rows: Tensor, counts: Sequence[int], width: int) -> Tensor:
        """Give each process its rows with all columns; the gradient goes the way back.

        Args:
            rows: (sum of ``counts``, own columns): for each process so many rows, one process after
                the other.
            counts: how many rows each process is to have.
            width: columns of all processes together.

        Returns:
            (counts[rank], width).
        """
        return rows

    def all_reduce_(self, tensor: Tensor) -> None:
        """Add up a tensor over all processes, in place."""

    def all_reduce_numbers(self, numbers: Tensor) -> Tensor:
        """Return the sum of a few numbers on the CPU over all processes."""
        return numbers

    def any_flag(self, *flags: bool) -> list[bool]:
        """Return of each flag whether it is set in any process."""
        return list(flags)

    def all_reduce_max(self, number: float) -> float:
        """Return the largest of the numbers that the processes give, however long one has work of
        its own."""
        return number

    def barrier(self) -> None:
        """Wait for all processes, however long they have work of their own."""

    def check_same(self, what: str, value: str) -> None:
        """Raise a ValueError in all processes unless all give the same value."""

    def all_gather_columns(self, part: Tensor, width: int) -> Tensor:
        """Return the (N, width) table of which this process has the (N, own) ``part``, in every
        process."""
        return part

    def gather_row_blocks(self, part: Tensor, width: int) -> Iterator[Tensor]:
        """Yield the rows of that table, some at a time, in process 0; nothing in the others, which
        take part."""
        yield from part.split(BLOCK_ROWS)

    def scatter_columns(
        self, table: Tensor | None, shape: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Return this process's columns of a (N, width) float32 table that process 0 has; the
        others give None."""
        assert table is not None
        return table.to(device, torch.float32, copy=True)

    def remember(self, what: str) -> None:
        """Note something for the processes that ``torchrun`` starts in place of these, should they
        end early."""

    def remembers(self, what: str) -> bool:
        """Return whether processes in whose place these are have noted it."""
        return False

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the numbers that process 0 gives, in every process; all give as many."""
        return list(values)


SINGLE_PROCESS = ProcessGroup()


class DistributedGroup(ProcessGroup):
    """One of several processes, as `process_group` makes it."""

    def __init__(self, steps: Any, control: Any, long: Any, store: Any) -> None:
        self.steps, self.control, self.long, self.store = steps, control, long, store
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_size = int(os.environ["LOCAL_WORLD_SIZE"])
        self.sent = 0

    def all_reduce(self, part: Tensor) -> Tensor:
        result: Tensor = _Add.apply(part, self)  # type: ignore[no-untyped-call]
        return result

    def all_to_all(self, rows: Tensor, counts: Sequence[int], width: int) -> Tensor:
        result: Tensor = _Exchange.apply(rows, self, list(counts), self.column_counts(width))  # type: ignore[no-untyped-call]
        return result

    def all_reduce_(self, tensor: Tensor) -> None:
        with self._communicating():
            dist.all_reduce(tensor, group=self.steps)
        # By a ring: each number goes around once to be added up, and once more to be told.
        self.sent += round(2 * tensor.numel() * tensor.element_size() * (self.size - 1) / self.size)

    def all_reduce_numbers(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        with self._communicating():
            dist.all_reduce(total, group=self.long)
        return total

    def any_flag(self, *flags: bool) -> list[bool]:
        found = torch.tensor(flags, dtype=torch.int32)
        with self._communicating():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        self.sent += round(2 * 4 * len(flags) * (self.size - 1) / self.size)
        return [bool(flag) for flag in found.tolist()]

    def all_reduce_max(self, number: float) -> float:
        found = torch.tensor(number, dtype=torch.float64)
        with self._communicating():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.long)
        return float(found)

    def barrier(self) -> None:
        with self._communicating():
            dist.all_reduce(torch.zeros(1), group=self.long)

    def check_same(self, what: str, value: str) -> None:
        own = torch.frombuffer(
            bytearray(hashlib.sha256(value.encode()).digest()), dtype=torch.uint8
        )
        every = [torch.empty_like(own) for _ in range(self.size)]
        with self._communicating():
            dist.all_gather(every, own, group=self.long)
        other = [rank for rank, found in enumerate(every) if not torch.equal(found, every[0])]
        if other:
            raise ValueError(
                f"{this_process()}: {what} must be the same in all processes, and "
                f"process {other[0]} has others than process 0; this one has {value}"
            )

    def all_gather_columns(self, part: Tensor, width: int) -> Tensor:
        self.barrier()  # what came before may have taken one longer than another
        table = part.new_empty(len(part), width)
        widths = self.column_counts(width)
        with self._communicating():
            for first in range(0, len(part), BLOCK_ROWS):
                own = _padded(part[first : first + BLOCK_ROWS], max(widths))
                every = [torch.empty_like(own) for _ in widths]
                dist.all_gather(every, own, group=self.steps)
                table[first : first + BLOCK_ROWS] = _without_padding(every, widths)
        return table

    def gather_row_blocks(self, part: Tensor, width: int) -> Iterator[Tensor]:
        widths = self.column_counts(width)
        for first in range(0, len(part), BLOCK_ROWS):
            own = _padded(part[first : first + BLOCK_ROWS].cpu(), max(widths))
            every = [torch.empty_like(own) for _ in widths] if self.rank == 0 else None
            with self._communicating():
                dist.gather(own, every, dst=0, group=self.control)
            if every is not None:
                yield _without_padding(every, widths)

    def scatter_columns(
        self, table: Tensor | None, shape: tuple[int, int], device: torch.device
    ) -> Tensor:
        rows, width = shape
        widths = self.column_counts(width)
        result = torch.empty(rows, widths[self.rank], device=device)
        for first in range(0, rows, BLOCK_ROWS):
            own = torch.empty(min(BLOCK_ROWS, rows - first), max(widths))
            every = None
            if self.rank == 0:
                assert table is not None
                block = table[first : first + BLOCK_ROWS].cpu().float()
                every = [_padded(part, max(widths)) for part in block.split(widths, dim=1)]
            with self._communicating():
                dist.scatter(own, every, src=0, group=self.long)
            result[first : first + BLOCK_ROWS] = own[:, : widths[self.rank]]
        return result

    def remember(self, what: str) -> None:
        with self._communicating():
            self.store.set(f"lightgcn {what}", "yes")

    def remembers(self, what: str) -> bool:
        with self._communicating():
            return bool(self.store.check([f"lightgcn {what}"]))

    def broadcast(self, values: Sequence[float]) -> list[float]:
        said = torch.tensor(list(values), dtype=torch.float64)
        with self._communicating():
            dist.broadcast(said, src=0, group=self.long)
        found: list[float] = said.tolist()
        return found

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = re.sub(
                r"^\[[^\]]*\] ", "", " ".join(str(error).split())
            )  # without a place in Gloo's sources
            raise ProcessLostError(
                f"{this_process()}: another process is gone or does not answer "
                f"({reason.partition('. ')[0]:.120})"
            ) from error


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, processes: DistributedGroup) -> Tensor:
        total = part.detach().clone()
        processes.all_reduce_(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, processes: DistributedGroup, counts: list[int], widths: list[int]
    ) -> Tensor:
        ctx.processes, ctx.counts, ctx.widths = processes, counts, widths
        mine, own = counts[processes.rank], widths[processes.rank]
        sizes = [mine * width for width in widths]
        found = rows.new_empty(sum(sizes))
        _all_to_all(
            processes,
            found,
            rows.detach().contiguous().view(-1),
            sizes,
            [count * own for count in counts],
        )
        return torch.cat(
            [
                part.view(mine, width)
                for part, width in zip(found.split(sizes), widths, strict=True)
            ],
            dim=1,
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        processes, own = ctx.processes, ctx.widths[ctx.processes.rank]
        parts = [part.reshape(-1) for part in grads[0].split(ctx.widths, dim=1)]
        sizes = [count * own for count in ctx.counts]
        found = grads[0].new_empty(sum(sizes))
        _all_to_all(processes, found, torch.cat(parts), sizes, [len(part) for part in parts])
        return found.view(-1, own), None, None, None


def _all_to_all(
    processes: DistributedGroup, out: Tensor, given: Tensor, out_sizes: list[int], sizes: list[int]
) -> None:
    with processes._communicating():
        dist.all_to_all_single(out, given, out_sizes, sizes, group=processes.steps)
    processes.sent += (sum(sizes) - sizes[processes.rank]) * given.element_size()


def _padded(part: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, width - part.shape[1])).contiguous()


def _without_padding(parts: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)


def is_launched() -> bool:
    """Return whether ``torchrun`` started this process with others."""
    return (
        dist.is_available()
        and dist.is_torchelastic_launched()
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    )


def this_process() -> str:
    """Return what one of several processes calls itself."""
    return f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"


def own_gpu() -> torch.device:
    """Return the GPU of one of several processes: each on a machine has its own.

    Raises:
        ValueError: in each of them, if they are more than the machine has GPUs.
    """
    there, wanted = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if wanted > there:
        raise ValueError(
            f"{this_process()}: {wanted} processes on a machine of {there} CUDA "
            f"device{'' if there == 1 else 's'}: "
            f"start --nproc-per-node {there}, or compute on the CPU (--device cpu)"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def _rendezvous_name(store: Any, rank: int, size: int) -> str:
    """Return a name that these processes have in common, and no others that ``torchrun`` has
    started before.

    Process 0 says one; each other answers with it and a word of its own, which process 0 says back.
    So nobody takes up what processes that are gone have left in the store. (The count of restarts
    is each host's own.)

    Raises:
        ProcessLostError: if the others do not come.
    """
    own, deadline = uuid4().hex, time.monotonic() + JOIN_TIMEOUT

    def wait_for(others: Callable[[], str]) -> str:
        while not (found := others()):
            if time.monotonic() > deadline:
                raise ProcessLostError(
                    f"{this_process()}: the others have not come in {JOIN_TIMEOUT:.0f} s"
                )
            time.sleep(0.02)
        return found

    def said(what: str) -> str:
        return str(store.get(what).decode()) if store.check([what]) else ""

    def answer() -> str:
        name = said("lightgcn name")
        store.set(f"lightgcn answer {rank}", f"{name} {own}")
        return name if name and own in said(f"lightgcn words {name}") else ""

    def answer_of(other: int) -> str:
        found = said(f"lightgcn answer {other}")
        return found if own in found else ""

    if rank:
        return wait_for(answer)
    store.set("lightgcn name", own)
    words = [wait_for(partial(answer_of, other)).split()[1] for other in range(1, size)]
    store.set(f"lightgcn words {own}", " ".join(words))
    return own


@contextmanager
def process_group(
    device: torch.device | str = "cpu", *, timeout: float | None = None
) -> Iterator[ProcessGroup]:
    """Join the other processes that ``torchrun`` started, for the time of a block;
    `SINGLE_PROCESS` if there are none.

    Args:
        device: where this process computes; on "cuda" batches go by NCCL, else all goes by Gloo.
        timeout: seconds after which a process that does not answer in a training step is taken for
            lost; None for 45. One that dies is noticed at once.

    Raises:
        ValueError: if there are more processes on this machine than it has GPUs.
        ProcessLostError: if the others do not come; and later, in each collective with a process
            that is gone.
    """
    if not is_launched():
        yield SINGLE_PROCESS
        return
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(own_gpu())
    short = timedelta(seconds=STEP_TIMEOUT if timeout is None else timeout)
    long = timedelta(seconds=LONG_TIMEOUT)
    kept, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=JOIN_TIMEOUT))))
    # torchrun keeps the store when it starts its processes again, with the addresses of those that
    # are gone.
    store = PrefixStore(_rendezvous_name(kept, rank, size), kept)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=JOIN_TIMEOUT)
    )
    processes = None
    try:
        patient = dist.new_group(backend="gloo", timeout=long)
        control = dist.new_group(backend="gloo", timeout=short)
        steps = dist.new_group(backend="nccl", timeout=short) if cuda else control
        processes = DistributedGroup(steps, control, patient, kept)
        yield processes
        processes.barrier()  # no connection is closed that another may still use
    finally:
        # No group is kept by what is left of the model: one that is still there when Python ends
        # aborts.
        if processes is not None:
            processes.steps = processes.control = processes.long = None
        steps = control = patient = None
        dist.destroy_process_group()
