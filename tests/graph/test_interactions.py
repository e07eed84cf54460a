import hashlib
import re

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn import Interactions

USERS, ITEMS = 4, 5
PAIRS = [(2, 1), (0, 3), (2, 1), (0, 0), (3, 4), (2, 0)]


def build(pairs, num_users=USERS, num_items=ITEMS, **options):
    pairs = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)
    return Interactions(pairs[:, 0], pairs[:, 1], num_users, num_items, **options)


def pairs_of(graph):
    return list(zip(graph.users.tolist(), graph.items.tolist(), strict=True))


pair_lists = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=30)


# What every graph is


@settings(deadline=None, max_examples=100)
@given(pair_lists)
def test_pairs_are_sorted_and_kept_once(pairs):
    graph = build(pairs)
    expected = sorted(set(pairs))
    assert pairs_of(graph) == expected
    assert graph.num_edges == len(graph) == len(expected)
    assert graph.edge_index.tolist() == [[u for u, _ in expected], [i for _, i in expected]]
    assert graph.keys.tolist() == [u * ITEMS + i for u, i in expected]
    assert graph.users.dtype == graph.items.dtype == graph.keys.dtype == torch.int64


@settings(deadline=None, max_examples=100)
@given(pair_lists)
def test_views_agree_with_loops(pairs):
    graph = build(pairs)
    edges = set(pairs)
    assert graph.user_degrees.tolist() == [
        sum(u == user for u, _ in edges) for user in range(USERS)
    ]
    assert graph.item_degrees.tolist() == [
        sum(i == item for _, i in edges) for item in range(ITEMS)
    ]
    ends = [sum(u < user for u, _ in edges) for user in range(USERS + 1)]
    assert graph.indptr.tolist() == ends
    for user in range(USERS):
        assert graph.items_of(user).tolist() == sorted(i for u, i in edges if u == user)
    every = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    assert graph.contains(*every).tolist() == [
        (u, i) in edges for u in range(USERS) for i in range(ITEMS)
    ]


@settings(deadline=None, max_examples=60)
@given(pair_lists.filter(bool), st.randoms(use_true_random=False))
def test_weights_of_repeats_are_added_up(pairs, random):
    weights = [random.randint(1, 9) for _ in pairs]
    graph = build(pairs, weights=torch.tensor(weights, dtype=torch.float64))
    expected: dict = {}
    for pair, weight in zip(pairs, weights, strict=True):
        expected[pair] = expected.get(pair, 0) + weight
    assert dict(zip(pairs_of(graph), graph.weights.tolist(), strict=True)) == expected
    assert graph.weights.dtype == torch.float64


def test_integer_weights_become_float32():
    assert build([(0, 0)], weights=torch.tensor([3])).weights.dtype == torch.float32


def test_counts_and_repr():
    graph = build(PAIRS)
    assert (graph.num_users, graph.num_items, graph.num_nodes) == (USERS, ITEMS, USERS + ITEMS)
    assert graph.device == torch.device("cpu")
    assert repr(graph) == "Interactions(4 users, 5 items, 5 edges)"
    assert "weighted" in repr(build([(0, 0)], weights=torch.ones(1)))


def test_empty_graph():
    for graph in (build([], 0, 0), build([], 3, 2), Interactions([], [], 3, 2)):
        assert graph.num_edges == 0
        assert graph.indptr.tolist() == [0] * (graph.num_users + 1)
        assert graph.edge_index.shape == (2, 0)
        assert graph.to_scipy().shape == (graph.num_users, graph.num_items)
    assert graph.contains(torch.tensor([0, 2]), torch.tensor([0, 1])).tolist() == [False, False]
    assert graph.items_of(1).tolist() == []


def test_narrow_integers_do_not_overflow_in_keys():
    last = torch.tensor([99_999], dtype=torch.int32)
    graph = Interactions(last, last, 100_000, 100_000)
    assert graph.keys.tolist() == [10**10 - 1]
    assert graph.contains(last, last).tolist() == [True]


