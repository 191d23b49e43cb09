"""What each line of `hf-llc show` means, and what the paper advises about it (`--explain`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_llc.publishing.lines import show_rows
from hf_llc.publishing.report import table

if TYPE_CHECKING:
    from hf_llc.records.record import Record

EXPLAINED = {
    "λ̂": "The local learning coefficient: nβ times the mean rise of the loss above that at w*, ± its standard"
    " error. Lower means more degenerate, so simpler. Compare it only at equal data, nβ and γ.",
    "verdict": "Trustworthy, or the first check that failed. The failed checks follow, each with what to do (→).",
    "by chain": "λ̂ of each chain. They should differ by no more than the error allows.",
    "plain": "λ̂ from the loss of the steps minus L_n(w*), as in the paper's Algorithm 1. The headline"
    " takes both losses on the same minibatch: the mean is the same, and the error is smaller.",
    "mixing": "r̂ compares the spread between chains with that within them; above 1.1 they have not mixed. ESS is"
    " the number of independent draws that they are worth. Acceptance is that of MALA's test. The paper takes"
    " the ε at which it is 0.9 to 0.95 (H.1). Here ε comes from the curvature, because a test on minibatches"
    " does not see their noise.",
    "drift": "The mean of the later half of the draws minus that of the earlier half. The paper drops a burn-in"
    " and looks whether the trace is flat (H.2). Here chains run on until the halves agree.",
    "bias": "How much the step and the noise of minibatch gradients (heat) add to λ̂. Heat is measured and taken off.",
    "γ": "How λ̂ changes when γ is halved and doubled. If it changes by much, λ̂ belongs to this γ alone. The"
    " paper takes γ from 1 to 10; at such γ, flat directions of a large model need more steps than chains have.",
    "minimum": "λ̂ from the lowest point that a descent from w*, held by γ, finds. If it is far from λ̂, w* is"
    " not a minimum.",
    "heat": "The variance of nβL is a second estimate of λ. The kinetic temperature is 1 if ε is small enough.",
    "loss": "The mean loss of the chains, the loss at w*, and that of the best constant predictor. Chains near"
    " the last one have left the basin, even if their trace is flat (H.3 takes a flat trace for a good one).",
    "posterior": "The chains sample exp(−nβ L_n(w) − γ/2 ‖w − w*‖²). n counts examples or tokens; nβ is n / ln n"
    " unless given.",
    "sampler": "How steps are taken: the sampler, its friction, ε, the batch size, the seed.",
    "chains": "How many chains, how many draws each keeps, and how many steps are dropped first.",
    "evidence": "The free energy of the model on these data, to first order, as in the WBIC: lower is better.",
    "minimize": "How w* was first moved to the nearest minimum. λ̂ is then that of the point found.",
    "cost": "Gradients, time, steps per second and peak memory.",
    "model": "The model, its fingerprint, and how many of its weights are sampled.",
    "data": "The data and their fingerprint.",
    "run": "The task, and where and how the model was run.",
}
"""Label of a row of `show` → what it means."""


def explained(result: Record, *, encoding: str | None = None) -> str:
    """What the lines of this result's report mean, a row each, as a table of at most 100 columns.

    Args:
        result: what is shown.
        encoding: encoding of the reader, as of `report.render`.
    """
    labels = ["λ̂", "verdict", *(label for label, _ in show_rows(result))]
    return table([(label, EXPLAINED[label]) for label in labels], encoding=encoding)
