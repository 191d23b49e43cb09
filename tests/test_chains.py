"""Chains: the same draws however they are batched, stopped and resumed; and a model left as it was found."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from targets import power_problem, sample
from torch import nn

from hf_llc.backend.random_streams import BatchStream, NoiseStream, uniform
from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.run_chains import run_chains
from hf_llc.config import Sampler
from hf_llc.errors import InputError
from hf_llc.loading.loaded_weights import check_weights
from hf_llc.parallel.processes import chain_batches
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved, sampled_parameters
from hf_llc.problem import Problem
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk

CPU = torch.device("cpu")
NBETA, GAMMA, EPS = 20.0, 1.0, 0.002
SAMPLERS = get_args(Sampler)
FREEZE_AFTER = 15


def regression(*, examples: int = 23, width: int = 5, seed: int = 0) -> Problem:
    """A tanh network with tied weights, BatchNorm and dropout on noisy data: nothing symmetric about it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator)
    y = torch.randn(examples, width, generator=generator)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
            self.two.weight = self.one.weight
            self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(0.5)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.two(self.drop(torch.tanh(self.norm(self.one(inputs)))))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
    return Problem(
        net,
        {"inputs": x, "labels": y},
        lambda forward, batch: ((forward(batch["inputs"]) - batch["labels"]) ** 2).sum(-1),
        n=examples,
        unit="nats per example",
    )


def run(
    problem: Problem,
    chains: list[int],
    *,
    until: int,
    folder: Path,
    sampler: str = "sgld",
    batch_size: int = 4,
    micro: int | None = None,
    gradient: str = "plain",
):
    with preserved(problem.model):
        posterior = Posterior(problem, micro_batch_size=micro)
        law = Law(nbeta=NBETA, localization=GAMMA)
        return run_chains(
            lambda: Walk(posterior, law, chains, seed=3, batch_size=batch_size, gradient=gradient),
            make_kernel(sampler, EPS, freeze_after=FREEZE_AFTER),
            chains,
            until=until,
            store=ChainStore(folder),
        )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batched_chains_follow_single_ones(sampler: str, tmp_path: Path) -> None:
    """The same noise and batches: equal to rounding in the first steps."""
    settings = {"until": 25, "sampler": sampler, "batch_size": 23 if sampler == "hmc" else 4}
    together = run(regression(), [0, 1, 2], folder=tmp_path / "a", **settings)
    for chain in range(3):
        alone = run(regression(), [chain], folder=tmp_path / "b", **settings)
        np.testing.assert_allclose(together.loss[chain], alone.loss[0], rtol=2e-4)
        np.testing.assert_allclose(together.init_loss[chain], alone.init_loss[0], rtol=1e-12)
        np.testing.assert_allclose(together.accept_prob[chain], alone.accept_prob[0], rtol=1e-2)
        np.testing.assert_allclose(together.kinetic_temperature[chain], alone.kinetic_temperature[0], rtol=2e-4)


def test_chains_differ(tmp_path: Path) -> None:
    trace = run(regression(), [0, 1], until=10, folder=tmp_path)
    assert not np.array_equal(trace.loss[0], trace.loss[1])
    assert not np.array_equal(trace.init_loss[0], trace.init_loss[1]), "both chains walk the same batches"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "batch_size", "gradient"),
    [
        *((sampler, 4, "plain") for sampler in SAMPLERS if sampler != "hmc"),
        *((sampler, 23, "plain") for sampler in SAMPLERS),
        ("sgld", 4, "control-variate"),
        ("baoab", 4, "control-variate"),
    ],
)
def test_a_run_in_pieces_is_the_run(sampler: str, batch_size: int, gradient: str, tmp_path: Path) -> None:
    """Stopped and continued at odd steps, bit for bit; asking for less than is there gives its beginning.

    The stops lie before and after the step at which an adaptive sampler freezes.
    """
    settings = {"sampler": sampler, "batch_size": batch_size, "gradient": gradient}
    whole = run(regression(), [0, 1], until=60, folder=tmp_path / "a", **settings)
    for until in (7, 33, 34, 60):
        pieces = run(regression(), [0, 1], until=until, folder=tmp_path / "b", **settings)
    for name in (
        "loss",
        "init_loss",
        "accept_prob",
        "sq_distance",
        "grad_dot",
        "kinetic_temperature",
        "heat",
    ):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)
    start = run(regression(), [0, 1], until=20, folder=tmp_path / "b", **settings)
    np.testing.assert_array_equal(start.loss, whole.loss[:, :20])


