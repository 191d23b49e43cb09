"""λ̂ along the training of a small convolutional network on Fashion-MNIST: seven checkpoints, one an epoch.

    python scripts/fashion_mnist_curve.py
    torchrun --nproc-per-node 2 scripts/fashion_mnist_curve.py

Takes the flags of `hf-llc curve`, which override the settings below. Needs the folders fashion_mnist and
fashion_mnist_cnn_series under HF_LLC_DATA (default: ../shared/data). `network` is an example of a `--factory`.

The loss is the cross-entropy on the 10,000 test images. The checkpoints are not minima of it, so `minimize` takes each
to a minimum nearby. hf_llc calibrates on the last checkpoint and samples all seven with what it finds.

Expected: γ = 600, all seven trustworthy, and λ̂ falls with the loss:

    epoch      1            2            3            4            5            6            7
    λ̂          35.0 ± 1.0   34.0 ± 0.9   33.6 ± 0.8   32.6 ± 0.8   33.7 ± 1.2   32.5 ± 1.2   32.4 ± 0.8
    reference  33.9 ± 0.4   32.9 ± 0.3   32.6 ± 0.5   32.2 ± 0.5   32.6 ± 0.6   32.2 ± 0.6   32.2 ± 0.5

The reference has ten times the draws at a quarter of the step size: `--sampler baoab --step-size 1e-6 --friction 0.2445
--gradient control-variate --localization 600 --num-burnin-steps 800 --num-draws 2000 --num-steps-between-draws 2
--no-check-localization`. All seven are within 1.2 of their combined errors. They lie on one side because all
checkpoints have the same noise and batches. γ decides a good part of λ̂ (39 % less at 2γ for the last), as the results
say.

Time: 25 minutes of one core; the reference ten minutes a checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from hf_llc.cli.entry_point import main

SETTINGS = {"split": "test", "minimize": None, "output": "runs/fashion_mnist_curve"}


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
    series = [
        "--weight-files",
        *weights,
        "--factory",
        f"{Path(__file__).stem}:network",
        "--data",
        data / "fashion_mnist",
    ]
    return ["curve", *map(str, [*series, *flags])]


if __name__ == "__main__":
    folder = Path(os.environ.get("HF_LLC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    sys.exit(main([*arguments(folder), *sys.argv[1:]]))
