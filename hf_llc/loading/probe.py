"""A trial before any work: the loss is a function of (weights, example), and computing it changes nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hf_llc.backend.global_random import moved_generators, random_numbers_kept, random_states
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.gradient_graph import refuse_other_gradients
from hf_llc.loading.model_state import changed_part, model_state
from hf_llc.loading.padding import most_padded, without_padding
from hf_llc.loading.rounding import rounding_of
from hf_llc.loading.short_examples import is_costly, shortened
from hf_llc.loading.tasks.task import Encoded
from hf_llc.parallel.processes import Processes
from hf_llc.parallel.sharding import is_sharded
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Forward
from hf_llc.progress import watch

_MANY, _FEW = 8, 3
"""Examples of the larger batch, and those of them that every other pass has too."""

_MANY_COSTLY, _FEW_COSTLY = 3, 2
"""The same where a pass takes long."""

_DRIFT = 50
"""The same pass twice has the same bits on a CPU; so many times less than rounding is already a drift, which thousands
of steps add up."""


def probe(model: nn.Module, encoded: Encoded, *, is_loss_given: bool = False) -> None:
    """Check that ℓ_i is a function of the weights and of example i alone.

    The same few examples, twice, in another order, alone, in a larger batch and with gradients on, must have the same
    losses to rounding. Weights, buffers, inputs and the global random numbers must be as before. Then comes the task's
    own check.

    Args:
        model: at w*.
        encoded: examples, losses, and the task's check.
        is_loss_given: the loss is the user's code too; what it raises is a refusal.

    Raises:
        InputError: which of these failed, and what to do.
    """
    refusal = None
    try:
        with watch().stage("load model and data") as stage, random_numbers_kept(), preserved(model):
            stage.text = "the model tried on a few examples"  # of a large model, a minute
            _Probe(model, encoded, is_loss_given).run()
    except InputError as error:
        refusal = str(error)
    if is_sharded(model):  # its forward pass takes all processes, so they must go on, or stop, together
        refusal = next((line for line in Processes().gather([refusal]) if line is not None), None)
    if refusal is not None:
        raise InputError(refusal)


class _Probe:
    """The passes of a probe.

    Args:
        model: in eval mode.
        encoded: examples and losses.
        is_loss_given: see `probe`.
    """

    def __init__(self, model: nn.Module, encoded: Encoded, is_loss_given: bool) -> None:
        self.model, self.encoded, self.is_loss_given = model, encoded, is_loss_given
        parameter = next(model.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        is_long = is_costly(model, encoded.examples)
        self.examples = shortened(encoded.examples) if is_long else encoded.examples
        most, few = (_MANY_COSTLY, _FEW_COSTLY) if is_long else (_MANY, _FEW)
        count = len(next(iter(encoded.examples.values())))
        many = [i * (count - 1) // (min(most, count) - 1) for i in range(min(most, count))]  # two at least
        padded = most_padded(self.examples)
        self.many = many if padded is None else [padded, *(i for i in many if i != padded)][:most]
        self.few = self.many[:few]
        self.random_states = random_states()

    def run(self) -> None:
        """All passes, then all comparisons: processes that share a model run it equally often.

        Raises:
            InputError: what failed.
        """
        self.before = self.settled = model_state(self.model)
        try:
            passes = self._passes()
        except InputError:
            self._refuse_changes()  # the better reason
            raise
        self._refuse_changes()
        first, tolerance = passes["first"], self._tolerance(passes["first"])
        same = self.rounding * float(first.abs().max())  # of the same outputs: what the loss cancels does not count
        self._compare(passes, "first", "replayed", same)
        for name in ("again", "reversed", "alone", "larger", "gradients"):
            self._compare(passes, "first", name, tolerance)
        self._compare(passes, "again", "last", tolerance / _DRIFT if self._repeats_bits() else tolerance)
        if self.encoded.check is not None:
            self.encoded.check(self._forward, self._batch(self.many), self.rounding)
            self._refuse_changes()
        self._compare(passes, "first", "unpadded", tolerance)

    def _compare(self, passes: dict[str, Tensor], one: str, other: str, tolerance: float) -> None:
        """Check that two passes have the same losses.

        Raises:
            InputError: they have not.
        """
        difference = (passes[other] - passes[one]).nan_to_num(0.0).abs()
        worst = int(difference.argmax())
        if float(difference[worst]) > tolerance:
            what, remedy = _SAID[other]
            then = f"{float(passes[one][worst]):.9g}, then {float(passes[other][worst]):.9g}"
            raise InputError(f"{what} (example {self.few[worst]}: {then})", remedy=remedy)

    def _repeats_bits(self) -> bool:
        """Whether the same pass twice has the same bits: on a CPU, of code that is not compiled meanwhile."""
        return self.device.type == "cpu" and not any(
            isinstance(m, torch.jit.ScriptModule) for m in self.model.modules()
        )

    def _passes(self) -> dict[str, Tensor]:
        """ℓ_i of the few, by the name of the pass."""
        first = self._first_pass()
        self.settled = model_state(self.model)
        return {
            "first": first,
            "again": self._losses(self.few),
            "reversed": self._losses(self.few[::-1]).flip(0),
            "alone": torch.cat([self._losses([i]) for i in self.few]),
            "unpadded": torch.cat([self._losses(self.few[:1], cut=True), first[1:]]),  # the most padded, if any is
            "larger": self._losses(self.many)[: len(self.few)],
            "gradients": self._losses(self.few, grad=not is_sharded(self.model)),  # shards wait for a backward pass
            "replayed": self._losses(self.few, self._replay(0.0)),
            "last": self._losses(self.few),
        }

    def _tolerance(self, first: Tensor) -> float:
        """What rounding may move a loss by: what it moves by when the same outputs are moved by rounding."""
        moved = self._losses(self.few, self._replay(self.rounding))
        return float((moved - first).abs().nan_to_num(0.0, 0.0).max() + self.rounding * first.abs().max())

    # ---- passes ----

    def _batch(self, rows: list[int], *, cut: bool = False) -> dict[str, Tensor]:
        """These examples on the model's device, in memory of their own; `cut`: a single one without its padding."""
        index = torch.tensor(rows)
        batch = {name: x.index_select(0, index).to(self.device) for name, x in self.examples.items()}
        return without_padding(batch) if cut else batch

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._tried(self.model, *args, **kwargs)

    def _tried(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the model or the user's loss; what it raises is one line."""
        try:
            return function(*args, **kwargs)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if "allocate memory" in str(error):
                raise
            raise InputError(
                f"the model fails on a batch of {self._size}: {reason_of(error)}",
                value=type(self.model).__name__,
                remedy="check that it takes these data and batches of any size; its config and max_length",
            ) from error

    def _losses(
        self, rows: list[int], forward: Forward | None = None, *, grad: bool = False, cut: bool = False
    ) -> Tensor:
        """ℓ_i of these examples, float64 on the CPU.

        Raises:
            InputError: inputs or labels were written, or there is not one loss an example.
        """
        watch().check()
        batch, self._size = self._batch(rows, cut=cut), len(rows)
        losses: Callable[..., Any] = self.encoded.losses
        if self.is_loss_given:
            losses = functools.partial(self._tried, losses)
        with torch.set_grad_enabled(grad):
            value = losses(self._forward if forward is None else forward, batch)
        for name, x in self._batch(rows, cut=cut).items():
            if not torch.equal(torch.nan_to_num(batch[name]), torch.nan_to_num(x)):
                raise InputError(
                    "the forward pass or the loss writes into its input",
                    value=name,
                    remedy="use operations that are not in place, or clone it first",
                )
        if not isinstance(value, Tensor) or value.shape != (len(rows),):
            raise InputError(
                f"there must be one loss for each example, also in a batch of {len(rows)}",
                value=tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__,
                allowed="shape [batch]",
                remedy="does the model or loss_fn drop the batch axis (squeeze)?",
            )
        if grad and not value.requires_grad and any(p.requires_grad for p in self.model.parameters()):
            raise InputError(
                "the loss has no gradient", value=type(self.model).__name__, remedy="is the forward under no_grad?"
            )
        if grad:
            refuse_other_gradients(value)
        return value.detach().double().cpu()

    def _first_pass(self) -> Tensor:
        """ℓ_i of the few. Notes the outputs, and what rounding may move them by, relative to the largest."""
        kinds = {p.dtype for p in self.model.parameters()}
        self.outputs: list[Any] = []

        def note(_: nn.Module, __: Any, output: Any) -> None:
            tree_map(lambda x: kinds.add(x.dtype) if isinstance(x, Tensor) else None, output)

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = self._forward(*args, **kwargs)
            self.outputs.append(tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output))
            return output

        modules = [m for m in self.model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        hooks = [module.register_forward_hook(note) for module in modules]
        try:
            losses = self._losses(self.few, forward)
        finally:
            for hook in hooks:
                hook.remove()
        self.rounding = rounding_of(kinds, self.model, self.device)
        return losses

    def _replay(self, size: float) -> Callable[..., Any]:
        """A forward pass that gives the outputs of the first one again, moved by `size` of the largest, up or down."""
        outputs, generator = iter(self.outputs), torch.Generator().manual_seed(0)

        def move(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
                return x.clone() if isinstance(x, Tensor) else x
            signs = (torch.randint(2, x.shape, generator=generator) * 2 - 1).to(x)
            return x + size * x.abs().nan_to_num(0.0, 0.0, 0.0).amax() * signs

        return lambda *_, **__: tree_map(move, next(outputs))

    # ---- what must be as before ----

    def _refuse_changes(self) -> None:
        """Refuse a forward pass that has changed weights, buffers or the global random numbers.

        Raises:
            InputError: it has.
        """
        changed = changed_part(self.before, self.settled, model_state(self.model))
        if changed is not None:
            kind, name = changed
            raise InputError(f"the forward pass writes a {kind}", value=name, remedy=_WRITES[kind])
        generators = moved_generators(self.random_states)
        if generators:
            raise InputError(
                "the forward pass or the loss draws random numbers in eval mode",
                value=", ".join(generators),
                remedy="dropout and noise have to follow self.training: F.dropout(x, p, self.training)",
            )


_NOISE = "take noise and state out of the forward pass and the loss"
_BATCH = (
    "a loss must not see other examples: no batch norm without running statistics (track_running_stats), nothing "
    "centred or normalised over the batch"
)
_SAID = {
    "again": ("the loss of the same examples is another in a second pass", _NOISE),
    "replayed": ("the loss of the same outputs is another in a second pass", _NOISE),
    "reversed": ("the loss of an example depends on its place in the batch", _BATCH),
    "alone": ("the loss of an example alone is another than in a batch", _BATCH),
    "unpadded": (
        "the loss of a short example depends on the padding behind it",
        "give texts of one length (a max_length that each reaches), or a module of your own that pads as in training, "
        "and loss_fn",
    ),
    "larger": ("the loss of an example depends on what else is in the batch", _BATCH),
    "gradients": (
        "the loss is another while gradients are recorded",
        "the forward pass must not ask torch.is_grad_enabled()",
    ),
    "last": ("the loss of the same examples drifts from pass to pass", f"{_NOISE}; it must not ask the time"),
}
"""What it says of a loss that is another in this pass than in the first, and the remedy."""

_WRITES = {
    "weight": "set max_norm None in an Embedding, and keep operations in place off weights",
    "buffer": "keep counters and running values out of the forward pass in eval mode",
}
