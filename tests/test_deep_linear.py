"""Deep linear networks: the model, the paper's generator, groups of inputs for inputs, and λ against sampling."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from targets import sample
from torch import Tensor
from transformers import AutoModel

from hf_llc import LLCEvaluator
from hf_llc.errors import InputError
from hf_llc.judging import statistics
from hf_llc.models import DeepLinearConfig, DeepLinearModel
from hf_llc.models.deep_linear import SIZES, DeepLinearNetwork, random_network
from hf_llc.posterior.curvature import Curvature
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import HMC


def network(widths: list[int], ranks: list[int], *, seed: int = 1) -> DeepLinearNetwork:
    """Layers in general position with these ranks and singular values 1.5 … 0.7, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = DeepLinearModel(DeepLinearConfig(widths)).eval()
    for parameter, rank in zip(model.parameters(), ranks, strict=True):
        u, s, v = torch.linalg.svd(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), False)
        parameter.data = (u[:, :rank] * torch.linspace(1.5, 0.7, len(s)).double()[:rank]) @ v[:rank]
    return DeepLinearNetwork(model, tuple(ranks), seed)


def _product(model: DeepLinearModel) -> Tensor:
    return reduce(lambda product, weight: weight @ product, [p.detach() for p in model.parameters()])


def test_model(tmp_path: Path) -> None:
    """The product of its layers; the mean squared error; the same after a round trip through AutoModel."""
    model = network([4, 3, 5], [3, 2]).model
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    found = model(x, labels=y)
    torch.testing.assert_close(found.prediction, x @ _product(model).T)
    torch.testing.assert_close(found.loss, ((x @ _product(model).T - y) ** 2).mean())
    assert model(x).loss is None
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(again, DeepLinearModel) and again.config.widths == [4, 3, 5]
    assert torch.equal(again(x).prediction, found.prediction)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1k", "10k"])
def test_generator(size: str) -> None:
    """Layers, widths and ranks in their ranges, about half the ranks cut; weights of the authors' law."""
    row, layers, widths, cut, scaled, total = SIZES[size], set(), set(), [], [], 0
    for seed in range(40):
        found = random_network(size, seed)
        layers.add(len(found.ranks))
        widths.update(found.widths)
        for weight, rank in zip(found.model.parameters(), found.ranks, strict=True):
            total += 1
            assert torch.linalg.matrix_rank(weight.double(), rtol=1e-5) == rank >= 1
            if rank < min(weight.shape):
                cut.append(rank / min(weight.shape))
            else:
                scaled.append(weight.detach().flatten() * weight.shape[1] ** 0.5)
    assert min(layers) == row.layers[0] and max(layers) == row.layers[1] - 1
    assert row.widths[0] <= min(widths) < row.widths[0] + 5 and row.widths[1] - 5 <= max(widths) < row.widths[1]
    # U{0 … k − 1} is 0 once in k: a little less than half are cut
    assert abs(len(cut) / total - 0.48) < 4 * 0.5 / total**0.5
    assert 0.3 < np.mean(cut) < 0.7
    values = torch.cat(scaled)
    assert values.abs().max() <= 2 + 1e-5
    assert abs(values.var() - 0.7737) < 0.02  # of N(0, 1) truncated at two standard deviations


def test_generator_depends_on_its_seed_alone() -> None:
    before = torch.get_rng_state()
    one = random_network("1k", 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    two, other = random_network("1k", 3), random_network("1k", 4)
    assert one.widths == two.widths and all(
        torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True)
    )
    assert one.widths != other.widths
    data, same, longer = one.problem(900), two.problem(900), one.problem(1200)
    assert torch.equal(data.examples["inputs"], same.examples["inputs"])
    assert torch.equal(data.examples["inputs"], longer.examples["inputs"][:900])
    x = data.examples["inputs"]
    assert len(x.unique()) > 0.99 * x.numel() and -10 <= x.min() < -9.9 and 9.9 < x.max() <= 10
    torch.testing.assert_close(data.examples["labels"], x @ _product(one.model).T, rtol=1e-4, atol=1e-4)


