"""The picture of a profile: λ̂ and λ_Q against γ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import number, short
from hf_llc.publishing.picture import new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.profile_table import Profile, Row

_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of λ̂, one an nβ: from the palette of Okabe and Ito, which colour-blind readers can tell apart."""
_QUADRATIC = "#d55e00"


def plot_profile(profile: Profile, path: str | Path) -> Path:
    """Draw λ̂ and λ_Q against γ on logarithmic axes, each in a band of two standard errors, as a PNG.

    λ̂ that is not trustworthy is hollow. Where λ_Q is zero throughout, the axis of λ is linear.

    Args:
        profile: the rows.
        path: of the PNG.

    Returns:
        The path.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.subplots()
    for k, nbeta in enumerate(dict.fromkeys(row.nbeta for row in profile.rows)):
        _draw(axes, [row for row in profile.rows if row.nbeta == nbeta], _COLOURS[k % len(_COLOURS)], k)
    axes.set_xscale("log")
    values = [x for row in profile.rows for x in (row.llc, row.llc_quadratic) if math.isfinite(x)]
    if values and min(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("γ")
    axes.set_ylabel("λ")
    axes.grid(alpha=0.25, which="both", lw=0.4)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    figure.suptitle(_title(profile), fontsize=9)
    save_picture(figure, path)
    return Path(path)


def _draw(axes: Axes, rows: Sequence[Row], colour: str, index: int) -> None:
    x = np.array([row.localization for row in rows])
    llc, llc_se = (np.array([getattr(row, name) for row in rows]) for name in ("llc", "llc_se"))
    quadratic = np.array([row.llc_quadratic for row in rows])
    error = np.nan_to_num(np.array([row.llc_quadratic_se for row in rows]))
    line = ("--", "-.", ":")[index % 3]
    axes.plot(x, quadratic, color=_QUADRATIC, ls=line, lw=1.4, label=f"λ_Q of the Hessian, nβ {number(rows[0].nbeta)}")
    axes.fill_between(x, quadratic - 2 * error, quadratic + 2 * error, color=_QUADRATIC, alpha=0.2, lw=0)
    is_known = np.isfinite(llc) & np.isfinite(llc_se)
    axes.fill_between(
        x, llc - 2 * llc_se, llc + 2 * llc_se, where=is_known.tolist(), color=colour, alpha=0.25, lw=0
    )  # fmt: skip
    axes.plot(x, llc, color=colour, lw=1.2, label=f"λ̂ ± 2 standard errors, nβ {number(rows[0].nbeta)}")
    good = np.array([row.is_trustworthy for row in rows])
    axes.plot(x[good], llc[good], color=colour, ls="none", marker="o", ms=5)
    if (~good).any():
        label = "not trustworthy" if index == 0 else None
        axes.plot(x[~good], llc[~good], color=colour, ls="none", marker="o", ms=6, mfc="white", label=label)


def _title(profile: Profile) -> str:
    s, h = profile.settings, profile.hessian
    return (
        f"n {s['n']:,}   {profile.rows[0].num_steps:,} steps and fewer of {s['num_chains']} chains a γ, "
        f"batch {s['batch_size']}   Hessian: {h['probes']} vectors × {h['iterations']} products over {h['examples']} "
        f"examples, {short(100 * profile.negative_share)} % of Σ|h| negative"
    )
