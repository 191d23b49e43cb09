"""Masked language modelling: the loss of tokens that were masked once, the same for all steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.losses import IGNORED, Encoded
from hf_llc.loading.tasks.tokenization import _TEXTS, _pad_id, _tokenize, check_vocabulary, length_for, need_tokenizer


def masked_lm(model: Any, data: Any, tokenizer: Any, config: LoadConfig) -> Encoded:
    """One text an example, 15 % of its tokens masked."""
    tokenizer, data = need_tokenizer(tokenizer), materialize(data, config)
    name = column(data.column_names, config.input_column, _TEXTS, "input_column")
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token", value=type(tokenizer).__name__, remedy="give tokenizer")
    length = length_for(model, config)
    rows, labels = mask_tokens(
        _tokenize(data, name, tokenizer, length=length)["input_ids"],
        mask_id=tokenizer.mask_token_id,
        special=set(tokenizer.all_special_ids),
    )
    encoded = losses.labelled_tokens(
        rows,
        labels,
        config,
        pad_id=_pad_id(model, tokenizer),
        facts={"input_column": name, "max_length": length, "masked": 0.15},
    )
    check_vocabulary(encoded.examples["input_ids"], model)
    return encoded


def mask_tokens(
    rows: Sequence[Sequence[int]], *, mask_id: int, special: set[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """15 % of each row's tokens (one at least) masked once and for all, so that L_n is a function of w alone.

    Which ones depends on the row's number only; all become the mask token (no random or kept ones).

    Returns:
        Rows with mask tokens, and their labels: the masked token, −100 elsewhere.
    """
    inputs, labels = [], []
    for i, row in enumerate(rows):
        free = [j for j, t in enumerate(row) if t not in special]
        size = min(len(free), max(1, round(0.15 * len(free))))
        chosen = set(np.random.default_rng([15, i]).permutation(free)[:size].tolist())
        inputs.append([mask_id if j in chosen else t for j, t in enumerate(row)])
        labels.append([t if j in chosen else IGNORED for j, t in enumerate(row)])
    return inputs, labels
