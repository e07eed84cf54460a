import hashlib
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import lightgcn
from lightgcn import Interactions, LinkSet, Split, link_set
from lightgcn.datasets import synthetic_interactions


def split_edges(graph: Any, *arguments: Any, **options: Any) -> Split:
    """Split with some edges held back from the messages, if a test does not say how many."""
    return lightgcn.split_edges(graph, *arguments, **{"disjoint": 0.2} | options)


def build(pairs, num_users, num_items, **options):
    pairs = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return Interactions(pairs[:, 0], pairs[:, 1], num_users, num_items, **options)


def row(num_edges, num_users=1):
    """Users with the same number of edges each, and room for as many negatives."""
    return build(
        {(u, i) for u in range(num_users) for i in range(num_edges)}, num_users, 2 * num_edges + 1
    )


def random_graph(num_edges, num_users=40, num_items=60, seed=0):
    cells = np.random.default_rng(seed).choice(num_users * num_items, num_edges, replace=False)
    return build({divmod(int(cell), num_items) for cell in cells}, num_users, num_items)


def edges_of(graph):
    return set(zip(graph.users.tolist(), graph.items.tolist(), strict=True))


def negatives_of(links):
    return list(zip(*links.negatives.tolist(), strict=True))


def parts(split):
    """Return train, validation and test edges."""
    train = edges_of(split.val.message)
    return train, edges_of(split.val.positives), edges_of(split.test.positives)


def same(first, second):
    return (
        torch.equal(first.edges, second.edges)
        and torch.equal(first.labels, second.labels)
        and edges_of(first.message) == edges_of(second.message)
    )


@st.composite
def graphs(draw):
    num_users, num_items = draw(st.integers(3, 8)), draw(st.integers(4, 8))
    every = [(u, i) for u in range(num_users) for i in range(num_items)]
    edges = draw(
        st.lists(st.sampled_from(every), unique=True, min_size=5, max_size=len(every) * 2 // 3)
    )
    return build(edges, num_users, num_items)


ratio_choices = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.6, 0.3, 0.1), (0.9, 0.1)])
options = st.fixed_dictionaries(
    {
        "disjoint": st.sampled_from([0, 0.2, 0.5, 0.95]),
        "negatives": st.sampled_from([0, 0.5]),
        "seed": st.integers(0, 2**40),
        "negative_pairs": st.sampled_from(["user_item", "all"]),
    }
)


# The partition, and what may see what


@settings(deadline=None, max_examples=150)
@given(graphs(), ratio_choices, options, st.integers(0, 3))
def test_nothing_leaks(graph, ratios, settings, epoch):
    split = split_edges(graph, ratios, **settings)
    train, val, test = parts(split)
    assert train | val | test == edges_of(graph)
    assert len(train) + len(val) + len(test) == graph.num_edges

    links = split.train.resample(epoch)
    message, supervised = edges_of(links.message), edges_of(links.positives)
    if settings["disjoint"]:
        assert message
        assert supervised
        assert not message & supervised
        assert message | supervised == train
    else:
        assert message == supervised == train
    assert edges_of(split.val.message) == train
    assert edges_of(split.test.message) == train | val
    assert edges_of(split.train.exclude) == train
    assert edges_of(split.val.exclude) == edges_of(split.test.exclude) == edges_of(graph)


@settings(deadline=None, max_examples=150)
@given(graphs(), ratio_choices, options, st.integers(0, 3))
def test_negatives_are_true_and_distinct(graph, ratios, settings, epoch):
    split = split_edges(graph, ratios, **settings)
    train = parts(split)[0]
    offset = graph.num_users if settings["negative_pairs"] == "all" else 0
    for links, forbidden in (
        (split.train.resample(epoch), train),
        (split.val.resample(epoch), edges_of(graph)),
        (split.test.resample(epoch), edges_of(graph)),
    ):
        drawn = negatives_of(links)
        assert (
            len(drawn)
            == len(set(drawn))
            == round(settings["negatives"] * links.positives.num_edges)
        )
        forbidden = {(u, offset + i) for u, i in forbidden}
        if offset:
            forbidden |= {(i, u) for u, i in forbidden}
            assert all(0 <= node < graph.num_nodes for pair in drawn for node in pair)
        else:
            assert all(0 <= u < graph.num_users and 0 <= i < graph.num_items for u, i in drawn)
        assert not set(drawn) & forbidden


