"""Float32 matrix products by oneDNN, on CPUs where torch's own, by MKL, use half the width of the vector units.

MKL uses AVX-512 on Intel's CPUs only. oneDNN comes with torch and uses it on any. The products are equal to rounding;
`benchmarks/step.py` measures the gain.
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
"""Multiplications from which a product goes to oneDNN: for smaller ones the dispatch takes longer than it saves."""

_PAYS = 2**22
"""Multiplications a parameter tensor, on average, from which a forward pass runs in `Products`: there the gain equals
the cost of dispatching its operations in Python, some twenty a tensor."""

_CPU = Path("/proc/cpuinfo")


@functools.cache
def is_faster() -> bool:
    """Whether this CPU has AVX-512 that MKL does not use: one not made by Intel."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        about = _CPU.read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512f" in about and "GenuineIntel" not in about


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a·b (+ bias), contiguous; `[m, k]` and `[k, n]` in any layout, or both with one batch axis in front."""
    if a.ndim == 3:
        return torch.stack([product(x, y) for x, y in zip(a.unbind(), b.unbind(), strict=True)])
    (m, k), n = a.shape, b.shape[1]
    if (
        bias is None and not a.is_contiguous() and n * (k + m) < m * k
    ):  # oneDNN would copy a; bᵀ and the result are smaller
        return product(b.t(), a.t()).t().contiguous()
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


torch.library.define("hf_llc::product", "(Tensor a, Tensor b, Tensor? bias=None) -> Tensor")
torch.library.impl("hf_llc::product", "CPU")(product)


@torch.library.register_fake("hf_llc::product")
def _shape_of_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


_aten = torch.ops.aten
_PLACES = {_aten.mm.default: (0, 1), _aten.bmm.default: (0, 1), _aten.addmm.default: (1, 2, 0)}
"""The positions of a, b and bias among the arguments of torch's products."""


def _factors(function: Any, args: Any) -> list[Any] | None:
    """[a, b] or [a, b, bias] if a call of torch is a matrix product, else None."""
    places = _PLACES.get(function)
    return None if places is None else [args[place] for place in places]


def _is_worth(a: Tensor, b: Tensor, bias: Tensor | None = None) -> bool:
    is_plain = a.dtype == torch.float32 and a.device.type == "cpu" and a.layout == b.layout == torch.strided
    return (
        is_plain and (bias is None or bias.shape == b.shape[1:]) and a.shape[-2] * a.shape[-1] * b.shape[-1] >= _WORTH
    )


class Products(TorchDispatchMode):
    """Within this mode, the large products of eager forward and backward passes go to oneDNN.

    Every operation takes some microseconds longer, so it pays only for passes with large products.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of torch."""
        factors = None if kwargs else _factors(function, args)
        if factors is not None and _is_worth(*factors):
            return product(*factors)
        return function(*args, **(kwargs or {}))


def during(num_multiplications: int) -> contextlib.AbstractContextManager[Any]:
    """`Products` if a forward pass with so many multiplications a parameter tensor gains by it; else no mode."""
    return Products() if num_multiplications >= _PAYS and is_faster() else contextlib.nullcontext()


@contextlib.contextmanager
def suspended(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Leave `context`, the innermost one, and enter it again at the end."""
    context.__exit__(None, None, None)
    try:
        yield
    finally:
        context.__enter__()


def compile_options() -> dict[str, Any]:
    """Options with which torch.compile makes the same replacement in its graphs, at no cost a step."""
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
