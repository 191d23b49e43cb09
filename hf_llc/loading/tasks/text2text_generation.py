"""Sequence to sequence: the loss of the target's tokens, given the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks.losses import (
    IGNORED,
    check_positions,
    inputs_of,
    logits_of,
    per_token,
    token_sums,
    without_cache,
)
from hf_llc.loading.tasks.task import Encoded, Task, token_inputs
from hf_llc.loading.tasks.token_order import causal_check
from hf_llc.loading.tasks.tokenization import (
    TEXT_COLUMNS,
    check_vocabulary,
    length_for,
    need_tokenizer,
    pad_id_of,
    pad_rows,
    token_tensors,
    tokenize,
)
from hf_llc.problem import Forward

_SOURCES = ("source", *TEXT_COLUMNS, "article")
_TARGETS = ("target", "summary", "labels", "label", "highlights")


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Source text and target text."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, _SOURCES, "input_column")
    target = column(data.column_names, config.label_column, _TARGETS, "label_column")
    length = length_for(model, config)
    rows = tokenize(data, name, tokenizer, length=length)["input_ids"]
    labels = pad_rows(tokenize(data, target, tokenizer, length=length, is_target=True)["input_ids"], IGNORED)
    pad_id = pad_id_of(model, tokenizer)
    if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise InputError(
            "the model does not say how its decoder's inputs come from labels",
            value=type(model).__name__,
            remedy="give a module of your own and loss_fn",
        )
    decoder_ids = _decoder_ids(model, labels)
    decoder_ids = decoder_ids.masked_fill(decoder_ids < 0, pad_id)
    examples = {**token_tensors(rows, pad_id), "decoder_input_ids": decoder_ids, "labels": labels}
    facts = {"input_column": name, "label_column": target, "max_length": length}
    options = without_cache(model)

    def logits(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        found = logits_of(forward(**inputs_of(batch), **options))
        check_positions(found, batch["decoder_input_ids"])
        return found

    def sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return token_sums(logits(forward, batch), batch["labels"])

    encoded = per_token(examples, labels, sums, config, facts)
    for ids in (encoded.examples["input_ids"], encoded.examples["decoder_input_ids"], labels.clamp(min=0)):
        check_vocabulary(ids, model)
    return replace(encoded, check=causal_check(logits, "decoder_input_ids"))


def _decoder_ids(model: Any, labels: Tensor) -> Tensor:
    """The decoder's inputs: the labels, one place later.

    Raises:
        InputError: the model cannot make them.
    """
    try:
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    except Exception as error:
        raise InputError(
            f"the decoder's inputs cannot be made from labels: {type(error).__name__}: {error}",
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
    suffixes=("ForConditionalGeneration",),
    decoder_task="text-generation",  # decoders that see images too are language models
    forecast_inputs=_forecast_inputs,
)