@settings(deadline=None, max_examples=100)
@given(graphs(), ratio_choices, options, st.integers(0, 3), st.data())
def test_held_out_negatives_avoid_further_known_edges_and_train_ones_do_not_know_them(
    graph, ratios, settings, epoch, data
):
    every = [(u, i) for u in range(graph.num_users) for i in range(graph.num_items)]
    spare = [pair for pair in every if pair not in edges_of(graph)]
    further = data.draw(st.lists(st.sampled_from(spare), unique=True, max_size=len(spare) // 3))
    known = build(further, graph.num_users, graph.num_items, weights=torch.ones(len(further)))
    split, plain = (
        split_edges(graph, ratios, known=known, **settings),
        split_edges(graph, ratios, **settings),
    )
    assert same(split.train.resample(epoch), plain.train.resample(epoch))
    assert parts(split) == parts(plain)
    offset = graph.num_users if settings["negative_pairs"] == "all" else 0
    forbidden = {(u, offset + i) for u, i in edges_of(graph) | set(further)}
    for links in (split.val.resample(epoch), split.test.resample(epoch)):
        drawn = {tuple(sorted(pair)) if offset else pair for pair in negatives_of(links)}
        assert not drawn & forbidden
        assert edges_of(links.exclude) == edges_of(graph) | set(further)


def test_known_edges_over_other_nodes_are_refused():
    with pytest.raises(ValueError, match="different nodes"):
        split_edges(random_graph(100), known=build([(0, 0)], 2, 2))


@settings(deadline=None, max_examples=60)
@given(graphs(), ratio_choices, options)
def test_edges_are_the_positives_then_the_negatives(graph, ratios, settings):
    for links in split_edges(graph, ratios, **settings):
        offset = graph.num_users if settings["negative_pairs"] == "all" else 0
        positives = [(u, offset + i) for u, i in sorted(edges_of(links.positives))]
        assert list(zip(*links.edges.tolist(), strict=True)) == positives + negatives_of(links)
        assert links.labels.tolist() == [1.0] * len(positives) + [0.0] * links.negatives.shape[1]
        assert links.edges.dtype == torch.int64
        assert links.labels.dtype == torch.float32


@pytest.mark.parametrize(
    ("num_edges", "val", "test", "train", "supervised"),
    [(600, 60, 60, 480, 96), (10, 1, 1, 8, 1), (9, 1, 1, 7, 1), (5, 1, 1, 3, 1), (29, 2, 2, 25, 5)],
)
@pytest.mark.parametrize("disjoint", [0, 0.2])
def test_counts(num_edges, val, test, train, supervised, disjoint):
    split = split_edges(random_graph(num_edges), disjoint=disjoint)
    assert split.val.positives.num_edges == val
    assert split.test.positives.num_edges == test
    assert split.val.message.num_edges == train
    assert split.test.message.num_edges == train + val
    assert split.train.positives.num_edges == (supervised if disjoint else train)
    assert split.train.message.num_edges == (train - supervised if disjoint else train)
    for links in split:
        assert links.negatives.shape == (2, links.positives.num_edges)


def test_floor_is_not_upset_by_the_last_bit_of_a_product():
    # 0.29 * 100 is 28.999999999999996 in binary.
    split = split_edges(random_graph(100), (0.42, 0.29, 0.29), negatives=0)
    assert split.val.positives.num_edges == split.test.positives.num_edges == 29


def test_disjoint_near_one_leaves_a_message_edge():
    split = split_edges(random_graph(20), disjoint=1 - 1e-12, negatives=0)
    assert split.train.message.num_edges == 1


def test_two_ratios_give_an_empty_test_set():
    split = split_edges(random_graph(50), (0.9, 0.1))
    assert split.test.positives.num_edges == 0
    assert split.test.edges.shape == (2, 0)
    assert split.val.positives.num_edges == 5
    assert edges_of(split.test.message) == parts(split)[0] | parts(split)[1]


@pytest.mark.parametrize("stratify", [None, "user"])
@pytest.mark.parametrize("disjoint", [0.0, 0.2])
def test_one_ratio_gives_every_edge_to_train(stratify, disjoint):
    graph = random_graph(50)
    split = split_edges(graph, (1.0,), stratify=stratify, disjoint=disjoint)
    assert split.val.positives.num_edges == split.test.positives.num_edges == 0
    assert edges_of(split.train.message) | edges_of(split.train.positives) == edges_of(graph)
    assert edges_of(split.val.message) == edges_of(split.test.message) == edges_of(graph)
    with pytest.raises(ValueError, match=r"too few edges to split.* train "):
        split_edges(random_graph(0), (1.0,), stratify=stratify, disjoint=disjoint)


@pytest.mark.parametrize("ratios", [(0.6, 0.2, 0.2), (0.7, 0.3), (0.5, 0.1, 0.4)])
def test_the_last_edges_of_a_user_are_held_out(ratios):
    graph = random_graph(300)
    order = (
        torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(1)) // 2
    )  # with equal places
    split = split_edges(graph, ratios, stratify="user", order=order, disjoint=0.0, negatives=0)
    place = dict(
        zip(
            zip(graph.users.tolist(), graph.items.tolist(), strict=True),
            order.tolist(),
            strict=True,
        )
    )
    counts = split_edges(graph, ratios, stratify="user", disjoint=0.0, negatives=0)
    for user in range(graph.num_users):
        lists = [
            sorted((place[user, i], i) for i in links.positives.items_of(user).tolist())
            for links in split
        ]
        everything = sorted((place[user, i], i) for i in graph.items_of(user).tolist())
        assert lists[0] + lists[1] + lists[2] == everything
        assert [len(part) for part in lists] == [
            len(links.positives.items_of(user)) for links in counts
        ]


def test_an_order_that_does_not_fit_is_refused():
    graph = random_graph(50)
    for order, stratify, said in (
        (torch.arange(50), None, 'stratify="user"'),
        (torch.arange(49), "user", r"order .* 50 edges, got shape \(49,\)"),
        (torch.tensor([0.0] * 7 + [float("nan")] * 43), "user", r"order\[7\] is NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            split_edges(graph, stratify=stratify, order=order)


def test_weights_and_ids_travel_with_the_edges():
    pairs = [(u, i) for u in range(6) for i in range(6) if (u + i) % 2]
    weights = torch.arange(1.0, len(pairs) + 1)
    graph = build(pairs, 6, 6, weights=weights, user_ids=list("abcdef"))
    expected = dict(zip(pairs, weights.tolist(), strict=True))
    for links in split_edges(graph):
        for part in (links.message, links.positives):
            keys = zip(part.users.tolist(), part.items.tolist(), strict=True)
            assert dict(zip(keys, part.weights.tolist(), strict=True)) == {
                pair: expected[pair] for pair in edges_of(part)
            }
            assert part.user_ids is graph.user_ids


@pytest.mark.slow
def test_every_edge_is_held_out_as_often_as_any_other():
    graph, counts = random_graph(20), np.zeros((3, 20))
    for seed in range(1500):
        split = split_edges(graph, (0.6, 0.2, 0.2), negatives=0, seed=seed)
        for line, part in zip(
            counts, (split.train.positives, split.val.positives, split.test.positives), strict=True
        ):
            line[torch.isin(graph.keys, part.keys).numpy()] += 1
    for line in counts:
        assert chisquare(line).pvalue > 1e-3


# Negatives


def test_train_negatives_may_be_held_out_edges_and_held_out_negatives_may_not():
    # Nearly complete: 12 train edges, 8 held out, 5 pairs that are no edge at all.
    every = [(u, i) for u in range(5) for i in range(5)]
    graph = build(every[:20], 5, 5)
    split = split_edges(graph, (0.6, 0.2, 0.2), disjoint=0)
    train, val, test = parts(split)
    assert (len(train), len(val), len(test)) == (12, 4, 4)
    assert set(negatives_of(split.train)) & (val | test)
    assert set(negatives_of(split.val)) <= set(every[20:])
    assert set(negatives_of(split.test)) <= set(every[20:])


def test_too_few_non_edges_is_an_error_with_both_counts():
    graph = build({(u, i) for u in range(4) for i in range(5)}, 4, 5)
    with pytest.raises(
        ValueError, match="2 distinct negatives were asked for, but only 0 of 20 pairs"
    ):
        split_edges(graph, (0.8, 0.1, 0.1), negatives=1.0)
    assert split_edges(graph, (0.8, 0.1, 0.1), negatives=0).val.negatives.shape == (2, 0)


@pytest.mark.parametrize("negative_pairs", ["user_item", "all"])
def test_the_default_takes_the_negatives_that_there_are_and_warns(negative_pairs):
    graph = build({(u, i) for u in range(6) for i in range(7) if (u + i) % 3}, 6, 7)  # 28 of 42
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = split_edges(
            graph, (0.7, 0.2, 0.1), disjoint=0.0, negative_pairs=negative_pairs, seed=1
        )
    wanted = [len(links.positives.users) for links in split]
    room = 13**2 - 2 * 28 if negative_pairs == "all" else 42 - 28
    train_room = 13**2 - 2 * wanted[0] if negative_pairs == "all" else 42 - wanted[0]
    found = [min(wanted[0], train_room), min(wanted[1], room), min(wanted[2], room)]
    for links, count in zip(split, found, strict=True):
        assert links.negatives.shape[1] == links.resample(5).negatives.shape[1] == count
    assert len(caught) == 0

    full = build({(u, i) for u in range(4) for i in range(5)}, 4, 5)
    with pytest.warns(UserWarning, match=r"train 4 for 16, validation 0 for 2, test 0 for 2"):
        split = split_edges(full, disjoint=0.0)
    assert [links.negatives.shape[1] for links in split] == [4, 0, 0]
    with pytest.warns(UserWarning, match=r"test 0 for 20"):
        assert link_set(full, full).negatives.shape == (2, 0)


@pytest.mark.parametrize("ratio", [0, 0.5, 1, 3])
def test_negatives_per_positive(ratio):
    for links in split_edges(random_graph(100), negatives=ratio):
        assert links.negatives.shape[1] == round(ratio * links.positives.num_edges)


def test_all_node_pairs_hold_every_kind_of_pair():
    graph = random_graph(60, 10, 12)
    links = split_edges(graph, negative_pairs="all", negatives=4).train
    first, second = links.negatives
    kinds = set(zip((first < 10).tolist(), (second < 10).tolist(), strict=True))
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    many = split_edges(graph, negative_pairs="all", negatives=30).train.negatives
    assert (many[0] == many[1]).any()


# Seeds and epochs


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**62), st.sampled_from([0, 0.2]), st.sampled_from([None, "user"]))
def test_same_seed_same_split(seed, disjoint, stratify):
    graph = random_graph(300, 10, 60)
    settings = {"disjoint": disjoint, "stratify": stratify}
    first, again = (split_edges(graph, seed=seed, **settings) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    other = split_edges(graph, seed=seed + 1, **settings)
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    assert parts(first)[1] != parts(other)[1]


def test_the_order_of_the_edges_given_does_not_matter():
    graph = random_graph(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = Interactions(
        graph.users[order], graph.items[order], graph.num_users, graph.num_items
    )
    assert all(same(a, b) for a, b in zip(split_edges(graph), split_edges(shuffled), strict=True))


def test_a_generator_serves_as_the_seed():
    graph = random_graph(200)
    source = torch.Generator().manual_seed(4)
    first, second = split_edges(graph, seed=source), split_edges(graph, seed=source)
    again = split_edges(graph, seed=torch.Generator().manual_seed(4))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first.train, second.train)
    assert same(first.train.resample(3), again.train.resample(3))


@pytest.mark.parametrize("disjoint", [0, 0.2])
@pytest.mark.parametrize("negative_pairs", ["user_item", "all"])
def test_resample_is_a_function_of_seed_and_epoch_alone(disjoint, negative_pairs):
    split = split_edges(random_graph(200), disjoint=disjoint, negative_pairs=negative_pairs, seed=3)
    for links in split:
        before = links.edges.clone(), edges_of(links.message)
        direct = links.resample(5)
        assert same(links.resample(0), links)
        assert same(links.resample(3).resample(5), direct)
        assert same(direct.resample(0), links)
        assert not torch.equal(links.resample(4).negatives, direct.negatives)
        assert not torch.equal(links.negatives, direct.negatives)
        assert torch.equal(links.edges, before[0])
        assert edges_of(links.message) == before[1]
    moves = edges_of(split.train.resample(1).positives) != edges_of(split.train.positives)
    assert moves == bool(disjoint)
    for links in (split.val, split.test):
        assert links.resample(1).positives is links.positives
        assert links.resample(1).message is links.message


def test_link_sets_of_one_split_draw_differently():
    graph = row(100)
    links = [link.resample(1) for link in split_edges(graph, (0.5, 0.25, 0.25), disjoint=0)]
    assert set(negatives_of(links[1])) != set(negatives_of(links[2]))


def test_given_negatives_are_in_range():
    graph = build([(0, 1), (1, 2)], 2, 3)
    for pairs, wrong, fitting in (
        ("user_item", ([0, -1], [2, 0], [0, 3]), [1, 2]),
        ("all", ([-1, 0], [5, 0], [0, 5]), [4, 4]),
    ):
        for pair in wrong:
            with pytest.raises(ValueError, match="negatives"):
                LinkSet(graph, graph, torch.tensor([pair]).T, pairs)
        made = LinkSet(graph, graph, torch.tensor([fitting]).T, pairs)
        assert made.negatives.T.tolist() == [fitting]
    with pytest.raises(ValueError, match=r"negative_pairs.*'items'"):
        LinkSet(graph, graph, torch.tensor([[0], [0]]), "items")


def test_wrong_epoch_and_hand_made_set():
    links = split_edges(random_graph(50)).train
    with pytest.raises(ValueError, match="epoch must be a non-negative integer, got -1"):
        links.resample(-1)
    made = LinkSet(links.message, links.positives, links.negatives)
    assert links.can_resample
    assert not made.can_resample
    assert edges_of(made.exclude) == edges_of(links.message) | edges_of(links.positives)
    with pytest.raises(ValueError, match="has no seed to draw again from"):
        made.resample(1)


def test_global_random_state_is_neither_read_nor_set():
    graph = random_graph(300, 10, 60)
    torch.manual_seed(1)
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    first = [
        split_edges(graph, stratify=stratify, negative_pairs="all") for stratify in (None, "user")
    ]
    first[0].train.resample(2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002
    torch.manual_seed(2)
    assert same(split_edges(graph, negative_pairs="all").train, first[0].train)


# By user


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=6),
    st.sampled_from([(0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.9, 0.1)]),
    st.sampled_from([0, 0.2]),
    st.integers(0, 2**40),
)
def test_stratified_counts_against_a_loop(degrees, ratios, disjoint, seed):
    degrees = [*degrees, 20]
    graph = build(
        {(u, i) for u, degree in enumerate(degrees) for i in range(degree)}, len(degrees), 60
    )
    split = split_edges(graph, ratios, stratify="user", disjoint=disjoint, seed=seed)
    train, val, test = (
        [sum(u == user for u, _ in part) for user in range(len(degrees))] for part in parts(split)
    )
    shares = (*ratios, 0)[1:3]
    for user, degree in enumerate(degrees):
        assert val[user] == math.floor(shares[0] * degree + 1e-9)
        assert test[user] == math.floor(shares[1] * degree + 1e-9)
        assert train[user] == degree - val[user] - test[user]
        assert train[user] >= 1 or degree == 0
    assert set().union(*parts(split)) == edges_of(graph)


def test_stratified_floor_is_taken_in_double_precision():
    # 0.13 * 900 is 117, but 116.99999 in single precision.
    split = split_edges(row(900), (0.74, 0.13, 0.13), stratify="user", negatives=0)
    assert split.val.positives.num_edges == split.test.positives.num_edges == 117


def test_stratified_choice_is_uniform_within_a_user():
    graph, counts = row(10, 2), np.zeros(20)
    for seed in range(1500):
        split = split_edges(graph, (0.6, 0.2, 0.2), stratify="user", negatives=0, seed=seed)
        counts[torch.isin(graph.keys, split.val.positives.keys).numpy()] += 1
    assert chisquare(counts).pvalue > 1e-3


# Graphs that are too small


EVERY_RATIO = [
    (0.8, 0.1, 0.1),
    (0.1, 0.45, 0.45),
    (0.02, 0.49, 0.49),
    (0.2, 0.4, 0.4),
    (0.9, 0.1),
    (0.3, 0.01, 0.69),
]


@pytest.mark.parametrize("ratios", EVERY_RATIO)
@pytest.mark.parametrize("disjoint", [0, 0.2])
@pytest.mark.parametrize("stratify", [None, "user"])
def test_too_small_a_graph_is_told_how_many_edges_suffice(ratios, disjoint, stratify):
    def attempt(num_edges):
        return split_edges(row(num_edges), ratios, disjoint=disjoint, stratify=stratify)

    names = "train, validation and test" if len(ratios) == 3 else "train and validation"
    for num_edges in range(4):
        try:
            attempt(num_edges)
            continue
        except ValueError as error:
            message = str(error)
        assert names in message
        assert ("test" in message) == (len(ratios) == 3)
        needed = int(re.search(r"at least (\d+)", message).group(1))
        for less in range(num_edges, needed):
            with pytest.raises(ValueError, match="too few edges"):
                attempt(less)
        assert all(edges_of(links.positives) for links in attempt(needed)[: len(ratios)])


@pytest.mark.parametrize("ratios", EVERY_RATIO[:4])
@pytest.mark.parametrize("disjoint", [0, 0.2])
def test_too_small_users_are_told_what_one_of_them_needs(ratios, disjoint):
    graph = build({(0, 0), (1, 0), (1, 1)}, 2, 500)
    with pytest.raises(ValueError, match="the most that one has is 2") as caught:
        split_edges(graph, ratios, disjoint=disjoint, stratify="user")
    needed = int(re.search(r"needs at least (\d+) edges", str(caught.value)).group(1))
    assert split_edges(
        build({(0, 0)} | {(1, i) for i in range(needed)}, 2, 500),
        ratios,
        disjoint=disjoint,
        stratify="user",
    )
    with pytest.raises(ValueError, match="too few edges"):
        split_edges(
            build({(0, 0)} | {(1, i) for i in range(needed - 1)}, 2, 500),
            ratios,
            disjoint=disjoint,
            stratify="user",
        )


def test_a_user_alone_is_told_to_leave_messages_too():
    def alone(num_edges):
        return build({(1, i) for i in range(num_edges)}, 2, 500)

    with pytest.raises(ValueError, match="needs at least 4 edges"):
        split_edges(alone(2), (0.5, 0.25, 0.25), disjoint=0.2, stratify="user")
    split_edges(alone(4), (0.5, 0.25, 0.25), disjoint=0.2, stratify="user")


def test_a_train_share_near_nothing_is_answered_at_once():
    with pytest.raises(
        ValueError, match=r"too few edges to split: 3, and at least \d{6,7} are needed"
    ):
        split_edges(row(3), (2e-6, 0.5, 0.5 - 2e-6))
    with pytest.raises(ValueError, match="ratios must leave a share for train"):
        split_edges(row(3), (1e-7, 0.5, 0.5))


# Arguments


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((0.8, 0.1, 0.2), "ratios must add up to 1, got (0.8, 0.1, 0.2), which add up to 1.1"),
        ((0.8, 0.1), "ratios must add up to 1"),
        (
            (0.8, float("nan"), 0.2),
            "each of the ratios must be a positive number, got (0.8, nan, 0.2)",
        ),
        ((0.8, 0.2, 0.0), "leave the test share out if no test set is wanted"),
        ((1.2, -0.1, -0.1), "each of the ratios must be a positive number"),
        ((0.0, 1.0), "each of the ratios must be a positive number"),
        ((float("inf"), 0.1, 0.1), "each of the ratios must be a positive number"),
        ((), "ratios must be (train, validation, test), (train, validation) or (train,), got ()"),
        ((0.9,), "ratios must add up to 1"),
        (
            (0.25, 0.25, 0.25, 0.25),
            "ratios must be (train, validation, test), (train, validation) or (train,)",
        ),
    ],
)
def test_wrong_ratios(ratios, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        split_edges(random_graph(100), ratios)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("disjoint", 1.0, "disjoint must be in [0, 1), got 1.0"),
        ("disjoint", -0.1, "disjoint must be in [0, 1), got -0.1"),
        ("disjoint", float("nan"), "disjoint must be in [0, 1), got nan"),
        ("negatives", -1.0, "negatives must be a number of at least 0, got -1.0"),
        ("negatives", float("inf"), "at least 0, got inf"),
        ("stratify", "item", 'stratify must be None, "user" or "time", got \'item\''),
        ("negative_pairs", "items", 'negative_pairs must be "user_item" or "all", got \'items\''),
        ("seed", -1, "seed must be a non-negative integer"),
    ],
)
def test_wrong_arguments(argument, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        split_edges(random_graph(100), **{argument: value})


def test_ratios_of_single_precision_are_accepted():
    ratios = tuple(torch.tensor([0.8, 0.1, 0.1]).tolist())
    assert sum(ratios) != 1
    assert split_edges(random_graph(600), ratios).val.positives.num_edges == 60


# Splits that are given


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 2**40), st.sampled_from(["user_item", "all"]))
def test_link_set_negatives_avoid_messages_and_positives(graph, seed, negative_pairs):
    half = torch.arange(graph.num_edges) % 2 == 0
    message, positives = graph.select(half), graph.select(~half)
    links = link_set(message, positives, negatives=0.5, negative_pairs=negative_pairs, seed=seed)
    assert links.message is message
    assert links.positives is positives
    assert edges_of(links.exclude) == edges_of(graph)
    offset = graph.num_users if negative_pairs == "all" else 0
    known = {(u, offset + i) for u, i in edges_of(graph)}
    assert not set(negatives_of(links)) & (known | {(i, u) for u, i in known if offset})
    assert links.negatives.shape[1] == round(0.5 * positives.num_edges)
    assert same(
        links, link_set(message, positives, negatives=0.5, negative_pairs=negative_pairs, seed=seed)
    )
    assert same(links.resample(0), links)