def test_frozen():
    graph = build(PAIRS)
    with pytest.raises(AttributeError):
        graph.users = torch.zeros(1)


@pytest.mark.parametrize("source", ["torch", "numpy", "numpy int32"])
def test_later_changes_of_the_callers_tensors_do_not_reach_the_graph(source):
    edge_index = np.array([[0, 1], [1, 2]], dtype=np.int32 if "int32" in source else np.int64)
    weights = np.ones(2, np.float32)
    if source == "torch":
        edge_index, weights = torch.from_numpy(edge_index), torch.from_numpy(weights)
    graph = Interactions.from_edge_index(edge_index, 3, 3, weights=weights)
    edge_index[:] = 0
    weights[:] = 5
    assert pairs_of(graph) == [(0, 1), (1, 2)]
    assert graph.weights.tolist() == [1, 1]


# Bad input


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, -3], [0, 0], "users[1] is -3, outside [0, num_users=4); 1 of 2"),
        ([0, 4, 7], [0, 0, 0], "users[1] is 4, outside [0, num_users=4); 2 of 3"),
        ([0, 1], [5, 0], "items[0] is 5, outside [0, num_items=5)"),
        ([0, 1], [0, -1], "items[1] is -1, outside"),
        ([0.0], [0], "users must be integers, got torch.float32"),
        ([0], [True], "items must be integers, got torch.bool"),
        ([1j], [0], "users must be integers, got torch.complex64"),
        ([[0]], [0], "users must have shape (E,), got (1, 1)"),
        ([0], 0, "items must have shape (E,), got ()"),
        ([0, 1], [0], "users and items must be as many, got 2 and 1"),
    ],
)
def test_wrong_indices(users, items, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Interactions(torch.tensor(users), torch.tensor(items), USERS, ITEMS)


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.5, float("inf"), -float("inf")])
def test_wrong_weight_is_named_with_its_index(value):
    with pytest.raises(
        ValueError, match=re.escape(f"weights[1] is {value}; a weight must be finite and positive")
    ):
        build([(0, 0), (0, 1)], weights=torch.tensor([1.0, value]))


def test_wrong_number_of_weights():
    with pytest.raises(ValueError, match=re.escape("weights must have shape (2,), got (3,)")):
        build([(0, 0), (0, 1)], weights=torch.ones(3))


@pytest.mark.parametrize(
    ("count", "found"), [(-1, "-1"), (2.0, "2.0"), (True, "True"), ("4", "'4'")]
)
def test_wrong_counts(count, found):
    with pytest.raises(ValueError, match=f"num_users must be a non-negative integer, got {found}"):
        build([], count, 3)
    with pytest.raises(ValueError, match="num_items must be a non-negative integer"):
        build([], 3, count)


