"""Rows of a data set → pixels or numbers, and labels: image classifiers and plain modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor

from hf_llc import tasks
from hf_llc.config import LoadConfig
from hf_llc.datasource import column, materialize
from hf_llc.errors import InputError
from hf_llc.labels import LABELS, labels_of
from hf_llc.tasks import Encoded

_IMAGES = ("image", "img", "pixel_values")


def image_classification(model: Any, data: Any, processor: Any, config: LoadConfig) -> Encoded:
    """Images through the model's own processor."""
    data = materialize(data, config)
    name = column(data.column_names, config.input_column, _IMAGES, "input_column")
    label = column(data.column_names, config.label_column, LABELS, "label_column")
    labels, kind = labels_of(data, label, model)
    is_image = isinstance(data.features[name], Image)
    if is_image and processor is None:
        raise InputError(
            "no image processor comes with the model",
            remedy="give tokenizer (an image processor), or a data set with pixel_values",
        )
    if is_image:
        mode = "L" if getattr(model.config, "num_channels", 3) == 1 else "RGB"
        parts = [
            processor([image.convert(mode) for image in part[name]], return_tensors="pt")["pixel_values"].float()
            for part in data.iter(256)
        ]
        pixels = torch.cat(parts)
    else:
        pixels = torch.from_numpy(numbers(data, name)).float()
    return tasks.classification(
        {"pixel_values": pixels},
        labels,
        kind=kind,
        facts={
            "input_column": name,
            "label_column": label,
            "transforms": type(processor).__name__ if is_image else None,
        },
    )


def numbers(data: Dataset, name: str) -> np.ndarray:
    """A numeric column, `[example, …]`.

    Raises:
        InputError: text, gaps, or rows of different shapes.
    """
    try:
        values = np.asarray(data[name][:])
    except ValueError:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biuf":
        raise InputError(
            "the column does not hold numbers of one shape",
            value=name,
            remedy="choose columns with input_column and label_column, or convert it",
        )
    return values


def features(model: Any, data: Any, config: LoadConfig) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Inputs and labels for a plain module: images as float `[channel, height, width]` / 255, numbers as they are.

    Floating-point columns come in the module's own type.
    """
    data = materialize(data, config)
    name = column(data.column_names, config.input_column, ("inputs", "x", *_IMAGES, "features"), "input_column")
    label = column(data.column_names, config.label_column, ("y", *LABELS), "label_column")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if isinstance(data.features[name], Image):
        arrays = [np.asarray(image, dtype=np.float32) / 255 for image in data[name]]
        if len({array.shape for array in arrays}) > 1:
            raise InputError("the images differ in size", value=name, remedy="resize them first")
        inputs = torch.from_numpy(np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays]))
    else:
        inputs = torch.from_numpy(numbers(data, name))
    labels = torch.from_numpy(numbers(data, label))
    inputs, labels = (x.to(dtype) if x.is_floating_point() else x for x in (inputs, labels))
    return (
        inputs,
        labels,
        {
            "input_column": name,
            "label_column": label,
            "transforms": "pixels / 255" if isinstance(data.features[name], Image) else None,
        },
    )
