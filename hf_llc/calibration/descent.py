"""How far nβL falls in a descent from w*: λ̂ counts from a minimum, and what w* lies above one, λ̂ is short of.

With U(w) = nβ(L_n(w) − L_n(w*)) + (γ/2)‖w − w*‖² and w₁ its nearest minimum, λ̂ from w* is λ̂ from w₁ less
nβ(L_n(w*) − L_n(w₁)). L-BFGS finds w₁ in a few gradients (Nocedal 1980; `torch.optim.LBFGS`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_llc.backend.memory import available_bytes
from hf_llc.backend.random_streams import counter_seed
from hf_llc.calibration.energy import AtWStar, Energy
from hf_llc.clock import TimeIsUp
from hf_llc.config import SampleConfig
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import KeptTensors, StageFolder
from hf_llc.progress import watch
from hf_llc.ranges import Range

_GRADIENTS = 30
"""Gradients of a descent at most."""

_USUAL = 16.0
"""Gradients of most descents, the last one included."""

_FEWEST, _STILL = 8, 4
"""Gradients after which a descent may end, and how many of the last must have brought next to nothing."""

_NOTHING, _OF_LLC = 0.002, 0.002
"""A share of the fall so far, and of a first λ̂, below which a gradient has brought next to nothing."""

_SLOWER = 0.1
"""Share of the most that a gradient has brought below which the descent has slowed down: its first steps are short,
and grow."""

_SHARE = 5
"""A descent may cost a fifth of the chains' gradients: that decides how many examples each of its gradients sees."""

_PARTS = 8
"""Parts of the examples held out, whose spread gives the error of the drop."""

_HISTORY_BYTES = 2 * 2**30
"""Memory of L-BFGS at most; its history is shorter for large models."""

_HISTORY = (3, 10)

_COPIES = 16
"""Tensors as large as the weights in a descent, beside its history (measured)."""

AFTER_CHAINS = "measure heat"
"""The stage of `clock.ENDS` by whose end a descent from the end of a chain is over."""

_ROUNDING = 2e-7
"""Rounding error of a mean loss in float32, as a share of it."""


def examples_of_descent(sample: SampleConfig, posterior: Posterior) -> int:
    """How many examples each gradient of a descent sees: all, if twice the affordable number is enough for that."""
    assert isinstance(sample.batch_size, int)
    affordable = sample.num_chains * sample.steps_allowed * sample.batch_size // (_SHARE * _GRADIENTS)
    is_half = posterior.num_examples <= 2 * affordable  # the other half is worth more to fit than held out
    return posterior.num_examples if is_half else max(affordable, sample.batch_size)


def can_descend(posterior: Posterior) -> bool:
    """Whether this process holds whole weights, and what a descent needs fits beside them."""
    return has_whole_gradients(posterior) and not is_descent_too_large(posterior)


def is_descent_too_large(posterior: Posterior) -> bool:
    """Whether memory is what keeps this process, which has whole gradients, from a descent. Others may differ."""
    needed = bytes_of_descent(posterior.num_parameters * posterior.dtype.itemsize)
    return has_whole_gradients(posterior) and needed > available_bytes(posterior.device)


def has_whole_gradients(posterior: Posterior) -> bool:
    """Whether this process holds whole weights and their gradients; the same on every process."""
    return posterior.buffer.shard_spans() is None and not posterior.step_in_backward


def work_of_descent(sample: SampleConfig, posterior: Posterior) -> Range:
    """Work of a descent, in gradients of one example."""
    total = posterior.num_examples
    seen = min(examples_of_descent(sample, posterior), total)
    around = 0 if seen == total else total + 2 * seen
    return Range(*(around + count * seen for count in (3.0, _USUAL, _GRADIENTS + 1.0)))


def bytes_of_descent(weights: int) -> int:
    """Bytes that a descent holds, its passes over examples aside; `weights`: bytes of the weights."""
    return (_COPIES + 2 * history_of_descent(weights)) * weights


