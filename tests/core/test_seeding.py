import itertools
import random
import re

import numpy as np
import pytest
import torch

from lightgcn.core.seeding import make_generator, seed_from


def numbers(*arguments):
    return torch.rand(8, generator=make_generator(*arguments)).tolist()


def test_the_same_seed_and_stream_give_the_same_numbers():
    assert numbers(3, 1, 4) == numbers(3, 1, 4)
    assert numbers(np.int64(3), 1, 4) == numbers(3, 1, 4)


def test_no_two_streams_share_their_numbers():
    # Zeros and words beyond 32 bits are where a plain concatenation of seed and stream runs
    # together.
    values = (0, 1, 2, 2**32, 2**32 + 1, 2**62)
    names = [
        (seed, *stream)
        for seed in values
        for n in range(3)
        for stream in itertools.product((0, 1, 2), repeat=n)
    ]
    states = {make_generator(*name).initial_seed() for name in names}
    assert len(states) == len(names)


def test_a_generator_in_place_of_the_seed_gives_one_draw():
    source = torch.Generator().manual_seed(5)
    first, second = numbers(source, 0), numbers(source, 0)
    assert first != second
    assert first == numbers(torch.Generator().manual_seed(5), 0)
    again = torch.Generator().manual_seed(5)
    assert first == numbers(seed_from(again), 0)


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "1"])
def test_wrong_seed(seed):
    message = f"seed must be a non-negative integer or a torch.Generator, got {seed!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_generator(seed)


def test_global_random_state_is_neither_read_nor_set():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    drawn = numbers(7)
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    assert numbers(7) == drawn


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_generator_is_determined_by_seed_and_stream():
    first, second = (
        torch.rand(8, generator=make_generator(3, 1, device="cuda"), device="cuda").tolist()
        for _ in range(2)
    )
    assert first == second
    assert seed_from(torch.Generator("cuda").manual_seed(5)) == seed_from(
        torch.Generator("cuda").manual_seed(5)
    )
