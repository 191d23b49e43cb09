"""Errors of the Hub's client, transformers and datasets → an InputError of one line; and names fit to be shown."""

from __future__ import annotations

import json
import re

from huggingface_hub import errors

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.names import public_name

_AGAIN = "run the same command again"
_UNREACHABLE = (
    "offline", "connect", "localentrynotfound", "couldn't reach", "timeout", "timed out", "revisionresolution",
)  # fmt: skip
_CUT_OFF = ("peer closed", "incomplete message", "incompleteread", "remoteprotocolerror", "consistency check failed")


def causes_of(error: BaseException) -> list[BaseException]:
    """An error, its cause, the cause of that, …: 12 at most."""
    errors_so_far: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(errors_so_far) < 12:
        errors_so_far.append(current)
        current = current.__cause__ or current.__context__
    return errors_so_far


def text_of(error: BaseException) -> str:
    """Types and messages of an error and its causes, in lower case, on one line."""
    return " ".join(" ".join(f"{type(each).__name__} {each}" for each in causes_of(error)).split()).lower()


def is_of_reading(error: BaseException) -> bool:
    """Whether reading failed (a file, the network), rather than the code that works on what was read."""
    packages = ("huggingface_hub", "httpx", "httpx2", "fsspec", "aiohttp", "pyarrow")
    return any(
        isinstance(each, OSError) or type(each).__module__.split(".")[0] in packages for each in causes_of(error)
    )


def is_of_content(error: BaseException) -> bool:
    """Whether the content of a file is to blame: what it holds cannot be read as what it is said to be."""
    return any(
        isinstance(each, (UnicodeError, EOFError, json.JSONDecodeError))
        or type(each).__name__ in ("ArrowInvalid", "ParserError", "ValueError", "DatasetGenerationCastError")
        for each in causes_of(error)
    )


def hub_refusal(error: BaseException, what: str, shown: str | None, revision: str | None) -> InputError | None:
    """The refusal for an error of the Hub or on the way to it; None for other errors.

    Args:
        error: what was raised.
        what: "model", "data set" or "tokenizer".
        shown: its id.
        revision: the revision asked for.
    """
    text = text_of(error)
    for each in causes_of(error):
        if isinstance(each, errors.RevisionNotFoundError):
            return InputError(f"no such revision of the {what}", value=revision or shown, remedy="check the spelling")
        if isinstance(each, errors.HfHubHTTPError) and not isinstance(each, errors.EntryNotFoundError):
            refusal = _answer_refusal(each, what, shown)
            if refusal is not None:
                return refusal
    if "gated" in text or "403 client" in text or "403 forbidden" in text:
        return _no_access(what, shown)
    if any(word in text for word in _CUT_OFF):
        return InputError(f"the download of the {what} {shown} was cut off", remedy=_AGAIN)
    if any(word in text for word in _UNREACHABLE):
        where = "a local path" if what == "data set" else "a local folder"
        return InputError(
            f"the {what} is neither {where} nor in the cache, and the Hub cannot be reached",
            value=shown,
            remedy="check the spelling and the network",
        )
    return None


def _answer_refusal(error: errors.HfHubHTTPError, what: str, shown: str | None) -> InputError | None:
    """The refusal for an HTTP status of the Hub; None below 400."""
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
            f"the Hub asks for fewer requests (HTTP 429, asked for the {what} {shown})",
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
    """The refusal for what `from_pretrained` raises."""
    low, shown = text_of(error), public_name(name)
    if "trust_remote_code" in low:
        return InputError(
            "the model needs its own Python code, which hf_llc does not run",
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
    return InputError("the model cannot be loaded", value=shown, remedy=reason_of(error))


def data_refusal(error: Exception, name: str, config: LoadConfig, *, is_local: bool = False) -> InputError:
    """The refusal for what reading a data set raises.

    Args:
        error: what was raised.
        name: the data set's.
        config: says which part was asked for.
        is_local: the files are of this machine: the Hub has no part in it.
    """
    text, low = " ".join(str(error).split()), text_of(error)
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
    # datasets wraps what happened in "an error occurred while generating the dataset"
    unread = InputError("the data set cannot be read", value=name, remedy=reason_of(error.__cause__ or error))
    if is_local:
        return unread
    refusal = hub_refusal(error, "data set", name, config.data_revision)
    if refusal is not None:
        return refusal
    if "entry not found" in low:
        return _missing("data set", name)
    if is_of_content(error):
        return unread
    if "script" in low or "trust_remote_code" in low:
        return InputError(
            "the data set needs its own code, which hf_llc does not run",
            value=name,
            remedy="use a version in parquet, or convert it",
        )
    if "doesn't exist" in low or "not found" in low or "hfvalidationerror" in low:
        return InputError(
            "no such data set", value=name, remedy="check the spelling; private ones need `hf auth login`"
        )
    return unread
