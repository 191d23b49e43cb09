"""Rows of a data set → token ids, pixels and labels, for the tasks that transformers knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image, IterableDataset
from torch import Tensor

from hf_llc import tasks
from hf_llc.config import LoadConfig
from hf_llc.datasource import column, materialize
from hf_llc.errors import InputError
from hf_llc.tasks import Encoded

_TEXTS = ("text", "content", "sentence", "document", "story")
_LABELS = ("label", "labels", "labels_ids", "fine_label", "class", "target")
_DEFAULT_LENGTH = 1024


def text_of(model: Any) -> Any:
    """The part of a model's config that describes its text side."""
    config = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def length_for(model: Any, config: LoadConfig) -> int:
    """Tokens an example: `max_length`, at most what the model can take.

    Raises:
        InputError: more than the model's context.
    """
    if hasattr(model, "cfg"):
        context = getattr(model.cfg, "n_ctx", None)
    else:
        inner = text_of(model)
        names = ("max_position_embeddings", "n_positions", "max_sequence_length")
        context = next((getattr(inner, n) for n in names if getattr(inner, n, None)), None)
    if config.max_length is None:
        return min(context or _DEFAULT_LENGTH, _DEFAULT_LENGTH)
    if context is not None and config.max_length > context:
        raise InputError("max_length is more than the model's context", value=config.max_length,
                         allowed=f"at most {context}")
    return config.max_length


def check_vocabulary(ids: Tensor, model: Any) -> None:
    """Token ids are rows of the embedding.

    Raises:
        InputError: an id beyond the model's vocabulary.
    """
    size = model.cfg.d_vocab if hasattr(model, "cfg") else getattr(text_of(model), "vocab_size", None)
    largest = int(ids.max()) if ids.numel() else 0
    if size is not None and largest >= size:
        raise InputError("the tokenizer makes token ids that the model does not have", value=largest,
                         allowed=f"0 … {size - 1}", remedy="give the model's own tokenizer")


def _tokenized(data: Dataset, name: str, tokenizer: Any, *, special: bool, length: int | None = None,
               pair: str | None = None) -> list[list[int]]:
    """Token ids of a text column, by `Dataset.map`, which keeps them in its cache."""
    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [row or "" for row in rows[name]]
        more = [] if pair is None else [[row or "" for row in rows[pair]]]
        ids = tokenizer(texts, *more, add_special_tokens=special, truncation=length is not None, max_length=length,
                        verbose=False)["input_ids"]
        return {"input_ids": ids}

    first = data[0][name]
    if not isinstance(first, str):
        raise InputError("the input column does not hold text", value=f"{name}: {type(first).__name__}",
                         allowed=", ".join(data.column_names), remedy="give input_column")
    return data.map(encode, batched=True, remove_columns=data.column_names, desc="tokenize")["input_ids"][:]


def need_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer.

    Raises:
        InputError: there is none.
    """
    if tokenizer is None:
        raise InputError("no tokenizer comes with the model", remedy="give tokenizer, or a data set with input_ids")
    return tokenizer


def causal_lm(model: Any, data: Dataset | IterableDataset, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Language model data: packed windows or padded documents."""
    length = length_for(model, config)
    rows_wanted = materialize(data, config, characters=config.packing == "packed")
    names = rows_wanted.column_names
    ready = config.input_column is None and "input_ids" in names
    name = "input_ids" if ready else column(rows_wanted, config.input_column, _TEXTS, "input_column")
    ready = name == "input_ids"
    packed = config.packing == "packed"
    facts = {"input_column": name, "packing": config.packing, "max_length": length}
    if ready:
        rows = [list(row) for row in rows_wanted[name]]
    else:
        rows = _tokenized(rows_wanted, name, need_tokenizer(tokenizer), special=not packed,
                          length=None if packed else length)
    is_transformers = not hasattr(model, "cfg")
    if not packed:
        if not is_transformers:
            raise InputError("documents of different lengths need a transformers model", value=config.packing,
                             allowed="packing 'packed'")
        encoded = tasks.causal_documents([row[:length] for row in rows], config, facts=facts)
    else:
        between = None if ready or len(rows) == 1 else next(
            (i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None), None)
        encoded = tasks.causal_windows(_windows(rows, length, between, config), config,
                                       with_cache_flag=is_transformers, facts=facts)
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def _windows(rows: Sequence[Sequence[int]], length: int, between: int | None, config: LoadConfig) -> Tensor:
    """The rows joined, with one token between them if there is one, and cut into windows `[window, length]`."""
    joint = [] if between is None else [between]
    flat = np.concatenate([np.asarray([*row, *joint], dtype=np.int64) for row in rows])
    count = len(flat) // length
    if count < 2:
        raise InputError("the text is too short", value=f"{len(flat)} tokens", allowed=f"two windows of {length} or more",
                         remedy="give more text or a smaller max_length")
    return torch.from_numpy(flat[: count * length].reshape(count, length))[: config.max_examples].clone()


