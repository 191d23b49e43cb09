"""The posterior of a run, and whether its chains must step inside the backward pass."""

from __future__ import annotations

import math

import torch

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.numerals import short
from hf_llc.parallel.processes import Processes
from hf_llc.parallel.sharding import mesh_of
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.sharded_posterior import ShardedPosterior
from hf_llc.problem import Problem
from hf_llc.workflow.memory_plan import plan_of

_PART = 2**22
"""Weights looked at at a time."""

_LARGE = 2**20
"""Number of parameters from which memory may be short; a smaller model is not worth the measurement."""


def open_posterior(problem: Problem, sample: SampleConfig, processes: Processes, *, batch_size: int) -> Posterior:
    """The posterior around the present weights of the problem's model, which are w*.

    Args:
        problem: model, data and loss.
        sample: says how losses and gradients are computed.
        processes: all of them call this together.
        batch_size: examples of a minibatch.

    The losses at w* are still to be computed.
    """
    kind = Posterior if mesh_of(problem.model) is None else ShardedPosterior

    def work() -> Posterior:
        return kind(
            problem,
            micro_batch_size=sample.micro_batch_size,
            mixed_precision=sample.mixed_precision,
            compile=sample.compile is True,
            step_in_backward=sample.step_in_backward is True,
            gradient_checkpointing=sample.gradient_checkpointing,
            group=processes.group,
        )

    posterior = processes.all_do(work)
    if sample.step_in_backward == "auto":
        posterior.step_in_backward = _is_memory_short(posterior, sample, processes, batch_size)
    return posterior


def check_finite(posterior: Posterior) -> None:
    """Compute the losses at w*, and refuse one that is not finite.

    Raises:
        InputError: the loss of an example is not finite at w*.
    """
    bad = torch.flatten(~torch.isfinite(posterior.init_losses)).nonzero()
    if len(bad):
        raise InputError(
            "the loss at w* is not finite",
            value=f"example {int(bad[0])}",
            remedy="check the inputs, the labels and the dtype",
        )


def check_spacing(posterior: Posterior, step_size: float) -> None:
    """Refuse a calibrated ε whose steps, √ε long, are lost among numbers that lie about as far apart.

    Rounding heats a stiff direction by u²/(48 ε friction) of its energy, u the spacing; a step below u/2 is none at
    all. At u = √ε/2 and the least friction λ̂ was a fifth too high.

    Raises:
        InputError: it is so for more than a tenth of the weights.
    """
    kind, step = posterior.dtype, math.sqrt(step_size)
    most = step / (2 * torch.finfo(kind).eps)
    parts = (part for anchor in posterior.buffer.anchor for part in anchor.split(_PART))
    large = torch.stack([(part.abs() > most).sum(dtype=torch.float64) for part in parts]).sum()
    count = float(posterior.buffer.sum_over_shards(large))
    if count > 0.1 * posterior.num_parameters:
        name = str(kind).removeprefix("torch.")
        raise InputError(
            f"steps would be lost in the rounding of {name}: {count:,.0f} of {posterior.num_parameters:,} weights are "
            "too large for it",
            value=f"steps of {short(step)}",
            allowed=f"weights up to {short(most)}",
            remedy="use float64 (model.double(), or dtype), or smaller units of the inputs",
        )


def _is_memory_short(posterior: Posterior, sample: SampleConfig, processes: Processes, batch_size: int) -> bool:
    """Whether whole gradients do not fit into memory, so that steps must be taken inside the backward pass.

    The main process decides for all. False if another setting takes whole gradients anyway.
    """
    takes_whole_gradients = (
        processes.group.size > 1
        or sample.compile is True
        or sample.chain_batch_size != 1
        or sample.gradient == "control-variate"
    )
    if takes_whole_gradients or posterior.buffer.is_flat or posterior.num_parameters < _LARGE:
        return False
    sharing = 1 if posterior.device.type == "cuda" else processes.count
    return processes.main_does(
        lambda: plan_of(posterior, batch_size=batch_size, processes=sharing).step_in_backward(sample.sampler)
    )
