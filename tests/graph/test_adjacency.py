import copy
import functools
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn import Adjacency, Interactions, link_set, normalized_adjacency, split_edges
from lightgcn.graph import pattern
from lightgcn.graph.adjacency import adjacency_of, as_adjacency, exponents

NORMALIZATIONS = ["mean", "symmetric", (0.3, 0.9), (0.0, 0.0), (0.0, 1.0), (1, 1)]
GRAPHS = ["ordinary", "weighted", "isolated nodes", "one edge", "no edges", "no nodes"]


@functools.cache
def graph(kind, dtype=torch.float32):
    if kind == "no nodes":
        return Interactions([], [], 0, 0)
    if kind == "no edges":
        return Interactions([], [], 3, 2)
    if kind == "one edge":
        return Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1)
    source = np.random.default_rng(0)
    users, items = np.divmod(source.choice(8 * 9, 30, replace=False), 9)
    size = (13, 14) if kind == "isolated nodes" else (8, 9)
    weights = torch.from_numpy(source.uniform(0.1, 3, 30)).to(dtype) if kind == "weighted" else None
    return Interactions(torch.from_numpy(users), torch.from_numpy(items), *size, weights)


@functools.cache
def dense(interactions, normalization):
    """A = D^-a P D^-b by loops, in float64."""
    a, b = {"mean": (1.0, 0.0), "symmetric": (0.5, 0.5)}.get(normalization, normalization)
    nodes = interactions.num_nodes
    pattern = torch.zeros(nodes, nodes, dtype=torch.float64)
    for edge in range(interactions.num_edges):
        user, item = (
            int(interactions.users[edge]),
            interactions.num_users + int(interactions.items[edge]),
        )
        weight = 1.0 if interactions.weights is None else float(interactions.weights[edge])
        pattern[user, item] = pattern[item, user] = weight
    degree = [float(line.sum()) for line in pattern]
    for row, column in pattern.nonzero().tolist():
        pattern[row, column] *= degree[row] ** -a * degree[column] ** -b
    return pattern


def features(nodes, width=3, dtype=torch.float64, seed=0):
    return torch.randn(
        nodes, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def cases():
    for kind in GRAPHS:
        for normalization in NORMALIZATIONS:
            yield graph(kind, torch.float64), normalization


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)],
    ids=str,
)
def test_products_equal_the_dense_ones(dtype, tolerance):
    for interactions, normalization in cases():
        adjacency = normalized_adjacency(interactions, normalization)
        reference = dense(interactions, normalization)
        x = features(interactions.num_nodes, dtype=dtype)
        for product, expected in (
            (adjacency @ x, reference @ x.double()),
            (adjacency.T @ x, reference.T @ x.double()),
        ):
            assert product.dtype == dtype
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            torch.testing.assert_close(product.double(), expected, rtol=0, atol=tolerance * scale)


def test_exports_equal_the_dense_matrix():
    for interactions, normalization in cases():
        adjacency = normalized_adjacency(interactions, normalization, dtype=torch.float64)
        expected = dense(interactions, normalization)
        for side, reference in ((adjacency, expected), (adjacency.T, expected.T)):
            csr, coo = side.to_sparse_csr(), side.to_sparse_coo()
            assert csr.layout == torch.sparse_csr
            assert coo.layout == torch.sparse_coo
            assert coo.is_coalesced()
            for export in (csr.to_dense(), coo.to_dense(), side.to_dense()):
                torch.testing.assert_close(export, reference, rtol=1e-12, atol=0)


def test_the_gradient_is_the_transposed_product():
    for interactions, normalization in cases():
        if not interactions.num_nodes:
            continue
        adjacency = normalized_adjacency(interactions, normalization)
        x = features(interactions.num_nodes).requires_grad_()
        weights = features(interactions.num_nodes, seed=1)
        (grad,) = torch.autograd.grad(adjacency @ x, x, weights)
        torch.testing.assert_close(
            grad, dense(interactions, normalization).T @ weights, rtol=1e-10, atol=1e-12
        )


