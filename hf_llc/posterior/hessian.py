"""Hessian–vector products of the loss at w*, and the spectrum that one random vector sees (Lanczos quadrature)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_llc.backend.random_streams import counter_seed
from hf_llc.posterior.curvature import hessian_product
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import Journal, StageFolder
from hf_llc.problem import Problem
from hf_llc.progress import watch

_MOST_PAIRS, _MOST_FLOATS = 2**17, 2**16
"""Pairs of positions, and numbers of images, in a forward pass of a product at most, over its examples. Attention
without a fused kernel holds many tensors of pairs for each layer: 64 windows of 256 tokens at once took 5.6 GB and
twice the time of two (stories260K); 1,024 images of 28 × 28 took 1.7 times that of 32 (a convolutional network)."""

_ROUNDING = 100
"""Rounding errors of a product, in units of the last place."""


_BASIS_BYTES = 2**28


def product_cost(problem: Problem) -> float:
    """Time of a Hessian–vector product beside that of a gradient, roughly: attention has no fused second derivative."""
    return 5.0 if problem.num_positions > 1 else 2.5


def _examples_at_once(problem: Problem) -> int:
    """Examples of a forward pass of a product at most."""
    floats = max((x[0].numel() for x in problem.examples.values() if x.is_floating_point()), default=1)
    return max(1, min(_MOST_PAIRS // problem.num_positions**2, _MOST_FLOATS // max(floats, 1)))


class HessianProducts:
    """v → ∇²L_B(w*) v, by a second backward pass; where a layer has none, by a difference of gradients.

    A whole group of processes calls it, and each takes its share of the examples.

    Args:
        posterior: model at w* and examples.
        indices: the examples, int64 `[1, m]`; None: all.
    """

    def __init__(self, posterior: Posterior, indices: Tensor | None) -> None:
        self.posterior, self.indices = posterior, indices
        self.w_star = posterior.start(1)
        self._base: list[Tensor] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """∇²L_B(w*) v, float64 `[parameter]`; `v` is a unit vector of that shape and type."""
        direction = v.to(self.posterior.dtype)[None]
        cost = product_cost(self.posterior.problem) * self.posterior.minibatches.size(self.indices)
        watch().spend(cost / self.posterior.group.size)
        if self._base is None:
            try:
                return self._exact(direction).double()
            except (RuntimeError, NotImplementedError) as error:
                if "implemented" not in str(error):
                    raise
            self._base = self.posterior.gradient(self.w_star, self.indices)[1]
        return hessian_product(self.posterior, self.w_star, self.indices, self._base, direction)[0].double()

    @torch.enable_grad()
    def _exact(self, direction: Tensor) -> Tensor:
        posterior, size = self.posterior, self.posterior.minibatches.size(self.indices)
        posterior.buffer.attach(self.w_star)
        leaves, pieces = posterior.buffer.leaves, posterior.buffer.views(direction)
        total = torch.zeros_like(direction[0])
        most = _examples_at_once(posterior.problem)
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second backward pass
            for batch in posterior.minibatches.micro_batches(self.indices, 1, most=most):
                posterior.check_time()
                loss = posterior.problem.losses(posterior.model, batch).sum() / size
                grads = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
                slopes = [
                    (g * x).sum() for g, x in zip(grads, pieces, strict=True) if g is not None and g.requires_grad
                ]
                if not slopes:  # the loss is linear in the weights
                    continue
                seconds = torch.autograd.grad(torch.stack(slopes).sum(), leaves, allow_unused=True)
                parts = [torch.zeros_like(x) if y is None else y for x, y in zip(leaves, seconds, strict=True)]
                total += torch.cat([part.detach().reshape(-1) for part in parts])
        if posterior.group.size > 1:
            posterior.group.sum_([total])
        return total


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, journal: Journal, *, iterations: int, precision: float
) -> tuple[list[float], list[float]]:
    """Nodes and weights of the Gauss quadrature for the spectrum of a symmetric matrix H that `start` sees.

    Σ_k weight_k f(node_k) ≈ startᵀ f(H) start / ‖start‖², exact for polynomials f of degree 2·iterations − 1. Vectors
    are made orthogonal again if they fit into memory. If not, rounding adds copies of eigenvalues, which share the
    weight of one (Greenbaum 1989).

    Args:
        product: v → Hv, float64.
        start: float64 `[parameter]`.
        journal: each product is a step of it.
        iterations: products at most.
        precision: of a product, relative to the largest eigenvalue.
    """
    diagonal: list[float] = []
    beside: list[float] = []
    basis = journal.hold("basis", {"0": start / start.norm()})
    is_kept = iterations * start.nbytes <= _BASIS_BYTES

    def advance(k: int) -> Tensor:
        v = basis[str(k)]
        u = product(v)
        if k:
            u -= beside[-1] * basis[str(k - 1)]
        slope = float(v @ u)
        u -= slope * v
        if is_kept:
            for q in range(k + 1):
                u -= (basis[str(q)] @ u) * basis[str(q)]
        else:
            basis.pop(str(k - 1), None)
        length = float(u.norm())
        basis[str(k + 1)] = u / length if length > 0 else u
        return torch.tensor([slope, length], dtype=torch.float64)

    for k in range(iterations):
        slope, length = journal.once(functools.partial(advance, k)).tolist()
        diagonal.append(slope)
        if k + 1 == iterations or length <= precision * max(*map(abs, diagonal), *beside, 0.0):
            break
        beside.append(length)
    journal.drop("basis")
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return nodes.tolist(), np.square(vectors[0]).tolist()


def probe_spectrum(
    posterior: Posterior,
    *,
    seed: int,
    number: int,
    iterations: int,
    num_examples: int,
    folder: StageFolder | None = None,
) -> dict[str, list[float]]:
    """What a random vector of signs sees of the spectrum of ∇²L_n(w*): `nodes`, ascending, and their `weights`.

    d·Σ weight_k f(node_k) has the mean tr f(∇²L) over vectors (Hutchinson), but for the choice of examples.

    Args:
        posterior: model at w* and examples; a whole group calls this.
        seed: of vectors and examples.
        number: of the vector. Each has examples of its own, so that their spread shows what that choice does.
        iterations: products at most.
        num_examples: that each product sees.
        folder: from which a killed one goes on; None: nothing is kept.
    """
    generator = torch.Generator().manual_seed(counter_seed(seed, number, purpose="hessian"))
    signs = torch.randint(2, (posterior.num_parameters,), generator=generator).double() * 2 - 1
    journal = Journal(posterior.buffer, folder)
    return _seen(posterior, signs, generator, journal, iterations=iterations, num_examples=num_examples)


@torch.no_grad()
def slope_spectrum(
    posterior: Posterior, *, seed: int, iterations: int, num_examples: int, folder: StageFolder | None = None
) -> dict[str, list[float]]:
    """What the gradient g of L_n at w* sees of that spectrum: `nodes`, `weights`, and `square`, ‖g‖² alone.

    ‖g‖²·Σ weight_k f(node_k) ≈ gᵀ f(∇²L) g. g is of all examples.

    Args:
        posterior: model at w* and examples; a whole group calls this.
        seed: of the examples.
        iterations: products at most.
        num_examples: that each product sees.
        folder: from which a killed one goes on; None: nothing is kept.
    """
    journal = Journal(posterior.buffer, folder)
    held = journal.hold("slope", {})

    def begin() -> Tensor:
        pieces = posterior.gradient(posterior.start(1), None)[1]
        held["slope"] = torch.cat(pieces, dim=1)[0].double()
        return held["slope"] @ held["slope"]

    square = float(journal.once(begin))
    if square == 0:
        return {"nodes": [0.0], "weights": [1.0], "square": [0.0]}
    generator = torch.Generator().manual_seed(counter_seed(seed, purpose="hessian"))
    start = held.get("slope", torch.ones(posterior.num_parameters, dtype=torch.float64))  # restored with a later step
    journal.drop("slope")
    found = _seen(posterior, start, generator, journal, iterations=iterations, num_examples=num_examples)
    return {**found, "square": [square]}


def _seen(
    posterior: Posterior,
    start: Tensor,
    generator: torch.Generator,
    journal: Journal,
    *,
    iterations: int,
    num_examples: int,
) -> dict[str, list[float]]:
    """Nodes and weights that `start` sees, over as many examples that the generator chooses."""
    indices = None
    if num_examples < posterior.num_examples:
        order = torch.randperm(posterior.num_examples, generator=generator)
        indices = order[None, :num_examples].to(posterior.device)
    precision = _ROUNDING * torch.finfo(posterior.dtype).eps
    product = HessianProducts(posterior, indices)
    steps = min(iterations, posterior.num_parameters)
    nodes, weights = lanczos(product, start.to(posterior.device), journal, iterations=steps, precision=precision)
    posterior.buffer.release()
    return {"nodes": nodes, "weights": weights}
