import copy
import functools
import itertools
import pickle
import re
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightgcn import Adjacency, Interactions, normalized_adjacency, propagate
from lightgcn.datasets import synthetic_interactions
from lightgcn.graph import pattern as pattern_module
from lightgcn.nn.propagation import propagate_rows

NORMALIZATIONS = ["mean", "symmetric", (0.3, 0.9)]
KINDS = ["ordinary", "weighted", "isolated nodes", "one edge", "no edges"]
ALPHA = (0.3, -0.2, 0.5, 0.0, 0.7)


@functools.cache
def graph(kind="ordinary", device="cpu"):
    if kind == "no edges":
        return Interactions([], [], 3, 2).to(device)
    if kind == "one edge":
        return Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1).to(device)
    source = np.random.default_rng(0)
    users, items = np.divmod(source.choice(5 * 6, 15, replace=False), 6)
    size = (7, 8) if kind == "isolated nodes" else (5, 6)
    weights = torch.from_numpy(source.uniform(0.1, 3, 15)) if kind == "weighted" else None
    return Interactions(torch.from_numpy(users), torch.from_numpy(items), *size, weights).to(device)


def features(nodes, width=3, dtype=torch.float64, seed=0):
    return torch.randn(
        nodes, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def reference(dense, x, alpha):
    """Σ αₖ Aᵏ x as it is written."""
    total = torch.zeros_like(x)
    for k, weight in enumerate(alpha):
        total = total + weight * torch.linalg.matrix_power(dense, k) @ x
    return total


def cases():
    """Every kind of graph, normalisation and number of layers: adjacency, its dense form, alpha."""
    for kind in KINDS:
        for normalization in NORMALIZATIONS:
            adjacency = normalized_adjacency(graph(kind), normalization, dtype=torch.float64)
            for num_layers in range(5):
                yield adjacency, adjacency.to_dense(), ALPHA[: num_layers + 1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)],
    ids=str,
)
def test_values_equal_the_dense_sum(dtype, tolerance):
    for adjacency, dense, alpha in cases():
        x = features(adjacency.num_nodes, dtype=dtype)
        expected = reference(dense, x.double(), alpha)
        scale = max(1.0, float(expected.abs().max()))
        for weights in (alpha, torch.tensor(alpha, dtype=torch.float64)):
            result = propagate(adjacency, x, weights)
            assert result.dtype == dtype
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance * scale)


