"""What the experiments on image classifiers share: images, minibatches, training steps, and λ̂ of a network at hand.

Jobs of an experiment are independent: each trains and samples within its own process, on the process's own device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from experiment import from_hub
from torch import Tensor, nn
from torch.nn import functional as F

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.loading.tasks.losses import entropy, logits_of
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Forward, Problem
from hf_llc.result import LLCResult
from hf_llc.workflow.estimate_model import estimate_problem

MADE_UP = "made-up"
"""In place of a data set: a few images of noise around one pattern a class, for trying a script without any data."""

_EVALUATED_AT_ONCE = 1000


@dataclass(frozen=True)
class Images:
    """Images `[example, channel, height, width]`, float32 in 0 … 1, and their classes, int64 `[example]`."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def normalized(self, mean: float, sd: float) -> Images:
        """Pixels less `mean`, over `sd`."""
        return Images((self.pixels - mean) / sd, self.labels)

    def halved(self) -> Images:
        """Half the height and width, by means over 2 × 2 pixels."""
        return Images(F.avg_pool2d(self.pixels, 2), self.labels)


def load_images(data: str, split: str, *, shape: Sequence[int], max_examples: int | None = None) -> Images:
    """The first images of a data set's split.

    Args:
        data: Hub id, local folder, or "made-up".
        split: "train" or "test".
        shape: channels, height and width that an image must have.
        max_examples: as many at most.

    Raises:
        InputError: the Hub refuses the data, or they have no images, no classes, or images of another shape.
    """
    if data == MADE_UP:
        return _made_up(split, shape, max_examples or 200)
    part = split if max_examples is None else f"{split}[:{max_examples}]"
    rows = from_hub("data set", data, lambda: datasets.load_dataset(data, split=part))
    kinds = {kind: name for name, kind in ((n, type(f)) for n, f in rows.features.items())}
    if datasets.Image not in kinds or datasets.ClassLabel not in kinds:
        raise InputError("the data has no image and class columns", value=", ".join(rows.column_names))
    arrays = [np.asarray(image) for image in rows[kinds[datasets.Image]]]
    pixels = torch.from_numpy(np.stack(arrays)).float() / 255
    pixels = pixels.movedim(-1, 1) if pixels.dim() == 4 else pixels[:, None]
    if tuple(pixels.shape[1:]) != tuple(shape):
        raise InputError("images of another shape", value=tuple(pixels.shape[1:]), allowed=str(tuple(shape)))
    return Images(pixels.contiguous(), torch.tensor(rows[kinds[datasets.ClassLabel]][:]))


def _made_up(split: str, shape: Sequence[int], count: int) -> Images:
    """Ten patterns with noise; training and test images share the patterns."""
    patterns = torch.rand(10, *shape, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + (split == "test"))
    labels = torch.randint(10, (count,), generator=generator)
    noise = torch.rand(count, *shape, generator=generator)
    return Images(0.4 * patterns[labels] + 0.6 * noise, labels)


def minibatches(images: Images, size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless minibatches: the images are reshuffled in every epoch, and an incomplete last batch is dropped.

    Raises:
        InputError: there are fewer images than a minibatch has.
    """
    if size > len(images):
        raise InputError("batch_size is larger than the data", value=size, allowed=f"1 … {len(images)}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            part = order[start : start + size].to(images.labels.device)
            yield images.pixels[part], images.labels[part]


def gradient_of(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, batches: Iterator[tuple[Tensor, Tensor]]
) -> Callable[[], Tensor]:
    """A closure for `optimizer.step`: returns the cross-entropy of the next minibatch, its gradient in `.grad`."""

    def gradient() -> Tensor:
        pixels, labels = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits_of(model(pixels)), labels)
        accelerator.backward(loss)
        return loss.detach()

    return gradient


def prepared(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Model and optimizer prepared by `accelerator`, without DistributedDataParallel.

    Jobs of different processes train different networks, so `evaluation_mode` keeps DDP from averaging gradients.
    """
    return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)


@torch.no_grad()
def evaluated(model: nn.Module, images: Images) -> tuple[float, float]:
    """Mean cross-entropy (nats per example) and accuracy in eval mode; the model's own mode is restored."""
    was_training = model.training
    model.eval()
    loss, right = 0.0, 0
    for pixels, labels in zip(
        images.pixels.split(_EVALUATED_AT_ONCE), images.labels.split(_EVALUATED_AT_ONCE), strict=True
    ):
        logits = logits_of(model(pixels))
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    model.train(was_training)
    return loss / len(images), right / len(images)


def llc(model: nn.Module, images: Images, settings: Mapping[str, Any]) -> LLCResult:
    """Estimate λ̂ at the network's weights with chains of this process; the network is left as found.

    Args:
        model: pixels → logits, or a transformers output that has them.
        images: the data of L_n.
        settings: `SampleConfig`'s fields by name.
    """
    problem = Problem(
        model,
        {"pixels": images.pixels, "labels": images.labels},
        _losses,
        n=len(images),
        unit="nats per example",
        trivial_loss=entropy(images.labels),
        task="image-classification",
    )
    return estimate_problem(problem, SampleConfig(**settings, check_localization=False))


def _losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """−log p(class) of each image."""
    return F.cross_entropy(logits_of(forward(batch["pixels"])), batch["labels"], reduction="none")


def judged(effect: float, p: float) -> str:
    """A claim's verdict: `effect` is positive where it goes the way that is claimed, p its two-sided p value."""
    if not p < 0.05:
        return "Cannot tell"
    return "Seen" if effect > 0 else "Not seen (the opposite)"


@functools.cache
def accelerator() -> Accelerator:
    """This process's Accelerator. `Processes` comes first: it chooses the device."""
    Processes()
    return Accelerator()
