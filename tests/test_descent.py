"""The descent from w*: how far it falls, against what it is on quadratics; the verdict on a w* above its minimum."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from targets import expected_llc, shifted_problem
from torch import Tensor, nn

from hf_llc import LLCEvaluator
from hf_llc.calibration.descent import descend, has_ended
from hf_llc.calibration.energy import Energy
from hf_llc.config import SampleConfig
from hf_llc.judging.statistics import is_above_minimum
from hf_llc.numerals import with_error
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.workflow import descents
from hf_llc.workflow.estimate_model import estimate_problem

H = torch.cat([torch.full((20,), 2.0), torch.full((20,), 0.02)])
LAW = Law(nbeta=100.0, localization=3.0)


def quadratic(offset: float, *, num_examples: int = 400) -> Problem:
    """½ Σ h_i (w_i − offset)², with gradient noise between the examples, at w* = 0."""
    problem = shifted_problem(H, num_examples=num_examples, spread=1.0)
    problem.examples["centres"] += offset
    return problem


def drops(problem: Problem, **settings: Any) -> dict[str, float]:
    with preserved(problem.model):
        found = descend(Posterior(problem), LAW, **{"num_examples": 400, "batch_size": 8, **settings})
    assert found is not None
    return found


@pytest.mark.parametrize("num_examples", [400, 60])
def test_drop_of_a_quadratic(num_examples: int) -> None:
    """U falls by ½ Σ g²/(nβh + γ) with g = nβh·offset. Fewer examples give the same: they share the Hessian."""
    found = drops(quadratic(0.1), num_examples=num_examples)
    stiff = LAW.nbeta * H
    moved = stiff * 0.1 / (stiff + LAW.localization)
    drop = float((0.5 * (stiff * 0.1) ** 2 / (stiff + LAW.localization)).sum())
    assert found["drop"] == pytest.approx(drop, rel=0.01)
    assert found["loss_drop"] == pytest.approx(drop + LAW.localization / 2 * float((moved**2).sum()), rel=0.01)
    assert found["distance"] == pytest.approx(float(moved.norm()), rel=0.02)
    assert found["num_examples"] == num_examples


@pytest.mark.parametrize("num_examples", [400, 60, 8])
def test_at_a_minimum_nothing_falls(num_examples: int) -> None:
    """Fewer examples have a minimum of their own elsewhere, by nβ tr(H⁻¹C)/2m lower."""
    found = drops(quadratic(0.0), num_examples=num_examples)
    assert abs(found["loss_drop"]) < 1e-3 and not is_above_minimum(found, 1.0)


def test_examples_without_their_tilt_would_raise_a_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Energy.__init__
    monkeypatch.setattr(Energy, "__init__", lambda self, p, law, i, mean: start(self, p, law, i, None))
    assert abs(drops(quadratic(0.0), num_examples=60)["loss_drop"]) > 1


def test_a_descent_ends_where_next_to_nothing_is_left_to_fall() -> None:
    """Not where it falls steadily, nor in its first short steps, each ten times the last."""
    settled = [10 * (1 - 0.4**k) for k in range(30)]
    assert not has_ended(settled[:6], 1000.0)
    assert has_ended(settled[:10], 1000.0) and not has_ended(settled[:10], 1.0) and has_ended(settled[:20], 1.0)
    assert not any(has_ended([0.1 * k for k in range(count)], 1000.0) for count in range(30))
    assert not any(has_ended([1e-9 * 10**k for k in range(count)], 1000.0) for count in range(12))
    assert not has_ended(settled[:10], math.nan) and has_ended(settled[:20], math.nan)


def test_a_first_llc_saves_a_part_of_a_descent() -> None:
    """Of one with many curvatures; what it does not fall is nothing beside λ̂."""
    problem = shifted_problem(torch.logspace(-3, 1, 40), num_examples=400, spread=1.0)
    problem.examples["centres"] += 0.1
    short, long = (drops(problem, llc=llc) for llc in (500.0, math.nan))
    assert short["num_gradients"] < 0.8 * long["num_gradients"]
    assert short["loss_drop"] == pytest.approx(long["loss_drop"], abs=0.005 * 500)


@pytest.mark.parametrize("num_examples", [400, 60])
@pytest.mark.parametrize(("shares_anchor", "are_kept"), [(False, False), (True, False), (True, True)])
def test_cost_is_every_pass_over_examples(num_examples: int, shares_anchor: bool, are_kept: bool) -> None:
    """Where chains have a control variate, its gradients at w* are known; the descent falls as far without its own."""
    problem, seen = quadratic(0.1), []
    losses, alone = problem.losses, drops(quadratic(0.1), num_examples=num_examples)
    with preserved(problem.model):
        posterior = Posterior(problem)
        posterior.anchor_gradients.are_kept = are_kept
        assert math.isfinite(posterior.init_loss)  # computed now, before passes are counted
        if shares_anchor:
            assert len(posterior.anchor_gradients.mean) == 1
        problem.losses = lambda forward, batch: seen.append(len(batch["centres"])) or losses(forward, batch)
        found = descend(posterior, LAW, num_examples=num_examples, batch_size=8, shares_anchor=shares_anchor)
    assert found is not None and found["num_gradients"] == -(-sum(seen) // 8)
    for name in ("drop", "loss_drop", "loss_drop_se"):
        assert found[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-4)
    if num_examples < 400 and shares_anchor and not are_kept:  # else rounding may change how many L-BFGS takes
        assert found["num_gradients"] == alone["num_gradients"] - 400 // 8


def test_a_run_with_a_control_variate_shares_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[bool] = []
    find = descents.descend

    def watched(*args: Any, shares_anchor: bool, **options: Any) -> dict[str, float] | None:
        shared.append(shares_anchor)
        return find(*args, shares_anchor=shares_anchor, **options)

    monkeypatch.setattr(descents, "descend", watched)
    for gradient in ("plain", "control-variate"):
        few = replace(SETTINGS, num_draws=8, max_steps=20, gradient=gradient, step_size=0.01, friction=0.5)
        estimate_problem(quadratic(0.0), few)
    assert shared == [False, False, True, True]  # from w*, which has no slope, and from the end of a chain


SETTINGS = SampleConfig(
    nbeta=100.0, localization=3.0, batch_size=8, num_chains=4, num_draws=200, max_steps=4000, chain_batch_size=4,
    check_localization=False,
)  # fmt: skip


@pytest.mark.slow
def test_a_point_above_its_minimum_is_named_early_and_its_estimate_mended() -> None:
    """λ̂ from w* is short of λ̂ from the minimum by nβ(L(w*) − L(w₁)), which `llc` + `loss_drop` puts back."""
    exact = expected_llc(H.numpy(), sampler="exact", step_size=0.0, nbeta=100.0, localization=3.0)
    off = estimate_problem(quadratic(0.06), SETTINGS)
    assert off.verdict == "not a minimum" and off.descent is not None
    assert off.descent["loss_drop"] > 0.3 * exact and off.llc < 0.7 * exact
    assert abs(off.llc + off.descent["loss_drop"] - exact) < 4 * off.llc_se
    assert off.num_burnin_steps == 200  # the first look at the chains was the last
    remedy = next(r.remedy for r in off.reasons if r.name == "not a minimum")
    text = next(r.text for r in off.reasons if r.name == "not a minimum")
    assert text.endswith(f"from w* {with_error(off.llc, off.llc_se)}") and text.count(" ± ") == 2
    assert remedy.startswith("set minimize; or keep w*, and lower nbeta from 100 to ")
    nbeta, localization = (float(value) for value in re.findall(r"to ([\d.]+)", remedy))
    near = estimate_problem(quadratic(0.06), replace(SETTINGS, nbeta=nbeta, localization=localization))
    assert near.verdict == "trustworthy" and near.descent is not None
    law = {"nbeta": nbeta, "localization": localization}
    assert abs(
        near.llc + near.descent["loss_drop"] - expected_llc(H.numpy(), sampler="exact", step_size=0.0, **law)
    ) < (4 * near.llc_se)
    at = estimate_problem(quadratic(0.0), SETTINGS)
    assert at.verdict == "trustworthy" and abs(at.llc - exact) < 4 * at.llc_se


def squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * ((output - target) ** 2).sum(-1)


def tanh_network(steps: int) -> tuple[nn.Module, Tensor, Tensor]:
    """60-30-10-5, trained by Adam for so many steps on a noisy teacher."""
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Linear(60, 30), nn.Tanh(), nn.Linear(30, 10), nn.Tanh(), nn.Linear(10, 5)) for _ in range(2)
    )
    x = torch.randn(600, 60)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(3)
        y = teacher(x) + 0.1 * torch.randn(600, 5)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for step in range(steps):
        batch = torch.arange(64 * step, 64 * step + 64) % 600
        loss = squares(student(x[batch]), y[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval(), x, y


def long_descent(model: nn.Module, x: Tensor, y: Tensor, law: Law) -> float:
    """U(w*) − min U by a thousand gradients of L-BFGS in float64."""
    model, x, y = copy.deepcopy(model).double(), x.double(), y.double()
    start, values = [p.detach().clone() for p in model.parameters()], []
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=1000, history_size=50, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )

    def energy() -> Tensor:
        optimizer.zero_grad()
        pull = torch.stack([((p - q) ** 2).sum() for p, q in zip(model.parameters(), start, strict=True)]).sum()
        value = law.nbeta * squares(model(x), y).mean() + law.localization / 2 * pull
        value.backward()
        values.append(value.item())
        return value

    optimizer.step(energy)
    return values[0] - min(values)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [50, 150])
def test_tanh_network_along_its_training(steps: int) -> None:
    """Thirty gradients find nearly all that a thousand do, and the verdict follows them."""
    model, x, y = tanh_network(steps)
    evaluator = LLCEvaluator(num_chains=2, num_draws=100, max_steps=800, check_localization=False, localization=30.0)
    result = evaluator.compute(model, data=(x, y), loss_fn=squares, progress=False)
    fallen = long_descent(model, x, y, Law(nbeta=result.nbeta, localization=result.localization))
    found = result.descent
    assert found is not None and fallen > 0.5 and found["num_examples"] == 600
    assert 0.8 * fallen < found["drop"] < 1.001 * fallen
    assert (result.verdict == "not a minimum") == (found["loss_drop"] > 0.1 * (result.llc + found["loss_drop"]))


def test_a_descent_that_does_not_fit_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(SETTINGS, num_draws=8, max_steps=20, step_size=0.01, friction=0.5)
    assert estimate_problem(quadratic(0.0), few).descent is not None
    size = sum(p.nbytes for p in quadratic(0.0).model.parameters())
    monkeypatch.setattr("hf_llc.calibration.descent.available_bytes", lambda device: (16 + 2 * 10) * size - 1)
    found = estimate_problem(quadratic(0.0), few)
    assert found.descent is None
    (note,) = [reason for reason in found.reasons if reason.name == "not measured"]
    assert note.is_note and "does not fit" in note.text


class Saddle(nn.Module):
    """½ Σ u_j² + depth·(v² − 1)²: at u = v = 0 a saddle without slope, `depth` above its two minima."""

    def __init__(self, depth: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(21))
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.5 * (self.w[:20] ** 2).sum() + self.depth * (self.w[20] ** 2 - 1) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "verdict"), [(0.05, "not a minimum"), (0.0, "trustworthy")])
def test_a_saddle_without_slope_is_no_minimum(depth: float, verdict: str) -> None:
    """A descent from there finds nothing; one from the end of a chain falls by nβ·depth, and λ̂ is right from there."""
    problem = Problem(
        Saddle(depth), {"x": torch.ones(8)}, lambda forward, batch: forward(batch["x"]), n=8, unit="nats per example"
    )
    found = estimate_problem(
        problem, replace(SETTINGS, localization=0.5, batch_size="full", num_draws=100, max_steps=800)
    )
    assert found.verdict == verdict and found.descent is not None
    assert found.descent["loss_drop"] == pytest.approx(100 * depth, rel=0.05, abs=1e-3)
    if depth:
        assert abs(found.llc + found.descent["loss_drop"] - 10.5) < 4 * found.llc_se
        (reason,) = [reason for reason in found.reasons if reason.name == "not a minimum"]
        assert reason.remedy.startswith("not here, because the loss has no slope") and not reason.change
