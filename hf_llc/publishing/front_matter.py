"""A README's YAML front matter, edited as text: one metric goes into `model-index`, every other byte stays.

The YAML is parsed only to find positions and to check the outcome. It is never written out as a whole: that would lose
comments, order, quotes, anchors and the digits of other people's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from hf_llc.errors import InputError
from hf_llc.publishing import yaml_text

_BLOCK = re.compile(r"(\s*---(?:\r\n|\r|\n))((?:[\S\s]*?(?:\r\n|\r|\n))??)(---[ \t]*(?:\r\n|\n|$))")
"""As the Hub finds the front matter (huggingface_hub.repocard.REGEX_YAML_BLOCK), but an empty one matches too."""

IsSame = Callable[[dict[str, Any], dict[str, Any]], bool]
"""(result item of a model-index, metric in it) → whether the new metric replaces this one."""


@dataclass(frozen=True)
class Parts:
    """A README in three parts; joined they are the README.

    Attributes:
        start: up to the first line of the YAML.
        block: the YAML.
        rest: from the closing `---` on.
    """

    start: str
    block: str
    rest: str


def newline_of(text: str) -> str:
    """Return the line end of most lines of `text`."""
    windows = text.count("\r\n")
    return "\r\n" if windows > text.count("\n") - windows else "\n"


def split_readme(readme: str) -> Parts | None:
    """Split a README (without a byte order mark) around its front matter; return None if it has none.

    Text between two `---` that is not a mapping is no front matter: those are two thematic breaks.

    Raises:
        InputError: the text between them is not YAML.
    """
    match = _BLOCK.match(readme)
    if match is None or not isinstance(parsed(match[2]), (dict, type(None))):
        return None
    return Parts(match[1], match[2], readme[match.end(2) :])


def with_entry(readme: str, *, item: dict[str, Any], model_name: str, is_same: IsSame) -> str:
    """Return the README with the metric of `item` in its model-index, replacing the same one or as a new result.

    Args:
        readme: a whole README without a byte order mark.
        item: one element of a model-index's `results`, with task, dataset and exactly one metric.
        model_name: name in the model-index, if the README has none yet.
        is_same: says which metric is replaced.

    Raises:
        InputError: the front matter is not YAML, its model-index does not have the form of one, or it cannot be edited
            without changing anything else.
    """
    newline = newline_of(readme)
    parts = split_readme(readme)
    if parts is None:
        return f"---{newline}{_new_index(model_name, item, newline, indent=0)}---{newline}{readme}"
    edited = _edited(parts.block, item, model_name, is_same, newline)
    _check(parts.block, edited, item, is_same)
    return parts.start + edited + parts.rest


def parsed(block: str) -> Any:
    """The value of a YAML block, not to be changed.

    Raises:
        InputError: it is not YAML, or larger than front matter ever is.
    """
    return _read(block)[1]


def _read(block: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML block, and its value."""
    try:
        return yaml_text.read(block)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 2})"
        raise InputError(f"the front matter of README.md is not YAML{where}", remedy="mend it, then publish") from error


def _results(index: Any) -> list[dict[str, Any]]:
    """Return the result items of a parsed model-index.

    Raises:
        InputError: it does not have the form of one.
    """
    if index is None:
        return []
    try:
        items = [item for model in index for item in (model.get("results") or [])]
        for item in items:
            if not isinstance(item["task"], dict) or not isinstance(item["dataset"], dict):
                raise TypeError(item)
            for metric in item["metrics"]:
                _ = metric["type"], metric["value"]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            "the model-index in the front matter of README.md does not have the form of one",
            allowed="a list of models with name and results, each result with task, dataset and metrics",
            remedy="mend it, then publish",
        ) from error
    return items


def _edited(block: str, item: dict[str, Any], model_name: str, is_same: IsSame, newline: str) -> str:
    """Return the block with the metric in it, changed in one place."""
    root, values = _read(block)
    if root is None:
        return block + _new_index(model_name, item, newline, indent=0)
    if not isinstance(root, yaml.MappingNode):
        _refuse()
    if not root.value:  # {}
        return _replace(block, root, _flow({"model-index": [_model(model_name, item)]}))
    _results(values.get("model-index"))
    index = _value(root, "model-index")
    if index is None:
        if root.flow_style is True:
            end = root.value[-1][1].end_mark.index
            return f"{block[:end]}, {_flow({'model-index': [_model(model_name, item)]})[1:-1]}{block[end:]}"
        return block + _new_index(model_name, item, newline, indent=root.value[0][0].start_mark.column)
    if not isinstance(index, yaml.SequenceNode):  # null
        return _replace(block, index, _flow([_model(model_name, item)]))
    same = _same_metric(index, values["model-index"], is_same)
    if same is not None:
        return _with_metric(block, same, item["metrics"][0], newline)
    models = [node for node in index.value if isinstance(node, yaml.MappingNode)]
    if not models:
        return _with_item(block, index, _model(model_name, item), newline)
    results = _value(models[0], "results")
    if results is None:
        _refuse()
    if not isinstance(results, yaml.SequenceNode):  # null
        return _replace(block, results, _flow([item]))
    return _with_item(block, results, item, newline)


