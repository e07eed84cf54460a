"""What the processor can do."""

from __future__ import annotations

from functools import cache

import torch


@cache
def fast_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices by instructions of their own (AVX-512 BF16
    or AMX)."""
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, ask, lambda: False)()) for ask in asks)