def test_link_set_over_different_nodes():
    with pytest.raises(ValueError, match="over different nodes"):
        link_set(row(3), row(4))


# Moving


@pytest.mark.parametrize("disjoint", [0, 0.2])
def test_graphs_that_are_shared_stay_shared_when_moved(disjoint):
    split = split_edges(random_graph(50), disjoint=disjoint)
    moved = split.to("meta")
    assert all(links.edges.device.type == links.labels.device.type == "meta" for links in moved)
    assert moved.val.exclude is moved.test.exclude
    assert moved.val.message is moved.train.exclude
    if not disjoint:
        assert moved.train.message is moved.train.positives
    assert [repr(links) for links in moved] == [repr(links) for links in split]


def test_each_shared_graph_is_moved_once(monkeypatch):
    moves = []
    original = Interactions.to
    monkeypatch.setattr(
        Interactions, "to", lambda self, device: moves.append(id(self)) or original(self, device)
    )
    split_edges(random_graph(50)).to("meta")
    assert len(moves) == len(set(moves))


def test_moved_set_can_be_drawn_again():
    links = split_edges(random_graph(50)).train
    assert same(links.to("cpu").resample(2), links.resample(2))


def test_repr():
    links = split_edges(random_graph(600)).train
    assert repr(links) == "LinkSet(96 positives, 96 negatives, messages along 384 edges)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stratify", [None, "user"])
