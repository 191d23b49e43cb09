"""`hf-llc benchmark`: its targets' exact values, and the command around them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_llc.cli.entry_point import main
from hf_llc.config import SampleConfig
from hf_llc.problem import Problem
from hf_llc.studies.known_targets import REFERENCES, TARGETS, Target, nbeta_of
from hf_llc.studies.newton_minimum import move_to_minimum
from hf_llc.studies.sampler_benchmark import Row
from hf_llc.workflow.estimate_model import estimate_problem


def on_a_grid(target: Target, edge: float) -> float:
    """E[nβ L] of a target of one or two dimensions by a plain Riemann sum, without its formula."""
    nbeta, d = nbeta_of(target.problem.n), target.problem.model.w.numel()  # type: ignore[union-attr]
    axis = np.linspace(-edge, edge, 4001)
    points = np.meshgrid(*[axis] * d)
    w = torch.from_numpy(np.stack(points))
    energy = nbeta * target.problem.model.function(w).numpy()  # type: ignore[operator]
    weight = np.exp(-energy - target.localization / 2 * np.square(points).sum(axis=0))
    return float((energy * weight).sum() / weight.sum())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edge"), [("crossing-2-2", 2.0), ("crossing-2-4", 2.0), ("quartic", 1.0)])
def test_quadrature_agrees_with_a_grid(name: str, edge: float) -> None:
    target = TARGETS[name]()
    assert target.exact == pytest.approx(on_a_grid(target, edge), rel=1e-4)


def test_quadratic_is_the_formula() -> None:
    nbeta, h = 1000 / math.log(1000), np.logspace(-2, 0, 20)
    assert TARGETS["quadratic"]().exact == pytest.approx(0.5 * (nbeta * h / (nbeta * h + 1)).sum(), rel=1e-12)


@pytest.mark.slow
def test_noisy_labels_stand_at_a_minimum_with_the_directions_that_theory_counts() -> None:
    target = TARGETS["noisy-labels"]()
    problem = target.problem
    problem.model.zero_grad()
    problem.losses(problem.model, problem.examples).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in problem.model.parameters() if p.grad is not None])
    assert gradients.abs().max() < 1e-12
    curvatures = torch.linalg.eigvalsh(move_to_minimum(problem))
    assert (curvatures > -1e-10).all()
    assert int((curvatures > 1e-6).sum()) == 4 * (10 + 5 - 4)  # a 5 × 10 matrix of rank 4
    assert 0.98 * 22 < target.exact < 22


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_references_are_what_hmc_gives(name: str) -> None:
    """The run that made the number, at another seed and with a quarter of the draws."""
    reference, target = REFERENCES[name], TARGETS[name]()
    sample = replace(reference.settings(), seed=1, num_burnin_steps=150, num_steps_between_draws=1, num_draws=500)
    result = estimate_problem(target.problem, sample)
    assert result.r_hat < 1.02 and result.ess > 1000
    assert abs(result.llc - reference.llc) < 4 * math.hypot(result.llc_se, reference.llc_se)


def whole(name: str) -> tuple[Target, Problem]:
    """A target, and its problem with all examples in one: L_n depends on them through their Gram matrix alone."""
    target = TARGETS[name]()
    inputs, labels = target.problem.examples["inputs"], target.problem.examples["labels"]
    if inputs.dim() == 3:  # groups of inputs, already roots of Gram matrices; mean over groups and outputs
        inputs, labels = inputs.flatten(0, 1), labels.flatten(0, 1)
        scale, per_output = 1 / len(target.problem.examples["inputs"]), 1 / labels.shape[-1]
    else:  # ½ sum over outputs
        scale, per_output = 1 / len(inputs), 0.5
    rows = torch.cat([inputs, labels], dim=1)
    root = torch.linalg.qr(rows * scale**0.5, mode="r")[1]

    def losses(forward: Any, batch: Any) -> torch.Tensor:
        error = forward(batch["inputs"]).prediction - batch["labels"]
        return per_output * error.square().sum((-1, -2))

    width = inputs.shape[1]
    examples = {"inputs": root[None, :, :width].contiguous(), "labels": root[None, :, width:].contiguous()}
    return target, Problem(target.problem.model, examples, losses, n=target.problem.n, unit=target.problem.unit)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reduced-rank", "deep-linear", "noisy-labels"])
def test_asymptotic_values_hold_at_this_n(name: str) -> None:
    """Theory and Laplace's formula leave out terms in 1/nβ: a long full-batch run says that they are below 1 %."""
    target, problem = whole(name)
    mean = problem.losses(problem.model, problem.examples).item()
    assert mean == pytest.approx(target.problem.losses(target.problem.model, target.problem.examples).mean().item())
    sample = SampleConfig(
        localization=target.localization, batch_size="full", num_chains=32, chain_batch_size=32, num_burnin_steps=4000,
        num_draws=500, num_steps_between_draws=10, check_localization=False,
    )  # fmt: skip
    result = estimate_problem(problem, sample)
    assert result.r_hat < 1.02 and result.llc_se < 0.005 * target.exact
    assert abs(result.llc - target.exact) < 3 * result.llc_se + 0.01 * target.exact


