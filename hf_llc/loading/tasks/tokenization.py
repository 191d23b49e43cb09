"""Rows of a data set → token ids and labels, for the tasks on text that transformers knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

_TEXTS = ("text", "content", "sentence", "document", "story")
_DEFAULT_LENGTH = 1024


def is_transformer_lens(model: Any) -> bool:
    """A HookedTransformer or a TransformerBridge: token ids in, logits out."""
    return any(c.__module__.split(".")[0] == "transformer_lens" for c in type(model).__mro__)


def _text_config(model: Any) -> Any:
    """The part of a model's config that describes its text side."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_of(model: Any) -> int | None:
    """The most tokens that the model takes, None where nothing says."""
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
    """Tokens an example: `max_length`, at most what the model can take.

    Raises:
        InputError: more than the model's context.
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
    """Token ids are rows of the embedding.

    Raises:
        InputError: an id beyond the model's vocabulary.
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
        InputError: there is none.
    """
    if tokenizer is None:
        raise InputError("no tokenizer comes with the model", remedy="give tokenizer, or a data set with input_ids")
    return tokenizer


def _pad_id(model: Any, tokenizer: Any) -> int:
    """What rows are filled up with: the model's own padding token first, for models that look for it."""
    ids = (getattr(_text_config(model), "pad_token_id", None), getattr(tokenizer, "pad_token_id", None))
    return next((int(i) for i in ids if isinstance(i, int) and i >= 0), 0)


def _texts(rows: Sequence[Any], name: str) -> list[str]:
    """A text column's values, empty where a row has none.

    Raises:
        InputError: another kind of column.
    """
    for row in rows:
        if row is not None and not isinstance(row, str):
            raise InputError(
                "the column does not hold text", value=f"{name}: {type(row).__name__}", remedy="give input_column"
            )
    return [row or "" for row in rows]


def _tokenize(
    data: Dataset, name: str, tokenizer: Any, *, length: int, pair: str | None = None, is_target: bool = False
) -> dict[str, list[list[int]]]:
    """Token ids of a text column, truncated, with special tokens, by `Dataset.map`, which keeps them cached."""
    keep = ["input_ids", "token_type_ids"] if pair is not None else ["input_ids"]

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        texts = _texts(rows[name], name)
        if is_target:
            found = tokenizer(text_target=texts, truncation=True, max_length=length, verbose=False)
        else:
            more = [] if pair is None else [_texts(rows[pair], pair)]
            found = tokenizer(texts, *more, truncation=True, max_length=length, verbose=False)
        return {key: found[key] for key in keep if key in found}

    mapped = data.map(encode, batched=True, remove_columns=data.column_names, desc="tokenize")
    return {key: mapped[key][:] for key in mapped.column_names}
