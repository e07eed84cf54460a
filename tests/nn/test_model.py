"""The model against the formula written out as Python loops over a dense float64 graph, and as part
of other code."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from lightgcn import Interactions, LightGCN, RankingConfig, bce_loss, normalized_adjacency

# User 2 and item 4 are isolated.
EDGES = torch.tensor([[0, 0, 0, 1, 1, 3, 3], [0, 1, 2, 1, 3, 3, 0]])
USERS, ITEMS = 4, 5
NODES = USERS + ITEMS


def graph() -> Interactions:
    return Interactions.from_edge_index(EDGES, USERS, ITEMS)


def neighbours() -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(NODES)]
    for user, item in EDGES.T.tolist():
        found[user].append(USERS + item)
        found[USERS + item].append(user)
    return found


def by_the_formula(table: Tensor, alpha: list[float], normalization: str) -> Tensor:
    """z_v = Σ_k α_k e_v^(k), e_v^(k+1) = Σ_{w in N(v)} e_w^(k) / norm(v, w), one node at a time."""
    near = neighbours()
    layer = table.detach().double()
    total = alpha[0] * layer
    for weight in alpha[1:]:
        fresh = torch.zeros_like(layer)
        for node in range(NODES):
            for other in near[node]:
                norm = (
                    len(near[node])
                    if normalization == "mean"
                    else (len(near[node]) * len(near[other])) ** 0.5
                )
                fresh[node] += layer[other] / norm
        layer = fresh
        total = total + weight * layer
    return total


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _global_rng_is_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("normalization", ["mean", "symmetric"])
@pytest.mark.parametrize("num_layers", [0, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embed_equals_the_formula(normalization: Any, num_layers: int, dtype: torch.dtype) -> None:
    model = LightGCN(USERS, ITEMS, 3, num_layers, seed=1).to(dtype)
    users, items = model.embed(normalized_adjacency(graph(), normalization))
    expected = by_the_formula(
        model.embedding, [1 / (num_layers + 1)] * (num_layers + 1), normalization
    )
    assert users.dtype == items.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        torch.cat([users, items]).double(), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    "alpha", [[0.5, 0.0, 0.5], (0.0, 0.0, 1.0), torch.tensor([1.0, 2.0, -3.0]), np.ones(3)]
)
def test_given_layer_weights(alpha: Any) -> None:
    model = LightGCN(USERS, ITEMS, 3, 2, alpha).double()
    z = model.propagate(normalized_adjacency(graph(), "symmetric"))
    expected = by_the_formula(model.embedding, [float(weight) for weight in alpha], "symmetric")
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def test_no_layers_are_matrix_factorisation() -> None:
    model = LightGCN(USERS, ITEMS, 3, 0)
    users, items = model.embed(normalized_adjacency(graph()))
    assert torch.equal(users, model.embedding[:USERS]) and torch.equal(
        items, model.embedding[USERS:]
    )


def test_isolated_nodes_keep_their_own_share_and_are_never_nan() -> None:
    model = LightGCN(USERS, ITEMS, 3, 3)
    users, items = model.embed(normalized_adjacency(graph(), "mean"))
    torch.testing.assert_close(users[2], model.embedding[2] / 4)
    torch.testing.assert_close(items[4], model.embedding[USERS + 4] / 4)


def test_a_graph_without_edges() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2)
    empty = Interactions.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), USERS, ITEMS)
    torch.testing.assert_close(model.propagate(normalized_adjacency(empty)), model.embedding / 3)


def test_torch_func() -> None:
    """`forward` under transforms equals the dense formula, the first time a graph is seen and
    afterwards: what is kept with the graph was made outside of the transform."""
    pairs = torch.tensor([[0, 1, 3], [1, 4, 0]])
    several = torch.stack([pairs, pairs.flip(1), pairs[:, [0, 0, 2]]])
    transforms: list[Any] = [
        lambda f, x, along, batch, several: grad(f)(x),
        lambda f, x, along, batch, several: jvp(f, (x,), (along,)),
        lambda f, x, along, batch, several: jvp(grad(f), (x,), (along,)),
        lambda f, x, along, batch, several: vmap(f)(batch),
        lambda f, x, along, batch, several: vmap(grad(f))(batch),
        lambda f, x, along, batch, several: vmap(f, (None, 0))(x, several),
        lambda f, x, along, batch, several: vmap(grad(f), (None, 0))(x, several),
    ]
    for alpha, weighted in ((None, False), ("learnable", True)):
        weights = torch.arange(1.0, 8.0) if weighted else None
        shared = Interactions.from_edge_index(EDGES, USERS, ITEMS, weights=weights)
        matrix = normalized_adjacency(shared, dtype=torch.float64).to_dense()
        model = LightGCN(USERS, ITEMS, 3, 2, alpha=alpha, seed=2).double()  # type: ignore[arg-type]
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        along = {name: value.cos() for name, value in parameters.items()}
        batch = {name: torch.stack([v, 2 * v, v + 1]) for name, v in parameters.items()}

        def found(
            values: Any, edges: Any = pairs, *, graph: Any = shared, model: Any = model
        ) -> Any:
            return functional_call(model, values, (graph, edges)).square().sum()

        def dense(values: Any, edges: Any = pairs, *, matrix: Any = matrix) -> Any:
            weights = values.get("alpha", torch.full((3,), 1 / 3, dtype=torch.float64))
            table = values["embedding"]
            layers = [table, matrix @ table, matrix @ matrix @ table]
            z = sum(weights[k] * layer for k, layer in enumerate(layers))
            return (z[edges[0]] * z[USERS + edges[1]]).sum(1).square().sum()  # type: ignore[index]

        for transform in transforms:
            given = parameters, along, batch, several
            torch.testing.assert_close(transform(found, *given), transform(dense, *given))
        scores = functional_call(model, parameters, (shared, shared))
        torch.testing.assert_close(model(shared, shared.edge_index), scores)
    with pytest.raises(ValueError, match=r"items.*got 5"):
        vmap(lambda edges: model(shared, edges))(several + several.new_tensor([[0], [1]]))


def test_learnable_layer_weights_get_the_gradient_of_the_formula() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2, "learnable").double()
    alpha = model.alpha
    assert isinstance(alpha, nn.Parameter) and alpha.tolist() == pytest.approx([1 / 3] * 3)
    dense = normalized_adjacency(graph(), "mean", dtype=torch.float64).to_dense()
    target = torch.randn(NODES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (model.propagate(normalized_adjacency(graph(), "mean")) * target).sum().backward()

    table = model.embedding.detach().clone().requires_grad_()
    weights = alpha.detach().clone().requires_grad_()
    layers = [table, dense @ table, dense @ dense @ table]
    (sum(w * layer for w, layer in zip(weights, layers, strict=True)) * target).sum().backward()
    torch.testing.assert_close(alpha.grad, weights.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.embedding.grad, table.grad, rtol=1e-10, atol=1e-12)


def test_forward_is_the_dot_product_of_each_pair() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2).double()
    adjacency = normalized_adjacency(graph())
    edges = torch.tensor([[0, 3, 2, 0], [4, 0, 1, 4]])
    users, items = (z.detach() for z in model.embed(adjacency))
    expected = [float(users[u] @ items[i]) for u, i in edges.T.tolist()]
    assert model(adjacency, edges).tolist() == pytest.approx(expected)
    assert model(adjacency, torch.zeros(2, 0, dtype=torch.int64)).shape == (0,)


def test_forward_scores_any_two_nodes() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2).double()
    adjacency = normalized_adjacency(graph())
    z = model.propagate(adjacency).detach()
    pairs = torch.tensor(
        [[0, 5, 8, 2], [1, 7, 8, 6]]
    )  # user-user, item-item, a self-loop, user-item
    expected = [float(z[a] @ z[b]) for a, b in pairs.T.tolist()]
    assert model(adjacency, pairs, node_pairs=True).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("edges", "node_pairs", "message"),
    [
        ([[0, 1]], False, r"shape \(2, E\), got \(1, 2\)"),
        ([0, 1], False, r"shape \(2, E\), got \(2,\)"),
        (
            [[0, 4], [0, 0]],
            False,
            r"users must be in \[0, 4\), got 4; users and items count from zero",
        ),
        ([[0, -1], [0, 0]], False, r"users must be in \[0, 4\), got -1"),
        ([[0, 1], [0, 5]], False, r"items must be in \[0, 5\), got 5"),
        ([[0, 1], [-2, 3]], False, r"items must be in \[0, 5\), got -2"),
        ([[0, 1], [0, 9]], True, r"must be in \[0, 9\), got 9"),
    ],
)
def test_forward_refuses_pairs_that_are_none(edges: Any, node_pairs: bool, message: str) -> None:
    model = LightGCN(USERS, ITEMS, 3, 1)
    with pytest.raises(ValueError, match=message):
        model(normalized_adjacency(graph()), torch.tensor(edges), node_pairs=node_pairs)


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "uncoalesced", "edge_index"])
def test_other_forms_of_the_graph_give_the_same(form: str) -> None:
    model = LightGCN(USERS, ITEMS, 3, 3).double()
    adjacency = normalized_adjacency(graph(), dtype=torch.float64)
    coo = adjacency.to_sparse_coo()
    halves = torch.cat([coo.values() / 2] * 2)
    given = {
        "coo": coo,
        "csr": adjacency.to_sparse_csr(),
        "csc": coo.to_sparse_csc(),
        "uncoalesced": torch.sparse_coo_tensor(
            torch.cat([coo.indices()] * 2, 1), halves, coo.shape, check_invariants=False
        ),
        "edge_index": EDGES,
    }[form]
    torch.testing.assert_close(
        model.propagate(given), model.propagate(adjacency), rtol=1e-10, atol=1e-12
    )


def test_an_asymmetric_sparse_tensor_has_its_own_gradient() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2).double()
    dense = torch.rand(
        NODES, NODES, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    dense = dense * (dense > 0.6)
    model.propagate(dense.to_sparse_csr())[0].sum().backward()
    table = model.embedding.detach().clone().requires_grad_()
    ((table + dense @ table + dense @ dense @ table) / 3)[0].sum().backward()
    torch.testing.assert_close(model.embedding.grad, table.grad, rtol=1e-10, atol=1e-12)


def test_a_graph_of_other_nodes_is_refused() -> None:
    other = Interactions.from_edge_index(EDGES, USERS + 1, ITEMS)
    swapped = Interactions.from_edge_index(EDGES, USERS + 1, ITEMS - 1)
    model = LightGCN(USERS, ITEMS, 3, 1)
    for wrong in (other, swapped):
        with pytest.raises(ValueError, match="over 4 users and 5 items"):
            model.embed(normalized_adjacency(wrong))
    with pytest.raises(ValueError, match="4 users and 5 items"):
        model.embed(normalized_adjacency(other).to_sparse_coo())
    with pytest.raises(ValueError, match="num_users=4"):
        model.embed(torch.tensor([[4], [0]]))
    with pytest.raises(ValueError, match="to_sparse"):
        model.embed(normalized_adjacency(graph()).to_dense())
    same = zip(model.embed(graph()), model.embed(normalized_adjacency(graph())), strict=True)
    assert all(torch.equal(*tables) for tables in same)


def test_a_seed_determines_the_start() -> None:
    first, again, other = (LightGCN(30, 40, 8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.embedding, again.embedding)
    assert not torch.equal(first.embedding, other.embedding)
    drawn = [LightGCN(30, 40, 8, seed=torch.Generator().manual_seed(1)).embedding for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])


def test_normal_and_xavier_starts_have_their_spread() -> None:
    normal = LightGCN(300, 700, 16, init_std=0.3).embedding.detach()
    assert float(normal.mean()) == pytest.approx(0, abs=0.01) and float(
        normal.std()
    ) == pytest.approx(0.3, rel=0.03)
    xavier = LightGCN(300, 700, 16, init="xavier").embedding.detach()
    bound = (6 / (1000 + 16)) ** 0.5
    assert float(xavier.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(xavier.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_reset_parameters_draws_anew() -> None:
    model = LightGCN(USERS, ITEMS, 3, seed=1)
    start = model.embedding.detach().clone()
    model.reset_parameters(seed=2)
    assert not torch.equal(model.embedding, start)
    model.reset_parameters(seed=1)
    assert torch.equal(model.embedding, start)


def features(width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(USERS, width, generator=generator), torch.randn(
        ITEMS, width, generator=generator
    ) + 0.5


def test_features_of_the_same_width_are_the_start() -> None:
    users, items = features(6)
    model = LightGCN(USERS, ITEMS, 6, init=(users, items))
    assert torch.equal(model.embedding, torch.cat([users, items]))


def test_wider_features_keep_their_dot_products_as_well_as_any_projection_can() -> None:
    start = torch.cat(features(8)).double()
    model = LightGCN(USERS, ITEMS, 3, init=features(8))
    left, values, _ = torch.linalg.svd(start)
    best = (left[:, :3] * values[:3] ** 2) @ left[:, :3].T
    table = model.embedding.detach().double()
    torch.testing.assert_close(table @ table.T, best, rtol=1e-4, atol=1e-4)


def test_narrower_features_are_filled_with_noise() -> None:
    users, items = features(2)
    model = LightGCN(USERS, ITEMS, 6, init=(users, items), init_std=0.01)
    assert torch.equal(model.embedding[:, :2], torch.cat([users, items]))
    filled = model.embedding[:, 2:].detach()
    assert 0 < float(filled.std()) < 0.02 and bool((filled != 0).all())


def test_features_that_do_not_fit_are_refused() -> None:
    users, items = features(6)
    for wrong, message in (
        ((users, items[:, :3]), r"\(4, 6\) and \(5, 3\)"),
        ((users, items[0]), r"\(4, 6\) and \(6,\)"),
        ((items, users), "5 users and 4 items"),
        ((users * torch.nan, items), "finite"),
        (torch.cat([users, items]), "user features, item features"),
        (None, "user features, item features"),
        ("zeros", "'zeros'"),
    ):
        with pytest.raises(ValueError, match=message):
            LightGCN(USERS, ITEMS, 6, init=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_users": 0}, "num_users"),
        ({"num_items": 2.5}, "num_items"),
        ({"num_items": True}, "num_items"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"num_layers": -1}, "num_layers"),
        ({"alpha": [0.5, 0.5]}, "4 weights"),
        ({"alpha": "learned"}, "learnable"),
        ({"alpha": 0.25}, "4 weights"),
        ({"alpha": [1.0, float("nan"), 0.0, 0.0]}, "finite"),
        ({"init_std": -1.0}, "init_std"),
        ({"init_std": float("nan")}, "init_std"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LightGCN(**({"num_users": USERS, "num_items": ITEMS} | changes))


def test_counts_may_be_numpy_integers() -> None:
    model = LightGCN(np.int64(USERS), np.int32(ITEMS), 3)  # type: ignore[arg-type]
    assert type(model.num_users) is int and model.embedding.shape == (NODES, 3)


def test_repr_says_what_it_is() -> None:
    assert (
        "num_users=4, num_items=5, embedding_dim=3, num_layers=1, normalization=None, alpha='learnable'"
        in repr(LightGCN(USERS, ITEMS, 3, 1, "learnable"))
    )


@pytest.mark.parametrize("alpha", [None, "learnable"])
def test_state_dict_round_trip(alpha: Any, tmp_path: Path) -> None:
    model, other = (
        LightGCN(USERS, ITEMS, 3, 2, alpha, seed=1),
        LightGCN(USERS, ITEMS, 3, 2, alpha, seed=2),
    )
    weights = {"embedding"} if alpha is None else {"embedding", "alpha"}
    assert set(model.state_dict()) == weights | {"_extra_state"}
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    adjacency = normalized_adjacency(graph())
    assert torch.equal(model.propagate(adjacency), other.propagate(adjacency))


def test_a_damaged_state_leaves_the_model_as_it_was() -> None:
    saved = LightGCN(USERS, ITEMS, 3, 2, seed=1).state_dict()
    for part, value in (
        ("ranking", None),
        ("ranking", {"prior": 1}),
        ("ranking", {"item_knn": -1}),
        ("normalization", "none"),
        ("normalization", [0.5]),
    ):
        extra = orjson.loads(saved["_extra_state"].numpy().tobytes()) | {part: value}
        packed = torch.frombuffer(bytearray(orjson.dumps(extra)), dtype=torch.uint8)
        model = LightGCN(USERS, ITEMS, 3, 2)
        before = model.embedding.detach().clone()
        with pytest.raises(ValueError, match=part if value != {"item_knn": -1} else "item_knn"):
            model.load_state_dict(saved | {"_extra_state": packed})
        assert torch.equal(model.embedding, before)
        assert (model.normalization, model.ranking) == (None, RankingConfig())


def test_a_deep_copy_is_independent() -> None:
    model = LightGCN(USERS, ITEMS, 3, 2, "learnable")
    other = copy.deepcopy(model)
    assert torch.equal(model.embedding, other.embedding)
    with torch.no_grad():
        other.embedding.zero_()
    assert bool((model.embedding != 0).any())


def test_half_precision() -> None:
    model = LightGCN(USERS, ITEMS, 8, 2)
    adjacency = normalized_adjacency(graph())
    expected = model.propagate(adjacency)
    halved = copy.deepcopy(model).half().propagate(adjacency)
    assert halved.dtype == torch.float16
    torch.testing.assert_close(halved.float(), expected, rtol=5e-3, atol=1e-3)


def test_the_default_device_does_not_change_the_start() -> None:
    expected = LightGCN(USERS, ITEMS, 3, seed=1).embedding
    with torch.device("meta"):
        LightGCN(USERS, ITEMS, 6, init=features_on_cpu())
        on_cpu = LightGCN(USERS, ITEMS, 3, seed=1)
    assert torch.equal(on_cpu.embedding, expected)


def features_on_cpu() -> tuple[Tensor, Tensor]:
    return torch.ones(USERS, 2, device="cpu"), torch.ones(ITEMS, 2, device="cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("alpha", [None, "learnable"])
def test_compiled(backend: str, alpha: Any) -> None:
    torch.compiler.reset()
    model = LightGCN(USERS, ITEMS, 3, 2, alpha)
    adjacency = normalized_adjacency(graph())
    other = normalized_adjacency(graph().select(torch.arange(5)))
    compiled = torch.compile(model, backend=backend)
    for chosen in (adjacency, other):
        model.zero_grad()
        expected = model(chosen, EDGES)
        expected.sum().backward()
        grads = [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]
        model.zero_grad()
        scores = compiled(chosen, EDGES)
        scores.sum().backward()
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close([parameter.grad for parameter in model.parameters()], grads)


def test_data_parallel_wrapper(tmp_path: Path) -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = LightGCN(USERS, ITEMS, 3, 2)
        adjacency = normalized_adjacency(graph())
        expected = model(adjacency, EDGES)
        expected.sum().backward()
        assert model.embedding.grad is not None
        grad, model.embedding.grad = model.embedding.grad, None
        wrapped = nn.parallel.DistributedDataParallel(model)
        scores = wrapped(adjacency, EDGES)
        scores.sum().backward()
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close(model.embedding.grad, grad)
    finally:
        distributed.destroy_process_group()


def test_inside_another_module_in_a_training_loop_of_its_own() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = LightGCN(USERS, ITEMS, 8, 2)
            self.bias = nn.Parameter(torch.zeros(ITEMS))

        def forward(self, matrix: Tensor, edges: Tensor) -> Tensor:
            scores: Tensor = self.backbone(matrix, edges)
            return scores + self.bias[edges[1]]

    tower = Tower()
    assert [name for name, _ in tower.named_parameters()] == ["bias", "backbone.embedding"]
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    labels = graph().contains(pairs[0], pairs[1]).float()
    optimizer = torch.optim.Adam(tower.parameters(), lr=0.05)
    matrix = normalized_adjacency(graph()).to_sparse_csr()
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = bce_loss(tower(matrix, pairs), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    model = LightGCN(USERS, ITEMS, 3, 3, "learnable")
    expected = model.propagate(normalized_adjacency(graph()))
    on_device = copy.deepcopy(model).cuda().propagate(normalized_adjacency(graph().to("cuda")))
    torch.testing.assert_close(on_device.cpu(), expected)
    moved = copy.deepcopy(model).cuda()
    torch.testing.assert_close(moved(graph().to("cuda"), graph()).cpu(), model(graph(), graph()))
    with torch.device("cuda"):
        assert torch.equal(LightGCN(USERS, ITEMS, 3, 3).embedding.cpu(), model.embedding)


def test_a_state_without_a_normalization_leaves_the_model_its_own() -> None:
    """Otherwise the same weights would give other scores."""
    model = LightGCN(4, 5, 3, normalization="mean")
    model.load_state_dict(LightGCN(4, 5, 3).state_dict())
    assert model.normalization == "mean"
