"""Masked language modelling: the loss of tokens that are masked once, so that every step sees the same loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks.context_length import length_for
from hf_llc.loading.tasks.losses import IGNORED, labelled_tokens, token_logits
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tasks.token_order import masked_check
from hf_llc.loading.tasks.token_rows import ID_COLUMNS, holds_token_ids, token_rows
from hf_llc.loading.tasks.tokenization import TEXT_COLUMNS, check_vocabulary, need_tokenizer, pad_id_of, tokenize


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """One text an example, 15 % of its tokens masked; or token ids with `labels`, which are masked already."""
    data = materialize(data, config)
    name = column(data, config.input_column, (*TEXT_COLUMNS, *ID_COLUMNS), "input_column")
    length, label, types = length_for(model, config), None, None
    facts: dict[str, Any] = {"input_column": name, "max_length": length}
    if holds_token_ids(data, name):
        found = token_rows(data, name, model, tokenizer)
        rows, types = [row[:length].tolist() for row in found.ids], found.token_types(length)
        if config.label_column is not None or "labels" in data.column_names:
            label = column(data, config.label_column, ("labels",), "label_column")
            labels = [row[:length].tolist() for row in found.beside(label)]
            facts["label_column"] = label
        if found.padding is not None:
            facts["padding"] = found.padding
    else:
        rows = tokenize(data, name, need_tokenizer(tokenizer), length=length)["input_ids"]
    if label is None:
        tokenizer = need_tokenizer(tokenizer)
        if tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token", value=type(tokenizer).__name__, remedy="give tokenizer")
        rows, labels = mask_tokens(rows, mask_id=tokenizer.mask_token_id, special=set(tokenizer.all_special_ids))
        facts["masked"] = 0.15
    encoded = labelled_tokens(rows, labels, config, pad_id=pad_id_of(model, tokenizer), facts=facts, token_types=types)
    check_vocabulary(encoded.examples["input_ids"], model)
    check_vocabulary(encoded.examples["labels"].clamp(min=0), model)
    return replace(encoded, check=masked_check(token_logits))


def mask_tokens(
    rows: Sequence[Sequence[int]], *, mask_id: int, special: set[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Replace 15 % of each row's tokens, one at least, by the mask token.

    Which ones depends on the row's number alone, so that L_n is a function of w. BERT's random and kept tokens are left
    out.

    Args:
        rows: token ids.
        mask_id: id of the mask token.
        special: ids that are never masked.

    Returns:
        The rows with mask tokens, and their labels: the masked token, −100 elsewhere.
    """
    inputs, labels = [], []
    for i, row in enumerate(rows):
        free = [j for j, token in enumerate(row) if token not in special]
        size = min(len(free), max(1, round(0.15 * len(free))))
        masked = set(np.random.default_rng([15, i]).permutation(free)[:size].tolist())
        inputs.append([mask_id if j in masked else token for j, token in enumerate(row)])
        labels.append([token if j in masked else IGNORED for j, token in enumerate(row)])
    return inputs, labels


TASK = Task(name="fill-mask", encode=encode, auto_class="AutoModelForMaskedLM", suffixes=("ForMaskedLM",))
