"""Sequence classification: a label or a number for each text or pair of texts."""

from __future__ import annotations

from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABELS, labels_of
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.losses import Encoded
from hf_llc.loading.tasks.tokenization import _TEXTS, _pad_id, _tokenize, check_vocabulary, length_for, need_tokenizer

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))


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
    inputs = losses.tokens(found["input_ids"], _pad_id(model, tokenizer))
    if "token_type_ids" in found:
        inputs["token_type_ids"] = losses.pad(found["token_type_ids"], 0)
    check_vocabulary(inputs["input_ids"], model)
    if model.config.pad_token_id is None and not model.config.is_encoder_decoder and _looks_for_padding(model):
        raise InputError(
            "the model finds a text's end by its padding token, and has none",
            value=type(model).__name__,
            remedy="set model.config.pad_token_id",
        )
    return losses.classification(
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
