"""Before any work: the loss is a function of (weights, example), and computing it changes nothing else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from torch import Tensor, nn
from torch.nn import functional as F
from worker import squared_error

from hf_llc import LLCEvaluator
from hf_llc.backend.torch_modes import own_modes
from hf_llc.errors import InputError
from hf_llc.posterior.weights import preserved

SHORT: dict[str, Any] = {
    "num_chains": 2,
    "num_draws": 10,
    "num_burnin_steps": 5,
    "batch_size": 8,
    "step_size": 1e-3,
    "localization": 5.0,
    "check_localization": False,
}


class Net(nn.Module):
    """A small tanh network; `middle` stands between its layers."""

    count: Tensor
    cache: Tensor

    def __init__(self, middle: Callable[[Net, Tensor], Tensor] = lambda _, h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.middle = nn.Linear(4, 8), nn.Linear(8, 2), middle
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)
        self.group = nn.BatchNorm1d(8)
        self.generator = torch.Generator().manual_seed(0)
        self.numpy_generator = np.random.default_rng(0)
        self.calls, self.last = 0, torch.zeros(8)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.middle(self, self.up(x))))


def data(net: Net) -> tuple[Tensor, Tensor]:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return x, torch.randn(40, 2, generator=torch.Generator().manual_seed(2))


def written(h: Tensor, write: Callable[[], Any]) -> Tensor:
    with torch.no_grad():
        write()
    return h


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


def counted_noise(net: Net, h: Tensor) -> Tensor:
    net.calls += 1
    return h + 0.01 * net.calls


def remembered(net: Net, h: Tensor) -> Tensor:
    net.last = 0.5 * net.last + h.detach().mean(0)
    return h + net.last


def batch_hooked(net: Net, h: Tensor) -> Tensor:
    net.group.train()  # a module that switches itself back to training
    return net.group(h)


def replaced(net: Net, h: Tensor) -> Tensor:
    net.up.weight = nn.Parameter(net.up.weight.detach().clone())
    return h


FAULTS: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "dropout": (lambda _, h: F.dropout(h, 0.2), "random numbers"),
    "rare dropout": (lambda _, h: F.dropout(h, 1e-6), "random numbers"),
    "noise": (lambda _, h: h + 0.1 * torch.randn_like(h), "random numbers"),
    "numpy noise": (lambda _, h: h + float(np.random.rand()), "random numbers"),
    "python noise": (lambda _, h: h + random.random(), "random numbers"),
    "own generator": (lambda net, h: h + 1e-3 * torch.randn(h.shape, generator=net.generator), "second pass"),
    "own numpy generator": (lambda net, h: h + 1e-3 * net.numpy_generator.normal(), "second pass"),
    "a count in Python": (counted_noise, "second pass"),
    "a running mean": (remembered, "second pass"),
    "a clock": (lambda _, h: h * (1 + time.perf_counter() % 1), "second pass"),
    "a slow drift": (lambda net, h: counted_noise(net, h * 1e4) / 1e4, "drifts from pass to pass"),
    "a count in a buffer": (lambda net, h: written(h, lambda: net.count.add_(1)), "writes a buffer"),
    "a buffer replaced": (lambda net, h: written(h, lambda: setattr(net, "count", net.count + 1)), "writes a buffer"),
    "a cache that grows": (lambda net, h: written(h, lambda: net.cache.add_(1)), "writes a buffer"),
    "running statistics": (batch_hooked, "writes a buffer"),
    "batch norm": (lambda net, h: net.norm(h), "fails on a batch of 1|batch"),
    "centred": (lambda _, h: h - h.mean(0), "alone"),
    "centred without one": (lambda _, h: h - h.mean(0) if len(h) > 3 else h, "what else is in the batch"),
    "place": (lambda _, h: h + torch.arange(len(h))[:, None] / 10, "its place"),
    "sorted": (lambda _, h: h + h.cumsum(0) / 10, "its place"),
    "a weight scaled": (lambda net, h: written(h, lambda: net.up.weight.mul_(0.9)), "writes a weight"),
    "a weight's data": (lambda net, h: written(h, lambda: net.up.bias.data.add_(1e-3)), "writes a weight"),
    "a weight renormed": (
        lambda net, h: h * F.embedding(torch.tensor([1]), net.up.weight, max_norm=0.1).sum(),
        "writes",
    ),
    "a weight replaced": (replaced, "writes a weight"),
    "gradients asked for": (lambda _, h: h * 2 if torch.is_grad_enabled() else h, "gradients"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_loss_that_is_no_function_is_refused(name: str) -> None:
    """One line, before any step; the model and all random numbers are as before."""
    middle, line = FAULTS[name]
    net = Net(middle)
    x, y = data(net)
    before = {k: v.clone() for k, v in net.named_parameters()} | {k: v.clone() for k, v in net.named_buffers()}
    parameters = list(net.parameters())
    states = torch.get_rng_state(), random.getstate(), numpy_state()
    with pytest.raises(InputError, match=line) as caught:
        LLCEvaluator(**SHORT).compute(net, data=(x, y), loss_fn=squared_error, progress=False)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    for key, value in [*net.named_parameters(), *net.named_buffers()]:
        assert torch.equal(value, before[key]), key
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert numpy_state() == states[2]


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x *= 2
        return self.layer(x)


def centred_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return squared_error(outputs - outputs.mean(0), labels)


def writing_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    labels += 1
    return squared_error(outputs, labels)


def noisy_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return squared_error(outputs, labels) * (1 + 0.1 * torch.rand(len(outputs)))


CALLS: list[int] = []


def counting_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    CALLS.append(1)
    return squared_error(outputs, labels) * (1 + 1e-3 * len(CALLS))


def ranked_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


@pytest.mark.parametrize(
    ("loss_fn", "line"),
    [
        (centred_loss, "alone"),
        (writing_loss, "input"),
        (noisy_loss, "random"),
        (ranked_loss, "alone|batch"),
        (counting_loss, "the same outputs is another"),
    ],
)
def test_a_loss_fn_that_is_no_function_is_refused(loss_fn: Any, line: str) -> None:
    net = Net()
    x, y = data(net)
    x, kept = (x, net(x).detach()), y.clone()
    with pytest.raises(InputError, match=line):
        LLCEvaluator(**SHORT).compute(net, data=(x[0], y), loss_fn=loss_fn, progress=False)
    assert torch.equal(y, kept)


def test_a_forward_that_writes_its_input_is_refused() -> None:
    x, y = data(Net())
    kept = x.clone()
    with pytest.raises(InputError, match="writes into its input"):
        LLCEvaluator(**SHORT).compute(Writes(), data=(x, y), loss_fn=squared_error, progress=False)
    assert torch.equal(x, kept)


def estimate(net: nn.Module, pairs: Any, **settings: Any) -> list[float]:
    result = LLCEvaluator(**{**SHORT, **settings}).compute(net, data=pairs, loss_fn=squared_error, progress=False)
    return [float(x) for x in result.llc_per_chain]


@pytest.mark.slow
def test_sound_models_pass() -> None:
    """Caches that fill once, buffers replaced by their like, dropout in training only, batch norm with statistics."""

    def fills(net: Net, h: Tensor) -> Tensor:
        return written(h, lambda: net.cache.fill_(1.0))

    def same(net: Net, h: Tensor) -> Tensor:
        return written(h, lambda: setattr(net, "count", net.count.clone()))

    for middle in (fills, same, lambda net, h: net.group(h), lambda net, h: F.dropout(h, 0.5, net.training)):
        net = Net(middle)
        assert len(estimate(net, data(net))) == 2


@pytest.mark.slow
def test_rounding_is_no_fault() -> None:
    """At a perfect fit losses are rounding alone; large and small units, float64, and a forward pass in bfloat16."""

    class Half(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x).float()

    for scale in (1e-6, 1.0, 1e6):
        net = Net()
        with torch.no_grad():
            net.down.weight.mul_(scale)
        x, _ = data(net)
        assert len(estimate(net, (x, net(x).detach()), nbeta=1.0)) == 2
    assert len(estimate(Half(Net()), data(Net()))) == 2
    double = Net().double()
    assert len(estimate(double, tuple(t.double() for t in data(double)))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.float16),
    ],
    ids=["bf16", "inference", "no_grad", "fp16"],
)
def test_the_callers_modes_make_no_difference(mode: Callable[[], Any]) -> None:
    net = Net()
    pairs = data(net)
    expected = estimate(net, pairs)
    with mode():
        assert estimate(net, pairs) == expected


def flushes_denormals() -> bool:
    return float(torch.tensor([1e-310], dtype=torch.float64).mul(1.0)) == 0


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_zero_within_and_as_they_were_after(before: bool) -> None:
    if not torch.set_flush_denormal(before):
        pytest.skip("this CPU cannot")
    seen: list[bool] = []

    def loss_fn(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(flushes_denormals())
        return squared_error(out, target)

    net = Net()
    try:
        LLCEvaluator(**SHORT).compute(net, data=data(net), loss_fn=loss_fn, progress=False)
        assert all(seen)
        assert flushes_denormals() == before
    finally:
        torch.set_flush_denormal(False)


def test_threads_that_begin_within_flush_denormals_too() -> None:
    seen: list[bool] = []
    with own_modes():
        thread = threading.Thread(target=lambda: seen.append(flushes_denormals()))
        thread.start()
        thread.join()
    assert seen == [torch.set_flush_denormal(False)]


@pytest.mark.slow
def test_two_threads_on_one_model_are_one_after_the_other() -> None:
    net = Net()
    pairs = data(net)
    expected = estimate(net, pairs)
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(estimate(net, pairs))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def test_preserved_restores_values_and_tensors() -> None:
    """Weights and buffers written, replaced, added, removed, resized; the order of names too."""
    net = Net()
    before = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    values = {name: tensor.detach().clone() for name, tensor in before.items()}
    with preserved(net), torch.no_grad():
        net.up.weight.mul_(2)
        net.up.bias = nn.Parameter(torch.zeros(8))
        net.down.weight.data = torch.zeros(2, 8)
        net.count += 1
        net.cache.resize_(7)
        net.register_buffer("more", torch.zeros(1))
        net.down.register_parameter("more", nn.Parameter(torch.zeros(1)))
        del net.group.running_mean
    after = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert list(after) == list(before)
    for name, tensor in after.items():
        assert tensor is before[name] and torch.equal(tensor, values[name]), name


def test_a_forward_without_gradients_is_refused() -> None:
    class Frozen(Net):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(InputError, match="no gradient"):
        estimate(Frozen(), data(Net()))


class Rows(nn.Module):
    """A table whose rows are looked up by `look`."""

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.look = nn.Parameter(torch.ones(10, 2)), look

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x, self.table)


@pytest.mark.parametrize(
    ("look", "line"),
    [
        (lambda x, w: F.embedding(x, w, sparse=True).sum(1), "sparse gradients, got 'Embedding'"),
        (lambda x, w: F.embedding_bag(x, w, mode="sum", sparse=True), "sparse gradients, got 'EmbeddingBag'"),
        (lambda x, w: w.gather(0, x[:, :2], sparse_grad=True), "sparse gradients, got 'Gather'"),
        (lambda x, w: F.embedding(x, w, scale_grad_by_freq=True).sum(1), "not that of the loss.*got 'Embedding'"),
        (lambda x, w: F.embedding(x, w).sum(1), ""),
    ],
)
def test_gradients_that_cannot_be_used_are_refused(look: Any, line: str) -> None:
    x = torch.arange(60).reshape(20, 3) % 7
    if not line:
        assert len(estimate(Rows(look), (x, torch.randn(20, 2)))) == 2
        return
    with pytest.raises(InputError, match=line):
        estimate(Rows(look), (x, torch.randn(20, 2)))


NOISY = """
import sys, torch
from worker import network, examples, squared_error, SETTINGS
from hf_llc import LLCEvaluator
from hf_llc.backend.torch_modes import own_modes
from hf_llc.errors import InputError
from hf_llc.parallel.processes import process_state
model = network()
pairs = examples(model)
rank = process_state().process_index
model[1].register_forward_hook(lambda m, i, o: o + 0.1 * torch.randn_like(o) if rank == 1 else o)
try:
    LLCEvaluator(**SETTINGS).compute(model, data=pairs, loss_fn=squared_error)
except InputError as error:
    print("refused", rank, "random numbers" in str(error), flush=True)
"""


@pytest.mark.slow
def test_all_processes_refuse_what_one_sees(tmp_path: Path) -> None:
    """A model that is noisy on the second process alone: both say so, and none waits for the other."""
    (tmp_path / "noisy.py").write_text(NOISY, encoding="utf-8")
    said = run(tmp_path / "noisy.py", processes=2)
    assert [text.strip() for text in said] == ["refused 0 True", "refused 1 True"]
