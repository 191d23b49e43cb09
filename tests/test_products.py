"""Products by oneDNN: torch's own to rounding in every layout, eager and compiled, and only the large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import _get_current_dispatch_mode

from hf_llc.backend import onednn_products
from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")

NAME = "mkldnn::_linear_pointwise"


def matrix(*shape: int, flipped: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if flipped:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator).transpose(-1, -2)
    return torch.randn(*shape, generator=generator)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CPU this is."""
    monkeypatch.setattr(onednn_products, "is_faster", lambda: True)


@pytest.mark.parametrize("shape", [(300, 90, 80), (90, 300, 20), (700, 300, 11)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("front", [(), (3,)])
def test_product(shape: tuple[int, int, int], left: bool, right: bool, front: tuple[int, ...]) -> None:
    m, k, n = shape
    a, b = matrix(*front, m, k, flipped=left), matrix(*front, k, n, flipped=right)
    found = onednn_products.product(a, b)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)
    if not front:
        bias = matrix(n, 1)[:, 0]
        exact = a.double() @ b.double() + bias
        torch.testing.assert_close(onednn_products.product(a, b, bias).double(), exact, rtol=1e-5, atol=1e-4)


class Net(nn.Module):
    """A bias, products without one, and a tied weight that is used both ways round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(100, 300), nn.Linear(300, 100, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        return x @ self.second.weight @ self.second.weight.t()


def posterior_of(**settings: Any) -> Posterior:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(Net())
    x, y = torch.randn(400, 100, generator=generator), torch.randn(400, 100, generator=generator)
    examples = {"inputs": x, "labels": y}
    problem = Problem(
        model, examples, lambda f, b: ((f(b["inputs"]) - b["labels"]) ** 2).sum(-1), n=400, unit="nats per example"
    )
    return Posterior(problem, **settings)


def gradient(posterior: Posterior, chains: int, size: int = 300) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradient away from w*, and how many products went to oneDNN."""
    w = posterior.start(chains)
    w += 0.01 * torch.randn(w.shape, generator=torch.Generator().manual_seed(2))
    indices = torch.stack([torch.arange(c, c + size) for c in range(chains)])
    posterior.gradient(w, indices)  # compiles
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        if posterior.step_in_backward:
            parts: dict[int, Tensor] = {}
            loss = posterior.gradient_in_backward(w, indices, lambda i, grad: parts.update({i: grad.clone()}))
            grad = [parts[i] for i in sorted(parts)]
        else:
            loss, grad = posterior.gradient(w, indices)
    return loss, grad, sum(event.count for event in profiler.key_averages() if event.key == NAME)


@pytest.mark.parametrize(
    ("settings", "chains"),
    [
        ({}, 1),
        ({}, 2),
        pytest.param({"compile": True}, 1, marks=pytest.mark.slow),
        pytest.param({"compile": True}, 2, marks=pytest.mark.slow),
        ({"step_in_backward": True}, 1),
        ({"gradient_checkpointing": True}, 1),
    ],
)
def test_gradients(settings: dict[str, Any], chains: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager, compiled and step by step; all products of the forward pass, and two for each in the backward pass."""
    monkeypatch.setattr(onednn_products, "is_faster", lambda: False)
    loss, grad, count = gradient(posterior_of(**settings), chains)
    assert count == 0
    monkeypatch.setattr(onednn_products, "is_faster", lambda: True)
    torch._dynamo.reset()
    again, moved, count = gradient(posterior_of(**settings), chains)
    forward = 4 + 3 if "gradient_checkpointing" in settings else 4  # what comes last is not needed again
    assert count == (forward + 2 * 4 - 1) * chains  # the inputs need no gradient
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=0)
    for a, b in zip(moved, grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("faster")
def test_steps_within_the_backward_pass_are_none_of_it() -> None:
    """Looked at operation by operation they would take longer, and leave holes in memory (half a 1.5B model's)."""
    posterior, seen = posterior_of(step_in_backward=True), []
    posterior.gradient_in_backward(
        posterior.start(1), torch.arange(300)[None], lambda *_: seen.append(_get_current_dispatch_mode())
    )
    assert seen == [None] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("compile", [False, True])
def test_small_products_stay(compile: bool) -> None:
    """Ten examples: a tenth of what is worth it at most."""
    assert gradient(posterior_of(compile=compile), 1, size=10)[2] == 0


def test_other_kinds_stay() -> None:
    a, b = matrix(300, 300).double(), matrix(300, 300).double()
    x, one, square = a.float(), torch.ones(1), matrix(300, 300)
    exact = a @ b
    with onednn_products.Products():
        for bias in (one, square):  # one number for all, one for each
            torch.testing.assert_close(torch.addmm(bias, x, x), torch.mm(x, x) + bias, rtol=1e-4, atol=1e-4)
        assert torch.equal(a @ b, exact)
        assert (a.bfloat16() @ b.bfloat16()).dtype == torch.bfloat16
        torch.testing.assert_close(a.float().to_sparse() @ b.float(), a.float() @ b.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ("vendor_id : GenuineIntel\nflags : avx2 avx512f", False),
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
        (None, False),
    ],
)
def test_where_it_is_faster(about: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if about is not None:
        (tmp_path / "cpuinfo").write_text(about)
    monkeypatch.setattr(onednn_products, "_CPU", tmp_path / "cpuinfo")
    assert onednn_products.is_faster.__wrapped__() == (expected and torch.backends.mkl.is_available())
