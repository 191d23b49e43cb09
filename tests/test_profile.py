"""λ̂ over scales beside λ of the Hessian: known laws, exact Hessians, the budget, the command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_worker
import tiny
import torch
from forked import killed, run
from targets import power_problem
from torch import Tensor, nn

from hf_llc.cli.commands.profile import values_of
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging.quadratic import Quadratic
from hf_llc.judging.statistics import standard_error
from hf_llc.loading.problem_loader import load_problem
from hf_llc.posterior.hessian import HessianProducts, lanczos, probe_spectrum, slope_spectrum
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.stage_files import Journal
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Part, Problem
from hf_llc.progress import Watch
from hf_llc.studies.measure_profile import measure
from hf_llc.studies.profile_plot import plot_profile
from hf_llc.studies.profile_settings import HessianSettings
from hf_llc.studies.profile_table import Profile, with_exponents
from hf_llc.workflow.forecast import forecast
from hf_llc.workflow.foretold import Foretold
from hf_llc.workflow.opened_run import Given
from hf_llc.workflow.run import Run

Array = np.ndarray


class Form(nn.Module):
    """½ wᵀHw + b·w of the `weights` w."""

    def __init__(self, hessian: Tensor) -> None:
        super().__init__()
        self.hessian = hessian
        self.w = nn.Parameter(torch.zeros(len(hessian), dtype=hessian.dtype))

    def forward(self, slopes: Tensor) -> Tensor:
        return 0.5 * self.w @ self.hessian @ self.w + slopes @ self.w


def form(hessian: Array, examples: int = 8, *, slope: float = 0.0) -> Problem:
    h = torch.tensor(hessian)
    slopes = torch.randn(examples, len(h), dtype=h.dtype, generator=torch.Generator().manual_seed(1))
    data = {"slopes": slopes - slopes.mean(0) + slope}
    return Problem(Form(h), data, lambda forward, batch: forward(batch["slopes"]), n=examples, unit="nats")


def rotated(eigenvalues: Array) -> Array:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((len(eigenvalues),) * 2))[0]
    return q @ np.diag(eigenvalues) @ q.T


def spectrum_of(problem: Problem, *, probes: int, iterations: int = 60, part: Part | None = None) -> Quadratic:
    with preserved(problem.model), restricted(problem.model, part):
        posterior = Posterior(replace(problem, part=part))
        size = {"iterations": iterations, "num_examples": problem.num_examples}
        found = [probe_spectrum(posterior, seed=0, number=k, **size) for k in range(probes)]
        slope = slope_spectrum(posterior, seed=0, **size)
        return Quadratic(posterior.num_parameters, problem.num_examples, found, slope)


def exact(eigenvalues: Array, scale: float) -> float:
    h = eigenvalues[eigenvalues > 0]
    return float((h / (h + scale)).sum() / 2)


def measured(problem: Problem, folder: Path, localizations: list[float], **more: Any) -> Profile:
    names = ("nbetas", "hessian", "resume", "overwrite", "report")
    keywords = {name: more.pop(name) for name in names if name in more}
    sample = SampleConfig(**{"num_chains": 4, "chain_batch_size": 4, "nbeta": 1000.0, **more})
    given = Given(problem=problem)
    return measure(LoadConfig(), sample, given, localizations=localizations, output=folder, progress=False, **keywords)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_spectrum_of_a_form_in_its_own_axes_is_exact(dtype: Any) -> None:
    """A vector of signs sees every direction of a diagonal Hessian alike; five orders of magnitude, and zeros."""
    h = np.concatenate([np.logspace(-4, 1, 12), np.zeros(3)])
    found = spectrum_of(form(np.diag(h).astype(dtype)), probes=2)
    for scale in (1e-3, 1e-1, 10.0):
        value, error = found.llc(scale)
        assert value == pytest.approx(exact(h, scale), rel=3e-4 if dtype == np.float32 else 1e-9)
        assert error < 1e-4 * value
        slope = (h * scale / (h + scale) ** 2).sum() / 2
        assert found.exponent(scale)[0] == pytest.approx(slope / exact(h, scale), rel=1e-3)
    assert found.negative_share == 0 and found.negative_directions(1e-3) == 0
    assert found.top == pytest.approx(10, rel=1e-5)


@pytest.mark.slow
def test_errors_over_vectors_and_negative_curvature() -> None:
    h = np.concatenate([np.logspace(-2, 1, 25), [-0.5, -3.0]])
    problem = form(rotated(h))
    found = spectrum_of(problem, probes=40)
    for scale in (0.01, 0.3, 5.0):
        value, error = found.llc(scale)
        assert abs(value - exact(h, scale)) < 4 * error < 0.4 * value
    assert found.negative_share == pytest.approx(3.5 / np.abs(h).sum(), rel=0.3)
    assert found.negative_directions(1.0) == pytest.approx(1, abs=0.3)
    assert found.negative_directions(5.0) == 0


def mean_excess(hessian: Array, slope: Array, nbeta: float, localization: float) -> float:
    """E[nβ(b·w + ½wᵀHw)] of the Gaussian with this energy and γ/2‖w‖²."""
    energy = nbeta * hessian + localization * np.eye(len(hessian))
    mean = -np.linalg.solve(energy, nbeta * slope)
    spread = np.trace(np.linalg.solve(energy, nbeta * hessian)) / 2
    return float(nbeta * (slope @ mean + mean @ hessian @ mean / 2) + spread)


def examples_of(problem_size: int, *, d: int = 60, noise: float = 6.0) -> Problem:
    """Examples whose Hessians are one of rank 10 and noise of mean zero, each a symmetric matrix of its own."""
    rng = np.random.default_rng(3)
    extra = rng.standard_normal((problem_size, d, d)) * noise / math.sqrt(d)
    extra = (extra + extra.transpose(0, 2, 1)) / 2
    each = np.diag(np.r_[np.full(10, 10.0), np.zeros(d - 10)]) + extra - extra.mean(0)

    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(d, dtype=torch.float64))

        def forward(self, h: Tensor) -> Tensor:
            return 0.5 * torch.einsum("i,bij,j->b", self.w, h, self.w)

    return Problem(
        Forms(), {"h": torch.tensor(each)}, lambda forward, batch: forward(batch["h"]), n=problem_size, unit=""
    )


@pytest.mark.slow
def test_the_error_of_a_hessian_over_few_examples_says_that_they_are_few() -> None:
    """λ_Q over 25 of 200 examples is too large by many errors over vectors; what half of them change tells."""
    problem, scale = examples_of(200), 10.0
    posterior, size = Posterior(problem), {"seed": 0, "iterations": 20}
    found = [probe_spectrum(posterior, number=k, num_examples=25, **size) for k in range(8)]
    half = [probe_spectrum(posterior, number=k, num_examples=12, **size) for k in range(8)]
    known = Quadratic(60, 25, found, None, list(zip(found, half, strict=True)))
    gap = known.llc(scale)[0] - exact(np.full(10, 10.0), scale)
    assert gap > 4 * replace(known, halves=()).llc(scale)[1]
    assert gap < 2 * known.llc(scale)[1] < 4 * gap
    exponent, error = known.exponent(scale)
    assert abs(exponent - 0.5) < 3 * error and error > 1.5 * replace(known, halves=()).exponent(scale)[1]
    assert replace(known, halves=list(zip(found, found, strict=True))).llc(scale)[1] < gap / 4
    one, two = ({"nodes": [h], "weights": [1.0]} for h in (1.0, 3.0))
    unsure = Quadratic(1, 25, [one, one], None, [(one, two), (two, one)])  # one change up, one down: none on average
    assert unsure.llc(1.0)[1] == pytest.approx(0.125 / (math.sqrt(2) - 1))


def test_what_the_slope_at_w_star_takes_off() -> None:
    hessian = rotated(np.concatenate([np.logspace(-3, 1, 20), np.zeros(4)]))
    found = spectrum_of(form(hessian, slope=0.05), probes=2)
    for scale in (1e-2, 1.0, 50.0):
        fallen = mean_excess(hessian, np.zeros(24), 100.0, 100 * scale) - mean_excess(
            hessian, np.full(24, 0.05), 100.0, 100 * scale
        )
        assert 100 * found.fall(scale) == pytest.approx(fallen, rel=1e-6)
    assert spectrum_of(form(hessian), probes=2).fall(1.0) == pytest.approx(0, abs=1e-20)


@pytest.mark.slow
def test_a_slope_is_said_and_not_taken_for_a_singularity(tmp_path: Path) -> None:
    """At strong γ the slope's part of λ̂ is the same as at weak γ: without it λ̂ would lie below λ_Q everywhere."""
    hessian = np.diag(np.logspace(-1, 1, 12))
    profile = measured(
        form(hessian, slope=0.06), tmp_path, [30.0, 3e3], num_draws=200, max_steps=2000, friction=1.0, step_size=2e-5
    )
    for row in profile.rows:
        whole = mean_excess(hessian, np.full(12, 0.06), row.nbeta, row.localization)
        assert row.expected == pytest.approx(whole, rel=1e-3) and row.slope > 0.1 * row.llc_quadratic
        assert abs(row.llc - whole) < 4 * row.llc_se
    assert profile.has_slope and "w* is no minimum" in profile.headline and "below" not in profile.headline


