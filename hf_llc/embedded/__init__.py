"""The tiny model and text that come with the package, for a first estimate without network.

A two-layer attention-only transformer trained on public-domain text, in transformers format with its tokenizer, and
text of the same source that it never saw. `scripts/train_embedded.py` makes both again.
"""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """Folder of the model and its tokenizer."""
    return Path(__file__).parent / "model"


def text_path() -> Path:
    """Held-out text."""
    return Path(__file__).parent / "text.txt"
