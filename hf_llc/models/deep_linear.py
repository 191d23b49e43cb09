"""Deep linear networks y = W_M ⋯ W_1 x, whose learning coefficient is known (arXiv 2308.12108, appendix J).

Where the paper's code differs from its text, this follows the code: layers are drawn with variance 1/fan-in, truncated,
and not 1, and labels have no noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_llc.backend.random_streams import counter_seed
from hf_llc.errors import InputError
from hf_llc.problem import Forward, Problem
from hf_llc.theory import Coefficient, LocalCoefficient, deep_linear, deep_linear_local


class DeepLinearConfig(PretrainedConfig):
    """Widths H_0 … H_M of a deep linear network, inputs first."""

    model_type = "deep_linear"

    def __init__(self, widths: Sequence[int] = (8, 8, 8), **kwargs: Any) -> None:
        self.widths = list(widths)
        super().__init__(**kwargs)


@dataclass
class DeepLinearOutput(ModelOutput):
    """`prediction`, `[…, H_M]`; and `loss` if labels are given: the mean squared error over examples and outputs."""

    loss: Tensor | None = None
    prediction: Tensor | None = None


class DeepLinearModel(PreTrainedModel):
    """y = W_M ⋯ W_1 x, without biases."""

    config_class = DeepLinearConfig
    main_input_name = "inputs"

    def __init__(self, config: DeepLinearConfig) -> None:
        super().__init__(config)
        pairs = zip(config.widths[:-1], config.widths[1:], strict=True)
        self.layers = nn.ModuleList([nn.Linear(one, other, bias=False) for one, other in pairs])
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            sd = module.in_features**-0.5
            init.trunc_normal_(module.weight, std=sd, a=-2 * sd, b=2 * sd)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> DeepLinearOutput:
        """The prediction for inputs `[…, H_0]`, and its loss if labels `[…, H_M]` are given."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        weights = [layer.weight.T for layer in self.layers]  # type: ignore[union-attr]
        x = torch.linalg.multi_dot([rows, *weights]).unflatten(0, inputs.shape[:-1])  # in the cheapest order
        return DeepLinearOutput(loss=None if labels is None else (x - labels).square().mean(), prediction=x)


@dataclass(frozen=True)
class SizeClass:
    """A row of the paper's Table 1: ranges of layers and widths (upper ends excluded), ε, steps, and n."""

    layers: tuple[int, int]
    widths: tuple[int, int]
    step_size: float
    num_steps: int
    n: int


SIZES = {
    "1k": SizeClass((2, 5), (5, 50), 5e-7, 10_000, 10**5),
    "10k": SizeClass((2, 10), (5, 100), 5e-7, 10_000, 10**5),
    "100k": SizeClass((2, 10), (50, 500), 1e-7, 50_000, 10**6),
    "1M": SizeClass((5, 20), (100, 1000), 5e-8, 50_000, 10**6),
    "10M": SizeClass((2, 20), (500, 2000), 2e-8, 50_000, 10**6),
    "100M": SizeClass((2, 40), (500, 3000), 2e-8, 50_000, 10**6),
}
"""Table 1 of arXiv 2308.12108. "Layers" counts weight matrices. All use SGLD, γ = 1, batches of 500."""


_BLOCK = 500
"""Inputs that one random generator draws: an input does not depend on how many are asked for."""


