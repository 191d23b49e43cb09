"""The law that the chains of an estimate sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Law:
    """The tempered local posterior π(w) ∝ exp(−nβ L_n(w) − (γ/2) ‖w − w*‖²) (arXiv 2308.12108, eq. 10).

    Its energy is U(w) = nβ L_n(w) + (γ/2) ‖w − w*‖².

    Attributes:
        nbeta: nβ, the inverse temperature β times the number of examples (or tokens) n.
        localization: γ, the strength of the pull towards w*; 0: none.
    """

    nbeta: float
    localization: float
