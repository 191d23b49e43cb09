"""Compiled gradients: the eager ones to rounding, and never those of another shape or another model."""

from __future__ import annotations

import pytest
import torch
from test_chains import regression
from torch import nn

from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem


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


def test_what_was_compiled_is_found_by_shape_and_layout() -> None:
    """Chains and batch sizes in turn, as a pilot and its chains ask for them; views of an order; all examples."""
    problem = network(nn.Tanh)
    compiled, eager = posterior_of(problem, compile=True), posterior_of(problem, compile=False)
    order = torch.stack([torch.randperm(30, generator=torch.Generator().manual_seed(c)) for c in range(3)])
    asked = [(1, order[:1, 3:8]), (3, order[:, 3:8]), (3, order[:, 4:9]), (3, order[:, 3:8].contiguous()), (1, None),
             (1, order[:1, 5:10])]  # fmt: skip
    for chains, indices in asked:
        check(compiled, eager, moved(eager, chains), indices)
    assert compiled._compiled is not None and len(compiled._compiled.made) == 4


def test_models_of_the_same_shapes_are_kept_apart() -> None:
    indices = torch.tensor([[1, 2, 3]])
    for activation in (nn.Tanh, nn.ReLU):
        problem = network(activation)
        eager = posterior_of(problem, compile=False)
        check(posterior_of(problem, compile=True), eager, moved(eager, 1), indices)


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


@pytest.mark.parametrize("micro", [None, 3])
def test_tied_weights_and_micro_batches(micro: int | None) -> None:
    problem = regression()
    problem.model.eval()
    eager = posterior_of(problem, compile=False)
    check(posterior_of(problem, compile=True, micro=micro), eager, moved(eager, 1), torch.tensor([[5, 1, 7, 2, 9, 3]]))