def _same_metric(index: yaml.SequenceNode, models: list[Any], is_same: IsSame) -> yaml.Node | None:
    """Return the node of the metric to replace; None if there is none."""
    for model, result in _pairs(index, models, "results"):
        for metric, values in _pairs(yaml.SequenceNode("", [model]), [result], "metrics"):
            if is_same(result, values):
                return metric
    return None


def _pairs(sequence: yaml.SequenceNode, values: list[Any], key: str) -> Iterator[tuple[yaml.Node, Any]]:
    """The node and the value of each item in the lists that lie under a key of a sequence's items."""
    for node, value in zip(sequence.value, values, strict=True):
        items = _value(node, key)
        if isinstance(items, yaml.SequenceNode):
            yield from zip(items.value, value[key], strict=True)


def _value(node: yaml.Node, key: str) -> yaml.Node | None:
    """Return the value of a key; if the key is repeated, that of the last one, as YAML's constructor does."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in reversed(pairs) if name.value == key), None)


def _model(name: str, item: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "results": [item]}


def _new_index(name: str, item: dict[str, Any], newline: str, *, indent: int) -> str:
    return _dump({"model-index": [_model(name, item)]}, newline, indent)


def _with_item(block: str, sequence: yaml.SequenceNode, item: dict[str, Any], newline: str) -> str:
    """Add an element at the end of a sequence, in the sequence's own style (flow or block)."""
    if sequence.flow_style is True:
        end = sequence.value[-1].end_mark.index if sequence.value else sequence.end_mark.index - 1
        return f"{block[:end]}{', ' if sequence.value else ''}{_flow(item)}{block[end:]}"
    first = sequence.value[0].start_mark.index
    dash = block.rindex("-", 0, first)
    line = max(block.rfind("\n", 0, dash), block.rfind("\r", 0, dash)) + 1
    if block[line:dash].strip() or block[dash + 1 : first].strip():
        _refuse()
    end = _end_of_line(block, _end(sequence))
    before = "" if end == 0 or block[end - 1] in "\r\n" else newline
    return block[:end] + before + _dump([item], newline, dash - line) + block[end:]


def _with_metric(block: str, node: yaml.Node, metric: dict[str, Any], newline: str) -> str:
    """Put another metric in the place of the one at `node`, in the same style."""
    if isinstance(node, yaml.CollectionNode) and node.flow_style is True:
        return _replace(block, node, _flow(metric))
    text = _dump(metric, newline, node.start_mark.column)
    start, end = node.start_mark.index, _end_of_line(block, _end(node))
    return block[:start] + text[node.start_mark.column :] + block[end:]


def _replace(block: str, node: yaml.Node, text: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = " " if start > 0 and block[start - 1] == ":" else ""
    return block[:start] + space + text + block[end:]


def _end(node: yaml.Node) -> int:
    """Return where the text of a node ends. (The end mark of a block collection lies behind comments that follow.)"""
    if isinstance(node, yaml.CollectionNode) and node.flow_style is not True and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def _end_of_line(block: str, index: int) -> int:
    """Return the start of the next line, or `index` if it already starts one (after a block scalar)."""
    if index > 0 and block[index - 1] in "\r\n":
        return index
    newline = re.compile(r"\r\n|\r|\n").search(block, index)
    return len(block) if newline is None else newline.end()


def _dump(value: Any, newline: str, indent: int) -> str:
    """YAML in block style, indented."""
    text = yaml_text.write(value)
    return "".join(" " * indent + line + newline for line in text.rstrip("\n").split("\n"))


def _flow(value: Any) -> str:
    """YAML in flow style, on one line."""
    return yaml_text.write(value, flow=True).rstrip()


def _check(before: str, after: str, item: dict[str, Any], is_same: IsSame) -> None:
    """Check that everything but the one metric reads as before, and that the metric is in the block once.

    Raises:
        InputError: the edit would have changed something else (for example through an alias into the model-index).
    """
    old, new = parsed(before) or {}, parsed(after)
    if not isinstance(new, dict):
        _refuse()
    same = [m for r in _results(new.get("model-index")) for m in r["metrics"] if is_same(r, m)]
    others = [_others(values.get("model-index"), is_same) for values in (old, new)]
    if _besides(old) != _besides(new) or others[0] != others[1] or same != item["metrics"]:
        _refuse()


def _besides(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "model-index"}


def _others(index: Any, is_same: IsSame) -> list[tuple[Any, Any, Any]]:
    """Task, data set and metric of every metric that is not to be replaced, in order."""
    return [(r["task"], r["dataset"], m) for r in _results(index) for m in r["metrics"] if not is_same(r, m)]


def _refuse() -> NoReturn:
    raise InputError(
        "the model-index in the front matter of README.md cannot be edited without touching other parts",
        remedy="write it as a plain list, without aliases and with each llc metric once",
    )
