"""Texts → token ids, and rows of token ids → tensors: what the tasks on text share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

TEXT_COLUMNS = ("text", "content", "sentence", "document", "story")
"""Usual names of a text column."""

_DEFAULT_LENGTH = 1024
"""Tokens an example at most, if neither the user nor the model's context says less."""


def is_transformer_lens(model: Any) -> bool:
    """Whether the model is a HookedTransformer or a TransformerBridge: token ids in, logits out."""
    return any(c.__module__.split(".")[0] == "transformer_lens" for c in type(model).__mro__)


def _text_config(model: Any) -> Any:
    """The config of a model's text side."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_of(model: Any) -> int | None:
    """The most tokens that the model takes; None if its config does not say."""
    if is_transformer_lens(model):
        return getattr(model.cfg, "n_ctx", None)
    inner = _text_config(model)
    names = ("max_position_embeddings", "n_positions", "max_sequence_length")
    context = next((getattr(inner, n) for n in names if getattr(inner, n, None)), None)
    for name, module in model.named_modules():  # RoBERTa and its kin count positions from the padding index on
        if context is not None and name.endswith("position_embeddings") and getattr(module, "padding_idx", None):
            return min(context, module.num_embeddings - module.padding_idx - 1)
    return context


def length_for(model: Any, config: LoadConfig) -> int:
    """Tokens an example: `max_length`, or the model's context up to 1024.

    Raises:
        InputError: `max_length` is more than the model's context.
    """
    context = context_of(model)
    if config.max_length is None:
        return min(context or _DEFAULT_LENGTH, _DEFAULT_LENGTH)
    if context is not None and config.max_length > context:
        raise InputError(
            "max_length is more than the model's context", value=config.max_length, allowed=f"at most {context}"
        )
    return config.max_length


def check_vocabulary(ids: Tensor, model: Any) -> None:
    """Check that all token ids are rows of the model's embedding.

    Raises:
        InputError: an id is outside the model's vocabulary.
    """
    size = model.cfg.d_vocab if is_transformer_lens(model) else getattr(_text_config(model), "vocab_size", None)
    largest, least = int(ids.max()), int(ids.min())
    if size is not None and (largest >= size or least < 0):
        raise InputError(
            "there are token ids that the model does not have",
            value=largest if least >= 0 else least,
            allowed=f"0 … {size - 1}",
            remedy="give the model's own tokenizer",
        )


def need_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer.

    Raises:
        InputError: it is None.
    """
    if tokenizer is None:
        raise InputError("no tokenizer comes with the model", remedy="give tokenizer, or a data set with input_ids")
    return tokenizer


def pad_id_of(model: Any, tokenizer: Any) -> int:
    """The token that fills up short rows: the model's padding token, else the tokenizer's, else 0."""
    # The model's comes first: some models find a text's end by it.
    ids = (getattr(_text_config(model), "pad_token_id", None), getattr(tokenizer, "pad_token_id", None))
    return next((int(i) for i in ids if isinstance(i, int) and i >= 0), 0)


def texts_of(values: Sequence[Any], name: str) -> list[str]:
    """The values of a text column; a missing one is the empty text.

    Raises:
        InputError: a value is not a text.
    """
    for value in values:
        if value is not None and not isinstance(value, str):
            raise InputError(
                "the column does not hold text", value=f"{name}: {type(value).__name__}", remedy="give input_column"
            )
    return [value or "" for value in values]


def tokenize(
    data: Dataset, name: str, tokenizer: Any, *, length: int, pair: str | None = None, is_target: bool = False
) -> dict[str, list[list[int]]]:
    """Token ids of a text column, with special tokens, cut to `length`. `Dataset.map` keeps them in its cache.

    Args:
        data: the rows.
        name: column of the texts.
        tokenizer: a tokenizer of transformers.
        length: tokens a row at most.
        pair: column of the second texts, which follow the first in the same row; `token_type_ids` come too.
        is_target: tokenize as the target of a sequence-to-sequence model.
    """
    keep = ["input_ids", "token_type_ids"] if pair is not None else ["input_ids"]

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        texts = texts_of(rows[name], name)
        if is_target:
            encoded = tokenizer(text_target=texts, truncation=True, max_length=length, verbose=False)
        else:
            second = [] if pair is None else [texts_of(rows[pair], pair)]
            encoded = tokenizer(texts, *second, truncation=True, max_length=length, verbose=False)
        return {key: encoded[key] for key in keep if key in encoded}

    mapped = data.map(encode, batched=True, remove_columns=data.column_names, desc="tokenize")
    return {key: mapped[key][:] for key in mapped.column_names}


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