@pytest.mark.slow
def test_negative_curvature_is_no_singularity(tmp_path: Path) -> None:
    """Where γ holds it, it takes off λ̂ what the form says, slope or none: λ̂ is then below λ_Q, of a regular loss."""
    h = np.concatenate([np.logspace(-1, 1, 9), -np.logspace(-0.5, 0.3, 5)])
    for hessian in (np.diag(h), rotated(h)):
        for slope in (0.0, 0.05):
            found = spectrum_of(form(hessian, slope=slope), probes=60)
            for scale in (5.0, 50.0):
                whole = mean_excess(hessian, np.full(14, slope), 100.0, 100 * scale)
                value, error = found.expected(scale)
                assert abs(value - 100 * found.fall(scale) - whole) < 4 * error + 1e-6 * found.llc(scale)[0]
    settings: dict[str, Any] = {"num_draws": 200, "max_steps": 2000, "friction": 1.0, "step_size": 2e-5}
    profile = measured(form(np.diag(h)), tmp_path, [5e3, 3e4], **settings)
    for row in profile.rows:
        assert row.expected == pytest.approx(mean_excess(np.diag(h), np.zeros(14), 1000.0, row.localization), rel=1e-3)
        assert abs(row.llc - row.expected) < 4 * row.llc_se and row.bent > 0.1 * row.llc_quadratic
    assert "equal to λ_Q less what negative curvature takes at γ 5,000" in profile.headline
    assert "below" not in profile.headline


