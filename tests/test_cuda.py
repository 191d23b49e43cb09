"""On a GPU: the noise's law, the exact laws, and that every mode takes the same steps. Not collected without one."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from targets import assert_mean, draws_of, expected_llc, power_problem, sample
from test_memory import Net, assert_same, problem, run
from torch import Tensor, nn

from hf_llc.backend.random_streams import NoiseStream
from hf_llc.posterior import chain_buffer
from hf_llc.posterior import posterior as posterior_module
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk

GPU = torch.device("cuda")
H = torch.linspace(0.2, 2.0, 6)
NBETA, GAMMA = 25.0, 3.0


def on_gpu(problem: Problem) -> Problem:
    """The same problem with its model on the GPU."""
    problem.model.to(GPU)
    return problem


def noise(size: int, *, start: int = 0, step: int = 7, chains: tuple[int, ...] = (0, 5)) -> Tensor:
    """Of some elements."""
    return NoiseStream(1, chains, GPU).philox.fill(torch.empty(len(chains), size, device=GPU), step=step, start=start)


def test_noise_is_standard_normal_and_depends_on_its_place_alone() -> None:
    """Moments and quantiles of 2 × 10⁷ numbers; no correlation with neighbours, steps, chains; no effect of cuts."""
    size = 10**7
    x = noise(size).double()
    for moment, truth, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((x**moment).mean()) - truth) < 5 * math.sqrt(variance / x.numel())
    for z, p in [(-3.0, 0.0013498980316), (-1.0, 0.1586552539315), (0.5, 0.6914624612740), (2.0, 0.9772498680518)]:
        assert abs(float((x < z).double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / x.numel())
    others = [x[:, 1:], x[:, 256:], x[:, 1024:], noise(size, step=8).double(), noise(size, step=-1).double()]
    for other in [*others, x.flip(0)]:
        width = other.shape[1]
        assert abs(float((x[:, :width] * other).mean())) < 5 / math.sqrt(2 * width)
    assert torch.equal(noise(3000, start=1777).double(), x[:, 1777:4777])
    assert not torch.equal(noise(3000, start=2**32), noise(3000))
    alone = noise(3000, chains=(5,))
    assert torch.equal(alone[0].double(), x[1, :3000])


@pytest.mark.parametrize(("sampler", "step_size"), [("sgld", 0.04), ("mala", 0.04), ("baoab", 0.01)])
def test_quadratic_law(sampler: str, step_size: float) -> None:
    """λ̂ of a quadratic, with SGLD's finite-step excess."""
    kernel: Any = make_kernel("baoab", step_size) if sampler == "baoab" else sampler
    trace = sample(
        on_gpu(power_problem(H)), sampler=kernel, step_size=step_size, nbeta=NBETA, localization=GAMMA, num_chains=50,
        steps=600,
    )  # fmt: skip
    law = "mala" if sampler == "baoab" else sampler
    truth = expected_llc(H.numpy(), sampler=law, step_size=step_size, nbeta=NBETA, localization=GAMMA)
    assert_mean(draws_of(trace, nbeta=NBETA, burnin=200), truth)


@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_kernels_that_draw_for_themselves_take_the_same_steps(sampler: str) -> None:
    """One launch a segment, against torch's operations on the noise filled in."""

    def after(fused: bool) -> Tensor:
        given = on_gpu(problem())
        with preserved(given.model):
            walk = Walk(Posterior(given), Law(nbeta=10.0, localization=2.0), [0, 3], seed=1, batch_size=4)
            if not fused:
                walk.philox = None
            kernel = make_kernel(sampler, 1e-3)
            for step in range(1, 6):
                kernel.step(walk, walk.batches.indices(step), step=step, measure=False)
            return walk.w.clone()

    torch.testing.assert_close(after(True), after(False), rtol=1e-5, atol=1e-6)


def test_the_modes_take_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same twice bit for bit; recorded or not, flat or not, inside the backward pass: to rounding."""
    plain = run(on_gpu(problem()), tmp_path / "plain")
    again = run(on_gpu(problem()), tmp_path / "again")
    assert_same(plain, again)
    monkeypatch.setattr(chain_buffer, "_GPU_FLAT_LIMIT", 0)
    pieces = run(on_gpu(problem()), tmp_path / "pieces")
    within = run(on_gpu(problem()), tmp_path / "within", step_in_backward=True)
    monkeypatch.setattr(posterior_module, "GradientGraphs", lambda: None)
    eager = run(on_gpu(problem()), tmp_path / "eager")
    for other in (pieces, within, eager):
        torch.testing.assert_close(other[1], plain[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other[0].loss, plain[0].loss, rtol=1e-5)


class Waits(Net):
    """A model whose code looks at a number on the device, which no graph can record."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) if float(inputs.sum()) < math.inf else inputs