def test_one_pattern_serves_both_directions():
    for kind in GRAPHS:
        adjacency = normalized_adjacency(graph(kind), (0.3, 0.9))
        assert adjacency.T.pattern is adjacency.pattern
        assert adjacency.transposed is adjacency.pattern
        assert (adjacency.pattern.values is None) == (kind != "weighted")
        assert len(adjacency.pattern.columns) == 2 * graph(kind).num_edges
        assert adjacency.pattern.columns.dtype == adjacency.pattern.row_ends.dtype == torch.int32
        assert adjacency.T.T.row_scale is adjacency.row_scale


def test_gradcheck():
    users, items = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    adjacency = normalized_adjacency(Interactions(users, items, 3, 2, weights), (0.3, 0.9))
    x = features(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: adjacency @ x, x)
    assert torch.autograd.gradgradcheck(lambda x: (adjacency @ x).square(), x)


def test_torch_func():
    adjacency = normalized_adjacency(graph("weighted", torch.float64), (0.3, 0.9))
    x, tangent = features(17), features(17, seed=1)
    matrix = dense(graph("weighted", torch.float64), (0.3, 0.9))
    batch = features(4 * 17).view(4, 17, 3)

    def cubes(matrix):
        return lambda x: (matrix @ x).pow(3).sum()

    for transform in (
        lambda matrix: torch.func.grad(cubes(matrix))(x),
        lambda matrix: torch.func.jvp(lambda x: matrix @ x, (x,), (tangent,)),
        lambda matrix: torch.func.hessian(cubes(matrix))(x),
        lambda matrix: torch.vmap(lambda x: matrix @ x)(batch),
        lambda matrix: torch.vmap(lambda x: matrix @ x, 2, 1)(batch.movedim(0, 2)),
        lambda matrix: torch.vmap(torch.func.grad(cubes(matrix)))(batch),
    ):
        torch.testing.assert_close(transform(adjacency), transform(matrix))


def test_autocast_leaves_products_alone(monkeypatch):
    for other_device in (False, True):
        if other_device:  # the CSR product, as other devices have it
            monkeypatch.setattr(pattern, "_gathers", lambda x: False)
        for kind in ("ordinary", "weighted"):
            adjacency, x = normalized_adjacency(graph(kind)), features(17, dtype=torch.float32)
            x.requires_grad_()
            expected = adjacency @ x
            (grad,) = torch.autograd.grad(expected.square().sum(), x)
            with torch.autocast("cpu", torch.bfloat16):
                product = adjacency @ x
                (other,) = torch.autograd.grad(product.square().sum(), x)
            assert torch.equal(product, expected) and torch.equal(other, grad)


edge_lists = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=15, unique=True)


@settings(deadline=None, max_examples=60)
@given(edge_lists, st.floats(-1, 2), st.floats(-1, 2), st.booleans())
def test_any_graph_and_exponents_against_dense(pairs, a, b, weighted):
    pairs = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    weights = torch.arange(1.0, len(pairs) + 1, dtype=torch.float64) if weighted else None
    interactions = Interactions(pairs[:, 0], pairs[:, 1], 5, 6, weights)
    adjacency = normalized_adjacency(interactions, (a, b), dtype=torch.float64)
    torch.testing.assert_close(
        adjacency.to_dense(), dense(interactions, (a, b)), rtol=1e-11, atol=1e-14
    )


def test_rows_of_mean_add_up_to_one_and_isolated_nodes_to_zero():
    interactions = graph("isolated nodes")
    sums = normalized_adjacency(interactions, "mean") @ torch.ones(interactions.num_nodes, 1)
    degree = torch.cat([interactions.user_degrees, interactions.item_degrees])
    assert (degree == 0).sum() >= 10
    torch.testing.assert_close(sums.flatten(), (degree > 0).float())


