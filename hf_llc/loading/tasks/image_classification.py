"""Image classification: a label for each picture."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS, labels_of
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.images import (
    ALPHA,
    COLOUR,
    GREY,
    IMAGE_COLUMNS,
    Scale,
    holds_pictures,
    in_eight_bits,
    in_one_scale,
    numbers_of,
    pictures,
)
from hf_llc.loading.tasks.losses import classification
from hf_llc.loading.tasks.task import Encoded, Task

_BATCH = 256
"""Pictures that go through the processor together."""


def encode(model: Any, data: Any, processor: Any, config: LoadConfig) -> Encoded:
    """Pictures through the model's own processor, or floats as they are."""
    data = materialize(data, config)
    name = column(data, config.input_column, IMAGE_COLUMNS, "input_column")
    label = column(data, config.label_column, LABEL_COLUMNS, "label_column")
    labels, kind, how = labels_of(data, label, model)
    are_pictures = holds_pictures(data, name, floats=processor is not None)
    read = None
    if are_pictures and isinstance(processor, InputError):
        raise processor
    if are_pictures and processor is None:
        raise InputError(
            "no image processor comes with the model",
            remedy="give tokenizer (an image processor), or a data set with pixel_values, in floats",
        )
    if are_pictures:
        pixels, read = in_one_scale(functools.partial(_processed, data, name, processor, _mode_of(model)))
    else:
        pixels = torch.from_numpy(numbers_of(data, name)).float()
    facts = {
        "input_column": name,
        "label_column": label,
        "classes": how,
        "transforms": type(processor).__name__ if are_pictures else None,
        **({} if read is None else {"pictures": read}),
    }
    return classification({"pixel_values": pixels}, labels, kind=kind, facts=facts)


def _of_pictures(settings: Any) -> Any:
    """The config of a model's pictures; of CLIP and its kin, which have two towers, it is a part."""
    return getattr(settings, "vision_config", None) or settings


def _mode_of(model: Any) -> str:
    """The kind of pictures that the model's processor is given.

    Raises:
        InputError: pictures do not have as many channels as the model.
    """
    channels = getattr(_of_pictures(model.config), "num_channels", 3)
    modes = {1: GREY, 3: COLOUR, 4: ALPHA}
    if channels not in modes:
        raise InputError(
            "the model takes no pictures", value=f"{channels} channels", allowed="1, 3 or 4", remedy="give pixel_values"
        )
    return modes[channels]


def _processed(data: Dataset, name: str, processor: Any, mode: str, scale: Scale) -> Tensor:
    """The pictures of a column as the processor gives them: `[example, channel, height, width]`."""
    parts: list[Tensor] = []
    batch: list[Any] = []
    for i, picture in enumerate(pictures(data, name)):
        batch.append(in_eight_bits(picture, mode, scale, place(name, i)))
        if len(batch) == _BATCH or i == len(data) - 1:
            parts.append(_through(processor, batch, name, first=i + 1 - len(batch), shape=[x.shape[1:] for x in parts]))
            batch = []
    return torch.cat(parts)


def _through(processor: Any, batch: list[Any], name: str, *, first: int, shape: list[torch.Size]) -> Tensor:
    """Pictures through the processor.

    Args:
        processor: of transformers.
        batch: pictures.
        name: their column, for the refusal.
        first: number of the first of them.
        shape: of an example in the batches so far.

    Raises:
        InputError: the first picture that it does not take, or that comes out in another shape than those before it.
    """
    with contextlib.suppress(Exception):  # what fails is found one by one
        pixels = processor(batch, return_tensors="pt")["pixel_values"].float()
        if len(pixels) == len(batch) and all(pixels.shape[1:] == known for known in shape):
            return pixels
    known = shape[0] if shape else None
    for i, picture in enumerate(batch, start=first):
        try:
            found = processor([picture], return_tensors="pt")["pixel_values"].shape[1:]
        except Exception as error:  # whatever a processor, or what is given as one, may raise
            raise InputError(
                f"the image processor fails: {reason_of(error)}",
                value=place(name, i),
                remedy="give the model's own image processor as tokenizer; drop or resize such rows",
            ) from error
        known = found if known is None else known
        if found != known:
            raise InputError(
                "the images differ in size after the image processor",
                value=f"{place(name, i)}: {tuple(found)}, before it {tuple(known)}",
                remedy="resize them first, or set do_resize in the processor",
            )
    raise InputError("the image processor does not give one example for each picture", value=type(processor).__name__)


def _forecast_inputs(settings: Any, _: int) -> dict[str, Any]:
    """One black image of the model's size."""
    vision = _of_pictures(settings)
    size = getattr(vision, "image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return {"pixel_values": torch.zeros(1, getattr(vision, "num_channels", 3), height, width)}


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
