"""Text classification: a label or a number for each text or pair of texts."""

from __future__ import annotations

from typing import Any

import transformers

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, labels_of
from hf_llc.loading.tasks.losses import classification
from hf_llc.loading.tasks.task import Encoded, Task
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

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
"""Usual names of the columns of a pair of texts."""


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Texts, or pairs of texts, with a label."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name, pair = _text_columns(data.column_names, config)
    label = column(data.column_names, config.label_column, LABEL_COLUMNS, "label_column")
    labels, kind, how = labels_of(data, label, model)
    length = length_for(model, config)
    ids = tokenize(data, name, tokenizer, length=length, pair=pair)
    inputs = token_tensors(ids["input_ids"], pad_id_of(model, tokenizer))
    if "token_type_ids" in ids:
        inputs["token_type_ids"] = pad_rows(ids["token_type_ids"], 0)
    check_vocabulary(inputs["input_ids"], model)
    if model.config.pad_token_id is None and not model.config.is_encoder_decoder and _is_decoder(model):
        raise InputError(
            "the model finds a text's end by its padding token, and has none",
            value=type(model).__name__,
            remedy="set model.config.pad_token_id",
        )
    return classification(
        inputs,
        labels,
        kind=kind,
        facts={
            "input_column": name,
            "second_input_column": pair,
            "label_column": label,
            "classes": how,
            "max_length": length,
        },
    )


def _text_columns(names: list[str], config: LoadConfig) -> tuple[str, str | None]:
    """The column of the texts, and that of the second texts if the data hold pairs."""
    second = config.second_input_column
    usual = next((pair for pair in _PAIRS if set(pair) <= set(names)), None)
    if usual is not None and config.input_column in (None, usual[0]) and second is None:
        return usual
    name = column(names, config.input_column, TEXT_COLUMNS, "input_column")
    return name, None if second is None else column(names, second, (), "second_input_column")


def _is_decoder(model: Any) -> bool:
    """Whether the model classifies from a text's last token, as decoders do; encoders use the first."""
    kind = type(model.config)
    return (
        kind in transformers.AutoModelForCausalLM._model_mapping
        and kind not in transformers.AutoModelForMaskedLM._model_mapping
    )


TASK = Task(
    name="text-classification",
    encode=encode,
    auto_class="AutoModelForSequenceClassification",
    suffixes=("ForSequenceClassification",),
    label_mapping_columns=LABEL_COLUMNS,
)
