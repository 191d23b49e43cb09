"""The space's page: losses in, λ̂ out. evaluate's own widget cannot ask for nβ, so this one is made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluate

HERE = Path(__file__).parent


def score(losses: str, init_loss: float, nbeta: float, burnin: float) -> dict[str, Any] | None:
    """λ̂ of losses pasted as JSON, `[[…], [… one list a chain]]`."""
    chains = json.loads(losses)
    metric = evaluate.load(str(HERE / "llc.py"))
    return metric.compute(predictions=chains, references=[init_loss] * len(chains), nbeta=nbeta, burnin=int(burnin))


def main() -> None:
    """Serve the page."""
    import gradio

    page = (HERE / "README.md").read_text(encoding="utf-8")
    gradio.Interface(
        fn=score,
        inputs=[
            gradio.Textbox(label="losses of the draws: a list of numbers for each chain, as JSON", lines=6),
            gradio.Number(label="L_n(w*)"),
            gradio.Number(label="nβ"),
            gradio.Number(label="burn-in", value=0),
        ],
        outputs=gradio.JSON(label="llc"),
        title="Local learning coefficient",
        article=page.split("---", 2)[-1],  # without the space's front matter
    ).launch()


if __name__ == "__main__":
    main()
