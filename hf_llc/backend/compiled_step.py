"""torch.compile for a method that is called thousands of times, without its guards."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_llc.backend.onednn_products import compile_options


class CompiledStep:
    """A method of (tensor, tensor or mapping of tensors, int), compiled once for each shape and layout of these.

    The state of the method's object must not change while this is in use. Then only the arguments have to be checked
    before a call, and that is done here. torch's own guards check every module of the model too, which takes a tenth of
    a step of eight chains of a small network.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method: Any = method
        self.made: dict[Any, Callable[..., Any]] = {}

    def __call__(self, w: Tensor, batch: Tensor | Mapping[str, Tensor], size: int) -> Any:
        parts = [batch] if isinstance(batch, Tensor) else batch.values()
        key = (w.shape, w.stride(), size, *[(x.shape, x.stride()) for x in parts])
        if key not in self.made:
            self.made[key] = self._compiled()
        return self.made[key](w, batch, size)

    def _compiled(self) -> Callable[..., Any]:
        function = self.method.__func__
        # torch keeps compiled code with the code object: each compilation needs a copy of it
        copy = types.FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
        unchecked = getattr(torch.compiler, "skip_all_guards_unsafe", None)  # torch below 2.8 keeps its guards
        options = compile_options() | ({} if unchecked is None else {"guard_filter_fn": unchecked})
        # torch remembers sizes by file and line, for copies too: with dynamic shapes another model's become symbols
        return torch.compile(types.MethodType(copy, self.method.__self__), dynamic=False, options=options or None)
