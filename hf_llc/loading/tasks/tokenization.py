"""Texts → token ids, and rows of token ids → tensors: what the tasks on text share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_llc.errors import InputError
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.context_length import is_transformer_lens, text_config

TEXT_COLUMNS = ("text", "content", "sentence", "document", "story")
"""Usual names of a text column."""

_FEW_TOKENS = 1000
"""A tokenizer with so many tokens has words."""


def check_vocabulary(ids: Tensor, model: Any) -> None:
    """Check that all token ids are rows of the model's embedding.

    Raises:
        InputError: an id is outside the model's vocabulary.
    """
    size = vocabulary_of(model)
    if size is None or ids.numel() == 0:
        return
    largest, least = int(ids.max()), int(ids.min())
    if largest >= size or least < 0:
        odd = largest if least >= 0 else least
        raise InputError(
            "there are token ids that the model does not have",
            value=odd,
            allowed=f"0 … {size - 1}",
            remedy=f"see example {int((ids == odd).nonzero()[0, 0])}; give the model's own tokenizer",
        )


def vocabulary_of(model: Any) -> int | None:
    """The number of tokens that the model has; None if its config does not say."""
    if is_transformer_lens(model):
        return int(model.cfg.d_vocab)
    size = getattr(text_config(model), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def need_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer.

    Raises:
        InputError: it is None, none of transformers, one without words, or the reason why it cannot be loaded.
    """
    if isinstance(tokenizer, InputError):
        raise tokenizer
    if tokenizer is None:
        raise InputError("no tokenizer comes with the model", remedy="give tokenizer, or a data set with input_ids")
    if not callable(tokenizer) or not hasattr(tokenizer, "eos_token_id"):
        raise InputError(
            "the tokenizer is not one of transformers",
            value=type(tokenizer).__name__,
            remedy="transformers.PreTrainedTokenizerFast(tokenizer_object=…) makes one of a tokenizers.Tokenizer",
        )
    if not knows_words(tokenizer):
        raise InputError(
            "the tokenizer knows no words",
            value=type(tokenizer).__name__,
            remedy="is its vocabulary (tokenizer.json, say) missing where it was loaded from? Give tokenizer",
        )
    return tokenizer


def knows_words(tokenizer: Any) -> bool:
    """Whether a tokenizer has tokens beside the special ones.

    transformers makes one that has none where there is no vocabulary file: each word is then unknown, or nothing.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or len(tokenizer) >= _FEW_TOKENS:
        return True  # one of the user's, or a vocabulary that is there
    added = tokenizer.added_tokens_decoder.values()
    special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return len(set(tokenizer.get_vocab()) - special) > 1  # T5 and its kin have "▁" all the same


def pad_id_of(model: Any, tokenizer: Any) -> int:
    """The token that fills up short rows: the model's padding token, else the tokenizer's, else 0.

    One that the model does not have is passed over: what fills up is masked.
    """
    # The model's comes first: some models find a text's end by it.
    size = vocabulary_of(model)
    ids = (getattr(text_config(model), "pad_token_id", None), getattr(tokenizer, "pad_token_id", None))
    return next((int(i) for i in ids if isinstance(i, int) and i >= 0 and (size is None or i < size)), 0)


def texts_of(values: Sequence[Any], name: str, rows: Sequence[int]) -> list[str]:
    """The values of a text column.

    Args:
        values: of some rows.
        name: of the column, for the refusal.
        rows: their numbers, for the refusal.

    Raises:
        InputError: a value is not a text.
    """
    for value, row in zip(values, rows, strict=True):
        if value is None:
            raise InputError("a row has no text", value=place(name, row), remedy="drop such rows")
        if not isinstance(value, str):
            keys = ", ".join(f"{name}.{key}" for key in value) if isinstance(value, dict) else ""
            raise InputError(
                "the column does not hold text",
                value=f"{place(name, row)}: {type(value).__name__}",
                remedy=f"give input_column{': ' * bool(keys)}{keys}",
            )
    return list(values)


Read = Callable[[Sequence[Any], str, Sequence[int]], list[str]]
"""`read(values, column's name, rows' numbers)` → texts."""


def tokenize(
    data: Dataset,
    name: str,
    tokenizer: Any,
    *,
    length: int,
    pair: str | None = None,
    is_target: bool = False,
    read: Read = texts_of,
    special: bool = True,
) -> dict[str, list[list[int]]]:
    """Token ids of a text column, cut to `length`. `Dataset.map` keeps them in its cache.

    Args:
        data: the rows.
        name: column of the texts.
        tokenizer: a tokenizer of transformers.
        length: tokens a row at most.
        pair: column of the second texts, which follow the first in the same row; `token_type_ids` come too.
        is_target: tokenize as the target of a sequence-to-sequence model.
        read: makes texts of the column's values.
        special: add the tokenizer's special tokens.

    Raises:
        InputError: a row holds no text, or no row has a token.
    """
    keep = ["input_ids", "token_type_ids"] if pair is not None else ["input_ids"]
    options: dict[str, Any] = {"truncation": True, "max_length": length, "verbose": False}
    if not special:
        options["add_special_tokens"] = False

    def encode(rows: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        texts = read(rows[name], name, numbers)
        if is_target:
            encoded = tokenizer(text_target=texts, **options)
        else:
            second = [] if pair is None else [texts_of(rows[pair], pair, numbers)]
            encoded = tokenizer(texts, *second, **options)
        return {key: encoded[key] for key in keep if key in encoded}

    mapped = data.map(encode, batched=True, with_indices=True, remove_columns=data.column_names, desc="tokenize")
    found = {key: mapped[key][:] for key in mapped.column_names}
    if not any(map(len, found["input_ids"])):
        raise InputError(
            "no example has a token to predict or to read: all texts are empty",
            value=f"column {name}",
            remedy="check the column",
        )
    return found


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths as one int64 tensor `[row, position]`, with `value` after a row's end."""
    length = max(map(len, rows))
    out = np.full((len(rows), length), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def token_tensors(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids [example, position]`, and an `attention_mask` if rows differ in length."""
    examples = {"input_ids": pad_rows(rows, pad_id)}
    # Without a mask, models take their faster path, and batched chains (vmap) may use any attention code.
    if len({len(row) for row in rows}) > 1:
        examples["attention_mask"] = pad_rows([[1] * len(row) for row in rows], 0)
    return examples


def check_not_empty(rows: Sequence[Sequence[int]], name: str) -> None:
    """Check that each row has a token.

    Raises:
        InputError: the first that has none.
    """
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise InputError("a row has no token", value=place(name, i), remedy="drop such rows")