def test_keys_that_would_overflow_are_refused():
    with pytest.raises(ValueError, match="overflow 64 bits"):
        build([], 2**32, 2**31)
    assert build([], 2**32 - 1, 2**31).num_edges == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], "user_ids must be 4 values, one per node, got shape (3,)"),
        ([[1], [2], [3], [4]], "user_ids must be 4 values, one per node, got shape (4, 1)"),
        ([1, 7, 2, 7], "user_ids must be distinct, 7 is there more than once"),
        (["a", "b", "ö", "ö"], "user_ids must be distinct, 'ö' is there more than once"),
        (["a", 1, "b", "c"], "user_ids must be all integers of 64 bits or all strings, got 1"),
        ([1.0, 2.0, 3.0, 4.0], "user_ids must be all integers of 64 bits or all strings, got 1.0"),
        (
            [None, "a", "b", "c"],
            "user_ids must be all integers of 64 bits or all strings, got None",
        ),
        (
            [1, 2, 3, 2**63],
            "user_ids must be all integers of 64 bits or all strings, got 9223372036854775808",
        ),
        (
            np.array([1, 2, 3, 2**63], np.uint64),
            "user_ids must be all integers of 64 bits or all strings, got 92233",
        ),
    ],
)
def test_wrong_ids(ids, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build([(0, 0)], user_ids=ids)
    with pytest.raises(ValueError, match=re.escape(message.replace("user_ids", "item_ids"))):
        build([(0, 0)], 5, 4, item_ids=ids)


@pytest.mark.parametrize("user", [-1, USERS])
def test_items_of_a_user_that_is_not_there(user):
    with pytest.raises(ValueError, match=rf"user must be.*got {user}"):
        build(PAIRS).items_of(user)


# Constructors


@pytest.mark.parametrize("source", [torch.tensor, np.array, list])
def test_from_edge_index(source):
    graph = Interactions.from_edge_index(source([[2, 0, 2], [1, 3, 1]]))
    assert pairs_of(graph) == [(0, 3), (2, 1)]
    assert (graph.num_users, graph.num_items) == (3, 4)
    assert Interactions.from_edge_index(source([[2, 0], [1, 3]]), 9, 8).num_nodes == 17


def test_from_edge_index_of_no_edges():
    graph = Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64))
    assert (graph.num_users, graph.num_items, graph.num_edges) == (0, 0, 0)


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        ([[0, 1, 2]], "edge_index must have shape (2, E), got (1, 3)"),
        ([0, 1], "edge_index must have shape (2, E), got (2,)"),
        ([[0, 1], [0, -7]], "items[1] is -7"),
        ([[-7], [0]], "users[0] is -7"),
        ([[0.5], [float("nan")]], "edge_index must be integers, got torch.float32"),
    ],
)
def test_wrong_edge_index(edge_index, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Interactions.from_edge_index(torch.tensor(edge_index))


def test_from_edge_index_keeps_ids_and_weights():
    names = ["Ærø", "日本", "🎧 mix"]
    graph = Interactions.from_edge_index(
        [[2, 0], [0, 1]], weights=[2.0, 3.0], user_ids=names, item_ids=(10, 20)
    )
    assert graph.user_ids.tolist() == names
    assert graph.item_ids.dtype == np.int64
    assert graph.item_ids.tolist() == [10, 20]
    assert graph.weights.tolist() == [3, 2]


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_round_trip(layout, weighted):
    matrix = sp.random(6, 7, density=0.3, random_state=0, dtype=np.float32)
    graph = Interactions.from_scipy(
        matrix.asformat(layout), weighted=weighted, item_ids=range(10, 17)
    )
    back = graph.to_scipy()
    expected = matrix.toarray() if weighted else (matrix.toarray() != 0).astype(np.float32)
    np.testing.assert_array_equal(back.toarray(), expected)
    assert back.dtype == np.float32
    assert graph.item_ids.tolist() == list(range(10, 17))
    assert (graph.weights is not None) == weighted


def test_stored_zeros_of_a_scipy_matrix_are_no_edges():
    matrix = sp.csr_array(
        (np.array([1.0, 0.0, 2.0]), np.array([0, 1, 1]), np.array([0, 2, 3])), shape=(2, 3)
    )
    assert pairs_of(Interactions.from_scipy(matrix)) == [(0, 0), (1, 1)]
    assert Interactions.from_scipy(matrix, weighted=True).weights.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, np.float32),
        (torch.bfloat16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
    ],
)
def test_to_scipy_has_a_dtype_that_scipy_knows_and_its_own_memory(dtype, expected):
    graph = build([(0, 0), (1, 2)], weights=torch.tensor([1.0, 2.0], dtype=dtype))
    matrix = graph.to_scipy()
    assert matrix.dtype == expected
    matrix.data[:] = 9
    matrix.indices[:] = 1
    assert graph.weights.tolist() == [1, 2]
    assert graph.items.tolist() == [0, 2]


