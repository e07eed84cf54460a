"""Constants under `torch.func`, whose transforms wrap every tensor that is made within them.

A wrapped tensor cannot be read by the host, and must not be kept: it is dead after the transform.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def outside_transforms() -> AbstractContextManager[None]:
    """Return a context in which new tensors are plain, also within `torch.func` transforms."""
    if torch.compiler.is_compiling():
        return nullcontext()
    context: AbstractContextManager[None] = torch._C._DisableFuncTorch()
    return context


def values_beneath(tensor: Tensor) -> Tensor:
    """Return the tensor that transforms have wrapped, with all batch dimensions; itself if none
    has."""
    if torch.compiler.is_compiling():
        return tensor
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
