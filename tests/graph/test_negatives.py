import hashlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lightgcn import Interactions, sample_negative_items, sample_negatives
from lightgcn.graph.negatives import (
    sample_negative_node_pairs,
    sample_user_positives,
    shuffled_batches,
)


def build(pairs, num_users, num_items):
    pairs = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return Interactions(pairs[:, 0], pairs[:, 1], num_users, num_items)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def columns(pairs):
    return list(zip(*pairs.tolist(), strict=True))


def non_edges(pairs, num_users, num_items):
    return [(u, i) for u in range(num_users) for i in range(num_items) if (u, i) not in pairs]


def non_edges_of_nodes(pairs, num_users, num_items):
    edges = {(u, num_users + i) for u, i in pairs}
    edges |= {(b, a) for a, b in edges}
    nodes = range(num_users + num_items)
    return [(a, b) for a in nodes for b in nodes if (a, b) not in edges]


@st.composite
def graphs(draw):
    num_users, num_items = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    every = [(u, i) for u in range(num_users) for i in range(num_items)]
    pairs = set(draw(st.lists(st.sampled_from(every), unique=True))) if every else set()
    return pairs, num_users, num_items


def assert_uniform(counts):
    # Seeds are fixed, so this never fails by chance; a bias of a few percent does fail.
    assert chisquare(counts).pvalue > 1e-3, counts


# Distinct pairs


