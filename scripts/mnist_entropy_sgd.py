"""Figure N.1 of arXiv 2308.12108: does entropy-SGD find flatter minima than SGD, and does λ̂ see it?

    python scripts/mnist_entropy_sgd.py --preset cpu
    torchrun --nproc-per-node 2 scripts/mnist_entropy_sgd.py --preset cpu
    accelerate launch scripts/mnist_entropy_sgd.py --preset paper

A ReLU network is trained on MNIST from the same weights by SGD (Nesterov momentum 0.9) and by entropy-SGD
(scripts/entropy_sgd.py: L = 5, γ₀ = 1e-4, γ₁ = 1e-3, η′ = 0.1, ε = 1e-4, α = 0.75, momentum 0.9 in both loops), with as
many gradients each: entropy-SGD takes a fifth as many outer steps. λ̂ is the paper's: all 4 × 400 steps from w* on, no
burn-in; `llc_late` in the rows is from the later half of them. The verdict is "drifting", rightly: flat directions need
2/(εγ) = 2,000 steps.

The figure's claim compares networks after as many epochs. Entropy-SGD then has ten times the training loss, on which λ̂
depends, so the script also compares with SGD at the training loss with which entropy-SGD ends.

- `cpu`: 784-64-64-10 (55,050 parameters), 5,000 images, 200 epochs, 5 repetitions. SGLD is the paper's in its own
  units: ε·nβ, γ/nβ and the number of steps are the same.
- `paper`: 784-1024-1024-10 (1,863,690 parameters), all images, 200 epochs at learning rate 0.01 in batches of 512, 80
  repetitions; λ̂ at ε = 1e-5, γ = 100, batches of 512. The authors' notebook of the plotted runs says this learning rate
  and this number; the job file beside it says 1e-4.

Expected: the paper has λ̂ about 1000 for both, entropy-SGD lower. Measured with `cpu` (mean and sd over repetitions):

| | λ̂ | training loss |
| --- | --- | --- |
| entropy-SGD | 224.4 (3.7) | 0.0054 |
| SGD after as many epochs | 220.9 (5.9) | 0.00041 |
| SGD at the loss of entropy-SGD | 229.2 | 0.0054 |

After as many epochs no difference can be told (p = 0.3); at equal loss entropy-SGD is lower by 4.8 ± 0.8 (p = 0.003).
With `paper --epochs 10`, six repetitions: 619 (sd 11) against 886 (sd 19, p = 1.5e-9), training losses 0.21 and 0.066;
at equal loss lower by 39 ± 1 (p = 1e-6); verdict of all: "step size too large".

Time: `cpu` two minutes of one core. `paper` an hour of one GPU or more, from its 470,000 gradients of training and
320,000 of sampling; the ten epochs took 30 seconds a network on an H200 with six other jobs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from classifiers import (
    MADE_UP,
    Images,
    accelerator,
    evaluated,
    gradient_of,
    llc,
    load_images,
    minibatches,
    prepared,
)
from dry_run import Cost, dense
from entropy_sgd import NUM_LANGEVIN_STEPS, EntropySGD
from experiment import Row, carry_out, parse, start
from mnist_figure import OPTIMIZERS, claim, figure, table
from torch import nn

from hf_llc.judging.estimator import llc_draws
from hf_llc.loading.hub_errors import public_name


@dataclass(frozen=True)
class Settings:
    """What the rows depend on.

    Attributes:
        data: Hub id or folder of MNIST.
        n, n_test: training and test images used.
        width: of the two hidden layers.
        batch_size: of training.
        learning_rate: of SGD's steps, and of entropy-SGD's outer ones.
        epochs: passes over the training images, the same for both optimizers.
        measured: epochs after which λ̂ is estimated; the last one is `epochs`.
        repetitions: networks an optimizer.
        sampling: `SampleConfig`'s fields.
    """

    data: str = "ylecun/mnist"
    n: int = 60_000
    n_test: int = 10_000
    width: int = 1024
    batch_size: int = 512
    learning_rate: float = 0.01
    epochs: int = 200
    measured: tuple[int, ...] = (1, 2, 5, 10, 20, 40, 80, 120, 160, 200)
    repetitions: int = 80
    sampling: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "num_chains": 4,
            "num_draws": 400,
            "num_burnin_steps": 0,
            "batch_size": 512,
            "step_size": 1e-5,
            "localization": 100.0,
            "chain_batch_size": "auto",
        }
    )


PRESETS = {
    "smoke": Settings(
        data=MADE_UP,
        n=200,
        n_test=100,
        width=8,
        batch_size=20,
        learning_rate=0.01,
        epochs=4,
        measured=(1, 4),
        repetitions=2,
        sampling={
            "num_chains": 2,
            "num_draws": 10,
            "num_burnin_steps": 0,
            "batch_size": 50,
            "step_size": 1e-5,
            "localization": 100.0,
        },
    ),
    "cpu": Settings(  # the paper's SGLD in its own units: ε·nβ, γ/nβ and the number of steps are the paper's
        n=5000,
        n_test=2000,
        width=64,
        batch_size=128,
        epochs=200,
        measured=(20, 60, 200),
        repetitions=5,
        sampling={
            "num_chains": 4,
            "num_draws": 400,
            "num_burnin_steps": 0,
            "batch_size": 256,
            "step_size": 1e-4,
            "localization": 10.0,
        },
    ),
    "paper": Settings(),
}


def network(width: int, *, seed: int) -> nn.Sequential:
    """784 → width → width → 10 with ReLU between: 1,863,690 parameters at width 1024. torch's own initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )


