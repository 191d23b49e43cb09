"""Label columns → class numbers, 0/1 vectors or regression targets, checked against the model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from hf_llc.errors import InputError
from hf_llc.loading.rows import place

LABEL_COLUMNS = ("label", "labels", "labels_ids", "fine_label", "class", "target")
"""Usual names of the label column."""

_MAX_NAMES = 10
"""A refusal lists at most this many names."""


def labels_of(data: Dataset, name: str, model: Any) -> tuple[Tensor, str, str | None]:
    """Labels of a column, the problem type in transformers' words, and how classes with names became numbers.

    The type is the model's `problem_type`. If that is None, lists are several labels an example, a model with a single
    output is a regression, and anything else is one class an example.

    Returns:
        Class numbers `[example]`, or 0/1 or targets `[example, output]` in float32; the problem type; and
        `ClassNumbers.how`.

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
                "the model takes one label for each example, but the column holds lists",
                value=name,
                remedy="check label_column",
            )
        numbers = ClassNumbers(values, feature, model)
        return torch.tensor([numbers(value, place(name, i)) for i, value in enumerate(values)]), kind, numbers.how
    if kind == "multi_label_classification":
        many_hot, how = _many_hot(values, feature, model, name)
        return many_hot, kind, how
    labels = _targets(values, name)
    if labels.shape[1] != count:
        raise InputError(
            "labels and model differ in width", value=labels.shape[1], allowed=str(count), remedy="check label_column"
        )
    return labels, kind, None


def _targets(values: Sequence[Any], name: str) -> Tensor:
    """Numbers to be predicted, float32 `[example, output]`.

    Raises:
        InputError: the first row that is not a number, or not as many as the first.
    """
    rows = [value if isinstance(value, (list, tuple)) else [value] for value in values]
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]) or not all(isinstance(x, (int, float)) for x in row):
            raise InputError(
                "the labels are not numbers, or rows have different numbers of them",
                value=place(name, i),
                remedy="check label_column, or drop unlabelled rows",
            )
    return torch.tensor(rows, dtype=torch.float32)


