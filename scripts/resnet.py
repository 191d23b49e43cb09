"""The ResNet18 of resnet_cifar10.py, and BatchNorm with the statistics of each minibatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetConvLayer


def network(width: int = 64, *, stem: str = "imagenet", seed: int = 0) -> ResNetForImageClassification:
    """ResNet18 of basic layers 2-2-2-2 for ten classes; 11,181,642 parameters at width 64 with the ImageNet stem.

    As the authors' network its logits begin at zero. BatchNorm's statistics decay by 0.9 a step, its ε is 1e-5: torch's
    own. A "cifar" stem has a 3 × 3 convolution of stride 1 and no pooling: 11,173,962 parameters.
    """
    sizes = [width, 2 * width, 4 * width, 8 * width]
    shape: dict[str, Any] = {"embedding_size": width, "hidden_sizes": sizes, "depths": [2, 2, 2, 2], "num_labels": 10}
    config = ResNetConfig(**shape, layer_type="basic")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNetForImageClassification(config)
        if stem == "cifar":
            embedder: Any = model.resnet.embedder
            embedder.embedder = ResNetConvLayer(3, width, kernel_size=3, stride=1)
            nn.init.kaiming_normal_(embedder.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
            embedder.pooler = nn.Identity()
    for parameter in model.classifier.parameters():
        nn.init.zeros_(parameter)
    return model


class BatchStatistics:
    """A context in which BatchNorm uses the statistics of each minibatch, in eval mode too: it has no running ones.

    L_n(w*) is then the mean over minibatches of this size, and an example's loss depends on the others in its batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.kept = [(m.running_mean, m.running_var) for m in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.running_mean = layer.running_var = None

    def __exit__(self, *error: object) -> None:
        for layer, (mean, variance) in zip(self.layers, self.kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance
