"""`Record`: the estimate with everything one must know to believe it or to make it again. Data only."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from hf_llc.errors import InputError
from hf_llc.files import finite
from hf_llc.records.findings import Reason
from hf_llc.records.trace import Trace

SCHEMA_VERSION = 2

_BESIDE = ("trace", "folder")
"""Fields that are not in result.json: the arrays, in a file of their own, and the folder that it is in."""


_METRICS = (
    "llc",
    "llc_se",
    "verdict",
    "r_hat",
    "ess",
    "accept_prob",
    "init_loss",
    "mean_loss",
    "unit",
    "n",
    "nbeta",
    "localization",
    "sampler",
    "step_size",
    "friction",
    "gradient",
    "num_chains",
    "num_draws",
    "num_steps_between_draws",
    "num_burnin_steps",
    "batch_size",
    "seed",
)


@dataclass
class Record:
    """λ̂(w*) ± its standard error, the verdict on it, and its settings. Losses are in `unit`; λ̂ has no unit.

    `llc_se` is the Monte Carlo standard error: it says how far λ̂ is from what endless sampling with the same settings
    would give, not how λ̂ would vary over other data, γ or nβ.
    """

    # the estimate
    llc: float
    llc_se: float
    llc_per_chain: list[float]
    llc_uncorrected: float
    llc_plain: float
    llc_plain_se: float
    verdict: str
    reasons: list[Reason]
    # losses, in `unit`
    init_loss: float
    mean_loss: float
    trivial_loss: float | None
    unit: str
    # diagnostics
    r_hat: float
    ess: float
    accept_prob: float
    plateau: dict[str, float]
    localization_sensitivity: dict[str, float]
    step_size_bias: float
    kinetic_temperature: float
    heat_capacity: float
    heat_capacity_se: float
    # posterior
    n: int
    nbeta: float
    localization: float
    # sampler
    sampler: str
    step_size: float
    friction: float | None
    gradient: str
    num_chains: int
    num_draws: int
    num_steps_between_draws: int
    num_burnin_steps: int
    batch_size: int
    chain_batch_size: int
    seed: int
    mixed_precision: str
    # cost
    num_gradients: int
    wall_seconds: float
    steps_per_second: float
    peak_memory_bytes: int
    # subject
    num_parameters: int
    num_parameters_total: int
    task: str
    mode: str
    dtype: str
    device: str
    num_processes: int
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    # burn-in lowered ε further, chain by chain (the trace's step_size)
    adapt_step_size: bool = False
    # what was done before the chains
    minimize: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    # what was asked for beside λ̂ at ε
    llc_extrapolated: float | None = None
    llc_extrapolated_se: float | None = None
    # how memory was saved
    step_in_backward: bool = False
    gradient_checkpointing: bool = False
    # how it was spread out
    data_parallel: int = 1
    parameter_parallel: int = 1
    schema_version: int = SCHEMA_VERSION
    # not part of what is saved as JSON
    trace: Trace | None = field(default=None, repr=False, compare=False)
    folder: Path | None = field(default=None, repr=False, compare=False)

    @property
    def free_energy(self) -> float:
        """n L_n(w*) + λ̂ ln n in nats: the leading terms of −ln of the evidence around w* (Watanabe 2013)."""
        return self.n * self.init_loss + self.llc * math.log(self.n)

    @property
    def wbic(self) -> float:
        """n E[L_n(w)] under this local posterior, in nats; the (local) WBIC if nβ = n / ln n (Watanabe 2013)."""
        return self.n * (self.init_loss + self.llc / self.nbeta)

    @property
    def is_trustworthy(self) -> bool:
        """True if no check failed."""
        return self.verdict == "trustworthy"

    def metrics(self) -> dict[str, Any]:
        """λ̂, its error, the verdict, and the settings without which they mean nothing: one flat dictionary, in the
        manner of `evaluate`'s metrics, to be joined with those of others. None for NaN."""
        values = {name: finite(_plain(getattr(self, name))) for name in _METRICS}
        return {**values, "minimized": self.minimize is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries (no trace), None for NaN; `from_dict` reads it back."""
        return {f.name: finite(_plain(getattr(self, f.name))) for f in fields(self) if f.name not in _BESIDE}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`: None becomes NaN where a number is due.

        Raises:
            InputError: not a result, or written by a newer schema.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                "not a result of this version of hf_llc: schema_version",
                value=version or "none",
                allowed=str(SCHEMA_VERSION),
                remedy="upgrade hf_llc, or estimate again",
            )
        values = dict(values)
        names = {f.name for f in fields(cls)} - {*_BESIDE}
        missing = [f.name for f in fields(cls) if f.name not in values and f.default is dataclasses.MISSING]
        if missing or set(values) - names:
            raise InputError("the result file is damaged: wrong fields", value=missing or sorted(set(values) - names))
        for item in fields(cls):
            if item.type == "float" and values[item.name] is None:
                values[item.name] = math.nan
        values["llc_per_chain"] = [math.nan if x is None else x for x in values["llc_per_chain"]]
        for name in ("plateau", "localization_sensitivity"):
            values[name] = {k: math.nan if x is None else x for k, x in values[name].items()}
        values["reasons"] = [Reason(**reason) for reason in values["reasons"]]
        return cls(**values)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