def test_no_comparison_where_the_loss_falls_faster_than_gamma_holds() -> None:
    row = replace(study_row(), llc=1.0, llc_quadratic=9.0, slope=0.0, bent=0.0, expected_se=0.1, llc_se=0.1)
    rows = [replace(row, localization=g, negative_directions=k) for g, k in ((10.0, 3.0), (100.0, 0.1))]
    said = Profile(rows, 0.2, 2.0, {}, {}, {}, {}, {}).headline
    assert "below λ_Q at γ 100; not compared at γ 10, where the loss falls faster than γ holds" in said


def test_no_curvature_at_all() -> None:
    found = spectrum_of(power_problem(torch.tensor([2.0, 3.0]), power=4), probes=2)
    assert found.llc(1.0) == (0, 0) and math.isnan(found.exponent(1.0)[0]) and found.negative_share == 0


def test_lanczos_without_a_basis_has_the_same_quadrature(monkeypatch: pytest.MonkeyPatch) -> None:
    h = torch.tensor(np.logspace(-3, 2, 60))
    start = torch.ones(60, dtype=torch.float64)

    def value() -> float:
        journal = Journal(Posterior(power_problem(h)).buffer)
        nodes, weights = lanczos(lambda v: h * v, start, journal, iterations=60, precision=1e-13)
        return 60 * float(np.dot(weights, 1 / (np.array(nodes) + 0.1)))

    whole = value()
    monkeypatch.setattr("hf_llc.posterior.hessian._BASIS_BYTES", 0)
    assert whole == pytest.approx(float((1 / (h + 0.1)).sum()), rel=1e-9)
    assert value() == pytest.approx(whole, rel=1e-6)


