"""minimize that serves its data alone: seen on examples held out, and said in the name of the verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_llc.calibration import held_out as module
from hf_llc.calibration.held_out import held_out
from hf_llc.config import SampleConfig
from hf_llc.judging.moved import is_overfitted
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.report import summary
from hf_llc.workflow import nearest_minimum
from hf_llc.workflow.estimate_model import estimate_problem

KINDS, N = 1000, 4000


def means(shift: float, *, num_examples: int = N) -> Problem:
    """½ (y − w_k)², y with noise of sd 0.1: a weight for each of 1000 kinds of example, four examples of a kind.

    The true w is 0. w* is that, or so far from it in every coordinate.
    """
    kind = torch.arange(num_examples) % KINDS
    y = 0.1 * torch.randn(num_examples, generator=torch.Generator().manual_seed(2))
    model = nn.Embedding(KINDS, 1)
    model.weight.data.fill_(shift)
    losses: Any = lambda forward, batch: 0.5 * (forward(batch["kind"])[:, 0] - batch["y"]) ** 2  # noqa: E731
    return Problem(model, {"kind": kind, "y": y}, losses, n=num_examples, unit="nats per example", trivial_loss=100.0)


def seen(problem: Problem, folder: Path, **settings: Any) -> dict[str, Any] | None:
    asked = {"rate": 1e-3, "steps": 2000, "batch_size": 500, "seal": "", "save_seconds": math.inf} | settings
    with preserved(problem.model), torch.no_grad():
        return held_out(Posterior(problem), state=folder / "state", **asked)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "rises"), [(0.0, True), (0.1, False)])
def test_loss_of_examples_held_out(shift: float, rises: bool, tmp_path: Path) -> None:
    """From the true w it rises, at the minimum of the others by σ²/2 times 1/3.6, the number of them. Else it falls."""
    found = seen(means(shift), tmp_path)
    assert found is not None and found["held_out_examples"] == 400 and found["num_gradients"] == 500 + 1
    assert (found["held_out_rise"] > 3 * found["held_out_se"]) == rises
    assert found["held_out_after"] == pytest.approx(found["held_out_before"] + found["held_out_rise"])
    moved = {"relative_distance": 0.1, **found}
    assert is_overfitted(moved) == rises and not is_overfitted({**moved, "relative_distance": 0.001})
    again = seen(means(shift), tmp_path)  # from the state that is there: nothing is left to do
    assert again == found


def test_nothing_is_said_of_few_examples(tmp_path: Path) -> None:
    assert seen(means(0.0, num_examples=190), tmp_path) is None
    assert seen(means(0.0), tmp_path, steps=3) is None
    assert not is_overfitted(None) and not is_overfitted({"relative_distance": 0.5})


ASKED = SampleConfig(
    sampler="baoab", step_size=0.06, friction=0.5, nbeta=480.0, localization=0.2, batch_size=500, num_chains=4,
    gradient="control-variate", chain_batch_size=4, num_burnin_steps=60, num_draws=120, minimize=True,
    minimize_steps=1200,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "is_named"), [(0.0, True), (0.1, False)])
def test_the_verdict_names_it_and_the_number_stands(
    shift: float, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The λ̂ of the point found is right, bit for bit as if nothing had been held out; its verdict says what it is."""
    result = estimate_problem(means(shift), ASKED)
    name = "trustworthy, of an overfitted point"
    assert result.verdict == (name if is_named else "trustworthy") and result.is_trustworthy
    assert [reason.name == "overfitted" for reason in result.reasons].count(True) == is_named
    for text in (summary(result, encoding="utf-8"), render_section(result)):
        assert (name in text) == is_named
    assert result.minimize is not None and result.minimize["num_gradients"] == 1200 + 301
    if not is_named:
        return
    monkeypatch.setattr(nearest_minimum, "held_out", lambda *args, **settings: None)
    other = estimate_problem(means(shift), ASKED)
    assert other.llc == result.llc and other.verdict == "trustworthy"
    assert result.num_gradients - other.num_gradients == 301 and module.SHARE == 4
