"""Losses and gradients of chains around w*: all that depends on the model in the law that they sample (`law`)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from hf_llc.backend.activation_checkpointing import kept_bytes
from hf_llc.backend.cuda_graphs import GradientGraphs
from hf_llc.clock import TimeIsUp
from hf_llc.parallel.group import Group
from hf_llc.posterior.anchor_gradients import AnchorGradients
from hf_llc.posterior.backward_steps import gradients_handed_over
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.kept_sum import KeptSum
from hf_llc.posterior.minibatches import Minibatches
from hf_llc.posterior.one_pass import OnePass
from hf_llc.problem import Problem
from hf_llc.progress import watch

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
        compile: compile every loss and gradient with torch.compile; see also `OnePass.compile_for`.
        step_in_backward: a single chain takes its steps inside the backward pass where it can; see `Walk.sweep`.
        gradient_checkpointing: keep no activations within layers, and compute them again in the backward pass.
        group: the processes that step these chains together; None: this one alone.

    Attributes:
        buffer: where chains lie, and which of them the model holds.
        minibatches: the examples.
        one_pass: loss and gradient of one forward and backward pass.
        anchor_gradients: ∇L_n(w*), and ∇L_B(w*) of minibatches.
        kept_losses: where `init_losses` are kept while they are computed; None: nowhere.
        losses_end: stage by whose time they must be known (`hf_llc.clock.ENDS`).
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
        self.buffer = self._BUFFER(self.model, self.group, may_be_flat=not self.step_in_backward)
        self.device, self.dtype = self.buffer.device, self.buffer.dtype
        self.num_parameters = self.buffer.num_parameters
        self.minibatches = Minibatches(problem, self.device, self.group, micro_batch_size=micro_batch_size)
        self.one_pass = OnePass(
            problem, self.buffer, self.minibatches,
            mixed_precision=mixed_precision, compile=compile, gradient_checkpointing=gradient_checkpointing,
        )  # fmt: skip
        has_graphs = self.device.type == "cuda" and self.minibatches.is_resident
        self._graphs = {False: GradientGraphs(), True: GradientGraphs()} if has_graphs else None
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

    @property
    def num_examples(self) -> int:
        """Number of examples of the data."""
        return self.problem.num_examples

    def start(self, num_chains: int) -> Tensor:
        """Chains at w*: a new buffer `[chain, parameter]`."""
        return self.buffer.start(num_chains)

    # ---- of a minibatch ----

    def gradient(self, w: Tensor, indices: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """L_B(w) and ∇L_B(w), each chain on its own minibatch.

        Args:
            w: `[chain, parameter]`.
            indices: int64 `[chain, m]`, or None for all examples.

        Returns:
            The losses, float64 `[chain]`, and the gradient in flat pieces `[chain, size of the piece]`.
        """
        self.check_time()
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
        graphs = self._graphs[self.one_pass.is_compiled(len(w), size)]
        return graphs.gradient(self._sum_of_micro_batches, w, indices)

    def _sum_of_micro_batches(
        self, w: Tensor, indices: Tensor | None, kept: KeptSum | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        num_chains, data = len(w), self.minibatches
        size = data.size(indices)
        done, total = (0, None) if kept is None else kept.begin(w, indices, size=size)
        is_gathered_in_graph = self.one_pass.is_compiled(num_chains, size) and data.is_resident and indices is not None
        for batch in (data.parts if is_gathered_in_graph else data.micro_batches)(indices, num_chains, start=done):
            if total is not None:
                self._check_time_of_sum(w, indices, kept, done, total)
            loss, pieces = self.one_pass.value_and_grad(w, batch, size)
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
        """`check_time`; what is summed so far is kept."""
        try:
            self.check_time()
        except TimeIsUp:
            if kept is not None:
                kept.write(w, indices, size=self.minibatches.size(indices), done=done, found=found, is_last=True)
            raise

    def check_time(self) -> None:
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
        products = self.one_pass.products(size)
        handed_over = gradients_handed_over(self.model, parameters, consume, products=products)
        with handed_over, torch.enable_grad(), self.one_pass.checkpointed(), self.one_pass.autocast(), products:
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
            with self.one_pass.autocast():
                return self.problem.losses(self.model, self.minibatches.gather(first)).sum()

        size = kept_bytes(forward, self.model.parameters(), self.one_pass.layers)
        self.buffer.release()
        return size

    # ---- losses alone ----

    @torch.no_grad()
    def anchor_losses(self, indices: Tensor) -> Tensor:
        """ℓ_i(w*) of the examples int64 `[m]`, computed in one pass, `[m]`; by a process alone."""
        self.buffer.attach(self.start(1))
        with self.one_pass.autocast(), self.one_pass.products(len(indices)):
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
        with watch().stage("L_n(w*)", self.loss_cost * share), self.one_pass.autocast(), self.one_pass.products(size):
            watch().spend(self.loss_cost * done)
            try:
                for batch in self.minibatches.micro_batches(None, 1, start=done):
                    if done > first:
                        self.check_time()
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
