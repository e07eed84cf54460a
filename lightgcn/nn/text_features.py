"""Sentence embeddings of titles and names, and start embeddings made of them (extra ``text``).

The model is a folder that `transformers` reads, or the name of one that is installed in its cache:
nothing is ever downloaded, weights come from safetensors files alone, and no code of a model's
folder is run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.core.progress import progress_bar
from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.nn.projection import leading_projection

# Texts behind one file of the cache: what an interruption can lose.
_PART = 8192
_KIND = "words"


class TextEncoder:
    """Mean-pooled sentence embeddings by a language model, each distinct text encoded once and kept
    on disk.

    Args:
        model: folder of a model and its tokenizer (such as all-MiniLM-L6-v2), or the name of an
            installed one.
        cache: folder to keep embeddings in, 8,192 texts a file, so that an interrupted encoding
            goes on; None for none.
        batch_size: texts at a time.
        max_length: tokens of a text that are read, at most.
        device: where to compute.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if `transformers` is missing, or there is no such model on this machine, or not
            in safetensors.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        cache: str | Path | None = None,
        batch_size: int = 256,
        max_length: int = 64,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> None:
        self.batch_size = checked_count("batch_size", batch_size, 1)
        self.max_length = checked_count("max_length", max_length, 1)
        self.cache = None if cache is None else Path(cache)
        self.device, self.progress = torch.device(device), progress
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ValueError(
                'sentence embeddings need transformers: pip install "lightgcn[text]"'
            ) from error
        if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
            # Older versions of transformers would read a pickle all the same.
            raise ValueError(
                f"{model}: no language model that can be read from this machine (it has no "
                ".safetensors)"
            )
        try:
            with _without_bars():
                self._tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
                self._model = AutoModel.from_pretrained(
                    str(model), local_files_only=True, use_safetensors=True
                )
            self._model.eval().to(self.device)
            self.dim = int(self._model.config.hidden_size)
            probe = self._pooled(["a title"])
            if probe.shape != (1, self.dim) or not bool(probe.isfinite().all()):
                raise ValueError(
                    f"an embedding of shape {tuple(probe.shape)}, or one that is not finite"
                )
        except Exception as error:  # a damaged model can raise anything
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{model}: no language model that can be read from this machine "
                f"({type(error).__name__}: {reason})"
            ) from error
        self._fingerprint = self._digest()

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return (n, dim) float32 on the CPU: the mean of each text's token embeddings; zeros for
        an empty text.

        Raises:
            ValueError: if a file of the cache is corrupt, or an embedding not finite.
        """
        numbers: dict[str, int] = {}
        places = [numbers.setdefault(text.strip(), len(numbers)) for text in texts]
        distinct = list(numbers)
        vectors = torch.zeros(len(distinct), self.dim, dtype=torch.float32, device="cpu")
        with progress_bar(
            total=len(distinct), desc="words", unit="text", shown=self.progress
        ) as bar:
            for first in range(0, len(distinct), _PART):
                part = distinct[first : first + _PART]
                vectors[first : first + len(part)] = self._part(part, bar)
        return vectors[torch.tensor(places, dtype=torch.int64, device="cpu")]

    def _part(self, texts: list[str], bar: Any) -> Tensor:
        file = None
        if self.cache is not None:
            key = hashlib.sha256(
                "\0".join([self._fingerprint, *texts]).encode(errors="surrogatepass")
            ).hexdigest()
            file = self.cache / f"{key[:32]}.safetensors"
            if file.is_file():
                bar.update(len(texts))
                return self._cached(file, len(texts))
        vectors = torch.zeros(len(texts), self.dim, dtype=torch.float32, device="cpu")
        # Texts of a length together: a batch is as long as the longest of it.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            some = [place for place in batch if texts[place]]
            if some:
                vectors[some] = self._pooled([texts[place] for place in some])
            bar.update(len(batch))
        if not bool(vectors.isfinite().all()):
            wrong = int((~vectors.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"the language model's embedding of {texts[wrong]!r} is not finite")
        if file is not None:
            save_tensors(
                file, _KIND, {"vectors": vectors.half() if _fits_half(vectors) else vectors}
            )
            # What comes from the cache later must be what comes now.
            return self._cached(file, len(texts))
        return vectors

    def _cached(self, file: Path, count: int) -> Tensor:
        vectors = load_tensors(file, _KIND)[0].get("vectors")
        if vectors is None or vectors.shape != (count, self.dim):
            raise ValueError(
                f"{file}: does not hold {count} embeddings of width {self.dim}; delete it"
            )
        return vectors.float()

    @torch.inference_mode()
    def _pooled(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        hidden = self._model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return pooled.cpu()

    def _digest(self) -> str:
        """Say which model this is: by its settings, its weights, the vocabulary, and how texts are
        cut."""
        digest = hashlib.sha256(f"{self.max_length} {self._model.config.to_json_string()}".encode())
        digest.update(
            repr(sorted(self._tokenizer.get_vocab().items())).encode(errors="surrogatepass")
        )
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()


def word_features(
    users: Mapping[str, Sequence[str]], items: Mapping[str, Sequence[str]], encoder: TextEncoder
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of users' and items' names: (num_users, f) and (num_items, f) float32.

    Args:
        users: the users' columns, such as `lightgcn.datasets.Dataset.users`; "name" is encoded.
        items: the items' columns.
        encoder: the language model.

    Raises:
        ValueError: if the users or the items have no column "name".
    """
    for side, columns in (("users", users), ("items", items)):
        if "name" not in columns:
            raise ValueError(
                f'a start from words needs names, and the {side} have no column "name"'
            )
    return encoder.encode(users["name"]), encoder.encode(items["name"])


def word_embeddings(
    user_features: Tensor, item_features: Tensor, dim: int, *, std: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Return start embeddings made of features: centred, in their leading directions, of a given
    size.

    The mean of a side is no news about any of its nodes, and would be most of every dot product; a
    node without words (a row of zeros) starts at zero.

    Args:
        user_features: (num_users, f) floating.
        item_features: (num_items, f) floating.
        dim: width; columns beyond f are zero.
        std: standard deviation of all entries together.

    Returns:
        (num_users, dim) and (num_items, dim) float32.
    """
    centred = []
    for features in (user_features, item_features):
        some = features.any(1)
        mean = features[some].mean(0) if bool(some.any()) else features.new_zeros(features.shape[1])
        centred.append((features - mean) * some.unsqueeze(1))
    start = leading_projection(torch.cat(centred).float(), dim)
    size = start.square().mean().sqrt()
    if size > 0:
        start = start * (std / size)
    return start[: len(user_features)], start[len(user_features) :]


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _fits_half(vectors: Tensor) -> bool:
    return bool(vectors.abs().amax() < 1e3) if vectors.numel() else True
