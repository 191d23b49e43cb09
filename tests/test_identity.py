"""What tells two runs apart: whatever could change λ̂ and is no setting; and nothing that could not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from worker import examples, network, squared_error

from hf_llc.components.part_of import part_of
from hf_llc.config import LoadConfig
from hf_llc.loading.problem_loader import load_problem
from hf_llc.workflow.identity import LOSSES, identity_of, losses_agree


class Deep(nn.Module):
    """A network with an epsilon, a float, a function and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.drop = network(), nn.LayerNorm(2), nn.Dropout(0.1)
        self.scale, self.act, self.calls = 1.0, functional.relu, 0
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.inner(x)) * self.scale + self.shift


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["fingerprint"] == other["fingerprint"] and losses_agree(one[LOSSES], other[LOSSES])


def identity(model: nn.Module, loss_fn: Any = squared_error, data: Any = None) -> dict[str, Any]:
    data = examples(network()) if data is None else data
    return identity_of(load_problem(model, data, LoadConfig(), loss_fn=loss_fn), loss_fn)


def changed(change: Callable[[Any], Any]) -> nn.Module:
    model = Deep()
    change(model)
    return model.eval()


MODELS: dict[str, Callable[[Any], Any]] = {
    "epsilon": lambda model: setattr(model.norm, "eps", 1e-6),
    "a float": lambda model: setattr(model, "scale", 1.0 + 1e-6),
    "a function": lambda model: setattr(model, "act", functional.gelu),
    "a buffer": lambda model: model.shift.add_(1e-6),
    "a layer that does nothing": lambda model: setattr(model, "drop", nn.Identity()),
    "a name": lambda model: [model.add_module("other", model.drop), delattr(model, "drop")],
    "frozen": lambda model: model.norm.weight.requires_grad_(False),
    "a class": lambda model: setattr(model, "drop", nn.AlphaDropout(0.1)),
    "a type": lambda model: setattr(model, "shift", torch.zeros(2, dtype=torch.int32)),
    "a bit of a weight": lambda model: model.norm.bias.data.add_(1e-30),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS.keys())
def test_another_model_is_another_run(change: Callable[[Any], Any]) -> None:
    """Each changes λ̂, if at all, by less than ℓ_i at w* show."""
    assert not same(identity(Deep().eval()), identity(changed(change)))


def test_the_same_model_is_the_same_run_however_often_it_was_called() -> None:
    model = Deep().eval()
    one = identity(model)
    for _ in range(3):
        model(torch.zeros(1, 6))
    assert same(one, identity(model)) and same(one, identity(Deep().eval()))


def huber(outputs: Tensor, labels: Tensor, delta: float = 50.0) -> Tensor:
    return functional.huber_loss(outputs, labels, reduction="none", delta=delta).sum(-1)


def closed(delta: float) -> Callable[..., Tensor]:
    return lambda outputs, labels: huber(outputs, labels, delta=delta)


def within(delta: float) -> Callable[..., Tensor]:
    inner = closed(delta)

    def outer(outputs: Tensor, labels: Tensor) -> Tensor:
        return inner(outputs, labels)

    return outer


class Huber:
    """A loss that is an object."""

    def __init__(self, delta: float) -> None:
        self.delta, self.calls = delta, 0

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return huber(outputs, labels, self.delta)

    def bound(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self(outputs, labels)


class HuberModule(nn.Module):
    """A loss that is a module."""

    delta: Tensor

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.register_buffer("delta", torch.tensor(delta))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return huber(outputs, labels, float(self.delta))


def literal(delta: float) -> Callable[..., Tensor]:
    return eval(f"lambda outputs, labels: huber(outputs, labels, {delta})", {"huber": huber})  # noqa: S307


LOSSES_OF_DELTA: list[Callable[[float], Any]] = [
    lambda delta: functools.partial(huber, delta=delta),
    closed,
    within,
    Huber,
    lambda delta: Huber(delta).bound,
    HuberModule,
    literal,
]


@pytest.mark.parametrize("make", LOSSES_OF_DELTA, ids=["partial", "closure", "2", "object", "method", "module", "code"])
def test_a_loss_with_another_constant_is_another_run(make: Callable[[float], Any]) -> None:
    """No example reaches the threshold at w*, nor beside it: the values of the two losses are the same there."""
    one, other = (identity(network(), make(delta)) for delta in (50.0, 40.0))
    assert losses_agree(one[LOSSES], other[LOSSES]) and one["fingerprint"] != other["fingerprint"]
    assert same(one, identity(network(), make(50.0)))


def test_a_loss_that_counts_its_calls_is_the_same_run() -> None:
    loss, seen = Huber(1.0), []

    def listed(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(seen))
        return squared_error(outputs, labels)

    for each in (loss, loss.bound, listed):
        assert same(identity(network(), each), identity(network(), each))


@pytest.mark.parametrize("at", [0, 68, 202])
def test_other_data_of_the_same_shape_are_another_run(at: int) -> None:
    x, y = examples(network())
    other = y.clone()
    other[at, 0] += 1e-6
    assert not same(identity(network(), data=(x, y)), identity(network(), data=(x, other)))
    assert not same(identity(network(), data=(x, y)), identity(network(), data=(x.flip(0), y.flip(0))))


def test_other_parts_of_the_weights_are_other_runs() -> None:
    """Also where the same mask is that of another parameter of that shape, and the names are the same."""
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Linear(6, 2))
    half = torch.arange(36).reshape(6, 6) < 18
    parts: list[Any] = ["all", "0.weight", "0.weight+2.weight"]
    parts += [{"0.weight": True, "2.weight": half}, {"0.weight": half, "2.weight": True}, {"0.weight": ~half}]
    problem = load_problem(model, examples(network()), LoadConfig(), loss_fn=squared_error)
    found = []
    for weights in parts:
        problem.part = part_of(model, weights)
        found.append(identity_of(problem, squared_error)["fingerprint"])
    assert len(set(found)) == len(parts)


def weighed(factor: float, low: float = -9.0, high: float = 9.0) -> Callable[..., Tensor]:
    """Examples whose first label is between `low` and `high` weigh more. The fingerprint does not look into lists."""
    known = [torch.tensor(x) for x in (factor, low, high)]

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        is_within = (labels[:, 0] > known[1]) & (labels[:, 0] < known[2])
        return squared_error(outputs, labels) * torch.where(is_within, known[0], 1.0)

    return loss


def test_a_loss_that_differs_on_a_few_examples_is_another_run() -> None:
    """The first example and the last are not among them, and the fingerprint cannot see it."""
    first, last = examples(network())[1][[0, -1], 0].sort().values.tolist()
    between = (first + 1e-3, last - 1e-3) if last - first > 0.3 else (last + 1e-3, 9.0)
    one, other = (identity(network(), weighed(factor, *between)) for factor in (1.0, 1.1))
    assert one["fingerprint"] == other["fingerprint"] and not losses_agree(one[LOSSES], other[LOSSES])


def above(factor: float) -> Callable[..., Tensor]:
    """A loss that is zero wherever the labels are met to four digits."""
    known = [factor]
    return lambda outputs, labels: known[0] * functional.relu(squared_error(outputs, labels) - 1e-8)


def test_losses_that_are_zero_at_a_minimum_are_told_apart_beside_it() -> None:
    one, other = (identity(network(), above(factor)) for factor in (1.0, 1.1))
    at_minimum = len(one[LOSSES]) // 2
    assert not any(one[LOSSES][:at_minimum]) and one["fingerprint"] == other["fingerprint"]
    assert not losses_agree(one[LOSSES], other[LOSSES])
