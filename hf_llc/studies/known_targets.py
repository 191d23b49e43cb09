"""Targets whose λ̂ is known before any sampling: what a sampler must give on each, at its own n, nβ and γ.

Known means E_π[nβ(L_n(w) − L_n(w*))] under the law that is sampled, finite n and γ included: in closed form, by
quadrature, by Laplace's formula, by theory where n is large, or from a long run of Hamiltonian Monte Carlo. Every
nβ is n/ln n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from scipy.integrate import quad
from torch import Tensor, nn

from hf_llc.backend.random_streams import counter_seed
from hf_llc.config import SampleConfig
from hf_llc.models.deep_linear import DeepLinearConfig, DeepLinearModel, DeepLinearNetwork, random_network
from hf_llc.problem import Forward, Problem


@dataclass(frozen=True, kw_only=True)
class Target:
    """A problem at its w*, the law, and the answer.

    Attributes:
        problem: model at w*, data, loss, n.
        localization: γ.
        exact: E[λ̂] at this nβ and γ.
        exact_se: its standard error, where it comes from a run; else 0.
        known_by: where it comes from, in a word or two.
        batch_size: examples a step, for samplers that take minibatches.
    """

    problem: Problem
    localization: float
    exact: float
    exact_se: float = 0.0
    known_by: str
    batch_size: int | Literal["full"] = "full"


def nbeta_of(n: int) -> float:
    """n/ln n."""
    return n / math.log(n)


class _Polynomial(nn.Module):
    """L(w) = f(w) without data: every example has the same loss."""

    def __init__(self, d: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, dtype=torch.float64))
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(self.w).expand(rows.shape)


def _without_data(d: int, n: int, function: Callable[[Tensor], Tensor]) -> Problem:
    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return forward(batch["rows"])

    rows = {"rows": torch.zeros(2, dtype=torch.float64)}
    return Problem(_Polynomial(d, function), rows, losses, n=n, unit="nats per example")


def quadratic() -> Target:
    """L = ½ Σ h_i w_i², h from 10⁻² to 1: E λ̂ = ½ Σ nβh_i/(nβh_i + γ)."""
    h, n, localization = torch.logspace(-2, 0, 20, dtype=torch.float64), 1000, 1.0
    problem = _without_data(20, n, lambda w: 0.5 * (h * w.square()).sum())
    return Target(
        problem=problem,
        localization=localization,
        exact=gaussian_llc(h, nbeta_of(n), localization),
        known_by="closed form",
    )


def gaussian_llc(curvatures: Tensor, nbeta: float, localization: float) -> float:
    """½ Σ nβh_i/(nβh_i + γ): exact for quadratic losses, Laplace's formula for others."""
    stiff = nbeta * curvatures
    return 0.5 * float((stiff / (stiff + localization)).sum())


def crossing(k: int) -> Target:
    """L = w₁² w₂^{2k}. Given w₂, w₁ is Gaussian: what is left is an integral over w₂."""
    n, localization = 10_000, 10.0
    nbeta = nbeta_of(n)

    def precision(v: float) -> float:
        return 2 * nbeta * v ** (2 * k) + localization

    def weight(v: float) -> float:
        return precision(v) ** -0.5 * math.exp(-localization / 2 * v * v)

    narrow = (localization / (2 * nbeta)) ** (1 / (2 * k))  # below, γ confines w₁, not the loss
    exact = _mean(lambda v: nbeta * v ** (2 * k) / precision(v), weight, [narrow, 1 / math.sqrt(localization)])
    problem = _without_data(2, n, lambda w: w[0] ** 2 * w[1] ** (2 * k))
    return Target(problem=problem, localization=localization, exact=exact, known_by="quadrature")


def quartic() -> Target:
    """L = w⁴: λ = ¼."""
    n, localization = 10_000, 1.0
    nbeta = nbeta_of(n)

    def weight(w: float) -> float:
        return math.exp(-nbeta * w**4 - localization / 2 * w * w)

    exact = _mean(lambda w: nbeta * w**4, weight, [nbeta**-0.25])
    problem = _without_data(1, n, lambda w: w[0] ** 4)
    return Target(problem=problem, localization=localization, exact=exact, known_by="quadrature")


def _mean(value: Callable[[float], float], weight: Callable[[float], float], scales: Sequence[float]) -> float:
    """Mean of an even function of one variable; `scales` are the widths at which value and weight change."""
    edges = sorted({0.0, *(factor * scale for scale in scales for factor in (0.1, 1, 3, 12))})

    def integral(function: Callable[[float], float]) -> float:
        return sum(quad(function, low, high, epsabs=0, epsrel=1e-10)[0] for low, high in pairwise(edges))

    return integral(lambda x: value(x) * weight(x)) / integral(weight)


def reduced_rank() -> Target:
    """y = W₂W₁x with widths 8, 3, 6 and both layers of rank 1: two hidden units are there for nothing."""
    generator = torch.Generator().manual_seed(counter_seed(0, purpose="reduced rank"))
    model = _linear_model([8, 3, 6])
    for parameter in model.parameters():
        one, other = (torch.randn(size, generator=generator, dtype=torch.float64) for size in parameter.shape)
        parameter.data = torch.outer(one / one.norm(), other / other.norm())
    return _deep_linear(DeepLinearNetwork(model, (1, 1), 0))


def deep_linear() -> Target:
    """A network of table 1's class 1k in arXiv 2308.12108: widths 8, 32, 14, 20 with layers of rank 2, 6 and 4."""
    return _deep_linear(random_network("1k", 7, dtype=torch.float64))


