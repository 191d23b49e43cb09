"""scripts/mala_vs_sgld.py: the network is the paper's, the claim says what the numbers say, the smoke preset runs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from script_runner import ROOT, smoke_on_one_and_two

sys.path.insert(0, str(ROOT / "scripts"))
import mala_vs_sgld
from relu_network import ReLUNetwork, own_labels, squared_error
from sampling_alone import sample_alone

from hf_llc.samplers import HMC, make_kernel


def test_the_network_is_the_papers() -> None:
    """Widths, variances, and a minimum of loss 0; the global generator does not matter."""
    torch.manual_seed(1)
    model = ReLUNetwork(mala_vs_sgld.WIDTHS)
    torch.manual_seed(2)
    again = ReLUNetwork(mala_vs_sgld.WIDTHS)
    assert sum(p.numel() for p in model.parameters()) == 850
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    weights = [layer.weight.detach() for layer in model.layers]
    assert [w.shape[1] for w in weights] == [10, 20, 20]
    for w in weights:
        assert float(w.abs().max()) <= 2 * w.shape[1] ** -0.5  # truncated at two sd, which leaves a variance of 0.77
        assert 0.6 < float(w.var()) * w.shape[1] < 1.0
    assert not model.layers[-1].bias.any() and model.layers[1].bias.all()
    problem = own_labels(model, 300)
    assert problem.n == problem.num_examples == 300
    assert float(problem.examples["inputs"].abs().max()) <= 10 < 2 * float(problem.examples["inputs"].std()) + 0.1
    with torch.no_grad():
        assert float(squared_error(model, problem.examples).mean()) < 1e-12


def test_copies_are_copies() -> None:
    model = ReLUNetwork([10, 20, 10], copies=(1, 8))
    for parameter in model.layers[0].parameters():
        assert torch.equal(parameter[1], parameter[0]) and torch.equal(parameter[8], parameter[0])
        assert not torch.equal(parameter[2], parameter[0])


@pytest.mark.slow
def test_mala_is_hmc_of_one_leapfrog_step() -> None:
    """The authors ran MALA as HMC with one leapfrog step of size √ε: the same law, so the same λ̂ within its error."""
    n = 100
    law = {"nbeta": n / math.log(n), "localization": 1.0, "batch_size": n, "num_steps": 400, "seed": 3}
    problem = own_labels(ReLUNetwork([3, 4, 2]), n)
    kernels = (make_kernel("mala", 1e-4), HMC(1e-4, num_leapfrog_steps=1))
    means = []
    for first, kernel in enumerate(kernels):
        trace = sample_alone(problem, kernel, chains=range(100 * first, 100 * first + 24), **law)
        means.append(law["nbeta"] * trace.loss.mean(axis=1))
    error = math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in means))
    assert error < 0.05 * means[0].mean()
    assert abs(means[0].mean() - means[1].mean()) < 4 * error


def _rows(mala: float, noise: float, *, slower: float = 10.0) -> list[dict[str, object]]:
    return [
        {
            "n": n,
            "sampler": sampler,
            "run": run,
            "llc": (100.0 if sampler == "sgld" else mala) + noise * (run - 1),
            "step_size_bias": 0.0,
            "seconds": 1.0 if sampler == "sgld" or n == 100 else slower,
        }
        for n in (100, 1000)
        for sampler in mala_vs_sgld.SAMPLERS
        for run in range(3)
    ]


@pytest.mark.parametrize(
    ("mala", "noise", "verdict"), [(101.0, 1.0, "seen"), (130.0, 1.0, "not seen"), (101.0, 30.0, "cannot tell")]
)
def test_the_claim_says_what_the_numbers_say(mala: float, noise: float, verdict: str) -> None:
    said = mala_vs_sgld.claim(mala_vs_sgld.summarize(_rows(mala, noise)))  # type: ignore[arg-type]
    assert f"standard errors included: {verdict}." in said
    assert "SGLD's 1.0 times and MALA's 10.0 times" in said


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    rows = smoke_on_one_and_two("mala_vs_sgld", tmp_path)
    assert len(rows) == 8 and all(row["llc"] > 0 for row in rows)
