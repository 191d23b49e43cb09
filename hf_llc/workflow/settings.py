"""Settings with what the data decide filled in."""

from __future__ import annotations

import math
from dataclasses import replace

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.problem import Problem, auto_batch_size
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.baoab import FRICTION
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization


def settled(sample: SampleConfig, problem: Problem) -> SampleConfig:
    """The settings with batch size and nβ filled in from the data, and whatever else needs no pilot chain.

    A step size that is given leaves nothing to the pilot: the sampler is then the paper's, or with a friction given
    underdamped, and γ follows from ε.

    Raises:
        InputError: the batch is larger than the data, or the loss cannot be sampled.
    """
    examples = problem.num_examples
    few = min(auto_batch_size(problem.num_positions), examples)
    size = {"full": examples, "auto": few}.get(str(sample.batch_size), sample.batch_size)
    assert isinstance(size, int)
    if size > examples:
        raise InputError(
            "batch_size is larger than the data",
            value=size,
            allowed=f"1 … {examples}, or 'full'",
            remedy="lower batch_size",
        )
    if sample.nbeta is not None:
        nbeta = sample.nbeta
    else:
        nbeta = problem.n * (1 / math.log(problem.n) if sample.beta is None else sample.beta)
    sample = replace(sample, batch_size=size, nbeta=nbeta, beta=None)
    if sample.sampler == "auto":
        has_momentum = sample.step_size == "auto" or sample.friction != "auto"
        sample = replace(sample, sampler="baoab" if has_momentum else "sgld")
    step_size = sample.step_size
    if step_size == "auto":
        return sample
    if SAMPLERS[sample.sampler].has_friction and sample.friction == "auto":
        sample = replace(sample, friction=FRICTION)
    if sample.gradient == "auto":
        sample = replace(sample, gradient="plain")
    if sample.localization == "auto":
        friction = None if sample.friction == "auto" else sample.friction
        slow = effective_step_size(step_size, friction)
        sample = replace(sample, localization=relaxing_localization(slow, sample.steps_allowed))
    return sample
