"""Causal language modelling: each token from those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import batches, column, columns, materialize
from hf_llc.loading.tasks.chats import CHAT_COLUMNS, SAID, chat_reader, holds_chats
from hf_llc.loading.tasks.context_length import is_transformer_lens, length_for
from hf_llc.loading.tasks.long_documents import ids_of
from hf_llc.loading.tasks.losses import (
    IGNORED,
    check_positions,
    inputs_of,
    logits_of,
    per_token,
    token_losses,
    without_cache,
)
from hf_llc.loading.tasks.task import Encoded, Task, token_inputs
from hf_llc.loading.tasks.token_order import causal_check
from hf_llc.loading.tasks.token_rows import TokenRows, holds_token_ids, token_rows
from hf_llc.loading.tasks.tokenization import (
    TEXT_COLUMNS,
    Read,
    check_vocabulary,
    need_tokenizer,
    pad_id_of,
    pad_rows,
    texts_of,
    token_tensors,
    tokenize,
)
from hf_llc.problem import Forward

_INPUTS = ("input_ids", "tokens", *TEXT_COLUMNS, *CHAT_COLUMNS)


def encode(model: Any, data: Dataset | IterableDataset, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Windows of `max_length` tokens cut from the joined documents, or one padded document an example.

    The data hold texts, chats, or token ids, which may come with labels (−100 where a token is not to be predicted).
    """
    length = length_for(model, config)
    name, label, padding, chat = column(data, config.input_column, _INPUTS, "input_column"), None, None, None
    rows: Any
    labels: Any = None
    if holds_token_ids(data, name):
        if config.label_column is not None or "labels" in columns(data):
            label = column(data, config.label_column, ("labels",), "label_column")
        tokens = token_rows(materialize(data, config), name, model, tokenizer)
        padding = tokens.padding
        rows, labels = _rows_of_ids(tokens, label, config, length)
    elif config.label_column is not None:
        raise InputError(
            "label_column is for data that have token ids, not for text",
            value=config.label_column,
            remedy="leave it out",
        )
    else:
        chat = SAID if holds_chats(data, name) else None
        rows = _rows_of_text(data, name, need_tokenizer(tokenizer), config, length, is_chat=chat is not None)
    pad_id = pad_id_of(model, tokenizer)
    rows = [row[:length] if len(row) else [pad_id] for row in rows]
    check_vocabulary(pad_rows(rows, pad_id), model)
    if labels is not None:
        labels = [row[:length] if len(row) else [IGNORED] for row in labels]
        padded = pad_rows(labels, IGNORED)
        check_vocabulary(padded.masked_fill(padded == IGNORED, 0), model)
    facts = {"input_column": name, "label_column": label, "packing": config.packing, "max_length": length}
    facts |= {key: said for key, said in (("padding", padding), ("chats", chat)) if said is not None}
    return _causal(model, rows, config, labels=labels, pad_id=pad_id, facts=facts)


def _rows_of_ids(tokens: TokenRows, label: str | None, config: LoadConfig, length: int) -> tuple[Any, Any]:
    """Rows of token ids and of their labels (None without a label column), cut into windows if packed."""
    rows, labels = tokens.ids, None if label is None else tokens.beside(label)
    # Rows of one length that fit are windows already.
    are_windows = config.max_length is None and len({len(row) for row in rows}) == 1 and len(rows[0]) <= length
    if config.packing != "packed" or are_windows:
        return rows, labels
    return (
        _windows(np.concatenate(rows), length, config.max_examples),
        None if labels is None else _windows(np.concatenate(labels), length, config.max_examples),
    )


def _rows_of_text(
    data: Dataset | IterableDataset, name: str, tokenizer: Any, config: LoadConfig, length: int, *, is_chat: bool
) -> Any:
    """Token ids of a column of texts or chats: windows if packed, documents otherwise."""
    read = chat_reader(tokenizer) if is_chat else texts_of
    if config.packing != "packed":
        rows = materialize(data, config)
        return tokenize(rows, name, tokenizer, length=length, read=read, special=not is_chat)["input_ids"]
    wanted = None if config.max_examples is None else config.max_examples * length
    separator = [] if is_chat else _separator(tokenizer)  # a template says itself where a chat begins and ends
    return _windows(_joined(data, name, tokenizer, wanted, read, separator), length, config.max_examples)


