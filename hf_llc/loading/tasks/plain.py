"""Any module with a loss function of its own, on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Image
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize
from hf_llc.loading.labels import LABELS
from hf_llc.loading.tasks.images import _IMAGES, numbers
from hf_llc.loading.tasks.losses import Encoded, Losses
from hf_llc.problem import Forward


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


def plain(
    inputs: Tensor,
    labels: Tensor,
    *,
    loss_fn: Callable[[Any, Tensor], Tensor],
    model: torch.nn.Module,
    facts: dict[str, Any],
) -> Encoded:
    """Any module: ℓ_i = loss_fn(model(x), y)_i, in nats if the loss is a negative log likelihood.

    Raises:
        InputError: `loss_fn` does not return one loss an example, or the model does not take the inputs.
    """

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return loss_fn(forward(batch["inputs"]), batch["labels"])

    _check_loss_fn(losses, model, {"inputs": inputs, "labels": labels})
    return Encoded(
        {"inputs": inputs, "labels": labels},
        losses,
        len(inputs),
        "nats per example",
        _mean_output_loss(loss_fn, model, inputs, labels),
        facts,
    )


def _first_device(model: torch.nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_loss_fn(losses: Losses, model: torch.nn.Module, examples: dict[str, Tensor]) -> None:
    from hf_llc.posterior.weights import preserved

    device = _first_device(model)
    with preserved(model), torch.no_grad():
        try:
            value = losses(model, {k: x[:2].to(device) for k, x in examples.items()})
        except InputError:
            raise
        except Exception as error:
            shape = tuple(examples["inputs"].shape[1:])
            what = f"{type(error).__name__}: {error}"
            raise InputError(
                f"model or loss_fn fails on two examples of shape {shape}: {what}",
                remedy="check the inputs, the labels and loss_fn(outputs, labels)",
            ) from error
    if not isinstance(value, Tensor) or value.shape != (2,):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            "loss_fn must return one loss an example",
            value=found,
            allowed="shape [batch]",
            remedy='use reduction="none" and sum over everything but the batch',
        )


def _mean_output_loss(
    loss_fn: Callable[[Any, Tensor], Tensor], model: torch.nn.Module, inputs: Tensor, labels: Tensor
) -> float | None:
    """L_n of the predictor that always says the model's mean output; None where outputs have no mean."""
    from hf_llc.posterior.weights import preserved

    device = _first_device(model)
    try:
        with preserved(model), torch.no_grad():
            total, size = None, 512
            for start in range(0, len(inputs), size):
                part = model(inputs[start : start + size].to(device)).double().sum(0)
                total = part if total is None else total + part
            assert total is not None
            mean = (total / len(inputs)).to(next(model.parameters()).dtype)
            value = sum(
                float(loss_fn(mean.expand(len(y), *mean.shape), y.to(device)).double().sum())
                for y in labels.split(size)
            ) / len(inputs)
    except IndexError as error:
        if "out of bounds" not in str(error):
            return None
        least, most = int(labels.min()), int(labels.max())
        raise InputError(
            "a label is out of range for the model's outputs",
            value=least if least < 0 else most,
            remedy="check the labels",
        ) from error
    except Exception:  # a diagnostic only: such a model has no constant predictor
        return None
    return value if math.isfinite(value) else None