def test_what_cannot_be_recorded_runs_as_it_is(tmp_path: Path) -> None:
    """And what runs after it, too."""
    plain = run(on_gpu(problem()), tmp_path / "a")
    waits = run(on_gpu(problem(Waits)), tmp_path / "b")
    torch.testing.assert_close(waits[1], plain[1], rtol=1e-5, atol=1e-6)
    assert_same(run(on_gpu(problem()), tmp_path / "c"), plain)


def test_a_recording_follows_the_weights_and_the_batch() -> None:
    """Gradients of a recorded model against autograd at other weights, for one chain and for three."""
    given = on_gpu(problem())
    twin = copy.deepcopy(given.model)
    with preserved(given.model):
        posterior = Posterior(given)
        for chains in (1, 3):
            for seed in range(3):
                w = posterior.start(chains)
                generator = torch.Generator(GPU).manual_seed(seed)
                w += 0.1 * torch.randn(w.shape, generator=generator, device=GPU)
                indices = torch.randint(12, (chains, 4), generator=generator, device=GPU)
                losses, (grad,) = posterior.gradient(w, indices)
                for chain in range(chains):
                    nn.utils.vector_to_parameters(w[chain], twin.parameters())
                    batch = {name: x[indices[chain].cpu()].to(GPU) for name, x in given.examples.items()}
                    loss = given.losses(twin, batch).mean()
                    found = torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)
                    flat = [
                        torch.zeros_like(p) if g is None else g for g, p in zip(found, twin.parameters(), strict=True)
                    ]
                    torch.testing.assert_close(grad[chain], nn.utils.parameters_to_vector(flat), rtol=1e-4, atol=1e-6)
                    assert float(losses[chain]) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_attention_of_several_chains() -> None:
    """Gradients of a transformer's chains together against one by one: fused attention does not run under vmap."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=24, n_embd=32, n_layer=2, n_head=4)).eval()
        ids = torch.randint(50, (6, 24))

    def losses(forward: Any, batch: Any) -> Tensor:
        logits = forward(input_ids=batch["ids"], use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.mT, batch["ids"][:, 1:], reduction="none").mean(1)

    given = on_gpu(Problem(model, {"ids": ids}, losses, n=6, unit="nats"))
    with preserved(given.model):
        posterior = Posterior(given)
        w = posterior.start(3)
        w += 0.01 * torch.randn(w.shape, generator=torch.Generator(GPU).manual_seed(0), device=GPU)
        indices = torch.tensor([[0, 1], [2, 3], [4, 5]], device=GPU)
        together = posterior.gradient(w, indices)[1]
        each = [posterior.gradient(w[i : i + 1].clone(), indices[i : i + 1])[1] for i in range(3)]
    for piece, *parts in zip(together, *each, strict=True):
        torch.testing.assert_close(piece, torch.cat(parts), rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:TensorFloat32")
@pytest.mark.parametrize("options", [{"compile": True}, {"mixed_precision": "bf16"}])
def test_options_stay_near(options: dict[str, Any], tmp_path: Path) -> None:
    """Compiled: to rounding. bfloat16: the trace to a few percent, and weights that went somewhere."""
    plain = run(on_gpu(problem()), tmp_path / "plain")
    other = run(on_gpu(problem()), tmp_path / "other", **options)
    tolerance = 1e-4 if "compile" in options else 0.05
    np.testing.assert_allclose(other[0].loss, plain[0].loss, rtol=tolerance)


def test_the_embedded_default_agrees_with_the_processor() -> None:
    """λ̂ of the model that comes with the package, on both devices, within three standard errors."""
    from hf_llc import LLCEvaluator

    found = {
        device: LLCEvaluator(num_chains=2, max_steps=300, batch_size=4, localization=1000.0, num_draws=50).compute(
            device=device, max_examples=64
        )
        for device in ("cpu", "cuda")
    }
    one, two = found["cpu"], found["cuda"]
    error = math.hypot(one.llc_se, two.llc_se)
    assert abs(one.llc - two.llc) < 3 * error