@dataclass(frozen=True)
class DeepLinearNetwork:
    """A network at w*, and its learning coefficients.

    Attributes:
        model: the network, in eval mode.
        ranks: rank of each layer; its other singular values are zero up to rounding.
        seed: seed of the network and its data.
    """

    model: DeepLinearModel
    ranks: tuple[int, ...]
    seed: int

    @property
    def widths(self) -> list[int]:
        """H_0 … H_M."""
        return self.model.config.widths

    @property
    def coefficient(self) -> Coefficient:
        """The global λ, over all weights with the same product: what long chains at small γ measure."""
        return deep_linear(self.widths, min(self.ranks))

    @property
    def local_coefficient(self) -> LocalCoefficient:
        """λ(w*), or bounds on it: what chains measure that γ keeps near w*."""
        return deep_linear_local(self.widths, self.ranks)

    def problem(self, n: int, *, group: int = 1) -> Problem:
        """L_n(w) = mean over n inputs and the outputs of (ŷ − y)², x ~ U[−10, 10]^{H_0}, y the network's own outputs.

        With `group` = m > 1, an example is a group X of m inputs. Its mean loss depends on XᵀX/m = RᵀR only, so the
        rows of R, H_0 at most, replace the m inputs: the same function of w at a fraction of the cost. One such example
        is a minibatch of m inputs, the same minibatches in every chain; group = n is the full batch.

        Args:
            n: number of inputs.
            group: m, a divisor of n.

        Raises:
            InputError: n is below 2, or m does not divide n.
        """
        if n < 2:
            raise InputError("too few inputs", value=n, allowed="2 or more")
        if group < 1 or n % group:
            raise InputError("groups do not divide the inputs evenly", value=group, allowed=f"a divisor of {n}")
        if group == 1:
            inputs = torch.cat(list(self._inputs(0, n)))
        else:
            inputs = torch.stack([self._root(start, start + group) for start in range(0, n, group)])
        inputs = inputs.to(next(self.model.parameters()).dtype)
        with torch.no_grad():
            labels = self.model(inputs).prediction
        return Problem(
            self.model,
            {"inputs": inputs, "labels": labels},
            _losses,
            n=n,
            unit="mean squared error",
            task="deep-linear",
            provenance={"model": {"widths": self.widths, "ranks": list(self.ranks), "seed": self.seed}},
        )

    def _inputs(self, start: int, stop: int) -> Iterator[Tensor]:
        """Inputs number `start` to `stop`, in blocks `[…, H_0]`, float64."""
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            generator = torch.Generator().manual_seed(counter_seed(self.seed, block, purpose="dln inputs"))
            block_inputs = torch.rand(_BLOCK, self.widths[0], generator=generator, dtype=torch.float64) * 20 - 10
            yield block_inputs[max(start - block * _BLOCK, 0) : stop - block * _BLOCK]

    def _root(self, start: int, stop: int) -> Tensor:
        """R with RᵀR = XᵀX/m for the inputs number `start` to `stop`, `[min(m, H_0), H_0]`, float64."""
        m, width = stop - start, self.widths[0]
        if m <= width:
            return torch.cat(list(self._inputs(start, stop))) / math.sqrt(m)
        gram = torch.zeros(width, width, dtype=torch.float64)
        for x in self._inputs(start, stop):
            gram.addmm_(x.T, x)
        root, info = torch.linalg.cholesky_ex(gram / m)
        if info == 0:
            return root.T
        values, vectors = torch.linalg.eigh(gram / m)  # dependent inputs
        return values.clamp_min(0).sqrt()[:, None] * vectors.T


def _draw(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def _generator_and_widths(size: str, seed: int) -> tuple[torch.Generator, list[int]]:
    """The generator of a network, and its first draws."""
    if size not in SIZES:
        raise InputError("no such size of network", value=size, allowed=", ".join(SIZES))
    row, generator = SIZES[size], torch.Generator().manual_seed(counter_seed(seed, purpose=f"dln {size}"))
    return generator, [_draw(generator, *row.widths) for _ in range(_draw(generator, *row.layers) + 1)]


def random_widths(size: str, seed: int) -> list[int]:
    """The widths of `random_network`, without its weights.

    Raises:
        InputError: there is no such class.
    """
    return _generator_and_widths(size, seed)[1]


def random_network(size: str, seed: int, *, dtype: torch.dtype = torch.float32) -> DeepLinearNetwork:
    """Draw a network of one of Table 1's classes, as the paper's code does.

    Number of layers and widths are uniform in the class's ranges. Weights are normal with variance 1/fan-in, truncated
    at two standard deviations. With probability ½ each layer's rank k is lowered by a number drawn evenly from
    0 … k − 1, its smallest singular values set to zero.

    Args:
        size: "1k", "10k", "100k", "1M", "10M" or "100M".
        seed: seed of the sizes, weights and data.
        dtype: type of the weights.

    Raises:
        InputError: there is no such class.
    """
    generator, widths = _generator_and_widths(size, seed)
    with torch.random.fork_rng(devices=[]):  # transformers fills new weights from the global generator
        model = DeepLinearModel(DeepLinearConfig(widths)).eval()
    ranks = []
    for parameter in model.parameters():
        sd = parameter.shape[1] ** -0.5
        weight = torch.empty(parameter.shape, dtype=torch.float64)
        nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)
        rank = min(weight.shape)
        if _draw(generator, 0, 2):
            rank -= _draw(generator, 0, rank)
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            weight = (u[:, :rank] * s[:rank]) @ v[:rank]
        ranks.append(rank)
        parameter.data = weight.to(dtype)
    return DeepLinearNetwork(model, tuple(ranks), seed)


def _losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over outputs of (ŷ − y)² for each example. The rows of a group are summed: they contain the factor 1/√m."""
    error = forward(batch["inputs"]).prediction - batch["labels"]
    each = error.square().mean(-1)
    return each if batch["inputs"].dim() == 2 else each.sum(-1)
