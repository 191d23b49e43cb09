"""Any module with a loss function of the user's: the task of models that transformers does not know."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Image
from torch import Tensor

from hf_llc.backend.global_random import random_numbers_kept
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABEL_COLUMNS
from hf_llc.loading.rows import place
from hf_llc.loading.tasks.constant_predictor import ConstantLoss, best_constant_loss
from hf_llc.loading.tasks.images import (
    ALPHA,
    COLOUR,
    GREY,
    IMAGE_COLUMNS,
    PICTURE_COLUMNS,
    Scale,
    converted,
    holds_pictures,
    in_one_scale,
    is_grey,
    numbers_of,
    pictures,
)
from hf_llc.loading.tasks.task import Encoded, Losses, Task
from hf_llc.loading.tensor_data import check_finite, is_tensors, tensor_columns, tensors_of
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Forward

LossFn = Callable[[Any, Tensor], Tensor]
"""`loss_fn(outputs, labels)` → losses `[batch]`."""

_INPUTS = ("inputs", "x", *IMAGE_COLUMNS, "features")
_LABELS = ("y", *LABEL_COLUMNS)

_NUM_OUTPUTS = 8
"""Examples whose mean output the search for the best constant starts from, all in memory at once."""


def task(loss_fn: Any) -> Task:
    """The task of a module with this `LossFn`."""
    return Task(name="plain", encode=functools.partial(_encode, loss_fn=loss_fn), takes_tensors=True)


def _encode(model: Any, data: Any, _: Any, config: LoadConfig, *, loss_fn: LossFn) -> Encoded:
    """ℓ_i = loss_fn(model(x), y)_i; in nats if the loss is a negative log likelihood.

    Raises:
        InputError: loss_fn does not return one loss an example, or fails; or the model does not take the inputs.
    """
    if is_tensors(data):
        inputs, labels = tensors_of(data, config)
        facts: dict[str, Any] = {**tensor_columns(data, config)}
    else:
        inputs, labels, facts = _columns_of(model, data, config)
    if len(inputs) < 2:
        raise InputError("the data has fewer than two examples", value=len(inputs), allowed="two or more")
    examples = {"inputs": inputs, "labels": labels}
    check_finite(examples, facts)

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return loss_fn(forward(batch["inputs"]), batch["labels"])

    with preserved(model), random_numbers_kept():
        _check_losses(losses, model, examples)
        trivial = _trivial_loss(loss_fn, model, inputs, labels)
    if trivial is not None and trivial.num_labels < len(labels):
        facts["trivial_loss_labels"] = trivial.num_labels
    return Encoded(examples, losses, len(inputs), "nats per example", None if trivial is None else trivial.loss, facts)


def _columns_of(model: Any, data: Any, config: LoadConfig) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Inputs and labels of a data set, and their columns' names.

    Images become float `[channel, height, width]` / 255. Floating-point columns come in the module's own type.
    """
    data = materialize(data, config)
    name = column(data, config.input_column, _INPUTS, "input_column")
    label = column(data, config.label_column, _LABELS, "label_column")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    read = None
    are_pictures = isinstance(data.features[name], Image) or (
        name in PICTURE_COLUMNS and holds_pictures(data, name, floats=False)
    )
    if are_pictures:
        inputs, read = in_one_scale(functools.partial(_pixels, model, name, list(pictures(data, name))))
    else:
        inputs = torch.from_numpy(numbers_of(data, name))
    labels = torch.from_numpy(numbers_of(data, label))
    inputs, labels = (x.to(dtype) if x.is_floating_point() else x for x in (inputs, labels))
    facts = {"input_column": name, "label_column": label, "transforms": "pixels / 255" if are_pictures else None}
    return inputs, labels, facts | ({} if read is None else {"pictures": read})


