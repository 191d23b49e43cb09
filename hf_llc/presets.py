"""Settings of published work, by a name: so that its numbers can be compared, and so that its verdict is known."""

from __future__ import annotations

from typing import Any

from hf_llc.errors import InputError

PRESETS: dict[str, dict[str, Any]] = {
    "timaeus": {
        "sampler": "sgld",
        "nbeta": 30.0,
        "localization": 300.0,
        "step_size": 1e-3,
        "num_chains": 4,
        "num_draws": 200,
        "num_burnin_steps": 0,
    },
    "paper-lm": {
        "sampler": "sgld",
        "nbeta": 21.7,
        "localization": 100.0,
        "step_size": 1e-3,
        "num_chains": 20,
        "num_draws": 200,
        "num_burnin_steps": 0,
        "batch_size": 100,
    },
}
"""`timaeus`: of the papers on refined λ̂ and susceptibilities (arXiv 2410.02984). `paper-lm`: arXiv 2308.12108, figure
L.1; its nβ is 100 / ln 100, of the batch. Neither drops a burn-in."""


def preset(name: str) -> dict[str, Any]:
    """The sampling settings of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError("preset is unknown", value=name, allowed=", ".join(PRESETS))
    return dict(PRESETS[name])