def test_products_are_those_of_the_exact_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole network, of a part of it, of some examples, in micro-batches; and by differences."""
    given = study_worker.given()
    data = tuple(x.double() for x in given.data)
    problem = load_problem(given.model.double(), data, LoadConfig(), loss_fn=given.loss_fn)
    indices = torch.tensor([[3, 50, 7, 100, 2]])
    part = Part("0.weight", {"0.weight": None})
    batch = {name: x[indices[0]] for name, x in problem.examples.items()}
    weight = problem.model.get_parameter("0.weight")

    def loss(values: Tensor) -> Tensor:
        def forward(x: Tensor) -> Tensor:
            return torch.func.functional_call(problem.model, {"0.weight": values.view_as(weight)}, (x,))

        return problem.losses(forward, batch).mean()

    hessian: Any = torch.autograd.functional.hessian(loss, weight.detach().flatten())
    v = torch.randn(weight.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    with preserved(problem.model), restricted(problem.model, part):
        posterior = Posterior(replace(problem, part=part), micro_batch_size=2)
        product = HessianProducts(posterior, indices)
        torch.testing.assert_close(product(v), hessian @ v, rtol=1e-10, atol=1e-12)

        monkeypatch.setattr("hf_llc.posterior.hessian._MOST_FLOATS", batch["inputs"][0].numel())
        passes = posterior.minibatches.micro_batches
        with monkeypatch.context() as counted:
            sizes: list[int] = []
            counted.setattr(
                posterior.minibatches,
                "micro_batches",
                lambda *a, **k: (sizes.append(len(b["inputs"])) or b for b in passes(*a, **k)),
            )
            torch.testing.assert_close(product(v), hessian @ v, rtol=1e-10, atol=1e-12)
        assert sizes == [1] * 5

        def missing(*_: Any) -> None:
            raise RuntimeError("derivative for aten::some_backward is not implemented")

        monkeypatch.setattr(HessianProducts, "_exact", missing)
        torch.testing.assert_close(product(v), hessian @ v, rtol=2e-2, atol=1e-4)


@pytest.mark.slow
def test_a_quadratic_is_exact_at_every_scale_within_the_budget(tmp_path: Path) -> None:
    h = np.logspace(-3, 0, 40)
    scales = [1.0, 10.0, 100.0, 1000.0]
    lines: list[str] = []
    profile = measured(
        power_problem(torch.tensor(h, dtype=torch.float32)), tmp_path / "p", scales, max_steps=600, report=lines.append
    )
    assert [row.localization for row in profile.rows] == scales and len(lines) == 4
    for row in profile.rows:
        truth = exact(h, row.localization / 1000)
        assert abs(row.llc - truth) < 4 * row.llc_se < 0.5 * truth, row
        assert row.llc_quadratic == pytest.approx(truth, rel=1e-3)
    assert sum(row.num_steps for row in profile.rows) <= 2 * 600
    assert abs(profile.rows[1].exponent - profile.rows[1].exponent_quadratic) < 5 * profile.rows[1].exponent_se + 0.05
    assert "λ̂ is equal to λ_Q at γ 1, 10, 100, 1,000" in str(profile)
    steps = [row.step_size for row in profile.rows]
    assert steps == sorted(steps, reverse=True)  # stronger γ, smaller ε


@pytest.mark.slow
def test_singular_losses_by_quadrature(tmp_path: Path) -> None:
    """w⁴ and (w₁w₂)²: the Hessian at w* is zero, and so is λ_Q; λ̂ is what quadrature says."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, ones: Tensor) -> Tensor:
            return ones[:, 0] * (self.w[0] * self.w[1]) ** 2

    product = Problem(
        Product(), {"ones": torch.ones(4, 1)}, lambda forward, batch: forward(batch["ones"]), n=4, unit="nats"
    )
    x = np.linspace(-2.5, 2.5, 2001)
    settings = {"sampler": "mala", "batch_size": "full", "num_chains": 40, "chain_batch_size": 40, "max_steps": 3000}
    for name, problem, loss, square in (
        ("w4", power_problem(torch.tensor([2.0]), power=4), x**4, x**2),
        ("w2w2", product, np.multiply.outer(x, x) ** 2, np.add.outer(x**2, x**2)),
    ):
        for row in measured(problem, tmp_path / name, [10.0, 50.0], **settings).rows:
            weight = np.exp(-1000 * loss - row.localization / 2 * square)
            truth = 1000 * float((loss * weight).sum() / weight.sum())
            assert abs(row.llc - truth) < 4.5 * row.llc_se < 0.6 * truth, (name, row, truth)
            assert row.llc_quadratic == 0 and row.difference > 3