def test_split_on_cuda(stratify):
    graph = random_graph(600).to("cuda")
    split = split_edges(graph, stratify=stratify)
    train, val, test = parts(split)
    assert train | val | test == edges_of(graph)
    assert len(train) + len(val) + len(test) == 600
    for links, known in (
        (split.train, train),
        (split.val, edges_of(graph)),
        (split.test, edges_of(graph)),
    ):
        assert links.edges.device.type == links.labels.device.type == "cuda"
        assert not set(negatives_of(links)) & known
        assert same(links.resample(0), links)
    back = split.to("cpu")
    for here, there in zip(back, split, strict=True):
        assert here.edges.equal(there.edges.cpu()) and here.labels.equal(there.labels.cpu())
    assert back.train.resample(1).edges.device.type == "cpu"


def test_a_fingerprint_is_of_messages_positives_and_negatives_of_train_and_validation():
    graph = synthetic_interactions(40, 30, 400, seed=1)
    split = split_edges(graph, seed=2)
    digest = hashlib.sha256()
    for links in (split.train, split.val):
        digest.update(links.message.fingerprint().encode())
        digest.update(links.positives.fingerprint().encode())
        digest.update(links.negatives.numpy().tobytes())
    assert split.fingerprint() == digest.hexdigest()
    assert (
        split.fingerprint()
        == split_edges(graph, seed=2).fingerprint()
        != split_edges(graph, seed=3).fingerprint()
    )
    assert split._replace(test=split.val).fingerprint() == split.fingerprint()
    assert split._replace(val=split.train).fingerprint() != split.fingerprint()


