"""The problem that sampling works on: a model, examples as tensors, and the loss of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Forward = Callable[..., Any]
"""The model, or the model with other parameters (torch.func.functional_call)."""

_AUTO_TOKENS = 2048
"""Tokens a step with batch size "auto": on one core, a step of a small language model takes a fraction of a second."""


def auto_batch_size(num_positions: int) -> int:
    """Examples a step with batch size "auto".

    Args:
        num_positions: tokens an example; 1 for data that are not sequences.
    """
    return min(32, max(4, _AUTO_TOKENS // num_positions))


@dataclass(frozen=True)
class Part:
    """What is sampled of a model's weights; the others stay at w*.

    Attributes:
        name: what it is called, e.g. `l0h1`.
        masks: by name of the parameter: a boolean mask of its shape, or None for all of it. In the model's order.
    """

    name: str
    masks: Mapping[str, Tensor | None]


@dataclass
class Problem:
    """The empirical loss L_n(w) = mean over examples of ℓ_i(w), and where it came from.

    Attributes:
        model: the network at w*, in eval mode, on its device.
        examples: tensors with one leading example axis, all of the same length, on the CPU.
        losses: `losses(forward, batch)` → ℓ_i for each example of `batch`, shape `[batch]`, float32 or wider. Their
            mean over all examples is L_n in `unit`, and their mean over a minibatch is an unbiased estimate of it. For
            a loss per token, ℓ_i is the example's summed loss over the *mean* number of tokens an example.
        n: the n of nβ = n / ln n: predicted tokens for a loss per token, examples (sequences) otherwise.
        unit: what L_n is measured in, e.g. "nats per token".
        trivial_loss: L_n of the best constant predictor (the label or token marginal), None if it is not known.
        task: name of the task.
        provenance: ids, resolved revisions and fingerprints of model and data, for the result.
        part: what is sampled of the model's weights; None: all with `requires_grad`.
        token_losses: the loss of each token, nats, `[batch, position]`; None: an example has one loss.
        processor: the tokenizer or image processor, where there is one.
    """

    model: nn.Module
    examples: dict[str, Tensor]
    losses: Callable[[Forward, Mapping[str, Tensor]], Tensor]
    n: int
    unit: str
    trivial_loss: float | None = None
    task: str = "plain"
    provenance: dict[str, Any] = field(default_factory=dict)
    part: Part | None = None
    token_losses: Callable[[Forward, Mapping[str, Tensor]], Tensor] | None = None
    processor: Any = None

    @property
    def num_examples(self) -> int:
        """Number of examples, the length of every tensor in `examples`."""
        return len(next(iter(self.examples.values())))

    @property
    def num_positions(self) -> int:
        """Tokens of an example, padding included; 1 for data that are not sequences of ids."""
        lengths = [x[0].numel() for x in self.examples.values() if not x.is_floating_point() and x.dim() > 1]
        return max(lengths, default=1)
