"""Settings of a profile. Without torch: its command refuses them before it imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.studies.whole_settings import check_not_split

MOST = 100
"""Values of γ, or of nβ."""


@dataclass(frozen=True, kw_only=True)
class HessianSettings:
    """How the spectrum of the Hessian is looked at.

    Attributes:
        probes: random vectors.
        iterations: Hessian–vector products for each.
        examples: of each product; None: as many as make all products cost what one estimate's chains do, and enough for
            256 labels.
    """

    probes: int = 8
    iterations: int = 40
    examples: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("probes", 2), ("iterations", 1), ("examples", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 10**6:
                raise InputError(f"hessian_{name} is out of range", value=value, allowed=f"{least} … 10^6")


@dataclass(frozen=True)
class Scales:
    """The scales of a profile, the strongest first.

    Attributes:
        localizations: γ.
        nbetas: nβ, a ladder for each; None: that of the settings.
    """

    localizations: list[float]
    nbetas: list[float] | None


def profile_settings(
    sample: SampleConfig, localizations: Sequence[float], nbetas: Sequence[float] | None
) -> tuple[Scales, SampleConfig]:
    """The scales in order, and `sample` at the weakest γ and the largest nβ.

    Args:
        sample: the settings asked for.
        localizations: γ, above 0, in any order.
        nbetas: nβ; None: that of `sample`.

    Raises:
        InputError: a scale is not allowed, or `sample` says something that a profile decides.
    """
    ladder = _checked(localizations, "localizations")
    temperatures = None if nbetas is None else _checked(nbetas, "nbetas")
    if sample.localization != "auto":
        raise InputError("localization is for one estimate", value=sample.localization, remedy="give localizations")
    if temperatures is not None and (sample.nbeta is not None or sample.beta is not None):
        raise InputError("nbeta and nbetas are both given", remedy="give one of them")
    if sample.observe is not None:
        raise InputError("observe is for one estimate", remedy="leave it out")
    if sample.extrapolate:
        raise InputError("extrapolate is for one estimate", remedy="leave it out")
    check_not_split(sample, "a profile")
    nbeta = sample.nbeta if temperatures is None else temperatures[0]
    return Scales(ladder, temperatures), replace(sample, localization=ladder[-1], nbeta=nbeta)


def _checked(values: Sequence[float], name: str) -> list[float]:
    """The values, the largest first.

    Raises:
        InputError: there is none, one is there twice, or one is not allowed.
    """
    found = sorted({float(value) for value in values}, reverse=True)
    if not found:
        raise InputError(f"{name} is empty", remedy="give numbers above 0")
    if len(found) < len(values):
        raise InputError(f"{name} names a value twice", value=list(values), remedy="leave one out")
    for value in found:
        if not 1e-18 <= value <= 1e18:
            raise InputError(f"{name} is out of range", value=value, allowed="numbers above 0, 1e-18 … 1e18")
    if len(found) > MOST:
        raise InputError(f"{name} has too many values", value=len(found), allowed=str(MOST))
    return found
