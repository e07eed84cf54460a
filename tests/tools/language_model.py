"""A language model for tests: a BERT of a few thousand random weights, whose vocabulary is a list
of words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch


def write_language_model(folder: Path, words: Iterable[str], hidden: int = 16) -> Path:
    """Write a model and its tokenizer as `transformers` does, and return the folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = (
        normalizers.Lowercase(),
        pre_tokenizers.Whitespace(),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(numbers),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder
