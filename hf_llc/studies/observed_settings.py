"""Settings of the studies that observe losses. Without torch: commands refuse them before they import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.observe_setting import SAMPLED, checked_observe
from hf_llc.setting_checks import require
from hf_llc.studies.whole_settings import check_whole

SOURCES, QUERIES = "sources", "queries"
"""Names of what influence observes."""

TRAINING = "train"
"""Name of the data that are sampled on, among what susceptibilities observe."""

_RECORDS = 50
"""Of each chain, at least, where the chains have as many steps."""


def influence_settings(
    sample: SampleConfig, queries: Any, *, level: str, top: int, color: str | None = None
) -> SampleConfig:
    """The settings with what influence observes.

    Args:
        sample: the settings asked for.
        queries: data of queries, as a value of `observe`; None: the sources themselves.
        level: "example" or "token".
        top: helpers and harmers of each query in the table.
        color: column of the data for the picture of the loss kernel; None: none.

    Raises:
        InputError: a setting is not for influence, or out of range.
    """
    require(1 <= top <= 1000, "top", top, "1 … 1000")
    if color is not None and (queries is not None or level != "example"):
        remedy = "leave queries out, at the level example"
        raise InputError("color is for the picture of the loss kernel", value=color, remedy=remedy)
    names = {SOURCES: SAMPLED} if queries is None else {SOURCES: SAMPLED, QUERIES: queries}
    return _observing(sample, names, level=level, study="influence", instead="queries")


def susceptibility_settings(sample: SampleConfig, probe: str | Mapping[str, Any] | None, *, level: str) -> SampleConfig:
    """The settings with what susceptibilities observe.

    Args:
        sample: the settings asked for.
        probe: other data, as a value of `observe` by name; None: none.
        level: "token" or "example".

    Raises:
        InputError: a probe is none, or a setting is not for susceptibilities.
    """
    check_whole(sample, "susceptibilities")
    probes = checked_observe(probe, setting="probe")
    if isinstance(probes, str):
        raise InputError("probe has no name", value=probes, allowed="NAME=DATA:SPLIT, separated by commas")
    for name, value in (probes or {}).items():
        if name == TRAINING:
            raise InputError(
                "probe has the same name as the data that the chains are sampled on",
                value=name,
                remedy="give it another name",
            )
        if value is None or callable(value):
            raise InputError(f"probe {name} is not data", remedy="write NAME=DATA:SPLIT")
    names = {TRAINING: SAMPLED, **(probes or {})}
    return _observing(sample, names, level=level, study="susceptibility", instead="probe")


def _observing(sample: SampleConfig, names: Mapping[str, Any], *, level: str, study: str, instead: str) -> SampleConfig:
    """The settings with what is to be observed, often enough for errors.

    Args:
        sample: the settings asked for.
        names: what to observe, as the setting `observe`.
        level: "example" or "token".
        study: that decides what is observed.
        instead: what its user gives in place of `observe`.

    Raises:
        InputError: `observe` is given too, or the chains are too short.
    """
    from hf_llc.judging.covariances import fewest_draws  # it imports numpy

    if sample.observe is not None:
        raise InputError(f"observe is decided by {study}", value=sample.observe, remedy=f"give {instead} instead")
    if level not in ("example", "token"):
        raise InputError("level is unknown", value=level, allowed="example, token")
    kept = sample.num_draws * sample.num_steps_between_draws
    needed = fewest_draws(sample.num_chains)
    if kept < needed:
        raise InputError(
            f"the chains are too short for errors of {study}",
            value=f"{kept} steps",
            allowed=f"{needed} or more",
            remedy="raise num_draws",
        )
    every = min(sample.observe_every, max(1, kept // max(_RECORDS, needed)))
    return replace(sample, observe=dict(names), observe_loss=level, observe_every=every)
