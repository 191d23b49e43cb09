"""The tiny model and text that come with the package, for a first estimate without a network.

The model is a two-layer attention-only transformer, trained on public-domain text, in the format of transformers with
its tokenizer. The text is of the same source and was not trained on. `scripts/train_embedded.py` makes both.
"""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """Folder of the model and its tokenizer."""
    return Path(__file__).parent / "model"


def text_path() -> Path:
    """File of the text on which its training ended."""
    return Path(__file__).parent / "text.txt"