def linear_layers() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((4, 5), (5, 3), (3, 2)))).double()
    x = torch.randn(100, 4, dtype=torch.float64)
    return load_problem(model, (x, model(x).detach()), LoadConfig(), loss_fn=study_worker.squared_error)


def layer_truth(problem: Problem, scale: float) -> float:
    """½ Σ μσ/(μσ + γ/nβ): μ of UᵀU, σ of V Σ_x Vᵀ, for W of U W V x (OBSERVABLES of a deep linear layer)."""
    first, last = (problem.model.get_parameter(f"{k}.weight").detach().numpy() for k in (0, 2))
    x = problem.examples[next(iter(problem.examples))].numpy()
    mu = np.linalg.eigvalsh(last.T @ last)
    sigma = np.linalg.eigvalsh(first @ (x.T @ x / len(x)) @ first.T)
    h = np.outer(mu, sigma)
    return float((h / (h + scale)).sum() / 2)


@pytest.mark.slow
def test_a_layer_of_a_linear_network(tmp_path: Path) -> None:
    """λ̂ and λ_Q of a part of the weights; as γ → 0, λ = ½ rank(U) rank(V Σ_x Vᵀ) = ½·2·4."""
    problem = linear_layers()
    hessian = HessianSettings(probes=40, iterations=20)
    profile = measured(problem, tmp_path / "p", [0.01, 10.0, 300.0], weights="1.weight", hessian=hessian, max_steps=500)
    for row in profile.rows:
        truth = layer_truth(problem, row.localization / 1000)
        assert abs(row.llc - truth) < 4 * row.llc_se < 0.8 * truth, row
        assert abs(row.llc_quadratic - truth) < 4 * row.llc_quadratic_se + 1e-6, row
    assert layer_truth(problem, 1e-9) == pytest.approx(4, rel=1e-4)


