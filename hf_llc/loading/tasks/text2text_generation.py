"""Sequence to sequence: the loss of the target's tokens, given the source."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from datasets import Dataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.context_length import length_for, text_config
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
from hf_llc.loading.tasks.token_rows import ID_COLUMNS, holds_token_ids, token_rows, whole_numbers
from hf_llc.loading.tasks.tokenization import (
    TEXT_COLUMNS,
    check_not_empty,
    check_vocabulary,
    need_tokenizer,
    pad_id_of,
    pad_rows,
    token_tensors,
    tokenize,
    vocabulary_of,
)
from hf_llc.problem import Forward

_SOURCES = ("source", *TEXT_COLUMNS, "article")
_TARGETS = ("target", "summary", "labels", "label", "highlights")

_OF_YOUR_OWN = "give a module of your own and loss_fn"


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Source and target: texts, or token ids each."""
    data = materialize(data, config)
    name = column(data, config.input_column, (*_SOURCES, *ID_COLUMNS), "input_column")
    target = column(data, config.label_column, _TARGETS, "label_column")
    length, padding = length_for(model, config, "encoder"), []
    rows = _side(data, name, model, tokenizer, length=length, is_target=False, padding=padding)
    check_not_empty(rows, name)
    target_length = length_for(model, config, "decoder")
    targets = _side(data, target, model, tokenizer, length=target_length, is_target=True, padding=padding)
    if not any(map(len, targets)):
        raise InputError("no example has a token to predict: all targets are empty", value=f"column {target}")
    labels = pad_rows(targets, IGNORED)
    pad_id = pad_id_of(model, tokenizer)
    shift = _shift_of(model)
    decoder_ids = _given_decoder_ids(data, targets, target_length)
    decoder_ids = _decoder_ids(model, shift, labels) if decoder_ids is None else decoder_ids
    size = vocabulary_of(model)  # a padding token outside it stands where no logit counts
    is_outside = (decoder_ids < 0) | ((decoder_ids >= (size or 0)) & (decoder_ids == _pad_of(model)))
    decoder_ids = decoder_ids.masked_fill(is_outside, pad_id)
    examples = {**token_tensors(rows, pad_id), "decoder_input_ids": decoder_ids, "labels": labels}
    facts = {"input_column": name, "label_column": target, "max_length": length}
    facts |= {"padding": padding[0]} if padding else {}
    options = without_cache(model)

    def logits(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        found = logits_of(forward(**inputs_of(batch), **options))
        check_positions(found, batch["decoder_input_ids"])
        return found

    def tokens(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return token_losses(logits(forward, batch), batch["labels"])

    encoded = per_token(examples, labels, tokens, config, facts)
    for ids in (encoded.examples["input_ids"], encoded.examples["decoder_input_ids"], labels.clamp(min=0)):
        check_vocabulary(ids, model)
    return replace(encoded, check=causal_check(logits, "decoder_input_ids"))


def _side(
    data: Dataset,
    name: str,
    model: Any,
    tokenizer: Any,
    *,
    length: int,
    is_target: bool,
    padding: list[str],
) -> list[Any]:
    """Token ids of a column of texts or of token ids. What is said of padding is added to `padding`."""
    if not holds_token_ids(data, name):
        return tokenize(data, name, need_tokenizer(tokenizer), length=length, is_target=is_target)["input_ids"]
    found = token_rows(data, name, model, tokenizer, is_target=is_target)
    padding += [] if found.padding is None else [found.padding]
    return [row[:length] for row in found.ids]


def _given_decoder_ids(data: Dataset, targets: list[Any], length: int) -> Tensor | None:
    """The column `decoder_input_ids`, as long as the targets; None without one.

    Raises:
        InputError: a row is shorter than its target.
    """
    if "decoder_input_ids" not in data.column_names:
        return None
    rows = whole_numbers(data["decoder_input_ids"][:], "decoder_input_ids")
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        if len(row) < len(target):
            raise InputError(
                "a row does not have one decoder input for each label",
                value=f"{place('decoder_input_ids', i)}: {len(row)} for {len(target)} labels",
                remedy="drop or mend such rows",
            )
    return pad_rows([row[: min(len(target), length)].tolist() for row, target in zip(rows, targets, strict=True)], -1)


def _pad_of(model: Any) -> int:
    pad = getattr(text_config(model), "pad_token_id", None)
    return IGNORED if pad is None else pad


def _shift_of(model: Any) -> Callable[[Tensor], Tensor]:
    """What the model makes its decoder's inputs of labels with: a method, or the function beside its class.

    Raises:
        InputError: it has neither, or takes speech or pictures.
    """
    main = getattr(model, "main_input_name", "input_ids")
    if main != "input_ids":
        raise InputError(f"the model takes {main}, not text", value=type(model).__name__, remedy=_OF_YOUR_OWN)
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is not None:
        return lambda labels: prepare(labels=labels)
    modules = (sys.modules[kind.__module__] for kind in type(model).__mro__)
    shift = next((found for each in modules if (found := getattr(each, "shift_tokens_right", None))), None)
    if shift is None:
        raise InputError(
            "the model does not say how its decoder's inputs come from labels",
            value=type(model).__name__,
            remedy=_OF_YOUR_OWN,
        )
    return lambda labels: shift(labels, model.config.pad_token_id, model.config.decoder_start_token_id)


def _decoder_ids(model: Any, shift: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """The decoder's inputs: the labels, one place later.

    Raises:
        InputError: the model cannot make them.
    """
    try:
        return shift(labels)
    except Exception as error:
        raise InputError(
            f"the decoder's inputs cannot be made from labels: {reason_of(error)}",
            value=type(model).__name__,
            remedy="set model.config.decoder_start_token_id and pad_token_id",
        ) from error


def _forecast_inputs(settings: Any, length: int) -> dict[str, Any]:
    ids = token_inputs(settings, length)["input_ids"]
    return {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}


TASK = Task(
    name="text2text-generation",
    encode=encode,
    auto_class="AutoModelForSeq2SeqLM",
    suffixes=("ForConditionalGeneration", "MarianMTModel"),
    decoder_task="text-generation",  # decoders that see images too are language models
    forecast_inputs=_forecast_inputs,
)