def _away(problem: Problem) -> tuple[Posterior, Tensor]:
    posterior = Posterior(problem)
    generator = torch.Generator().manual_seed(0)
    return posterior, posterior.start(3) + 0.3 * torch.randn(
        3, posterior.num_parameters, generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize(("group", "batch"), [(1200, 1), (300, 2), (4, 300), (3, 400)])
def test_groups_are_their_inputs(group: int, batch: int) -> None:
    """Loss and gradient of a batch of groups are those of the batch of their inputs, also for groups below H_0 = 4."""
    source = network([4, 3, 5], [3, 2])
    general, grouped = source.problem(1200), source.problem(1200, group=group)
    assert grouped.n == 1200 and grouped.num_examples == 1200 // group
    assert grouped.examples["inputs"].shape[1:] == (min(group, 4), 4)
    with preserved(general.model):
        posterior, w = _away(general)
        size = batch * group
        loss, grad = posterior.gradient(w, torch.arange(size).expand(3, size))
        other = Posterior(grouped)
        group_loss, group_grad = other.gradient(w, torch.arange(batch).expand(3, batch))
    assert loss.min() > 1
    torch.testing.assert_close(group_loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(group_grad[0], grad[0], rtol=1e-10, atol=1e-10)


def test_w_star_is_a_minimum() -> None:
    """No label noise: the loss at w* is zero in every example and in every group."""
    source = random_network("1k", 0)
    for group in (1, 100):
        problem = source.problem(1000, group=group)
        with preserved(problem.model):
            assert float(Posterior(problem).init_losses.max()) < 1e-9


def test_known_coefficients() -> None:
    source = network([48, 17, 13, 14], [8, 13, 13])
    assert source.coefficient == (230.5, 1)
    assert source.local_coefficient == (316, 316, 1)


def test_evaluator_takes_the_network() -> None:
    """As a plain module with the paper's loss."""
    problem = network([3, 2, 3], [2, 2]).problem(500)
    evaluator = LLCEvaluator(num_chains=2, num_draws=50, num_burnin_steps=50, step_size=1e-5, sampler="baoab")
    result = evaluator.compute(
        problem.model,
        data=(problem.examples["inputs"], problem.examples["labels"]),
        loss_fn=lambda outputs, labels: (outputs.prediction - labels).square().mean(-1),
        progress=False,
    )
    assert result.descent is not None and abs(result.descent["loss_drop"]) < 1e-3
    assert result.sampler == "baoab" and result.num_gradients == 2 * (100 + 5) + result.descent["num_gradients"]
    assert result.trace is not None and np.isfinite(result.trace.kinetic_temperature).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_network("2k", 0), "no such size of network, got '2k'; allowed: 1k, 10k"),
        (lambda: network([3, 2], [2]).problem(1), "too few inputs"),
        (lambda: network([3, 2], [2]).problem(10, group=3), "got 3; allowed: a divisor of 10"),
        (lambda: network([3, 2], [2]).problem(10, group=0), "got 0"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def _long_hmc(source: DeepLinearNetwork, *, nbeta: float, step: float, leaps: int, steps: int) -> tuple[float, float]:
    """λ̂ near w* at γ = 1000 and its standard error: full batches, 20 chains, half of each burned."""
    problem = source.problem(10**5, group=10**5)
    law = {"nbeta": nbeta, "localization": 1000.0}
    with preserved(problem.model):
        posterior = Posterior(problem)
        curvature = Curvature(posterior, nbeta=nbeta).refresh(posterior.start(1), None, iterations=20)
        curvature += law["localization"]
    kernel = HMC(step / curvature, num_leapfrog_steps=leaps)
    trace = sample(problem, sampler=kernel, num_chains=20, steps=steps, **law)
    assert 0.6 < trace.accept_prob.mean() < 0.99
    draws = nbeta * (trace.loss - trace.init_loss)[:, steps // 2 :]
    return float(draws.mean()), statistics.standard_error(draws)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "ranks", "local", "everywhere"),
    [
        ([6, 6, 6, 6], [6, 2, 6], 18, 15.5),
        ([3, 3, 6], [3, 1], 9, 6),
        ([4, 5, 5, 5], [4, 1, 5], 10, 8.5),
        ([5, 3, 3, 4], [1, 3, 3], 8, 6),
    ],
)
def test_local_coefficient_of_regular_blocks_against_hmc(
    widths: list[int], ranks: list[int], local: float, everywhere: float
) -> None:
    """A layer of lower rank than the others, all of whose free blocks are regular: λ(w*) is above the global value.

    No product of the other layers has a small singular value here, which would leave its directions to γ.
    """
    source = network(widths, ranks)
    assert (source.local_coefficient.lower, source.coefficient.learning_coefficient) == (local, everywhere)
    llc, error = _long_hmc(source, nbeta=7.2e4, step=0.3, leaps=20, steps=200)
    assert error < local / 60
    assert abs(llc - local) < 0.02 * local + 3 * error  # γ takes γ/(nβh + γ) of each direction's share


@pytest.mark.slow
def test_local_coefficient_of_a_chain_against_hmc() -> None:
    """6-6-2-3 with ranks 3, 0, 2: three regular entries of six and a chain of blocks 3-3-2, λ(w*) = 3 + 5/2.

    At finite nβ and γ the chain's share is lower and known: with blocks X (3 × 3) and Y (2 × 3) of variance 1/γ and the
    last layer's singular values s_k, nβL is Σ_k c s_k² ‖y_k X‖² with c = nβ·(100/3)/3 (the inputs' variance over the
    number of outputs). Given X the rows of Y are Gaussian, which leaves an average over the singular values of X.
    The global value is 3.
    """
    source = network([6, 6, 2, 3], [3, 0, 2])
    assert (source.local_coefficient.lower, source.coefficient.learning_coefficient) == (5.5, 3)
    nbeta = 7.2e5
    llc, error = _long_hmc(source, nbeta=nbeta, step=0.6, leaps=80, steps=100)
    x = np.random.default_rng(0).standard_normal((200_000, 3, 3))
    squares = np.linalg.svd(x, compute_uv=False)[:, None, :] ** 2
    scales = 2 * nbeta * 100 / 9 / 1000.0**2 * np.array([1.5, 0.7])[:, None] ** 2
    stretched = scales * squares
    weight = ((1 + stretched) ** -0.5).prod(axis=(1, 2))
    share = 0.5 * (stretched / (1 + stretched)).sum(axis=(1, 2))
    truth = 3 + (weight * share).sum() / weight.sum()
    assert 5.0 < truth < 5.5 and error < 0.15
    assert abs(llc - truth) < 0.02 * truth + 3 * error
