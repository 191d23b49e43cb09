"""Losses and gradients of chains around w*: all that depends on the model in the law that they sample (`law`)."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_llc.backend.activation_checkpointing import checkpointed, kept_bytes, repeated_layers
from hf_llc.backend.compiled_step import CompiledStep
from hf_llc.backend.cuda_graphs import GradientGraphs
from hf_llc.backend.onednn_products import during
from hf_llc.parallel.group import Group
from hf_llc.posterior.anchor_gradients import AnchorGradients
from hf_llc.posterior.backward_steps import gradients_handed_over
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.kept_sum import KeptSum
from hf_llc.posterior.minibatches import Minibatches
from hf_llc.problem import Problem
from hf_llc.progress import TimeIsUp, watch

_MOST_RECORDED = 8
"""Forward passes up to which a gradient is recorded as one CUDA graph."""

LOSS_COST = 1 / 3
"""Time of a forward pass beside that of the gradient of all weights, roughly."""


class Posterior:
    """Losses and gradients of any batch of chains `w [chain, parameter]`, and the same at the anchor w*.

    In a group of processes each runs the model on its share of the examples, and results are sums over the group, the
    same bits on every process. All of them must ask for the same, in the same order.

    Args:
        problem: model at w*, examples, per-example loss.
        micro_batch_size: examples of a forward pass at most; None: what suits the kind of data.
        mixed_precision: "bf16" autocasts the forward pass.
        compile: compile every loss and gradient with torch.compile; see also `compile_for`.
        step_in_backward: a single chain takes its steps inside the backward pass where it can; see `Walk.sweep`.
        gradient_checkpointing: keep no activations within layers, and compute them again in the backward pass.
        group: the processes that step these chains together; None: this one alone.

    Attributes:
        buffer: where chains lie, and which of them the model holds.
        minibatches: the examples.
        anchor_gradients: ∇L_n(w*), and ∇L_B(w*) of minibatches.
        kept_losses: where `init_losses` are kept while they are computed; None: nowhere.
        losses_end: stage by whose time they must be known (`hf_llc.progress.ENDS`).
        loss_cost: time of an example's loss beside that of its gradient.
        kept_sum: where a long gradient is kept while it is summed, by a process alone; None: nowhere.
    """

    _BUFFER: ClassVar[type[ChainBuffer]] = ChainBuffer
    kept_losses: KeptLosses | None

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
        self.step_in_backward = step_in_backward and not compile
        self.mixed_precision = mixed_precision
        self.buffer = self._BUFFER(self.model, self.group, may_be_flat=not self.step_in_backward)
        self.device, self.dtype = self.buffer.device, self.buffer.dtype
        self.num_parameters = self.buffer.num_parameters
        self.minibatches = Minibatches(problem, self.device, self.group, micro_batch_size=micro_batch_size)
        self._multiplications = self._multiplications_per_weight()
        self._compiled, self._is_all_compiled = CompiledStep(self._functional), compile
        self._compiled_shapes: set[tuple[int, int]] = set()
        has_graphs = self.device.type == "cuda" and self.minibatches.is_resident
        self._graphs = {False: GradientGraphs(), True: GradientGraphs()} if has_graphs else None
        self._layers = repeated_layers(self.model) if gradient_checkpointing else []
        self.anchor_gradients = AnchorGradients(problem, self.buffer, self.gradient)
        self.kept_losses, self.losses_end = None, "L_n(w*)"
        self.loss_cost = LOSS_COST
        self.kept_sum: KeptSum | None = None

    @functools.cached_property
    def init_losses(self) -> Tensor:
        """ℓ_i(w*) of every example, float64 `[example]`. They are computed when first asked for, by a whole group.

        Raises:
            OutOfTime: that takes longer than `max_seconds` leaves for it.
        """
        with watch().until(self.losses_end, within_passes=self.group.size == 1):
            losses = self.example_losses(self.start(1), kept=self.kept_losses)
        self.buffer.release()
        return losses

    @functools.cached_property
    def init_loss(self) -> float:
        """L_n(w*), the mean of `init_losses`."""
        return float(self.init_losses.mean())

    def _multiplications_per_weight(self) -> int:
        """Of one example's forward pass, on average; 0 where products are not float32 ones on a CPU."""
        is_plain = self.device.type == "cpu" and self.dtype == torch.float32 and self.mixed_precision == "no"
        is_whole = self.problem.part is None
        parameters = list(self.buffer.parameters.values() if is_whole else self.model.parameters())
        matrices = sum(p.numel() for p in parameters if p.ndim == 2 and is_plain)
        return self.problem.num_positions * matrices // len(parameters)

    def compile_for(self, *, num_chains: int = 0, batch_size: int = 0) -> None:
        """Compile the gradients of so many chains on so many examples from now on, and no others; 0: none."""
        self._compiled_shapes = {(num_chains, batch_size)} if num_chains else set()

    def is_compiled(self, num_chains: int, size: int) -> bool:
        """Whether gradients of so many chains on so many examples are compiled."""
        return self._is_all_compiled or (num_chains, size) in self._compiled_shapes

    @property
    def num_examples(self) -> int:
        """Number of examples of the data."""
        return self.problem.num_examples

    def start(self, num_chains: int) -> Tensor:
        """Chains at w*: a new buffer `[chain, parameter]`."""
        return self.buffer.start(num_chains)

    # ---- loss and gradient of one forward pass ----

    def _one_chain(self, parameters: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        """ℓ_i of a batch with these parameters put into the model."""
        named = dict(zip(self.buffer.parameters, parameters, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.model, named, args, kwargs)

        return self.problem.losses(forward, batch)

    def _value_and_grad(self, w: Tensor, batch: Any, size: int) -> tuple[Tensor, list[Tensor]]:
        """The sum of the losses over `size`, float64 `[chain]`, and its gradient in flat pieces."""
        with self._autocast(), self._attention(len(w)):
            return (self._compiled if self.is_compiled(len(w), size) else self._eager)(w, batch, size)

    def _eager(self, w: Tensor, batch: dict[str, Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
        self.buffer.attach(w)
        leaves, is_stacked = self.buffer.leaves, len(w) > 1
        products = self._products(next(iter(batch.values())).shape[int(is_stacked)])
        with torch.enable_grad(), checkpointed([] if is_stacked else self._layers), products:
            if is_stacked:
                losses = torch.vmap(self._one_chain)(leaves, batch)
            else:
                losses = self.problem.losses(self.model, batch)
            grads = torch.autograd.grad(losses.sum() / size, leaves, allow_unused=True)
        grads = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, leaves, strict=True)]
        return self._mean_and_pieces(losses.detach(), grads, len(w), size)

    def _functional(self, w: Tensor, batch: dict[str, Tensor] | Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
        """`_eager` as one graph for torch.compile: gathering (of a batch given as indices), forward, backward pass."""
        if isinstance(batch, Tensor):
            batch = {k: x[batch] for k, x in self.minibatches.examples.items()}

        def total(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
            losses = (torch.vmap(self._one_chain) if len(w) > 1 else self._one_chain)(leaves, batch)
            return losses.sum() / size, losses

        grads, losses = torch.func.grad(total, has_aux=True)(self.buffer.views(w))
        return self._mean_and_pieces(losses, grads, len(w), size)

    def _mean_and_pieces(
        self, losses: Tensor, grads: Sequence[Tensor], num_chains: int, size: int
    ) -> tuple[Tensor, list[Tensor]]:
        pieces = self.buffer.in_pieces(grads, num_chains)
        return losses.sum(-1, dtype=torch.float64).reshape(-1) / size, pieces

    def _attention(self, num_chains: int) -> contextlib.AbstractContextManager[Any]:
        """Under vmap a GPU's fused attention fails or is wrong about shapes; written out, it is the same function."""
        is_fused = num_chains > 1 and self.device.type == "cuda"
        return sdpa_kernel(SDPBackend.MATH) if is_fused else contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        is_bf16 = self.mixed_precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if is_bf16 else contextlib.nullcontext()

    def _products(self, num_examples: int) -> contextlib.AbstractContextManager[Any]:
        """The context of matrix products of an eager pass over so many examples."""
        return during(num_examples * self._multiplications)

    # ---- of a minibatch ----

    def gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """L_B(w) and ∇L_B(w), each chain on its own minibatch.

        Args:
            w: `[chain, parameter]`.
            indices: int64 `[chain, m]`, or None for all examples.

        Returns:
            The losses, float64 `[chain]`, and the gradient in flat pieces `[chain, size of the piece]`.
        """
        self._check_time()
        watch().spend(len(w) * self.minibatches.size(indices) / self.group.size)
        loss, pieces = self._local_gradient(w, indices)
        if self.group.size > 1:
            pieces = [piece.contiguous() for piece in pieces]
            self.group.sum_([loss, *pieces])
        return loss, pieces

    def _local_gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """What this process's share of the examples adds to `gradient`: their sum over the number of all examples."""
        size = self.minibatches.size(indices)
        if self._graphs is None or size > _MOST_RECORDED * self.minibatches.micro_batch_size:
            return self._sum_of_micro_batches(w, indices, self.kept_sum)
        graphs = self._graphs[self.is_compiled(len(w), size)]
        return graphs.gradient(self._sum_of_micro_batches, w, indices)

    def _sum_of_micro_batches(
        self, w: Tensor, indices: Tensor | None, kept: KeptSum | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        num_chains, data = len(w), self.minibatches
        size = data.size(indices)
        done, total = (0, None) if kept is None else kept.begin(w, indices, size=size)
        is_gathered_in_graph = self.is_compiled(num_chains, size) and data.is_resident and indices is not None
        for batch in (data.parts if is_gathered_in_graph else data.micro_batches)(indices, num_chains, start=done):
            if total is not None:
                self._check_time_of_sum(w, indices, kept, done, total)
            loss, pieces = self._value_and_grad(w, batch, size)
            if total is not None:
                loss, pieces = loss + total[0], [a.add_(b) for a, b in zip(pieces, total[1], strict=True)]
            total, done = (loss, pieces), done + data.micro_batch_size
            if kept is not None and done < size:
                kept.write(w, indices, size=size, done=done, found=total)
        if total is None:  # a share without examples
            loss = torch.zeros(num_chains, dtype=torch.float64, device=self.device)
            zeros = [torch.zeros(num_chains, k, dtype=self.dtype, device=self.device) for k in self.buffer.pieces]
            total = loss, zeros
        return total

    def _check_time_of_sum(
        self,
        w: Tensor,
        indices: Tensor | None,
        kept: KeptSum | None,
        done: int,
        found: tuple[Tensor, list[Tensor]],
    ) -> None:
        """`_check_time`; what is summed so far is kept."""
        try:
            self._check_time()
        except TimeIsUp:
            if kept is not None:
                kept.write(w, indices, size=self.minibatches.size(indices), done=done, found=found, is_last=True)
            raise

    def _check_time(self) -> None:
        """Raise TimeIsUp if the time is up. Processes that must agree do not look: their clocks differ."""
        if self.group.size == 1:
            watch().check()

    def gradient_in_backward(self, w: Tensor, indices: Tensor | None, consume: Callable[[int, Tensor], None]) -> Tensor:
        """L_B(w), float64 `[1]`; ∇L_B(w) is handed over while the backward pass makes it.

        Args:
            w: `[1, parameter]`.
            indices: int64 `[1, m]`, m at most `micro_batch_size`; None for all examples.
            consume: called once for each parameter; see `gradients_handed_over`.

        Raises:
            InputError: the model reads a weight beside its gradient, so that it may not move yet.
        """
        watch().spend(self.minibatches.size(indices))
        self.buffer.attach(w)
        (batch,) = self.minibatches.micro_batches(indices, 1)
        size, parameters = self.minibatches.size(indices), list(self.buffer.parameters.values())
        products = self._products(size)
        handed_over = gradients_handed_over(self.model, parameters, consume, products=products)
        with handed_over, torch.enable_grad(), checkpointed(self._layers), self._autocast(), products:
            losses = self.problem.losses(self.model, batch)
            (losses.sum() / size).backward(inputs=parameters)
        return losses.detach().sum(-1, dtype=torch.float64).reshape(1) / size

    def steps_in_backward(self, *, num_chains: int, batch_size: int) -> bool:
        """Whether steps of so many chains on so many examples use `gradient_in_backward`."""
        is_one_pass = batch_size <= self.minibatches.micro_batch_size
        return self.step_in_backward and self.group.size == num_chains == 1 and is_one_pass

    def can_batch_chains(self) -> bool:
        """Whether the module runs under vmap, found by trying two chains on one example."""
        try:
            indices = torch.zeros(2, self.group.size, dtype=torch.int64, device=self.device)
            self._local_gradient(self.start(2), indices)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return False
        return True

    def activation_bytes(self) -> int:
        """Bytes that a forward pass of one example keeps for its backward pass; see `kept_bytes`."""
        self.buffer.attach(self.start(1))

        first = torch.zeros(1, dtype=torch.int64)  # a copy: a view would count as all examples

        def forward() -> Tensor:
            with self._autocast():
                return self.problem.losses(self.model, self.minibatches.gather(first)).sum()

        size = kept_bytes(forward, self.model.parameters(), self._layers)
        self.buffer.release()
        return size

    # ---- losses alone ----

    @torch.no_grad()
    def anchor_losses(self, indices: Tensor) -> Tensor:
        """ℓ_i(w*) of the examples int64 `[m]`, computed in one pass, `[m]`; by a process alone."""
        self.buffer.attach(self.start(1))
        with self._autocast(), self._products(len(indices)):
            return self.problem.losses(self.model, self.minibatches.gather(indices))

    @torch.no_grad()
    def example_losses(self, w: Tensor, *, kept: KeptLosses | None = None) -> Tensor:
        """ℓ_i(w) of every example at one point `[1, parameter]`, float64 `[example]`.

        Args:
            w: the point.
            kept: where they are kept while they are computed, by a process alone.

        Raises:
            OutOfTime: the time is up (`Watch.until`).
        """
        self.buffer.attach(w)
        size, share = self.minibatches.micro_batch_size, len(range(*self.group.share(self.num_examples)))
        kept = kept if self.group.size == 1 else None
        parts = [] if kept is None else [part.to(self.device) for part in kept.read()]
        begun, first = time.monotonic(), sum(map(len, parts))
        done = first
        with watch().stage("L_n(w*)", self.loss_cost * share), self._autocast(), self._products(size):
            watch().spend(self.loss_cost * done)
            try:
                for batch in self.minibatches.micro_batches(None, 1, start=done):
                    if done > first:
                        self._check_time()
                        if self.group.size == 1 and watch().is_hopeless(begun, (done - first) / (share - first)):
                            raise TimeIsUp
                    parts.append(self.problem.losses(self.model, batch))
                    done += len(parts[-1])
                    watch().spend(self.loss_cost * len(parts[-1]))
                    if kept is not None:
                        kept.write(parts, is_last=done == share)
            except TimeIsUp:
                if kept is not None and done > first:
                    kept.write(parts, is_last=True)
                how_far = f"{done:,} of {share:,} examples in {time.monotonic() - begun:.0f} s"
                raise watch().out_of_time("L_n(w*)", how_far, f"or give max_examples {max(done // 2, 2):,}") from None
        if self.group.size == 1:
            return torch.cat(parts).to(torch.float64)
        losses = torch.zeros(self.num_examples, dtype=torch.float64, device=self.device)
        if parts:
            losses[slice(*self.group.share(self.num_examples))] = torch.cat(parts).double()
        self.group.sum_([losses])
        return losses

    def paired_loss(self, indices: Tensor | None, num_chains: int) -> Tensor:
        """L_B(w*) on the same minibatches, float64 `[chain]`, from the known ℓ_i(w*)."""
        if indices is None:
            return self.init_losses.mean().expand(num_chains)
        return self.init_losses.take(indices).mean(1)
