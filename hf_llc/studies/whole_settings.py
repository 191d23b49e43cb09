"""Settings that a study of many parts has no use for. Without torch: commands refuse them before they import it."""

from __future__ import annotations

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.weights_setting import WHOLE


def check_whole(sample: SampleConfig, study: str) -> None:
    """Refuse settings that are not for a study of parts.

    Raises:
        InputError: there is one.
    """
    if sample.weights != WHOLE:
        raise InputError("weights is for one estimate", value=sample.weights, remedy="name it among the components")
    if sample.minimize:
        raise InputError("minimize would give each component its own w*", remedy="leave it out")
    check_not_split(sample, study)


def check_not_split(sample: SampleConfig, study: str) -> None:
    """Refuse weights that are split over processes.

    Raises:
        InputError: they are.
    """
    if sample.parameter_parallel > 1:
        raise InputError(f"parameter_parallel is not for {study}", remedy="leave it out")
