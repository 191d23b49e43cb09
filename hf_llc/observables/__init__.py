"""What is recorded along the chains besides the loss: one observable a file; this page is the list of them.

`docs/extending.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hf_llc.errors import InputError
from hf_llc.observables.observable import Observable
from hf_llc.observables.parameter_norms import parameter_norms
from hf_llc.observe_setting import registered_names, unknown_observable

__all__ = ["OBSERVABLES", "Observable", "observables_named", "register"]

O = TypeVar("O", bound=Observable)  # noqa: E741

OBSERVABLES: dict[str, Observable] = {"parameter_norms": parameter_norms}
"""Every observable, by the name that the setting `observe` calls it."""

_LIBRARY = frozenset(OBSERVABLES)


def register(name: str) -> Callable[[O], O]:
    """Decorator that adds an observable, for this process, to the names that `observe` knows.

    Args:
        name: by which settings call it. A name that was registered before is given to the new observable.

    Raises:
        InputError: an observable of the library has that name, or it has a comma in it.
    """
    if name in _LIBRARY or "," in name or not name.strip():
        raise InputError("not a name for a new observable", value=name, remedy="choose another name, without a comma")

    def add(observable: O) -> O:
        OBSERVABLES[name] = observable
        return observable

    return add


def observables_named(names: str | None) -> dict[str, Observable]:
    """The observables of a list of names, separated by commas; none for None.

    Raises:
        InputError: one of them is not known.
    """
    found: dict[str, Observable] = {}
    for name in registered_names(names):
        if name not in OBSERVABLES:
            raise unknown_observable(name, OBSERVABLES)
        found[name] = OBSERVABLES[name]
    return found