def pandas_frame(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def pandas_column(values, dtype):
    return pytest.importorskip("pandas").Series(values, dtype=dtype)


FRAMES = pytest.mark.parametrize(
    "make", [pandas_frame, pa.table, dict], ids=["pandas", "pyarrow", "dict"]
)
FRAME = {"who": ["bo", "åse", "bo", "bo"], "what": [30, 10, 10, 30], "times": [1.0, 2.0, 3.0, 4.0]}


@FRAMES
def test_from_frame(make):
    graph = Interactions.from_frame(make(FRAME), "who", "what", "times")
    assert graph.user_ids.tolist() == ["bo", "åse"]
    assert graph.item_ids.tolist() == [10, 30]
    assert pairs_of(graph) == [(0, 0), (0, 1), (1, 0)]
    assert graph.weights.tolist() == [3, 5, 2]
    assert Interactions.from_frame(make(FRAME), "who", "what").weights is None


@pytest.mark.parametrize(
    "column",
    [
        lambda: pandas_column([7, 5, 7], "Int64"),
        lambda: pandas_column([7, 5, 7], object),
        lambda: np.array([7, 5, 7], np.uint32),
        lambda: pa.chunked_array([[7], [5, 7]]),
    ],
    ids=["nullable", "object", "uint32", "chunked"],
)
def test_from_frame_takes_integers_however_they_are_stored(column):
    graph = Interactions.from_frame({"user": column(), "item": ["a", "a", "b"]})
    assert graph.user_ids.tolist() == [5, 7]
    assert graph.user_ids.dtype == np.int64
    assert pairs_of(graph) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    "column",
    [
        lambda: pandas_column(["b", "a"], "category"),
        lambda: pa.chunked_array([pa.array(["b", "a"]).dictionary_encode()]),
    ],
    ids=["pandas", "pyarrow"],
)
def test_from_frame_takes_categories(column):
    assert Interactions.from_frame({"user": column(), "item": [0, 1]}).user_ids.tolist() == [
        "a",
        "b",
    ]


@FRAMES
def test_from_frame_names_a_missing_column(make):
    with pytest.raises(
        ValueError, match=re.escape("no column 'user'; the columns are 'who', 'what', 'times'")
    ):
        Interactions.from_frame(make(FRAME))


@FRAMES
@pytest.mark.parametrize(
    "values", [["a", None, "b"], [1, None, 3], ["a", "", "b"]], ids=["text", "integer", "blank"]
)
def test_from_frame_names_row_and_column_of_a_missing_value(make, values):
    frame = make({"user": [1, 2, 3], "item": values})
    with pytest.raises(ValueError, match=r"column 'item', row 1: missing value"):
        Interactions.from_frame(frame)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.5, 2.5], "column 'user', row 0: 1.5 is no id"),
        (["a", 1], "column 'user', row 1: 1 is no id"),
        ([1, "a"], "column 'user', row 1: 'a' is no id"),
        ([True, False], "column 'user', row 0: True is no id"),
        ([1, 2**64], "column 'user', row 1: 18446744073709551616 is no id"),
    ],
)
def test_from_frame_names_what_is_no_id(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Interactions.from_frame({"user": np.array(values, dtype=object), "item": [0, 1]})


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (["a", float("nan")], 1),
        (["a", None], 1),
        ([1, "1"], 1),
        (["a", 1.0], 1),
        (["a", True], 1),
        ([1, True], 1),
        ([b"a", "a"], 0),
        ([2**63, 1], 0),
    ],
)
def test_from_frame_makes_no_text_of_mixed_lists(values, row):
    """NumPy turns a list of several types into strings: two ids became one, NaN became an id."""
    for listed in (values, tuple(values)):
        with pytest.raises(ValueError, match=f"column 'user', row {row}: .*{values[row]!r}"):
            Interactions.from_frame({"user": listed, "item": ["x", "y"]})


def test_from_frame_keeps_strings_that_end_in_a_null_character():
    graph = Interactions.from_frame({"user": ["a", "a\0"], "item": [np.int64(3), 4]})
    assert graph.user_ids.tolist() == ["a", "a\0"] and graph.item_ids.tolist() == [3, 4]