@pytest.mark.parametrize(
    ("sample", "reference"),
    [(sample_negatives, non_edges), (sample_negative_node_pairs, non_edges_of_nodes)],
    ids=["user_item", "all"],
)
class TestDistinctPairs:
    @settings(deadline=None, max_examples=80)
    @given(graph=graphs(), share=st.floats(0, 1), seed=st.integers(0, 2**32))
    def test_are_distinct_sorted_non_edges(self, sample, reference, graph, share, seed):
        allowed = reference(*graph)
        wanted = round(share * len(allowed))
        drawn = sample(build(*graph), wanted, generator(seed))
        assert drawn.shape == (2, wanted)
        assert drawn.dtype == torch.int64
        drawn = columns(drawn)
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(allowed)

    @settings(deadline=None, max_examples=40)
    @given(graph=graphs(), seed=st.integers(0, 2**32))
    def test_all_of_them_can_be_drawn_and_not_one_more(self, sample, reference, graph, seed):
        allowed = reference(*graph)
        assert columns(sample(build(*graph), len(allowed), generator(seed))) == allowed
        total = len(allowed) + len(graph[0]) * (1 if sample is sample_negatives else 2)
        message = (
            f"{len(allowed) + 1} distinct negatives were asked for, but only {len(allowed)} of "
            f"{total} pairs "
            "are no edges"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            sample(build(*graph), len(allowed) + 1, generator(seed))

    @pytest.mark.parametrize("count", [1, 2, 4, 9])
    def test_are_uniform(self, sample, reference, count):
        # Small counts go through the rejection of repeats, large ones through a permutation.
        graph = {(0, 0), (0, 1), (1, 2), (2, 3), (2, 2)}, 3, 4
        allowed = reference(*graph)
        source, edges = generator(count), build(*graph)
        counts = dict.fromkeys(allowed, 0)
        for _ in range(3000):
            for pair in columns(sample(edges, min(count, len(allowed) - 1), source)):
                counts[pair] += 1
        assert_uniform(list(counts.values()))

    def test_the_seed_alone_determines_them(self, sample, reference):
        edges = build({(0, 0), (7, 9)}, 20, 30)
        first, again, other = (sample(edges, 50, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_global_random_state_is_untouched(self, sample, reference):
        torch.manual_seed(1)
        before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
        sample(build({(0, 0)}, 20, 30), 50, generator())
        sample(build({(0, 0)}, 2, 3), 4, generator())
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == str(np.random.get_state())  # noqa: NPY002

    def test_a_negative_number_is_refused(self, sample, reference):
        with pytest.raises(ValueError, match=r"num_samples.*got -1"):
            sample(build({(0, 0)}, 2, 3), -1, generator())


def test_repeats_are_thinned_evenly():
    # Just below the density at which a permutation is drawn: the surplus draws that go must favour
    # no pair.
    edges, source, counts = build(set(), 10, 10), generator(3), np.zeros(100)
    for _ in range(1500):
        users, items = sample_negatives(edges, 24, source)
        counts[users * 10 + items] += 1
    assert_uniform(counts)


def test_a_seed_stands_for_the_same_negatives_in_every_version():
    """Else a run could not go on, nor be evaluated on its own test links, with a later version than
    it began with."""
    digest = hashlib.sha256()
    for num_items in (4, 40, 400, 4000):
        graph = build({(user, 3 * user % num_items) for user in range(5)}, 5, num_items)
        free = 5 * num_items - graph.num_edges
        for num_samples in (
            0,
            1,
            free // 7,
            free // 5,
            free // 4 - 1,
            free // 4,
            free // 4 + 1,
            free // 2,
            free,
        ):
            for seed in range(20):
                digest.update(sample_negatives(graph, num_samples, seed).numpy().tobytes())
    assert digest.hexdigest()[:16] == "25c3b86243c19d2d"


def test_pair_count_beyond_32_bits():
    edges = build({(0, 0), (99_999, 99_999)}, 100_000, 100_000)
    users, items = sample_negatives(edges, 1000, generator())
    assert users.max() > 90_000
    assert items.max() > 90_000
    assert len(torch.unique(users * 100_000 + items)) == 1000


def test_node_pairs_run_in_both_directions_and_along_each_side():
    pairs = columns(sample_negative_node_pairs(build({(0, 0)}, 2, 2), 14, generator()))
    assert {(0, 3), (3, 0), (0, 1), (2, 3), (1, 1), (2, 2)} <= set(pairs)
    assert (0, 2) not in pairs
    assert (2, 0) not in pairs


# Negatives of given users


@settings(deadline=None, max_examples=80)
@given(graphs(), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_negative_items_are_no_edges(graph, num_negatives, seed, data):
    pairs, num_users, num_items = graph
    open_users = [u for u in range(num_users) if sum(v == u for v, _ in pairs) < num_items]
    users = data.draw(st.lists(st.sampled_from(open_users), max_size=8)) if open_users else []
    drawn = sample_negative_items(
        build(*graph), torch.tensor(users, dtype=torch.int64), generator(seed), num_negatives
    )
    assert drawn.shape == (len(users), num_negatives)
    for user, items in zip(users, drawn.tolist(), strict=True):
        assert all(0 <= item < num_items and (user, item) not in pairs for item in items)


@pytest.mark.parametrize("user", [0, 1, 2])
def test_negative_items_are_uniform(user):
    pairs = {(0, 0), (0, 5), (1, 1), (1, 2), (1, 3), (2, 0)}
    edges = build(pairs, 3, 6)
    drawn = sample_negative_items(edges, torch.full((500,), user), generator(user), 20)
    allowed = [item for item in range(6) if (user, item) not in pairs]
    counts = torch.bincount(drawn.flatten(), minlength=6)
    assert_uniform(counts[allowed].tolist())
    assert counts.sum() == counts[allowed].sum()


def test_user_who_saw_everything_is_named():
    edges = build({(0, 0), (2, 0), (2, 1), (2, 2)}, 3, 3)
    with pytest.raises(ValueError, match="user 2 has an edge to each of the 3 items"):
        sample_negative_items(edges, torch.tensor([0, 1, 0, 2]), generator())
    assert sample_negative_items(edges, torch.tensor([0, 1, 0]), generator()).shape == (3, 1)


@pytest.mark.parametrize("num_negatives", [0, -2])
def test_wrong_number_of_negative_items(num_negatives):
    with pytest.raises(
        ValueError, match=f"num_negatives must be an integer of at least 1, got {num_negatives}"
    ):
        sample_negative_items(build(set(), 1, 1), torch.tensor([0]), generator(), num_negatives)


# Positives and batches


def test_user_positives_are_uniform_over_users_and_over_each_users_edges():
    degrees = {0: 1, 2: 4, 3: 2}  # user 1 has none
    edges = build({(u, i) for u, degree in degrees.items() for i in range(degree)}, 4, 4)
    drawn = sample_user_positives(edges, 12_000, generator(1))
    assert drawn.shape == (12_000,)
    counts = torch.bincount(drawn, minlength=edges.num_edges).double()
    expected = [12_000 / 3 / degrees[user] for user in edges.users.tolist()]
    assert chisquare(counts, expected).pvalue > 1e-3


def test_user_positives_of_a_user_with_many_items_are_uniform():
    graph = build({(0, i) for i in range(100)}, 1, 100)
    positions = sample_user_positives(graph, 20_000, generator())
    assert_uniform(np.bincount(positions.numpy(), minlength=100))


def test_user_positives_of_an_empty_graph():
    with pytest.raises(ValueError, match="without edges"):
        sample_user_positives(build(set(), 3, 3), 1, generator())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 2**32))
def test_batches_are_a_permutation_in_pieces(num_samples, batch_size, seed):
    batches = [
        batch.tolist() for batch in shuffled_batches(num_samples, batch_size, generator(seed))
    ]
    step = batch_size or max(num_samples, 1)
    assert [len(batch) for batch in batches] == [
        len(range(num_samples)[at : at + step]) for at in range(0, num_samples, step)
    ]
    assert sorted(place for batch in batches for place in batch) == list(range(num_samples))


def test_batches_differ_by_seed():
    first, again, other = (
        torch.cat(list(shuffled_batches(50, 7, generator(seed)))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_wrong_batch_size_is_refused_at_the_call(batch_size):
    with pytest.raises(
        ValueError, match=f"batch_size must be at least 1, or None for one batch, got {batch_size}"
    ):
        shuffled_batches(10, batch_size, generator())


def test_other_samplers_leave_the_global_random_state_alone():
    edges = build({(0, 0), (1, 1)}, 3, 3)
    before = torch.get_rng_state()
    sample_negative_items(edges, torch.tensor([0, 1]), generator())
    sample_user_positives(edges, 5, generator())
    list(shuffled_batches(5, 2, generator()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_samplers_on_cuda():
    pairs = {(u, i) for u in range(8) for i in range(8) if (u * i) % 3}
    edges, source = build(pairs, 8, 8).to("cuda"), torch.Generator("cuda").manual_seed(0)
    free = non_edges(pairs, 8, 8)
    assert columns(sample_negatives(edges, len(free), source)) == free
    assert set(columns(sample_negatives(edges, 3, source))) <= set(free)
    nodes = non_edges_of_nodes(pairs, 8, 8)
    assert columns(sample_negative_node_pairs(edges, len(nodes), source)) == nodes
    users = torch.arange(8, device="cuda")
    drawn = sample_negative_items(edges, users, source, 20)
    assert not edges.contains(users.repeat_interleave(20), drawn.flatten()).any()
    positions = sample_user_positives(edges, 100, source)
    assert positions.device.type == "cuda"
    assert int(positions.max()) < edges.num_edges
