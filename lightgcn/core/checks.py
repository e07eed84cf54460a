"""Checks of arguments: each returns the value in the form that the library uses, or raises a
`ValueError` that names the argument.

`is_out_of_memory` recognises exceptions of exhausted memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The first integer that 32 bits cannot hold: below it, indices are as wide.
INT32_END = 2**31


def checked_count(name: str, value: object, least: int = 0) -> int:
    """Return an integer of at least ``least`` as an int, or raise a ValueError; True is no
    integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        kind = f"an integer of at least {least}" if least else "a non-negative integer"
        raise ValueError(f"{name} must be {kind}, got {value!r}")
    return int(value)


def is_missing(value: object) -> bool:
    """Return whether a value is None, NaN, NaT or pandas' NA."""
    return value is None or str(value) in ("nan", "NaT", "<NA>")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_number(name: str, value: Any, least: float | None = None) -> float:
    """Return a finite number of at least ``least``, for None a positive one, as a float, or raise a
    ValueError."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if number and math.isfinite(value) and (value > 0 if least is None else value >= least):
        return float(value)
    kind = "a positive number" if least is None else f"a number of at least {least}"
    raise ValueError(f"{name} must be {kind}, got {value!r}")


def check_floating(ndim: int | None = None, **given: Any) -> None:
    """Raise an error that names the argument unless each is a floating tensor, of ``ndim``
    dimensions."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a floating tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise ValueError(f"{name} must be floating, got {value.dtype}; call .float()")
        if ndim not in (None, value.ndim):
            raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(value.shape)}")


def check_same_device(**given: Any) -> None:
    """Raise a ValueError that names two arguments on different devices, and the mend; each has a
    ``device``."""
    (first, one), *others = given.items()
    for name, other in others:
        if other.device != one.device:
            raise ValueError(
                f"{first} is on {one.device}, {name} on {other.device}: move one of them with .to()"
            )


def as_tensor(name: str, given: Any) -> Tensor:
    """Return a tensor as it is, and lists, NumPy arrays and columns of data frames as a CPU tensor.

    An array shares its memory with the tensor unless it is read-only. Default dtypes and devices
    of torch play no part: whole numbers of a list become int64, others float64.

    Raises:
        ValueError: if ``given`` is no array of numbers; the message names the argument.
    """
    if isinstance(given, Tensor):
        if given.layout != torch.strided:
            raise ValueError(f"{name} must be dense, got a tensor of {given.layout}")
        return given
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    if array.dtype.kind not in "biufc":
        raise ValueError(
            f"{name} must be an array of numbers, got {type(given).__name__} of {array.dtype}"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise ValueError(f"{name}: {int(array.max())} does not fit into 64 bits with a sign")
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(native)


def checked_integers(name: str, given: Any) -> Tensor:
    """Return (n,) int64 from whatever (n,) integers were given, or raise a ValueError."""
    values = as_tensor(name, given)
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (E,), got {tuple(values.shape)}")
    return _to_int64(name, values)


def checked_edge_index(given: Any, name: str = "edge_index") -> Tensor:
    """Return (2, E) int64 from whatever (2, E) integers were given, or raise a ValueError."""
    pairs = as_tensor(name, given)
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        hint = f"; pass {name}.T" if pairs.ndim == 2 and pairs.shape[1] == 2 else ""
        raise ValueError(f"{name} must have shape (2, E), got {tuple(pairs.shape)}{hint}")
    return _to_int64(name, pairs)


def _to_int64(name: str, values: Tensor) -> Tensor:
    no_integer = values.dtype == torch.bool or values.is_floating_point() or values.is_complex()
    if no_integer and values.numel():
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    return values.to(torch.int64)


def checked_indices(name: str, given: Any, count: int, count_name: str) -> Tensor:
    """Return (n,) int64, each in ``[0, count)``; a ValueError names the first that is not."""
    values = checked_integers(name, given)
    if not values.numel():
        return values
    least, most = values.aminmax()
    if int(least) >= 0 and int(most) < count:
        return values
    wrong = ((values < 0) | (values >= count)).nonzero().flatten()
    at = int(wrong[0])
    hint = (
        " Users and items count from zero, each on their own." if name in ("users", "items") else ""
    )
    raise ValueError(
        f"{name}[{at}] is {int(values[at])}, outside [0, {count_name}={count}); "
        f"{len(wrong)} of {len(values)} values are.{hint}"
    )


def checked_weights(given: Any, num_edges: int) -> Tensor | None:
    """Return (num_edges,) finite positive floating weights, or None; a ValueError names the first
    that is not."""
    if given is None:
        return None
    weights = as_tensor("weights", given)
    if weights.requires_grad:
        raise ValueError(
            "weights require a gradient, but edge weights are constants of the graph and no "
            "gradient reaches them: pass weights.detach()"
        )
    if not weights.is_floating_point() or isinstance(given, list | tuple):
        weights = weights.to(torch.float32)
    if weights.shape != (num_edges,):
        raise ValueError(f"weights must have shape ({num_edges},), got {tuple(weights.shape)}")
    wrong = (~(weights.isfinite() & (weights > 0))).nonzero().flatten()
    if wrong.numel():
        at = int(wrong[0])
        raise ValueError(
            f"weights[{at}] is {float(weights[at])}; a weight must be finite and positive"
        )
    return weights


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports that memory ran out, on a CPU or a GPU."""
    # Torch has no class for it on a CPU, nor for NCCL and the CUDA driver.
    phrases = ("not enough memory", "can't allocate memory", "out of memory")
    is_torch = isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_torch


def largest_entry(embeddings: Tensor) -> float:
    """Return the largest absolute value, 0 for none."""
    if not embeddings.numel():
        return 0.0
    low, high = embeddings.detach().aminmax()  # no copy of the absolute values
    return max(-float(low), float(high))


def check_finite(*embeddings: Tensor) -> None:
    """Raise a ValueError if an embedding, a row of one of the tensors, is NaN or infinite."""
    if all(part.is_meta or bool(part.sum().isfinite()) for part in embeddings):
        return
    wrong = sum(int((~part.isfinite()).any(1).sum()) for part in embeddings)
    if wrong:
        total = sum(map(len, embeddings))
        raise ValueError(
            f"{wrong} of {total} embeddings are not finite: training diverged; lower the learning "
            "rate"
        )