def test_isolated_nodes_get_zero_and_never_nan():
    interactions = graph("isolated nodes")
    for normalization in NORMALIZATIONS:
        adjacency = normalized_adjacency(interactions, normalization)
        x = torch.full((interactions.num_nodes, 2), 3.0, requires_grad=True)
        product = adjacency @ x
        product.sum().backward()
        isolated = torch.cat([interactions.user_degrees, interactions.item_degrees]) == 0
        assert (product[isolated] == 0).all()
        assert (x.grad[isolated] == 0).all()
        assert torch.isfinite(product).all()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_layout_of_x_does_not_matter_and_x_is_left_alone(dtype):
    x = features(17, 8, dtype)
    variants = [
        x,
        x.T.contiguous().T,
        torch.stack([x, x], 2)[..., 1],
        features(17, 8, dtype).repeat(1, 2)[:, :8],
    ]
    assert not any(variant.is_contiguous() for variant in variants[1:])
    for kind in ("ordinary", "weighted"):
        for adjacency in (normalized_adjacency(graph(kind), name) for name in ("mean", (0.0, 1.0))):
            for variant in variants:
                assert torch.equal(adjacency @ variant, adjacency @ x)
                assert torch.equal(variant, features(17, 8, dtype))


def test_no_columns():
    adjacency = normalized_adjacency(graph("ordinary"))
    assert (adjacency @ torch.ones(17, 0)).shape == (17, 0)


def test_width_one():
    adjacency = normalized_adjacency(graph("ordinary"), dtype=torch.float64)
    x = features(17, 1)
    torch.testing.assert_close(adjacency @ x, adjacency.to_dense() @ x)


def test_dtype_round_trip_loses_nothing():
    for kind in ("ordinary", "weighted"):
        adjacency = normalized_adjacency(graph(kind, torch.float64), dtype=torch.float64)
        narrow = adjacency.to(dtype=torch.float16)
        assert (
            narrow.dtype == narrow.to_sparse_csr().dtype == narrow.to_dense().dtype == torch.float16
        )
        back = narrow.to(dtype=torch.float64)
        assert torch.equal(back.to_dense(), adjacency.to_dense())
        assert torch.equal(narrow @ features(17), adjacency @ features(17))


def test_to_is_itself_where_nothing_changes_and_keeps_the_pattern_shared():
    adjacency = normalized_adjacency(graph("ordinary"))
    assert adjacency.to("cpu", torch.float32) is adjacency
    moved = adjacency.to("meta")
    assert moved.device.type == "meta"
    assert moved.pattern is moved.transposed
    other = Adjacency.from_sparse(adjacency.to_sparse_csr(), 8, 9).to("meta")
    assert other.pattern is not other.transposed


def test_dtype_must_be_floating():
    for dtype in (torch.int64, torch.bool):
        with pytest.raises(ValueError, match=str(dtype)):
            normalized_adjacency(graph("ordinary"), dtype=dtype)


def asymmetric():
    return torch.where(features(17, 17) > 0.8, features(17, 17, seed=1), 0)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc], ids=str)
def test_from_sparse_of_an_asymmetric_matrix(layout):
    matrix = asymmetric()
    adjacency = Adjacency.from_sparse(matrix.to_sparse(layout=layout), 8, 9)
    assert adjacency.dtype == torch.float64
    assert torch.equal(adjacency.to_dense(), matrix)
    assert torch.equal(adjacency.T.to_dense(), matrix.T)
    x = features(17).requires_grad_()
    torch.testing.assert_close(adjacency @ x, matrix @ x)
    torch.testing.assert_close(adjacency.T @ x, matrix.T @ x)
    weights = features(17, seed=2)
    (adjacency @ x * weights).sum().backward()
    torch.testing.assert_close(x.grad, matrix.T @ weights)


def test_from_sparse_in_other_dtypes():
    for dtype in (torch.float16, torch.float32):
        matrix = asymmetric().to(dtype)
        adjacency = Adjacency.from_sparse(matrix.to_sparse(), 8, 9)
        assert adjacency.dtype == dtype
        expected = matrix.double() @ features(17)
        torch.testing.assert_close(adjacency @ features(17), expected)
        torch.testing.assert_close(
            (adjacency @ features(17, dtype=torch.float32)).double(), expected, rtol=0, atol=1e-5
        )


