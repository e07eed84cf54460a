"""A pretend CUDA device: what a test sees of one, without a GPU.

Within `pretend_cuda()` every ``device="cuda"`` works. A tensor "on" it is a CPU tensor whose storage
is labelled, so that values, autograd and sparse products are PyTorch's own:

- ``.device`` and ``.is_cuda`` say cuda:0, and library code takes its path for devices.
- An operator that mixes devices raises PyTorch's RuntimeError, ``.numpy()`` its TypeError, a
  generator of the wrong device likewise.
- Every operator that would launch a kernel on the device is counted, and every operation for which
  the host would wait, with the line of `lightgcn/` that caused it.

A generator "on" the device draws the numbers of a CPU generator of the same seed, so that results
can be compared with a CPU's. What it cannot show: memory, speed, kernels that differ or that CUDA
lacks, asynchronous errors, further launches within one operator (a sort has several).

    with pretend_cuda() as cuda:
        model.to("cuda")
        with cuda.counted() as counts:
            step(model)
        assert counts.num_launches <= 40 and not counts.waits
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_Generator = torch.Generator

# Operators whose result has a size or value that the host must read.
_WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "equal", "isin", "repeat_interleave", "is_nonzero",
    "linalg_cholesky_ex", "linalg_inv_ex", "linalg_solve_ex", "_linalg_eigh", "_linalg_svd",
    "_linalg_check_errors", "linalg_qr", "histogram",
}  # fmt: skip
# Operators that launch nothing: views are known by their schema.
_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
    "_unsafe_view", "lift_fresh", "resize_", "set_", "_local_scalar_dense", "record_stream",
    "sparse_csr_tensor", "sparse_compressed_tensor", "_sparse_csr_tensor_unsafe", "_sparse_compressed_tensor_unsafe",
    "_sparse_compressed_tensor_with_dims", "is_same_size", "_has_compatible_shallow_copy_type",
}  # fmt: skip
# Operators that take tensors of two devices: copies, and an index of the host.
_COPIES = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_", "index_put"}


@dataclass
class Counts:
    """What happened on the device: launches by operator, waits by operator and line."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)  # of launches
    bytes_to_cpu: int = 0  # copied from the device

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    @property
    def num_waits(self) -> int:
        return self.waits.total()


class PretendGenerator(_Generator):
    """A CPU generator whose ``device`` is cuda:0."""

    device = CUDA  # type: ignore[assignment]


class _GeneratorClass(type):
    def __call__(cls, device: Any = "cpu") -> _Generator:
        return PretendGenerator() if torch.device(device).type == "cuda" else _Generator()

    def __instancecheck__(cls, given: Any) -> bool:
        return isinstance(given, _Generator)


class _AnyGenerator(metaclass=_GeneratorClass):
    """In place of ``torch.Generator`` meanwhile."""


