"""Text classification: a label or a number for each text or pair of texts."""

from __future__ import annotations

from typing import Any

import transformers
from datasets import Dataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, labels_of
from hf_llc.loading.tasks.context_length import length_for
from hf_llc.loading.tasks.losses import classification
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tasks.token_rows import ID_COLUMNS, holds_token_ids, token_rows
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

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
"""Usual names of the columns of a pair of texts."""


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Texts, pairs of texts, or token ids, with a label."""
    data = materialize(data, config)
    name, pair = _text_columns(data, config)
    label = column(data, config.label_column, LABEL_COLUMNS, "label_column")
    labels, kind, how = labels_of(data, label, model)
    length = length_for(model, config)
    padding: dict[str, str] = {}
    if holds_token_ids(data, name):
        found = token_rows(data, name, model, tokenizer)
        ids: dict[str, Any] = {"input_ids": [row[:length] for row in found.ids]}
        types = found.token_types(length)
        ids |= {} if types is None else {"token_type_ids": types}
        padding = {} if found.padding is None else {"padding": found.padding}
    else:
        ids = tokenize(data, name, need_tokenizer(tokenizer), length=length, pair=pair)
    check_not_empty(ids["input_ids"], name)
    inputs = token_tensors(ids["input_ids"], pad_id_of(model, tokenizer))
    if "token_type_ids" in ids:
        inputs["token_type_ids"] = pad_rows(ids["token_type_ids"], 0)
    check_vocabulary(inputs["input_ids"], model)
    _check_ends(model, inputs)
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
            **padding,
        },
    )


def _check_ends(model: Any, inputs: dict[str, Tensor]) -> None:
    """Check that a decoder, which classifies from a text's last token, finds it.

    Raises:
        InputError: it has no padding token, or one outside its vocabulary, by which texts of several lengths end.
    """
    pad = model.config.get_text_config().pad_token_id
    if model.config.is_encoder_decoder or not _is_decoder(model):
        return
    size, in_it = vocabulary_of(model), "" if pad is None else " in its vocabulary"
    if pad is None or ("attention_mask" in inputs and not 0 <= pad < (size or pad + 1)):
        raise InputError(
            f"the model finds a text's end by its padding token, and has none{in_it}",
            value=type(model).__name__,
            remedy="set model.config.pad_token_id",
        )


def _text_columns(data: Dataset, config: LoadConfig) -> tuple[str, str | None]:
    """The column of the texts, and that of the second texts if the data hold pairs."""
    names, second = data.column_names, config.second_input_column
    usual = next((pair for pair in _PAIRS if set(pair) <= set(names)), None)
    if usual is not None and config.input_column in (None, usual[0]) and second is None:
        return usual
    name = column(data, config.input_column, (*TEXT_COLUMNS, *ID_COLUMNS), "input_column")
    return name, None if second is None else column(data, second, (), "second_input_column")


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