def _pixels(model: Any, name: str, found: list[Any], scale: Scale) -> Tensor:
    """Pictures in 0 … 1, `[example, channel, height, width]`, with as many channels as the module takes.

    Raises:
        InputError: the first whose size is another.
    """
    mode = GREY if all(is_grey(x, place(name, i)) for i, x in enumerate(found)) else COLOUR
    arrays: list[np.ndarray] = []
    for i, picture in enumerate(found):
        array = converted(picture, mode, scale, place(name, i))
        if not arrays:
            mode = _mode_for(model, array.shape[0] * array.shape[1]) or mode
            array = converted(picture, mode, scale, place(name, i))
        if arrays and array.shape != arrays[0].shape:
            raise InputError(
                "the images differ in size",
                value=f"{place(name, i)}: {array.shape[:2]}, row 0: {arrays[0].shape[:2]}",
                remedy="resize them first",
            )
        arrays.append(array)
    return torch.from_numpy(np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays]))


def _mode_for(model: torch.nn.Module, num_pixels: int) -> str | None:
    """The kind of pictures that a module's first layer takes; None if that does not say."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            return {1: GREY, 3: COLOUR, 4: ALPHA}.get(module.in_channels)
        if isinstance(module, torch.nn.Linear):
            return {num_pixels: GREY, 3 * num_pixels: COLOUR, 4 * num_pixels: ALPHA}.get(module.in_features)
    return None


def _device_of(model: torch.nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_losses(losses: Losses, model: torch.nn.Module, examples: dict[str, Tensor]) -> None:
    """Try the model and loss_fn on two examples.

    Raises:
        InputError: they fail, or do not give one loss an example.
    """
    device = _device_of(model)
    try:
        with torch.no_grad():
            value = losses(model, {k: x[:2].clone().to(device) for k, x in examples.items()})
    except InputError:
        raise
    except Exception as error:  # whatever the user's code may raise
        shape = tuple(examples["inputs"].shape[1:])
        raise InputError(
            f"model or loss_fn fails on two examples of shape {shape}: {reason_of(error)}",
            remedy="check the inputs, the labels and loss_fn(outputs, labels)",
        ) from error
    if not isinstance(value, Tensor) or value.shape != (2,):
        raise InputError(
            "loss_fn must return one loss for each example",
            value=tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__,
            allowed="shape [batch]",
            remedy='use reduction="none" and sum over everything but the batch',
        )
    if not value.is_floating_point():
        raise InputError("loss_fn must return real numbers", value=str(value.dtype), allowed="a floating-point type")


def _trivial_loss(loss_fn: LossFn, model: torch.nn.Module, inputs: Tensor, labels: Tensor) -> ConstantLoss | None:
    """L_n of the best constant predictor; None if outputs are not one tensor of real numbers, or there is no best.

    Raises:
        InputError: loss_fn fails on the labels.
    """
    inputs = inputs[:_NUM_OUTPUTS].clone().to(_device_of(model))
    with torch.no_grad():
        outputs = model(inputs)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.shape[:1] != inputs.shape[:1]:
        return None

    def checked(outputs: Tensor, some_labels: Tensor) -> Tensor:
        try:
            return loss_fn(outputs, some_labels.clone())  # it may write into them; the probe then says so
        except InputError:
            raise
        except Exception as error:  # whatever the user's code may raise
            raise _refusal(error, labels) from error

    return best_constant_loss(checked, outputs.mean(0), labels)


def _refusal(error: Exception, labels: Tensor) -> InputError:
    """One line for what loss_fn raises on the labels and an output like the model's."""
    if isinstance(error, IndexError) and "out of bounds" in str(error):
        least, most = int(labels.min()), int(labels.max())
        return InputError(
            "a label is out of range for the model's outputs",
            value=least if least < 0 else most,
            remedy="check the labels",
        )
    return InputError(
        f"loss_fn fails on the labels: {reason_of(error)}",
        remedy="check the labels and loss_fn(outputs, labels)",
    )
