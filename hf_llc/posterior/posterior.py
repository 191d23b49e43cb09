"""The tempered local posterior π(w) ∝ exp(−nβ L_n(w) − γ/2 ‖w − w*‖²) ([L], eq. 10): losses and their gradients.

[L] is arXiv 2308.12108. Chains live in one flat buffer `w` of shape `[chain, parameter]`. With a single chain the
model's own parameters become views of it for the time being; with several, `torch.vmap` puts each row into the model.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_llc.backend.activation_checkpointing import checkpointed, kept_bytes, repeated_layers
from hf_llc.backend.compiled_step import Compiled
from hf_llc.backend.cuda_graphs import Graphs
from hf_llc.backend.onednn_products import during, suspended
from hf_llc.errors import InputError
from hf_llc.parallel.processes import Group, Spans
from hf_llc.posterior.anchor_gradients import AnchorGradients
from hf_llc.posterior.weights import chain_dtype, sampled_parameters
from hf_llc.problem import Problem

_FLAT_LIMIT, _GPU_FLAT_LIMIT = 2**15, 2**24
"""Up to this many parameters the gradient is gathered into one flat tensor: fewer, larger operations a step."""

_RESIDENT_BYTES = 2 * 2**30
"""Examples up to this size are kept on the model's device; on a GPU up to a quarter of what is free there."""

_MOST_RECORDED = 8
"""Forward passes up to which a gradient is recorded as one CUDA graph."""

_MICRO_TOKENS, _MICRO_EXAMPLES = 2**14, 1024


