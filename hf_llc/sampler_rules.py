"""The samplers by name, and what each demands of the other settings. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Sampler = Literal["sgld", "leimkuhler-matthews", "psgld", "rmsprop-sgld", "baoab", "sgnht", "mala", "hmc"]


@dataclass(frozen=True, kw_only=True)
class SamplerRules:
    """What a sampler demands of the other settings; `hf_llc.samplers.kernel.Kernel` explains each."""

    has_friction: bool = False
    learns_in_burnin: bool = False
    needs_full_batch: bool = False
    needs_whole_gradients: bool = False
    step_size_hint: str = ""


SAMPLER_RULES: dict[str, SamplerRules] = {
    **dict.fromkeys(get_args(Sampler), SamplerRules()),
    "psgld": SamplerRules(learns_in_burnin=True),
    "rmsprop-sgld": SamplerRules(step_size_hint="a tenth of sgld's or so"),
    "baoab": SamplerRules(has_friction=True),
    "sgnht": SamplerRules(has_friction=True),
    "mala": SamplerRules(needs_whole_gradients=True),
    "hmc": SamplerRules(needs_full_batch=True, needs_whole_gradients=True),
}
"""Every sampler by name. The sampler's class says the same; it stands here too because settings are checked before
torch is imported. `hf_llc.samplers.register` adds rows."""
