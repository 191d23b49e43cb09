"""The packages that hf_llc stands on, and the versions of those that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from hf_llc.version import __version__

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
"""Packages whose versions stand in every result."""

REQUIRED = (*_OF_RESULTS, "scipy", "matplotlib", "pyyaml", "tqdm")
"""Packages that hf_llc needs."""

OPTIONAL = {"transformer-lens": "pip install 'hf_llc[transformer-lens]', for TransformerLens models"}
"""Packages that some models need, and how to install them."""


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages, by name."""
    versions = {"python": platform.python_version()}
    for name in (*_OF_RESULTS, *OPTIONAL):
        try:
            versions[name] = version_of(name)
        except PackageNotFoundError:
            continue
    return versions


def version_of(name: str) -> str:
    """Version of a package; of hf_llc that of the code that runs, for what pip has noted may be an older checkout's.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return __version__ if name == "hf_llc" else version(name)
