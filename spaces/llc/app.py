"""The space's page: λ̂ of a small model from the Hub, its verdict, its trace and the section for its card."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import gradio

from hf_llc import LLCEvaluator
from hf_llc.embedded import text_path
from hf_llc.errors import InputError

HERE = Path(__file__).parent
MOST_SECONDS = 600
"""A free CPU is shared: nobody waits longer than this."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def _hub_id(text: str, what: str) -> str | None:
    """The id, or None for an empty field. A path of the space's own disk is no id."""
    text = text.strip()
    if text and (not _HUB_ID.fullmatch(text) or Path(text).exists()):
        raise gradio.Error(f"{what} {text!r} is not an id on the Hub, such as roneneldan/TinyStories-1M", duration=None)
    return text or None


def estimate(
    model: str, data: str, split: str, max_examples: float, minutes: float, minimize: bool
) -> tuple[str, str, str, str]:
    """λ̂ of a model on data.

    Args:
        model: id on the Hub; "": the tiny model that comes with hf_llc.
        data: id on the Hub; "": the text that comes with hf_llc.
        split: of the data; "": the first one there is.
        max_examples: the data are cut after so many.
        minutes: the whole command ends after so many, at most 10.
        minimize: λ̂ of the nearest minimum of the loss on these data, for a model that was trained on others.

    Returns:
        The headline and the verdict as Markdown, the file of the trace's picture, the section for a model card, and the
        whole report.

    Raises:
        gradio.Error: bad input; the message says what to do.
    """
    settings: dict[str, Any] = {"max_examples": int(max_examples)}
    if split.strip():
        settings["split"] = split.strip()
    folder = Path(tempfile.mkdtemp(prefix="llc-"))  # the page shows files from here as long as it is open
    model_id, data_id = _hub_id(model, "model"), _hub_id(data, "data")
    try:
        evaluator = LLCEvaluator(max_seconds=min(60 * minutes, MOST_SECONDS), minimize=minimize)
        result = evaluator.compute(
            model_id, data=data_id or str(text_path()), output=folder, progress=False, **settings
        )
    except InputError as error:
        raise gradio.Error(str(error), duration=None) from error
    words = [f"### {result.verdict}", *(f"- {r.text}" + (f" → {r.remedy}" if r.remedy else "") for r in result.reasons)]
    card = (folder / "card.md").read_text(encoding="utf-8")
    return "\n".join(words), str(folder / "trace.png"), card, str(result)


def page() -> gradio.Blocks:
    """The page."""
    with gradio.Blocks(title="Local learning coefficient") as blocks:
        gradio.Markdown(
            (HERE / "README.md").read_text(encoding="utf-8").split("---", 2)[-1]
        )  # without the front matter
        with gradio.Row():
            model = gradio.Textbox(label="Model", placeholder="empty: the tiny model that comes with hf_llc")
            data = gradio.Textbox(label="Data", placeholder="empty: the text that comes with hf_llc")
            split = gradio.Textbox(label="Split", placeholder="validation")
        with gradio.Row():
            examples = gradio.Slider(64, 4096, value=1024, step=64, label="Examples")
            minutes = gradio.Slider(0.5, MOST_SECONDS / 60, value=3, step=0.5, label="Minutes at most")
            minimize = gradio.Checkbox(label="From the nearest minimum", info="for a model trained on other data")
            button = gradio.Button("Estimate λ̂", variant="primary")
        verdict = gradio.Markdown()
        picture = gradio.Image(label="Trace", show_label=True)
        with gradio.Tab("Report"):
            report = gradio.Code(label="hf-llc show")
        with gradio.Tab("Section for the model's card"):
            card = gradio.Markdown()
        button.click(estimate, [model, data, split, examples, minutes, minimize], [verdict, picture, card, report])
    return blocks


if __name__ == "__main__":
    page().launch()
