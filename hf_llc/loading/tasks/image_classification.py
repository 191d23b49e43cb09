"""Image classification: a label for each picture."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, Image
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, labels_of
from hf_llc.loading.tasks.images import IMAGE_COLUMNS, numbers_of
from hf_llc.loading.tasks.losses import classification
from hf_llc.loading.tasks.task import Encoded, Task


def encode(model: Any, data: Any, processor: Any, config: LoadConfig) -> Encoded:
    """Images through the model's own processor, or pixels as they are."""
    data = materialize(data, config)
    name = column(data.column_names, config.input_column, IMAGE_COLUMNS, "input_column")
    label = column(data.column_names, config.label_column, LABEL_COLUMNS, "label_column")
    labels, kind, how = labels_of(data, label, model)
    is_image = isinstance(data.features[name], Image)
    if is_image and processor is None:
        raise InputError(
            "no image processor comes with the model",
            remedy="give tokenizer (an image processor), or a data set with pixel_values",
        )
    if is_image:
        pixels = _processed(data, name, processor, mode="L" if getattr(model.config, "num_channels", 3) == 1 else "RGB")
    else:
        pixels = torch.from_numpy(numbers_of(data, name)).float()
    return classification(
        {"pixel_values": pixels},
        labels,
        kind=kind,
        facts={
            "input_column": name,
            "label_column": label,
            "classes": how,
            "transforms": type(processor).__name__ if is_image else None,
        },
    )


def _processed(data: Dataset, name: str, processor: Any, *, mode: str) -> Tensor:
    """The images of a column, in PIL's `mode`, as the processor gives them: `[example, channel, height, width]`."""
    batches: Any = data.iter(256)
    parts = [
        processor([image.convert(mode) for image in batch[name]], return_tensors="pt")["pixel_values"].float()
        for batch in batches
    ]
    return torch.cat(parts)


def _forecast_inputs(settings: Any, _: int) -> dict[str, Any]:
    """One black image of the model's size."""
    size = getattr(settings, "image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return {"pixel_values": torch.zeros(1, getattr(settings, "num_channels", 3), height, width)}


TASK = Task(
    name="image-classification",
    encode=encode,
    auto_class="AutoModelForImageClassification",
    suffixes=("ForImageClassification", "ForImageClassificationWithTeacher"),
    model_types=("timm_wrapper",),
    processor="image_processor",
    label_mapping_columns=LABEL_COLUMNS,
    pair_columns=("pixel_values", "labels"),
    forecast_inputs=_forecast_inputs,
)
