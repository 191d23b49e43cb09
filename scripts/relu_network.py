"""ReLU networks with their own outputs as labels: the synthetic regressions of arXiv 2308.12108, appendices M and O.

Labels are the network's outputs at w* without noise, so w* is a minimum with loss 0. As the paper's authors ran it:
inputs are uniform on [−10, 10]; the loss is the mean over outputs of (ŷ − y)²; weights are normal with variance
1/fan-in, truncated at two standard deviations; hidden biases are N(0, 1), and the last bias is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hf_llc.backend.random_streams import counter_seed
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Forward, Problem


class ReLUNetwork(nn.Module):
    """Linear layers of the given widths, inputs first, with a ReLU between any two.

    Args:
        widths: units a layer.
        seed: of the weights.
        copies: hidden units of the first layer whose incoming weights and bias are those of unit 0: degenerate
            directions.
    """

    def __init__(self, widths: Sequence[int], *, seed: int = 0, copies: Sequence[int] = ()) -> None:
        super().__init__()
        self.widths = tuple(widths)
        generator = torch.Generator().manual_seed(counter_seed(seed, *widths, purpose="relu weights"))
        layers = [_layer(*pair, generator) for pair in pairwise(widths)]
        with torch.no_grad():
            layers[-1].bias.zero_()
            for parameter in layers[0].parameters():
                parameter[list(copies)] = parameter[0].clone()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[batch, inputs]` → `[batch, outputs]`."""
        x = inputs
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def _layer(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A layer with weights of variance 1/fan-in, truncated, and biases of variance 1."""
    layer, sd = nn.Linear(fan_in, fan_out), fan_in**-0.5
    with torch.no_grad():
        nn.init.trunc_normal_(layer.weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)
        layer.bias.normal_(generator=generator)
    return layer


def own_labels(model: ReLUNetwork, n: int, *, seed: int = 0) -> Problem:
    """L_n(w) = mean over n inputs and the outputs of (ŷ − y)², y the network's own outputs; on this process's device.

    Args:
        model: the network at w*.
        n: inputs, and the n of nβ.
        seed: of the inputs.
    """
    device = Processes().device
    model.to(device).eval()
    generator = torch.Generator().manual_seed(counter_seed(seed, n, purpose="relu inputs"))
    inputs = torch.rand(n, model.widths[0], generator=generator) * 20 - 10
    with torch.no_grad():
        labels = model(inputs.to(device)).cpu()
    return Problem(model, {"inputs": inputs, "labels": labels}, squared_error, n=n, unit="mean squared error")


def squared_error(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over outputs of (ŷ − y)² of each example, `[batch]`."""
    return (forward(batch["inputs"]) - batch["labels"]).square().mean(-1)
