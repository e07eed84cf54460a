from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from language_model import write_language_model

import lightgcn.nn.text_features as text_module
from lightgcn import Interactions, preset
from lightgcn.cli import main as cli
from lightgcn.core.storage import read_json
from lightgcn.datasets import Dataset, read_mpd
from lightgcn.nn.model_io import load_model
from lightgcn.nn.text_features import TextEncoder, word_embeddings, word_features

pytest.importorskip("transformers", reason="needs transformers: the extra text")

WORDS = ["rainy", "day", "jazz", "gym", "rock", "night"]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("language") / "model", WORDS)


def pooled_by_hand(folder: Path, text: str) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].mean(0)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_embeddings_are_means_over_tokens_whatever_the_batch(
    language_model: Path, batch_size: int
) -> None:
    texts = ["rainy day jazz", "gym", " gym ", "", "night rock rock rock jazz day", "gym"]
    vectors = TextEncoder(language_model, batch_size=batch_size).encode(texts)
    assert vectors.shape == (6, 16) and vectors.dtype == torch.float32
    for text, vector in zip(texts, vectors, strict=True):
        wanted = pooled_by_hand(language_model, text.strip()) if text else torch.zeros(16)
        torch.testing.assert_close(vector, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(vectors[1], vectors[2]) and torch.equal(vectors[1], vectors[5])


def test_long_texts_are_cut(language_model: Path) -> None:
    encoder = TextEncoder(language_model, max_length=2)
    cut = encoder.encode(["gym rock jazz jazz jazz"])[0]
    torch.testing.assert_close(cut, encoder.encode(["gym rock"])[0])


def test_the_cache_is_asked_first_and_an_interrupted_encoding_goes_on(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "_PART", 2)
    first, again, third = (TextEncoder(language_model, cache=tmp_path) for _ in range(3))
    texts = ["gym", "rock", "jazz", "night", "day"]
    encoded: list[str] = []
    pooled = TextEncoder._pooled

    def counted(self: TextEncoder, some: list[str]) -> torch.Tensor:
        encoded.extend(some)
        if len(encoded) > 4:
            raise KeyboardInterrupt
        return pooled(self, some)

    monkeypatch.setattr(TextEncoder, "_pooled", counted)
    with pytest.raises(KeyboardInterrupt):
        first.encode(texts)
    assert encoded == texts and len(list(tmp_path.iterdir())) == 2
    encoded.clear()
    vectors = again.encode(texts)
    assert encoded == ["day"]
    encoded.clear()
    assert torch.equal(third.encode(texts), vectors) and not encoded
    monkeypatch.undo()
    # Kept in half precision.
    torch.testing.assert_close(
        vectors, TextEncoder(language_model).encode(texts), atol=1e-2, rtol=1e-3
    )


def test_the_cache_tells_models_and_lengths_apart(language_model: Path, tmp_path: Path) -> None:
    other = write_language_model(tmp_path / "other", [*WORDS, "more"])
    for folder, length in ((language_model, 64), (language_model, 2), (other, 64)):
        TextEncoder(folder, cache=tmp_path / "cache", max_length=length).encode(["gym rock jazz"])
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_corrupt_cache_is_named(language_model: Path, tmp_path: Path) -> None:
    TextEncoder(language_model, cache=tmp_path).encode(["gym"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=file.name):
        TextEncoder(language_model, cache=tmp_path).encode(["gym"])


def test_no_model_is_one_clear_error_and_nothing_is_downloaded(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "missing", "nobody/has-this-model"):
        with pytest.raises(
            ValueError, match="no language model that can be read from this machine"
        ):
            TextEncoder(name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"nothing"),
        ("model.safetensors", b""),
        ("config.json", b"[1]"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "bert", "hidden_size": "x"}'),
        ("config.json", b'{"model_type": "bert", "hidden_size": 16, "vocab_size": 3}'),
        ("tokenizer.json", b"{}"),
    ],
)
def test_a_damaged_model_is_one_clear_error(
    language_model: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for part in language_model.iterdir():
        (folder / part.name).write_bytes(content if part.name == file else part.read_bytes())
    with pytest.raises(ValueError, match="damaged: no language model that can be read"):
        TextEncoder(folder).encode(["gym"])


def test_an_embedding_that_is_not_finite_is_refused(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder(language_model, cache=tmp_path)
    monkeypatch.setattr(encoder, "_pooled", lambda texts: torch.full((len(texts), 16), torch.nan))
    with pytest.raises(ValueError, match="embedding of 'gym' is not finite"):
        encoder.encode(["gym"])
    assert not list(tmp_path.iterdir())


def test_weights_that_could_run_code_are_not_read(language_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in language_model.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save(AutoModel.from_pretrained(language_model).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no language model that can be read"):
        TextEncoder(folder)


def test_start_embeddings_are_centred_projected_and_scaled() -> None:
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(40, 10, generator=generator) + 5
    items = torch.randn(60, 10, generator=generator) - 3
    users[7] = 0
    left, right = word_embeddings(users, items, 4, std=0.02)
    assert left.shape == (40, 4) and right.shape == (60, 4)
    assert float(torch.cat([left, right]).square().mean().sqrt()) == pytest.approx(0.02, rel=1e-5)
    assert not left[7].any()
    some = torch.arange(40) != 7
    centred = torch.cat(
        [(users - users[some].mean(0)) * some.unsqueeze(1), items - items.mean(0)]
    ).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    best = u[:, :4] * s[:4]
    gram = torch.cat([left, right]).double()
    torch.testing.assert_close(
        gram @ gram.T / (gram @ gram.T).norm(),
        best @ best.T / (best @ best.T).norm(),
        atol=1e-6,
        rtol=1e-4,
    )
    wide, _ = word_embeddings(users, items, 12)
    assert wide.shape == (40, 12) and not wide[:, 10:].any()
    nothing, _ = word_embeddings(torch.zeros(3, 4), torch.zeros(2, 4), 2)
    assert not nothing.any()


@pytest.fixture
def prepared(slices: Path, tmp_path: Path) -> Path:
    return read_mpd(slices).save(tmp_path / "prepared")


def test_train_starts_from_words_and_keeps_them_beside_the_data(
    prepared: Path, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--epochs", "2", "--batch-size", "512", "--words", str(language_model)]
    assert (
        cli.main(["train", str(prepared), str(run), *options, "--set", "learning_rate=1e-9"]) == 0
    )
    config = read_json(run / "run.json")
    assert config["settings"]["init"] == "words" and config["words"] == str(
        language_model.resolve()
    )
    assert list((prepared / "words").iterdir())
    dataset = Dataset.load(prepared)
    words = word_features(
        dataset.users, dataset.items, TextEncoder(language_model, cache=prepared / "words")
    )
    start = torch.cat(word_embeddings(*words, 64, std=config["settings"]["init_std"]))
    torch.testing.assert_close(
        load_model(run / "model.safetensors").embedding.detach(), start, atol=1e-6, rtol=0
    )
    capsys.readouterr()
    assert cli.main(["train", str(prepared), str(run), "--resume", "--epochs", "3"]) == 0
    assert cli.main(["evaluate", str(run), "--baselines", "mf", "--json"]) == 0
    assert cli.main(["train", str(prepared), str(run), "--resume", "--words", str(tmp_path)]) == 2
    assert "words cannot change" in capsys.readouterr().err


def test_a_start_from_words_needs_a_model_and_a_model_such_a_start(
    prepared: Path, language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert cli.main(["train", str(prepared), run, "--set", "init=words"]) == 2
    assert "each needs the other" in capsys.readouterr().err
    assert (
        cli.main(
            ["train", str(prepared), run, "--words", str(language_model), "--set", "init=normal"]
        )
        == 2
    )
    assert "each needs the other" in capsys.readouterr().err
    assert cli.main(["train", str(prepared), run, "--words", str(tmp_path / "missing")]) == 2
    assert "no language model" in capsys.readouterr().err
    assert not Path(run).exists()
    with pytest.raises(ValueError, match="--words"):
        preset("fast", init="words").new_model(
            Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3, 4)
        )


def test_data_without_names_is_refused(language_model: Path) -> None:
    with pytest.raises(ValueError, match='the items have no column "name"'):
        word_features({"name": ["x"]}, {}, TextEncoder(language_model))


@pytest.mark.slow
def test_transformers_is_imported_for_words_alone() -> None:
    code = "import sys, lightgcn, lightgcn.cli.main; assert 'transformers' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
