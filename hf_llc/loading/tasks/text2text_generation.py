"""Sequence to sequence: the loss of the target's tokens, given the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks.losses import IGNORED, inputs_of, logits_of, per_token, token_sums
from hf_llc.loading.tasks.task import Encoded, Task, token_inputs
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
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
    decoder_ids = decoder_ids.masked_fill(decoder_ids < 0, pad_id)
    examples = {**token_tensors(rows, pad_id), "decoder_input_ids": decoder_ids, "labels": labels}
    facts = {"input_column": name, "label_column": target, "max_length": length}
    encoded = per_token(examples, labels, _sums, config, facts)
    for ids in (encoded.examples["input_ids"], encoded.examples["decoder_input_ids"], labels.clamp(min=0)):
        check_vocabulary(ids, model)
    return encoded


def _sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """Σ over the target's tokens of −log p, nats, `[batch]`."""
    return token_sums(logits_of(forward(**inputs_of(batch), use_cache=False)), batch["labels"])


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
