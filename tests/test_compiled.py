"""Compiled gradients: the eager ones to rounding, and never those of another shape or another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_chains import regression
from torch import Tensor, nn

from hf_llc.calibration import step_compilation
from hf_llc.config import SampleConfig
from hf_llc.parallel.processes import Processes
from hf_llc.posterior import one_pass
from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data


def posterior_of(problem: Problem, *, compile: bool, micro: int | None = None) -> Posterior:
    return Posterior(problem, compile=compile, micro_batch_size=micro)


def network(activation: type[nn.Module]) -> Problem:
    """The same shapes and numbers of parameters whatever the activation."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 2))
    x, y = torch.randn(30, 4, generator=generator), torch.randn(30, 2, generator=generator)
    return Problem(
        model,
        {"inputs": x, "labels": y},
        lambda forward, batch: ((forward(batch["inputs"]) - batch["labels"]) ** 2).sum(-1),
        n=30,
        unit="nats per example",
    )


def moved(posterior: Posterior, chains: int) -> torch.Tensor:
    w = posterior.start(chains)
    return w + 0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1))


def check(one: Posterior, other: Posterior, w: torch.Tensor, indices: torch.Tensor | None) -> None:
    (loss, grad), (expected, exact) = one.gradient(w, indices), other.gradient(w.clone(), indices)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for a, b in zip(grad, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_was_compiled_is_found_by_shape_and_layout() -> None:
    """Chains and batch sizes in turn, as a pilot and its chains ask for them; views of an order; all examples."""
    problem = network(nn.Tanh)
    compiled, eager = posterior_of(problem, compile=True), posterior_of(problem, compile=False)
    order = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(c)) for c in range(3)])
    asked = [(1, order[:1, 3:8]), (3, order[:, 3:8]), (3, order[:, 4:9]), (3, order[:, 3:8].contiguous()), (1, None),
             (1, order[:1, 5:10])]  # fmt: skip
    for chains, indices in asked:
        check(compiled, eager, moved(eager, chains), indices)
    assert len(compiled.one_pass.compiled.made) == 4


@pytest.mark.slow
def test_models_of_the_same_shapes_are_kept_apart() -> None:
    indices = torch.tensor([[1, 2, 3]])
    for activation in (nn.Tanh, nn.ReLU):
        problem = network(activation)
        eager = posterior_of(problem, compile=False)
        check(posterior_of(problem, compile=True), eager, moved(eager, 1), indices)


@pytest.mark.slow
def test_models_of_other_sizes_follow_each_other() -> None:
    """As a curve or a benchmark brings them; on sequences, whose layers torch cannot batch if sizes are symbols."""
    for width in (6, 9, 11):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        x = torch.randn(30, 5, width, generator=torch.Generator().manual_seed(0))
        problem = Problem(
            model,
            {"inputs": x},
            lambda forward, batch: forward(batch["inputs"]).square().mean((-1, -2)),
            n=30,
            unit="nats per example",
        )
        eager = posterior_of(problem, compile=False)
        check(posterior_of(problem, compile=True), eager, moved(eager, 2), torch.tensor([[1, 2, 3], [4, 5, 6]]))


@pytest.mark.slow
@pytest.mark.parametrize("micro", [None, 3])
def test_tied_weights_and_micro_batches(micro: int | None) -> None:
    problem = regression()
    problem.model.eval()
    eager = posterior_of(problem, compile=False)
    check(posterior_of(problem, compile=True, micro=micro), eager, moved(eager, 1), torch.tensor([[5, 1, 7, 2, 9, 3]]))


class Uncompiled:
    """In place of `CompiledStep`: the same function, compiled in no time. It lists the sizes that it was called for."""

    called: list[tuple[int, int]]

    def __init__(self, method: Any, *, factor: float = 1.0) -> None:
        self.method, self.factor = method, factor

    def __call__(self, w: Tensor, batch: Any, size: int) -> tuple[Tensor, list[Tensor]]:
        self.called.append((len(w), size))
        loss, pieces = self.method(w, batch, size)
        return loss, [self.factor * piece for piece in pieces]


def uncompiled(
    monkeypatch: pytest.MonkeyPatch,
    *,
    seconds: tuple[float, float] = (1.0, 0.7),
    factor: float = 1.0,
    worth: float = 0.0,
) -> list[tuple[int, int]]:
    """Nothing is compiled; an eager and a compiled gradient take these seconds, and a trial is worth so many."""
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(Uncompiled, "called", called, raising=False)
    monkeypatch.setattr(one_pass, "CompiledStep", lambda method: Uncompiled(method, factor=factor))
    monkeypatch.setattr(step_compilation, "times_in_turn", lambda eager, compiled: seconds)
    monkeypatch.setattr(step_compilation, "WORTH_A_TRIAL", worth)
    return called


def decided(*, num_gradients: float = 1e9) -> bool:
    posterior = posterior_of(network(nn.Tanh), compile=False)
    found = step_compilation.compile_if_faster(posterior, num_gradients=num_gradients, num_chains=2, batch_size=5)
    assert not posterior.one_pass.is_compiled(2, 5)
    return found["compile"]


def test_compiled_gradients_are_taken_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uncompiled(monkeypatch) == [] and decided()
    assert uncompiled(monkeypatch, seconds=(1.0, 0.97)) == [] and not decided()


def test_short_chains_another_function_and_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    called = uncompiled(monkeypatch, worth=240.0)
    assert not decided(num_gradients=10.0) and called == []
    uncompiled(monkeypatch, factor=1.01)
    assert not decided()

    def refuse(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(Uncompiled, "__call__", refuse)
    assert not decided()


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_run_keeps_what_it_found(is_faster: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the chains' gradients are compiled, and a run that goes on does not measure again."""
    found = uncompiled(monkeypatch, seconds=(1.0, 0.5 if is_faster else 2.0))
    sampled = SampleConfig(
        num_chains=2, num_draws=10, num_burnin_steps=5, batch_size=5, sampler="sgld", step_size=1e-4, localization=10.0,
        compile="auto", check_localization=False,
    )  # fmt: skip
    settings = decide_from_data(sampled, network(nn.Tanh))
    first = opened(settings, tmp_path)
    first.prepare()
    assert first.posterior.one_pass.is_compiled(1, 5) == is_faster and found == [(1, 5)]
    found = uncompiled(monkeypatch, seconds=(1.0, 2.0 if is_faster else 0.5))
    result = opened(settings, tmp_path).result(0.0)
    assert result.compile == is_faster
    assert (set(found) == {(1, 5)} and len(found) >= 30) if is_faster else found == []


def opened(settings: SampleConfig, folder: Path) -> Run:
    kept = RunFolder(folder)
    kept.join("this", "sealed")
    run = Run(network(nn.Tanh), settings, kept, Processes())
    run.measure_anchor()
    return run
