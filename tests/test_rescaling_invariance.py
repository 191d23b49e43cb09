"""scripts/rescaling_invariance.py: a chain that knows α is the image of the unscaled one; curvature is the Hessian."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from script_runner import ROOT, smoke_on_one_and_two

sys.path.insert(0, str(ROOT / "scripts"))
import rescaling_figure
import rescaling_invariance as script
from relu_network import own_labels, squared_error

from hf_llc.samplers import psgld
from hf_llc.samplers.langevin import force

N = 400


def _losses(preconditioner: str, alpha: float) -> np.ndarray:
    """The losses of 60 steps of the first network rescaled by α, always with the same noise and minibatches."""
    model, factors = script.network(script.FIRST, alpha)
    problem, nbeta = own_labels(model, N), N / math.log(N)
    kernel = script.kernel_for(preconditioner, problem, factors, nbeta=nbeta, freeze_after=20)
    return script.full_losses(problem, kernel, nbeta=nbeta, num_steps=60, every=5, seed=0, batch_size=50)


@pytest.mark.parametrize("preconditioner", ["known", "curvature"])
def test_a_rescaled_chain_is_the_image_of_the_unscaled_one(preconditioner: str) -> None:
    """Draw for draw: powers of two round nothing, so that the losses are equal to the last bit."""
    one = _losses(preconditioner, 1.0)
    assert len(one) == 12 and one[-1] > 0
    for alpha in (2.0**-12, 2.0**10):
        np.testing.assert_array_equal(_losses(preconditioner, alpha), one)
    np.testing.assert_allclose(_losses(preconditioner, 1e4), one, rtol=1e-3)


@pytest.mark.parametrize("preconditioner", ["none", "adaptive"])
def test_chains_that_do_not_know_are_not(preconditioner: str) -> None:
    """Four thousand fold: the stiffer layer moves as before and the other one hardly at all."""
    one, other = _losses(preconditioner, 1.0), _losses(preconditioner, 2.0**-12)
    assert np.isfinite(other).all() and other[-3:].mean() < 0.9 * one[-3:].mean()


def test_equation_27_as_printed_is_not_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: noise without A, as the paper prints it."""

    def diffuse(walk, s, grad, a, step_size) -> None:  # type: ignore[no-untyped-def]
        s.w.addcmul_(a, force(walk, s, grad), value=-step_size / 2)
        s.w.add_(s.noise, alpha=math.sqrt(step_size))

    monkeypatch.setattr(psgld, "preconditioned_diffuse", diffuse)
    with pytest.raises(AssertionError):
        test_a_rescaled_chain_is_the_image_of_the_unscaled_one("known")


def test_rescaling_leaves_the_function() -> None:
    model, factors = script.network(script.FIRST, 1.0)
    scaled, by = script.network(script.FIRST, 8.0)
    x = torch.rand(20, 10) * 20 - 10
    torch.testing.assert_close(scaled(x), model(x), rtol=0, atol=0)
    assert sum(p.numel() for p in model.parameters()) == len(factors) == len(by) == 430
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in scaled.parameters()]), flat * by.float())


def test_curvature_is_the_diagonal_of_the_hessian() -> None:
    """Against torch's own second derivatives, a parameter at a time."""
    model, _ = script.network("3-9-2", 1.0)  # six copies of unit 0
    problem = own_labels(model, 30)
    found = torch.cat([h.flatten() for h in script.curvature(model, problem.examples["inputs"])])
    parameters = list(model.parameters())
    loss = squared_error(model, problem.examples).mean()
    grads = torch.autograd.grad(loss, parameters, create_graph=True)
    exact = []
    for k, grad in enumerate(grads):
        for i in range(grad.numel()):
            row = torch.autograd.grad(grad.flatten()[i], parameters, retain_graph=True, allow_unused=True)[k]
            exact.append(0.0 if row is None else float(row.flatten()[i]))
    torch.testing.assert_close(found, torch.tensor(exact), rtol=1e-4, atol=1e-6)
    assert float(found.max()) > 1


def _lines(values: list[float], error: float) -> list[dict[str, float]]:
    return [{"llc": value, "llc_se": error} for value in values]


@pytest.mark.parametrize(
    ("values", "error", "verdict"),
    [
        ([100, 101, 99], 1, "seen"),
        ([100, 101, 99], 8, "cannot tell"),
        ([100, 50, 99], 1, "not seen"),
        ([100, math.nan, 99], 1, "not seen"),
    ],
)
def test_the_verdict(values: list[float], error: float, verdict: str) -> None:
    assert rescaling_figure.is_constant(_lines(values, error)) == verdict


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    rows = smoke_on_one_and_two("rescaling_invariance", tmp_path)
    assert len(rows) == 16
    assert {row["preconditioner"] for row in rows} == set(script.PRECONDITIONERS)
