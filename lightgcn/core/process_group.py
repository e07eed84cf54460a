"""A group of processes that train one model together, and its collectives.

The embedding table is sharded by columns. A collective is called by every process of the group, in
the same order and with arguments of the same shapes."""

from __future__ import annotations

import hashlib
import json
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

from lightgcn.core.checks import is_out_of_memory

# Rows of a table that one collective transfers.
BLOCK_ROWS = 1 << 16
# Seconds after which a collective fails: in a training step, at the start, and while one process
# works and the others wait (to make a start, to write a file).
STEP_TIMEOUT, JOIN_TIMEOUT, LONG_TIMEOUT = 45.0, 300.0, 3600.0


class ProcessLostError(Exception):
    """Another process of the group has ended, or does not answer.

    Not an `OSError`, which callers handle as a file that cannot be written.
    """


class ProcessGroup:
    """A group of one process, whose collectives return their arguments; see `DistributedGroup`.

    Attributes:
        rank: number of this process, from 0; process 0 writes the files.
        size: number of processes.
        local_size: number of processes on this machine.
        sent: bytes that this process has sent in `all_reduce`, `all_to_all` and `any_flag`.
    """

    rank = 0
    size = 1
    local_size = 1
    sent = 0

    def column_counts(self, width: int) -> list[int]:
        """Return the number of columns of each process's shard; they differ by at most one.

        Raises:
            ValueError: if there are fewer columns than processes.
        """
        if width < self.size:
            raise ValueError(
                f"embedding_dim={width} has fewer columns than there are processes ({self.size})"
            )
        return [width // self.size + (rank < width % self.size) for rank in range(self.size)]

    def columns(self, width: int) -> slice:
        """Return the columns of this process's shard."""
        ends = list(accumulate(self.column_counts(width), initial=0))
        return slice(ends[self.rank], ends[self.rank + 1])

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, in a new tensor.

        Its gradient is passed to ``part`` without communication, so every process must compute the
        same from the sum."""
        return part

    def all_to_all(self, rows: Tensor, counts: Sequence[int], width: int) -> Tensor:
        """Exchange rows of sharded columns for fewer rows of all columns; differentiable.

        Args:
            rows: (sum of ``counts``, own columns), the rows for process 0 first.
            counts: number of rows for each process.
            width: columns of all processes together.

        Returns:
            (counts[rank], width).
        """
        return rows

    def all_reduce_(self, tensor: Tensor) -> None:
        """Sum a tensor over all processes, in place."""

    def all_reduce_numbers(self, numbers: Tensor) -> Tensor:
        """Return the sum of a small CPU tensor over all processes, with the long timeout."""
        return numbers

    def any_flag(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        return list(flags)

    def all_reduce_max(self, number: float) -> float:
        """Return the maximum of a number over all processes, with the long timeout."""
        return number

    def barrier(self) -> None:
        """Wait until every process has called this, with the long timeout."""

    def check_same(self, what: str, value: str) -> None:
        """Raise a ValueError in every process unless ``value`` is the same in all of them."""

    def all_gather_columns(self, part: Tensor, width: int) -> Tensor:
        """Return the whole (N, width) table from the (N, own columns) shards, in every process."""
        return part

    def gather_row_blocks(self, part: Tensor, width: int) -> Iterator[Tensor]:
        """Yield the whole table in blocks of rows in process 0, and nothing in the others.

        Every process has to exhaust the iterator."""
        yield from part.split(BLOCK_ROWS)

    def scatter_columns(
        self, table: Tensor | None, shape: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Return this process's columns of process 0's (N, width) table as float32; ``table`` is
        None in the other processes."""
        assert table is not None
        return table.to(device, torch.float32, copy=True)

    def remember(self, what: str) -> None:
        """Store a key for the processes that ``torchrun`` starts if it restarts these."""

    def remembers(self, what: str) -> bool:
        """Return whether the processes before a restart stored the key."""
        return False

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return process 0's numbers in every process; each gives as many."""
        return list(values)

    def broadcast_json(self, value: Any) -> Any:
        """Return process 0's value of JSON types in every process; the others' is ignored."""
        data = json.dumps(value).encode() if self.rank == 0 else b""
        (length,) = self.broadcast([len(data)])
        received = self.broadcast(list(data) or [0.0] * int(length))
        return json.loads(bytes(map(int, received)))


SINGLE_PROCESS = ProcessGroup()


class DistributedGroup(ProcessGroup):
    """A group of several processes; `process_group` makes it.

    Args:
        steps: group of the tensors of training steps (NCCL on CUDA).
        control: Gloo group of CPU tensors, with the same timeout.
        long: Gloo group with the long timeout.
        store: key-value store that outlives a restart.
    """

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
        self._count_ring(tensor)

    def all_reduce_numbers(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        with self._communicating():
            dist.all_reduce(total, group=self.long)
        return total

    def any_flag(self, *flags: bool) -> list[bool]:
        found = torch.tensor(flags, dtype=torch.int32, device="cpu")
        with self._communicating():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        self._count_ring(found)
        return [bool(flag) for flag in found.tolist()]

    def all_reduce_max(self, number: float) -> float:
        found = torch.tensor(number, dtype=torch.float64, device="cpu")
        with self._communicating():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.long)
        return float(found)

    def barrier(self) -> None:
        self.all_reduce_max(0.0)

    def check_same(self, what: str, value: str) -> None:
        digest = hashlib.sha256(value.encode()).digest()
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        every = [torch.empty_like(own) for _ in range(self.size)]
        with self._communicating():
            dist.all_gather(every, own, group=self.long)
        other = [rank for rank, found in enumerate(every) if not torch.equal(found, every[0])]
        if other:
            raise ValueError(
                f"{this_process()}: {what} must be the same in all processes, but differ between "
                f"process {other[0]} and process 0; here: {value}"
            )

    def all_gather_columns(self, part: Tensor, width: int) -> Tensor:
        self.barrier()  # with its long timeout: one process may have worked longer than another
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
        result = torch.empty(rows, widths[self.rank], dtype=torch.float32, device=device)
        for first in range(0, rows, BLOCK_ROWS):
            size = (min(BLOCK_ROWS, rows - first), max(widths))
            own = torch.empty(size, dtype=torch.float32, device="cpu")
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
        numbers = torch.tensor(values, dtype=torch.float64, device="cpu")
        with self._communicating():
            dist.broadcast(numbers, src=0, group=self.long)
        return list(numbers.tolist())

    def _count_ring(self, tensor: Tensor) -> None:
        # A ring all-reduce is a reduce-scatter and an all-gather.
        self.sent += round(2 * tensor.numel() * tensor.element_size() * (self.size - 1) / self.size)

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # Without the position in Gloo's source.
            reason = re.sub(r"^\[[^\]]*\] ", "", " ".join(str(error).split()))
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
        given = rows.detach().contiguous().view(-1)
        found = _all_to_all(processes, given, [count * own for count in counts], sizes)
        parts = zip(found.split(sizes), widths, strict=True)
        return torch.cat([part.view(mine, width) for part, width in parts], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        processes, own = ctx.processes, ctx.widths[ctx.processes.rank]
        parts = [part.reshape(-1) for part in grads[0].split(ctx.widths, dim=1)]
        sizes = [count * own for count in ctx.counts]
        found = _all_to_all(processes, torch.cat(parts), [len(part) for part in parts], sizes)
        return found.view(-1, own), None, None, None


def _all_to_all(
    processes: DistributedGroup, given: Tensor, sizes: list[int], found_sizes: list[int]
) -> Tensor:
    found = given.new_empty(sum(found_sizes))
    with processes._communicating():
        dist.all_to_all_single(found, given, found_sizes, sizes, group=processes.steps)
    processes.sent += (sum(sizes) - sizes[processes.rank]) * given.element_size()
    return found


def _padded(part: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, width - part.shape[1])).contiguous()


def _without_padding(parts: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)


def is_launched() -> bool:
    """Return whether ``torchrun`` started this process as one of several."""
    return (
        dist.is_available()
        and dist.is_torchelastic_launched()
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    )


def this_process() -> str:
    """Return the name of this process for messages, "process 1 of 4"."""
    return f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"


def own_gpu() -> torch.device:
    """Return the GPU of this process: each process on a machine has its own.

    Raises:
        ValueError: if there are more processes on this machine than GPUs.
    """
    there, wanted = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if wanted > there:
        raise ValueError(
            f"{this_process()}: {wanted} processes on a machine of {there} CUDA "
            f"device{'' if there == 1 else 's'}: start --nproc-per-node {there}, or compute on the "
            "CPU (--device cpu)"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def _rendezvous_name(store: Any, rank: int, size: int) -> str:
    """Agree on a key prefix that no processes before a restart have used.

    The store keeps the keys of processes that have ended, and the restart counter differs between
    hosts. So process 0 publishes a random name, every other process replies with this name and a
    random token of its own, and takes the name once process 0 has acknowledged the token.

    Raises:
        ProcessLostError: if the others do not take part before the timeout.
    """
    own, deadline = uuid4().hex, time.monotonic() + JOIN_TIMEOUT

    def wait_for(poll: Callable[[], str]) -> str:
        while not (found := poll()):
            if time.monotonic() > deadline:
                raise ProcessLostError(
                    f"{this_process()}: the other processes did not start in {JOIN_TIMEOUT:.0f} s"
                )
            time.sleep(0.02)
        return found

    def read(key: str) -> str:
        return str(store.get(key).decode()) if store.check([key]) else ""

    def acknowledged_name() -> str:
        name = read("lightgcn name")
        store.set(f"lightgcn reply {rank}", f"{name} {own}")
        return name if name and own in read(f"lightgcn tokens {name}") else ""

    def reply_of(other: int) -> str:
        reply = read(f"lightgcn reply {other}")
        return reply if own in reply else ""

    if rank:
        return wait_for(acknowledged_name)
    store.set("lightgcn name", own)
    tokens = [wait_for(partial(reply_of, other)).split()[1] for other in range(1, size)]
    store.set(f"lightgcn tokens {own}", " ".join(tokens))
    return own


@contextmanager
def process_group(
    device: torch.device | str = "cpu", *, timeout: float | None = None
) -> Iterator[ProcessGroup]:
    """Join the group of processes that ``torchrun`` started, for the duration of a block.

    Args:
        device: device of this process; on "cuda" training steps use NCCL, everything else Gloo.
        timeout: seconds after which a collective of a training step fails, None for 45. A process
            that ends is noticed at once.

    Yields:
        The group; `SINGLE_PROCESS` if ``torchrun`` did not start several processes.

    Raises:
        ValueError: if there are more processes on this machine than GPUs.
        ProcessLostError: if the others do not join; collectives raise it if one has ended.
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
    # After a restart the store still holds the addresses of the processes that have ended.
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
        processes.barrier()  # before any process closes its connections
    finally:
        # A model may outlive the block, and a group that is alive at interpreter exit aborts.
        if processes is not None:
            processes.steps = processes.control = processes.long = None
        steps = control = patient = None
        dist.destroy_process_group()
