"""One sampler a file. A kernel has `step(walk, indices, step, measure) -> Step`, which moves `walk.w` in place."""

from __future__ import annotations

from hf_llc.config import SampleConfig
from hf_llc.samplers.baoab import BAOAB
from hf_llc.samplers.hmc import HMC
from hf_llc.samplers.kernel import Kernel
from hf_llc.samplers.leimkuhler_matthews import LeimkuhlerMatthews
from hf_llc.samplers.mala import MALA
from hf_llc.samplers.psgld import AdaptiveSGLD, PreconditionedSGLD
from hf_llc.samplers.rmsprop_sgld import RMSPropSGLD
from hf_llc.samplers.sgld import SGLD
from hf_llc.samplers.sgnht import SGNHT

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "SGLD",
    "SGNHT",
    "AdaptiveSGLD",
    "Kernel",
    "LeimkuhlerMatthews",
    "PreconditionedSGLD",
    "RMSPropSGLD",
    "make_kernel",
]

_DEFAULTS = SampleConfig()

FRICTION = 0.2
"""Of samplers with momentum at a step size that the user chose."""

_FIELD_EPS = 0.1
"""RMSProp-SGLD is there to be compared with: its constant is the one that the field's libraries default to."""


def make_kernel(name: str, step_size: float, sample: SampleConfig = _DEFAULTS) -> Kernel:
    """The kernel called `name` (see `SampleConfig.sampler`) at step size ε, with the rest of its settings."""
    friction = FRICTION if sample.friction == "auto" else sample.friction
    match name:
        case "sgld":
            return SGLD(step_size)
        case "leimkuhler-matthews":
            return LeimkuhlerMatthews(step_size)
        case "psgld":
            return AdaptiveSGLD(step_size, freeze_after=sample.freeze_after)
        case "rmsprop-sgld":
            return RMSPropSGLD(step_size, rmsprop_eps=_FIELD_EPS)
        case "baoab":
            return BAOAB(step_size, friction=friction, adapt_step_size=sample.adapt_step_size)
        case "sgnht":
            return SGNHT(step_size, friction=friction)
        case "mala":
            return MALA(step_size)
        case "hmc":
            return HMC(step_size, num_leapfrog_steps=sample.num_leapfrog_steps)
    raise AssertionError(f"SampleConfig lets through a sampler that does not exist: {name}")
