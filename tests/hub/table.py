"""What a route is: a function from a request to an answer, entered in a table under a name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hub.store import Repo, Store, User


@dataclass
class Request:
    """What came in. `parts` are the groups of the route's pattern, unquoted; None where a part is absent."""

    store: Store
    endpoint: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: User | None
    parts: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def kind(self) -> str:
        """model, dataset or space."""
        return (self.parts.get("kinds") or "models").removesuffix("s")

    @property
    def repo(self) -> Repo:
        return self.store.repo(self.kind, self.parts["repo"], self.user)

    @property
    def revision(self) -> str:
        return self.parts.get("revision") or "main"

    def url(self, path: str) -> str:
        """Address of a page of this request's repository."""
        return page(self.endpoint, self.kind, self.parts["repo"]) + path


@dataclass
class Answer:
    """What goes out: a body, or `value` as JSON."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
        return json.dumps(self.value).encode()


Route = Callable[[Request], Answer]
ROUTES: list[tuple[str, str, re.Pattern[str], Route]] = []
"""(name, method, pattern of the path, function): the first that fits is taken."""

REPO = r"/api/(?P<kinds>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kinds>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"


def route(name: str, methods: str, pattern: str) -> Callable[[Route], Route]:
    """Enter a function under a name, which faults refer to."""

    def enter(function: Route) -> Route:
        ROUTES.extend((name, method, re.compile(pattern + r"/?$"), function) for method in methods.split())
        return function

    return enter


def page(endpoint: str, kind: str, name: str) -> str:
    """Address of a repository's page."""
    return f"{endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