@pytest.mark.parametrize("sampler", ["psgld", "rmsprop-sgld", "baoab", "sgnht"])
def test_a_lost_kernel_state_is_seen(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above turns red for each sampler that has a state if it is not restored."""
    whole = run(regression(), [0], until=30, folder=tmp_path / "a", sampler=sampler)
    run(regression(), [0], until=7, folder=tmp_path / "b", sampler=sampler)
    monkeypatch.setattr("hf_llc.samplers.kernel.Kernel.load_state_dict", lambda self, state: None)
    pieces = run(regression(), [0], until=30, folder=tmp_path / "b", sampler=sampler)
    assert not np.array_equal(pieces.loss, whole.loss)


def test_interrupt_saves_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C in the middle leaves a state from which the run goes on to the same trace."""
    whole = run(regression(), [0], until=200, folder=tmp_path / "a")
    problem = regression()
    inner = problem.losses
    calls = 0

    def losses(forward, batch):
        nonlocal calls
        calls += 1
        if calls == 70:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(forward, batch)

    problem.losses = losses
    with pytest.raises(KeyboardInterrupt):
        run(problem, [0], until=200, folder=tmp_path / "b")
    _, saved, _ = ChainStore(tmp_path / "b").load([0], CPU)
    assert 50 < saved.shape[1] < 80
    resumed = run(regression(), [0], until=200, folder=tmp_path / "b")
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    one = run(regression(), [0], until=20, folder=tmp_path / "a", batch_size=10)
    parts = run(regression(), [0], until=20, folder=tmp_path / "b", batch_size=10, micro=3)
    np.testing.assert_allclose(parts.loss, one.loss, rtol=1e-4)


@pytest.mark.slow
def test_a_chain_that_blows_up_stops_alone(tmp_path: Path) -> None:
    """NaN from the first bad step on, for the chain concerned only."""
    problem = power_problem(torch.tensor([2.0]), power=6)
    law = {"sampler": "sgld", "step_size": 0.06, "nbeta": 20.0, "localization": 0.0, "steps": 220}
    trace = sample(problem, num_chains=3, **law)
    bad = ~np.isfinite(trace.loss)
    assert bad.any(axis=1).tolist() == [False, True, True], "pick a step at which some chains diverge, late"
    for chain, first in enumerate((220, *bad[1:].argmax(axis=1))):
        assert first > 1 and bad[chain, first:].all()
        alone = sample(problem, num_chains=1, first_chain=chain, **law)
        np.testing.assert_allclose(trace.loss[chain], alone.loss[0], rtol=1e-3)


def test_the_model_is_left_as_found(tmp_path: Path) -> None:
    """Weights and buffers bit for bit, modes, flags, gradients, tied weights, global RNG; also after an error."""
    problem = regression()
    model = problem.model
    model.train()
    model.drop.eval()  # type: ignore[union-attr]
    model.one.bias.requires_grad_(False)  # type: ignore[union-attr]
    model.two.bias.grad = torch.ones(5)  # type: ignore[union-attr]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pointers = {k: p.data_ptr() for k, p in model.named_parameters()}
    modes = [m.training for m in model.modules()]
    rng, numpy_rng = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    run(problem, [0], until=30, folder=tmp_path / "a")
    run(problem, [0, 1], until=30, folder=tmp_path / "b", sampler="mala")
    problem.losses = lambda forward, batch: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        run(problem, [0], until=30, folder=tmp_path / "c")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert {k: p.data_ptr() for k, p in model.named_parameters()} == pointers
    assert [m.training for m in model.modules()] == modes
    assert model.one.weight is model.two.weight  # type: ignore[union-attr]
    assert not model.one.bias.requires_grad and torch.equal(model.two.bias.grad, torch.ones(5))  # type: ignore
    assert model.one.weight.grad is None  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), rng)
    assert np.array_equal(np.random.get_state()[1], numpy_rng)  # type: ignore[index]