def test_gradients_equal_autograd_through_the_dense_sum():
    for adjacency, dense, alpha in cases():
        weights, results = features(adjacency.num_nodes, seed=2), []
        for function, matrix in ((propagate, adjacency), (reference, dense)):
            x = features(adjacency.num_nodes).requires_grad_()
            learned = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
            results.append(
                torch.autograd.grad((function(matrix, x, learned) * weights).sum(), (x, learned))
            )
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
        x = features(adjacency.num_nodes).requires_grad_()
        (grad,) = torch.autograd.grad(propagate(adjacency, x, alpha), x, weights)
        torch.testing.assert_close(grad, reference(dense.T, weights, alpha), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_layers", [0, 2])
@pytest.mark.parametrize("normalization", ["mean", (0.3, 0.9)], ids=str)
def test_gradcheck(normalization, num_layers):
    # User 2 is isolated. Small, because the check's cost grows with the square of the entries.
    users, items = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    adjacency = normalized_adjacency(Interactions(users, items, 3, 2, weights), normalization)
    x = features(5, 2).requires_grad_()
    alpha = torch.tensor(ALPHA[: num_layers + 1], dtype=torch.float64, requires_grad=True)
    for fixed in (alpha.detach(), alpha.tolist()):
        assert torch.autograd.gradcheck(lambda x, a=fixed: propagate(adjacency, x, a), x)
        assert torch.autograd.gradgradcheck(
            lambda x, a=fixed: propagate(adjacency, x, a).square(), x
        )
    assert torch.autograd.gradcheck(lambda alpha: propagate(adjacency, x.detach(), alpha), alpha)
    assert torch.autograd.gradcheck(lambda x, alpha: propagate(adjacency, x, alpha), (x, alpha))
    assert torch.autograd.gradgradcheck(lambda x, alpha: propagate(adjacency, x, alpha), (x, alpha))


def transforms(function, x, alpha, batch):
    """What `torch.func` makes of a function of embeddings and layer weights."""
    func, cubes = torch.func, lambda x, alpha: function(x, alpha).pow(3).sum()
    tangent, other = features(*x.shape, seed=5), torch.linspace(-1, 1, len(alpha)).double()
    yield func.grad(cubes)(x, alpha)
    yield func.jvp(lambda x: function(x, alpha), (x,), (tangent,))
    yield func.hessian(cubes)(x, alpha)
    yield func.jacrev(func.jacrev(cubes))(x, alpha)
    yield torch.vmap(lambda x: function(x, alpha))(batch)
    yield torch.vmap(lambda x: function(x, alpha), 1, 1)(batch.movedim(0, 1))
    yield torch.vmap(func.grad(cubes), (0, None))(batch, alpha)
    if isinstance(alpha, torch.Tensor):
        every = torch.stack([alpha, other, -alpha, 2 * other])
        yield func.grad(cubes, (0, 1))(x, alpha)
        yield func.jvp(function, (x, alpha), (tangent, other))
        yield func.jvp(lambda alpha: function(x, alpha), (alpha,), (other,))
        yield torch.vmap(function)(batch, every)
        yield torch.vmap(function, (None, 0))(x, every)
        yield torch.vmap(func.grad(cubes, (0, 1)), (0, 0))(batch, every)


def test_torch_func():
    x, batch = features(11, 2), features(4 * 11, 2).view(4, 11, 2)
    nodes = torch.tensor([3, 0, 10, 3])
    for kind in ("ordinary", "weighted"):
        adjacency = normalized_adjacency(graph(kind), (0.3, 0.9), dtype=torch.float64)
        dense = adjacency.to_dense()

        def rows(x, alpha, adjacency=adjacency):
            return torch.cat(propagate_rows(adjacency, x, alpha, nodes), 1)

        def reference_rows(x, alpha, dense=dense):
            return torch.cat([reference(dense, x, alpha)[nodes], x[nodes]], 1)

        for alpha in (ALPHA[:3], ALPHA[:1], torch.tensor(ALPHA[:3], dtype=torch.float64)):
            for ours, plain in (
                (functools.partial(propagate, adjacency), functools.partial(reference, dense)),
                (rows, reference_rows),
            ):
                found, wanted = (transforms(one, x, alpha, batch) for one in (ours, plain))
                for one, other in zip(found, wanted, strict=True):
                    torch.testing.assert_close(one, other)
        some = torch.stack([nodes, nodes + 0 * 1]).roll(1, 1)
        per_batch = torch.vmap(lambda nodes: propagate_rows(adjacency, x, ALPHA, nodes)[0])(some)  # noqa: B023
        torch.testing.assert_close(per_batch, reference(dense, x, ALPHA)[some])


def test_autocast_leaves_propagation_alone(monkeypatch):
    nodes = torch.tensor([3, 0, 10, 3])
    learned = torch.tensor(ALPHA, requires_grad=True)
    for other_device in (False, True):
        if other_device:  # the CSR product, as other devices have it
            monkeypatch.setattr(pattern_module, "_gathers", lambda x: False)
        for kind, half, dtype in (
            ("ordinary", False, torch.float32),
            ("ordinary", not other_device, torch.float32),
            ("weighted", False, torch.float32),
            ("ordinary", False, torch.float64),
        ):
            adjacency = normalized_adjacency(graph(kind), half_tables=half)
            for alpha in (ALPHA, learned):
                results = []
                for enabled in (False, True):
                    x = features(11, 40, dtype).requires_grad_()
                    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                        z = propagate(adjacency, x, alpha)
                        final, start = propagate_rows(adjacency, x, alpha, nodes)
                        loss = z.square().sum() + final.square().sum() + start.sum()
                        grads = torch.autograd.grad(loss, [x, learned], allow_unused=True)
                    results.append([z, final, *grads[: 2 if alpha is learned else 1]])
                for one, other in zip(*results, strict=True):
                    assert torch.equal(one, other)


def test_gradcheck_on_an_asymmetric_matrix():
    matrix = torch.where(features(5, 5) > 0.2, features(5, 5, seed=1), 0)
    assert not torch.equal(matrix, matrix.T)
    adjacency = Adjacency.from_sparse(matrix.to_sparse(), 2, 3)
    x = features(5, 2).requires_grad_()
    torch.testing.assert_close(propagate(adjacency, x, ALPHA), reference(matrix, x, ALPHA))
    assert torch.autograd.gradcheck(lambda x: propagate(adjacency, x, ALPHA[:3]), x)


def test_isolated_nodes_keep_their_own_layer_and_nothing_is_nan():
    adjacency = normalized_adjacency(graph("isolated nodes"), "symmetric")
    isolated = adjacency.to_dense().sum(1) == 0
    assert isolated.sum() == 4
    for dtype in (torch.float32, torch.float64):
        x = features(15, dtype=dtype).requires_grad_()
        result = propagate(adjacency, x, ALPHA)
        result.sum().backward()
        torch.testing.assert_close(result[isolated], ALPHA[0] * x[isolated])
        torch.testing.assert_close(x.grad[isolated], torch.full((4, 3), ALPHA[0], dtype=dtype))
        assert torch.isfinite(result).all()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("num_layers", range(4))
def test_layout_of_x_does_not_matter_and_x_is_left_alone(num_layers):
    adjacency, alpha = normalized_adjacency(graph()), ALPHA[: num_layers + 1]
    x = features(11, 4, torch.float32)
    expected = propagate(adjacency, x, alpha)
    for variant in (x.T.contiguous().T, torch.cat([x, x], 1)[:, 4:]):
        assert not variant.is_contiguous()
        weights = features(11, 4, torch.float32, seed=1)
        leaf = variant.detach().requires_grad_()
        result = propagate(adjacency, leaf, alpha)
        assert torch.equal(result, expected)
        # A gradient that is not contiguous, either.
        (grad,) = torch.autograd.grad(result, leaf, weights.T.contiguous().T)
        torch.testing.assert_close(grad, propagate(adjacency.T, weights, alpha))
        assert torch.equal(variant, x)
    assert torch.equal(x, features(11, 4, torch.float32))


def test_the_result_of_no_layers_is_not_x_itself():
    adjacency, x = normalized_adjacency(graph()), features(11)
    result = propagate(adjacency, x, [1.0])
    assert torch.equal(result, x)
    assert result.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_of_another_dtype(dtype):
    adjacency = normalized_adjacency(graph())
    x = features(11, dtype=dtype).requires_grad_()
    for alpha_dtype in (torch.float32, torch.float64):
        alpha = torch.tensor([0.5, 0.25, 0.25], dtype=alpha_dtype, requires_grad=True)
        result = propagate(adjacency, x, alpha)
        result.square().sum().backward()
        assert result.dtype == x.grad.dtype == dtype
        assert alpha.grad.dtype == alpha_dtype


class BufferCount(TorchDispatchMode):
    """The most memory of (n, w > 1) floating tensors that was alive at a time, besides ``given``,
    in units of it."""

    def __init__(self, given):
        super().__init__()
        self.given, self.alive, self.most = given, [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(outputs):
            if (
                isinstance(leaf, torch.Tensor)
                and leaf.layout == torch.strided
                and leaf.shape[1:] > (1,)
            ):
                self.alive.append(weakref.ref(leaf))
        alive = [tensor for reference in self.alive if (tensor := reference()) is not None]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        storages.pop(self.given.untyped_storage().data_ptr(), None)
        self.most = max(self.most, sum(storages.values()) / self.given.nbytes)
        return outputs


def count_saved(numel, saved):
    def pack(tensor):
        if tensor.numel() == numel:
            saved.append(tensor.data_ptr())
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@pytest.mark.parametrize(
    ("dtype", "half"), [(torch.float32, False), (torch.float32, True), (torch.float64, False)]
)
def test_memory_does_not_grow_with_the_number_of_layers(dtype, half):
    adjacency = normalized_adjacency(graph(), "symmetric", half_tables=half)
    for learnable, width, uneven in itertools.product((False, True), (16, 32, 64), (False, True)):
        x = features(11, width, dtype).requires_grad_()
        forward, backward = [], []
        for num_layers in range(1, 8):
            alpha = torch.full((num_layers + 1,), 0.5)
            alpha[1::2] += 0.25 * uneven
            alpha = alpha.requires_grad_() if learnable else alpha.tolist()
            saved = []
            with count_saved(x.numel(), saved), BufferCount(x) as count:
                result = propagate(adjacency, x, alpha)
            forward.append(count.most)
            # The gradient of alpha needs x, which is alive anyway; no layer is kept.
            assert saved == [x.data_ptr()] * learnable
            grad = torch.ones_like(result)
            with BufferCount(grad) as count:
                torch.autograd.grad(result, [x, alpha] if learnable else [x], grad)
            backward.append(count.most)
        assert max(forward) <= 3.2 and (learnable or max(backward) <= 3.2)
        assert len(set(forward[2:])) == 1 and len(set(backward[2:])) == 1


def test_the_counter_sees_what_plain_autograd_keeps():
    dense, x = (
        normalized_adjacency(graph()).to_dense(),
        features(11, 37, torch.float32).requires_grad_(),
    )
    most = []
    for num_layers in (2, 5):
        with BufferCount(x) as count:
            layers = [x]
            for _ in range(num_layers):
                layers.append(dense @ layers[-1])
            torch.stack(layers).mean(0)
        most.append(count.most)
    assert most[1] - most[0] >= 3


def test_wrong_arguments_are_named():
    adjacency = normalized_adjacency(graph())
    for x, alpha, said in (
        (torch.ones(10, 2), [1.0], "(11, d) floating for Adjacency(5 users + 6 items"),
        (torch.ones(11), [1.0], "(11,) of torch.float32"),
        (torch.ones(11, 2).long(), [1.0], "(11, 2) of torch.int64"),
        (torch.ones(11, 2, device="meta"), [1.0], "meta"),
        (torch.ones(11, 2), [], "(0,)"),
        (torch.ones(11, 2), torch.ones(0), "(0,)"),
        (torch.ones(11, 2), torch.ones(2, 1), "(2, 1)"),
        (torch.ones(11, 2), torch.tensor(1.0), "got ()"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            propagate(adjacency, x, alpha)
        with pytest.raises(ValueError, match=re.escape(said)):
            propagate_rows(adjacency, x, alpha, torch.tensor([0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str
)
def test_cuda_equals_cpu(dtype, tolerance):
    for kind in KINDS:
        adjacency = normalized_adjacency(graph(kind), "mean")
        x = features(adjacency.num_nodes, 8, dtype)
        results = []
        for device in ("cpu", "cuda"):
            leaf = x.clone().to(device).requires_grad_()
            alpha = torch.tensor(ALPHA, dtype=dtype, device=device, requires_grad=True)
            result = propagate(adjacency.to(device), leaf, alpha)
            with torch.autocast(device):
                result.square().sum().backward()
            fixed = propagate(adjacency.to(device), leaf, ALPHA)
            results.append([one.detach().cpu() for one in (result, leaf.grad, alpha.grad, fixed)])
        for here, there in zip(*results, strict=True):
            torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)


TOP = [0.0, 0.0, 0.0, 1.0]
HALF_CASES = [
    ("symmetric", TOP),
    ("mean", TOP),
    ((0.0, 0.0), TOP),
    ((0.5, 0.2), TOP),
    ((1.0, 1.0), TOP),
    ("symmetric", None),
    ("mean", None),
    ((0.3, 0.9), None),
    ((0.0, 0.0), None),
    ((0.5, 0.2), [0.1, 0.0, 0.7]),
]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_half_tables_are_within_a_thousandth(scale):
    interactions = synthetic_interactions(300, 200, 6000, seed=1)
    for normalization, alpha in HALF_CASES:
        half = normalized_adjacency(interactions, normalization, half_tables=True)
        plain = normalized_adjacency(interactions, normalization, dtype=torch.float64)
        alpha = alpha or [0.25] * 4
        x = features(500, 64, torch.float32) * scale
        exact = propagate(plain, x.double(), alpha)
        grad = features(500, 64, torch.float32, seed=9) * 1e-9
        x.requires_grad_()
        result = propagate(half, x, alpha)
        assert (result - exact).norm() <= 1e-3 * exact.norm()
        result.backward(grad)
        expected = propagate(plain.T, grad.double(), alpha)
        assert (x.grad - expected).norm() <= 2e-3 * expected.norm()


def test_half_tables_do_not_overflow_at_a_hub():
    # 100,000 users of one item, with embeddings that add up: their plain sum is far beyond float16.
    users = 100_000
    interactions = Interactions(
        torch.arange(users), torch.zeros(users, dtype=torch.int64), users, 2
    )
    for normalization in ("symmetric", "mean", (0.0, 0.0)):
        x = torch.full((users + 2, 3), 7.0)
        alpha = [0.0, 0.0, 1.0]
        result = propagate(
            normalized_adjacency(interactions, normalization, half_tables=True), x, alpha
        )
        exact = propagate(
            normalized_adjacency(interactions, normalization, dtype=torch.float64),
            x.double(),
            alpha,
        )
        assert torch.allclose(result.double(), exact, rtol=2e-3)


def test_half_tables_keep_what_is_not_finite():
    half = normalized_adjacency(graph(), half_tables=True)
    x = features(11, 4, torch.float32)
    x[3, 1] = torch.nan
    assert propagate(half, x, [0.5, 0.5]).isnan().any()
    assert torch.equal(propagate(half, torch.zeros(11, 4), [0.5, 0.5]), torch.zeros(11, 4))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_those_of_the_whole(dtype, half):
    nodes = torch.tensor([3, 0, 10, 3, 3, 7])
    tolerance = {"rtol": 2e-3, "atol": 1e-3} if half else {}
    for normalization in ("mean", "symmetric", (0.0, 0.5)):
        adjacency = normalized_adjacency(graph(), normalization, half_tables=half)
        for alpha in ([1.0], [0.3, 0.7], [0.25] * 4, [0, 0.2, 0.8], [1, 0, 0], [0.5, 0.1, 0]):
            whole, some = (features(11, 70, dtype).requires_grad_() for _ in range(2))
            expected, expected_start = propagate(adjacency, whole, alpha)[nodes], whole[nodes]
            final, start = propagate_rows(adjacency, some, alpha, nodes)
            torch.testing.assert_close(final, expected, **tolerance)
            torch.testing.assert_close(start, expected_start)
            weights = features(6, 70, dtype, seed=2)
            (expected.square() * weights + 3 * expected_start).sum().backward()
            (final.square() * weights + 3 * start).sum().backward()
            torch.testing.assert_close(some.grad, whole.grad, **tolerance)


def test_rows_pass_gradcheck_and_train_alpha():
    adjacency = normalized_adjacency(graph(), "symmetric", dtype=torch.float64)
    nodes = torch.tensor([1, 5, 1])
    x = features(11, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: propagate_rows(adjacency, x, [0.4, 0.4, 0.2], nodes), (x,)
    )
    assert torch.autograd.gradgradcheck(
        lambda x: propagate_rows(adjacency, x, [0.4, 0.4, 0.2], nodes)[0].square(), (x,)
    )
    alpha = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a: propagate_rows(adjacency, x, a, nodes), (x, alpha))
    final, start = propagate_rows(adjacency, x, [0.4, 0.6], nodes[:0])
    assert final.shape == start.shape == (0, 3)
    with pytest.raises(ValueError, match=r"nodes must be \(B,\) int64"):
        propagate_rows(adjacency, x, [1.0], nodes.int())


def test_gradients_of_rows_are_the_same_bits_twice():
    adjacency = normalized_adjacency(
        synthetic_interactions(300, 200, 6000, seed=1), half_tables=True
    )
    nodes = torch.randint(500, (4000,), generator=torch.Generator().manual_seed(0))
    grads = []
    for _ in range(3):
        x = features(500, 64, torch.float32).requires_grad_()
        propagate_rows(adjacency, x, [0.25] * 4, nodes)[0].square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("alpha", [[0.25] * 4, TOP, [0.0, 0.0, 1.0], [0.0] * 40 + [1.0]])
def test_half_tables_on_a_complete_graph_and_a_star(alpha):
    complete = Interactions(
        torch.arange(60).repeat_interleave(60), torch.arange(60).repeat(60), 60, 60
    )
    star = Interactions(torch.arange(5000), torch.zeros(5000, dtype=torch.int64), 5000, 2)
    pairs = (0.0, 0.0), (0.3, 0.3), (0.7, 0.7), (1.0, 1.0), (0.5, 0.5), (1.0, 0.0)
    for interactions, exponents in itertools.product((complete, star), pairs):
        x = features(interactions.num_nodes, 8, torch.float32).abs()
        exact = propagate(
            normalized_adjacency(interactions, exponents, dtype=torch.float64), x.double(), alpha
        )
        if not 1e-20 < float(exact.abs().max()) < 1e30:
            continue  # beyond float32 as well
        half = propagate(normalized_adjacency(interactions, exponents, half_tables=True), x, alpha)
        # A rounding of 1e-4 for each layer.
        assert (half - exact).norm() <= (1.2e-3 + 1e-4 * len(alpha)) * exact.norm()


@pytest.mark.parametrize("half", [False, True])
def test_blocks_of_rows_give_the_same(half, monkeypatch):
    x, nodes, results = features(11, 70, torch.float32), torch.tensor([1, 9, 9]), []
    for rows in (pattern_module.BLOCK_ROWS, 4):
        monkeypatch.setattr(pattern_module, "BLOCK_ROWS", rows)
        adjacency = normalized_adjacency(graph(), half_tables=half)
        results.append([adjacency @ x])
        for alpha in ([0.5, 0.5], [0.25] * 4, [0.1, 0.7, -0.2, 0.4]):
            results[-1].append(propagate(adjacency, x, alpha))
            results[-1] += propagate_rows(adjacency, x, alpha, nodes)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["ordinary", "weighted"])
def test_a_large_graph_reuses_buffers_and_no_tensor_of_a_caller(half, kind, monkeypatch):
    monkeypatch.setattr(pattern_module, "BLOCK_ROWS", 4)
    for alpha in ([0.5, 0.5], [0.3, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1, 0.0]):
        adjacency, used, held = normalized_adjacency(graph(kind), half_tables=half), set(), []
        for step in range(4):
            nodes = torch.tensor([1, 9, step, 9])
            results = []
            for one in (adjacency, normalized_adjacency(graph(kind), half_tables=half)):
                x = features(11, 40, torch.float32, seed=step).requires_grad_()
                with torch.inference_mode():  # what is made here cannot be used outside
                    propagate_rows(one, x, alpha, nodes)
                final, start = propagate_rows(one, x, alpha, nodes, with_start=step % 2 == 0)
                (final.square().sum() + start.sum()).backward()
                results += [final.detach(), x.grad]
            assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
            assert start.shape == ((4, 40) if step % 2 == 0 else (0, 40))
            spare = adjacency.pattern.buffers_for(x).spare
            kept = [buffer.data_ptr() for buffer in spare]
            assert len(set(kept)) == len(kept) <= 6 and (not step or used & set(kept))
            used |= set(kept)
            # A caller may keep what a step gave it.
            held += [(one, one.clone()) for one in results]
        assert all(torch.equal(one, copy) for one, copy in held)
        assert not adjacency.pattern.buffers_for(features(11, 4)).keep  # float64


def test_copies_leave_what_was_made_behind():
    for kind in ("ordinary", "weighted"):
        adjacency = normalized_adjacency(graph(kind), dtype=torch.float64, half_tables=True)
        before = len(pickle.dumps(adjacency))
        x = features(11)
        expected = adjacency.T @ (adjacency @ x)
        propagate(adjacency, x.float(), [0.5, 0.5])
        assert len(pickle.dumps(adjacency)) == before
        for other in (
            copy.deepcopy(adjacency),
            pickle.loads(pickle.dumps(adjacency)),
            adjacency.to("cpu"),
        ):
            assert other.half_tables and other.T.half_tables
            assert torch.equal(other.T @ (other @ x), expected)
