"""How much memory a run takes at its peak, by stage: told before it begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hf_llc.backend.memory import return_freed_memory
from hf_llc.calibration.descent import bytes_of_descent
from hf_llc.calibration.noise_spectrum import NUM_BATCHES
from hf_llc.config import SampleConfig
from hf_llc.posterior.minibatches import logits_per_token
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers import SAMPLERS
from hf_llc.workflow.memory_plan import PILOT_COPIES, Plan

_MINIMIZE_COPIES, _SPECTRUM_COPIES = 9, 11
"""Tensors as large as the weights in a minimization and in the spectrum of the noise (measured)."""

_PILOT_STATE = 4
"""Tensors as large as the weights that a pilot holds while it measures that spectrum."""

_GAPS, _GAPS_OF_SEVERAL, _HEAP = 1.2, 1.65, 2**25
"""Times the bytes of its tensors that a pass takes, and one of several after each other; and bytes of a tensor up to
which that is so. Those lie in the C library's heap, where a pass does not fit exactly into what the one before has
freed (1.1 to 1.4 and 1.5 to 1.8, measured on four models); larger ones are given back to the system."""

IMPORTED = 2**29 + 2**25
"""Of Python, torch and transformers with a small model and its data, where this process does not hold them yet."""

_BEFORE_ROWS = ("L_n(w*)", "minimize")
"""Stages before gradients of single examples at w* are kept."""


def resident_bytes() -> int:
    """What this process holds and uses now; a usual amount where the system does not say."""
    return_freed_memory()
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
        most: examples of a pass at most.
        examples: of the data; a guess where they are not known.
        rows: bytes of the gradients of single examples at w* that a control variate keeps.
    """

    each: int
    logits: int
    batch: int
    most: int
    examples: int
    rows: int = 0

    def gradient(self, examples: int) -> int:
        """Bytes of the gradient of so many examples, those of the weights aside."""
        count = min(examples, self.most)
        large = 3 * count * self.logits if count * self.logits > _HEAP else 0  # as they are, and two copies in a loss
        gaps = _GAPS if examples <= self.most else _GAPS_OF_SEVERAL
        return large + int(gaps * max(count * self.each - large, 0))

    @property
    def losses(self) -> int:
        """Bytes of a pass without gradients: three copies of its logits, and a layer's activations."""
        return min(self.examples, self.most) * (3 * self.logits + self.each // 4)


def passes_of(posterior: Posterior, plan: Plan, batch_size: int) -> Passes:
    """The passes of a run, from its plan (`memory_plan.plan_of`)."""
    data = posterior.minibatches
    one = (plan.activations or 0) // max(min(batch_size, data.micro_batch_size), 1)
    logits = 4 * posterior.problem.num_positions * logits_per_token(posterior.model)
    rows = 0 if posterior.step_in_backward else posterior.anchor_gradients.kept_bytes
    return Passes(one, logits, batch_size, data.micro_batch_size, posterior.num_examples, rows)


def peaks(plan: Plan, passes: Passes, sample: SampleConfig, *, descends: bool) -> dict[str, int]:
    """Stage → bytes that it takes at its peak above what the process holds once model and data are loaded.

    Args:
        plan: of one chain.
        passes: over examples.
        sample: the settings. Where a control variate may be chosen, what it keeps is counted.
        descends: there is a descent from w*, with whole gradients.
    """
    sampler = SAMPLERS[sample.sampler]
    weights, batch = plan.weights, passes.gradient(passes.batch)
    spectrum = passes.gradient(NUM_BATCHES * passes.batch) + _SPECTRUM_COPIES * weights
    found = {"L_n(w*)": weights + passes.losses}
    if sample.minimize:
        found["minimize"] = _MINIMIZE_COPIES * weights + max(batch, passes.losses)
    if sample.step_size == "auto":
        pilot = batch + PILOT_COPIES * weights
        found["calibrate"] = max(pilot, spectrum + _PILOT_STATE * weights) if sampler.has_friction else pilot
    if descends:
        found["descend"] = passes.gradient(passes.examples) + bytes_of_descent(weights)
    chains = sample.chain_batch_size if isinstance(sample.chain_batch_size, int) else 1
    found["sample"] = chains * (plan.needed(sample.sampler) - (plan.activations or 0) + batch - plan.anchor)
    if sampler.measures_heat and not plan.step_in_backward(sample.sampler):
        found["measure heat"] = spectrum
    if may_control(sample):
        return {stage: size + (0 if stage in _BEFORE_ROWS else passes.rows) for stage, size in found.items()}
    return found


def may_control(sample: SampleConfig) -> bool:
    """Whether chains have a control variate, or a pilot may choose one."""
    is_open = sample.gradient == "auto" and sample.step_size == "auto" and SAMPLERS[sample.sampler].has_friction
    return is_open or sample.gradient == "control-variate"


def render_peaks(found: dict[str, int]) -> str:
    """The peaks as a table, for a reader who has not begun."""
    rows = [f"{stage:<14}{size / 2**30:>6.1f} GiB" for stage, size in found.items()]
    return "\n".join(["an estimate, the whole process with its libraries:", *rows])
