"""What `print(result)` shows: λ̂, whether to believe it, why not and what to do, and its settings."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from hf_llc.result import LLCResult

WIDTH = 100
_LABEL = 11


def with_error(value: float, error: float) -> str:
    """`value ± error`, the error to two significant digits and the value to the same place."""
    if not math.isfinite(value):
        return "not a number"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g} ± {'?' if not math.isfinite(error) else '0'}"
    size = max(abs(value), error)
    if not 1e-3 <= size < 1e6:
        power = math.floor(math.log10(size))
        return f"({with_error(value / 10.0**power, error / 10.0**power)})e{power:+d}"
    if size / error > 1e9:
        return f"{value:.9g} ± {error:.1e}"
    places = 1 - math.floor(math.log10(error))
    error = round(error, places)  # which may reach the next decade
    places = 1 - math.floor(math.log10(error))
    value, places = round(value, places), max(0, places)
    return f"{value:.{places}f} ± {error:.{places}f}"


def render(result: LLCResult) -> str:
    """The result as a small table of at most 100 columns."""
    rows = [("λ̂", f"{with_error(result.llc, result.llc_se)}   {result.verdict}")]
    for reason in result.reasons:
        rows.append(("note" if reason.is_note else "reason", f"{reason.name}: {reason.text}"))
        if reason.remedy:
            rows.append(("", f"→ {reason.remedy}"))
    rows += [*_diagnostics(result), *_settings(result)]
    return "\n".join(line for label, text in rows for line in _wrapped(label, text))


def _wrapped(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()) if label != "λ̂" else text, WIDTH - _LABEL, break_on_hyphens=False)
    # λ̂ and r̂ are two characters and one column: pad by what is seen
    head = label + " " * (_LABEL - len(label.replace("\u0302", "")))
    return [(head if i == 0 else " " * _LABEL) + line for i, line in enumerate(lines or [""])]


def _number(value: float | None, digits: int = 4) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _diagnostics(result: LLCResult) -> list[tuple[str, str]]:
    """How well the chains agree, how flat they are, and what the settings add."""
    chains = " ".join(_number(value) for value in result.llc_per_chain[:12])
    more = len(result.llc_per_chain) - 12
    plateau, pull = result.plateau, result.localization_sensitivity
    trivial = "" if result.trivial_loss is None else f", constant predictor {_number(result.trivial_loss, 5)}"
    return [
        (
            "chains",
            f"r̂ {_number(result.r_hat, 4)}, ESS {_number(result.ess, 4)}, acceptance {_number(result.accept_prob, 3)}",
        ),
        ("", f"λ̂ of each: {chains}" + (f" … and {more} more" if more > 0 else "")),
        (
            "bias",
            f"drift {_signed(plateau.get('drift'))} ± {_number(plateau.get('drift_se'), 2)}, "
            f"step size {_signed(result.step_size_bias)}, "
            f"∂λ̂/∂ln γ {_signed(pull.get('value'))} ± {_number(pull.get('se'), 2)}",
        ),
        ("plain", f"{with_error(result.llc_plain, result.llc_plain_se)}, without pairing the losses"),
        ("loss", f"mean {_number(result.mean_loss, 5)}, at w* {_number(result.init_loss, 5)}{trivial} ({result.unit})"),
    ]


def _signed(value: float | None) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:+.3g}"


def _settings(result: LLCResult) -> list[tuple[str, str]]:
    """What one must know to make the number again."""
    steps = result.num_steps_between_draws
    rows = [
        (
            "posterior",
            f"nβ {_number(result.nbeta, 5)}, γ {_number(result.localization)}, n {result.n:,} "
            f"({result.unit}), {result.task}, {result.mode} mode",
        ),
        (
            "sampler",
            f"{result.sampler}, ε {_number(result.step_size, 3)}{_found(result)}, "
            f"{result.num_chains} × {result.num_draws} draws × {steps} step{'s' * (steps != 1)}, "
            f"burn-in {result.num_burnin_steps}, batch {result.batch_size}, seed {result.seed}",
        ),
    ]
    if result.minimize is not None:
        done = result.minimize
        rows.append(
            (
                "minimize",
                f"{_any(done.get('steps'))} steps took the loss from {_any(done.get('loss_before'))} to "
                f"{_any(done.get('loss_after'))}, ‖ŵ − w*‖ {_any(done.get('distance'))} "
                f"({_any(done.get('relative_distance'))} of ‖w*‖)",
            )
        )
    processes = f", {result.num_processes} processes" if result.num_processes > 1 else ""
    rows += [
        (
            "cost",
            f"{result.num_gradients:,} gradients, {result.wall_seconds:.1f} s, "
            f"{_number(result.steps_per_second)} steps/s, {result.peak_memory_bytes / 2**20:,.0f} MiB, "
            f"{result.device}{processes}",
        ),
        (
            "parameters",
            f"{result.num_parameters:,} sampled of {result.num_parameters_total:,}, {result.dtype}"
            + (", bf16 autocast" if result.mixed_precision == "bf16" else ""),
        ),
        ("model", _subject(result.model)),
        ("data", _subject(result.data)),
    ]
    return rows


def _found(result: LLCResult) -> str:
    return " (auto)" if result.calibration is not None else ""


def _any(value: Any) -> str:
    return _number(value, 5) if isinstance(value, (int, float)) else str(value)


def _subject(about: dict[str, Any]) -> str:
    """Ids, revisions and fingerprints in one line."""
    parts = [f"{name} {value}" for name, value in about.items() if value not in (None, "", {}, [])]
    return ", ".join(parts) or "given as an object"