def test_from_sparse_adds_up_repeated_entries():
    matrix = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), check_invariants=True)
    assert Adjacency.from_sparse(matrix, 1, 1).to_dense().tolist() == [[0, 3], [0, 0]]


def test_a_gradient_for_edge_values_is_refused_by_name():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    matrix = torch.sparse_coo_tensor([[0, 1], [1, 0]], values, (2, 2), check_invariants=True)
    edges = torch.tensor([0, 1])
    for build, said in (
        (lambda: Adjacency.from_sparse(matrix, 1, 1), "detach"),
        (
            lambda: Adjacency.from_sparse(matrix.detach().requires_grad_().to_sparse_csr(), 1, 1),
            "grad",
        ),
        (lambda: as_adjacency(matrix, 1, 1), "detach"),
        (lambda: Interactions(edges, edges, 2, 2, values), "edge weights"),
    ):
        with pytest.raises(ValueError, match=said):
            build()
    assert Adjacency.from_sparse(matrix.detach(), 1, 1).to_dense().tolist() == [[0, 1], [2, 0]]
    detached = Interactions(edges, edges, 2, 2, values.detach())
    assert normalized_adjacency(detached).num_nodes == 4


def test_wrong_sparse_matrices_name_what_they_are():
    for matrix, said in (
        (torch.eye(3), "(3, 3)"),
        (torch.eye(3), "to_sparse()"),
        (torch.eye(4).to_sparse(), "(4, 4)"),
        (torch.ones(3, 4).to_sparse(), "(3, 4)"),
        (torch.eye(3, dtype=torch.int64).to_sparse(), "torch.int64"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            Adjacency.from_sparse(matrix, 1, 2)


def test_as_adjacency_takes_every_form_of_a_graph():
    interactions = graph("ordinary")
    for normalization in ("symmetric", "mean", (0.3, 0.9)):
        adjacency = normalized_adjacency(interactions, normalization)
        assert as_adjacency(adjacency, 8, 9) is adjacency
        for form in (
            interactions,
            interactions.edge_index,
            interactions.edge_index.int(),
            interactions.edge_index.numpy(),
            interactions.edge_index.tolist(),
            tuple(interactions.edge_index.tolist()),
            adjacency.to_sparse_csr(),
            adjacency.to_sparse_coo(),
        ):
            found = as_adjacency(form, 8, 9, normalization)
            torch.testing.assert_close(found.to_dense(), adjacency.to_dense())
            from_tensor = isinstance(form, torch.Tensor) and form.layout != torch.strided
            assert found.normalization == (None if from_tensor else exponents(normalization))


def test_as_adjacency_refuses_other_forms_and_says_what_to_pass():
    links = link_set(graph("ordinary"), graph("ordinary"), negatives=0)
    split = split_edges(graph("ordinary"))
    for form, error, said in (
        (normalized_adjacency(graph("ordinary")), ValueError, "8 users + 9 items"),
        (graph("ordinary"), ValueError, "8 users, 9 items"),
        (torch.eye(18), ValueError, "to_sparse()"),
        (np.eye(18), ValueError, "to_sparse()"),
        (torch.eye(17), ValueError, "(17, 17)"),
        ([[0], [1], [2]], ValueError, "(3, 1)"),
        (torch.tensor([[0.5], [1.0]]), ValueError, "torch.float32"),
        (torch.tensor([[0], [10]]), ValueError, "10"),
        (links, TypeError, ".message"),
        (split, TypeError, "split.train.message"),
        (None, TypeError, "NoneType"),
        ("mean", TypeError, "str"),
    ):
        with pytest.raises(error, match=re.escape(said)):
            as_adjacency(form, 8, 10)


def test_normalized_adjacency_refuses_other_forms_and_says_what_to_pass():
    links = link_set(graph("ordinary"), graph("ordinary"), negatives=0)
    for function in (normalized_adjacency, adjacency_of):
        for form, said in (
            (graph("ordinary").edge_index, "Interactions.from_edge_index"),
            ([[0], [1]], "Interactions.from_edge_index"),
            (normalized_adjacency(graph("ordinary")), "normalised already"),
            (links, ".message"),
            (split_edges(graph("ordinary")), "split.train.message"),
        ):
            with pytest.raises(TypeError, match=re.escape(said)):
                function(form)


def test_an_adjacency_is_kept_with_its_graph():
    interactions = Interactions.from_edge_index(graph("ordinary").edge_index, 8, 9)
    size = len(pickle.dumps(interactions))
    kept = adjacency_of(interactions, "mean")
    assert adjacency_of(interactions, (1, 0)) is kept is as_adjacency(interactions, 8, 9, "mean")
    torch.testing.assert_close(
        kept.to_dense(), normalized_adjacency(interactions, "mean").to_dense()
    )
    double = adjacency_of(interactions, "mean", dtype=torch.float64)
    assert double.dtype == torch.float64 and kept.dtype == torch.float32
    assert double.pattern is kept.pattern and replace(kept, half_tables=True).half_tables
    assert adjacency_of(interactions, "symmetric") is not kept
    assert adjacency_of(interactions, "mean", device="meta").device.type == "meta"
    assert len(pickle.dumps(interactions)) == size
    assert adjacency_of(copy.deepcopy(interactions), "mean") is not kept


def test_the_exponents_are_remembered():
    for name, pair in (("mean", (1, 0)), ("symmetric", (0.5, 0.5)), ((0.3, 0.9), (0.3, 0.9))):
        adjacency = normalized_adjacency(graph("ordinary"), name)
        for one in (
            adjacency,
            adjacency.T.T,
            adjacency.to(dtype=torch.float64),
            adjacency.to("meta"),
            replace(adjacency, half_tables=True),
            pickle.loads(pickle.dumps(adjacency)),
            copy.deepcopy(adjacency),
        ):
            assert one.normalization == pair and one.T.normalization == pair[::-1]
    other = Adjacency.from_sparse(adjacency.to_sparse_csr(), 8, 9)
    assert other.normalization is None and other.T.normalization is None


def test_wrong_normalizations_are_named():
    wrong = ["max", None, 0.5, (1.0,), (1, 2, 3), (0.5, float("nan")), (float("inf"), 0)]
    for normalization in wrong:
        with pytest.raises(ValueError, match=re.escape(repr(normalization))):
            normalized_adjacency(graph("ordinary"), normalization)


def test_exponents():
    assert exponents("mean") == (1, 0)
    assert exponents("symmetric") == (0.5, 0.5)
    assert exponents((0.25, 1)) == (0.25, 1)


def test_wrong_operands_are_named():
    adjacency = normalized_adjacency(graph("ordinary"))
    for x in (torch.ones(16, 2), torch.ones(17), torch.ones(17, 2, 2), torch.ones(17, 2).long()):
        with pytest.raises(ValueError, match=re.escape(f"got {tuple(x.shape)} of {x.dtype}")):
            adjacency @ x
    with pytest.raises(ValueError, match=r"meta.*\.to\(\)"):
        adjacency @ torch.ones(17, 2, device="meta")


def test_repr():
    adjacency = normalized_adjacency(graph("ordinary"))
    assert repr(adjacency) == "Adjacency(8 users + 9 items, 60 entries, torch.float32, cpu)"
    assert adjacency.num_nodes == 17


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 1e-2)],
    ids=str,
)
def test_cuda_product_equals_the_cpu_product(dtype, tolerance):
    for kind in GRAPHS[:5]:
        for normalization in NORMALIZATIONS[:3]:
            interactions = graph(kind)
            here = normalized_adjacency(interactions, normalization)
            for there in (
                here.to("cuda"),
                normalized_adjacency(interactions.to("cuda"), normalization),
                adjacency_of(interactions, normalization, device="cuda"),
            ):
                assert there.pattern is there.transposed
                x = features(interactions.num_nodes, 8, dtype)
                for a, b in ((here, there), (here.T, there.T)):
                    expected = a @ x.double()
                    got = (b @ x.cuda()).cpu()
                    assert got.dtype == dtype
                    scale = max(1, float(expected.abs().max()))
                    torch.testing.assert_close(
                        got.double(), expected, rtol=0, atol=tolerance * scale
                    )