def history_of_descent(weights: int) -> int:
    """Steps that L-BFGS remembers, two vectors of the size of the weights each, of so many bytes."""
    return max(_HISTORY[0], min(_HISTORY[1], _HISTORY_BYTES // (2 * weights)))


def disk_of_descent(weights: int) -> int:
    """Bytes on disk of the gradients of a descent that takes longer than `save_seconds`; `weights`: bytes of one."""
    return (_GRADIENTS + 1) * weights


class _Enough(Exception):
    """The descent has had its gradients, or needs no more."""


@torch.no_grad()
def descend(
    posterior: Posterior,
    law: Law,
    *,
    num_examples: int,
    batch_size: int,
    llc: float = math.nan,
    shares_anchor: bool = False,
    folder: StageFolder | None = None,
    start: Tensor | None = None,
) -> dict[str, float] | None:
    """Minimize U from w* and measure how far it falls. Chains, noise and weights are left as they are.

    None if the time was up before that could be said (`Watch.until`); if it was up on the way, w₁ is where that was.

    With all examples the drop is exact, but for rounding. With fewer, w₁ comes from some of them and the drop is
    measured on others, whose gradient at w* is also replaced by that of all.

    Args:
        posterior: losses and gradients around w*; see `can_descend`.
        law: nβ and γ.
        num_examples: that each gradient sees (`examples_of_descent`).
        batch_size: of the chains, in whose gradients the cost is counted.
        llc: a first λ̂, beside which the fall matters; NaN: not known.
        shares_anchor: the chains have a control variate, whose gradients at w* serve here too.
        folder: from which a killed descent goes on; None: nothing is kept.
        start: where a chain has ended, `[1, parameter]`, to begin there; w₁ is w* if that leads to no lower U.

    Returns:
        `drop`: U(w*) − U(w₁). `loss_drop`, `loss_drop_se`: nβ(L_n(w*) − L_n(w₁)) and its standard error. `distance`:
        ‖w₁ − w*‖. `num_examples`; `num_gradients` in minibatches.
    """
    try:
        with watch().until("descended" if start is None else AFTER_CHAINS):
            size = {"num_examples": min(num_examples, posterior.num_examples), "batch_size": batch_size}
            kept = KeptTensors(posterior.group, posterior.device, folder)
            return _descend(posterior, law, kept, **size, llc=llc, shares_anchor=shares_anchor, start=start)
    except TimeIsUp:
        return None
    finally:
        posterior.buffer.release()


def _descend(
    posterior: Posterior,
    law: Law,
    kept: KeptTensors,
    *,
    num_examples: int,
    batch_size: int,
    llc: float,
    shares_anchor: bool,
    start: Tensor | None,
) -> dict[str, float]:
    """`descend`.

    Raises:
        TimeIsUp: before anything can be said.
    """
    total = posterior.num_examples
    rounding = law.nbeta * _ROUNDING * abs(posterior.init_loss) if posterior.dtype == torch.float32 else 0.0
    if num_examples == total:
        energy = Energy(posterior, law, None, None)
        w, spent = _lowest(energy, posterior, llc, kept, start)
        loss_drop, loss_drop_se = -energy.excess(w)[0], rounding
        seen = (spent + 1) * total
    else:
        at_w_star = AtWStar(posterior, kept, is_shared=shares_anchor)
        fitted, held_out = _two_sets(posterior, num_examples)
        (tilt,) = kept.once("tilt", lambda: [at_w_star.tilt(fitted)])
        energy = Energy(posterior, law, fitted, tilt)
        w, spent = _lowest(energy, posterior, llc, kept, start)
        drops = _drops(posterior, law, w, at_w_star, held_out, kept)
        values = torch.tensor(drops, dtype=torch.float64)
        loss_drop = float(values.mean())
        loss_drop_se = math.hypot(float(values.std()) / math.sqrt(len(drops)) if len(drops) > 1 else 0.0, rounding)
        seen = spent * fitted.shape[1] + held_out.shape[1] + at_w_star.spent(fitted.shape[1] + held_out.shape[1])
    return {
        "drop": loss_drop - energy.pull(w),
        "loss_drop": loss_drop,
        "loss_drop_se": loss_drop_se,
        "distance": float((w - energy.w_star).double().norm()),
        "num_examples": num_examples,
        "num_gradients": -(-seen // batch_size),
    }


def _drops(
    posterior: Posterior, law: Law, w: Tensor, at_w_star: AtWStar, held_out: Tensor, kept: KeptTensors
) -> list[float]:
    """nβ(L(w*) − L(w)) on each part of the examples held out; on two at least, or as many as there is time for.

    Raises:
        TimeIsUp: before the second.
    """
    drops: list[float] = []

    def drop(part: Tensor) -> list[Tensor]:
        energy = Energy(posterior, law, part, at_w_star.tilt(part))
        return [torch.tensor(-energy.excess(w)[0], dtype=torch.float64)]

    for number, part in enumerate(held_out.chunk(_PARTS, dim=1)):
        try:
            drops.append(float(kept.once(f"part-{number}", functools.partial(drop, part))[0]))
        except TimeIsUp:
            if len(drops) < 2:
                raise
            break
    return drops


def _two_sets(posterior: Posterior, num_examples: int) -> tuple[Tensor, Tensor]:
    """Indices of examples to fit and of examples held out, int64 `[1, m]`, apart if there are enough."""
    generator = torch.Generator().manual_seed(counter_seed(posterior.num_examples, purpose="descent"))
    order = torch.randperm(posterior.num_examples, generator=generator).to(posterior.device)[None]
    return order[:, :num_examples], order[:, num_examples : 2 * num_examples]


def has_ended(falls: Sequence[float], llc: float) -> bool:
    """Whether a descent whose lowest U lies `falls` below that at w*, by gradient, has next to nothing left to fall.

    Args:
        falls: never falling, one after each gradient.
        llc: a first λ̂; NaN: not known.
    """
    if len(falls) < _FEWEST:
        return False
    brought = [later - earlier for earlier, later in itertools.pairwise(falls)]
    bound = max(_NOTHING * falls[-1], _OF_LLC * llc if llc > 0 else 0.0)
    return max(brought[-_STILL:]) <= min(bound, _SLOWER * max(brought))


def _lowest(
    energy: Energy, posterior: Posterior, llc: float, kept: KeptTensors, start: Tensor | None
) -> tuple[Tensor, int]:
    """The point of the lowest U that L-BFGS meets, w* if there is none below it, and the gradients that it took.

    Gradients that are kept lead L-BFGS where it was.
    """
    w, best, lowest, spent = posterior.start(1), posterior.start(1), 0.0, 0
    stage = "descend" if start is None else AFTER_CHAINS
    if start is not None:
        w.copy_(start)
    values = [0.0] if start is None else []
    falls: list[float] = []

    def at_w() -> list[Tensor]:
        value, grad = energy.gradient(w)
        return [torch.tensor(value, dtype=torch.float64), grad]

    @torch.no_grad()  # L-BFGS turns gradients on around it
    def closure() -> float:
        nonlocal lowest, spent
        if spent == _GRADIENTS or (spent and watch().is_over(stage, posterior.group)):
            raise _Enough
        (number, grad), spent = kept.once(f"gradient-{spent:02d}", at_w), spent + 1
        value = float(number)
        if not math.isfinite(value):
            raise _Enough
        w.grad = grad
        if value < lowest:
            lowest = value
            best.copy_(w)
        values.append(value)
        falls.append(values[0] - min(values))
        if has_ended(falls, llc):
            raise _Enough
        return value

    history = history_of_descent(w.nbytes)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=_GRADIENTS, history_size=history, line_search_fn="strong_wolfe", tolerance_grad=0.0,
        tolerance_change=1e-6,
    )  # fmt: skip
    with contextlib.suppress(_Enough, TimeIsUp), watch().until(stage):
        optimizer.step(closure)  # type: ignore[arg-type]
    optimizer.state.clear()  # its history, which the cycles of an optimizer would hold until they are collected
    w.grad = None
    return best, spent