def _deep_linear(network: DeepLinearNetwork) -> Target:
    """At n = 10⁵, in batches of 500, where the learning coefficient has multiplicity 1 and is the local one too."""
    return Target(
        problem=network.problem(100_000, group=500),
        localization=1.0,
        exact=float(network.coefficient.learning_coefficient),
        known_by="theory",
        batch_size=1,  # one group of 500 inputs
    )


def _linear_model(widths: Sequence[int]) -> DeepLinearModel:
    with torch.random.fork_rng(devices=[]):  # transformers fills new weights from the global generator
        return DeepLinearModel(DeepLinearConfig(widths)).double().eval()


def noisy_labels() -> Target:
    """A deep linear regression whose labels have noise of variance 1, at the minimum of L_n: widths 10, 6, 4, 5.

    ℓ = ½‖y − ŷ‖² in nats; the true layers have singular values 1. The loss is regular at ŵ up to changes of the hidden
    coordinates, so E λ̂ is Laplace's: ½ Σ nβh/(nβh + γ) over the eigenvalues h of ∇²L_n(ŵ).
    """
    n, widths, localization = 10_000, [10, 6, 4, 5], 10.0
    generator = torch.Generator().manual_seed(counter_seed(0, purpose="noisy labels"))
    model = _linear_model(widths)
    for parameter in model.parameters():
        rows = torch.randn(max(parameter.shape), min(parameter.shape), generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(rows)[0]
        parameter.data = basis if parameter.shape[0] > parameter.shape[1] else basis.T.contiguous()
    inputs = torch.randn(n, widths[0], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = model(inputs).prediction + torch.randn(n, widths[-1], generator=generator, dtype=torch.float64)
    problem = _regression(model, inputs, labels)
    hessian = fit(problem)
    return Target(
        problem=problem,
        localization=localization,
        exact=gaussian_llc(torch.linalg.eigvalsh(hessian), nbeta_of(n), localization),
        known_by="Laplace",
        batch_size=500,
    )


def _regression(model: nn.Module, inputs: Tensor, labels: Tensor) -> Problem:
    """ℓ = ½‖y − ŷ‖²: labels of variance 1 a component."""

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        found = forward(batch["inputs"])
        return 0.5 * (getattr(found, "prediction", found) - batch["labels"]).square().sum(-1)

    examples = {"inputs": inputs, "labels": labels}
    return Problem(model, examples, losses, n=len(inputs), unit="nats per example")


def fit(problem: Problem) -> Tensor:
    """Take the model to the nearest minimum of L_n, in place; returns the Hessian there, `[parameter, parameter]`.

    L-BFGS as far as it goes, then Newton's method along the directions that are not flat.
    """
    named = dict(problem.model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in named.values()])

    def loss(w: Tensor) -> Tensor:
        parts = torch.split(w, [p.numel() for p in named.values()])
        values = {name: x.view(p.shape) for (name, p), x in zip(named.items(), parts, strict=True)}

        def forward(*args: Any) -> Any:
            return torch.func.functional_call(problem.model, values, args)

        return problem.losses(forward, problem.examples).mean()

    w = flat.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    w = w.detach()
    for _ in range(3):
        gradient, hessian = torch.func.grad(loss)(w), torch.func.hessian(loss)(w)
        w = w - torch.linalg.pinv(hessian, rtol=1e-6, hermitian=True) @ gradient
    start = 0
    for parameter in named.values():
        parameter.data = w[start : start + parameter.numel()].view(parameter.shape).clone()
        start += parameter.numel()
    return torch.func.hessian(loss)(w)


@dataclass(frozen=True)
class Reference:
    """λ̂ ± its error of a long run of Hamiltonian Monte Carlo, and the run's settings (seed 0)."""

    llc: float
    llc_se: float
    step_size: float

    def settings(self) -> SampleConfig:
        """With which the run is made again."""
        return SampleConfig(
            sampler="hmc", batch_size="full", localization=1.0, step_size=self.step_size, num_leapfrog_steps=20,
            num_chains=16, chain_batch_size=16, num_burnin_steps=500, num_draws=1000, num_steps_between_draws=2,
            check_localization=False,
        )  # fmt: skip


REFERENCES = {"tanh": Reference(8.187, 0.021, 4e-3), "relu": Reference(10.038, 0.029, 2e-3)}


def network(name: str) -> Target:
    """A net of widths 3, 5, 2 with 32 parameters, tanh or ReLU, at the weights that made its labels."""
    reference = REFERENCES[name]
    generator = torch.Generator().manual_seed(counter_seed(0, purpose=f"{name} net"))
    activation = nn.Tanh() if name == "tanh" else nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data *= (2 / parameter.shape[-1]) ** 0.5
    inputs = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = model(inputs)
    return Target(
        problem=_regression(model, inputs, labels),
        localization=1.0,
        exact=reference.llc,
        exact_se=reference.llc_se,
        known_by="long HMC",
        batch_size=100,
    )


TARGETS: dict[str, Callable[[], Target]] = {
    "quadratic": quadratic,
    "crossing-2-2": functools.partial(crossing, 1),
    "crossing-2-4": functools.partial(crossing, 2),
    "quartic": quartic,
    "reduced-rank": reduced_rank,
    "deep-linear": deep_linear,
    "noisy-labels": noisy_labels,
    "tanh": functools.partial(network, "tanh"),
    "relu": functools.partial(network, "relu"),
}
"""Name → how it is made, in a second or so."""
