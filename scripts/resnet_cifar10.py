"""λ̂ of a ResNet18 under the heuristics of training: Figures 1, K.1 and K.2 of arXiv 2308.12108.

    python scripts/resnet_cifar10.py --preset cpu
    torchrun --nproc-per-node 2 scripts/resnet_cifar10.py --preset cpu
    accelerate launch scripts/resnet_cifar10.py --preset paper --sweep learning_rate --seeds 1

SGD on CIFAR-10 without augmentation. Learning rate, batch size, momentum and L2 are varied one at a time; λ̂, test
accuracy and training loss are taken on the way. λ̂ is that of the training images without L2, with BatchNorm in eval
mode (frozen statistics), as the authors had it. `--batch-norm batch` takes each minibatch's own statistics; every run
gives, for the base network, the other choice too. L2 is α‖w‖², whose gradient is 2αw: torch's `weight_decay` is 2α.

The claims: how λ̂ goes with each setting, and that test accuracy is the higher, the lower λ̂ is; each by Spearman's ρ
over runs. Runs whose training or sampling diverges are listed and left out. So are those of which the verdict says that
w* is no minimum, or that the chains left its basin; ρ with them, and that of trustworthy runs alone, stand beside.

As in the paper the chains are far from equilibrium: γ = 1 relaxes flat directions in 2/(εγ) = 10⁷ steps. λ̂ is the loss
gained in the last tenth (`cpu`: third) of the steps, and measures how sharp the valley is.

- `paper`: the settings of its K.1 and K.2, all of them (tests/test_image_experiments.py has the table): width 64
  (11,181,642 parameters), all images, 5 seeds, SGLD in batches of 2,048 at ε = 2e-7 (5e-8 for L2), the last tenth of
  2,000 to 3,000 steps, λ̂ every 500 to 2,500 steps of training. Values are read off its figures; there are none
  for L2. Negative and divergent runs were removed by hand there.
- `cpu`: width 16 (703,386 parameters), 500 images of 16 × 16, 1,000 steps, 3 seeds, 27 networks, at values of its own,
  for which so small a network fits its images: learning rate 0.05, batches of 50, ε = 2e-6.

Expected λ̂ after training, paper and `cpu`, means over seeds (verdicts and test accuracy in docs/results):

| varied | paper | measured with `cpu` |
| --- | --- | --- |
| learning rate | .005 … .2: 7900, 7800, 6650, 5350, 3050 | .02, .05, .2: 20.2, 7.7, 0.3 (ρ = −0.95, p = 1e-4) |
| batch size | 16 … 1024: 1600, 3500, 5200, 6700, 7400, 7800, 7900 | 50, 125, 250: 7.7, 29, 57 (ρ = 0.95, p = 1e-4) |
| momentum | 0 → 0.9: 6700 → 850 | 0, 0.5, 0.9: 7.7, 1.6, −0.4 (ρ = −0.84, p = 0.004) |
| L2 | falls without momentum | 0, .0025, .01: 7.7, −0.5, 18: cannot tell (ρ = 0.26, p = 0.5) |

Test accuracy is the higher, the lower λ̂, along learning rate and batch size (ρ = −0.88 and −0.80); along momentum it
cannot be told, and along L2 it is the other way round (ρ = 0.73, p = 0.03). Training is chaotic: the same seeds on
another machine gave 23.6, 6.0, 2.4 along the learning rate, and the same three trends.

Minibatch statistics give the base network 2.0 in place of 7.7. With batches of 10 or 25 the small network does not fit
its images in 1,000 steps: w* is no minimum, and λ̂ is negative.

Time: `cpu` ten to fourteen minutes of one core. `paper` has not been run: by `--dry-run` 9.6e18 operations for its 230
networks, 9 days of a GPU at 12 TFLOP/s. `--steps 1000 --sweep learning_rate --seeds 1` had no λ̂ after 210 seconds on an
H200 with six other jobs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import matplotlib
import torch
from classifiers import Images, accelerator, evaluated, gradient_of, llc, load_images, minibatches, prepared
from dry_run import Cost, counted
from experiment import Row, carry_out, parse, start
from resnet import BatchStatistics, network
from resnet_figure import claim, figure, table
from resnet_presets import PRESETS, TRAINING, Settings
from torch import nn

from hf_llc.judging.statistics import first_non_finite
from hf_llc.loading.hub_errors import public_name


class Work:
    """One job: train a network and estimate λ̂ on the way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images: dict[str, Images] = {}

    def _images(self, split: str) -> Images:
        """Loaded when first asked for: a run that only draws the figure needs none."""
        if split not in self.images:
            s = self.settings
            count = s.n if split == "train" else s.n_test
            found = load_images(s.data, split, shape=(3, 32, 32), max_examples=count)
            self.images[split] = (found.halved() if s.halved else found).to(accelerator().device)
        return self.images[split]

    def __call__(self, job: Row) -> Row:
        """The row of a job: a curve over training, its last point, and whether training diverged (and when)."""
        s = self.settings
        model = network(s.width, stem=s.stem, seed=job["seed"]).to(accelerator().device)
        num_parameters = sum(p.numel() for p in model.parameters())
        # the penalty α‖w‖² has the gradient 2αw, torch's weight_decay λ has λw
        how = {"lr": job["learning_rate"], "momentum": job["momentum"], "weight_decay": 2 * job["l2"]}
        optimizer = torch.optim.SGD(model.parameters(), **how)
        model, optimizer = prepared(accelerator(), model.train(), optimizer)
        batches = minibatches(self._images("train"), int(job["batch_size"]), seed=job["seed"])
        gradient = gradient_of(accelerator(), model, optimizer, batches)
        curve: list[Row] = []
        for step in range(1, job["steps"] + 1):
            optimizer.step(gradient)
            if step % job["every"] == 0:
                point = {"step": step, **self._measured(model, job)}
                if not math.isfinite(point["train_loss"]):
                    return {"curve": curve, "diverged": f"training, by step {step}", "num_parameters": num_parameters}
                curve.append(point)
        last = {name: value for name, value in curve[-1].items() if name != "step"}
        if s.both_norms == (job["learning_rate"], job["batch_size"], job["momentum"]) and not job["l2"]:
            other = "batch" if s.batch_norm == "eval" else "eval"
            last["llc_other_norm"] = self._llc(model, job, norm=other)["llc"]
        diverged = None if math.isfinite(last["llc"]) else "sampling"
        return {**last, "curve": curve, "diverged": diverged, "num_parameters": num_parameters}

    def _measured(self, model: nn.Module, job: Row) -> Row:
        """Losses and accuracies in eval mode, and λ̂ where the loss is finite."""
        train_loss, train_accuracy = evaluated(model, self._images("train"))
        test_loss, test_accuracy = evaluated(model, self._images("test"))
        found = {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
        }
        if math.isfinite(train_loss):
            found.update(self._llc(model, job, norm=self.settings.batch_norm))
        return found

    def _llc(self, model: nn.Module, job: Row, *, norm: str) -> Row:
        """λ̂ on the training images, L2 left out of the loss; "diverged_at" is the step of a loss that is not finite."""
        settings = self.settings.sample(job)
        if norm == "batch":
            with BatchStatistics(model):
                found = llc(model, self._images("train"), settings)
        else:
            found = llc(model, self._images("train"), settings)
        assert found.trace is not None
        broken = first_non_finite(found.trace.loss)
        return {
            "llc": found.llc,
            "llc_se": found.llc_se,
            "verdict": found.verdict,
            "accept_prob": found.accept_prob,
            "mean_loss": found.mean_loss,
            "diverged_at": broken[0][1] if broken else None,
        }


