"""The model card: one metric in its `model-index`, one section between markers; every other byte stays."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from hf_llc.errors import InputError
from hf_llc.files import finite, plain_value
from hf_llc.numerals import number
from hf_llc.publishing import yaml_text
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.formatting import plain
from hf_llc.publishing.front_matter import parsed, split_readme, with_entry
from hf_llc.publishing.headline import estimate_text
from hf_llc.publishing.markers import with_section

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from hf_llc.records.record import Record

METRIC = "llc"
EVAL_RESULTS = ".eval_results/llc.yaml"

_SETTING = ("unit", "n", "nbeta", "localization", "sampler", "minimize", "weights")
"""Two estimates estimate the same thing if these arguments of their metrics, task and data set are equal."""


def merge_card(
    readme: str,
    result: Record,
    *,
    repo_id: str | None = None,
    allow_untrusted: bool = False,
    folder: str = "llc/",
    curve: dict[str, Any] | None = None,
) -> str:
    """Return a README with the result in its front matter's model-index and in one section between markers.

    A metric of the same setting (task, data set with config, split and revision, unit, n, nβ, γ, sampler, minimize) and
    an earlier section are replaced; all the rest stays byte for byte. A new section goes to the end.

    Args:
        readme: the card so far, with its line ends and its byte order mark; "" if there is none.
        result: what to show.
        repo_id: the model's repository; names the model if neither the card nor the result does.
        allow_untrusted: show an estimate whose verdict is bad; the section then begins with a warning.
        folder: the folder of the result's files, relative to the card.
        curve: contents of the curve.json in `folder`, if there is one; curve.png and curve.csv lie beside it.

    Raises:
        InputError: the verdict is bad, the front matter cannot be edited, or a begin marker has no end marker.
    """
    check_verdict(result, allow_untrusted=allow_untrusted)
    byte_order_mark = "\ufeff" if readme.startswith("\ufeff") else ""
    entry = eval_result(result)
    name = plain(repo_id or result.model.get("id") or "model").rsplit("/", 1)[-1]
    section = render_section(result, repo_id=repo_id, folder=folder, curve=curve)
    merged = with_section(readme.removeprefix(byte_order_mark), section)
    merged = with_entry(merged, item=_index_item(name, entry), model_name=name, is_same=_is_same(entry))
    merged = byte_order_mark + merged
    check_card(merged, entry)
    return merged


def check_verdict(result: Record, *, allow_untrusted: bool) -> None:
    """Check that the verdict is good, or that a bad one may be published.

    Raises:
        InputError: it is bad, and `allow_untrusted` is False.
    """
    if not result.is_trustworthy and not allow_untrusted:
        reason = next((r for r in result.reasons if not r.is_note), None)
        raise InputError(
            "the estimate is not to be trusted",
            value=result.verdict,
            remedy=f"{'' if reason is None else reason.remedy + '; or '}publish it anyway with allow_untrusted "
            "(--allow-untrusted)",
        )


def eval_result(result: Record) -> EvalResult:
    """Return the result as a metric of a model-index: λ̂, with its error, verdict and settings as arguments."""
    from huggingface_hub import EvalResult

    data = {key: plain(value) if isinstance(value, str) else value for key, value in result.data.items()}
    name = plain(data.get("id") or "local")
    arguments = {
        "standard_error": result.llc_se,
        "verdict": result.verdict,
        "r_hat": result.r_hat,
        "ess": result.ess,
        "accept_prob": result.accept_prob,
        "unit": result.unit,
        "n": result.n,
        "nbeta": result.nbeta,
        "localization": result.localization,
        "sampler": result.sampler,
        "minimize": result.minimize is not None,
        "weights": None if result.weights == "all" else result.weights,
        "step_size": result.step_size,
        "num_chains": result.num_chains,
        "num_draws": result.num_draws,
        "num_steps_between_draws": result.num_steps_between_draws,
        "num_burnin_steps": result.num_burnin_steps,
        "batch_size": result.batch_size,
        "seed": result.seed,
        "init_loss": result.init_loss,
        "model_revision": result.model.get("revision"),
        "data_fingerprint": data.get("fingerprint"),
        "hf_llc": result.versions.get("hf_llc"),
    }
    task = "other" if result.task == "plain" else plain(result.task)
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        dataset_type=name,
        dataset_name=name.rsplit("/", 1)[-1],
        dataset_config=data.get("subset"),
        dataset_split=data.get("split"),
        dataset_revision=data.get("revision"),
        metric_type=METRIC,
        metric_name="Local learning coefficient",
        metric_value=plain_value(result.llc) if math.isfinite(result.llc) else "not a number",
        metric_args={
            name: plain(value) if isinstance(value, str) else value
            for name, value in finite(arguments).items()
            if value is not None
        },
    )


def check_card(readme: str, entry: EvalResult) -> None:
    """Check that the card loads as a `ModelCard` and holds the entry exactly once.

    Raises:
        InputError: it does not.
    """
    from huggingface_hub import ModelCardData

    parts = split_readme(readme.removeprefix("\ufeff"))
    try:  # as `ModelCard` does it; but it reads YAML ten times as slowly
        values = {} if parts is None else {**parsed(parts.block), "tags": None}  # of many tags it takes minutes
        entries = ModelCardData(**copy.deepcopy(values)).get("eval_results", [])
    except (ValueError, TypeError) as error:
        raise InputError("the card's front matter is not what a ModelCard takes", remedy=str(error)[:300]) from error
    same = [
        each
        for each in entries
        if each.metric_type == METRIC
        and each.unique_identifier == entry.unique_identifier
        and each.metric_args == entry.metric_args
    ]
    if len(same) != 1:
        raise InputError(
            "the merged card does not contain the estimate exactly once", value=len(same), remedy="mend its model-index"
        )


def merge_eval_results(text: str, result: Record, *, dataset_id: str) -> str:
    """Return `.eval_results/llc.yaml` with λ̂ for a benchmark data set; entries for other data sets are kept.

    Args:
        text: the file so far; "" if there is none.
        result: what to enter.
        dataset_id: the benchmark data set, `owner/name`.

    Raises:
        InputError: the file has another form, or λ̂ is not a number.
    """
    import yaml
    from huggingface_hub import EvalResultEntry
    from huggingface_hub._eval_results import eval_result_entries_to_yaml, parse_eval_result_entries

    if result.weights != "all":
        raise InputError(
            "a benchmark takes λ̂ of all weights", value=result.weights, remedy="leave benchmark_dataset out"
        )
    if not math.isfinite(result.llc):
        raise InputError("a benchmark takes numbers only", value=result.verdict, remedy="leave benchmark_dataset out")
    try:
        entries = parse_eval_result_entries(yaml.safe_load(text) or [])
    except (yaml.YAMLError, RecursionError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{EVAL_RESULTS} in the repository is damaged", remedy="mend or delete it") from error
    is_data_of_result = result.data.get("id") == dataset_id
    new = EvalResultEntry(
        dataset_id=dataset_id,
        task_id=METRIC,
        value=result.llc,
        dataset_revision=result.data.get("revision") if is_data_of_result else None,
        notes=f"{estimate_text(result)}, {result.verdict}; nβ {number(result.nbeta)}, "
        f"γ {number(result.localization)}, {result.sampler}",
    )
    others = [entry for entry in entries if (entry.dataset_id, entry.task_id) != (dataset_id, METRIC)]
    return yaml_text.write(eval_result_entries_to_yaml([*others, new]))


def _index_item(name: str, entry: EvalResult) -> dict[str, Any]:
    """The entry as an element of `results` in a model-index."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return eval_results_to_model_index(name, [entry])[0]["results"][0]


def _is_same(entry: EvalResult) -> Any:
    """Return the function (result item, metric in it) → whether the metric has the same setting as `entry`."""
    arguments = entry.metric_args or {}
    parts = {"config": entry.dataset_config, "split": entry.dataset_split, "revision": entry.dataset_revision}

    def is_same(item: dict[str, Any], metric: dict[str, Any]) -> bool:
        dataset, theirs = item["dataset"], metric.get("args")
        return (
            metric["type"] == METRIC
            and isinstance(theirs, dict)
            and item["task"].get("type") == entry.task_type
            and dataset.get("type") == entry.dataset_type
            and all(dataset.get(name) == value for name, value in parts.items())
            and all(theirs.get(name) == arguments.get(name) for name in _SETTING)
        )

    return is_same
