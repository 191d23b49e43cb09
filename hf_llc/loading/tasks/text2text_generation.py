"""Sequence to sequence: the loss of the target's tokens, given the source."""

from __future__ import annotations

from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.losses import Encoded
from hf_llc.loading.tasks.tokenization import _TEXTS, _pad_id, _tokenize, check_vocabulary, length_for, need_tokenizer


def seq2seq(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """Source text and target text."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, ("source", *_TEXTS, "article"), "input_column")
    target = column(
        data.column_names, config.label_column, ("target", "summary", "labels", "label", "highlights"), "label_column"
    )
    length = length_for(model, config)
    rows = _tokenize(data, name, tokenizer, length=length)["input_ids"]
    labels = losses.pad(_tokenize(data, target, tokenizer, length=length, is_target=True)["input_ids"], losses.IGNORED)
    pad_id = _pad_id(model, tokenizer)
    if not hasattr(model, "prepare_decoder_input_ids_from_labels"):
        raise InputError(
            "the model does not say how its decoder's inputs come from labels",
            value=type(model).__name__,
            remedy="give a module of your own and loss_fn",
        )
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
    encoded = losses.seq2seq(
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
