"""`Record`: an estimate with everything needed to believe it or to make it again. Data only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hf_llc.errors import InputError
from hf_llc.files import finite
from hf_llc.records.conditions import Cost, Settings, Subject
from hf_llc.records.findings import Estimate, Reason, is_trusted
from hf_llc.records.observations import Observations
from hf_llc.records.trace import Trace
from hf_llc.records.types import is_of_type

SCHEMA_VERSION = 2
"""Of result.json. It rises only when the form of the file changes, and `from_dict` then still reads the older ones."""

_PARTS: dict[str, Any] = {"estimate": Estimate, "settings": Settings, "cost": Cost, "subject": Subject}

_FIELDS = {item.name: (part, item) for part, kind in _PARTS.items() for item in dataclasses.fields(kind)}
"""Flat name → the part that holds it, and its field there."""

_WORDS = ("id", "revision", "subset", "split", "fingerprint")
"""Of the model and of the data: names, where they are there."""

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

if TYPE_CHECKING:

    class _FlatNames(Estimate, Settings, Cost, Subject):
        """`record.llc` is `record.estimate.llc`, and so on: `Record` gets a property for each field of its parts."""
else:
    _FlatNames = object


class Record(_FlatNames):
    """λ̂(w*) ± its standard error, the verdict on it, and how it was made.

    The fields of the four parts are also read as attributes of the record: `record.llc`, `record.nbeta`. They cannot be
    set; `replace` makes a changed copy.

    Args:
        estimate: λ̂, its diagnostics and the verdict.
        settings: what the chains used.
        cost: gradients, time, memory, processes.
        subject: model and data.
        trace: every step of every chain; None if it was not kept. It is no part of `to_dict` and of ==.
        observations: what observables saw along the chains; None if there were none. No part of `to_dict` and of ==.
        folder: where the record was saved; None if it was not. No part of `to_dict` and of == either.
    """

    schema_version = SCHEMA_VERSION

    def __init__(
        self,
        *,
        estimate: Estimate,
        settings: Settings,
        cost: Cost,
        subject: Subject,
        trace: Trace | None = None,
        observations: Observations | None = None,
        folder: Path | None = None,
    ) -> None:
        self.estimate, self.settings, self.cost, self.subject = estimate, settings, cost, subject
        self.trace, self.observations, self.folder = trace, observations, folder

    @classmethod
    def from_flat(
        cls,
        *,
        trace: Trace | None = None,
        observations: Observations | None = None,
        folder: Path | None = None,
        **values: Any,
    ) -> Self:
        """A record from its flat names.

        Raises:
            TypeError: a name that no part has, or one that is missing.
        """
        parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
        for name, value in values.items():
            if name not in _FIELDS:
                raise TypeError(f"a record has no {name!r}")
            parts[_FIELDS[name][0]][name] = value
        made = {part: kind(**parts[part]) for part, kind in _PARTS.items()}
        return cls(**made, trace=trace, observations=observations, folder=folder)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values under some of the flat names, or another `trace`, `observations` or `folder`."""
        beside = {name: getattr(self, name) for name in ("trace", "observations", "folder")}
        return type(self).from_flat(**{**self._flat(), **beside, **changes})

    def _flat(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, part) == getattr(other, part) for part in _PARTS)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._flat().items())})"

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
        return is_trusted(self.verdict)

    def metrics(self) -> dict[str, Any]:
        """λ̂, its error, the verdict, and the settings without which they mean nothing: one flat dictionary.

        It has the form of `evaluate`'s metrics and can be joined with theirs. NaN becomes None.
        """
        values = {name: finite(_plain(getattr(self, name))) for name in _METRICS}
        part = {} if self.weights == "all" else {"weights": self.weights}
        return {**values, "minimized": self.minimize is not None, **part}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries under the flat names; NaN becomes None. See `from_dict`."""
        return {name: finite(_plain(value)) for name, value in self._flat().items()} | {
            "schema_version": SCHEMA_VERSION
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`: None becomes NaN where a number is due.

        Raises:
            InputError: not a result, or one written in another schema.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                "not a result of this version of hf_llc: schema_version",
                value=version or "none",
                allowed=str(SCHEMA_VERSION),
                remedy="upgrade hf_llc, or estimate again",
            )
        flat = {name: value for name, value in values.items() if name != "schema_version"}
        needed = [name for name, (_, item) in _FIELDS.items() if item.default is dataclasses.MISSING]
        wrong = [name for name in needed if name not in flat] or sorted(set(flat) - set(_FIELDS))
        if wrong:
            raise InputError("the result file is damaged: wrong fields", value=wrong)
        for name, (_, item) in _FIELDS.items():
            if name in flat and not _is_right(name, str(item.type), flat[name]):
                raise InputError(f"the result file is damaged: a wrong {name}", value=str(flat[name])[:80])
            if item.type == "float":
                flat[name] = _number(flat[name])
        flat["llc_per_chain"] = [_number(value) for value in flat["llc_per_chain"]]
        for name in ("plateau", "localization_sensitivity"):
            flat[name] = {key: _number(value) for key, value in flat[name].items()}
        if flat.get("descent") is not None:
            flat["descent"] = {key: _number(value) for key, value in flat["descent"].items()}
        flat["reasons"] = [Reason(**reason) for reason in flat["reasons"]]
        return cls.from_flat(**flat)


for _name, (_part, _) in _FIELDS.items():
    setattr(Record, _name, property(attrgetter(f"{_part}.{_name}")))


def _is_right(name: str, annotation: str, value: Any) -> bool:
    """Whether a field of a file can be the field of a record: its type, and what every reader relies on."""
    if name == "reasons":
        kinds = {item.name: str(item.type) for item in dataclasses.fields(Reason)}
        return isinstance(value, list) and all(
            isinstance(reason, dict)
            and {"name", "text"} <= reason.keys() <= kinds.keys()
            and all(is_of_type(part, kinds[key]) for key, part in reason.items())
            for reason in value
        )
    if annotation == "LocalizationCheck":
        keys = {"halved", "halved_se", "doubled", "doubled_se"}
        return is_of_type(value, "dict[str, float]") and value.keys() in (keys, set())
    if not is_of_type(value, annotation) or not _has_sane_numbers(value):
        return False
    if name in ("data", "model"):
        return all(is_of_type(value.get(key), "str | None") for key in _WORDS)
    if name == "descent":
        return value is None or is_of_type(value.get("loss_drop", ""), "float")
    if name in ("n", "num_chains"):
        return value > 0
    if name == "nbeta":
        return value is not None and value > 0
    if name == "minimize":
        return value is None or is_of_type(value.get("distance"), "float")
    return True


def _has_sane_numbers(value: Any) -> bool:
    """Whether every whole number in it has a place among floats."""
    if isinstance(value, dict):
        return all(_has_sane_numbers(part) for part in value.values())
    if isinstance(value, list):
        return all(_has_sane_numbers(part) for part in value)
    return not isinstance(value, int) or abs(value) < 2**64


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
