"""Collectives of a group of one process; tests/training/test_sharded.py starts several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from lightgcn.core.process_group import (
    SINGLE_PROCESS,
    DistributedGroup,
    ProcessGroup,
    ProcessLostError,
)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[DistributedGroup]:
    """Return a group of one process that communicates all the same."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    gloo = dist.new_group(backend="gloo")
    yield DistributedGroup(gloo, gloo, gloo, store)
    dist.destroy_process_group()


def results(group: ProcessGroup) -> list[object]:
    """Return what the collectives give, with the gradients of those that have one."""
    table = torch.arange(15.0).view(5, 3).requires_grad_()
    summed, exchanged = group.all_reduce(table * 2), group.all_to_all(table * 3, [5], 3)
    (gradient,) = torch.autograd.grad((summed + exchanged).square().sum(), table)
    in_place = torch.ones(3)
    group.all_reduce_(in_place)
    group.barrier()
    group.check_same("settings", "a")
    found: list[object] = [summed, exchanged, gradient, in_place]
    found += [group.all_reduce_numbers(torch.ones(2)), group.all_gather_columns(table.detach(), 3)]
    found += [torch.cat(list(group.gather_row_blocks(table.detach(), 3)))]
    found += [group.scatter_columns(table.detach(), (5, 3), torch.device("cpu"))]
    found += [group.any_flag(True, False), group.all_reduce_max(2.5), group.broadcast([1.5, 2])]
    return found


def test_a_group_of_one_gives_what_no_group_gives(group: DistributedGroup) -> None:
    for one, other in zip(results(group), results(SINGLE_PROCESS), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert not group.remembers("begun")
    group.remember("begun")
    assert group.remembers("begun") and not SINGLE_PROCESS.remembers("begun")


def test_memory_that_runs_out_in_a_collective_is_no_lost_process(
    group: DistributedGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(dist, "all_reduce", fail)

    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("NCCL error: Last error: Cuda failure 2 'out of memory'"),
        MemoryError(),
    ):
        raises(error)
        with pytest.raises(type(error)) as raised:
            group.all_reduce_(torch.ones(2))
        assert raised.value is error
    raises(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    with pytest.raises(ProcessLostError, match=r"process 0 of 1: .*Connection closed by peer"):
        group.all_reduce_(torch.ones(2))


def test_columns_are_shared_out_evenly() -> None:
    group = ProcessGroup()
    group.size = 3
    columns = []
    for group.rank in range(3):
        columns += list(range(8))[group.columns(8)]
    assert group.column_counts(8) == [3, 3, 2] and columns == list(range(8))
    with pytest.raises(ValueError, match="2"):
        group.columns(2)
