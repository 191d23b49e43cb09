"""λ̂ along the training of a small convolutional network on Fashion-MNIST: seven checkpoints, one an epoch.

    python scripts/fashion_mnist_curve.py
    torchrun --nproc-per-node 2 scripts/fashion_mnist_curve.py

Takes the flags of `hf-llc curve`, which override the settings below. Needs the folders fashion_mnist and
fashion_mnist_cnn_series under HF_LLC_DATA (default: ../shared/data). Nine minutes of one core.

The loss is the cross-entropy on 4,000 training images. The checkpoints come from stochastic gradient descent and are
not minima of it, so each is first taken to a minimum nearby (`minimize`, 200 steps). γ = 2000 and ε = 5e-6 let flat
directions relax in 2/(εγ) = 200 steps, the length of the burn-in. `network` shows what `--factory` asks for.

Expected: λ̂ = 8.4 ± 1.8, 7.7 ± 1.7, 7.7 ± 1.9, 7.7 ± 2.0, 7.4 ± 1.8, 7.3 ± 1.8, 7.1 ± 1.8; the loss falls from 0.336 to
0.160. Batches of 64 examples leave each λ̂ an error of a quarter, the border of "too few draws", which the verdict says
of the fourth and the seventh (`--num-draws` narrows it). All checkpoints are given the same noise and minibatches, so
their errors go together: from the first to the last λ̂ falls by 1.24 ± 0.33 (paired over draws).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from hf_llc.cli import main

SETTINGS = {
    "split": "train",
    "max-examples": 4000,
    "minimize": None,
    "minimize-steps": 200,
    "batch-size": 64,
    "localization": 2000,
    "step-size": 5e-6,
    "num-chains": 4,
    "num-burnin-steps": 200,
    "num-draws": 200,
    "output": "runs/fashion_mnist_curve",
}


class Network(nn.Module):
    """Two convolutions, two linear layers; 421,642 parameters. Images `[batch, 1, 28, 28]` in 0 … 1 → `[batch, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(3136, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(label) of each image, nats, `[batch]`."""
    return F.cross_entropy(logits, labels, reduction="none")


def network() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """The factory: the network, whose weights are then read from each file, and the loss of each example."""
    return Network(), cross_entropy


def arguments(data: Path) -> list[str]:
    """The command line of `hf-llc curve` for the data under a folder."""
    weights = sorted(map(str, (data / "fashion_mnist_cnn_series").glob("*.safetensors")))
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name}", value) if word is not None]
    series = ["--weights", *weights, "--factory", f"{Path(__file__).stem}:network", "--data", data / "fashion_mnist"]
    return ["curve", *map(str, [*series, *flags])]


if __name__ == "__main__":
    folder = Path(os.environ.get("HF_LLC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    sys.exit(main([*arguments(folder), *sys.argv[1:]]))
