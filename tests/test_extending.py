"""Samplers registered from outside, and the examples of docs/extending.md."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from hf_llc import LLCEvaluator, config
from hf_llc.config import SAMPLER_RULES, SampleConfig
from hf_llc.errors import InputError
from hf_llc.samplers import SAMPLERS, Kernel, Step, Walk, make_kernel, register, rules_of

REGISTRIES: tuple[dict[str, Any], ...] = (SAMPLERS, SAMPLER_RULES, config._ADDED_CHOICES)


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