class Work:
    """One job: train a network with one optimizer and estimate λ̂ on the way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images: dict[str, Images] = {}

    def _images(self, split: str) -> Images:
        """Loaded when first asked for: a run that only draws the figure needs none."""
        if split not in self.images:
            s = self.settings
            count = s.n if split == "train" else s.n_test
            found = load_images(s.data, split, shape=(1, 28, 28), max_examples=count)
            self.images[split] = found.normalized(0.1307, 0.3081).to(accelerator().device)
        return self.images[split]

    def __call__(self, job: Row) -> Row:
        """The row of a job: a curve over epochs, and its last point."""
        s, train = self.settings, self._images("train")
        model = network(s.width, seed=job["seed"])
        optimizer = self._optimizer(job["optimizer"], model.to(accelerator().device), job["seed"])
        model, optimizer = prepared(accelerator(), model, optimizer)
        batches = minibatches(train, s.batch_size, seed=job["seed"])
        gradient = gradient_of(accelerator(), model, optimizer, batches)
        gradients_a_step = 1 if job["optimizer"] == "sgd" else NUM_LANGEVIN_STEPS
        steps_an_epoch = len(train) // s.batch_size // gradients_a_step
        curve = []
        for epoch in range(1, s.epochs + 1):
            for _ in range(steps_an_epoch):
                optimizer.step(gradient)
            if epoch in s.measured:
                curve.append({"epoch": epoch, **self._measured(model, job["seed"])})
        last = {name: value for name, value in curve[-1].items() if name != "epoch"}
        return {**last, "curve": curve, "num_parameters": sum(p.numel() for p in model.parameters())}

    def _optimizer(self, name: str, model: nn.Module, seed: int) -> torch.optim.Optimizer:
        lr = self.settings.learning_rate
        if name == "sgd":
            return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
        generator = torch.Generator(device=accelerator().device).manual_seed(seed)
        return EntropySGD(model.parameters(), lr=lr, generator=generator)

    def _measured(self, model: nn.Module, seed: int) -> Row:
        """λ̂ as the paper has it (all steps), the same from the later half of the steps, losses and errors."""
        found = llc(model, self._images("train"), {**self.settings.sampling, "seed": seed})
        trace = found.trace
        assert trace is not None
        late = llc_draws(trace.loss, trace.init_loss, nbeta=found.nbeta, num_burnin_steps=trace.shape[1] // 2)
        train_loss, train_accuracy = evaluated(model, self._images("train"))
        test_loss, test_accuracy = evaluated(model, self._images("test"))
        return {
            "llc": found.llc,
            "llc_se": found.llc_se,
            "llc_late": float(late.mean()),
            "verdict": found.verdict,
            "accept_prob": found.accept_prob,
            "mean_loss": found.mean_loss,
            "train_loss": train_loss,
            "train_error": 1 - train_accuracy,
            "test_loss": test_loss,
            "test_error": 1 - test_accuracy,
        }


def more(parser: Any) -> None:
    """The script's own flags."""
    parser.add_argument("--data", help="Hub id or folder of MNIST")
    parser.add_argument("--repetitions", type=int, help="networks an optimizer")
    parser.add_argument("--epochs", type=int, help="λ̂ where the preset measures it before, and at the end")


def cost_of(settings: Settings) -> Callable[[Row], Cost]:
    """Job → training, and the chains of each λ̂ with their losses. Both optimizers take as many gradients."""
    s, sampling = settings, settings.sampling
    parameters = sum(p.numel() for p in network(s.width, seed=0).parameters())
    training, points = s.epochs * (s.n // s.batch_size), len(s.measured)
    sampled = points * sampling["num_chains"] * (sampling["num_draws"] + sampling["num_burnin_steps"])
    examples = training * s.batch_size + sampled * sampling["batch_size"] + points * (2 * s.n + s.n_test) / 3
    return lambda job: Cost(training + sampled, dense(parameters, examples), least=5e-4)


def main() -> None:
    """Run what is missing, then draw."""
    matplotlib.use("agg")
    args = parse(__doc__, PRESETS, more=more)
    flags = {"data": args.data, "repetitions": args.repetitions}
    settings: Settings = dataclasses.replace(
        PRESETS[args.preset], **{name: value for name, value in flags.items() if value is not None}
    )
    if args.epochs is not None:
        measured = (*(epoch for epoch in settings.measured if epoch < args.epochs), args.epochs)
        settings = dataclasses.replace(settings, epochs=args.epochs, measured=measured)
    # The number of repetitions is not among what rows depend on: a folder may get more of them.
    known = {name: value for name, value in dataclasses.asdict(settings).items() if name != "repetitions"}
    known["data"] = public_name(settings.data)
    jobs = [{"optimizer": name, "seed": seed} for seed in range(settings.repetitions) for name in OPTIMIZERS]
    carry_out(
        *(args, jobs, known, Work(settings)),
        cost=cost_of(settings),
        shown=lambda rows: (figure(rows), table(rows), claim(rows)),
    )


if __name__ == "__main__":
    start(main)