def test_frozen_parameters_do_not_move(tmp_path: Path) -> None:
    problem = regression()
    problem.model.one.bias.requires_grad_(False)  # type: ignore[union-attr]
    assert sum(p.numel() for p in sampled_parameters(problem.model).values()) == 25 + 5 + 5 + 5
    run(problem, [0], until=2, folder=tmp_path / "partly")
    w, _, _ = ChainStore(tmp_path / "partly").load([0], CPU)
    assert w is not None and w.shape == (1, 25 + 5 + 5 + 5)
    problem.model.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter to sample"):
        run(problem, [0], until=2, folder=tmp_path)


def test_noise_depends_on_seed_chain_step_and_chunk_alone() -> None:
    shape = (1, 100)

    def noise(seed: int, chain: int, step: int, chunk: int) -> torch.Tensor:
        return NoiseStream(seed, [chain], CPU).fill(torch.empty(shape), step=step, chunk=chunk)

    base = noise(0, 0, 0, 0)
    assert torch.equal(base, noise(0, 0, 0, 0))
    for other in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        assert not torch.equal(base, noise(*other)), other
    many = NoiseStream(0, [4, 0, 9], CPU).fill(torch.empty(3, 100), step=0, chunk=0)
    assert torch.equal(many[1:2], base)


def test_uniform_numbers_are_uniform() -> None:
    values = np.array([uniform(0, c, t, purpose="accept") for c in range(20) for t in range(500)])
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * len(values))
    assert ((values > 0) & (values < 1)).all()
    assert abs((values < 0.1).mean() - 0.1) < 4 * np.sqrt(0.09 / len(values))


@pytest.mark.parametrize(("n", "m"), [(23, 4), (10, 3), (8, 8), (5, 1)])
def test_batches_in_turn_use_every_example_equally(n: int, m: int) -> None:
    """Over n steps each example is used m times; within a batch none twice."""
    stream = BatchStream(0, [0, 1], num_examples=n, batch_size=m, device=CPU)
    counts = torch.zeros(2, n)
    ordered = BatchStream(0, [0, 1], num_examples=n, batch_size=m, device=CPU, order="in-turn")
    for step in range(n):
        indices = stream.in_turn(step)
        chosen = ordered.indices(step)
        assert chosen is None if indices is None else chosen is not None and torch.equal(chosen, indices)
        if indices is None:
            assert m == n
            return
        assert indices.shape == (2, m)
        assert all(len(set(row.tolist())) == m for row in indices)
        for chain in range(2):
            counts[chain] += torch.bincount(indices[chain], minlength=n)
    assert (counts == m).all()


def test_batches_of_chains_begin_anywhere_and_depend_on_chain_and_step_alone() -> None:
    """All n beginnings come up about equally often, whatever came before and in other chains; no example twice."""
    n, m, steps = 7, 3, 7000
    stream = BatchStream(0, [0, 1], num_examples=n, batch_size=m, device=CPU)
    assert stream.orders is not None
    drawn = [stream.indices(step) for step in range(steps)]
    first, other = (
        np.array([int((stream.orders[chain, :n] == indices[chain, 0]).nonzero()) for indices in drawn])  # type: ignore[index]
        for chain in range(2)
    )
    assert (np.abs(np.bincount(first, minlength=n) - steps / n) < 5 * np.sqrt(steps / n)).all()
    for before, after in ((first[:-1], first[1:]), (first, other)):
        pairs = np.bincount(n * before + after, minlength=n * n)
        assert (np.abs(pairs - steps / n**2) < 5 * np.sqrt(steps / n**2)).all()
    again = BatchStream(0, [1], num_examples=n, batch_size=m, device=CPU).indices(13)
    assert again is not None and torch.equal(again[0], drawn[13][1])  # type: ignore[index]
    assert all(len(set(row.tolist())) == m for indices in drawn[:50] for row in indices)  # type: ignore[union-attr]


def test_chain_batches_do_not_depend_on_processes() -> None:
    assert chain_batches(7, 3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_low_precision_parameters_are_refused() -> None:
    with pytest.raises(InputError, match=r"bfloat16.*allowed.*float32"):
        check_weights(nn.Linear(2, 2).to(torch.bfloat16))
