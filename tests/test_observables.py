"""Observables: what they see is the model at w_t, they change no draw, and no kill loses or repeats a record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worker import SETTINGS, examples, network, squared_error

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.chains import ensemble, run_chains
from hf_llc.errors import InputError
from hf_llc.observables import OBSERVABLES, register
from hf_llc.observables.draw_store import DrawStore


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(OBSERVABLES)
    yield
    OBSERVABLES.clear()
    OBSERVABLES.update(before)


def estimate(output: Path | None = None, **settings: Any) -> LLCResult:
    model = network()
    settings = {**SETTINGS, "sampler": "sgld", "num_burnin_steps": 10, "num_draws": 40, **settings}
    return LLCEvaluator(**settings).compute(
        model, data=examples(model), loss_fn=squared_error, output=output, progress=False
    )


def total_loss(model: nn.Module) -> Tensor:
    x, y = examples(network())
    return squared_error(model(x), y).mean()


def test_the_distance_from_the_start_is_that_of_the_trace() -> None:
    start = torch.cat([p.detach().flatten() for p in network().parameters()])

    @register("square_distance")
    def square_distance(model: nn.Module) -> Tensor:
        return (torch.cat([p.flatten() for p in model.parameters()]) - start).square().sum()

    result = estimate(observe="square_distance", observe_every=20)
    assert result.observations is not None and result.trace is not None
    assert result.observations.steps.tolist() == [0, 20, 40]
    np.testing.assert_allclose(
        result.observations.values["square_distance"], result.trace.sq_distance[:, ::20], rtol=1e-5
    )


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_a_full_batch_loss_is_the_chain_s_own(sampler: str, together: int) -> None:
    """Before step t, as the trace's loss; every chain its own."""
    register("total_loss")(total_loss)
    result = estimate(
        sampler=sampler, batch_size="full", observe="total_loss", observe_every=7, chain_batch_size=together
    )
    assert result.observations is not None and result.trace is not None
    seen = result.observations.values["total_loss"]
    np.testing.assert_allclose(seen, result.trace.loss[:, ::7], rtol=1e-4, atol=1e-7)
    assert (seen[:, 1:].std(axis=0) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"chain_batch_size": 3}, {"sampler": "baoab"}, {"step_in_backward": True}])
def test_no_draw_changes(settings: dict[str, Any]) -> None:
    def rolling(model: nn.Module) -> Tensor:
        return model(torch.randn(3, 6))

    register("rolling")(rolling)
    seen, plain = estimate(observe="rolling,parameter_norms", observe_every=1, **settings), estimate(**settings)
    assert seen.trace is not None and plain.trace is not None
    np.testing.assert_array_equal(seen.trace.loss, plain.trace.loss)
    assert seen.llc == plain.llc and plain.observations is None


@pytest.mark.slow
def test_norms_are_those_of_the_parameters_and_are_kept_in_the_folder(tmp_path: Path) -> None:
    result = estimate(tmp_path, observe="parameter_norms")
    loaded = LLCResult.load(tmp_path).observations
    assert loaded is not None and result.observations is not None
    expected = [p.detach().norm().item() for p in network().parameters()]
    np.testing.assert_allclose(loaded.values["parameter_norms"][:, 0], [expected] * 3, rtol=1e-6)
    np.testing.assert_array_equal(loaded.values["parameter_norms"], result.observations.values["parameter_norms"])
    np.testing.assert_array_equal(loaded.steps, result.observations.steps)


class _Kill(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("is_block_written", [True, False])
def test_a_kill_around_a_save_loses_and_repeats_no_record(
    is_block_written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the block and the state, and before both."""
    whole = estimate(tmp_path / "whole", observe="parameter_norms", observe_every=3)
    victim, name = (run_chains.ChainStore, "save") if is_block_written else (DrawStore, "append")
    method, calls = getattr(victim, name), []

    def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise _Kill
        method(*args)

    with monkeypatch.context() as patch:
        patch.setattr(victim, name, dying)
        patch.setattr("hf_llc.parallel.pacing._FLUSH_STEPS", 10)
        with pytest.raises(_Kill):
            estimate(tmp_path / "cut", observe="parameter_norms", observe_every=3, save_seconds=0.0)
    resumed = estimate(tmp_path / "cut", observe="parameter_norms", observe_every=3, save_seconds=0.0)
    assert whole.observations is not None and resumed.observations is not None
    np.testing.assert_array_equal(whole.observations.steps, resumed.observations.steps)
    np.testing.assert_array_equal(
        whole.observations.values["parameter_norms"], resumed.observations.values["parameter_norms"]
    )


def test_blocks_of_a_chain_are_joined_and_replaced(tmp_path: Path) -> None:
    store = DrawStore(tmp_path)
    store.append([0, 1], [10, 15], {"x": torch.tensor([[9.0, 9.0], [9.0, 9.0]])})  # left behind by a kill
    store.append([2], [10], {"x": torch.tensor([[7.0]])})
    store.append([0, 1], [0, 5], {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    store.append([0, 1], [10], {"x": torch.tensor([[5.0], [6.0]])})
    seen = store.read([0, 1], [0, 5, 10, 15]).values["x"]
    np.testing.assert_array_equal(seen, [[1, 2, 5, np.nan], [3, 4, 6, np.nan]])
    np.testing.assert_array_equal(store.read([2], [10]).values["x"], [[7]])


@pytest.mark.parametrize(
    ("value", "match"), [(3.0, "a tensor of real numbers, got 'float'"), (torch.tensor(1j), "got 'a complex tensor'")]
)
def test_what_is_no_tensor_of_numbers_is_refused(value: Any, match: str) -> None:
    register("bad")(lambda model: value)
    with pytest.raises(InputError, match=match):
        estimate(observe="bad")


def test_a_shape_that_changes_is_refused() -> None:
    sizes = iter([1, 1, 2])
    register("growing")(lambda model: torch.zeros(next(sizes)))
    with pytest.raises(InputError, match=r"growing changed its shape, got \(2,\)"):
        estimate(observe="growing", num_chains=1)


def test_names_that_are_taken_or_unknown_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parameter_norms", "a,b", " "):
        with pytest.raises(InputError, match="not a name for a new observable"):
            register(name)
    monkeypatch.setattr(ensemble, "run_chains", lambda *args, **kwargs: pytest.fail("refused too late"))
    with pytest.raises(InputError, match=r"unknown observable, got 'norm'; allowed: parameter_norms"):
        estimate(observe="parameter_norms, norm")
