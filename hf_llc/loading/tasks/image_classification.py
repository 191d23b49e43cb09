"""Image classification: a label for each picture."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Image

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABELS, labels_of
from hf_llc.loading.tasks import losses
from hf_llc.loading.tasks.images import _IMAGES, numbers
from hf_llc.loading.tasks.losses import Encoded


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
    return losses.classification(
        {"pixel_values": pixels},
        labels,
        kind=kind,
        facts={
            "input_column": name,
            "label_column": label,
            "transforms": type(processor).__name__ if is_image else None,
        },
    )
