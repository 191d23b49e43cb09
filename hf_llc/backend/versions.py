"""The packages that hf_llc stands on, and the versions of those that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_OF_RESULTS = (
    "hf_llc",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface_hub",
    "safetensors",
    "arviz-stats",
    "numpy",
)
"""What every result depends on."""

REQUIRED = (*_OF_RESULTS, "scipy", "matplotlib", "pyyaml", "tqdm")
"""What hf_llc does not work without."""

OPTIONAL = {"transformer-lens": "pip install 'hf_llc[transformer-lens]', for TransformerLens models"}
"""What some results depend on, and how to have it."""


def package_versions() -> dict[str, str]:
    """Installed versions by package name, and Python's."""
    found = {"python": platform.python_version()}
    for name in (*_OF_RESULTS, *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
