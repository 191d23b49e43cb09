"""What transformers and datasets raise, said in one line each; and names fit to be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError


def public_name(name: Any) -> str | None:
    """An id as it is, a folder by its last name only."""
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        return None
    path = Path(name)
    is_local = path.is_absolute() or str(name).startswith(("~", ".")) or path.exists()
    return (path.resolve().name if path.exists() else path.name) if is_local else str(name)


def causes(error: BaseException) -> str:
    """Types and messages of an error and what led to it, in lower case, on one line."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 8:
        parts.append(f"{type(seen).__name__} {seen}")
        seen = seen.__cause__ or seen.__context__
    return " ".join(" ".join(parts).split()).lower()


def model_refusal(error: Exception, name: str, config: LoadConfig) -> InputError:
    """One line for what `from_pretrained` raises."""
    text, low = " ".join(str(error).split()), causes(error)
    shown = public_name(name)
    if "trust_remote_code" in low:
        return InputError(
            "the model needs Python code of its own, which is not run",
            value=shown,
            remedy="give trust_remote_code (--trust-remote-code) if you trust it",
        )
    if "safetensorerror" in low or "deserializing" in low or "unpicklingerror" in low:
        return InputError("the weights file is damaged", value=shown, remedy="download or save it again")
    if "gated" in low or "401 client" in low or "403 client" in low:
        return InputError(
            "no access to the model",
            value=shown,
            remedy="log in with `hf auth login`, and accept its terms on its page if it has any",
        )
    if "revision" in low and ("not a valid" in low or "404 client" in low or "revisionnotfound" in low):
        return InputError("no such revision of the model", value=config.revision, remedy="check the spelling")
    if "offline" in low or "connect" in low or "localentrynotfound" in low or "couldn't reach" in low:
        return InputError(
            "the model is neither a local folder nor in the cache, and the Hub cannot be reached",
            value=shown,
            remedy="check the spelling and the network",
        )
    if "use_safetensors" in low or "no file named model.safetensors" in low or "safetensors" in low:
        return InputError(
            "the model has no safetensors weights",
            value=shown,
            remedy="convert it, or give allow_pickle (--allow-pickle)",
        )
    if "not a valid model identifier" in low or "404 client" in low or "not found" in low:
        return InputError("no such model", value=shown, remedy="check the spelling; private ones need `hf auth login`")
    if "json" in low:
        return InputError("the model's config.json is damaged", value=shown, remedy="download or save it again")
    return InputError("the model cannot be loaded", value=shown, remedy=f"{type(error).__name__}: {text[:300]}")


def data_refusal(error: Exception, name: str, config: LoadConfig) -> InputError:
    """One line for what `load_dataset` raises."""
    text, low = " ".join(str(error).split()), causes(error)
    if "unknown split" in low or "bad split" in low:
        known = re.search(r"(?:one of|available splits:) \[(.*?)\]", text, flags=re.IGNORECASE)
        return InputError(
            "no such split",
            value=config.split,
            allowed=known[1].replace("'", "") if known else "see the data set's page",
        )
    if "builderconfig" in low or "config name is missing" in low:
        return InputError(
            "no such subset" if config.subset else "the data set needs a subset", value=config.subset, remedy=text[:300]
        )
    if "gatedrepo" in low or "gated" in low or "401 client" in low or "403 client" in low:
        return InputError(
            "no access to the data set",
            value=name,
            remedy="log in with `hf auth login`, and accept its terms on its page if it has any",
        )
    if any(word in low for word in ("offline", "couldn't reach", "connect", "localentrynotfound")):
        return InputError(
            "the data set is neither a local path nor in the cache, and the Hub cannot be reached",
            value=name,
            remedy="check the spelling and the network",
        )
    if "corresponds to no data" in low:
        return InputError("the data set is empty", value=name, remedy="check split and files")
    if "script" in low or "trust_remote_code" in low:
        return InputError(
            "the data set needs code of its own, which is not run",
            value=name,
            remedy="use a version in parquet, or convert it",
        )
    if "doesn't exist" in low or "not found" in low or "404 client" in low:
        return InputError(
            "no such data set", value=name, remedy="check the spelling; private ones need `hf auth login`"
        )
    return InputError("the data set cannot be read", value=name, remedy=f"{type(error).__name__}: {text[:300]}")
