"""Samplers and tasks registered from outside, and the examples of docs/extending.md."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from hf_llc import LLCEvaluator, config, setting_checks
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.loading.tasks import registry as tasks
from hf_llc.loading.tasks.task import Encoded, Task
from hf_llc.observables import OBSERVABLES
from hf_llc.sampler_rules import SAMPLER_RULES
from hf_llc.samplers import SAMPLERS, Kernel, Step, Walk, make_kernel, register, rules_of

REGISTRIES: tuple[dict[str, Any], ...] = (
    *(SAMPLERS, SAMPLER_RULES, setting_checks.ADDED_CHOICES, tasks.TASKS, OBSERVABLES),
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """A test's registrations end with it."""
    before = copy.deepcopy(REGISTRIES)
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


class Still(Kernel):
    """Does not move."""

    has_friction = True
    needs_full_batch = True

    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        loss, _ = walk.sweep(indices, lambda s, grad: None, noise=None)
        return Step(loss)


@pytest.mark.parametrize("name", SAMPLERS)
def test_settings_and_samplers_agree_on_what_a_sampler_takes(name: str) -> None:
    """The rules stand twice: in config, which has no torch, and in the sampler's class."""
    assert rules_of(SAMPLERS[name]) == SAMPLER_RULES[name]


def test_a_registered_sampler_is_a_choice_with_its_rules() -> None:
    register("still")(Still)
    assert isinstance(make_kernel("still", 1e-3), Still)
    assert SampleConfig(sampler="still", batch_size="full", friction=0.1).sampler == "still"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="still needs all examples in every step"):
        LLCEvaluator(sampler="still")


def test_names_that_are_taken_or_unknown_are_refused() -> None:
    for name in ("sgld", "auto"):
        with pytest.raises(InputError, match=f"taken, got '{name}'"):
            register(name)
    with pytest.raises(InputError, match=r"sampler .* got 'still'; allowed: 'sgld'"):
        SampleConfig(sampler="still")  # type: ignore[arg-type]
    register("still")(Still)
    register("still")(Still)  # a cell of a notebook run again
    with pytest.raises(InputError, match=r"allowed: .*'hmc', 'auto', 'still'"):
        SampleConfig(sampler="stil")  # type: ignore[arg-type]


PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def sections() -> dict[str, str]:
    """The Python of each section of docs/extending.md."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    blocks = {part.splitlines()[0]: re.findall(r"^```python\n(.*?)^```", part, flags=re.M | re.S) for part in parts}
    return {title: "\n".join(code) for title, code in blocks.items()}


@functools.cache
def run(code: str) -> dict[str, Any]:
    """The names that the code defines."""
    names: dict[str, Any] = {"__name__": "extending"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("section", sections())
def test_the_page_runs(section: str) -> None:
    run(sections()[section])


def test_the_sampler_of_the_page_is_right() -> None:
    names = run(sections()["A sampler"])
    result, epsilon, gamma = names["result"], 1e-3, 40.0
    curvatures = result.nbeta * names["h"].double()
    keep = (1 - epsilon / 2 * curvatures) * math.exp(-epsilon * gamma / 2)
    variance = -math.expm1(-epsilon * gamma) / gamma / (1 - keep**2)
    assert abs(result.llc - float((curvatures * variance).sum() / 2)) < 3 * result.llc_se < 0.1 * result.llc


@pytest.mark.slow
@pytest.mark.parametrize(("right", "wrong"), [("keep**2", "keep"), ("law.nbeta)", "law.nbeta / 2)")])
def test_the_page_sees_a_fault(right: str, wrong: str) -> None:
    code = sections()["A sampler"]
    assert code.count(right) == 1
    with pytest.raises(AssertionError):
        run(code.replace(right, wrong))


def test_settings_and_tasks_agree_on_names() -> None:
    assert {*tasks.TASKS, "plain"} == set(get_args(config.Task))


def _first_column(model: Any, data: Any, processor: Any, config: LoadConfig) -> Encoded:
    """ℓ_i = (f(x_i) − y_i)² of the first output."""

    def losses(forward: Any, batch: Any) -> Tensor:
        return (forward(batch["x"])[:, 0] - batch["y"]) ** 2

    return Encoded({"x": data[0], "y": data[1]}, losses, len(data[0]), "squared error", None)


def test_a_registered_task_takes_tensors_and_any_module_by_its_name_only() -> None:
    model, data = torch.nn.Linear(3, 2), (torch.randn(5, 3), torch.randn(5))
    tasks.register(Task(name="mine", encode=_first_column, takes_tensors=True))
    problem = load_problem(model, data, LoadConfig(task="mine"))  # type: ignore[arg-type]
    assert (problem.task, problem.n, problem.unit) == ("mine", 5, "squared error")
    torch.testing.assert_close(
        problem.losses(model, problem.examples), ((data[0] @ model.weight[0] + model.bias[0]) - data[1]) ** 2
    )
    with pytest.raises(InputError, match="the model's task is not known"):
        load_problem(model, data, LoadConfig())
    tasks.register(Task(name="mine", encode=_first_column))
    with pytest.raises(InputError, match="pairs of tensors are for"):
        load_problem(model, data, LoadConfig(task="mine"))  # type: ignore[arg-type]


def test_a_registered_task_recognises_its_models_by_their_class() -> None:
    class NetForCounting(torch.nn.Linear):
        pass

    model, data = NetForCounting(3, 2), (torch.randn(5, 3), torch.randn(5))
    tasks.register(Task(name="mine", encode=_first_column, suffixes=("ForCounting",), takes_tensors=True))
    assert load_problem(model, data, LoadConfig()).task == "mine"
    with pytest.raises(InputError, match="for another task, got 'fill-mask'; allowed: mine"):
        load_problem(model, data, LoadConfig(task="fill-mask"))


def test_names_of_tasks_that_are_taken_or_unknown_are_refused() -> None:
    for name in ("plain", "fill-mask"):
        with pytest.raises(InputError, match=f"taken, got '{name}'"):
            tasks.register(Task(name=name, encode=_first_column))
    with pytest.raises(InputError, match=r"task .* got 'mine'"):
        LoadConfig(task="mine")  # type: ignore[arg-type]


def test_a_fault_in_the_task_of_the_page_is_seen() -> None:
    code = sections()["A task"]
    with pytest.raises(AssertionError):
        run(code.replace("+ torch.lgamma(counts + 1)", ""))
