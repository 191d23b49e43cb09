"""YAML of cards: read within bounds, and written so that every reader takes a text for a text."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import yaml

from hf_llc.errors import InputError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_CHARACTERS = 250_000 if _LOADER is not yaml.SafeLoader else 30_000
"""Reading, editing and reading again takes a second; without its C library, yaml is ten times as slow."""
_DEEPEST = 50
_MOST_VALUES = 1_000_000
"""Aliases counted as often as they stand there: a few lines can stand for more than memory holds."""

_INDENT = re.compile(r"^[\s?:-]+", re.MULTILINE)
_LIKE_ANOTHER_TYPE = re.compile(
    r"[-+]?(\.?\d[\d_]*(\.[\d_]*)?(e[-+]?\d+)?|0o?[0-7_]+|0x[\da-f_]+|0b[01_]+|\d+(:\d+)+(\.\d*)?|\.inf|\.nan)"
    r"|\d{4}-\d\d?-\d\d?([t\s].*)?|yes|no|on|off|true|false|null|~|=|<<|",
    re.IGNORECASE,
)
"""Texts that a reader of YAML 1.1 or 1.2 takes for numbers, times, truth values or nothing. PyYAML knows 1.1 only."""


def read(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, and its value; both None if it is empty.

    Raises:
        InputError: it is larger or deeper than front matter ever is.
        YAMLError: it is not YAML.
        ValueError: a date in it does not exist.
    """
    return _read(text)


@functools.lru_cache(maxsize=4)
def _read(text: str) -> tuple[yaml.Node | None, Any]:
    if len(text) > _MOST_CHARACTERS:
        raise _too_much(f"{len(text):,} characters", f"{_MOST_CHARACTERS:,}")
    _check_depth(text)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_size(node, {}, set())
        return node, loader.construct_document(node)
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    """Refuse a text whose collections lie deep in each other: nodes are made by recursion."""
    indent = max((match.end() - match.start() for match in _INDENT.finditer(text)), default=0)
    if text.count("[") + text.count("{") + 2 * indent < _DEEPEST:  # at most so deep, told without reading it
        return
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _too_much("levels", str(_DEEPEST))


def _check_size(node: yaml.Node, sizes: dict[int, int], open_: set[int]) -> int:
    """The number of values at a node, with aliases written out."""
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in open_:
        raise InputError(
            "the front matter of README.md holds a value inside itself (a recursive alias)", remedy="mend it"
        )
    if not isinstance(node, yaml.CollectionNode):
        return 1
    open_.add(id(node))
    parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    sizes[id(node)] = 1 + sum(_check_size(part, sizes, open_) for part in parts)
    open_.remove(id(node))
    if sizes[id(node)] > _MOST_VALUES:
        raise _too_much("values, with its aliases written out", f"{_MOST_VALUES:,}")
    return sizes[id(node)]


def _too_much(what: str, allowed: str) -> InputError:
    return InputError(
        f"the front matter of README.md is too large: {what}", allowed=f"at most {allowed}", remedy="shorten it"
    )


class _Dumper(yaml.SafeDumper):
    """Texts that another reader would take for something else are quoted."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "'" if _LIKE_ANOTHER_TYPE.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write(value: Any, *, flow: bool = False) -> str:
    """The value as YAML, keys in their order: in block style, or in flow style on one line."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=flow
    )
