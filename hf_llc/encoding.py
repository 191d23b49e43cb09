"""Rows of a data set → token ids and labels, for the tasks on text that transformers knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch import Tensor

from hf_llc import tasks
from hf_llc.config import LoadConfig
from hf_llc.datasource import batches, column, columns, materialize
from hf_llc.errors import InputError
from hf_llc.labels import LABELS, class_ids, labels_of
from hf_llc.tasks import Encoded

_TEXTS = ("text", "content", "sentence", "document", "story")
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
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
    check_vocabulary(tasks.pad(rows, pad_id), model)
    if labels is not None:
        labels = [row[:length] if len(row) else [tasks.IGNORED] for row in labels]
        known = tasks.pad(labels, tasks.IGNORED)
        check_vocabulary(known.masked_fill(known == tasks.IGNORED, 0), model)
    return tasks.causal_lm(
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


def masked_lm(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """One text an example, 15 % of its tokens masked."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, _TEXTS, "input_column")
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token", value=type(tokenizer).__name__, remedy="give tokenizer")
    length = length_for(model, config)
    rows, labels = tasks.mask_tokens(
        _tokenize(data, name, tokenizer, length=length)["input_ids"],
        mask_id=tokenizer.mask_token_id,
        special=set(tokenizer.all_special_ids),
    )
    encoded = tasks.labelled_tokens(
        rows,
        labels,
        config,
        pad_id=_pad_id(model, tokenizer),
        facts={"input_column": name, "max_length": length, "masked": 0.15},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def seq2seq(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Source text and target text."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, ("source", *_TEXTS, "article"), "input_column")
    target = column(
        data.column_names, config.label_column, ("target", "summary", "labels", "label", "highlights"), "label_column"
    )
    length = length_for(model, config)
    rows = _tokenize(data, name, tokenizer, length=length)["input_ids"]
    labels = tasks.pad(_tokenize(data, target, tokenizer, length=length, is_target=True)["input_ids"], tasks.IGNORED)
    pad_id = _pad_id(model, tokenizer)
    if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise InputError(
            "the model does not say how its decoder's inputs come from labels",
            value=type(model).__name__,
            remedy="give a module of your own and loss_fn",
        )
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
    encoded = tasks.seq2seq(
        rows,
        labels,
        decoder_ids.masked_fill(decoder_ids < 0, pad_id),
        config,
        pad_id=pad_id,
        facts={"input_column": name, "label_column": target, "max_length": length},
    )
    for ids in (encoded.examples["input_ids"], encoded.examples["decoder_input_ids"], labels.clamp(min=0)):
        check_vocabulary(ids, model)
    return encoded


def token_classification(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Words with a label each; the label sits on a word's first token."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "words are aligned with tokens by fast tokenizers only",
            value=type(tokenizer).__name__,
            remedy="give tokenizer",
        )
    name = column(data.column_names, config.input_column, ("tokens", "words"), "input_column")
    label = column(data.column_names, config.label_column, ("ner_tags", "pos_tags", "tags", *LABELS), "label_column")
    length = length_for(model, config)
    tags = [class_ids(row, data.features[label], model) for row in data[label][:]]
    rows, labels = [], []
    for words, known in zip(data[name][:], tags, strict=True):
        if len(words) != len(known):
            raise InputError("a row has not one label a word", value=f"{len(words)} words, {len(known)} labels")
        encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length, verbose=False)
        ids = encoded.word_ids()
        rows.append(encoded["input_ids"])
        labels.append(
            [known[w] if w is not None and (i == 0 or ids[i - 1] != w) else tasks.IGNORED for i, w in enumerate(ids)]
        )
    encoded = tasks.labelled_tokens(
        rows,
        labels,
        config,
        pad_id=_pad_id(model, tokenizer),
        facts={"input_column": name, "label_column": label, "max_length": length},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def sequence_classification(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Texts, or pairs of texts, with a label."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    names, pair = data.column_names, config.second_input_column
    usual = next((both for both in _PAIRS if set(both) <= set(names)), None)
    if usual is not None and config.input_column in (None, usual[0]) and pair is None:
        name, pair = usual
    else:
        name = column(names, config.input_column, _TEXTS, "input_column")
        pair = None if pair is None else column(names, pair, (), "second_input_column")
    label = column(names, config.label_column, LABELS, "label_column")
    labels, kind = labels_of(data, label, model)
    length = length_for(model, config)
    found = _tokenize(data, name, tokenizer, length=length, pair=pair)
    inputs = tasks.tokens(found["input_ids"], _pad_id(model, tokenizer))
    if "token_type_ids" in found:
        inputs["token_type_ids"] = tasks.pad(found["token_type_ids"], 0)
    check_vocabulary(inputs["input_ids"], model)
    if model.config.pad_token_id is None and not model.config.is_encoder_decoder and _looks_for_padding(model):
        raise InputError(
            "the model finds a text's end by its padding token, and has none",
            value=type(model).__name__,
            remedy="set model.config.pad_token_id",
        )
    return tasks.classification(
        inputs,
        labels,
        kind=kind,
        facts={"input_column": name, "second_input_column": pair, "label_column": label, "max_length": length},
    )


def _looks_for_padding(model: Any) -> bool:
    """Decoders classify from the last token that is not padding; encoders from their first."""
    import transformers

    return type(model.config) in transformers.AutoModelForCausalLM._model_mapping and not any(
        type(model.config) in auto._model_mapping for auto in (transformers.AutoModelForMaskedLM,)
    )
