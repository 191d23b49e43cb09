"""The paper's options of the estimator: batches in turn, and draws of all examples, through every door."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from targets import shifted_problem
from test_evaluator import compute
from test_kernel_laws import LAW, SMALL, H

from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.run_chains import run_chains
from hf_llc.config import SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.publishing.card_section import _sampling, render_section
from hf_llc.publishing.report import render
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk
from hf_llc.studies.comparison import compare
from hf_llc.studies.like import like

OPTIONS: dict[str, Any] = {"batch_order": "in-turn", "draw_loss": "full"}


@pytest.mark.slow
def test_a_result_says_its_options_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal has more lines
    usual, other = compute(), compute(tmp_path / "other", num_steps_between_draws=2, num_draws=30, **OPTIONS)
    assert (usual.batch_order, usual.draw_loss) == ("random", "batch")
    assert (other.batch_order, other.draw_loss) == ("in-turn", "full")
    assert other.trace is not None
    kept = other.trace.loss[:, 40:]
    np.testing.assert_array_equal(kept[:, ::2], kept[:, 1::2])  # a draw of two steps has one L_n
    assert (other.trace.init_loss == other.init_loss).all()
    assert other.llc_plain == pytest.approx(other.llc)
    assert "batches in turn" in {reason.name for reason in other.reasons if reason.is_note}
    for text in (render_section(other), render(other)):
        assert "20, walked in turn, L_n of all examples at the draws" in text
    assert "in turn" not in render_section(usual) + render(usual)
    assert OPTIONS.items() <= _sampling(other).items() and not OPTIONS.keys() & _sampling(usual).keys()
    asked = like(tmp_path / "other").with_sample({})
    assert OPTIONS.items() <= asked.items()
    remarks = " ".join(compare([usual, other], ["a", "b"]).remarks)
    assert "batch_order random of a" in remarks and "draw_loss batch of a" in remarks


def test_settings_without_the_options_are_what_they_were() -> None:
    """Folders of runs that were begun before go on."""
    assert not OPTIONS.keys() & as_dict(SampleConfig()).keys()
    assert OPTIONS.items() <= as_dict(SampleConfig(**OPTIONS)).items()
    for name in OPTIONS:
        with pytest.raises(InputError, match=f"{name} has a value of the wrong kind"):
            SampleConfig(**{name: "sometimes"})


def test_a_killed_chain_of_such_draws_goes_on_as_if_nothing_had_been() -> None:
    problem = shifted_problem(H, num_examples=40, spread=0.2)
    posterior = Posterior(problem)

    def run(folder: str, until: int) -> np.ndarray:
        law, stream = Law(**LAW), {"batch_order": "in-turn", "full_loss_every": 5}
        make = lambda: Walk(posterior, law, [0, 1], seed=0, batch_size=4, **stream)  # noqa: E731
        return run_chains(make, make_kernel("sgld", SMALL), [0, 1], until=until, store=ChainStore(folder)).loss

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as killed:
        run(killed, 13)
        np.testing.assert_array_equal(run(killed, 24), run(whole, 24))


def test_draws_of_all_examples_are_as_far_apart_as_draws_are() -> None:
    decided = {"batch_size": 4, "step_size": 1e-3, "localization": 1.0, "nbeta": 1.0, "sampler": "sgld"}
    config = SampleConfig(gradient="plain", num_steps_between_draws=7, **decided)
    assert ChainSettings.of(config).full_loss_every == 0
    assert ChainSettings.of(SampleConfig(**{**as_dict(config), "draw_loss": "full"})).full_loss_every == 7
