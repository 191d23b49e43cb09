"""The cards in model_cards/, made from the results stored there: what publishing makes of a README.

    python scripts/render_model_cards.py          # after a change of the template; then look at them

Each folder is a model's repository after `hf-llc publish llc --card .`: README.md, and the result in llc/. A test makes
the cards again and compares.
"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_llc.files import write_atomically
from hf_llc.publishing.card import merge_card
from hf_llc.publishing.result_folder import read_curve
from hf_llc.publishing.trace_plot import plot_trace
from hf_llc.result import LLCResult
from hf_llc.studies.curve import Curve, Point
from hf_llc.studies.curve_plot import plot_curve

FOLDER = Path(__file__).resolve().parents[1] / "model_cards"

READMES = {
    "causal_lm": """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# A tiny language model

The model that comes with hf_llc: attention-only, two layers, on children's stories.
""",
    "image_classifier": """---
license: mit
tags: [image-classification, fashion-mnist]
---
# Fashion-MNIST, a small convolutional network

Two convolutions, two linear layers; after its first epoch.
""",
    "curve": """---
license: mit
tags: [image-classification, fashion-mnist]
model-index:
- name: fashion-mnist-cnn
  results:
  - task: {type: image-classification}
    dataset: {type: fashion_mnist, name: Fashion-MNIST, split: test}
    metrics:
    - {type: loss, value: 0.3106}  # nats an image
---
# Fashion-MNIST, a small convolutional network

Seven epochs of training.
""",
    "bad_verdict": """# A tiny language model

The same model, sampled at a localization that lets it wander farther than so few steps can follow.
""",
}
"""The cards as they were before."""


def render(name: str) -> str:
    """The card of one example."""
    llc = FOLDER / name / "llc"
    result, is_bad = LLCResult.load(llc), name == "bad_verdict"
    return merge_card(
        READMES[name], result, repo_id=f"me/{name}", allow_untrusted=is_bad, folder="llc/", curve=read_curve(llc)
    )


def _curve(values: dict[str, Any]) -> Curve:
    """The curve of a curve.json."""
    kept = {item.name for item in fields(Curve)} - {"points"}
    points: list[dict[str, Any]] = [
        {name: math.nan if value is None else value for name, value in each.items()} for each in values["points"]
    ]
    return Curve([Point(**each) for each in points], **{name: value for name, value in values.items() if name in kept})


def main() -> None:
    """Write them all, with their pictures."""
    for name in READMES:
        llc = FOLDER / name / "llc"
        result, curve = LLCResult.load(llc), read_curve(llc)
        write_atomically(llc / "trace.png", lambda path, result=result: plot_trace(result, path))
        if curve is not None:
            drawn = _curve(curve)
            write_atomically(llc / "curve.png", lambda path, drawn=drawn: plot_curve(drawn, path))
        text = render(name)
        write_atomically(FOLDER / name / "README.md", lambda path, text=text: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
