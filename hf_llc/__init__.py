"""The local learning coefficient λ̂(w*) of Hugging Face models, with its standard error and a verdict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_llc.callback import LLCCallback
    from hf_llc.config import LoadConfig, SampleConfig
    from hf_llc.errors import InputError
    from hf_llc.evaluator import LLCEvaluator
    from hf_llc.metrics import metric_path
    from hf_llc.result import LLCResult
    from hf_llc.version import __version__

__all__ = [
    "InputError",
    "LLCCallback",
    "LLCEvaluator",
    "LLCResult",
    "LoadConfig",
    "SampleConfig",
    "__version__",
    "metric_path",
]

_HOMES = {
    "InputError": "hf_llc.errors",
    "LLCCallback": "hf_llc.callback",
    "LLCEvaluator": "hf_llc.evaluator",
    "LLCResult": "hf_llc.result",
    "LoadConfig": "hf_llc.config",
    "SampleConfig": "hf_llc.config",
    "__version__": "hf_llc.version",
    "metric_path": "hf_llc.metrics",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import hf_llc` loads neither torch nor transformers."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hf_llc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
