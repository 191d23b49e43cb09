"""Deep linear networks y = W_M ⋯ W_1 x, and those of arXiv 2308.12108, appendix J, whose learning coefficient is known.

The networks, their data and Table 1 follow what the paper's authors ran, where that differs from what it prints: layers
are drawn with variance 1/fan-in (truncated), not 1, and labels have no noise.
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
    """`prediction`, `[…, H_M]`, and, given labels, `loss`: the mean squared error over examples and outputs."""

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
        """The prediction for inputs `[…, H_0]`, and its loss against labels `[…, H_M]` if there are any."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        weights = [layer.weight.T for layer in self.layers]  # type: ignore[union-attr]
        x = torch.linalg.multi_dot([rows, *weights]).unflatten(0, inputs.shape[:-1])  # in the cheapest order
        return DeepLinearOutput(loss=None if labels is None else (x - labels).square().mean(), prediction=x)


@dataclass(frozen=True)
class SizeClass:
    """A row of Table 1: ranges of layers and widths (upper ends excluded), SGLD's ε and steps, and n."""

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
"""Table 1 of arXiv 2308.12108. "Layers" counts weight matrices; all sample at γ = 1 with batches of 500."""


_BLOCK = 500


@dataclass(frozen=True)
class DeepLinearNetwork:
    """A network at w*, and what is known of it.

    Attributes:
        model: the network, in eval mode.
        ranks: of each layer; the other singular values are exactly zero up to rounding.
        seed: of the network and of its data.
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
        """λ of all weights with the same product: where chains at small γ settle in the long run."""
        return deep_linear(self.widths, min(self.ranks))

    @property
    def local_coefficient(self) -> LocalCoefficient:
        """λ(w*), or bounds on it: what chains see that γ keeps near w*."""
        return deep_linear_local(self.widths, self.ranks)

    def problem(self, n: int, *, group: int = 1) -> Problem:
        """L_n(w) = mean over n inputs and the outputs of (ŷ − y)², x ~ U[−10, 10]^{H_0}, y the network's own outputs.

        With `group` = m above 1 each example is a group of m inputs. The mean loss over a group X depends on it only
        through XᵀX/m = RᵀR, so that the rows of R, at most H_0 of them, stand in for the m inputs: the same function
        of w at a fraction of the cost. A batch of one such example is a batch of m of the others; the composition of
        those batches is then fixed, the same in every chain. group = n is the full batch.

        Args:
            n: inputs.
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
        """Inputs from `start` to `stop` in blocks `[…, H_0]`, float64: the same whatever else is asked for."""
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            generator = torch.Generator().manual_seed(counter_seed(self.seed, block, purpose="dln inputs"))
            whole = torch.rand(_BLOCK, self.widths[0], generator=generator, dtype=torch.float64) * 20 - 10
            yield whole[max(start - block * _BLOCK, 0) : stop - block * _BLOCK]

    def _root(self, start: int, stop: int) -> Tensor:
        """R with RᵀR = XᵀX/m for the inputs from `start` to `stop`, `[min(m, H_0), H_0]`, float64."""
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


def random_network(size: str, seed: int, *, dtype: torch.dtype = torch.float32) -> DeepLinearNetwork:
    """A network of one of Table 1's classes, drawn as its authors did.

    Number of layers and widths are uniform in the class's ranges. Weights are normal with variance 1/fan-in, truncated
    at two standard deviations. With probability ½ each layer's rank k is lowered by a number drawn evenly from
    0 … k − 1, its smallest singular values set to zero.

    Args:
        size: "1k", "10k", "100k", "1M", "10M" or "100M".
        seed: of everything.
        dtype: of the weights.

    Raises:
        InputError: no such class.
    """
    if size not in SIZES:
        raise InputError("no such size of network", value=size, allowed=", ".join(SIZES))
    row = SIZES[size]
    generator = torch.Generator().manual_seed(counter_seed(seed, purpose=f"dln {size}"))

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    widths = [draw(*row.widths) for _ in range(draw(*row.layers) + 1)]
    with torch.random.fork_rng(devices=[]):  # transformers fills new weights from the global generator
        model = DeepLinearModel(DeepLinearConfig(widths)).eval()
    ranks = []
    for parameter in model.parameters():
        sd = parameter.shape[1] ** -0.5
        weight = torch.empty(parameter.shape, dtype=torch.float64)
        nn.init.trunc_normal_(weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)
        rank = min(weight.shape)
        if draw(0, 2):
            rank -= draw(0, rank)
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            weight = (u[:, :rank] * s[:rank]) @ v[:rank]
        ranks.append(rank)
        parameter.data = weight.to(dtype)
    return DeepLinearNetwork(model, tuple(ranks), seed)


def _losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over outputs of (ŷ − y)² for each example; a group's rows are summed (they hold 1/√m)."""
    error = forward(batch["inputs"]).prediction - batch["labels"]
    each = error.square().mean(-1)
    return each if batch["inputs"].dim() == 2 else each.sum(-1)