@pytest.mark.slow
def test_auto_meets_every_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line: a line a target below one head, and the same as JSON."""
    code = main(["benchmark", "--output", str(tmp_path)])
    head, *lines = capsys.readouterr().out.splitlines()
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["target"] for row in saved["rows"]] == list(TARGETS)
    for row in saved["rows"]:
        assert row["is_right"], row
    assert code == 0 and saved["asked"]["sampler"] == "auto"
    assert head.split()[:2] == ["target", "known"]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(TARGETS)
    quadratic, noisy = (next(row for row in saved["rows"] if row["target"] == name) for name in _NEAR)
    assert abs(quadratic["error"]) < _NEAR["quadratic"]
    assert abs(noisy["error"]) < _NEAR["noisy-labels"] and noisy["settings"]["batch_size"] == 500


_NEAR = {"quadratic": 0.1, "noisy-labels": 0.05}
"""The relative error that λ̂ of a target may have at most."""


@pytest.mark.slow
def test_a_step_too_large_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """SGLD on a quadratic at ε = 1/a_max: its law has 10 % more than the exact one."""
    arguments = ["benchmark", "--sampler", "sgld", "--step-size", "0.0135", "--targets", "quadratic", "--json"]
    assert main(arguments) == 3
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["z"] > 4 and not row["is_right"]


@pytest.mark.slow
def test_a_diverged_chain_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--sampler", "sgld", "--step-size", "1", "--targets", "quartic"]) == 3
    assert "diverged" in capsys.readouterr().out


def test_a_row_without_a_number_is_not_right() -> None:
    row = Row(
        target="x", known_by="", exact=1.0, exact_se=0.0, llc=1.0, llc_se=math.nan, error=0.0, z=math.nan, gradients=0,
        verdict="too few draws", seconds=0.0, settings={},
    )  # fmt: skip
    assert not row.is_right


@pytest.mark.slow
def test_it_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A target takes a minute on a busy machine."""
    monkeypatch.setattr("hf_llc.studies.sampler_benchmark._GRADIENTS", 400)
    monkeypatch.setattr("hf_llc.progress_display._LONG_SECONDS", 0.0)
    main(["benchmark", "--sampler", "sgld", "--step-size", "1e-3", "--targets", "quadratic"])
    out, err = capsys.readouterr()
    assert "hf_llc: quadratic: sample: " in err and "hf_llc" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "langevin"], "sampler has a value of the wrong kind, got 'langevin'"),
        (["--step-size", "small"], "step_size has a value of the wrong kind, got 'small'"),
        (["--step-size", "-1"], "step_size is out of range, got -1"),
        (["--seed", "-3"], "seed is out of range, got -3"),
        (["--targets", "cubic"], "--targets has no such choice, got 'cubic'"),
        (["--sampler", "rmsprop-sgld"], "rmsprop-sgld has no automatic step_size"),
        (["--sampelr", "sgld"], "unknown argument --sampelr; did you mean --sampler?"),
        (["--output", "/proc/nowhere"], "cannot write to the output folder"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
