"""A model comes back from its file as it was, or the file is refused by name."""

import re

import pytest
import torch

from lightgcn import LightGCN
from lightgcn.core.tensor_file import save_tensors
from lightgcn.nn.model_io import load_model, save_model


@pytest.mark.parametrize("alpha", [None, "learnable", [0.5, 0.25, 0.25]])
def test_model_round_trip(tmp_path, alpha):
    model = LightGCN(4, 5, 6, 2, alpha, seed=3)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded.embedding, model.embedding)
    assert type(loaded.alpha) is type(model.alpha)
    assert torch.equal(torch.as_tensor(loaded.alpha), torch.as_tensor(model.alpha))
    assert (loaded.num_users, loaded.num_items, loaded.embedding_dim, loaded.num_layers) == (
        4,
        5,
        6,
        2,
    )


@pytest.mark.parametrize("alpha", [None, "learnable"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_keeps_its_dtype(tmp_path, dtype, alpha):
    model = LightGCN(4, 5, 6, 2, alpha, normalization=(0.3, 0.9)).to(dtype)
    with torch.no_grad():
        model.embedding[0, 0] = 1 / 3
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    for name, weight in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == weight.dtype
        assert torch.equal(loaded.state_dict()[name], weight)


@pytest.mark.parametrize(
    "metadata", [{}, {"num_users": 4, "num_items": 5, "embedding_dim": 7}, {"size": 3}]
)
def test_model_file_whose_shape_does_not_fit(tmp_path, metadata):
    path = tmp_path / "model"
    save_tensors(path, "model", LightGCN(4, 5, 6).state_dict(), metadata)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_model(path)


def test_loading_draws_no_random_numbers(tmp_path, monkeypatch):
    """They take several times as long as reading the file, and are overwritten at once."""
    model = LightGCN(4, 5, 6)
    save_model(tmp_path / "model", model)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: self.fill_(float("nan")))
    assert torch.equal(load_model(tmp_path / "model").embedding, model.embedding)