@pytest.mark.slow
def test_the_last_norm_of_stories260k(data_folder: Any) -> None:
    """λ_Q against the exact Hessian of 64 weights of a real model, on real text, at γ = 100 and 10."""
    text = data_folder("tinystories_val") / "tinystories_val.txt"
    load = LoadConfig(
        model=str(data_folder("stories260K")),
        data=str(text),
        max_examples=8,
        max_length=64,
        attn_implementation="eager",
    )
    problem = load_problem(load.model, load.data, load)
    name = "model.norm.weight"
    weight = problem.model.get_parameter(name)

    def loss(values: Tensor) -> Tensor:
        def forward(**batch: Any) -> Any:
            return torch.func.functional_call(problem.model, {name: values}, (), batch)

        return problem.losses(forward, problem.examples).mean()

    hessian: Any = torch.autograd.functional.hessian(loss, weight.detach())
    eigenvalues = torch.linalg.eigvalsh(hessian.double()).numpy()
    found = spectrum_of(problem, probes=12, iterations=25, part=Part(name, {name: None}))
    nbeta = problem.n / math.log(problem.n)
    for localization in (100.0, 10.0):
        value, error = found.llc(localization / nbeta)
        assert abs(value - exact(eigenvalues, localization / nbeta)) < 4 * error < 0.3 * value
    assert found.top == pytest.approx(eigenvalues[-1], rel=1e-3)


@pytest.mark.slow
def test_several_temperatures(tmp_path: Path) -> None:
    """λ_Q depends on γ/nβ alone; each nβ has chains of its own."""
    problem = power_problem(torch.logspace(-2, 0, 20))
    profile = measured(problem, tmp_path / "p", [10.0, 100.0], nbeta=None, nbetas=[100.0, 1000.0], max_steps=300)
    rows = {(row.nbeta, row.localization): row for row in profile.rows}
    assert len(rows) == 4
    assert rows[100, 10].llc_quadratic == rows[1000, 100].llc_quadratic
    for (nbeta, localization), row in rows.items():
        assert abs(row.llc - exact(np.logspace(-2, 0, 20), localization / nbeta)) < 4 * row.llc_se