def auto_micro_batch_size(num_positions: int) -> int:
    """Examples a forward pass at most, of so many tokens each (1: not sequences)."""
    return max(1, _MICRO_TOKENS // num_positions) if num_positions > 1 else _MICRO_EXAMPLES


class Posterior:
    """Losses, gradients and the anchor w*, for any batch of chains.

    In a group of processes each runs the model on its share of the examples asked for; what is returned is the sum over
    the group, the same on all of them. All must ask for the same, in the same order.

    Args:
        problem: model at w*, examples, per-example loss.
        micro_batch_size: examples a forward pass at most; None: what suits the kind of data.
        mixed_precision: "bf16" autocasts the forward pass.
        compile: compile loss and gradient with torch.compile.
        step_in_backward: one chain takes its steps inside the backward pass where it can; see `Walk.sweep`.
        gradient_checkpointing: keep no activations within layers, and compute them again in the backward pass.
        group: the processes that share these chains; None: this one by itself.

    Attributes:
        anchor: w*, one flat tensor a piece, in the model's own type; of large models, the model's own storage.
        dtype: of chains and gradients.
        pieces: sizes of the flat pieces in which gradients come: one for small models, one a parameter for large.
        is_flat: whether the model is small in this sense.
        starts: where each of them begins among all parameters, those of other processes included.
        init_losses: ℓ_i(w*) of every example, float64 `[example]`.
        init_gradients: ∇L_n(w*), and ∇L_B(w*) of minibatches.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        micro_batch_size: int | None = None,
        mixed_precision: str = "no",
        compile: bool = False,
        step_in_backward: bool = False,
        gradient_checkpointing: bool = False,
        group: Group | None = None,
    ) -> None:
        self.group = Group() if group is None else group
        self.problem, self.model = problem, problem.model
        self.parameters = sampled_parameters(self.model)
        self.device = next(iter(self.parameters.values())).device
        self.dtype = chain_dtype(self.parameters.values())
        self.num_parameters = sum(p.numel() for p in self.parameters.values())
        self.step_in_backward = step_in_backward and not compile
        self._lay_out()
        self.examples = self._place(problem.examples)
        self.micro_batch_size = micro_batch_size or auto_micro_batch_size(problem.num_positions)
        self.mixed_precision = mixed_precision
        is_plain = self.device.type == "cpu" and self.dtype == torch.float32 and mixed_precision == "no"
        matrices = sum(p.numel() for p in self.parameters.values() if p.ndim == 2 and is_plain)
        self._multiplications = problem.num_positions * matrices // len(self.parameters)  # of an example, a weight
        self._attached: Tensor | None = None
        self._leaves: list[Tensor] = list(self.parameters.values())
        self._compiled = Compiled(self._functional) if compile else None
        self._is_resident = all(x.device == self.device for x in self.examples.values())
        self._graphs = Graphs() if self.device.type == "cuda" and self._is_resident else None
        self._layers = repeated_layers(self.model) if gradient_checkpointing else []
        self.init_gradients = AnchorGradients(self)
        self.init_losses = self.example_losses(self.start(1))
        self.release()
        self.init_loss = float(self.init_losses.mean())

    def _lay_out(self) -> None:
        """Sizes, anchor and pieces."""
        self.sizes = [p.numel() for p in self.parameters.values()]
        self._shapes = [p.shape for p in self.parameters.values()]
        self._home = [p.data for p in self.parameters.values()]
        flat = [x.reshape(-1) for x in self._home]
        limit = _GPU_FLAT_LIMIT if self.device.type == "cuda" else _FLAT_LIMIT
        self.is_flat = self.num_parameters <= limit and not self.step_in_backward
        self.anchor = [torch.cat([x.to(self.dtype) for x in flat])] if self.is_flat else flat
        self.pieces = [len(a) for a in self.anchor]
        self.starts = [0, *itertools.accumulate(self.pieces)][:-1]

    def over_shards(self, x: Tensor, *, largest: bool = False) -> Tensor:
        """A sum (or maximum) over this process's parameters as one over all parameters."""
        return x

    def norm(self, w: Tensor) -> Tensor:
        """‖w‖ over all parameters of a buffer `[chain, parameter]`, `[chain, 1]`."""
        return w.norm(dim=1, keepdim=True)

    def own(self, whole: Tensor) -> Tensor:
        """This process's part of a vector `[…, all parameters]`."""
        return whole

    def whole(self, w: Tensor) -> Tensor:
        """The inverse, on the group's leader only."""
        return w

    def split(self) -> Sequence[Spans] | None:
        """Where the parameters of each process of the group lie among all; None: each has them all."""
        return None

    def _place(self, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size, limit = sum(x.nbytes for x in examples.values()), _RESIDENT_BYTES
        if self.device.type == "cuda":
            limit = torch.cuda.mem_get_info(self.device)[0] // 4
        return {k: x.to(self.device) if size <= limit else x for k, x in examples.items()}

    @property
    def num_examples(self) -> int:
        """Number of examples of the data."""
        return self.problem.num_examples

    def start(self, num_chains: int) -> Tensor:
        """Chains at w*: a new buffer `[chain, parameter]`. The one attached last is let go of before."""
        self.release()
        w = torch.empty(num_chains, sum(self.pieces), dtype=self.dtype, device=self.device)
        for part, anchor in zip(torch.split(w, self.pieces, dim=1), self.anchor, strict=True):
            part.copy_(anchor)
        return w

    def attach(self, w: Tensor) -> None:
        """Make `w` the place where the model's parameters live, until another one is attached."""
        if self._attached is w:
            return
        views = self._views(w)
        if len(w) == 1:
            for parameter, view in zip(self.parameters.values(), views, strict=True):
                parameter.data = view
            self._leaves = list(self.parameters.values())
        else:
            self._leaves = [view.detach().requires_grad_() for view in views]
        self._attached = w

    def _views(self, w: Tensor) -> list[Tensor]:
        """The parameters in their shapes, with the chain axis in front where there are several."""
        columns = zip(torch.split(w, self.sizes, dim=1), self._shapes, strict=True)
        if len(w) == 1:
            return [column[0].view(shape) for column, shape in columns]
        return [column.unflatten(1, shape) if shape else column[:, 0] for column, shape in columns]

    def release(self) -> None:
        """Let go of the chain attached last: the model is at w* again, in its own storage and type."""
        for parameter, home in zip(self.parameters.values(), self._home, strict=True):
            parameter.data = home
        self._leaves, self._attached = list(self.parameters.values()), None

    def _one_chain(self, parameters: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        """ℓ_i of a batch with these parameters put into the model."""
        named = dict(zip(self.parameters, parameters, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.model, named, args, kwargs)

        return self.problem.losses(forward, batch)

    def _value_and_grad(self, w: Tensor, batch: Any, size: int) -> tuple[Tensor, list[Tensor]]:
        """The sum of the losses over `size`, float64 `[chain]`, and its gradient, in flat pieces."""
        with self._autocast(), self._attention(len(w)):
            return self._eager(w, batch, size) if self._compiled is None else self._compiled(w, batch, size)

    def _eager(self, w: Tensor, batch: dict[str, Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
        self.attach(w)
        leaves, stacked = self._leaves, len(w) > 1
        products = self._products(next(iter(batch.values())).shape[int(stacked)])
        with torch.enable_grad(), checkpointed([] if stacked else self._layers), products:
            losses = torch.vmap(self._one_chain)(leaves, batch) if stacked else self.problem.losses(self.model, batch)
            grads = torch.autograd.grad(losses.sum() / size, leaves, allow_unused=True)
        found = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, leaves, strict=True)]
        return self._flat(w, losses.detach(), found, size)

    def _functional(self, w: Tensor, batch: dict[str, Tensor] | Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
        """The same as one graph for torch.compile, forward and backward pass together, and the gathering of the batch
        where it comes as indices."""
        if isinstance(batch, Tensor):
            batch = {k: x[batch] for k, x in self.examples.items()}

        def total(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
            losses = (torch.vmap(self._one_chain) if len(w) > 1 else self._one_chain)(leaves, batch)
            return losses.sum() / size, losses

        grads, losses = torch.func.grad(total, has_aux=True)(self._views(w))
        return self._flat(w, losses, grads, size)

    def _flat(self, w: Tensor, losses: Tensor, grads: Sequence[Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
        flat = [grad.reshape(len(w), -1) for grad in grads]
        pieces = [torch.cat(flat, dim=1)] if self.is_flat else flat
        return losses.sum(-1, dtype=torch.float64).reshape(-1) / size, pieces

    def _batch(self, part: Tensor | slice) -> dict[str, Tensor]:
        if isinstance(part, slice):
            return {k: x[part].to(self.device) for k, x in self.examples.items()}
        flat, shape = part.flatten(), part.shape  # index_select copies whole rows: faster than x[part]
        return {
            k: x.index_select(0, flat.to(x.device)).unflatten(0, shape).to(self.device)
            for k, x in self.examples.items()
        }

    def _parts(self, indices: Tensor | None, num_chains: int) -> Iterator[Tensor | slice]:
        """This process's share of the batch in micro-batches; with one chain without the chain axis."""
        size, step = (self.num_examples if indices is None else indices.shape[1]), self.micro_batch_size
        first, last = self.group.share(size)
        for start in range(first, last, step):
            span = slice(start, min(start + step, last))
            if indices is None:
                yield span
            else:
                yield indices[0, span] if num_chains == 1 else indices[:, span]

    def _micro_batches(self, indices: Tensor | None, num_chains: int) -> Iterator[dict[str, Tensor]]:
        """The examples of `_parts`."""
        for part in self._parts(indices, num_chains):
            batch = self._batch(part)
            is_shared = indices is None and num_chains > 1
            yield {k: x.expand(num_chains, *x.shape) for k, x in batch.items()} if is_shared else batch

    def _attention(self, num_chains: int) -> contextlib.AbstractContextManager[Any]:
        """Under vmap a GPU's fused attention fails or is wrong about shapes; written out, it is the same function."""
        is_fused = num_chains > 1 and self.device.type == "cuda"
        return sdpa_kernel(SDPBackend.MATH) if is_fused else contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        is_bf16 = self.mixed_precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if is_bf16 else contextlib.nullcontext()

    def _products(self, num_examples: int) -> contextlib.AbstractContextManager[Any]:
        """For eager passes of so many examples."""
        return during(num_examples * self._multiplications)

    def gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """L_B(w) and ∇L_B(w) on each chain's minibatch.

        Args:
            w: `[chain, parameter]`.
            indices: int64 `[chain, m]`, or None for all examples.

        Returns:
            The losses, float64 `[chain]`, and the gradient in flat pieces `[chain, size of the piece]`.
        """
        loss, pieces = self._own_gradient(w, indices)
        if self.group.size > 1:
            pieces = [piece.contiguous() for piece in pieces]
            self.group.sum_([loss, *pieces])
        return loss, pieces

    def _own_gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """This process's part of `gradient`: over its share of the examples, divided by the number of all of them."""
        size = self.num_examples if indices is None else indices.shape[1]
        if self._graphs is None or size > _MOST_RECORDED * self.micro_batch_size:
            return self._gradient_of_share(w, indices)
        return self._graphs.gradient(self._gradient_of_share, w, indices)

    def _gradient_of_share(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        num_chains, found = len(w), None
        size = self.num_examples if indices is None else indices.shape[1]
        gathers = self._compiled is not None and self._is_resident and indices is not None
        for batch in (self._parts if gathers else self._micro_batches)(indices, num_chains):
            loss, pieces = self._value_and_grad(w, batch, size)
            if found is not None:
                loss, pieces = loss + found[0], [a.add_(b) for a, b in zip(pieces, found[1], strict=True)]
            found = loss, pieces
        if found is None:  # a share without examples
            loss = torch.zeros(num_chains, dtype=torch.float64, device=self.device)
            found = loss, [torch.zeros(num_chains, k, dtype=self.dtype, device=self.device) for k in self.pieces]
        return found

    def gradient_as_made(self, w: Tensor, indices: Tensor | None, consume: Callable[[int, Tensor], None]) -> Tensor:
        """L_B(w), float64 `[1]`; ∇L_B(w) is handed over parameter by parameter while the backward pass makes it.

        When `consume(number, gradient [1, size])` is called, nothing in the rest of the backward pass reads that
        parameter any more: it may move it. Parameters that the loss does not use come last, with zeros.

        Args:
            w: `[1, parameter]`.
            indices: int64 `[1, m]`, m at most `micro_batch_size`; None for all examples.
            consume: called once for each parameter.

        Raises:
            InputError: the model reads a weight beside its gradient, so that it may not move yet.
        """
        self.attach(w)
        (batch,) = self._micro_batches(indices, 1)
        size = self.num_examples if indices is None else indices.shape[1]
        waiting = {p: i for i, p in enumerate(self.parameters.values())}
        products = self._products(size)

        @torch.no_grad()
        def hand_over(parameter: Any) -> None:
            grad, parameter.grad = parameter.grad, None
            assert grad is not None
            with suspended(products):
                consume(waiting.pop(parameter), grad.reshape(1, -1))
            torch.autograd.graph.increment_version(parameter)  # autograd then refuses to read what has moved

        for parameter in waiting:
            parameter.grad = None
        hooks = [p.register_post_accumulate_grad_hook(hand_over) for p in waiting]
        try:
            with torch.enable_grad(), checkpointed(self._layers), self._autocast(), products:
                losses = self.problem.losses(self.model, batch)
                (losses.sum() / size).backward(inputs=list(waiting))
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise InputError(
                "the model reads a weight beside its gradient, which step_in_backward has moved by then",
                value=type(self.model).__name__,
                remedy="set step_in_backward false",
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        for parameter, number in list(waiting.items()):
            consume(number, torch.zeros_like(parameter).reshape(1, -1))
        return losses.detach().sum(-1, dtype=torch.float64).reshape(1) / size

    def can_batch_chains(self) -> bool:
        """Whether the module runs under vmap: found by trying two chains on one example."""
        try:
            each = torch.zeros(2, self.group.size, dtype=torch.int64, device=self.device)
            self._own_gradient(self.start(2), each)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return False
        return True

    def steps_in_backward(self, *, num_chains: int, batch_size: int) -> bool:
        """Whether `gradient_as_made` is what steps of so many chains on so many examples use."""
        return self.step_in_backward and self.group.size == num_chains == 1 and batch_size <= self.micro_batch_size

    def activation_bytes(self) -> int:
        """What a forward pass of one example keeps for its backward pass; see `kept_bytes`."""
        self.attach(self.start(1))

        def forward() -> Tensor:
            with self._autocast():
                return self.problem.losses(self.model, self._batch(slice(0, 1))).sum()

        found = kept_bytes(forward, self.parameters.values(), self._layers)
        self.release()
        return found

    @torch.no_grad()
    def example_losses(self, w: Tensor) -> Tensor:
        """ℓ_i(w) of every example at one point `[1, parameter]`, float64 `[example]`."""
        self.attach(w)
        with self._autocast(), self._products(self.micro_batch_size):
            parts = [self.problem.losses(self.model, batch) for batch in self._micro_batches(None, 1)]
        if self.group.size == 1:
            return torch.cat(parts).to(torch.float64)
        losses = torch.zeros(self.num_examples, dtype=torch.float64, device=self.device)
        if parts:
            losses[slice(*self.group.share(self.num_examples))] = torch.cat(parts).double()
        self.group.sum_([losses])
        return losses

    def paired_loss(self, indices: Tensor | None, num_chains: int) -> Tensor:
        """L_B(w*) on the same minibatches, float64 `[chain]`, from the cached ℓ_i(w*)."""
        if indices is None:
            return self.init_losses.mean().expand(num_chains)
        return self.init_losses.take(indices).mean(1)
