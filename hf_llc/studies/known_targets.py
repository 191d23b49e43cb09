"""Targets whose λ̂ is known without the sampler under test, each with its own n, nβ = n/ln n and γ.

The known value is E[λ̂] = E_π[nβ(L_n(w) − L_n(w*))] under the sampled law π ∝ exp(−nβ L_n(w) − γ/2 ‖w − w*‖²), at this
n and γ. It comes from a closed form, quadrature, Laplace's formula, theory (for large n), or a long run of Hamiltonian
Monte Carlo.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from scipy.integrate import quad
from torch import Tensor, nn

from hf_llc.backend.random_streams import counter_seed
from hf_llc.config import SampleConfig
from hf_llc.models.deep_linear import DeepLinearConfig, DeepLinearModel, DeepLinearNetwork, random_network
from hf_llc.problem import Forward, Problem
from hf_llc.studies.newton_minimum import move_to_minimum


@dataclass(frozen=True, kw_only=True)
class Target:
    """A problem at its w*, the localization, and the known E[λ̂].

    Attributes:
        problem: model at w*, data, loss, n.
        localization: γ.
        exact: E[λ̂] at this nβ and γ.
        exact_se: standard error of `exact`; 0 unless it comes from a run.
        known_by: source of `exact`, in a word or two.
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
    """L(w) = f(w): every example has the same loss, so there is no gradient noise."""

    def __init__(self, d: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, dtype=torch.float64))
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(self.w).expand(rows.shape)


def _polynomial_problem(d: int, n: int, function: Callable[[Tensor], Tensor]) -> Problem:
    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return forward(batch["rows"])

    rows = {"rows": torch.zeros(2, dtype=torch.float64)}  # two examples stand for n
    return Problem(_Polynomial(d, function), rows, losses, n=n, unit="nats per example")


def quadratic() -> Target:
    """L = ½ Σ h_i w_i² with h from 10⁻² to 1: E[λ̂] = ½ Σ nβh_i/(nβh_i + γ)."""
    h, n, localization = torch.logspace(-2, 0, 20, dtype=torch.float64), 1000, 1.0
    problem = _polynomial_problem(20, n, lambda w: 0.5 * (h * w.square()).sum())
    return Target(
        problem=problem,
        localization=localization,
        exact=gaussian_llc(h, nbeta_of(n), localization),
        known_by="closed form",
    )


def gaussian_llc(curvatures: Tensor, nbeta: float, localization: float) -> float:
    """E[λ̂] = ½ Σ nβh_i/(nβh_i + γ): exact for a quadratic loss, Laplace's approximation for any other.

    Args:
        curvatures: eigenvalues h_i of the Hessian of L_n at the minimum, `[parameter]`.
        nbeta: nβ.
        localization: γ.
    """
    scaled = nbeta * curvatures
    return 0.5 * float((scaled / (scaled + localization)).sum())


def crossing(k: int) -> Target:
    """L = w₁² w₂^{2k}: a normal crossing.

    Given w₂ = v, w₁ is Gaussian with precision a(v) = 2nβ v^{2k} + γ. Integrating w₁ out leaves

        E[λ̂] = ∫ nβ v^{2k}/a(v) · p(v) dv / ∫ p(v) dv,    p(v) = a(v)^{−1/2} exp(−γv²/2).
    """
    n, localization = 10_000, 10.0
    nbeta = nbeta_of(n)

    def precision(v: float) -> float:
        return 2 * nbeta * v ** (2 * k) + localization

    def weight(v: float) -> float:
        return precision(v) ** -0.5 * math.exp(-localization / 2 * v * v)

    narrow = (localization / (2 * nbeta)) ** (1 / (2 * k))  # for smaller |v| γ, not the loss, confines w₁
    exact = _mean(lambda v: nbeta * v ** (2 * k) / precision(v), weight, [narrow, 1 / math.sqrt(localization)])
    problem = _polynomial_problem(2, n, lambda w: w[0] ** 2 * w[1] ** (2 * k))
    return Target(problem=problem, localization=localization, exact=exact, known_by="quadrature")


def quartic() -> Target:
    """L = w⁴, whose learning coefficient is λ = ¼."""
    n, localization = 10_000, 1.0
    nbeta = nbeta_of(n)

    def weight(w: float) -> float:
        return math.exp(-nbeta * w**4 - localization / 2 * w * w)

    exact = _mean(lambda w: nbeta * w**4, weight, [nbeta**-0.25])
    problem = _polynomial_problem(1, n, lambda w: w[0] ** 4)
    return Target(problem=problem, localization=localization, exact=exact, known_by="quadrature")


