"""The local learning coefficient λ̂ from the losses that a sampler left behind, as an `evaluate` metric."""

from __future__ import annotations

# One import a line: evaluate reads them itself, and stumbles over `import a, b`.
import difflib
import inspect
from typing import Any

import datasets
import evaluate

# The copy on the Hub runs beside whatever hf_llc is installed: only stable names here.
from hf_llc.errors import InputError
from hf_llc.metrics import checked_losses, estimate_from_losses

_DESCRIPTION = """
The local learning coefficient λ̂(w*) (Lau et al. 2023): how many effective parameters a model uses around weights w*.
λ̂ = nβ (E[L(w)] − L(w*)), the mean over draws w of the tempered local posterior exp(−nβ L_n(w) − γ/2 ‖w − w*‖²).
"""

_CITATION = """
@article{lau2023local,
  title   = {The Local Learning Coefficient: A Singularity-Aware Complexity Measure},
  author  = {Lau, Edmund and Furman, Zach and Wang, George and Murfet, Daniel and Wei, Susan},
  journal = {arXiv preprint arXiv:2308.12108},
  year    = {2023}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: losses of the draws, `[chain][draw]`, in nats an example (or a token): one row a chain.
    references: L_n(w*), one number a chain; or, `[chain][draw]`, the loss at w* on the very minibatch of each draw
        (paired losses: the same expectation, far smaller variance).
    nbeta: n times the inverse temperature β; n / ln n at the usual temperature.
    burnin: draws dropped at the start of each chain.
    num_steps_between_draws: average this many losses into one draw.
    trivial_loss: L_n of the best constant predictor; with it the verdict sees a model that has been destroyed.
Returns:
    llc: λ̂.
    llc_se: its Monte Carlo standard error.
    r_hat: rank-normalised split r̂ between the chains; above 1.1 they disagree.
    ess: effective sample size of the draws of all chains.
    verdict: "trustworthy", or the first check that failed. Checks that need more than losses (too large a step size,
        too strong a localization) are not made here: `hf_llc.LLCEvaluator` makes them.
Examples:
    >>> import evaluate
    >>> import hf_llc
    >>> import numpy
    >>> llc = evaluate.load(hf_llc.metric_path())
    >>> losses = 0.5 + numpy.random.default_rng(0).gamma(shape=3.0, scale=0.01, size=(4, 300))  # λ = 3 at nβ = 100
    >>> results = llc.compute(predictions=losses, references=[0.5] * 4, nbeta=100.0, burnin=100)
    >>> print(f"{results['llc']:.2f} ± {results['llc_se']:.2f}, {results['verdict']}")
    3.07 ± 0.06, trustworthy

    Chain by chain:

    >>> for chain in losses:
    ...     llc.add_batch(predictions=[chain], references=[0.5])
    >>> llc.compute(nbeta=100.0, burnin=100) == results
    True

    Settings given to `evaluate.load` hold for every `compute`, as `evaluate.combine` needs it:

    >>> cold = evaluate.load(hf_llc.metric_path(), nbeta=100.0, burnin=100)
    >>> cold.compute(predictions=losses, references=[0.5] * 4) == results
    True
"""

_LOSSES = datasets.Sequence(datasets.Value("float64"))
_SETTINGS = ("nbeta", "burnin", "num_steps_between_draws", "trivial_loss")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LLC(evaluate.Metric):
    """λ̂, its standard error, r̂, ESS and verdict."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.settings = {name: settings.pop(name) for name in _SETTINGS if name in settings}
        _refuse_unknown(settings, (*_SETTINGS, *inspect.signature(evaluate.Metric.__init__).parameters))
        super().__init__(*args, **settings)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": _LOSSES, "references": datasets.Value("float64")}),
                datasets.Features({"predictions": _LOSSES, "references": _LOSSES}),
            ],
            license="apache-2.0",
            reference_urls=["https://arxiv.org/abs/2308.12108"],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **settings: Any) -> dict[str, Any] | None:
        """See above. What cannot be used is refused before evaluate stores it."""
        _refuse_unknown(settings, _SETTINGS)
        if predictions is None and references is None:  # of `add_batch`
            if self.writer is None:
                raise InputError("predictions are missing", allowed="a list of losses for each chain, [chain][draw]")
            return super().compute(**settings)
        predictions, references = checked_losses(predictions, references)
        return super().compute(predictions=predictions, references=references, **settings)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """Add chains; see above."""
        _refuse_unknown(others, ())
        predictions, references = checked_losses(predictions, references)
        super().add_batch(predictions=predictions, references=references)

    def add(self, *, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """Add a chain; see above."""
        _refuse_unknown(others, ())
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(self, *, predictions: Any = None, references: Any = None, **settings: Any) -> dict[str, Any]:
        # nbeta may be given to `evaluate.load` or to `compute`; if to neither, the refusal comes from the function
        estimate = estimate_from_losses(predictions, references, **{"nbeta": None, **self.settings, **settings})
        return {name: getattr(estimate, name) for name in ("llc", "llc_se", "r_hat", "ess", "verdict")}


def _refuse_unknown(names: Any, known: Any) -> None:
    """Refuse a setting that would be ignored: its default would be taken without a word."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, _SETTINGS, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else ""
            raise InputError(f"the metric llc has no setting {name!r}", allowed=", ".join(_SETTINGS), remedy=remedy)
