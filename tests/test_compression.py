"""scripts/compression.py: the quantiser's error and the critical size are those that a known curvature gives."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from script_runner import smoke_on_one_and_two
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from compression_figure import claim, figure, table
from critical_compression import critical, pruned, quantised, rounded


class Quadratic(nn.Module):
    """L = ½ Σ h (w − w*)², at w*; its largest weight is `largest`."""

    def __init__(self, size: int, largest: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) * largest
        w[0] = largest
        self.weight, self.w_star = nn.Parameter(w), w.clone()
        self.curvature = torch.rand(size, generator=generator, dtype=torch.float64)

    def loss(self) -> float:
        return float((self.curvature * (self.weight.detach() - self.w_star) ** 2).sum() / 2)


def changed(change: Any, size: float) -> float:
    model = Quadratic(200_000, 0.7)
    change(model, size)
    return model.loss()


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.5, 8.0])
def test_the_error_of_rounding_is_a_twelfth_of_the_step_squared(bits: float) -> None:
    w = Quadratic(200_000, 0.7).w_star
    error = rounded(w, bits) - w
    step = 2 * 0.7 / (round(2**bits) - 1)
    assert float(error.abs().max()) <= step / 2 * (1 + 1e-9)
    assert float((error**2).mean()) == pytest.approx(step**2 / 12, rel=0.01)  # its own error is .2 %
    assert len(rounded(w, bits).unique()) == round(2**bits)


def test_rounding_knows_edges() -> None:
    assert rounded(torch.zeros(3), 4.0).tolist() == [0, 0, 0]
    assert rounded(torch.tensor([0.5, -0.1, 0.2]), 1.0).tolist() == [0.5, -0.5, 0.5]
    w = torch.randn(50)
    assert torch.allclose(rounded(w, 20.0), w, atol=1e-5)


@pytest.mark.parametrize("tolerance", [10.0, 1.0, 0.01])
def test_the_critical_bits_of_a_quadratic_are_those_of_its_curvature(tolerance: float) -> None:
    """½ tr(H) s²/12 = tolerance at log₂(1 + 2 max|w| / s) bits; found to the twentieth part of a bit."""
    trace = float(Quadratic(200_000, 0.7).curvature.sum())
    exact = math.log2(1 + 2 * 0.7 / math.sqrt(24 * tolerance / trace))
    found = critical(lambda bits: changed(quantised, bits), [1 + 0.25 * i for i in range(45)], tolerance=tolerance)
    assert found == pytest.approx(exact, abs=0.05)


def test_the_critical_share_of_a_quadratic_is_exact() -> None:
    """Weights uniform in ±m, curvature of mean ½: dropping those below t costs d/4 · t³/(3m)."""
    tolerance, d, m = 50.0, 200_000, 0.7
    kept = 1 - (12 * tolerance * m / d) ** (1 / 3) / m
    found = critical(lambda share: changed(pruned, share), [0.01 * i for i in range(1, 101)], tolerance=tolerance)
    assert found == pytest.approx(kept, abs=0.005)


def test_pruning_keeps_the_largest_of_all_tensors() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.0], [0.5, 2.0]]))
        model.bias.copy_(torch.tensor([-4.0, 0.1]))
    pruned(model, 0.5)
    assert model.weight.tolist() == [[3.0, 0.0], [0.0, 2.0]] and model.bias.tolist() == [-4.0, 0.0]


def test_critical_sizes_at_the_ends() -> None:
    assert math.isnan(critical(lambda size: 1.0, [1.0, 2.0], tolerance=0.5))
    assert critical(lambda size: 0.1, [1.0, 2.0], tolerance=0.5) == 1.0
    assert critical(lambda size: math.nan if size < 2 else 0.1, [1.0, 2.0, 3.0], tolerance=0.5) == 2.0
    assert critical(lambda size: 8.0 ** (2 - size), [1.0, 2.0, 3.0], tolerance=1.0) == 2.0
    assert critical(lambda size: -1e-9 if size > 2 else 1.0, [1.0, 2.0, 3.0], tolerance=0.1) == pytest.approx(2.25)
    humped = {1.0: 0.1, 2.0: 0.9, 3.0: 0.1}  # small again where it was too large before
    assert 2.0 < critical(humped.__getitem__, [1.0, 2.0, 3.0], tolerance=0.5) < 3.0


def rows(slope: float) -> list[dict[str, Any]]:
    def point(epoch: int, seed: int) -> dict[str, Any]:
        noise = 0.6 * ((epoch * 7 + seed * 3) % 3)
        about = {"train_loss": 0.1, "train_accuracy": 1.0, "verdict": "trustworthy" if epoch else "not a minimum"}
        return {"epoch": epoch, "llc": 50.0 + epoch, "llc_se": 1.0, "bits": slope * epoch + noise, "kept": 0.3, **about}

    return [{"seed": seed, "curve": [point(epoch, seed) for epoch in range(5)]} for seed in range(4)]


@pytest.mark.parametrize(("slope", "word"), [(1.0, "Seen"), (-1.0, "Not seen (the opposite)"), (0.0, "Cannot tell")])
def test_the_claim_says_what_the_rows_say(slope: float, word: str) -> None:
    first, second, last = claim(rows(slope)).splitlines()
    assert first.startswith(f"{word}: λ̂ rises with the bits") and second.startswith("Cannot tell")
    assert last == "λ̂: 16 of 20 trustworthy, 4 “not a minimum”."
    assert len(table(rows(slope))) == 20 and len(figure(rows(slope)).axes) == 2


@pytest.mark.slow
def test_smoke_on_one_and_two_processes(tmp_path: Path) -> None:
    found = smoke_on_one_and_two("compression", tmp_path)
    assert [row["seed"] for row in found] == [0, 1] or len(found) == 2
    for row in found:
        assert [point["epoch"] for point in row["curve"]] == [1, 4]
        assert len({point["step_size"] for point in row["curve"]}) == 1
