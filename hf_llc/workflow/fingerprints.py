"""What a module and a loss are told apart by beside their numbers: names, and the constants in them."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hf_llc.parallel.sharding import hash_of

_DEPTH = 4
"""A loss calls another, which is a partial of a third, and so on: so far is followed."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def module_fingerprint(model: nn.Module) -> list[Any]:
    """Of each module its name, class, `extra_repr` (an epsilon, say), and the floats and functions it was given.

    Whole numbers are left out, because some modules count their calls; tensors, because devices round them differently.
    """
    found = []
    for name, module in model.named_modules():
        given = {key: x for key, x in vars(module).items() if not (key.startswith("_") or isinstance(x, Tensor))}
        kind = type(module).__qualname__.removeprefix("FSDP")  # as torch names the class of a sharded module
        found.append([name, kind, _ADDRESS.sub("", module.extra_repr()), _constants(given, 1)])
    return found


def loss_fingerprint(loss: Any, depth: int = _DEPTH) -> Any:
    """Of a function its name, the constants in its code, and what it is closed over; of an object its attributes.

    Two losses with the same values at w* may differ along the chains: the threshold of a Huber loss is such a constant.

    Args:
        loss: a function, method, partial, or an object that can be called; None: the task has one.
        depth: how far functions that it uses are followed.
    """
    if loss is None or depth == 0:
        return None
    if isinstance(loss, functools.partial):
        parts = [*loss.args, *(loss.keywords[name] for name in sorted(loss.keywords))]
        return ["partial", loss_fingerprint(loss.func, depth - 1), sorted(loss.keywords), [_told(x) for x in parts]]
    if isinstance(loss, types.MethodType):
        return [loss_fingerprint(loss.__func__, depth), loss_fingerprint(loss.__self__, depth - 1)]
    if isinstance(loss, types.FunctionType):
        used = inspect.getclosurevars(loss)
        defaults = [_told(x) for x in (*(loss.__defaults__ or ()), *(loss.__kwdefaults__ or {}).values())]
        known = {**used.globals, **used.nonlocals}
        return [loss.__qualname__, _code(loss.__code__, loss.__doc__), defaults, _constants(known, depth - 1)]
    if isinstance(loss, nn.Module):
        return [module_fingerprint(loss), _constants(dict(loss.named_buffers()), depth - 1)]
    attributes = getattr(loss, "__dict__", {})
    return [getattr(loss, "__qualname__", type(loss).__qualname__), _constants(attributes, depth - 1)]


def _constants(values: dict[str, Any], depth: int) -> dict[str, Any]:
    """The floats, tensors and functions among values by name. Counters and lists change while a run is under way."""
    found = {}
    for name, value in sorted(values.items()):
        if isinstance(value, (float, Tensor)):
            found[name] = _told(value)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)) and _is_users(value):
            found[name] = loss_fingerprint(value, depth)
        elif isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
            found[name] = value.__qualname__
    return found


def _is_users(function: Callable[..., Any]) -> bool:
    """Whether a function is the user's own, and not one of torch, whose code another version may have changed."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] not in ("torch", "transformers", "hf_llc")


def _code(code: types.CodeType, doc: str | None = None) -> list[Any]:
    """The constants and names in the code of a function without its docstring, and in that of functions within."""
    constants = [x for x in code.co_consts if doc is None or x is not doc]
    return [[_code(x) if isinstance(x, types.CodeType) else _told(x) for x in constants], list(code.co_names)]


def _told(value: Any) -> Any:
    """A constant as JSON takes it; of anything else only the class."""
    if isinstance(value, Tensor):
        return hash_of([value])
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return [_told(x) for x in value]
    return type(value).__qualname__