@pytest.mark.parametrize("values", ["ab", 1, iter("ab"), np.array([["a", "b"], ["c", "d"]])])
def test_from_frame_names_what_is_no_column(values):
    with pytest.raises(ValueError, match="column 'user' must"):
        Interactions.from_frame({"user": values, "item": ["x", "y"]})


def test_from_frame_refuses_columns_and_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="columns 'user' and 'item' have 2 and 3 rows"):
        Interactions.from_frame({"user": [0, 1], "item": [0, 1, 2]})
    with pytest.raises(ValueError, match=re.escape("column 'w' must have 2 rows, got 1")):
        Interactions.from_frame({"user": [0, 1], "item": [0, 1], "w": [1.0]}, weight="w")
    with pytest.raises(ValueError, match="column 'w', row 1: missing value"):
        Interactions.from_frame({"user": [0, 1], "item": [0, 1], "w": [1.0, None]}, weight="w")
    with pytest.raises(ValueError, match=r"column 'w' must hold numbers: .*'much'"):
        Interactions.from_frame({"user": [0, 1], "item": [0, 1], "w": [1.0, "much"]}, weight="w")


def test_weights_of_a_repeated_pair_that_overflow_are_refused():
    frame = {"user": ["a", "a"], "item": ["x", "x"], "w": [3e38, 3e38]}
    with pytest.raises(ValueError, match=r"repeated pair.*3e\+38"):
        Interactions.from_frame(frame, weight="w")


def test_from_frame_without_rows():
    graph = Interactions.from_frame({"user": [], "item": []})
    assert (graph.num_users, graph.num_items, graph.num_edges) == (0, 0, 0)


# New graphs from one graph


