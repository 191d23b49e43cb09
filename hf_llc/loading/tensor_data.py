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
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import all_are, column

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
    pairs = [data[i] for i in range(len(data) if max_examples is None else min(len(data), max_examples))]
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise InputError("the torch dataset does not hold pairs (input, label)", value=type(data).__name__)
    try:
        inputs, labels = (torch.stack([torch.as_tensor(pair[i]) for pair in pairs]) for i in (0, 1))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the torch dataset's items do not stack to tensors: {error}",
            value=type(data).__name__,
            remedy="make items tensors of one shape (ToTensor)",
        ) from error
    return inputs, labels


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
    if len({len(x) for x in data.values()}) != 1:
        raise InputError("the tensors differ in length", value=", ".join(f"{k}: {len(x)}" for k, x in data.items()))
    return datasets.Dataset.from_dict(
        {k: x.detach().cpu().numpy() if isinstance(x, Tensor) else x for k, x in data.items()}
    )


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
                    "the data holds NaN or infinity",
                    value=f"column {name}, row {int(bad.nonzero()[0])}",
                    remedy="drop or mend such rows",
                )
