"""The picture of a profile: λ̂ and λ_Q against γ."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.numerals import number, short
from hf_llc.publishing.picture import BAD, COLOURS, drawn, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.profile_table import Profile, Row

_QUADRATIC = BAD
_COLOURS = tuple(colour for colour in COLOURS if colour != _QUADRATIC)
"""Of λ̂, one an nβ."""


def plot_profile(profile: Profile, path: str | Path) -> Path:
    """Draw λ̂ and λ_Q against γ on logarithmic axes, each in a band of two standard errors, as a PNG.

    λ̂ that is not trustworthy is hollow. An axis of λ with zero on it is linear from −1 to 1.

    Args:
        profile: the rows.
        path: of the PNG.

    Returns:
        The path.
    """
    with drawn(path, height=4.6) as figure:
        axes = figure.subplots()
        for k, nbeta in enumerate(dict.fromkeys(row.nbeta for row in profile.rows)):
            _draw(
                axes,
                [row for row in profile.rows if row.nbeta == nbeta],
                _COLOURS[k % len(_COLOURS)],
                k,
                taken=profile.taken,
            )
        axes.set_xscale("log")
        values = [x for row in profile.rows for x in (row.llc, row.llc_quadratic, _compared(row)) if math.isfinite(x)]
        if values and min(values) > 0:
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=1)  # linear from −1 to 1
        axes.set_xlabel("γ")
        axes.set_ylabel("λ")
        legend_above(axes, ncols=2)
        figure.suptitle(textwrap.fill(_title(profile), 92))
    return Path(path)


def _draw(axes: Axes, rows: Sequence[Row], colour: str, index: int, *, taken: str) -> None:
    x = np.array([row.localization for row in rows])
    llc, llc_se = (np.array([getattr(row, name) for row in rows]) for name in ("llc", "llc_se"))
    quadratic = np.array([row.llc_quadratic for row in rows])
    error = np.nan_to_num(np.array([row.llc_quadratic_se for row in rows]))
    line = ("--", "-.", ":")[index % 3]
    axes.plot(x, quadratic, color=_QUADRATIC, ls=line, lw=1.4, label=f"λ_Q of the Hessian, nβ {number(rows[0].nbeta)}")
    axes.fill_between(x, quadratic - 2 * error, quadratic + 2 * error, color=_QUADRATIC, alpha=0.2, lw=0)
    expected = np.array([_compared(row) for row in rows])
    if taken:
        label = f"λ_Q less {taken}" if index == 0 else None
        axes.plot(x, expected, color="0.4", ls=":", lw=1.2, label=label)
    good = np.array([row.is_trustworthy for row in rows])
    is_known = np.isfinite(llc) & np.isfinite(llc_se) & good
    axes.fill_between(
        x, llc - 2 * llc_se, llc + 2 * llc_se, where=is_known.tolist(), color=colour, alpha=0.25, lw=0
    )  # fmt: skip
    joined = np.where(good, llc, np.nan)  # no line goes to what is not trustworthy
    axes.plot(x, joined, color=colour, lw=1.2, label=f"λ̂ ± 2 standard errors, nβ {number(rows[0].nbeta)}")
    axes.plot(x[good], llc[good], color=colour, ls="none", marker="o", ms=5)
    if (~good).any():
        label = "not trustworthy" if index == 0 else None
        axes.plot(x[~good], llc[~good], color=colour, ls="none", marker="o", ms=6, mfc="white", label=label)


def _compared(row: Row) -> float:
    """What λ̂ is compared with; NaN where it is not."""
    return row.expected if math.isfinite(row.difference) else math.nan


def _title(profile: Profile) -> str:
    s, h = profile.settings, profile.hessian
    return (
        f"n {s['n']:,}   {profile.rows[0].num_steps:,} steps and fewer of {s['num_chains']} chains a γ, "
        f"batch {s['batch_size']}   Hessian: {h['probes']} vectors × {h['iterations']} products over {h['examples']} "
        f"examples, {short(100 * profile.negative_share)} % of Σ|h| negative"
    )