def masked_lm(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """One text an example, 15 % of its tokens masked."""
    tokenizer, rows_wanted = need_tokenizer(tokenizer), materialize(data, config)
    name = column(rows_wanted, config.input_column, _TEXTS, "input_column")
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token", value=type(tokenizer).__name__, remedy="give tokenizer")
    length = length_for(model, config)
    rows = _tokenized(rows_wanted, name, tokenizer, special=True, length=length)
    encoded = tasks.masked_lm(rows, mask_id=tokenizer.mask_token_id, special=set(tokenizer.all_special_ids),
                              config=config, facts={"input_column": name, "max_length": length, "masked": 0.15})
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def seq2seq(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Source text and target text."""
    tokenizer, rows_wanted = need_tokenizer(tokenizer), materialize(data, config)
    name = column(rows_wanted, config.input_column, ("source", *_TEXTS, "article"), "input_column")
    target = column(rows_wanted, config.label_column, ("target", "summary", "labels", "label"), "label_column")
    length = length_for(model, config)
    encoded = tasks.seq2seq(_tokenized(rows_wanted, name, tokenizer, special=True, length=length),
                            _tokenized(rows_wanted, target, tokenizer, special=True, length=length), config=config,
                            facts={"input_column": name, "label_column": target, "max_length": length})
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def token_classification(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Words with a label each; the label sits on a word's first token."""
    tokenizer, rows_wanted = need_tokenizer(tokenizer), materialize(data, config)
    name = column(rows_wanted, config.input_column, ("tokens", "words"), "input_column")
    label = column(rows_wanted, config.label_column, ("ner_tags", "pos_tags", "tags", *_LABELS), "label_column")
    length = length_for(model, config)
    rows, labels = [], []
    for words, tags in zip(rows_wanted[name], rows_wanted[label], strict=True):
        encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length)
        ids = encoded.word_ids()
        fresh = [w is not None and (i == 0 or ids[i - 1] != w) for i, w in enumerate(ids)]
        rows.append(encoded["input_ids"])
        labels.append([_label_id(tags[w], model) if f and w is not None else tasks.IGNORED
                       for w, f in zip(ids, fresh, strict=True)])
    check_range(torch.tensor([x for row in labels for x in row if x != tasks.IGNORED]), model)
    return tasks.token_classification(rows, labels, config=config, facts={"input_column": name, "label_column": label})


def sequence_classification(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Texts, or pairs of texts, with a label."""
    tokenizer, rows_wanted = need_tokenizer(tokenizer), materialize(data, config)
    name = column(rows_wanted, config.input_column, (*_TEXTS, "sentence1", "premise", "question"), "input_column")
    pair = config.second_input_column
    if pair is not None:
        column(rows_wanted, pair, (), "second_input_column")
    length = length_for(model, config)
    rows = _tokenized(rows_wanted, name, tokenizer, special=True, length=length, pair=pair)
    labels, kind, label = _labels(model, rows_wanted, config)
    inputs = {"input_ids": tasks.pad(rows, tokenizer.pad_token_id or 0), "attention_mask": tasks.mask_of(rows)}
    check_vocabulary(inputs["input_ids"], model)
    return tasks.classification(inputs, labels, kind=kind, facts={"input_column": name, "label_column": label,
                                                                  "max_length": length})


def image_classification(model: Any, data: Any, processor: Any, config: LoadConfig) -> Encoded:
    """Images through the model's own processor."""
    rows_wanted = materialize(data, config)
    name = column(rows_wanted, config.input_column, ("image", "img", "pixel_values"), "input_column")
    if processor is None and name != "pixel_values":
        raise InputError("no image processor comes with the model", remedy="give tokenizer (an image processor), or a "
                         "data set with pixel_values")
    labels, kind, label = _labels(model, rows_wanted, config)
    parts = []
    for start in range(0, len(rows_wanted), 256):
        images = rows_wanted[start : start + 256][name]
        if name == "pixel_values":
            parts.append(torch.as_tensor(np.asarray(images, dtype=np.float32)))
        else:
            parts.append(processor([im.convert("RGB") if hasattr(im, "convert") and _channels(model) == 3 else im
                                    for im in images], return_tensors="pt")["pixel_values"].float())
    return tasks.classification({"pixel_values": torch.cat(parts)}, labels, kind=kind,
                                facts={"input_column": name, "label_column": label})


def _channels(model: Any) -> int:
    return getattr(model.config, "num_channels", 3)


def features(data: Any, config: LoadConfig) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Inputs and labels for a plain module: numbers as they are, images as float `[channel, height, width]` / 255."""
    rows_wanted = materialize(data, config)
    name = column(rows_wanted, config.input_column, ("inputs", "x", "pixel_values", "image", "img", "features"),
                  "input_column")
    label = column(rows_wanted, config.label_column, ("y", *_LABELS), "label_column")
    if isinstance(rows_wanted.features[name], Image):
        arrays = [np.asarray(im, dtype=np.float32) / 255 for im in rows_wanted[name]]
        inputs = torch.from_numpy(np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays]))
    else:
        inputs = torch.as_tensor(np.asarray(rows_wanted[name][:]))
        inputs = inputs.float() if inputs.dtype == torch.float64 else inputs
    labels = torch.as_tensor(np.asarray(rows_wanted[label][:]))
    labels = labels.float() if labels.dtype == torch.float64 else labels
    return inputs, labels, {"input_column": name, "label_column": label}


def _labels(model: Any, data: Dataset, config: LoadConfig) -> tuple[Tensor, str, str]:
    """Labels `[example]` or `[example, label]`, the kind of problem, and the column."""
    name = column(data, config.label_column, _LABELS, "label_column")
    values = data[name][:]
    kind, count = model.config.problem_type, model.config.num_labels
    if kind is None:
        many = isinstance(values[0], (list, tuple))
        kind = "multi_label_classification" if many else "regression" if count == 1 else "single_label_classification"
    if kind == "single_label_classification":
        is_named = isinstance(data.features[name], ClassLabel)
        labels = torch.tensor([v if is_named else _label_id(v, model) for v in values])
        check_range(labels, model)
        return labels, kind, name
    labels = torch.tensor(values, dtype=torch.float32)
    labels = labels[:, None] if labels.dim() == 1 else labels
    if labels.shape[1] != count:
        raise InputError("labels and model differ in width", value=labels.shape[1], allowed=str(count),
                         remedy="check label_column")
    return labels, kind, name


def _label_id(value: Any, model: Any) -> int:
    """A label's number; strings by the model's label2id."""
    if isinstance(value, str):
        known = model.config.label2id or {}
        if value not in known:
            raise InputError("a label that the model does not know", value=value, allowed=", ".join(known))
        return int(known[value])
    return int(value)


def check_range(labels: Tensor, model: Any) -> None:
    """Labels are classes of the model.

    Raises:
        InputError: one is not.
    """
    count = model.config.num_labels
    bad = labels[(labels < 0) | (labels >= count)]
    if len(bad):
        raise InputError("a label is out of range", value=int(bad[0]), allowed=f"0 … {count - 1}",
                         remedy="check label_column, or drop unlabelled rows")