def _mean(value: Callable[[float], float], weight: Callable[[float], float], scales: Sequence[float]) -> float:
    """∫ value·weight / ∫ weight of even functions of one variable, by quadrature.

    Args:
        value: the function whose mean is taken.
        weight: unnormalized density.
        scales: widths at which either function changes; the quadrature is split there.
    """
    edges = sorted({0.0, *(factor * scale for scale in scales for factor in (0.1, 1, 3, 12))})

    def integral(function: Callable[[float], float]) -> float:
        return sum(quad(function, low, high, epsabs=0, epsrel=1e-10)[0] for low, high in pairwise(edges))

    return integral(lambda x: value(x) * weight(x)) / integral(weight)


def reduced_rank() -> Target:
    """y = W₂W₁x with widths 8, 3, 6 and both layers of rank 1: two of the three hidden units are redundant."""
    generator = torch.Generator().manual_seed(counter_seed(0, purpose="reduced rank"))
    model = _linear_model([8, 3, 6])
    for parameter in model.parameters():
        one, other = (torch.randn(size, generator=generator, dtype=torch.float64) for size in parameter.shape)
        parameter.data = torch.outer(one / one.norm(), other / other.norm())
    return _deep_linear(DeepLinearNetwork(model, (1, 1), 0))


def deep_linear() -> Target:
    """A network of class 1k of arXiv 2308.12108, table 1: widths 8, 32, 14, 20, layers of rank 2, 6 and 4."""
    return _deep_linear(random_network("1k", 7, dtype=torch.float64))


def _deep_linear(network: DeepLinearNetwork) -> Target:
    """A deep linear network at n = 10⁵, in batches of 500.

    The learning coefficient of these networks has multiplicity 1 and equals the local one at w*.
    """
    return Target(
        problem=network.problem(100_000, group=500),
        localization=1.0,
        exact=float(network.coefficient.learning_coefficient),
        known_by="theory",
        batch_size=1,  # one example is a group of 500 inputs
    )


def _linear_model(widths: Sequence[int]) -> DeepLinearModel:
    with torch.random.fork_rng(devices=[]):  # transformers draws new weights from the global generator
        return DeepLinearModel(DeepLinearConfig(widths)).double().eval()


def noisy_labels() -> Target:
    """Deep linear regression on labels with noise of variance 1, at the minimum ŵ of L_n; widths 10, 6, 4, 5.

    ℓ = ½‖y − ŷ‖² in nats; the true layers have singular values 1. Near ŵ the loss is flat only along changes of the
    hidden coordinates, so Laplace's formula holds: E[λ̂] = ½ Σ nβh_i/(nβh_i + γ), h_i the eigenvalues of ∇²L_n(ŵ).
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
    hessian = move_to_minimum(problem)
    return Target(
        problem=problem,
        localization=localization,
        exact=gaussian_llc(torch.linalg.eigvalsh(hessian), nbeta_of(n), localization),
        known_by="Laplace",
        batch_size=500,
    )


def _regression(model: nn.Module, inputs: Tensor, labels: Tensor) -> Problem:
    """Least squares, ℓ = ½‖y − ŷ‖²: the negative log-likelihood, up to a constant, of labels of variance 1."""

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        outputs = forward(batch["inputs"])
        prediction = getattr(outputs, "prediction", outputs)  # transformers' models return an object
        return 0.5 * (prediction - batch["labels"]).square().sum(-1)

    examples = {"inputs": inputs, "labels": labels}
    return Problem(model, examples, losses, n=len(inputs), unit="nats per example")


@dataclass(frozen=True)
class Reference:
    """λ̂ ± its standard error from a long run of Hamiltonian Monte Carlo at seed 0, and the run's step size."""

    llc: float
    llc_se: float
    step_size: float

    def settings(self) -> SampleConfig:
        """The settings that repeat the run."""
        return SampleConfig(
            sampler="hmc", batch_size="full", localization=1.0, step_size=self.step_size, num_leapfrog_steps=20,
            num_chains=16, chain_batch_size=16, num_burnin_steps=500, num_draws=1000, num_steps_between_draws=2,
            check_localization=False,
        )  # fmt: skip


REFERENCES = {"tanh": Reference(8.187, 0.021, 4e-3), "relu": Reference(10.038, 0.029, 2e-3)}


def network(name: str) -> Target:
    """A network of widths 3, 5, 2 (32 parameters), tanh or ReLU, at the weights that made its labels."""
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
"""Name → function that makes the target, in about a second."""
