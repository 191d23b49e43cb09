"""The local learning coefficient λ̂ from the losses that a sampler left behind, as an `evaluate` metric."""

from __future__ import annotations

# One import a line: evaluate reads them itself, and stumbles over `import a, b`.
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_llc.errors import InputError
from hf_llc.judging.estimator import estimate
from hf_llc.records.trace import Trace

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


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LLC(evaluate.Metric):
    """λ̂, its standard error, r̂, ESS and verdict."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        names = ("nbeta", "burnin", "num_steps_between_draws", "trivial_loss")
        self.settings = {name: settings.pop(name) for name in names if name in settings}
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

    def _compute(self, *, predictions: Any = None, references: Any = None, **settings: Any) -> dict[str, Any]:
        return _results(predictions, references, **{**self.settings, **settings})


def _results(
    predictions: Any,
    references: Any,
    *,
    nbeta: float | None = None,
    burnin: int = 0,
    num_steps_between_draws: int = 1,
    trivial_loss: float | None = None,
) -> dict[str, Any]:
    """The numbers of `_KWARGS_DESCRIPTION`.

    Raises:
        InputError: a setting that is missing or out of range, chains of different lengths.
    """
    if nbeta is None or not nbeta > 0:
        raise InputError("nbeta is missing or out of range", value=nbeta, allowed="a number above 0, e.g. n / ln n")
    lengths = sorted({len(chain) for chain in predictions})
    if len(lengths) > 1:
        raise InputError("the chains differ in length", value=lengths, remedy="give as many draws of each")
    if not 0 <= burnin < lengths[0]:
        raise InputError("burnin is out of range", value=burnin, allowed=f"0 … {lengths[0] - 1}")
    kept = lengths[0] - burnin
    if not 1 <= num_steps_between_draws <= kept:
        raise InputError(
            "num_steps_between_draws is out of range", value=num_steps_between_draws, allowed=f"1 … {kept}"
        )
    loss, init_loss = _arrays(predictions, references)
    unknown = np.full(loss.shape, np.nan)
    found = estimate(
        Trace(loss=loss, init_loss=init_loss, accept_prob=unknown, sq_distance=unknown, grad_dot=unknown),
        nbeta=nbeta,
        init_loss=float(init_loss.mean()),
        localization=float("nan"),
        step_size=float("nan"),
        is_exact=False,
        num_burnin_steps=burnin,
        num_steps_between_draws=num_steps_between_draws,
        trivial_loss=trivial_loss,
    )
    return {name: getattr(found, name) for name in ("llc", "llc_se", "r_hat", "ess", "verdict")}


def _arrays(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 `[chain, draw]`."""
    loss = np.array(predictions, dtype=np.float64)
    if np.ndim(references[0]) == 0:
        return loss, np.repeat(np.array(references, dtype=np.float64)[:, None], loss.shape[1], axis=1)
    if any(len(row) != loss.shape[1] for row in references):
        raise InputError(
            "paired references differ in length from the draws",
            value=[len(row) for row in references],
            allowed=f"{loss.shape[1]} a chain, or one number a chain",
        )
    return loss, np.array(references, dtype=np.float64)
