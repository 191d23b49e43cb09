"""Causal language modelling: each token from those before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import batches, column, columns, materialize
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.losses import Encoded
from hf_llc.loading.tasks.tokenization import (
    _TEXTS,
    _pad_id,
    _texts,
    _tokenize,
    check_vocabulary,
    is_transformer_lens,
    length_for,
    need_tokenizer,
)


def _between(tokenizer: Any) -> list[int]:
    """What stands between two documents of a stream: the end and the start that the tokenizer itself gives a text.

    One that adds nothing (GPT-2's) gets its eos, else its bos. A model that was trained with bos alone has never seen
    an eos: stories260K on 400 stories has 1.44 nats a token with its own bos between them, 1.93 with eos.
    """
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain), 0)
    added = full[at + len(plain) :] + full[:at]
    return added or [i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None][:1]


def _joined(data: Dataset | IterableDataset, name: str, tokenizer: Any, wanted: int | None) -> np.ndarray:
    """One stream of token ids: documents without special tokens, `_between` between them.

    With `wanted`, documents are read until there are that many tokens, and no further.
    """
    between = np.array(_between(tokenizer), dtype=np.int64)

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {"input_ids": tokenizer(_texts(rows[name], name), add_special_tokens=False, verbose=False)["input_ids"]}

    if wanted is None:
        assert isinstance(data, Dataset)
        mapped = data.map(encode, batched=True, remove_columns=data.column_names, desc="tokenize")
        parts: Any = mapped.with_format("numpy").iter(1000)
        documents: Iterable[Any] = (row for part in parts for row in part["input_ids"])
    else:
        documents = (row for part in batches(data, 16) for row in encode({name: [r[name] for r in part]})["input_ids"])
    pieces: list[np.ndarray] = []
    total = 0
    for row in documents:
        if pieces:
            pieces.append(between)
        pieces.append(np.asarray(row, dtype=np.int64))
        total += len(row) + len(between)
        if wanted is not None and total > wanted:
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def causal_lm(model: Any, data: Dataset | IterableDataset, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Language model data: packed windows of `max_length` tokens, or one padded document an example.

    Ready token ids may come with labels of their own (−100 where a token is not to be predicted).
    """
    length, is_packed = length_for(model, config), config.packing == "packed"
    names = columns(data)
    name = column(names, config.input_column, ("input_ids", "tokens", *_TEXTS), "input_column")
    first = next(iter(data), {name: None})[name]
    has_ids = isinstance(first, (list, tuple, np.ndarray, Tensor)) and len(first) > 0 and not isinstance(first[0], str)
    rows: Any
    labels: Any = None
    if config.label_column is not None and not has_ids:
        raise InputError(
            "label_column is for token ids made before, not for text", value=config.label_column, remedy="leave it out"
        )
    label = (
        column(names, config.label_column, ("labels",), "label_column")
        if (config.label_column is not None or (has_ids and "labels" in names))
        else None
    )
    if has_ids:
        data = materialize(data, config)
        rows, labels = _ready_rows(data, name), None if label is None else _ready_rows(data, label)
        if labels is not None and any(len(a) != len(b) for a, b in zip(rows, labels, strict=True)):
            raise InputError("a row has not one label a token", value=f"{name}, {label}", remedy="check label_column")
        if is_packed and not (
            config.max_length is None and len({len(row) for row in rows}) == 1 and len(rows[0]) <= length
        ):
            rows = _windows(np.concatenate(rows), length, config.max_examples)
            labels = None if labels is None else _windows(np.concatenate(labels), length, config.max_examples)
    elif is_packed:
        wanted = None if config.max_examples is None else config.max_examples * length
        rows = _windows(_joined(data, name, need_tokenizer(tokenizer), wanted), length, config.max_examples)
    else:
        rows = _tokenize(materialize(data, config), name, need_tokenizer(tokenizer), length=length)["input_ids"]
    pad_id = _pad_id(model, tokenizer)
    rows = [row[:length] if len(row) else [pad_id] for row in rows]
    check_vocabulary(losses.pad(rows, pad_id), model)
    if labels is not None:
        labels = [row[:length] if len(row) else [losses.IGNORED] for row in labels]
        known = losses.pad(labels, losses.IGNORED)
        check_vocabulary(known.masked_fill(known == losses.IGNORED, 0), model)
    return losses.causal_lm(
        rows,
        config,
        labels=labels,
        pad_id=pad_id,
        is_transformers=not is_transformer_lens(model),
        facts={"input_column": name, "label_column": label, "packing": config.packing, "max_length": length},
    )


def _ready_rows(data: Dataset, name: str) -> list[np.ndarray]:
    """Token ids (or their labels) made before, without what an `attention_mask` column marks as padding."""
    rows = [np.asarray(row, dtype=np.int64) for row in data[name][:]]
    if "attention_mask" in data.column_names:
        rows = [row[np.asarray(mask, dtype=bool)] for row, mask in zip(rows, data["attention_mask"][:], strict=True)]
    return rows


def _windows(flat: np.ndarray, length: int, max_examples: int | None) -> np.ndarray:
    """A stream of tokens cut into windows `[window, length]`; the tail is dropped.

    Raises:
        InputError: fewer than two windows.
    """
    count = len(flat) // length
    if count < 2:
        raise InputError(
            "the text is too short",
            value=f"{len(flat)} tokens",
            allowed=f"two windows of {length} or more",
            remedy="give more text or a smaller max_length",
        )
    return flat[: count * length].reshape(count, length)[:max_examples]
