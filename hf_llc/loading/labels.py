"""Label columns → class numbers, 0/1 vectors or regression targets, checked against the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from hf_llc.errors import InputError

LABEL_COLUMNS = ("label", "labels", "labels_ids", "fine_label", "class", "target")
"""Usual names of the label column."""


def labels_of(data: Dataset, name: str, model: Any) -> tuple[Tensor, str]:
    """Labels of a column, and the problem type in transformers' words.

    The type is the model's `problem_type`. If that is None, lists are several labels an example, a model with a single
    output is a regression, and anything else is one class an example.

    Returns:
        Class numbers `[example]`, or 0/1 or targets `[example, output]` in float32; and the problem type.

    Raises:
        InputError: labels that the model does not have.
    """
    values, feature = data[name][:], data.features[name]
    kind, count = model.config.problem_type, model.config.num_labels
    is_list = isinstance(values[0], (list, tuple))
    if kind is None:
        one = "regression" if count == 1 else "single_label_classification"
        kind = "multi_label_classification" if is_list else one
    if kind == "single_label_classification":
        if is_list:
            raise InputError(
                "the model takes one label an example, the column holds lists", value=name, remedy="check label_column"
            )
        return torch.tensor(class_ids(values, feature, model)), kind
    if kind == "multi_label_classification":
        return _many_hot(values, feature, model, name), kind
    try:
        labels = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise InputError("the labels are not numbers", value=name, remedy="check label_column") from error
    labels = labels[:, None] if labels.dim() == 1 else labels
    if labels.shape[1] != count:
        raise InputError(
            "labels and model differ in width", value=labels.shape[1], allowed=str(count), remedy="check label_column"
        )
    return labels, kind


def translate_labels(data: Dataset, name: str, mapping: Mapping[str, Any]) -> Dataset:
    """The data with the model's names in the label column.

    Args:
        data: the rows.
        name: the label column.
        mapping: what the data calls each label, by the model's name for it: `{"NEGATIVE": 0, "POSITIVE": 1}`.

    Raises:
        InputError: two names for one label, or a label that has none.
    """
    names = {value: label for label, value in mapping.items()}
    if len(names) < len(mapping):
        raise InputError("label_mapping gives one label two names", value=dict(mapping), remedy="name each once")
    values = data[name][:]
    for value in values:
        if value not in names:
            raise InputError(
                "a label of the data is not in label_mapping", value=value, allowed=", ".join(map(repr, names))
            )
    return data.remove_columns(name).add_column(name, [names[value] for value in values])


def _many_hot(values: Sequence[Any], feature: Any, model: Any, name: str) -> Tensor:
    """0/1 labels `[example, label]`, from rows of 0 and 1 or from lists of classes."""
    count = model.config.num_labels
    inner = getattr(feature, "feature", None)
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in values]
    numbers = all(isinstance(x, (int, float)) and x in (0, 1) for row in rows for x in row)
    if numbers and not isinstance(inner, ClassLabel) and all(len(row) == count for row in rows):
        return torch.tensor(rows, dtype=torch.float32)
    if numbers and not isinstance(inner, ClassLabel) and len({len(row) for row in rows}) == 1 and len(rows[0]) > 2:
        raise InputError(
            "labels and model differ in width", value=len(rows[0]), allowed=str(count), remedy=f"check {name}"
        )
    labels = torch.zeros(len(rows), count)
    for i, row in enumerate(rows):
        labels[i, class_ids(row, feature, model)] = 1.0
    return labels


def class_ids(values: Sequence[Any], feature: Any, model: Any) -> list[int]:
    """The model's class numbers for labels that are numbers or names.

    If the data name their classes (`ClassLabel`) and the model has the same names in another order, numbers are
    translated by name.

    Raises:
        InputError: the model does not have a label.
    """
    label2id = {str(name): int(number) for name, number in (model.config.label2id or {}).items()}
    lower = {name.lower(): number for name, number in label2id.items()}
    inner = getattr(feature, "feature", feature)
    data_names = [str(name).lower() for name in inner.names] if isinstance(inner, ClassLabel) else []
    order = [lower[name] for name in data_names] if data_names and set(data_names) == set(lower) else None
    ids, count = [], model.config.num_labels
    for value in values:
        if isinstance(value, str):
            if value.lower() not in lower:
                raise InputError(
                    "a label that the model does not know",
                    value=value,
                    allowed=", ".join(label2id),
                    remedy="check label_column and the model's label2id",
                )
            ids.append(lower[value.lower()])
            continue
        is_number = isinstance(value, (int, float)) and math.isfinite(value) and value == int(value)
        if not is_number or not 0 <= value < count:
            raise InputError(
                "a label is out of range",
                value=value if value is not None else "none",
                allowed=f"0 … {count - 1}",
                remedy="check label_column, or drop unlabelled rows",
            )
        ids.append(int(value) if order is None else order[int(value)])
    return ids
