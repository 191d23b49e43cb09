"""Gradients at w*: those kept of all examples are the ones computed, and save a gradient a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama
from torch.nn import functional as F

from hf_llc.config import SampleConfig
from hf_llc.parallel.processes import Processes
from hf_llc.posterior import anchor_gradients
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem
from hf_llc.samplers.walk import Walk
from hf_llc.workflow import descents
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data


def language_model(length: int = 20) -> Problem:
    """24 random texts of random tokens."""
    ids = torch.randint(3, 320, (24, length), generator=torch.Generator().manual_seed(0))

    def losses(forward: Any, batch: Any) -> torch.Tensor:
        ids = batch["input_ids"]
        logits = forward(input_ids=ids, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).mean(1)

    return Problem(llama(), {"input_ids": ids}, losses, n=24 * (length - 1), unit="nats per token")


def posterior_of(problem: Problem) -> Posterior:
    return Posterior(problem)


def counted(problem: Problem) -> list[int]:
    """Examples of each pass through the model, from now on."""
    passes, inner = [], problem.losses
    problem.losses = lambda forward, batch: passes.append(len(batch["input_ids"])) or inner(forward, batch)  # type: ignore[assignment]
    return passes


def test_kept_gradients_are_the_computed_ones() -> None:
    posterior = posterior_of(language_model())
    kept = posterior.anchor_gradients
    assert kept.are_kept
    indices = torch.tensor([[0, 5, 23, 7], [9, 9, 2, 1]])
    for chain, found in enumerate(zip(*[part.unbind() for part in kept.of(indices, posterior.start(2))], strict=True)):
        _, exact = posterior.gradient(posterior.start(1), indices[chain : chain + 1])
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b[0], rtol=1e-4, atol=1e-6)
    for a, b in zip(kept.mean, posterior.gradient(posterior.start(1), None)[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_step_takes_one_gradient() -> None:
    problem = language_model()
    walk = Walk(
        posterior_of(problem), Law(nbeta=50.0, localization=10.0), [0], seed=0, batch_size=4, gradient="control-variate"
    )
    passes = counted(problem)
    walk.gradient(walk.batches.indices(0))
    assert passes == [4] + 24 * [1]
    passes.clear()
    walk.gradient(walk.batches.indices(1))
    assert passes == [4]


@pytest.mark.slow
def test_the_same_chain_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it took is what it says: every gradient of a batch, the table aside."""
    asked = SampleConfig(
        sampler="sgld", gradient="control-variate", step_size=1e-5, nbeta=50.0, localization=10.0, num_chains=2,
        num_burnin_steps=10, num_draws=30, num_steps_between_draws=1, batch_size=4, check_localization=False,
    )  # fmt: skip
    results, passes = [], []
    monkeypatch.setattr(
        descents, "has_whole_gradients", lambda posterior: False
    )  # its passes are counted in tests/test_descent.py
    for size in (anchor_gradients._KEPT_BYTES, 0):
        monkeypatch.setattr(anchor_gradients, "_KEPT_BYTES", size)
        problem = language_model()
        seen = counted(problem)
        results.append(estimate_problem(problem, asked))
        passes.append(seen.count(4))
    one, two = results
    assert one.trace is not None and two.trace is not None
    torch.testing.assert_close(torch.tensor(one.trace.loss), torch.tensor(two.trace.loss), rtol=1e-4, atol=1e-5)
    assert passes[0] == one.num_gradients and passes[1] == two.num_gradients == 2 * one.num_gradients


def test_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of short examples, in a group, beyond two GiB."""
    assert not posterior_of(language_model(8)).anchor_gradients.are_kept
    posterior = posterior_of(language_model())
    posterior.group.size = 2
    assert not posterior.anchor_gradients.are_kept
    monkeypatch.setattr(anchor_gradients, "_KEPT_BYTES", 24 * posterior.num_parameters * 4)
    assert posterior_of(language_model()).anchor_gradients.are_kept
    monkeypatch.setattr(anchor_gradients, "_KEPT_BYTES", 24 * posterior.num_parameters * 4 - 1)
    assert not posterior_of(language_model()).anchor_gradients.are_kept


@pytest.mark.parametrize("gradient", ["plain", "control-variate"])
def test_chains_without_a_control_variate_hold_no_gradients_of_examples(gradient: str, tmp_path: Path) -> None:
    """A pilot may have looked at them."""
    problem = language_model()
    asked = SampleConfig(
        sampler="baoab",
        gradient=gradient,
        nbeta=50.0,
        batch_size=4,
        step_size=1e-5,
        localization=10.0,  # type: ignore[arg-type]
    )
    begun = Run(problem, decide_from_data(asked, problem), RunFolder(tmp_path), Processes())
    anchor = begun.posterior.anchor_gradients
    before = [mean.clone() for mean in anchor.mean]
    assert anchor.kept_bytes == 24 * begun.posterior.num_parameters * 4 and "_rows" in vars(anchor)
    begun.prepare()
    assert ("_rows" in vars(anchor)) == (gradient == "control-variate")
    assert all(torch.equal(a, b) for a, b in zip(before, anchor.mean, strict=True))
