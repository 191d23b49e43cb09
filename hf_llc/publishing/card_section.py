"""The section of a model card that shows a result: the template, in Markdown."""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING, Any

from hf_llc.publishing.formatting import number, with_error
from hf_llc.publishing.report import bias_text, sampler_text, sensitivity_text

if TYPE_CHECKING:
    from hf_llc.records.findings import Reason
    from hf_llc.records.record import Record

_CITATION = """```bibtex
@article{lau2023local,
  title   = {The Local Learning Coefficient: A Singularity-Aware Complexity Measure},
  author  = {Lau, Edmund and Furman, Zach and Wang, George and Murfet, Daniel and Wei, Susan},
  journal = {arXiv preprint arXiv:2308.12108},
  year    = {2023},
  url     = {https://arxiv.org/abs/2308.12108}
}
```"""

_MAX_POINTS = 20
_LOADING = ("input_column", "second_input_column", "label_column", "packing", "max_length", "loss_normalization")
"""What a result's data says of how examples were made: settings by the same names."""
_EMBEDDED = "hf_llc/embedded"


def render_section(
    result: Record, *, repo_id: str | None = None, folder: str = "", curve: dict[str, Any] | None = None
) -> str:
    """The section in Markdown, with `\\n` line ends, without the markers around it.

    Args:
        result: what to show.
        repo_id: the model's repository, where the result does not name one (it was made from a local folder).
        folder: where the files of the result lie, seen from the card, e.g. `llc/`.
        curve: contents of the curve.json that lies in `folder` beside curve.png, if there is one.
    """
    parts = ["## Local learning coefficient", _warning(result), _headline(result), _meaning(result)]
    if result.trace is not None:
        parts.append(f"![The chains' loss above, the running λ̂ below]({folder}trace.png)")
    if curve is not None:
        parts += ["### Over training", f"![λ̂ and loss over checkpoints]({folder}curve.png)", _points(curve, folder)]
    parts += ["### Diagnostics", _table("Diagnostic", _diagnostics(result)), _findings(result)]
    parts += ["### Settings", _table("Setting", _settings(result))]
    parts += ["### Reproduce", _reproduce(result, repo_id), _files(result, folder)]
    parts += ["### Citation", _CITATION]
    return "\n\n".join(part for part in parts if part) + "\n"


def reproduce_command(result: Record, repo_id: str | None = None) -> str | None:
    """The command line that makes the estimate again; None where model or data were given from Python only."""
    model, data = result.model.get("id"), result.data.get("id")
    flags: dict[str, Any] = {}
    if model != _EMBEDDED:
        is_on_hub = isinstance(model, str) and "/" in model
        model = model if is_on_hub else repo_id or model
        if not model or not data:
            return None
        flags |= {"model": model, "revision": result.model.get("revision"), "data": data}
        flags |= {"subset": result.data.get("subset"), "split": result.data.get("split")}
        flags |= {"data-revision": result.data.get("revision"), "task": result.task}
    for name in _LOADING:
        flags[name.replace("_", "-")] = result.data.get(name)
    flags["max-examples"] = result.data.get("num_examples")
    flags |= {
        "sampler": result.sampler,
        "nbeta": result.nbeta,
        "localization": result.localization,
        "step-size": result.step_size,
        "friction": result.friction,
        "gradient": None if result.gradient == "plain" else result.gradient,
        "num-chains": result.num_chains,
        "num-draws": result.num_draws,
        "num-steps-between-draws": result.num_steps_between_draws,
        "num-burnin-steps": result.num_burnin_steps,
        "batch-size": result.batch_size,
        "seed": result.seed,
    }
    if result.mixed_precision != "no":
        flags["mixed-precision"] = result.mixed_precision
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in flags.items() if value is not None]
    words += [f"--{name.replace('_', '-')}" for name in ("adapt_step_size", "minimize") if getattr(result, name)]
    return " \\\n  ".join(["hf-llc estimate", *words])


def _warning(result: Record) -> str:
    if result.is_trustworthy:
        return ""
    reasons = [reason for reason in result.reasons if not reason.is_note]
    lines = [f"> ⚠️ **Do not trust this estimate: {result.verdict}.**"]
    lines += [f"> - {_finding(reason)}" for reason in reasons]
    return "\n>\n".join([lines[0], "\n".join(lines[1:])]) if reasons else lines[0]


def _headline(result: Record) -> str:
    estimate = f"λ̂ = {with_error(result.llc, result.llc_se)}"
    return (
        f"**{estimate}** at nβ = {number(result.nbeta)}, γ = {number(result.localization)}, on {_data(result)}. "
        f"Verdict: **{result.verdict}**."
    )


def _meaning(result: Record) -> str:
    return (
        "The local learning coefficient λ(w\\*) measures how degenerate the loss is around this model's weights w\\*: "
        "the lower it is, the more ways the weights can change at almost no cost in loss, and the simpler the solution "
        f"(without such freedom it would be half the number of parameters, {number(result.num_parameters / 2)}). "
        "It is to be compared only between estimates with the same data, nβ and γ, and its ± is the standard error of "
        "the sampling alone."
    )


def _points(curve: dict[str, Any], folder: str) -> str:
    """The curve as a table, if it is not too long for a card."""
    points = curve["points"]
    where = f"All {len(points)} checkpoints, with the same settings, are in [`curve.csv`]({folder}curve.csv)."
    if len(points) > _MAX_POINTS:
        return where
    rows = ["| Step | λ̂ | Loss | Verdict |", "|---:|---:|---:|---|"]
    for point in points:
        estimate = with_error(*(math.nan if point[name] is None else point[name] for name in ("llc", "llc_se")))
        rows.append(f"| {point['step']} | {estimate} | {number(point['loss'])} | {point['verdict']} |")
    return "\n".join(rows) + "\n\n" + where


