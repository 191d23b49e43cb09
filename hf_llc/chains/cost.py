"""What the chains of an estimate are and cost: their kernel, their law, and their work in gradients."""

from __future__ import annotations

import numpy as np

from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.trace import Trace
from hf_llc.samplers import SAMPLERS, Kernel, make_kernel


def kernel_of(settings: ChainSettings) -> Kernel:
    """The kernel of the settings' sampler."""
    names = SAMPLERS[settings.sampler].settings
    return make_kernel(settings.sampler, settings.step_size, **{name: getattr(settings, name) for name in names})


def law_of(settings: ChainSettings) -> Law:
    """nβ and γ of the settings."""
    return Law(nbeta=settings.nbeta, localization=settings.localization)


def gradients_behind(posterior: Posterior, settings: ChainSettings, trace: Trace) -> int:
    """Gradient evaluations behind a trace: a gradient of a control variate may take two."""
    is_full = settings.batch_size == posterior.num_examples
    kernel = kernel_of(settings)
    steps = np.isfinite(trace.loss).sum(axis=1)
    measured = (np.isfinite(trace.accept_prob) | np.isfinite(trace.heat)).sum(axis=1)
    counts = zip(steps.tolist(), measured.tolist(), strict=True)
    taken = sum(kernel.num_gradients(steps=s, measured=m, is_full=is_full) for s, m in counts)
    return taken if is_full else taken * posterior.anchor_gradients.per_gradient(settings.gradient)


def work_of_step(posterior: Posterior, settings: ChainSettings) -> float:
    """Work of a step of one chain on this process, in gradients of one example."""
    share = settings.batch_size * posterior.anchor_gradients.per_gradient(settings.gradient)
    if settings.full_loss_every:
        share += posterior.loss_cost * posterior.num_examples / settings.full_loss_every
    return share / posterior.group.size
