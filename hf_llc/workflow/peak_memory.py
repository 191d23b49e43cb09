"""How much memory a run takes at its peak, by stage: told before it begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hf_llc.calibration.descent import history_of_descent
from hf_llc.calibration.noise_spectrum import NUM_BATCHES
from hf_llc.config import SampleConfig
from hf_llc.posterior.minibatches import logits_per_token
from hf_llc.posterior.posterior import Posterior
from hf_llc.workflow.memory_plan import PILOT_COPIES, Plan

_DESCENT_COPIES, _SPECTRUM_COPIES = 9, 8
"""Tensors as large as the weights in a descent, beside its history, and in the spectrum of the noise."""

_KEPT = 2**27 + 2**26
"""What the allocator keeps of earlier stages, and the libraries that the last one imports (measured)."""

IMPORTED = 2**29 + 2**27
"""Of Python, torch and transformers, where this process does not hold them yet."""


def resident_bytes() -> int:
    """What this process holds now; a usual amount where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return IMPORTED


@dataclass(frozen=True)
class Passes:
    """What a pass over examples takes.

    Attributes:
        each: bytes that one example's forward pass keeps for its backward pass, its loss included.
        logits: bytes of one example's logits.
        batch: examples of a minibatch.
        many: examples of the largest pass, of those that there are.
    """

    each: int
    logits: int
    batch: int
    many: int


def passes_of(posterior: Posterior, plan: Plan, batch_size: int) -> Passes:
    """The passes of a run, from its plan (`memory_plan.plan_of`)."""
    data = posterior.minibatches
    one = (plan.activations or 0) // max(min(batch_size, data.micro_batch_size), 1)
    logits = 4 * posterior.problem.num_positions * logits_per_token(posterior.model)
    return Passes(one, logits, batch_size, min(data.micro_batch_size, posterior.num_examples))


def peaks(plan: Plan, passes: Passes, sample: SampleConfig, *, descends: bool) -> dict[str, int]:
    """Stage → bytes that it takes at its peak above what the process holds once model and data are loaded.

    Args:
        plan: of one chain.
        passes: over examples.
        sample: the settings.
        descends: there is a descent from w*, with whole gradients.
    """
    weights, batch = plan.weights, min(passes.batch, passes.many) * passes.each
    many = passes.many * passes.each
    # a pass without gradients keeps three copies of its logits, and a layer's activations
    found = {"L_n(w*)": weights + passes.many * (3 * passes.logits + passes.each // 4)}
    if sample.minimize:
        found["minimize"] = 6 * weights + batch
    if sample.step_size == "auto":
        spectrum = min(NUM_BATCHES * passes.batch, passes.many) * passes.each + _SPECTRUM_COPIES * weights
        found["calibrate"] = max(batch + PILOT_COPIES * weights, spectrum)
    if descends:
        found["descend"] = many + (_DESCENT_COPIES + 2 * history_of_descent(weights)) * weights
    in_backward, whole = plan.in_backward(sample.sampler), plan.whole(sample.sampler)
    is_short = plan.step_in_backward(sample.sampler) and in_backward is not None
    found["sample"] = (in_backward if is_short and in_backward is not None else whole) - plan.anchor
    return {stage: size + _KEPT for stage, size in found.items()}


def render_peaks(found: dict[str, int]) -> str:
    """The peaks as a table, for a reader who has not begun."""
    rows = [f"{stage:<14}{size / 2**30:>6.1f} GiB" for stage, size in found.items()]
    return "\n".join(["an estimate, the whole process with its libraries:", *rows])
