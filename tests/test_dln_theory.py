"""scripts/dln_theory.py: volumes and what they say of λ̂ against closed forms and other integrals."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate
from script_runner import ROOT, smoke_on_one_and_two

sys.path.insert(0, str(ROOT / "scripts"))
import dln_theory as script
import landscapes

from hf_llc import theory


def test_volume_against_closed_forms() -> None:
    """a² + b² is half a χ² of two degrees of freedom; a²b² has a Bessel density."""
    levels = np.array([1e-8, 1e-3, 0.5, 4.0])
    np.testing.assert_allclose(
        landscapes.volume(landscapes.LANDSCAPES["a² + b²"], levels), -np.expm1(-levels / 2), rtol=1e-4
    )
    from scipy.special import k0

    exact = [2 / math.pi * integrate.quad(k0, 0, math.sqrt(e))[0] for e in levels]
    np.testing.assert_allclose(landscapes.volume(landscapes.LANDSCAPES["a²b²"], levels), exact, rtol=1e-4)


def test_volume_against_counting() -> None:
    """Every landscape's V(0.1) is the share of normal points below that level and in its basin."""
    rng = np.random.default_rng(0)
    for name, landscape in landscapes.LANDSCAPES.items():
        points = rng.standard_normal((200_000, len(landscape.w_star))) + np.array(landscape.w_star)
        below = landscape.loss(torch.from_numpy(points)).numpy() < 0.1
        if len(landscape.w_star) == 1:
            below &= (landscape.basin[0] < points[:, 0]) & (points[:, 0] < landscape.basin[1])
        share = below.mean()
        error = math.sqrt(share * (1 - share) / len(points))
        assert abs(float(landscapes.volume(landscape, np.array([0.1]))[0]) - share) < 4 * error, name


@pytest.mark.parametrize(
    ("name", "nbeta", "value", "tolerance"),
    [
        ("a² + b²", 50.0, 2 * 50 / (2 * 50 + 1), 1e-4),  # ½·2nβ/(2nβ + γ) of each parameter
        ("a²b²", 1e5 / math.log(1e5), 0.411, 6e-4),  # by two-dimensional quadrature
        ("a²b²", 1e6 / math.log(1e6), 0.425, 6e-4),
        ("a⁴b²", 1e5 / math.log(1e5), 0.25 * (1 - 0.059), 6e-4),
    ],
)
def test_what_the_volume_says(name: str, nbeta: float, value: float, tolerance: float) -> None:
    assert landscapes.exact_llc(landscapes.LANDSCAPES[name], nbeta) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", ["w = −1", "w = 1", "F: f₁ true", "F: f₂ true"])
def test_one_parameter_against_quadrature(name: str) -> None:
    """nβ E[K] over the minimum's own basin, integrated over w."""
    landscape, nbeta = landscapes.LANDSCAPES[name], 300.0
    (centre,) = landscape.w_star

    def moment(k: int) -> float:
        def at(w: float) -> float:
            u = nbeta * float(landscape.loss(torch.tensor([w], dtype=torch.float64)))
            return u**k * math.exp(-u - 0.5 * (w - centre) ** 2)

        near = [centre - 0.1, centre, centre + 0.1]
        return integrate.quad(at, *landscape.basin, points=near, limit=400)[0]

    assert landscapes.exact_llc(landscape, nbeta) == pytest.approx(moment(1) / moment(0), rel=1e-4)


@pytest.mark.slow
def test_volume_exponents_are_the_known_coefficients() -> None:
    """λ and m as `hf_llc.theory` has them, and the exponent of the integrated volume."""
    assert theory.normal_crossing([1, 1]) == (0.5, 2)
    assert theory.normal_crossing([2, 1]) == (0.25, 1)
    assert theory.normal_crossing([8]) == (1 / 16, 1)
    for name, landscape in landscapes.LANDSCAPES.items():
        assert landscapes.volume_exponent(landscape) == pytest.approx(landscape.learning_coefficient, abs=0.01), name
    assert landscapes.mass_exponent() == pytest.approx(7 / 16, abs=1e-3)


def test_barrier_is_where_the_basins_part() -> None:
    w = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[:, None]
    at = float(w[int(landscapes.one_parameter(w).argmax()), 0])
    assert at == pytest.approx(landscapes.BARRIER, abs=1e-4)


@pytest.mark.slow
def test_sampled_against_exact_and_a_planted_fault() -> None:
    """A λ̂ of the estimator meets the law; nβ that is a fifth off does not."""
    preset = script.Preset((), 0, (), 40, 160)
    found = script.sampled_llc("a² + b²", 100.0, preset)
    exact = landscapes.exact_llc(landscapes.LANDSCAPES["a² + b²"], 100.0)
    assert found["llc_se"] < 0.04
    assert abs(found["llc"] - exact) < 4 * found["llc_se"] < abs(1.2 * found["llc"] - exact)


def test_appendix_fs_model_has_one_lambda_a_truth() -> None:
    """K is ½(1 − w⁸)² where f₁ is true and ½w¹⁶ where f₂ is: the curvature is 64 at w = 1, and 0 at w = 0."""
    w = torch.tensor([[0.3], [0.9], [1.0], [1.2], [-1.0]], dtype=torch.float64)
    first, second = (landscapes.LANDSCAPES[name] for name in ("F: f₁ true", "F: f₂ true"))
    torch.testing.assert_close(first.loss(w), ((1 - w**8) ** 2 / 2)[:, 0])
    torch.testing.assert_close(second.loss(w), (w**16 / 2)[:, 0])
    assert [first.half_trace(), second.half_trace()] == [pytest.approx(32.0), 0.0]
    assert landscapes.LANDSCAPES["a² + b²"].half_trace() == pytest.approx(2.0)
    assert (first.learning_coefficient, second.learning_coefficient) == (theory.normal_crossing([1])[0], 1 / 16)
    rows = [
        {"landscape": name, "log10_nbeta": 3.0, "llc": llc, "llc_se": 0.002, "exact": exact}
        for name, llc, exact in (("F: f₁ true", 0.501, 0.5008), ("F: f₂ true", 0.2, 0.0539))
    ]
    said = script.claim_of_appendix_f(rows)
    assert "0.5010 ± 0.0020 (0.5008 by quadrature): seen" in said
    assert "0.2000 ± 0.0020 (0.0539 by quadrature): not seen" in said
    assert "is 0 at 4 of 8 minima, with λ from 0.0625 to 0.5" in said


def test_random_networks_are_the_papers() -> None:
    """Figure I.1: 2 to 800 hidden layers, widths of 100 to 2000, rank uniform from 0 to the smallest width."""
    assert (script.HIDDEN[0], script.HIDDEN[-1], script.WIDTHS) == (2, 800, (100, 2000))
    rows = [script.random_theory(2, seed) for seed in range(300)]
    assert all(0 < row["lambda"] <= row["half_d"] and row["multiplicity"] >= 1 for row in rows)
    assert rows[3] == script.random_theory(2, 3) != rows[4]
    # the smallest of four uniform widths is 480 on average, its half the rank; d of three layers 3 · 1050²
    assert np.mean([row["rank"] for row in rows]) == pytest.approx(240, rel=0.2)
    assert np.mean([2 * row["half_d"] for row in rows]) == pytest.approx(3 * 1050**2, rel=0.15)
    assert script.random_theory(50, 3)["multiplicity"] >= 1


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    rows = smoke_on_one_and_two("dln_theory", tmp_path)
    assert sum(row["part"] == "network" for row in rows) == 4
    assert sum(row["part"] == "landscape" for row in rows) == len(landscapes.LANDSCAPES)  # each at nβ = 100
