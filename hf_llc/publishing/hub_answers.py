"""What the Hub answers when it does not take a commit, in a few words."""

from __future__ import annotations

_ADVICE = {
    401: "the Hub does not know who you are (401); log in with `hf auth login`",
    403: "the Hub forbids it (403); use a token that may write there (`hf auth login`)",
    409: "the repository kept changing meanwhile, or exists unseen by this token (409)",
    412: "the repository kept changing meanwhile, or exists unseen by this token (412)",
    429: "the Hub takes no more requests for now (429); wait some minutes",
}
"""HTTP status → what happened and what to do."""


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of the Hub's answer that an error, or one of its causes, carries; None if none does."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            return response.status_code
        cause = cause.__cause__ or cause.__context__
    return None


def explain(error: Exception) -> str:
    """Say what happened and what to do, in a few words."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, OfflineModeIsEnabled, RevisionNotFoundError

    status = http_status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision (404); make the branch first"
    if isinstance(error, GatedRepoError):
        return _ADVICE[403]
    if status == 404 and not isinstance(error, EntryNotFoundError):
        return "the Hub finds no such repository (404); check its name and your access"
    if status in _ADVICE:
        return _ADVICE[status]
    if status is not None and status >= 500:
        return f"the Hub has a fault of its own ({status}); wait"
    if status is not None:
        message = _one_line(getattr(error, "server_message", None) or "")
        return f"the Hub refused ({status}){': ' + message if message else ''}"
    if isinstance(error, ValueError):
        return "the Hub does not take the card: " + _one_line(error)
    return f"no connection to the Hub, or it was cut ({type(error).__name__}); check the network"


def _one_line(message: object) -> str:
    return " ".join(str(message).split())[:200]
