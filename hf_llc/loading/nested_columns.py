"""Columns inside columns of dictionaries, by a dotted name."""

from __future__ import annotations

import functools
from typing import Any

import datasets
from datasets import Dataset, IterableDataset

from hf_llc.config import LoadConfig
from hf_llc.loading.data_sources import columns


def with_nested(data: Dataset | IterableDataset, config: LoadConfig) -> Dataset | IterableDataset:
    """The data with a column more for each that is asked for by a dotted name, `translation.en` say.

    Args:
        data: the rows.
        config: may name columns inside columns of dictionaries.
    """
    known = columns(data)
    for name in (config.input_column, config.second_input_column, config.label_column):
        if name is None or name in known or name.split(".")[0] not in known:
            continue
        feature = _feature_at(data.features, name)
        if data.features is not None and feature is None:
            continue  # `column` refuses it
        values = functools.partial(_value_at, name=name)
        if isinstance(data, Dataset):
            top = name.split(".")[0]
            data = data.add_column(name, [values(row) for row in data.select_columns([top])], feature=feature)
        else:
            features = None if data.features is None else datasets.Features({**data.features, name: feature})
            data = data.map(lambda row, at=name, of=values: {**row, at: of(row)}, features=features)
    return data


def _value_at(row: Any, name: str) -> Any:
    """What a row holds at a dotted name; None if there is nothing."""
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _feature_at(features: Any, name: str) -> Any:
    """The feature at a dotted name; None if there is none."""
    for part in name.split("."):
        features = features.get(part) if isinstance(features, dict) else None
    return features