def _joined(
    data: Dataset | IterableDataset, name: str, tokenizer: Any, wanted: int | None, read: Read, separator: list[int]
) -> np.ndarray:
    """One stream of token ids: documents without special tokens, with `separator` between them.

    Args:
        data: the documents.
        name: column of the texts or chats.
        tokenizer: a tokenizer of transformers.
        wanted: read documents until there are that many tokens; None: read all.
        read: makes texts of the column's values.
        separator: token ids.
    """
    between = np.array(separator, dtype=np.int64)

    def encode(rows: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
        texts = read(rows[name], name, numbers)
        return {"input_ids": ids_of(texts, tokenizer, most=None if wanted is None else wanted + 1)}

    if wanted is None:
        assert isinstance(data, Dataset)  # a stream has max_examples, hence `wanted`
        mapped = data.map(encode, batched=True, with_indices=True, remove_columns=data.column_names, desc="tokenize")
        parts: Any = mapped.with_format("numpy").iter(1000)
        documents: Iterable[Any] = (row for part in parts for row in part["input_ids"])
    else:
        documents = _encoded(data, name, encode)
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


def _encoded(data: Dataset | IterableDataset, name: str, encode: Callable[..., dict[str, Any]]) -> Iterator[Any]:
    """The token ids of one document after the other; documents are read when they are asked for."""
    first = 0
    for part in batches(data, 16):
        numbers = list(range(first, first + len(part)))
        yield from encode({name: [row.get(name) for row in part]}, numbers)["input_ids"]
        first += len(part)


def _separator(tokenizer: Any) -> list[int]:
    """The tokens between two documents of a stream: the end and the start that the tokenizer itself gives a text.

    A tokenizer that adds nothing (GPT-2's) gets its eos, else its bos.
    """
    # A model that was trained with bos alone has never seen an eos: stories260K on 400 stories has 1.44 nats a token
    # with its own bos between them, 1.93 with eos.
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain), 0)
    added = full[start + len(plain) :] + full[:start]
    return added or [i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None][:1]


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


def _causal(
    model: Any,
    rows: Sequence[Sequence[int]],
    config: LoadConfig,
    *,
    labels: Sequence[Sequence[int]] | None,
    pad_id: int,
    facts: dict[str, Any],
) -> Encoded:
    """The loss of each token but a row's first.

    Args:
        model: one of transformers takes keyword arguments and returns `.logits`. One of TransformerLens takes ids alone
            and returns logits; padding then stands at the end, where causal attention never looks.
        rows: token ids.
        config: says how losses are normalised.
        labels: the tokens to predict, −100 elsewhere, shaped like `rows`; None: all of them.
        pad_id: fills up short rows.
        facts: provenance so far.
    """
    examples = token_tensors(rows, pad_id)
    if labels is not None or "attention_mask" in examples:
        examples["labels"] = pad_rows(rows if labels is None else labels, IGNORED)
    is_transformers = not is_transformer_lens(model)
    if not is_transformers:
        examples.pop("attention_mask", None)
    options = without_cache(model) if is_transformers else {}

    def logits(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        found = logits_of(forward(**inputs_of(batch), **options) if is_transformers else forward(ids))
        check_positions(found, ids)
        return found

    def tokens(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        targets = batch.get("labels", batch["input_ids"])
        # the last logits get no label rather than be cut off, which would copy all of them, and again backward
        return token_losses(logits(forward, batch), F.pad(targets[:, 1:], (0, 1), value=IGNORED))[:, :-1]

    encoded = per_token(examples, examples.get("labels", examples["input_ids"])[:, 1:], tokens, config, facts)
    return replace(encoded, check=causal_check(logits))


TASK = Task(
    name="text-generation",
    encode=encode,
    auto_class="AutoModelForCausalLM",
    suffixes=("ForCausalLM", "LMHeadModel"),
    joins_documents=True,
    forecast_inputs=lambda settings, length: {**token_inputs(settings, length), "use_cache": False},
)
