"""Does λ̂ tell how far a network can be compressed? After arXiv 2510.12077, on networks trained here.

    python scripts/compression.py --preset cpu
    torchrun --nproc-per-node 2 scripts/compression.py --preset cpu

A network is trained, and at several epochs it is compressed in two ways until its training loss is `tolerance` nats
higher: its weights are rounded to k levels a tensor (log₂ k bits a weight), or the smallest weights are set to zero.
The fewest bits, and the smallest share of the weights, that stay below are the measures of complexity to which λ̂ is
held. λ̂ is taken at one nβ and γ for all networks and epochs; ε and friction are found on the last epoch of each.

- `cpu`: a ReLU network 784-32-32-10 (26,506 parameters) on 4,000 images of MNIST, four seeds.
- `paper`: 784-1024-1024-10 on all images, ten seeds. The paper itself compresses Pythia models of 14M to 6.9B
  parameters (its λ̂: γ = 300, nβ = 30, 4 × 100 draws, batches of 32), which no preset here does.

Expected: the paper finds that λ̂ and the bits rise together along training. What `cpu` shows is in
docs/results/compression/claim.txt.

Time: `cpu` two minutes of one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from classifiers import MADE_UP, Images, accelerator, evaluated, gradient_of, llc, load_images, minibatches, prepared
from compression_figure import claim, figure, table
from critical_compression import critical, pruned, quantised
from dry_run import Cost, dense
from experiment import Row, carry_out, parse, start
from mnist_entropy_sgd import network
from torch import nn

from hf_llc.loading.hub_errors import public_name
from hf_llc.posterior.weights import preserved

_BITS = tuple(1 + 0.25 * step for step in range(45))
_SHARES = tuple(0.98**step for step in range(200, -1, -1))

_FOUND = ("step_size", "friction", "sampler", "gradient")
"""What the last epoch of a network decides for the others."""


@dataclass(frozen=True)
class Settings:
    """What the rows depend on.

    Attributes:
        data: Hub id or folder of MNIST.
        n: training images used.
        width: of the two hidden layers.
        batch_size: of training.
        learning_rate: of SGD with Nesterov momentum 0.9.
        measured: epochs after which λ̂ and compression are measured; training ends with the last.
        repetitions: networks.
        tolerance: nats that compression may add to the training loss.
        sampling: `SampleConfig`'s fields.
    """

    data: str = "ylecun/mnist"
    n: int = 60_000
    width: int = 1024
    batch_size: int = 512
    learning_rate: float = 0.02
    measured: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    repetitions: int = 10
    tolerance: float = 0.05
    sampling: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "num_chains": 4,
            "num_draws": 400,
            "num_burnin_steps": 400,
            "batch_size": 512,
            "localization": 100.0,
            "chain_batch_size": "auto",
        }
    )


PRESETS = {
    "smoke": Settings(
        data=MADE_UP,
        n=200,
        width=8,
        batch_size=20,
        measured=(1, 4),
        repetitions=2,
        sampling={
            "num_chains": 2,
            "num_draws": 10,
            "num_burnin_steps": 5,
            "batch_size": 50,
            "localization": 100.0,
            "step_size": 1e-5,
        },
    ),
    "cpu": Settings(
        n=4000,
        width=32,
        batch_size=128,
        measured=(2, 5, 10, 20, 40),
        repetitions=4,
        sampling={
            "num_chains": 4,
            "num_draws": 200,
            "num_burnin_steps": 200,
            "batch_size": 512,
            "localization": 100.0,
        },
    ),
    "paper": Settings(),
}


class Work:
    """One job: train a network, then compress it and estimate λ̂ at each of the epochs, the last one first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images: Images | None = None

    def __call__(self, job: Row) -> Row:
        """The row of a job: a curve over epochs."""
        s = self.settings
        if self.images is None:
            found = load_images(s.data, "train", shape=(1, 28, 28), max_examples=s.n)
            self.images = found.normalized(0.1307, 0.3081).to(accelerator().device)
        model = network(s.width, seed=job["seed"]).to(accelerator().device)
        weights = self._trained(model, self.images, job["seed"])
        sampling, curve = {**s.sampling, "seed": job["seed"]}, []
        for epoch in reversed(s.measured):
            model.load_state_dict(weights[epoch])
            result = llc(model, self.images, sampling)
            used = {name: getattr(result, name) for name in _FOUND}
            sampling |= {name: value for name, value in used.items() if value is not None}
            curve.insert(0, {"epoch": epoch, **_of(result), **_compressed(model, self.images, s.tolerance)})
        return {"curve": curve, "num_parameters": sum(p.numel() for p in model.parameters())}

    def _trained(self, model: nn.Module, images: Images, seed: int) -> dict[int, dict[str, torch.Tensor]]:
        """Weights by epoch."""
        s = self.settings
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=s.learning_rate, momentum=0.9, nesterov=True)
        model, optimizer = prepared(accelerator(), model, optimizer)
        gradient = gradient_of(accelerator(), model, optimizer, minibatches(images, s.batch_size, seed=seed))
        weights = {}
        for epoch in range(1, s.measured[-1] + 1):
            for _ in range(len(images) // s.batch_size):
                optimizer.step(gradient)
            if epoch in s.measured:
                weights[epoch] = {name: value.clone() for name, value in model.state_dict().items()}
        return weights


def _of(result: Any) -> Row:
    names = ("llc", "llc_se", "verdict", "nbeta", "localization", "step_size", "r_hat", "ess")
    return {name: getattr(result, name) for name in names}


def _compressed(model: nn.Module, images: Images, tolerance: float) -> Row:
    """Training loss and accuracy, the fewest bits a weight and the smallest share of the weights."""
    loss, accuracy = evaluated(model, images)

    def increase(change: Callable[[nn.Module, float], None]) -> Callable[[float], float]:
        def of(size: float) -> float:
            with preserved(model):
                change(model, size)
                return evaluated(model, images)[0] - loss

        return of

    return {
        "train_loss": loss,
        "train_accuracy": accuracy,
        "bits": critical(increase(quantised), _BITS, tolerance=tolerance),
        "kept": critical(increase(pruned), _SHARES, tolerance=tolerance),
    }


def more(parser: Any) -> None:
    """The script's own flags."""
    parser.add_argument("--data", help="Hub id or folder of MNIST")
    parser.add_argument("--repetitions", type=int, help="networks")


def cost_of(settings: Settings) -> Callable[[Row], Cost]:
    """Job → training, and the chains of each λ̂. Losses of compressed networks are counted as gradients of a third."""
    s, sampling = settings, settings.sampling
    parameters = sum(p.numel() for p in network(s.width, seed=0).parameters())
    training, points = s.measured[-1] * (s.n // s.batch_size), len(s.measured)
    sampled = points * sampling["num_chains"] * (sampling["num_draws"] + sampling["num_burnin_steps"])
    passes = points * s.n * (2 + len(_BITS) + len(_SHARES)) / 3
    examples = training * s.batch_size + sampled * sampling["batch_size"] + passes
    return lambda job: Cost(training + sampled, dense(parameters, examples), least=5e-4)


def main() -> None:
    """Run what is missing, then draw."""
    matplotlib.use("agg")
    args = parse(__doc__, PRESETS, more=more)
    flags = {"data": args.data, "repetitions": args.repetitions}
    settings: Settings = dataclasses.replace(
        PRESETS[args.preset], **{name: value for name, value in flags.items() if value is not None}
    )
    known = {name: value for name, value in dataclasses.asdict(settings).items() if name != "repetitions"}
    known["data"] = public_name(settings.data)
    jobs = [{"seed": seed} for seed in range(settings.repetitions)]
    carry_out(
        *(args, jobs, known, Work(settings)),
        cost=cost_of(settings),
        shown=lambda rows: (figure(rows), table(rows), claim(rows)),
    )


if __name__ == "__main__":
    start(main)
