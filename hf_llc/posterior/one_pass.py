"""Loss and gradient of chains by one forward and backward pass, eager or compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_llc.backend.activation_checkpointing import checkpointed, repeated_layers
from hf_llc.backend.compiled_step import CompiledStep
from hf_llc.backend.onednn_products import during
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.posterior.minibatches import Minibatches
from hf_llc.problem import Problem


class OnePass:
    """One forward and backward pass of the model for one chain, or for several under vmap.

    Args:
        problem: model, per-example loss.
        buffer: which chains the model holds.
        minibatches: the examples, for passes that gather their own.
        mixed_precision: "bf16" autocasts the forward pass.
        compile: compile every pass; see also `compile_for`.
        gradient_checkpointing: keep no activations within layers, and compute them again in the backward pass.

    Attributes:
        layers: whose activations are not kept.
        compiled: the compiled passes, by shape.
    """

    def __init__(
        self,
        problem: Problem,
        buffer: ChainBuffer,
        minibatches: Minibatches,
        *,
        mixed_precision: str,
        compile: bool,
        gradient_checkpointing: bool,
    ) -> None:
        self._problem, self._buffer, self._minibatches = problem, buffer, minibatches
        self._mixed_precision = mixed_precision
        self._multiplications = self._multiplications_per_weight()
        self.compiled, self._is_all_compiled = CompiledStep(self._functional), compile
        self._compiled_shapes: set[tuple[int, int]] = set()
        self.layers = repeated_layers(problem.model) if gradient_checkpointing else []

    def compile_for(self, *, num_chains: int = 0, batch_size: int = 0) -> None:
        """Compile the gradients of so many chains on so many examples from now on, and no others; 0: none."""
        self._compiled_shapes = {(num_chains, batch_size)} if num_chains else set()

    def is_compiled(self, num_chains: int, size: int) -> bool:
        """Whether gradients of so many chains on so many examples are compiled."""
        return self._is_all_compiled or (num_chains, size) in self._compiled_shapes

    def _one_chain(self, parameters: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        """ℓ_i of a batch with these parameters put into the model."""
        named = dict(zip(self._buffer.parameters, parameters, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self._problem.model, named, args, kwargs)

        return self._problem.losses(forward, batch)

    def value_and_grad(self, w: Tensor, batch: Any, size: int) -> tuple[Tensor, list[Tensor]]:
        """The sum of the losses over `size`, float64 `[chain]`, and its gradient in flat pieces."""
        with self.autocast(), self._attention(len(w)):
            return (self.compiled if self.is_compiled(len(w), size) else self._eager)(w, batch, size)

    def _eager(self, w: Tensor, batch: dict[str, Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
        self._buffer.attach(w)
        leaves, is_stacked = self._buffer.leaves, len(w) > 1
        products = self.products(next(iter(batch.values())).shape[int(is_stacked)])
        with torch.enable_grad(), self.checkpointed(is_whole=not is_stacked), products:
            if is_stacked:
                losses = torch.vmap(self._one_chain)(leaves, batch)
            else:
                losses = self._problem.losses(self._problem.model, batch)
            grads = torch.autograd.grad(losses.sum() / size, leaves, allow_unused=True)
        grads = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, leaves, strict=True)]
        return self._mean_and_pieces(losses.detach(), grads, len(w), size)

    def _functional(self, w: Tensor, batch: dict[str, Tensor] | Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
        """`_eager` as one graph for torch.compile: gathering (of a batch given as indices), forward, backward pass."""
        if isinstance(batch, Tensor):
            batch = {k: x[batch] for k, x in self._minibatches.examples.items()}

        def total(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
            losses = (torch.vmap(self._one_chain) if len(w) > 1 else self._one_chain)(leaves, batch)
            return losses.sum() / size, losses

        grads, losses = torch.func.grad(total, has_aux=True)(self._buffer.views(w))
        return self._mean_and_pieces(losses, grads, len(w), size)

    def _mean_and_pieces(
        self, losses: Tensor, grads: Sequence[Tensor], num_chains: int, size: int
    ) -> tuple[Tensor, list[Tensor]]:
        pieces = self._buffer.in_pieces(grads, num_chains)
        return losses.sum(-1, dtype=torch.float64).reshape(-1) / size, pieces

    def _attention(self, num_chains: int) -> contextlib.AbstractContextManager[Any]:
        """Under vmap a GPU's fused attention fails or is wrong about shapes; written out, it is the same function."""
        is_fused = num_chains > 1 and self._buffer.device.type == "cuda"
        return sdpa_kernel(SDPBackend.MATH) if is_fused else contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass in mixed precision."""
        is_bf16 = self._mixed_precision == "bf16"
        return torch.autocast(self._buffer.device.type, dtype=torch.bfloat16) if is_bf16 else contextlib.nullcontext()

    def products(self, num_examples: int) -> contextlib.AbstractContextManager[Any]:
        """The context of matrix products of an eager pass over so many examples."""
        return during(num_examples * self._multiplications)

    def checkpointed(self, *, is_whole: bool = True) -> contextlib.AbstractContextManager[Any]:
        """The context of a pass that keeps no activations within `layers`; not under vmap (`is_whole` False)."""
        return checkpointed(self.layers if is_whole else [])

    def _multiplications_per_weight(self) -> int:
        """Of one example's forward pass, on average; 0 where products are not float32 ones on a CPU."""
        buffer = self._buffer
        is_plain = buffer.device.type == "cpu" and buffer.dtype == torch.float32 and self._mixed_precision == "no"
        is_whole = self._problem.part is None
        parameters = list(buffer.parameters.values() if is_whole else self._problem.model.parameters())
        matrices = sum(p.numel() for p in parameters if p.ndim == 2 and is_plain)
        return self._problem.num_positions * matrices // len(parameters)