def _diagnostics(result: Record) -> list[tuple[str, str]]:
    plateau = result.plateau
    drift = f"{number(plateau.get('drift'))} ± {_short(plateau.get('drift_se'))} (p = {_short(plateau.get('p_value'))})"
    shown = [number(x) for x in result.llc_per_chain[:8]]
    more = len(result.llc_per_chain) - len(shown)
    trivial = [] if result.trivial_loss is None else [("Loss of a constant predictor", number(result.trivial_loss))]
    return [
        ("λ̂ by chain", ", ".join(shown) + (f", … ({more} more)" if more > 0 else "")),
        ("r̂ between chains (below 1.1)", number(result.r_hat)),
        ("Effective draws", number(round(result.ess, 1))),
        ("MALA acceptance", number(result.accept_prob)),
        ("Drift of λ̂ between halves", drift),
        ("Added to λ̂ by the sampler", bias_text(result)),
        ("Change of λ̂ with γ", sensitivity_text(result)),
        ("Variance of nβL (tends to λ)", with_error(result.heat_capacity, result.heat_capacity_se)),
        ("λ̂ without paired losses", with_error(result.llc_plain, result.llc_plain_se)),
        (f"Loss at w\\* ({result.unit})", number(result.init_loss)),
        ("Mean loss of the chains", number(result.mean_loss)),
        *trivial,
    ]


def _settings(result: Record) -> list[tuple[str, str]]:
    sampled, total = result.num_parameters, result.num_parameters_total
    count = f"{total:,} parameters" if sampled == total else f"{sampled:,} of {total:,} parameters sampled"
    thinning = f" × {result.num_steps_between_draws} steps" if result.num_steps_between_draws > 1 else ""
    rows = [
        ("Model", f"{_identity(result.model)}, {count}"),
        ("Data", _identity(result.data)),
        ("Task", result.task),
        ("n", f"{result.n:,} ({_counted(result.unit)})"),
        ("Inverse temperature times n, nβ", number(result.nbeta)),
        ("Localization γ", number(result.localization)),
        ("Sampler", sampler_text(result)),
        ("Step size ε", number(result.step_size) + ("" if result.calibration is None else " (calibrated)")),
        ("Chains × draws", f"{result.num_chains:,} × {result.num_draws:,}{thinning}"),
        ("Burn-in steps", f"{result.num_burnin_steps:,}"),
        ("Batch size", f"{result.batch_size:,}"),
        ("Seed", str(result.seed)),
    ]
    if result.minimize is not None:
        rows.append(("w\\* first taken to the nearest minimum", f"moved by {number(result.minimize.get('distance'))}"))
    precision = "" if result.mixed_precision == "no" else f", {result.mixed_precision}"
    rows.append(("Run", f"{result.mode} mode, {result.dtype}{precision}, {result.device}"))
    versions = [
        f"{name} {result.versions[name]}" for name in ("hf_llc", "torch", "transformers") if name in result.versions
    ]
    return [*rows, ("Versions", ", ".join(versions) or "–")]


def _findings(result: Record) -> str:
    notes = [reason for reason in result.reasons if reason.is_note]
    return "\n".join(f"- Note: {_finding(reason)}" for reason in notes)


def _finding(reason: Reason) -> str:
    remedy = f" Remedy: {reason.remedy}." if reason.remedy else ""
    return f"{reason.name}: {_escaped(reason.text)}.{_escaped(remedy)}"


def _reproduce(result: Record, repo_id: str | None) -> str:
    command = reproduce_command(result, repo_id)
    if command is not None:
        return f"```bash\n{command}\n```"
    names = ("sampler", "nbeta", "localization", "step_size", "friction", "gradient", "num_chains",
             "num_draws", "num_steps_between_draws",
             "num_burnin_steps", "batch_size", "seed")  # fmt: skip
    values = {name: getattr(result, name) for name in names}
    lines = [f"    {name}={json.dumps(value)}," for name, value in values.items() if value is not None]  # ruff's quotes
    lines += ["    minimize=True,"] if result.minimize is not None else []
    code = "\n".join(["LLCEvaluator(", *lines, ").compute(model, data=data, loss_fn=loss_fn)"])
    return f"```python\n{code}\n```\n\nThe model or the data were objects in Python, so no command line names them."


def _files(result: Record, folder: str) -> str:
    trace = (
        ""
        if result.trace is None
        else f", every step of every chain in [`trace.safetensors`]({folder}trace.safetensors)"
    )
    return f"All numbers are in [`result.json`]({folder}result.json){trace}."


def _data(result: Record) -> str:
    data = result.data
    name = data.get("id") or "local data"
    more = [str(data[key]) for key in ("subset", "split") if data.get(key)]
    return f"{result.n:,} {_counted(result.unit)} of {_code(name)}" + (f" ({', '.join(more)})" if more else "")


def _identity(values: dict[str, Any]) -> str:
    shown = [f"{key} {_code(values[key])}" for key in ("subset", "split", "revision", "fingerprint") if values.get(key)]
    return ", ".join([_code(values.get("id") or "local"), *shown])


def _code(text: object) -> str:
    return f"`{str(text).replace('`', '')}`"


def _escaped(text: str) -> str:
    """Words with stars, bars or angles in them stay as they are on the page."""
    for symbol in "\\*_|<":
        text = text.replace(symbol, "\\" + symbol)
    return text


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join([f"| {title} | Value |", "|---|---|", *lines])


def _counted(unit: str) -> str:
    """`nats per token` → `tokens`: what n counts."""
    return unit.rsplit(" per ", 1)[1] + "s" if " per " in unit else "examples"


def _short(value: float | None) -> str:
    return number(None if value is None else float(f"{value:.2g}"))
