"""Data that are token ids already: rows checked, and without their padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from hf_llc.errors import InputError
from hf_llc.loading.data_sources import first_values
from hf_llc.loading.rows import numbers_in, place
from hf_llc.loading.tasks.context_length import text_config

ID_COLUMNS = ("input_ids",)
"""Usual names of a column of token ids."""

_IGNORED = -100

_LISTS = (list, tuple, np.ndarray, torch.Tensor)


def holds_token_ids(data: Dataset | IterableDataset, name: str) -> bool:
    """Whether a column holds lists of numbers, token ids, rather than text."""
    if data.features is not None:
        dtype, depth = numbers_in(data.features[name])
        return depth > 0 and dtype not in ("string", "large_string", "binary")
    for value in first_values(data, name):
        if isinstance(value, _LISTS) and len(value) > 0:
            return not isinstance(value[0], (str, dict))
        if value is not None and not isinstance(value, _LISTS):
            return False
    return False


@dataclass
class TokenRows:
    """The token ids of each row, without padding.

    Attributes:
        ids: a row each, int64.
        padding: how padding was known if the data do not say it (no attention_mask), for the result; None: there was
            none, or the mask said it.
        data: the rows.
        kept: which of a row's tokens are not padding, bool.
    """

    ids: list[np.ndarray]
    padding: str | None
    data: Dataset
    kept: list[np.ndarray]

    def token_types(self, length: int) -> list[list[int]] | None:
        """The column `token_type_ids`, cut to `length`; None if there is none, or if all are 0, which models assume."""
        if "token_type_ids" not in self.data.column_names:
            return None
        rows = [row[:length].tolist() for row in self.beside("token_type_ids")]
        return rows if any(map(any, rows)) else None

    def beside(self, name: str) -> list[np.ndarray]:
        """Another column with a whole number a token, int64, without padding.

        Raises:
            InputError: a row has not one number a token.
        """
        return self.without_padding(whole_numbers(self.data[name][:], name), name)

    def without_padding(self, rows: Sequence[Any], name: str) -> list[np.ndarray]:
        """Rows of whole numbers, one a token, without those of padding.

        Args:
            rows: lists or arrays.
            name: of their column, for the refusal.

        Raises:
            InputError: a row has not one number a token.
        """
        for i, (row, kept) in enumerate(zip(rows, self.kept, strict=True)):
            if len(row) != len(kept):
                raise InputError(
                    "a row does not have one label for each token"
                    if name != "attention_mask"
                    else "the attention mask has another length than the tokens",
                    value=f"{place(name, i)}: {len(row)} for {len(kept)} tokens",
                    remedy="check the columns, or drop such rows",
                )
        return [np.asarray(row, dtype=np.int64)[kept] for row, kept in zip(rows, self.kept, strict=True)]


_UNREAD = ("position_ids", "inputs_embeds", "bbox", "global_attention_mask", "langs", "decoder_attention_mask")
"""Columns that would change what a model computes, and that no task reads."""


def token_rows(data: Dataset, name: str, model: Any, tokenizer: Any, *, is_target: bool = False) -> TokenRows:
    """A column of token ids, without what `attention_mask` marks as padding.

    Without such a column, padding tokens at a row's ends are padding. Where they are also the end (or the start) of
    text, one is kept.

    Args:
        data: the rows.
        name: the column.
        model: its config may name the padding token.
        tokenizer: so may it; None without one.
        is_target: the column is one of labels: −100 is padding, too, and `attention_mask` is not about it.

    Raises:
        InputError: the first row that does not hold token ids, or whose mask does not fit.
    """
    unread = next((column for column in _UNREAD if column in data.column_names), None)
    if unread is not None:
        raise InputError(
            "the data hold model inputs that are not read",
            value=unread,
            remedy="remove the column if the model's own are the same",
        )
    rows = whole_numbers(data[name][:], name)
    if "attention_mask" in data.column_names and not is_target:
        found = TokenRows(rows, None, data, [np.ones(len(row), dtype=bool) for row in rows])
        masks = found.beside("attention_mask")
        for i, mask in enumerate(masks):
            if not np.isin(mask, (0, 1)).all():
                raise InputError(
                    "a mask is neither 0 nor 1", value=place("attention_mask", i), remedy="drop or mend such rows"
                )
        kept, padding = [mask.astype(bool) for mask in masks], None
    else:
        kept, padding = _without_ends(rows, model, tokenizer, is_target)
    return TokenRows([row[k] for row, k in zip(rows, kept, strict=True)], padding, data, kept)


def _without_ends(
    rows: Sequence[np.ndarray], model: Any, tokenizer: Any, is_target: bool
) -> tuple[list[np.ndarray], str | None]:
    """Which tokens are not padding at a row's ends, and how that is said; the latter is None if all are kept."""
    settings = text_config(model)

    def named(which: str) -> list[Any]:
        found = [getattr(side, f"{which}_token_id", None) for side in (tokenizer, settings)]
        return [i for ids in found for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]

    pad = next(iter(named("pad")), None)
    if pad is None and not is_target:
        return [np.ones(len(row), dtype=bool) for row in rows], None
    begins, ends = pad in named("bos"), pad in named("eos")
    kept, num_padded = [], 0
    for row in rows:
        is_pad = row == (_IGNORED if pad is None else pad)
        if is_target:
            is_pad |= row == _IGNORED
        tokens, keep = np.flatnonzero(~is_pad), np.zeros(len(row), dtype=bool)
        if len(tokens):
            first, last = int(tokens[0]), int(tokens[-1])
            first -= begins and first > 0 and row[first - 1] == pad
            last += ends and last + 1 < len(row) and row[last + 1] == pad
            keep[first : last + 1] = True
        num_padded += int((row[~keep] != _IGNORED).sum())
        kept.append(keep)
    said = f"token {pad} at the ends of rows, masked (the data have no attention_mask)"
    return kept, said if num_padded else None


def whole_numbers(values: Sequence[Any], name: str) -> list[np.ndarray]:
    """Lists of whole numbers, a row each, int64.

    Args:
        values: of a column.
        name: of the column, for the refusal.

    Raises:
        InputError: the first row that is none.
    """
    rows = []
    for i, value in enumerate(values):
        fault = None
        try:
            row = np.asarray([] if value is None else value)
        except ValueError:  # lists of different lengths
            row, fault = np.zeros((0, 0)), "nested"
        if value is None:
            fault = "none"
        elif row.ndim != 1:
            fault = "nested" if row.ndim > 1 else type(value).__name__
        elif row.size and row.dtype.kind not in "iub" and not _is_whole(row):
            fault = "not all whole numbers"
        if fault is not None:
            raise InputError(
                "a row is not a list of whole numbers",
                value=f"{place(name, i)}: {fault}",
                remedy="drop or mend such rows",
            )
        rows.append(row.astype(np.int64))
    return rows


def _is_whole(row: np.ndarray) -> bool:
    return row.dtype.kind == "f" and bool(np.isfinite(row).all()) and bool((row == np.floor(row)).all())
