"""Data that are tensors already: pairs, dictionaries and torch datasets of pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import datasets
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.data_sources import all_are, column
from hf_llc.loading.rows import storable, table_of

_INPUTS = ("inputs", "x", "input")
_LABELS = ("labels", "y", "label", "targets")


def is_tensors(data: Any) -> bool:
    """Whether the data are a pair (x, y), a dictionary of tensors, or a torch dataset of pairs."""
    if isinstance(data, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict, str, os.PathLike)):
        return False
    return isinstance(data, (dict, torch.utils.data.Dataset)) or (
        isinstance(data, (tuple, list)) and len(data) > 0 and not all_are(data, str, os.PathLike, dict)
    )


def tensor_columns(data: Any, config: LoadConfig) -> dict[str, str]:
    """The keys of inputs and labels in a dictionary of tensors, by the settings that choose them; else nothing.

    Raises:
        InputError: a key that is asked for is not there, or none has a usual name.
    """
    if not isinstance(data, dict):
        return {}
    names = list(data)
    return {
        "input_column": column(names, config.input_column, _INPUTS, "input_column"),
        "label_column": column(names, config.label_column, _LABELS, "label_column"),
    }


def tensors_of(data: Any, config: LoadConfig) -> tuple[Tensor, Tensor]:
    """Inputs and labels of tensor data, `[example, …]` each, on the CPU.

    Raises:
        InputError: not pairs of tensors, or of different lengths.
    """
    if isinstance(data, dict):
        data = tuple(data[name] for name in tensor_columns(data, config).values())
    elif isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
    elif isinstance(data, torch.utils.data.Dataset):
        data = _stacked(data, config.max_examples)
    if len(data) != 2 or not all(isinstance(x, Tensor) for x in data):
        kinds = ", ".join(dict.fromkeys(type(x).__name__ for x in data))
        raise InputError(
            "data is not a pair of tensors (inputs, labels)",
            value=f"{type(data).__name__} of {len(data)} ({kinds})",
            remedy="torch.as_tensor makes tensors of arrays",
        )
    if any(x.layout != torch.strided or x.is_quantized or x.is_complex() or x.is_meta for x in data):
        raise InputError(
            "inputs and labels must be dense tensors of real numbers",
            value=", ".join(f"{x.dtype} {x.layout}" + " on meta" * x.is_meta for x in data),
            remedy="to_dense(), dequantize() or .real make one",
        )
    if data[0].dim() == 0 or data[1].dim() == 0:
        raise InputError("inputs and labels need an example axis", value=tuple(tuple(x.shape) for x in data))
    if len(data[0]) != len(data[1]):
        raise InputError("inputs and labels differ in length", value=(len(data[0]), len(data[1])))
    inputs, labels = (x[: config.max_examples].detach().cpu() for x in data)
    return inputs, labels


def _stacked(data: Any, max_examples: int | None) -> tuple[Tensor, Tensor]:
    """A torch dataset of pairs as two tensors."""
    if not hasattr(data, "__len__"):
        raise InputError("the torch dataset has no length", remedy="give tensors, or a datasets.IterableDataset")
    count = len(data) if max_examples is None else min(len(data), max_examples)
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    for i in range(count):
        x, y = _item(data, i)
        if inputs and (x.shape != inputs[0].shape or y.shape != labels[0].shape):
            raise InputError(
                "the torch dataset's items do not stack to tensors",
                value=f"item {i}: shapes {tuple(x.shape)} and {tuple(y.shape)}",
                allowed=f"{tuple(inputs[0].shape)} and {tuple(labels[0].shape)}, as item 0",
                remedy="make items tensors of one shape",
            )
        inputs.append(x)
        labels.append(y)
    if not inputs:
        raise InputError("the torch dataset is empty", value=type(data).__name__)
    return torch.stack(inputs), torch.stack(labels)


def _item(data: Any, i: int) -> tuple[Tensor, Tensor]:
    """One pair of a torch dataset.

    Raises:
        InputError: the data set fails there, or gives something else.
    """
    try:
        pair = data[i]
    except Exception as error:  # whatever the user's code may raise
        raise InputError(f"the torch dataset fails: {reason_of(error)}", value=f"item {i}") from error
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(
            "the torch dataset does not hold pairs (input, label)",
            value=f"{type(data).__name__}, item {i}: {type(pair).__name__}",
            remedy="give pairs, or rows: a list of dictionaries by column name",
        )
    try:
        return torch.as_tensor(pair[0]), torch.as_tensor(pair[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the torch dataset's items do not stack to tensors: {error}",
            value=f"item {i}",
            remedy="make items tensors of one shape (ToTensor)",
        ) from error


def dataset_of(data: Any, pair_columns: tuple[str, str] | None, task: str, config: LoadConfig) -> Dataset:
    """A dictionary of tensors, or a pair of them, as a data set with columns.

    Args:
        data: tensors.
        pair_columns: names of a pair's columns; None: the task takes no pairs.
        task: its name, for the refusal.
        config: says how many examples are read.

    Raises:
        InputError: a pair, for a task that takes none; or tensors of different lengths.
    """
    if not isinstance(data, dict):
        if pair_columns is None:
            raise InputError(
                "pairs of tensors are for plain modules and image classification",
                value=task,
                remedy="give a dictionary of tensors by column name, a datasets.Dataset, or loss_fn",
            )
        data = dict(zip(pair_columns, tensors_of(data, config), strict=True))
    values = {name: _as_column(x, name) for name, x in data.items()}
    if len({len(x) for x in values.values()}) != 1:
        raise InputError("the tensors differ in length", value=", ".join(f"{k}: {len(x)}" for k, x in values.items()))
    try:
        return datasets.Dataset.from_dict(values)
    except (TypeError, ValueError, OSError, OverflowError):
        names = list(values)
        return table_of([dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)])


def _as_column(values: Any, name: str) -> Any:
    """What `datasets` makes a column of.

    Raises:
        InputError: these values are no column.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        if isinstance(values, (str, bytes)):
            raise TypeError("one text")
        if isinstance(values, (list, tuple)):
            return [storable(value) for value in values]
        len(values)
    except (TypeError, RuntimeError) as error:  # sparse, quantized; a number
        raise InputError(
            "data of this kind cannot be a column",
            value=f"{name}: {type(values).__name__}",
            allowed="a list, an array or a dense tensor, with one value for each example",
        ) from error
    return values


def check_finite(examples: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Check that floating-point inputs and labels are finite.

    Args:
        examples: tensors, `[example, …]`.
        facts: names the columns, as "input_column" and "label_column".

    Raises:
        InputError: the first row that is not.
    """
    for key, values in examples.items():
        if values.is_floating_point() and values.numel():
            bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
            if bool(bad.any()):
                name = facts.get("label_column" if key == "labels" else "input_column") or key
                raise InputError(
                    "the data contain NaN or infinity",
                    value=f"column {name}, row {int(bad.nonzero()[0])}",
                    remedy="drop or mend such rows",
                )