def test_defaults():
    graph = synthetic_interactions(40, 30, 400, seed=1)
    assert split_edges(graph).fingerprint() == split_edges(graph, seed=0).fingerprint()
    part = graph.select(torch.arange(400) % 2 > 0), graph.select(torch.arange(400) % 2 < 1)
    assert torch.equal(link_set(*part).negatives, link_set(*part, negatives=1.0, seed=0).negatives)
    assert link_set(*part).negatives.shape[1] == 200


def test_the_fewest_edges_that_can_be_split():
    graph = Interactions(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 3]), 9, 9)
    three = graph.select(torch.arange(3))
    assert [links.positives.num_edges for links in split_edges(three, disjoint=0.0)] == [1, 1, 1]
    with pytest.raises(ValueError, match="too few edges to split: 3, and at least 4 are needed"):
        split_edges(three, disjoint=0.5)
    assert [links.positives.num_edges for links in split_edges(graph, disjoint=0.5)] == [1, 1, 1]


def test_an_order_of_floating_numbers_is_one():
    graph = synthetic_interactions(10, 30, 200, seed=1)
    order = torch.rand(200, generator=torch.Generator().manual_seed(0))
    one = split_edges(graph, stratify="user", order=order)
    other = split_edges(graph, stratify="user", order=order.argsort().argsort())
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("stratify", [None, "user"])
def test_a_train_share_of_next_to_nothing_is_refused(stratify):
    with pytest.raises(ValueError, match="must leave a share for train"):
        split_edges(
            synthetic_interactions(10, 30, 200), (1e-10, 0.5, 0.5 - 1e-10), stratify=stratify
        )


def test_the_links_of_some_users_are_theirs_alone_and_all_of_them():
    graph = synthetic_interactions(80, 60, 1500, seed=2)
    links = split_edges(graph, negatives=2.0).val
    some = links.sample_users(11, seed=3)
    users = some.positives.users.unique()
    assert len(users) == 11 and some.message is links.message and not some.can_resample
    for mine, every in (
        (some.positives.edge_index, links.positives.edge_index),
        (some.negatives, links.negatives),
    ):
        kept = torch.isin(every[0], users)
        assert kept.any() and torch.equal(mine, every[:, kept])
    assert torch.equal(
        links.sample_users(11, seed=3).positives.edge_index, some.positives.edge_index
    )
    assert not torch.equal(
        links.sample_users(11, seed=4).positives.edge_index, some.positives.edge_index
    )
    whole = links.sample_users(10**6)
    assert torch.equal(whole.edges, links.edges) and torch.equal(whole.labels, links.labels)
    nodes = split_edges(graph, negative_pairs="all").val
    assert torch.equal(nodes.sample_users(5).negatives, nodes.negatives)
    with pytest.raises(ValueError, match="count must be"):
        links.sample_users(0)
