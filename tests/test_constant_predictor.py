"""The loss of the best constant predictor, where it is known; and what a loss function may do wrong on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.loading.tasks import constant_predictor
from hf_llc.loading.tasks.constant_predictor import best_constant_loss

CLASSES = torch.tensor([0] * 90 + [1] * 9 + [2])


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * ((outputs - labels) ** 2).flatten(1).sum(1)


def entropy(labels: Tensor) -> float:
    p = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("num_outputs", [3, 10])
def test_cross_entropy_gives_the_entropy_of_the_labels(num_outputs: int, scale: float) -> None:
    """Classes that no label has, too: their best logit is −∞."""
    start = scale * torch.randn(num_outputs, generator=torch.Generator().manual_seed(1))
    found = best_constant_loss(cross_entropy, start, CLASSES)
    assert found is not None and found.num_labels == 100
    assert found.loss == pytest.approx(entropy(CLASSES), abs=2e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_squared_error_gives_half_the_variance(scale: float) -> None:
    labels = scale * torch.randn(50, 2, 3)
    found = best_constant_loss(squared_error, torch.zeros(2, 3), labels)
    assert found is not None
    assert found.loss == pytest.approx(0.5 * float(labels.double().var(0, correction=0).sum()), rel=1e-5)


def test_absolute_error_gives_the_deviation_from_the_median() -> None:
    labels = torch.randn(101, generator=torch.Generator().manual_seed(2))
    found = best_constant_loss(lambda outputs, y: (outputs[:, 0] - y).abs(), torch.tensor([3.0]), labels)
    assert found is not None
    assert found.loss == pytest.approx(float((labels - labels.median()).abs().mean()), rel=1e-2)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda outputs, labels: -outputs[:, 0] * (1 + labels),  # unbounded below
        lambda outputs, labels: F.gaussian_nll_loss(  # unbounded below, as the labels do not vary
            outputs[:, 0], torch.zeros(len(labels)), outputs[:, 1].exp(), reduction="none", eps=0
        ),
        lambda outputs, labels: outputs[:, 0].log(),  # not finite at the start
        lambda outputs, labels: labels.double(),  # does not depend on the output
    ],
)
def test_there_is_no_best_constant(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert best_constant_loss(loss_fn, torch.tensor([-0.5, 0.5, 0.0]), CLASSES) is None


def test_many_labels_are_sampled_and_the_loss_is_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.randn(4000, 2, generator=torch.Generator().manual_seed(3))
    sizes: list[int] = []

    def loss_fn(outputs: Tensor, some: Tensor) -> Tensor:
        sizes.append(len(some))
        return squared_error(outputs, some)

    monkeypatch.setattr(constant_predictor, "_MAX_NUMBERS", 1000)
    found = best_constant_loss(loss_fn, torch.zeros(2), labels)
    assert found is not None and found.num_labels == 500 == max(sizes)
    best = 0.5 * float(labels.double().var(0, correction=0).sum())
    assert best <= found.loss <= best + 0.01
    problem = load_problem(torch.nn.Linear(1, 2), (torch.ones(4000, 1), labels), LoadConfig(), loss_fn=squared_error)
    assert problem.provenance["data"]["trivial_loss_labels"] == 500


def test_the_cost_is_bounded() -> None:
    calls: list[int] = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(labels))
        return cross_entropy(outputs, labels)

    best_constant_loss(
        loss_fn, torch.linspace(-2, 2, 10), torch.arange(10).repeat(10_000)
    )  # no draw: the count is fixed
    assert len(calls) <= 80 and max(calls) == 10, "a class is evaluated once, however many examples it has"


def test_a_model_sees_the_entropy_not_the_loss_of_its_mean_output() -> None:
    """A confident classifier: its mean output is a far worse constant than the best."""
    x = F.one_hot(CLASSES, 3).float()
    model = torch.nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(20 * torch.eye(3))
    problem = load_problem(model, (x, CLASSES), LoadConfig(), loss_fn=cross_entropy)
    of_mean = float(cross_entropy(model(x).detach().mean(0).expand(100, 3), CLASSES).mean())
    assert problem.trivial_loss == pytest.approx(entropy(CLASSES), abs=1e-4) and of_mean > 2 * entropy(CLASSES)
    with torch.no_grad():
        assert load_problem(model, (x, CLASSES), LoadConfig(), loss_fn=cross_entropy).trivial_loss is not None


class Pair(torch.nn.Module):
    """Returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


def test_outputs_that_are_not_one_tensor_have_no_constant() -> None:
    data = (torch.randn(100, 3), CLASSES)
    problem = load_problem(Pair(), data, LoadConfig(), loss_fn=lambda out, y: cross_entropy(out[0], y))
    assert problem.trivial_loss is None


@pytest.mark.parametrize("fault", [ValueError, RuntimeError, KeyError, AttributeError, ZeroDivisionError])
def test_a_fault_in_loss_fn_is_not_taken_for_a_model_without_trivial_loss(fault: type[Exception]) -> None:
    """The first two labels are sound, so that only the trivial loss meets the fault."""

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        if 2 in labels:
            raise fault("of the user's own")
        return cross_entropy(outputs, labels)

    with pytest.raises(InputError, match=f"loss_fn fails on the labels: {fault.__name__}.*of the user's own") as caught:
        load_problem(torch.nn.Linear(3, 3), (torch.randn(100, 3), CLASSES), LoadConfig(), loss_fn=loss_fn)
    assert isinstance(caught.value.__cause__, fault) and "\n" not in str(caught.value)


def test_a_loss_with_weights_of_its_own_leaves_no_gradients() -> None:
    penalty = torch.nn.Parameter(torch.ones(3))
    found: Any = best_constant_loss(lambda o, y: cross_entropy(o * penalty, y), torch.zeros(3), CLASSES)
    assert penalty.grad is None and math.isfinite(found.loss)
