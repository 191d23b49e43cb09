"""The samplers: one a file, each with its traits; this page is the list of them.

`docs/extending.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_args

from hf_llc.errors import InputError
from hf_llc.sampler_rules import SAMPLER_RULES, Sampler, SamplerRules
from hf_llc.samplers.baoab import BAOAB
from hf_llc.samplers.hmc import HMC
from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.leimkuhler_matthews import LeimkuhlerMatthews
from hf_llc.samplers.mala import MALA
from hf_llc.samplers.psgld import AdaptiveSGLD, PreconditionedSGLD
from hf_llc.samplers.rmsprop_sgld import RMSPropSGLD
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.sgld import SGLD
from hf_llc.samplers.sgnht import SGNHT
from hf_llc.samplers.walk import Walk
from hf_llc.setting_checks import add_choice

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "SAMPLERS",
    "SGLD",
    "SGNHT",
    "AdaptiveSGLD",
    "Kernel",
    "LeimkuhlerMatthews",
    "PreconditionedSGLD",
    "RMSPropSGLD",
    "Segment",
    "Step",
    "Walk",
    "make_kernel",
    "register",
]

K = TypeVar("K", bound=Kernel)

SAMPLERS: dict[str, type[Kernel]] = {
    "sgld": SGLD,
    "leimkuhler-matthews": LeimkuhlerMatthews,
    "psgld": AdaptiveSGLD,
    "rmsprop-sgld": RMSPropSGLD,
    "baoab": BAOAB,
    "sgnht": SGNHT,
    "mala": MALA,
    "hmc": HMC,
}
"""The class of every sampler, by the name it has in `SampleConfig.sampler`. A sampler of the library also has its name
in `hf_llc.sampler_rules.Sampler`, and a row in `SAMPLER_RULES` there if it breaks one of the defaults."""


def register(name: str) -> Callable[[type[K]], type[K]]:
    """Class decorator that adds a sampler, for this process, to the choices of `SampleConfig.sampler`.

    Args:
        name: by which settings call it. A name that was registered before is given to the new class.

    Raises:
        InputError: a sampler of the library has that name.
    """
    if name in ("auto", *get_args(Sampler)):
        raise InputError("the name of a new sampler is taken", value=name, remedy="choose another name")

    def add(kernel: type[K]) -> type[K]:
        if name not in SAMPLERS:
            add_choice("sampler", name)
        SAMPLERS[name] = kernel
        SAMPLER_RULES[name] = rules_of(kernel)
        return kernel

    return add


def rules_of(kernel: type[Kernel]) -> SamplerRules:
    """The traits of a sampler that settings are checked against."""
    return SamplerRules(**{item.name: getattr(kernel, item.name) for item in fields(SamplerRules)})


def make_kernel(name: str, step_size: float, **settings: Any) -> Kernel:
    """The sampler called `name`.

    Args:
        name: see `SampleConfig.sampler`.
        step_size: ε.
        **settings: friction, adapt_step_size, num_leapfrog_steps, freeze_after: each sampler takes those that it has
            (`Kernel.settings`), and its own default for those not given.
    """
    kind = SAMPLERS[name]
    return kind(step_size, **{key: value for key, value in settings.items() if key in kind.settings})