@pytest.mark.slow
def test_the_forecast_is_of_the_profile_s_own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Hessian and all chains took lies within what was foretold, and no other γ of an estimate is planned."""
    made: list[Watch] = []

    class Kept(Watch):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            made.append(self)

    def kept(*arguments: Any, **settings: Any) -> Foretold | None:
        foretold.append(forecast(*arguments, **settings))
        return foretold[-1]

    foretold: list[Any] = []
    monkeypatch.setattr("hf_llc.studies.measure_profile.Watch", Kept)
    monkeypatch.setattr("hf_llc.workflow.run.forecast", kept)
    measured(
        form(np.diag([1.0, 2.0, 4.0])), tmp_path / "p", [1.0, 4.0],
        num_draws=20, max_steps=60, nbeta=None, nbetas=[5.0, 20.0], max_seconds=1000.0,
        hessian=HessianSettings(probes=3, iterations=2, examples=4),
    )  # fmt: skip
    (found,), (told,) = made, (each.work for each in foretold)
    assert "check γ" not in told and found.plan.keys() <= {"measure heat", "further γ"}
    assert found.ended["hessian"] == pytest.approx(told["hessian"].guess, rel=0.01)
    assert found.ended["sample"] == pytest.approx(told["sample"].guess, rel=0.15)


@pytest.mark.slow
def test_goes_on_where_it_was_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study_worker.profile(str(tmp_path / "a"))
    real, calls = Run.judge, [0]

    def breaks(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(Run, "judge", breaks)
    with pytest.raises(KeyboardInterrupt):
        study_worker.profile(str(tmp_path / "b"))
    assert study_worker.profile(str(tmp_path / "b")) == whole
    monkeypatch.setattr(Run, "judge", None)
    assert study_worker.profile(str(tmp_path / "b")) == whole  # read
    for name in ("profile.csv", "profile.json"):
        one, two = ((tmp_path / folder / name).read_text(encoding="utf-8") for folder in "ab")
        if name.endswith("json"):
            one, two = (json.dumps({k: v for k, v in json.loads(x).items() if k != "seal"}) for x in (one, two))
        assert one == two


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    """Before the 2nd, 4th, 6th … operation on files of one folder, each time further on the way."""
    for number in range(2, 22, 2):
        killed(study_worker.__file__, "profile", str(tmp_path / "b"), str(number))
    run(study_worker.__file__, "profile", str(tmp_path / "b"))
    run(study_worker.__file__, "profile", str(tmp_path / "a"))
    assert Profile.load(tmp_path / "b") == Profile.load(tmp_path / "a")


@pytest.mark.slow
def test_two_processes_find_the_same(tmp_path: Path) -> None:
    study_worker.profile(str(tmp_path / "one"))
    script = Path(study_worker.__file__)
    run(script, "profile", str(tmp_path / "two"), processes=2)
    one, two = ((tmp_path / folder / "profile.csv").read_text(encoding="utf-8") for folder in ("one", "two"))
    assert one == two


@pytest.mark.slow
@pytest.mark.pictures
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save_llama(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("\n".join(tiny.SENTENCES), encoding="utf-8")
    command = ["profile", "--model", str(folder), "--data", str(tmp_path / "text.txt"), "--max-length", "16"]
    command += ["--num-chains", "2", "--num-draws", "20", "--num-burnin-steps", "10", "--step-size", "1e-5"]
    command += ["--weights", "norms", "--localizations", "1e2:1e4:3", "--hessian-probes", "2"]
    command += ["--output", str(tmp_path / "p"), "--quiet"]
    assert main(command) in (0, 3)
    out = capsys.readouterr().out
    assert "λ_Q" in out and "negative curvature" in out
    with open(tmp_path / "p" / "profile.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["localization"]) for row in rows] == [100, 1000, 10000]
    assert all(float(row["llc_quadratic"]) > 0 for row in rows)
    assert main([*command, "--resume"]) in (0, 3) and capsys.readouterr().out == out
    assert (tmp_path / "p" / "profile.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--localizations", "1:10"], "localizations is not a range"),
        (["--localizations", "10:1:3"], "localizations is not a range"),
        (["--localizations", "0:1:3"], "localizations is not a range"),
        (["--localizations", "1:10:1"], "localizations is not a range"),
        (["--localizations", "1:10:x"], "localizations has a value of the wrong kind"),
        (["--localizations", "1,,2"], "localizations has a value of the wrong kind"),
        (["--localizations", "1,0"], "localizations is out of range, got 0.0"),
        (["--localizations", "1,-1"], "localizations is out of range"),
        (["--localizations", "5,5"], "localizations names a value twice"),
        (["--localizations", "1e30"], "localizations is out of range"),
        (["--nbetas", "10,nan"], "nbetas has a value of the wrong kind"),
        (["--nbetas", "10", "--nbeta", "5"], "nbeta and nbetas are both given"),
        (["--localization", "5"], "localization is for one estimate, got 5.0"),
        (["--observe", "parameter_norms"], "observe is for one estimate"),
        (["--extrapolate"], "extrapolate is for one estimate"),
        (["--parameter-parallel", "2"], "parameter_parallel is not for a profile"),
        (["--hessian-probes", "1"], "hessian_probes is out of range"),
        (["--hessian-iterations", "0"], "hessian_iterations is out of range"),
        (["--hessian-examples", "many"], "hessian_examples has a value of the wrong kind"),
        (["--resume"], "nothing to resume there"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    base = [] if "--localizations" in flags else ["--localizations", "1:10:2"]
    assert main(["profile", *base, *flags, "--output", str(tmp_path / "p"), "--max-examples", "4"]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error, error
    assert not (tmp_path / "p" / "run.json").exists()


def test_sharded_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parameter_parallel is not for a profile"):
        measure(LoadConfig(), SampleConfig(parameter_parallel=2), localizations=[1.0], output=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_ranges_and_exponents() -> None:
    assert values_of("x", "1e2:1e6:9") == pytest.approx([10 ** (2 + k / 2) for k in range(9)], rel=1e-5)
    assert values_of("x", "3, 5") == [3, 5]
    row = study_row()
    rows = with_exponents([replace(row, localization=g, llc=8 / g, llc_se=0.08 / g) for g in (1.0, 2.0, 8.0)])
    assert [r.exponent for r in rows] == pytest.approx([1, 1, 1])
    assert rows[1].exponent_se == pytest.approx(0.01 * math.sqrt(2) / math.log(8))
    assert math.isnan(with_exponents([row])[0].exponent)
    assert math.isnan(with_exponents([replace(row, llc=-1.0), row])[0].exponent)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_errors_of_exponents_are_true(phi: float) -> None:
    """400 ladders of 4 × 200 AR(1) draws of a quadratic form at three γ; the middle and the end exponents."""
    h, scales = np.logspace(-2, 1, 6), np.array([0.03, 0.1, 0.3])
    share = h / (h + scales[:, None])
    noise = np.random.default_rng(3).standard_normal((200, 400, 3, 4, len(h)))
    x, found = noise[0], []
    for step in noise:
        x = phi * x + math.sqrt(1 - phi**2) * step
        found.append((x**2 * share[:, None]).sum(-1) / 2)
    draws = np.stack(found, axis=-1)  # [repeat, γ, chain, draw]
    truth = np.log(share.sum(1)[[0, 0]] / share.sum(1)[[2, 1]]) / np.log(scales[[2, 1]] / scales[[0, 0]])
    z, row = [], study_row()
    for ladder in draws:
        rows = with_exponents([
            replace(row, localization=c, llc=one.mean(), llc_se=standard_error(one))
            for c, one in zip(scales, ladder, strict=True)
        ])  # fmt: skip
        z.append([(rows[k].exponent - t) / rows[k].exponent_se for k, t in zip((1, 0), truth, strict=True)])
    assert 0.9 < np.std(z, axis=0).mean() < 1.1, np.std(z, axis=0)
    assert np.abs(np.mean(z, axis=0)).max() < 0.2, np.mean(z, axis=0)


def study_row() -> Any:
    from hf_llc.studies.profile_table import Row

    numbers = dict.fromkeys(Row.__dataclass_fields__, 1.0)
    return Row(**{**numbers, "num_steps": 5, "verdict": "trustworthy"})


@pytest.mark.slow
def test_the_picture_shows_both_curves(tmp_path: Path, drawn: list[Any]) -> None:
    row = study_row()
    row = replace(row, negative_directions=0.0)
    rows = [replace(row, localization=10.0**k, llc=5.0 - k, llc_quadratic=6.0 - k) for k in range(4)]
    rows[1] = replace(rows[1], verdict="drifting")
    empty: dict[str, Any] = {}
    settings = {"n": 100, "num_chains": 2, "batch_size": 4}
    hessian = {"probes": 2, "iterations": 3, "examples": 4}
    profile = Profile(rows, 0.01, 2.0, hessian, {}, settings, empty, empty)
    plot_profile(profile, tmp_path / "p.png")
    assert "at γ 1, 10, 100, 1,000 (not to be trusted at γ 10)" in profile.headline
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["λ̂ ± 2 standard errors, nβ 1"], [5, np.nan, 3, 2])  # no line to it
    assert list(lines["λ_Q of the Hessian, nβ 1"]) == [6, 5, 4, 3]
    assert list(lines["not trustworthy"]) == [4]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    rows[0] = replace(rows[0], llc=-3.0, negative_directions=1.0)
    plot_profile(replace(profile, rows=rows), tmp_path / "p.png")
    axes = drawn[1].axes[0]
    assert axes.get_yscale() == "symlog"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["λ_Q less the slope and negative curvature"], [np.nan, 3, 2, 1])