def more(parser: Any) -> None:
    """The script's own flags."""
    parser.add_argument("--data", help="Hub id or folder of CIFAR-10")
    parser.add_argument("--stem", choices=("imagenet", "cifar"), help="default: imagenet, as the authors ran it")
    parser.add_argument("--batch-norm", choices=("eval", "batch"), help="statistics while sampling; default: eval")
    parser.add_argument("--seeds", type=int, help="networks a setting")
    parser.add_argument("--steps", type=int, help="of training; λ̂ then is that of its end alone")
    parser.add_argument("--sweep", choices=TRAINING, nargs="+", help="these sweeps only")


def chosen(args: Any) -> Settings:
    """The preset with what the flags change."""
    settings: Settings = PRESETS[args.preset]
    flags = {"data": args.data, "stem": args.stem, "batch_norm": args.batch_norm, "seeds": args.seeds}
    settings = dataclasses.replace(settings, **{name: value for name, value in flags.items() if value is not None})
    if args.steps is not None:
        shorter = (dataclasses.replace(sweep, steps=args.steps, every=args.steps) for sweep in settings.sweeps)
        settings = dataclasses.replace(settings, sweeps=tuple(shorter))
    if args.sweep:
        kept = tuple(sweep for sweep in settings.sweeps if sweep.name in args.sweep)
        settings = dataclasses.replace(settings, sweeps=kept)
    return settings


def cost_of(settings: Settings) -> Callable[[Row], Cost]:
    """Job → training, and a chain with its losses for each λ̂."""
    side = 16 if settings.halved else 32

    @functools.cache
    def each() -> float:
        """Operations of an example; a network is made for it, which only a dry run needs."""
        model = network(settings.width, stem=settings.stem)
        return counted(model, lambda out: out.logits.sum(), torch.rand(2, 3, side, side))

    def cost(job: Row) -> Cost:
        points, batch = job["steps"] // job["every"], settings.sampling["batch_size"]
        examples = job["steps"] * job["batch_size"] + points * job["chain_steps"] * batch
        seen = points * (2 * settings.n + settings.n_test)  # forward only, a third of a gradient
        return Cost(job["steps"] + points * job["chain_steps"], each() * (examples + seen / 3), least=0.01)

    return cost


def main() -> None:
    """Run what is missing, then draw."""
    matplotlib.use("agg")
    args = parse(__doc__, PRESETS, more=more)
    settings = chosen(args)
    # The sweeps are not among what rows depend on: a folder may get more of them.
    known = {name: value for name, value in dataclasses.asdict(settings).items() if name not in ("sweeps", "seeds")}
    known["data"] = public_name(settings.data)
    jobs: list[Row] = []
    for job in (job for sweep in settings.sweeps for job in sweep.jobs(settings.seeds)):
        if job not in jobs:
            jobs.append(job)

    def shown(rows: list[Row]) -> tuple[Any, list[Row], str]:
        by_sweep = [(sweep, [rows[jobs.index(job)] for job in sweep.jobs(settings.seeds)]) for sweep in settings.sweeps]
        by_sweep = [(sweep, mine) for sweep, mine in by_sweep if mine]
        return figure(by_sweep), table(by_sweep), claim(by_sweep)

    carry_out(args, jobs, known, Work(settings), cost=cost_of(settings), shown=shown)


if __name__ == "__main__":
    start(main)
