"""Which way of stepping several chains is taken, and that it changes nothing but the speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_evaluator import Branching, compute
from torch import nn
from worker import examples, network, squared_error

from hf_llc.calibration import chain_batching
from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem
from hf_llc.workflow.run_folder import RunFolder


def chosen(model: nn.Module, *, num_chains: int = 3, num_groups: int = 1) -> dict[str, Any]:
    inputs, labels = examples(network())
    data = {"inputs": inputs, "labels": labels}
    problem = Problem(model, data, lambda f, b: squared_error(f(b["inputs"]), b["labels"]), n=len(inputs), unit="")
    posterior = Posterior(problem)
    return chain_batching.fastest_chain_batch(
        posterior, num_chains=num_chains, num_groups=num_groups, batch_size=20, seed=0
    )


def clock(monkeypatch: pytest.MonkeyPatch, one: float, together: float) -> list[int]:
    """Let the measurement find these seconds; the list counts how often it was made."""
    calls: list[int] = []

    def times(first: Any, second: Any) -> tuple[float, float]:
        calls.append(1)
        return one, together

    monkeypatch.setattr(chain_batching, "times_in_turn", times)
    return calls


def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 1.0, 1.5)  # three chains in half the time of three
    assert chosen(network()) == {"chain_batch_size": 3, "one": 1000.0, "together": 500.0}
    assert chosen(network(), num_groups=2)["chain_batch_size"] == 2  # this process's share
    clock(monkeypatch, 1.0, 2.9)  # 3 % faster is not worth the memory
    assert chosen(network())["chain_batch_size"] == 1


def test_what_cannot_be_batched_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = clock(monkeypatch, 1.0, 0.1)
    assert chosen(Branching())["chain_batch_size"] == 1
    assert chosen(network(), num_chains=2, num_groups=2)["chain_batch_size"] == 1
    assert not calls


def test_the_measurement_takes_the_fastest_round_of_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that gradients advance: a second for one chain and 1.5 for three, more in all rounds but the third."""
    now, calls = 0.0, {1: 0, 3: 0}
    gradient = Posterior.gradient

    def timed(posterior: Posterior, w: Any, *arguments: Any) -> Any:
        nonlocal now
        calls[len(w)] += 1  # the first is not measured
        now += {1: 1.0, 3: 1.5}[len(w)] * (1 if calls[len(w)] == 4 else 7)
        return gradient(posterior, w, *arguments)

    monkeypatch.setattr(Posterior, "gradient", timed)
    monkeypatch.setattr(chain_batching.time, "perf_counter", lambda: now)
    assert chosen(network()) == {"chain_batch_size": 3, "one": 1000.0, "together": 500.0}
    assert calls == {1: 6, 3: 6}


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "size"), [((1.0, 1.0), 3), ((1.0, 9.0), 1)], ids=["together", "one by one"])
def test_auto_is_the_same_as_saying_it(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], size: int
) -> None:
    clock(monkeypatch, *seconds)
    found, said = compute(chain_batch_size="auto"), compute(chain_batch_size=size)
    assert found.chain_batch_size == size
    assert found.llc_per_chain == said.llc_per_chain


@pytest.mark.slow
def test_a_resumed_run_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = clock(monkeypatch, 1.0, 1.0)
    compute(tmp_path / "whole", chain_batch_size="auto")
    run = tmp_path / "again"
    asked = RunFolder(tmp_path / "whole").recorded()
    assert asked is not None
    begun = RunFolder(run)
    begun.begin(asked, overwrite=False)
    begun.decide("batching", {"chain_batch_size": 1})
    assert compute(run, chain_batch_size="auto").chain_batch_size == 1
    assert len(calls) == 1
