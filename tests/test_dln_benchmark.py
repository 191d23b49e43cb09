"""scripts/dln_benchmark.py: budgets, the summary of known rows, SGD-trained weights, the smoke preset."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from script_runner import ROOT, smoke_on_one_and_two

sys.path.insert(0, str(ROOT / "scripts"))
import dln_benchmark

from hf_llc.models.deep_linear import SIZES, random_network


def row(seed: int, exact: float, llc: float, *, local: float | None = None, **changes: Any) -> dict[str, Any]:
    local = exact if local is None else local
    values = {
        "size": "1k", "sampler": "auto", "budget": 1.0, "trained": False, "seed": seed, "exact": exact,
        "local_low": local, "local_high": local, "llc": llc, "llc_se": 1.0, "error": llc / exact - 1,
        "verdict": "trustworthy", "gradients": 100,
    }  # fmt: skip
    return {**values, **changes}


def test_paper_is_table_1() -> None:
    for size, spec in SIZES.items():
        found = dln_benchmark.settings("paper", size, 1.0)
        assert (found.sampler, found.step_size, found.localization, found.num_chains) == (
            "sgld", spec.step_size, 1.0, 1,
        )  # fmt: skip
        kept = found.num_draws * found.num_steps_between_draws
        assert isinstance(found.num_burnin_steps, int) and kept == spec.num_steps // 10
        assert found.num_burnin_steps + kept == spec.num_steps


@pytest.mark.parametrize("budget", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("size", ["1k", "10k", "100k"])
def test_auto_stays_within_the_gradients_of_the_paper(size: str, budget: float) -> None:
    found = dln_benchmark.settings("auto", size, budget)
    pilot = 50 * min(max(found.max_steps // 10 // 50, 4), 20)
    looks = 4 * (pilot // 50 + 1) + 21 + 4 * (pilot // 50)
    sampled = found.num_chains * (found.max_steps + found.max_steps // 20 + 1)
    assert pilot + looks + sampled <= budget * SIZES[size].num_steps


@pytest.mark.slow
def test_asymptotic_has_full_batches_and_more_data() -> None:
    auto, found = (dln_benchmark.settings(name, "1k", 0.1) for name in ("auto", "asymptotic"))
    assert auto.nbeta is not None and found.nbeta == pytest.approx(100 * auto.nbeta)
    job = {"size": "1k", "sampler": "asymptotic", "budget": 0.1, "trained": False, "seed": 15}
    row = dln_benchmark.work(job, trained_steps=0)
    assert row["heat"] == 0 and row["gradients"] <= 1000
    assert row["llc"] == pytest.approx(row["exact"], rel=0.25)  # its own error: 1,000 gradients are few


@pytest.mark.slow
def test_chains_that_break_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what they cost is counted; whatever happens, w* is as it was."""
    job = {"size": "1k", "sampler": "auto", "budget": 0.1, "trained": False, "seed": 15}
    sound = dln_benchmark.work(job, trained_steps=0)
    network, _ = dln_benchmark.begin("1k", 15, 0, dln_benchmark.BATCH)
    before = [p.clone() for p in network.model.parameters()]
    with_calibration = dln_benchmark.with_calibration
    monkeypatch.setattr(
        dln_benchmark, "with_calibration", lambda s, found: replace(with_calibration(s, found), step_size=1.0)
    )
    broken = dln_benchmark.work(job, trained_steps=0)
    assert broken["llc"] == sound["llc"] and broken["gradients"] > sound["gradients"]
    assert all(a.equal(b) for a, b in zip(before, network.model.parameters(), strict=True))


def test_summary() -> None:
    rows = [
        row(0, 10.0, 11.0),
        row(1, 20.0, 18.0),
        row(2, 30.0, 33.0, local=35.0),
        row(3, 40.0, 0.0, verdict="diverged"),
    ]
    found = dln_benchmark.summary(rows)
    assert (found["networks"], found["diverged"], found["certain"]) == (4, 1, 2)
    assert found["median_abs_error"] == pytest.approx(0.1)
    assert found["z_mean"] == pytest.approx(-0.5)
    assert found["order_preserved"] == 1.0


def test_order_counts_pairs_that_differ() -> None:
    assert dln_benchmark.order_preserved([1, 2, 2], [5, 6, 4]) == pytest.approx(0.5)


def test_training_finds_a_minimum_of_its_own() -> None:
    network = random_network("1k", 1)
    truth = [p.clone() for p in network.model.parameters()]
    problem = network.problem(5000, group=500)
    dln_benchmark.train(network, problem, 400)
    with torch.no_grad():
        losses = problem.losses(network.model, problem.examples)
    assert float(losses.mean()) < 0.05 * float(problem.examples["labels"].square().mean())
    assert not any(a.equal(b) for a, b in zip(truth, network.model.parameters(), strict=True))


@pytest.mark.slow
def test_smoke_on_one_and_two_processes(tmp_path: Path) -> None:
    rows = smoke_on_one_and_two("dln_benchmark", tmp_path, unit=2)  # both samplers of a network
    assert {(r["size"], r["sampler"], r["trained"], r["seed"]) for r in rows} == {
        ("1k", sampler, *which) for sampler in ("paper", "auto") for which in ((False, 0), (False, 1), (True, 0))
    }
    assert all(r["gradients"] <= 1050 for r in rows)