@settings(deadline=None, max_examples=60)
@given(pair_lists, st.data())
def test_select_by_mask_and_by_position(pairs, data):
    edges = sorted(set(pairs))
    graph = build(edges, weights=torch.arange(1.0, len(edges) + 1))
    mask = data.draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    positions = data.draw(st.permutations([at for at, kept in enumerate(mask) if kept]))
    expected = [pair for pair, kept in zip(edges, mask, strict=True) if kept]
    by_mask = graph.select(torch.tensor(mask, dtype=torch.bool))
    by_position = graph.select(torch.tensor(positions, dtype=torch.int64))
    for part in (by_mask, by_position):
        assert pairs_of(part) == expected
        assert part.weights.tolist() == [edges.index(pair) + 1 for pair in expected]
        assert (part.num_users, part.num_items) == (USERS, ITEMS)
        # Cached views belong to the new edges.
        assert part.keys.tolist() == [u * ITEMS + i for u, i in expected]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([True, False], "a mask of edges must have shape (5,), got (2,)"),
        ([0, 5], "edges[1] is 5, outside [0, num_edges=5)"),
        ([-1], "edges[0] is -1, outside"),
        ([3, 1, 3], "edge positions must be distinct, 3 is there more than once"),
        ([0.5], "edges must be integers"),
    ],
)
def test_wrong_selection(edges, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(PAIRS).select(torch.tensor(edges))


@settings(deadline=None, max_examples=60)
@given(pair_lists, st.data())
def test_reindex_against_loop(pairs, data):
    edges = sorted(set(pairs))
    user_ids, item_ids = [f"u{n}" for n in range(USERS)], list(range(100, 100 + ITEMS))
    graph = build(
        edges, weights=torch.arange(1.0, len(edges) + 1), user_ids=user_ids, item_ids=item_ids
    )
    users = data.draw(st.permutations(range(USERS)))[: data.draw(st.integers(0, USERS))]
    items = data.draw(st.permutations(range(ITEMS)))[: data.draw(st.integers(0, ITEMS))]
    part = graph.reindex(
        torch.tensor(users, dtype=torch.int64), torch.tensor(items, dtype=torch.int64)
    )
    expected = {
        (users.index(u), items.index(i)): place + 1
        for place, (u, i) in enumerate(edges)
        if u in users and i in items
    }
    assert dict(zip(pairs_of(part), part.weights.tolist(), strict=True)) == expected
    assert pairs_of(part) == sorted(expected)
    assert part.user_ids.tolist() == [user_ids[u] for u in users]
    assert part.item_ids.tolist() == [item_ids[i] for i in items]


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 4], [0], "users[1] is 4, outside [0, num_users=4)"),
        ([0], [-1], "items[0] is -1, outside [0, num_items=5)"),
        ([1, 2, 2], [0], "users to keep must be distinct, 2 is there more than once"),
        ([1], [3, 0, 3], "items to keep must be distinct, 3 is there more than once"),
        ([0.0], [0], "users must be integers"),
    ],
)
def test_wrong_reindex(users, items, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(PAIRS).reindex(torch.tensor(users), torch.tensor(items))


@settings(deadline=None, max_examples=60)
@given(pair_lists, pair_lists)
def test_union(first, second):
    union = build(first, user_ids=list("abcd")).union(build(second))
    assert pairs_of(union) == sorted({*first, *second})
    assert union.user_ids.tolist() == list("abcd")
    assert pairs_of(build(second).union(build(first))) == pairs_of(union)


def test_union_adds_weights():
    union = build([(0, 0), (1, 1)], weights=torch.tensor([1.0, 2.0])).union(
        build([(1, 1)], weights=torch.ones(1))
    )
    assert union.weights.tolist() == [1, 3]


def test_wrong_union():
    with pytest.raises(
        ValueError, match=r"over different nodes: Interactions\(4 users.* and Interactions\(5 users"
    ):
        build(PAIRS).union(build(PAIRS, USERS + 1))
    with pytest.raises(ValueError, match="weighted with an unweighted"):
        build([(0, 0)]).union(build([(0, 0)], weights=torch.ones(1)))


def test_with_ids():
    graph = build(PAIRS).with_ids(list("abcd"), None)
    assert graph.user_ids.tolist() == list("abcd")
    assert pairs_of(graph) == pairs_of(build(PAIRS))
    with pytest.raises(ValueError, match="4 values"):
        graph.with_ids(["a"], None)


def test_to_the_same_device_is_the_same_graph():
    graph = build(PAIRS)
    assert graph.to("cpu") is graph


# Fingerprint


@settings(deadline=None, max_examples=60)
@given(pair_lists, st.randoms(use_true_random=False))
def test_fingerprint_does_not_depend_on_the_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    assert build(pairs).fingerprint() == build(shuffled + pairs[:1]).fingerprint()


def test_fingerprint_differs_on_every_change():
    graphs = [
        build(PAIRS),
        build([*PAIRS[1:], (1, 1)]),
        build(PAIRS[1:2]),
        build(PAIRS, USERS + 1),
        build(PAIRS, USERS, ITEMS + 1),
        build(PAIRS, weights=torch.ones(len(PAIRS))),
        build(PAIRS, weights=torch.full((len(PAIRS),), 2.0)),
    ]
    digests = {graph.fingerprint() for graph in graphs}
    assert len(digests) == len(graphs)
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests)