class PretendCuda:
    """The device: the labels of storages, and the counts that are open."""

    def __init__(self) -> None:
        self._labels: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self._open: list[Counts] = []

    @contextmanager
    def counted(self) -> Iterator[Counts]:
        """Count what happens within."""
        counts = Counts()
        self._open.append(counts)
        try:
            yield counts
        finally:
            self._open.remove(counts)

    def label(self, tensor: Tensor) -> torch.device | None:
        """Return the device that a tensor is labelled with; None for none yet."""
        if tensor.layout != torch.strided:
            return getattr(tensor, "_pretend_device", None)
        with torch._C._DisableTorchDispatch():
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            found = self._labels.get(tensor.untyped_storage()._cdata)
        # A weak reference keeps the address from being used again, unless it was removed.
        return None if found is None or found[0].expired() else found[1]

    def set_label(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Label a tensor's storage."""
        if tensor.layout != torch.strided:
            tensor._pretend_device = device  # type: ignore[attr-defined]
            return tensor
        with torch._C._DisableTorchDispatch():
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            storage = tensor.untyped_storage()
        self._labels[storage._cdata] = StorageWeakRef(storage), device
        return tensor

    def launch(self, name: str) -> None:
        for counts in self._open:
            counts.launches[name] += 1
            counts.lines[name, _line()] += 1

    def wait(self, name: str, num_bytes: int = 0) -> None:
        for counts in self._open:
            counts.waits[name, _line()] += 1
            counts.bytes_to_cpu += num_bytes


def _line() -> str:
    """Return the innermost line of the library on the stack."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path, _, name = frame.f_code.co_filename.rpartition("/lightgcn/")
        if path and "site-packages" not in name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _copy(x: Tensor, to_cpu: bool) -> tuple[str, int]:
    return ("copy to the CPU", x.nbytes) if to_cpu else ("copy to the device", 0)


def _tensors(given: Any) -> list[Tensor]:
    return [part for part in tree_flatten(given)[0] if isinstance(part, Tensor)]


def _is_device(given: Any) -> bool:
    return isinstance(given, torch.device) or (
        isinstance(given, str) and given[:3] in ("cpu", "cud")
    )


class _Dispatch(TorchDispatchMode):
    """Below autograd: labels results, counts, and refuses to mix."""

    def __init__(self, cuda: PretendCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._call(func, args, kwargs)

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.rpartition("::")[2]
        given = _tensors((args, kwargs))
        labels = {part: self.cuda.label(part) for part in given}
        found = {label for part, label in labels.items() if label and (part.dim() or label == CUDA)}
        device = CUDA if CUDA in found else (CPU if given and CPU in labels.values() else None)
        if len(found) == 2:
            self._check_mixed(name, args, labels)
            device = labels[args[0]]
        on_device = CUDA in found
        masked = name in _COPIES and any(part.dtype == torch.bool for part in _tensors(args[1:2]))
        filled = "put" in name and args[2].numel() == 1  # by the mask
        sized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None
        if on_device and ((masked and not filled) or (name in _WAITING and not sized)):
            self.cuda.wait(name)
        if on_device and name not in _FREE and not func.is_view:
            self.cuda.launch(name)
        result = func(*args, **(kwargs or {}))
        for part in _tensors(result):
            if device is not None and labels.get(part) is None:
                self.cuda.set_label(part, device)
        return result

    def _check_mixed(self, name: str, args: Any, labels: dict[Tensor, Any]) -> None:
        into = labels.get(args[0]) if isinstance(args[0], Tensor) else None
        if name not in _COPIES or (name != "copy_" and into != CUDA):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({name}, {_line()})"
            )
        self.cuda.wait(*_copy(args[0], into == CPU))


class _Function(TorchFunctionMode):
    """Above autograd: what Python sees of a device, and the moves between devices."""

    def __init__(self, cuda: PretendCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def on_cuda(self, given: Any) -> bool:
        return isinstance(given, Tensor) and self.cuda.label(given) == CUDA

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, owner = getattr(func, "__name__", ""), getattr(func, "__self__", None)
        for part in _tensors((args, kwargs)):  # made where no mode sees it: from_numpy
            if self.cuda.label(part) is None:
                self.cuda.set_label(part, CPU)
        if name == "__get__":
            return self._property(func, owner, args)
        first = args[0] if args else None
        if name in ("to", "cpu", "cuda", "as_tensor") and isinstance(first, Tensor):
            return self._moved(name, first, args[1:], kwargs)
        if self.on_cuda(first) and name in ("numpy", "__array__", "tolist"):
            if name != "tolist":
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy "
                    f"the tensor to host memory first. ({_line()})"
                )
            self.cuda.wait("tolist", first.nbytes)
        return self._called(func, name, first, args, kwargs)

    def _property(self, func: Any, owner: Any, args: Any) -> Any:
        if owner is Tensor.device:  # type: ignore[comparison-overlap]
            return self.cuda.label(args[0])
        if owner in (Tensor.is_cuda, Tensor.is_cpu):
            return self.on_cuda(args[0]) == (owner is Tensor.is_cuda)
        return func(*args)

    def _moved(self, name: str, x: Tensor, rest: Any, kwargs: dict[str, Any]) -> Tensor:
        """``x.to(…)``: a copy with the other label, if the device changes."""
        own = self.cuda.label(x)
        target: Any = {"cpu": CPU, "cuda": CUDA}.get(name)
        for part in (*rest, kwargs.get("device"), kwargs.get("other")):
            if _is_device(part):
                target = torch.device(part)
            elif isinstance(part, Tensor):
                target = self.cuda.label(part)
        if name in ("cpu", "cuda"):
            rest, kwargs = (CPU,), {}
        rest = tuple(CPU if _is_device(part) else part for part in rest)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        if target is None or target.type == own.type:  # type: ignore[union-attr]
            return Tensor.to(x, *rest, **kwargs)
        self.cuda.wait(*_copy(x, own == CUDA))
        result = Tensor.to(x, *rest, **(kwargs | {"copy": True}))
        return self.cuda.set_label(result, CUDA if target.type == "cuda" else CPU)

    def _called(self, func: Any, name: str, first: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.get("device")
        if name == "new_tensor" and self.on_cuda(first):
            device = CUDA
        made_on = None if device is None else torch.device(device).type
        place = made_on or ("cuda" if self.on_cuda(first) else "cpu")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != place:
            raise RuntimeError(
                f"Expected a '{place}' device type for generator but found "
                f"'{generator.device.type}' ({_line()})"
            )
        if made_on is None:
            return self._labelled(func(*args, **kwargs), None)
        if made_on == "cuda":
            kwargs["device"] = CPU
            if name in ("tensor", "as_tensor", "new_tensor"):
                self.cuda.wait("copy to the device")
            elif name not in _FREE and not self.on_cuda(first):  # otherwise counted below
                self.cuda.launch(name)
        return self._labelled(func(*args, **kwargs), CUDA if made_on == "cuda" else CPU)

    def _labelled(self, result: Any, device: torch.device | None) -> Any:
        """Label what was made: by ``device``, or the CPU where nothing else is known."""

        def label(part: Tensor) -> Tensor:
            if device is not None or self.cuda.label(part) is None:
                self.cuda.set_label(part, device or CPU)
            return part

        return tree_map_only(Tensor, label, result)


@contextmanager
def pretend_cuda() -> Iterator[PretendCuda]:
    """Make ``device="cuda"`` work within, on labelled CPU tensors."""
    cuda = PretendCuda()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", _AnyGenerator))
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: True))
        stack.enter_context(_Dispatch(cuda))
        function = stack.enter_context(_Function(cuda))
        plain = BackwardCFunction.apply

        def apply(node: Any, *grads: Any) -> Any:
            with function:  # which autograd leaves out
                return plain(node, *grads)

        stack.enter_context(mock.patch.object(BackwardCFunction, "apply", apply))
        yield cuda
