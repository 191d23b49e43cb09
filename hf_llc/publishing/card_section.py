"""The section of a model card that shows a result, in Markdown. The lines of its tables are in `lines`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from hf_llc.numerals import number, with_error
from hf_llc.publishing.formatting import code, counted, escaped, shell_word
from hf_llc.publishing.headline import curve_text, estimate_text, law_text, moved_text, remedies_of
from hf_llc.publishing.lines import CARD_DIAGNOSTICS, CARD_SETTINGS, card_rows
from hf_llc.weights_setting import MASKS

if TYPE_CHECKING:
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
"""A longer curve is linked to, not listed."""
HOW_LOADED = ("attn_implementation", "trust_remote_code", "allow_pickle")
"""Settings of how a model by name is loaded; a result keeps those that are not the default in `model`."""

LOADING = ("input_column", "second_input_column", "label_column", "packing", "max_length", "loss_normalization")
"""Settings of how examples are made; a result keeps them in `data`."""
SAMPLING = (
    *("sampler", "nbeta", "localization", "step_size", "friction", "gradient", "num_chains", "num_draws"),
    *("num_steps_between_draws", "num_burnin_steps", "batch_size", "seed"),
)
"""Settings of the sampling; a result has them under the same names."""
_EMBEDDED = "hf_llc/embedded"
"""Id of the model that `hf-llc estimate` takes if none is given."""


def render_section(
    result: Record, *, repo_id: str | None = None, folder: str = "", curve: dict[str, Any] | None = None
) -> str:
    """Return the section in Markdown, with `\\n` line ends, without the markers around it.

    Args:
        result: what to show.
        repo_id: the model's repository, used if the result does not name one (it was made from a local folder).
        folder: the folder of the result's files, relative to the card, e.g. `llc/`.
        curve: contents of the curve.json in `folder`, if there is one; curve.png and curve.csv lie beside it.
    """
    parts = ["## Local learning coefficient", _warning(result), _badges(result), _headline(result)]
    if curve is not None:
        parts += [f"![λ̂ and loss over checkpoints]({folder}curve.png)", escaped(curve_text(curve)) + "."]
        parts.append(_folded("λ̂ of each checkpoint", _points(curve, folder)))
    elif result.trace is not None:
        parts.append(_trace_picture(folder))
    parts.append(_meaning(result))
    diagnostics = [_table("Diagnostic", card_rows(result, CARD_DIAGNOSTICS)), _notes(result)]
    diagnostics += [_trace_picture(folder)] if curve is not None and result.trace is not None else []
    parts.append(_folded("Diagnostics", *diagnostics))
    parts.append(_folded("Settings", _table("Setting", card_rows(result, CARD_SETTINGS))))
    parts.append(_folded("Reproduce", _reproduce(result, repo_id), _files(result, folder)))
    parts.append(_folded("Citation", _CITATION))
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(title: str, *parts: str) -> str:
    """A part of the section that opens at a click; Markdown goes on within it, since blank lines stand around it."""
    inner = "\n\n".join(part for part in parts if part)
    return f"<details>\n<summary>{title}</summary>\n\n{inner}\n\n</details>"


def _badges(result: Record) -> str:
    """λ̂, the verdict, nβ and γ at a glance: code spans, which need no picture of another site.

    The metric has its name in letters: many fonts of code put the hat of λ̂ beside it.
    """
    verdict = result.verdict if result.is_trustworthy else f"not to be trusted: {result.verdict}"
    law = [f"nβ {number(result.nbeta)}", f"γ {number(result.localization)}"]
    return " ".join(map(code, (f"llc {with_error(result.llc, result.llc_se)}", verdict, *law)))


def _trace_picture(folder: str) -> str:
    return f"![The chains' loss above, the running λ̂ below]({folder}trace.png)"


def reproduce_command(result: Record, repo_id: str | None = None) -> str | None:
    """Return the command line that repeats the estimate; None if model or data were objects in Python."""
    if result.weights.startswith(MASKS):
        return None
    flags: dict[str, Any] = {}
    if result.model.get("id") != _EMBEDDED:
        model, data = _model_named(result, repo_id), result.data.get("id")
        is_one = data and not (", " in data and result.data.get("revision") is None)  # several local files
        if model is None or not is_one:
            return None
        flags |= {"model": model, "revision": result.model.get("revision"), "data": data}
        flags |= {"subset": result.data.get("subset"), "split": result.data.get("split")}
        flags |= {"data-revision": result.data.get("revision"), "task": result.task}
        tokenizer = str(result.model.get("tokenizer"))
        flags |= {"tokenizer": tokenizer} if "/" in tokenizer and tokenizer != result.model.get("id") else {}
    for name in HOW_LOADED:
        flags[name.replace("_", "-")] = result.model.get(name)
    for name in LOADING:
        flags[name.replace("_", "-")] = result.data.get(name)
    flags["max-examples"] = result.data.get("num_examples")
    flags |= {} if result.dtype == "float32" else {"dtype": result.dtype}
    flags |= {name.replace("_", "-"): value for name, value in _sampling(result).items()}
    words = [
        f"--{name}" if value is True else f"--{name} {shell_word(str(value))}"
        for name, value in flags.items()
        if value is not None
    ]
    return " \\\n  ".join(["hf-llc estimate", *words])


def _model_named(result: Record, repo_id: str | None) -> str | None:
    """What --model can name: a Hub id, the repository of the card, or a local folder; None for other modules."""
    name = result.model.get("id")
    if result.task == "plain":  # a module and a loss_fn: no folder holds them
        return None
    if isinstance(name, str) and "/" in name and not result.model.get("in_memory"):
        return name
    return repo_id or (None if result.model.get("in_memory") else name)


def _sampling(result: Record) -> dict[str, Any]:
    """The settings of the sampling that repeat the estimate, without those that are at their default or not set."""
    values = {name: getattr(result, name) for name in SAMPLING}
    if result.gradient == "plain":  # with the step size given, the default "auto" means plain
        del values["gradient"]
    if result.mixed_precision != "no":
        values["mixed_precision"] = result.mixed_precision
    values |= {name: True for name in ("adapt_step_size", "minimize") if getattr(result, name)}
    values |= {
        name: getattr(result, name)
        for name, usual in (("batch_order", "random"), ("draw_loss", "batch"), ("num_leapfrog_steps", 10))
        if getattr(result, name) != usual
    }
    if result.minimize is not None:
        values["minimize_steps"] = result.minimize.get("steps")
    if result.weights != "all":
        values = {"weights": result.weights, **values}
    return {name: value for name, value in values.items() if value is not None}


def _warning(result: Record) -> str:
    if result.is_trustworthy:
        return ""
    first = f"> ⚠️ **Do not trust this estimate: {escaped(result.verdict)}.**"
    lines = [f"> - {text}" for text in _findings(result, are_notes=False)]
    return "\n>\n".join([first, "\n".join(lines)]) if lines else first


def _headline(result: Record) -> str:
    moved = moved_text(result)
    first = "" if moved is None else f"**{escaped(moved)}.** "
    return (
        f"{first}**{escaped(estimate_text(result))}** at {law_text(result)}, "
        f"on {_data(result)}. Verdict: **{escaped(result.verdict)}**."
    )


def _meaning(result: Record) -> str:
    return (
        "The local learning coefficient λ(w\\*) measures how degenerate the loss is around this model's weights w\\*. "
        "The lower it is, the more ways the weights can change at almost no cost in loss, and the simpler the "
        "solution. Without such freedom it would be half the number of parameters, "
        f"{number(result.num_parameters / 2)}. "
        "Compare it only with estimates on the same data, at the same nβ and γ (the paper takes γ from 1 to 10). "
        "The ± is the standard error of the sampling alone."
    )


def _points(curve: dict[str, Any], folder: str) -> str:
    """The points of a curve as a table, or only a link if they are too many for a card."""
    points = curve["points"]
    where = f"All {len(points)} checkpoints, with the same settings, are in [`curve.csv`]({folder}curve.csv)."
    if len(points) > _MAX_POINTS:
        return where
    axis = "Position" if curve.get("axis") == "position" else "Step"
    columns = {axis: [str(point["step"]) for point in points]}
    columns["λ̂"] = [with_error(*_pair(point, "llc")) for point in points]
    columns["Change from the first"] = [_change(point, "change") for point in points]
    columns["Change at 2γ"] = [_change(point, "doubled") for point in points]
    columns["Loss"] = [number(point["loss"]) for point in points]
    known = {name: cells for name, cells in columns.items() if {*cells} != {"–"}}  # an older file has not all
    verdicts = [escaped(point["verdict"]) for point in points]
    rows = [f"| {' | '.join(known)} | Verdict |", "|---:" * len(known) + "|---|"]
    rows += [f"| {' | '.join(cells)} |" for cells in zip(*known.values(), verdicts, strict=True)]
    return "\n".join(rows) + "\n\n" + where


def _pair(point: dict[str, Any], name: str) -> tuple[float, float]:
    """A number of a point and its error; NaN where the file has none."""
    one, two = (point.get(key) for key in (name, f"{name}_se"))
    return math.nan if one is None else one, math.nan if two is None else two


def _change(point: dict[str, Any], name: str) -> str:
    value, error = _pair(point, name)
    return "–" if math.isnan(value) else with_error(value, error)


def _notes(result: Record) -> str:
    return "\n".join(f"- Note: {text}" for text in _findings(result, are_notes=True))


def _findings(result: Record, *, are_notes: bool) -> list[str]:
    """Each reason, or each note, with its remedy."""
    pairs = zip(result.reasons, remedies_of(result.reasons), strict=True)
    return [
        f"{escaped(reason.name)}: {escaped(reason.text)}." + (f" Remedy: {escaped(remedy)}." if remedy else "")
        for reason, remedy in pairs
        if reason.is_note == are_notes
    ]


def _reproduce(result: Record, repo_id: str | None) -> str:
    command = reproduce_command(result, repo_id)
    if command is not None:
        return f"```bash\n{command}\n```" + _where(result, repo_id)
    settings = {name: "True" if value is True else json.dumps(value) for name, value in _sampling(result).items()}
    if result.weights.startswith(MASKS):
        settings["weights"] = "masks"
    lines = [f"    {name}={text}," for name, text in settings.items()]
    given = "model, data=data, loss_fn=loss_fn" if result.task == "plain" else "model, data=data"
    call = "\n".join(["LLCEvaluator(", *lines, f").compute({given})"])
    return f"```python\n{call}\n```\n\nThe model or the data were objects in Python, so no command line names them."


def _where(result: Record, repo_id: str | None) -> str:
    """That names in the command are those of local files, of which a result does not tell the path."""
    if result.model.get("id") == _EMBEDDED:
        return ""
    model, data = _model_named(result, repo_id), result.data.get("id")
    local = [] if model is None or "/" in model else [code(model)]
    local += [] if result.data.get("revision") else [code(data)]
    is_one = "is a local name: give its path" if len(local) == 1 else "are local names: give their paths"
    return f"\n\n{' and '.join(local)} {is_one}, or run the command where they lie." if local else ""


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
    more = [escaped(str(data[key])) for key in ("subset", "split") if data.get(key)]
    return f"{result.n:,} {counted(result.unit)} of {code(name)}" + (f" ({', '.join(more)})" if more else "")


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join([f"| {title} | Value |", "|---|---|", *lines])
