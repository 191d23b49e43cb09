"""Masked language modelling: the loss of tokens that are masked once, so that every step sees the same loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks.losses import IGNORED, labelled_tokens, token_logits
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.loading.tasks.token_order import masked_check
from hf_llc.loading.tasks.tokenization import (
    TEXT_COLUMNS,
    check_vocabulary,
    length_for,
    need_tokenizer,
    pad_id_of,
    tokenize,
)


def encode(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """One text an example, 15 % of its tokens masked."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, TEXT_COLUMNS, "input_column")
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token", value=type(tokenizer).__name__, remedy="give tokenizer")
    length = length_for(model, config)
    rows, labels = mask_tokens(
        tokenize(data, name, tokenizer, length=length)["input_ids"],
        mask_id=tokenizer.mask_token_id,
        special=set(tokenizer.all_special_ids),
    )
    encoded = labelled_tokens(
        rows,
        labels,
        config,
        pad_id=pad_id_of(model, tokenizer),
        facts={"input_column": name, "max_length": length, "masked": 0.15},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
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
