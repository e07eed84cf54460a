"""Random generators from seeds: every random choice in the library goes through one of these."""

from __future__ import annotations

import numpy as np
import torch


def make_generator(
    seed: int | torch.Generator, *stream: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on ``device`` that is determined by ``seed`` and the ``stream`` numbers
    alone.

    Streams of one seed are independent of each other, so ``(seed, epoch)`` names the random choices
    of an epoch and nothing else has to be stored to draw them again. A ``torch.Generator`` in place
    of the seed gives one draw as the seed. The global random state is neither read nor set.

    Raises:
        ValueError: if ``seed`` is negative.
    """
    # The spawn key keeps streams apart: appended to the entropy, (0,) and (0, 0) would give the
    # same state.
    words = np.random.SeedSequence(seed_from(seed), spawn_key=stream).generate_state(2, np.uint32)
    state = (int(words[0]) << 32 | int(words[1])) & 0x7FFF_FFFF_FFFF_FFFF
    return torch.Generator(device=device).manual_seed(state)


def generator_of(
    generator: int | torch.Generator, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator as it is, or a new one on ``device`` from a seed."""
    return (
        generator
        if isinstance(generator, torch.Generator)
        else make_generator(generator, device=device)
    )


def seed_from(seed: int | torch.Generator) -> int:
    """Return ``seed`` itself, or one draw from it if it is a ``torch.Generator``."""
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**62, (), generator=seed, dtype=torch.int64, device=seed.device))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or a torch.Generator, got {seed!r}")
    return int(seed)
