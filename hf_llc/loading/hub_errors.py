"""What the Hub's clients, transformers and datasets raise, said in one line each; and names fit to be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import errors

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

_AGAIN = "run the same command again"
_UNREACHABLE = (
    "offline", "connect", "localentrynotfound", "couldn't reach", "timeout", "timed out", "revisionresolution",
)  # fmt: skip
_CUT_OFF = ("peer closed", "incomplete message", "incompleteread", "remoteprotocolerror", "consistency check failed")


def public_name(name: Any) -> str | None:
    """An id as it is, a folder by its last name only."""
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        return None
    path = Path(name)
    is_local = path.is_absolute() or str(name).startswith(("~", ".")) or path.exists()
    return (path.resolve().name if path.exists() else path.name) if is_local else str(name)


def chain(error: BaseException) -> list[BaseException]:
    """An error and what led to it, nearest first."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and len(found) < 12:
        found.append(seen)
        seen = seen.__cause__ or seen.__context__
    return found


def causes(error: BaseException) -> str:
    """Types and messages of an error and what led to it, in lower case, on one line."""
    return " ".join(" ".join(f"{type(each).__name__} {each}" for each in chain(error)).split()).lower()


def is_of_reading(error: BaseException) -> bool:
    """Did a file or the network fail, rather than the code that works on what was read?"""
    packages = ("huggingface_hub", "httpx", "httpx2", "fsspec", "aiohttp", "pyarrow")
    return any(isinstance(each, OSError) or type(each).__module__.split(".")[0] in packages for each in chain(error))


def hub_refusal(error: BaseException, what: str, shown: str | None, revision: str | None) -> InputError | None:
    """One line for what the Hub answers, or why it does not; None for other errors.

    Args:
        what: "model", "data set" or "tokenizer".
        shown: its id.
        revision: what was asked for.
    """
    low = causes(error)
    for each in chain(error):
        if isinstance(each, errors.RevisionNotFoundError):
            return InputError(f"no such revision of the {what}", value=revision or shown, remedy="check the spelling")
        if isinstance(each, errors.HfHubHTTPError) and not isinstance(each, errors.EntryNotFoundError):
            found = _answer_refusal(each, what, shown)
            if found is not None:
                return found
    if "gated" in low or "403 client" in low or "403 forbidden" in low:
        return _no_access(what, shown)
    if any(word in low for word in _CUT_OFF):
        return InputError(f"the download of the {what} {shown} was cut off", remedy=_AGAIN)
    if any(word in low for word in _UNREACHABLE):
        where = "a local path" if what == "data set" else "a local folder"
        return InputError(
            f"the {what} is neither {where} nor in the cache, and the Hub cannot be reached",
            value=shown,
            remedy="check the spelling and the network",
        )
    return None


def _answer_refusal(error: errors.HfHubHTTPError, what: str, shown: str | None) -> InputError | None:
    """One line for an answer of the Hub other than success."""
    response = getattr(error, "response", None)
    status = 0 if response is None else response.status_code
    if isinstance(error, errors.GatedRepoError):
        return _no_access(what, shown)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return InputError(
            f"no such {what}", value=shown, remedy="check the spelling; private ones need `hf auth login`"
        )
    if status == 401:
        return InputError(
            f"the Hub does not know your access token (asked for the {what} {shown})",
            remedy="log in again with `hf auth login`, or unset HF_TOKEN",
        )
    if status == 403 or isinstance(error, errors.DisabledRepoError):
        return _no_access(what, shown)
    if status == 429:
        wait = response.headers.get("Retry-After", "") if response is not None else ""
        when = f"in {wait} s" if wait.isdigit() else "in a few minutes"
        return InputError(
            f"the Hub wants fewer requests (HTTP 429, asked for the {what} {shown})",
            remedy=f"{_AGAIN} {when}; it allows more to those who are logged in (`hf auth login`)",
        )
    if status >= 400:
        return InputError(
            f"the Hub has trouble (HTTP {status}, asked for the {what} {shown})", remedy=f"{_AGAIN} later"
        )
    return None


def _no_access(what: str, shown: str | None) -> InputError:
    return InputError(
        f"no access to the {what}",
        value=shown,
        remedy="log in with `hf auth login`, and accept its terms on its page if it has any",
    )


def _missing(what: str, shown: str | None) -> InputError:
    return InputError(
        f"a file of the {what} is missing on the Hub", value=shown, remedy="give another revision, or tell its owner"
    )


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
    refusal = hub_refusal(error, "model", shown, config.revision)
    if refusal is not None:
        return refusal
    if "safetensors" in low:
        return InputError(
            "the model has no safetensors weights",
            value=shown,
            remedy="convert it, or give allow_pickle (--allow-pickle)",
        )
    if "unrecognized model" in low:
        return InputError(
            "config.json is missing or names no model_type", value=shown, remedy="is it a model of transformers?"
        )
    if "entry not found" in low:
        return _missing("model", shown)
    if "not a valid model identifier" in low or "not found" in low or "hfvalidationerror" in low:
        return InputError("no such model", value=shown, remedy="check the spelling; private ones need `hf auth login`")
    if "json" in low:
        return InputError("the model's config.json is damaged", value=shown, remedy="download or save it again")
    return InputError("the model cannot be loaded", value=shown, remedy=f"{type(error).__name__}: {text[:300]}")


def data_refusal(error: Exception, name: str, config: LoadConfig) -> InputError:
    """One line for what reading a data set raises."""
    text, low = " ".join(str(error).split()), causes(error)
    if "unknown split" in low or "bad split" in low:
        known = re.search(r"(?:one of|available splits:) \[(.*?)\]", text, flags=re.IGNORECASE)
        return InputError(
            "no such split",
            value=config.split,
            allowed=known[1].replace("'", "") if known else "see the data set's page",
        )
    if "builderconfig" in low or "config name is missing" in low or "configurations in the cache" in low:
        known = re.search(r"(?:available|configs|in the cache): \[?(.*?)(?:\]| please)", text, flags=re.IGNORECASE)
        return InputError(
            "no such subset" if config.subset else "the data set has several subsets",
            value=config.subset,
            allowed=known[1].replace("'", "") if known else "see the data set's page",
            remedy="" if config.subset else "give subset",
        )
    if "couldn't find cache for" in low:
        return InputError(
            "the subset is not in the cache, and the Hub cannot be reached",
            value=config.subset,
            remedy="check the spelling and the network",
        )
    if "corresponds to no data" in low:
        return InputError("the data set is empty", value=name, remedy="check split and files")
    refusal = hub_refusal(error, "data set", name, config.data_revision)
    if refusal is not None:
        return refusal
    if "entry not found" in low:
        return _missing("data set", name)
    if "script" in low or "trust_remote_code" in low:
        return InputError(
            "the data set needs code of its own, which is not run",
            value=name,
            remedy="use a version in parquet, or convert it",
        )
    if "doesn't exist" in low or "not found" in low or "hfvalidationerror" in low:
        return InputError(
            "no such data set", value=name, remedy="check the spelling; private ones need `hf auth login`"
        )
    cause = error.__cause__ or error  # datasets wraps what happened in "an error occurred while generating the dataset"
    text = " ".join(str(cause).split())
    return InputError("the data set cannot be read", value=name, remedy=f"{type(cause).__name__}: {text[:300]}")
