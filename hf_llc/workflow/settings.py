"""Settings that the data decide."""

from __future__ import annotations

import math
from dataclasses import replace

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.problem import Problem, auto_batch_size
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.baoab import FRICTION
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization


def decide_from_data(sample: SampleConfig, problem: Problem) -> SampleConfig:
    """Decide the settings that need the data but no pilot chain: batch size, nβ and the sampler.

    If ε is given, calibration has nothing to do, and friction, gradient and γ are decided here too: the sampler is then
    SGLD, or baoab if friction is given, and γ follows from ε.

    Raises:
        InputError: batch_size is larger than the data.
    """
    nbeta = sample.nbeta
    if nbeta is None:
        nbeta = problem.n * (1 / math.log(problem.n) if sample.beta is None else sample.beta)
    sample = replace(sample, batch_size=_batch_size(sample, problem), nbeta=nbeta, beta=None)
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


def _batch_size(sample: SampleConfig, problem: Problem) -> int:
    """Examples a step.

    Raises:
        InputError: more than there are.
    """
    if sample.batch_size == "full":
        return problem.num_examples
    if sample.batch_size == "auto":
        return min(auto_batch_size(problem.num_positions), problem.num_examples)
    if sample.batch_size > problem.num_examples:
        raise InputError(
            "batch_size is larger than the data",
            value=sample.batch_size,
            allowed=f"1 … {problem.num_examples}, or 'full'",
            remedy="lower batch_size",
        )
    return sample.batch_size
