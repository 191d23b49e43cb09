"""Float32 matrix products by oneDNN, where torch's own go through an MKL that keeps the CPU to half its width.

MKL takes the AVX-512 units of Intel's CPUs only; oneDNN, which torch brings along and convolutions use anyway, takes
those of any. `benchmarks/step.py` shows what that is worth. It is the same product to rounding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WORTH = 2**21
"""Multiplications from which a product is handed over: below, the way there takes longer than it saves."""

_PAYS = 2**22
"""Multiplications that a forward pass has to have for each weight of the model, on average: what is gained is then what
it costs to look at every operation, some twenty a weight."""

_CPU = Path("/proc/cpuinfo")


@functools.cache
def is_faster() -> bool:
    """Whether this is an AVX-512 CPU that MKL keeps short, known by its maker."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        about = _CPU.read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512f" in about and "GenuineIntel" not in about


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a·b (+ bias), `[m, k]`·`[k, n]` or both with the same axis in front, in any layout; contiguous."""
    if a.ndim == 3:
        return torch.stack([product(x, y) for x, y in zip(a.unbind(), b.unbind(), strict=True)])
    (m, k), n = a.shape, b.shape[1]
    if bias is None and not a.is_contiguous() and n * (k + m) < m * k:  # oneDNN copies its left side into order
        return product(b.t(), a.t()).t().contiguous()
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


torch.library.define("hf_llc::product", "(Tensor a, Tensor b, Tensor? bias=None) -> Tensor")
torch.library.impl("hf_llc::product", "CPU")(product)


@torch.library.register_fake("hf_llc::product")
def _shape_of_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


_aten = torch.ops.aten
_PLACES = {_aten.mm.default: (0, 1), _aten.bmm.default: (0, 1), _aten.addmm.default: (1, 2, 0)}
"""Where among its arguments a product of torch has a, b and bias."""


def _factors(function: Any, args: Any) -> list[Any] | None:
    """[a, b] or [a, b, bias] where a call of torch is such a product, whatever its size."""
    places = _PLACES.get(function)
    return None if places is None else [args[place] for place in places]


def _is_worth(a: Tensor, b: Tensor, bias: Tensor | None = None) -> bool:
    is_plain = a.dtype == torch.float32 and a.device.type == "cpu" and a.layout == b.layout == torch.strided
    return (
        is_plain and (bias is None or bias.shape == b.shape[1:]) and a.shape[-2] * a.shape[-1] * b.shape[-1] >= _WORTH
    )


class Products(TorchDispatchMode):
    """Within it, the large products of eager passes, backward ones included, go to oneDNN.

    Every operation takes some microseconds longer, so it is for passes that have such products.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of torch."""
        factors = None if kwargs else _factors(function, args)
        if factors is not None and _is_worth(*factors):
            return product(*factors)
        return function(*args, **(kwargs or {}))


def during(num_multiplications: int) -> contextlib.AbstractContextManager[Any]:
    """`Products` where a forward pass with so many multiplications a weight, on average, is the faster for it."""
    return Products() if num_multiplications >= _PAYS and is_faster() else contextlib.nullcontext()


@contextlib.contextmanager
def suspended(passes: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Out of a context, the innermost one, for what happens within a pass and is none of it."""
    passes.__exit__(None, None, None)
    try:
        yield
    finally:
        passes.__enter__()


def compile_options() -> dict[str, Any]:
    """For torch.compile: the same in its graphs, where it costs nothing to look."""
    return {"post_grad_custom_pre_pass": _pass()} if is_faster() else {}


def _pass() -> Callable[[torch.fx.Graph], None]:
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Pass(CustomGraphPass):
        """Replaces the large products of a graph."""

        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in graph.nodes:
                factors = None if node.op != "call_function" or node.kwargs else _factors(node.target, node.args)
                if factors is not None and _is_worth(*[factor.meta["val"] for factor in factors]):
                    node.target, node.args = torch.ops.hf_llc.product.default, tuple(factors)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return Pass()
