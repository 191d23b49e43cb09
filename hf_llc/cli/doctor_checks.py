"""Checks of `hf-llc doctor`: what is installed, what works on this machine, and the remedy for what does not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from hf_llc.backend.versions import OPTIONAL, REQUIRED, version_of


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: what is checked.
        ok: True if it is there and works.
        found: the version, or what was found instead.
        remedy: what to do if it is not ok.
        is_optional: hf_llc works without it.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    is_optional: bool = False


def examine() -> list[Check]:
    """Return all checks; those that use torch only if torch can be imported."""
    checks = [_python(), *_packages()]
    try:
        import torch
    except Exception as error:
        return [*checks, Check("import torch", False, _first_line(error), "pip install torch")]
    checks += [
        _devices(),
        Check(
            "threads",
            True,
            f"{torch.get_num_threads()} of {os.cpu_count()} cores "
            f"(OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})",
        ),
    ]
    return [*checks, _products(), _compile(), _distributed(), *_hub()]


def render(checks: list[Check]) -> str:
    """Return the checks as lines that begin with `ok` or `missing`, each remedy below its line."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'missing':<8}{check.name:<{width}}  {check.found}")
        if not check.ok and check.remedy:
            lines.append(f"{'':<8}{'':<{width}}  → {check.remedy}" + (" (optional)" if check.is_optional else ""))
    return "\n".join(lines)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100] if lines else ''}".rstrip(": ")


def _python() -> Check:
    return Check(
        "python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} on {platform.platform()}",
        "use Python 3.11 or later",
    )


def _packages() -> list[Check]:
    checks = []
    for name in (*REQUIRED, *OPTIONAL):
        try:
            checks.append(Check(name, True, version_of(name)))
        except PackageNotFoundError:
            remedy = OPTIONAL.get(name, f"pip install {name}")
            checks.append(Check(name, False, "not installed", remedy, is_optional=name in OPTIONAL))
    return checks


def _devices() -> Check:
    import torch

    names = ["cpu"]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        names.append(f"cuda:{i} {card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        names.append("mps")
    return Check("devices", True, "; ".join(names))


def _products() -> Check:
    """Which library multiplies matrices: it decides the last bits of every draw, which may differ by machine."""
    from hf_llc.backend.onednn_products import is_faster

    return Check("products", True, "large float32 ones on a CPU by oneDNN" if is_faster() else "torch's own")


def _compile() -> Check:
    """Compile and run a small function: whether a compiler is installed does not tell if it works."""
    import torch

    def square(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum()

    try:
        value = float(torch.compile(square)(torch.arange(4.0)))
        assert value == 14
    except Exception as error:
        return Check(
            "torch.compile",
            False,
            _first_line(error),
            "install a C++ compiler (g++) and Python's headers; needed for --compile only",
            is_optional=True,
        )
    return Check("torch.compile", True, "works")


def _distributed() -> Check:
    import torch.distributed as dist

    if not dist.is_available():
        return Check(
            "distributed",
            False,
            "torch.distributed is not built in",
            "install another build of torch; needed for several processes only",
            is_optional=True,
        )
    names = [name for name in ("gloo", "nccl", "mpi", "xccl") if dist.is_backend_available(name)]
    return Check(
        "distributed", bool(names), ", ".join(names) or "no backend", "install another build of torch", is_optional=True
    )


def _hub() -> list[Check]:
    """The Hub's cache, whether offline mode is set, and whether there is a token (the token is never printed)."""
    try:
        from huggingface_hub import constants, get_token
    except Exception as error:
        return [Check("hub", False, _first_line(error), "pip install huggingface_hub")]
    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    has_token = bool(get_token())
    return [
        Check(
            "hub cache",
            os.access(existing, os.W_OK),
            f"{folder}, {free:.0f} GiB free",
            "set HF_HOME to a folder you can write to",
        ),
        Check(
            "hub",
            True,
            "offline (HF_HUB_OFFLINE is set): only what is in the cache"
            if constants.HF_HUB_OFFLINE
            else "may be asked (HF_HUB_OFFLINE is not set)",
        ),
        Check(
            "hub token",
            has_token,
            "yes" if has_token else "no",
            "hf auth login, for gated or private models and data",
            is_optional=True,
        ),
    ]
