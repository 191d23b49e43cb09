"""Faults by name: what may go wrong between a client and the Hub, and how it looks on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

_INVALID = "Invalid credentials in Authorization header"


@dataclass
class Fault:
    """What happens to the next `times` requests for `route` (None: to all, until lifted) whose path `match` fits.

    With a status, that is the answer. Otherwise the right answer comes after `delay` seconds, is cut off after
    `cut_after` of its bytes (a fraction) by closing the connection, or has one wrong bit in the middle (`corrupt`).
    """

    route: str = "*"
    times: int | None = 1
    match: str = ""
    method: str = ""
    status: int | None = None
    code: str = ""
    message: str = "planted by the test"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut_after: float | None = None
    corrupt: bool = False

    def fits(self, route: str, method: str, path: str) -> bool:
        """Is this request one that it is for."""
        is_spent = self.times is not None and self.times <= 0
        fits_route = self.route in ("*", route) and self.method in ("", method)
        return not is_spent and fits_route and re.search(self.match, path) is not None


FAULTS = {
    "bad token": Fault(status=401, message=_INVALID),
    "forbidden": Fault(status=403, message="Forbidden"),
    "gated": Fault(
        status=403, code="GatedRepo", message="Access is restricted and you are not in the authorized list."
    ),
    "no repository": Fault(status=404, code="RepoNotFound", message="Repository not found"),
    "no revision": Fault(status=404, code="RevisionNotFound", message="Invalid rev id"),
    "no file": Fault(status=404, code="EntryNotFound", message="Entry not found"),
    "conflict": Fault(status=409, message="Conflict"),
    "head moved": Fault(status=412, message="A commit has happened since. Please refresh and try again."),
    "rate limited": Fault(status=429, message="Too many requests", headers={"Retry-After": "1"}),
    "server error": Fault(status=500, message="Internal Error - We're working hard to fix this as soon as possible!"),
    "slow": Fault(delay=3.0),
    "cut": Fault(cut_after=0.5),
    "corrupt": Fault(corrupt=True),
}


def fault(name: str, route: str, **more: Any) -> Fault:
    """The fault called `name` for a route, with some fields changed."""
    return replace(FAULTS[name], route=route, headers=dict(FAULTS[name].headers), **more)