def test_fingerprint_does_not_depend_on_the_weights_dtype():
    weights = torch.tensor([1.0, 2.5])
    pairs = [(0, 0), (1, 1)]
    assert (
        build(pairs, weights=weights).fingerprint()
        == build(pairs, weights=weights.double()).fingerprint()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph_equals_cpu_graph():
    graph = build(PAIRS, weights=torch.arange(1.0, 7.0))
    moved = graph.to("cuda")
    assert moved.device.type == "cuda"
    assert moved.fingerprint() == graph.fingerprint()
    assert moved.indptr.tolist() == graph.indptr.tolist()
    assert pairs_of(build(PAIRS).to("cuda").union(build([(1, 1)]).to("cuda"))) == sorted(
        {*PAIRS, (1, 1)}
    )
    assert moved.contains(moved.users, moved.items).all()


def test_one_long_id_does_not_set_the_memory_of_all():
    ids = ["x" * 100_000, *(f"u{number}" for number in range(999))]
    graph = Interactions.from_edge_index(torch.tensor([[0], [0]]), 1000, 1, user_ids=ids)
    assert graph.user_ids.dtype == object and graph.user_ids.tolist() == ids


@pytest.mark.parametrize("matrix", [np.eye(3), [[1, 0]], None])
def test_from_scipy_takes_sparse_matrices_alone(matrix):
    with pytest.raises(ValueError, match=r"must be a SciPy sparse .* matrix, got"):
        Interactions.from_scipy(matrix)


def test_a_few_pairs_are_looked_up_in_a_large_graph_without_tables():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack(
        [
            torch.randint(300, (9000,), generator=generator),
            torch.randint(200, (9000,), generator=generator),
        ]
    )
    pairs = pairs[:, pairs[0] % 7 != 3]  # some users have none
    graph = Interactions.from_edge_index(pairs, 300, 201)
    known = set(zip(graph.users.tolist(), graph.items.tolist(), strict=True))
    for first in range(0, 300, 30):
        users = torch.arange(first, first + 30).repeat(3).int()
        items = torch.tensor([0, 200, 77]).repeat_interleave(30)
        assert len(users) < graph.num_edges // 64
        found = graph.contains(users, items)
        assert found.tolist() == [
            pair in known for pair in zip(users.tolist(), items.tolist(), strict=True)
        ]
        assert found.any()
    assert graph.contains(graph.users[-20:], graph.items[-20:]).all()
    assert graph.contains(graph.users, graph.items).all()


def test_the_fingerprint_is_that_of_the_keys_at_once(monkeypatch):
    graph = Interactions.from_edge_index(
        torch.randint(50, (2, 700), generator=torch.Generator().manual_seed(0)), 50, 50
    )
    expected = hashlib.sha256(b"50 50" + graph.keys.numpy().tobytes()).hexdigest()
    assert graph.fingerprint() == expected
    monkeypatch.setattr("lightgcn.graph.interactions.CHUNK", 64)
    assert graph.fingerprint() == expected


def test_sorted_pairs_are_taken_without_a_copy(monkeypatch):
    pairs = torch.randint(60, (2, 900), generator=torch.Generator().manual_seed(1))
    graph = Interactions.from_edge_index(pairs, 60, 60)
    order = torch.arange(graph.num_edges)
    for size in (1 << 22, 64):
        monkeypatch.setattr("lightgcn.graph.canonical.CHUNK", size)
        taken = Interactions.from_sorted(
            graph.users, graph.items, 60, 60, torch.ones(graph.num_edges), order=order
        )
        assert taken.users is graph.users and taken.items is graph.items
        assert torch.equal(taken.order, order) and taken.fingerprint() != graph.fingerprint()
        for at in (1, 63, 64, 65, graph.num_edges - 1):
            users, items = graph.users.clone(), graph.items.clone()
            users[at], items[at] = users[at - 1], items[at - 1]
            with pytest.raises(
                ValueError, match=f"edge {at} does not come after the one before it"
            ):
                Interactions.from_sorted(users, items, 60, 60)
    assert Interactions.from_sorted(graph.users[:0], graph.items[:0], 2, 2).num_edges == 0


@pytest.mark.parametrize(
    ("users", "items", "options", "message"),
    [
        ([0, 1], [0], {}, "as many"),
        ([0, 3], [0, 1], {}, r"users\[1\] is 3, outside"),
        ([0, 1], [0, 9], {}, r"items\[1\] is 9, outside"),
        ([0, 1], [0, 1], {"weights": torch.tensor([1.0, 0.0])}, r"weights\[1\]"),
        ([0, 1], [0, 1], {"order": torch.tensor([1])}, r"order .* 2 edges, got shape \(1,\)"),
    ],
)
def test_sorted_pairs_are_checked_as_others_are(users, items, options, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_sorted(torch.tensor(users), torch.tensor(items), 3, 3, **options)
    with pytest.raises(ValueError, match=r"must be a \(E,\) int64 tensor"):
        Interactions.from_sorted(torch.tensor(users).int(), torch.tensor(users), 9, 9)