def translate_labels(data: Dataset, name: str, mapping: Mapping[str, Any]) -> Dataset:
    """The data with the model's names in the label column.

    Args:
        data: the rows.
        name: the label column.
        mapping: what the data calls each label, by the model's name for it: `{"NEGATIVE": 0, "POSITIVE": 1}`.

    Raises:
        InputError: two names for one label, or a label that has none.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(
            "label_mapping is not a dictionary", value=mapping, allowed="the data's value by the model's name for it"
        )
    try:
        names = {value: label for label, value in mapping.items()}
    except TypeError as error:
        raise InputError("label_mapping gives a name a list of labels", value=dict(mapping), allowed="one") from error
    if len(names) < len(mapping):
        raise InputError("label_mapping gives one label two names", value=dict(mapping), remedy="name each once")
    values = data[name][:]
    for i, value in enumerate(values):
        if isinstance(value, (list, dict)) or value not in names:
            raise InputError(
                "a label of the data is not in label_mapping",
                value=value,
                allowed=", ".join(map(repr, names)),
                remedy=f"see {place(name, i)}",
            )
    return data.remove_columns(name).add_column(name, [names[value] for value in values])


def _many_hot(values: Sequence[Any], feature: Any, model: Any, name: str) -> tuple[Tensor, str | None]:
    """0/1 labels `[example, label]`, from rows of 0 and 1 or from lists of classes; and `ClassNumbers.how`."""
    count = model.config.num_labels
    inner = getattr(feature, "feature", None)
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in values]
    numbers = all(isinstance(x, (int, float)) and x in (0, 1) for row in rows for x in row)
    if numbers and not isinstance(inner, ClassLabel) and all(len(row) == count for row in rows):
        return torch.tensor(rows, dtype=torch.float32), None
    if numbers and not isinstance(inner, ClassLabel) and len({len(row) for row in rows}) == 1 and len(rows[0]) > 2:
        raise InputError(
            "labels and model differ in width", value=len(rows[0]), allowed=str(count), remedy=f"check {name}"
        )
    labels = torch.zeros(len(rows), count)
    class_number = ClassNumbers([value for row in rows for value in row], feature, model)
    for i, row in enumerate(rows):
        labels[i, [class_number(value, place(name, i)) for value in row]] = 1.0
    return labels, class_number.how


class ClassNumbers:
    """The model's class numbers for the labels of one column, which are numbers or names.

    Names go by name. So do the numbers of a column that names its classes (`ClassLabel`), if the model knows every name
    that the rows use; if it knows none of the column's names, its numbers are taken as they are.

    Args:
        values: all labels of the column, without nesting.
        feature: the column's feature.
        model: its config names the classes.

    Attributes:
        how: "by name" or "by number …" if the data name their classes, for the result; None if they do not.

    Raises:
        InputError: the model knows some of the column's names but not all that the rows use, or its config contradicts
            itself.
    """

    def __init__(self, values: Sequence[Any], feature: Any, model: Any) -> None:
        self.count = model.config.num_labels
        self._order: list[int | None] | None = None
        inner = getattr(feature, "feature", feature)
        names = [str(name) for name in inner.names] if isinstance(inner, ClassLabel) else None
        self.how = "by name" if any(isinstance(value, str) for value in values) else None
        self._known = {} if names is None and self.how is None else _class_names(model.config)
        self._folded: dict[str, int | None] = {}
        for name, number in self._known.items():  # names that differ in case alone are told apart by it
            known = self._folded.setdefault(name.casefold(), number)
            self._folded[name.casefold()] = number if known == number else None
        if names is not None:
            self._order, self.how = self._by_name(names, values)

    def _number_of(self, name: str) -> int | None:
        return self._known.get(name, self._folded.get(name.casefold()))

    def _by_name(self, names: list[str], values: Sequence[Any]) -> tuple[list[int | None] | None, str]:
        """The model's number for each of the data's, or None if they are taken as they are; and how that is said."""
        order = [self._number_of(name) for name in names]
        used = {int(v) for v in values if _is_whole(v) and 0 <= v < len(names)}
        unknown = [names[i] for i in sorted(used) if order[i] is None]
        if not unknown:
            return order, "by name"
        if any(number is not None for number in order):
            raise InputError(
                "the model knows some of the data's label names and not others",
                value=_listed(unknown),
                allowed=f"{_listed(self._known)}; the data have {_listed(names)}",
                remedy="give label_mapping, or set the model's id2label",
            )
        theirs = "the model names none" if _is_default(self._known) else f"the model has {_listed(self._known)}"
        return None, f"by number: the data have {_listed(names)}, {theirs}"

    def __call__(self, value: Any, where: str) -> int:
        """The model's number for a label.

        Args:
            value: the label.
            where: it stands, for the refusal.

        Raises:
            InputError: the model does not have it.
        """
        if isinstance(value, str):
            number = self._number_of(value)
            if number is None:
                raise InputError(
                    "a label that the model does not know",
                    value=value,
                    allowed=_listed(self._known),
                    remedy=f"see {where}; check label_column and the model's label2id, or give label_mapping",
                )
            return number
        size = self.count if self._order is None else len(self._order)
        if not _is_whole(value) or not 0 <= value < size:
            raise InputError(
                "a label is out of range",
                value=value if value is not None else "none",
                allowed=f"0 … {size - 1}",
                remedy=f"see {where}; check label_column, or drop unlabelled rows",
            )
        number = int(value) if self._order is None else self._order[int(value)]
        assert number is not None  # all names that the rows use are known
        return number


def _class_names(settings: Any) -> dict[str, int]:
    """The model's names of its classes, with their numbers: from id2label and label2id, of which one may say nothing.

    Raises:
        InputError: the two number a name differently, or number a class that the model does not have.
    """
    wrong = InputError("the model's id2label and label2id contradict each other", remedy="mend its config")
    try:
        by_number = {int(number): str(name) for number, name in (settings.id2label or {}).items()}
        by_name = {str(name): int(number) for name, number in (getattr(settings, "label2id", None) or {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise wrong from error
    if _is_default(by_name) and not _is_default(by_number.values()):
        by_name = {}
    elif _is_default(by_number.values()) and not _is_default(by_name):
        by_number = {}
    numbers: dict[str, list[int]] = {}
    for number, name in by_number.items():
        numbers.setdefault(name.casefold(), []).append(number)
    for name, number in by_name.items():
        if number not in numbers.get(name.casefold(), [number]):
            raise wrong
    names = {name: i for i, name in by_number.items() if len(numbers[name.casefold()]) == 1} | by_name
    if not all(0 <= number < settings.num_labels for number in names.values()):
        raise wrong
    return names


def _is_default(names: Iterable[str]) -> bool:
    """Whether these are the names that transformers gives to classes without any."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value == int(value)


def _listed(names: Iterable[str]) -> str:
    """The names in a line, ten at most."""
    names = [" ".join(name.split()) for name in names]
    return ", ".join(names[:_MAX_NAMES]) + (f", … ({len(names) - _MAX_NAMES} more)" if len(names) > _MAX_NAMES else "")
