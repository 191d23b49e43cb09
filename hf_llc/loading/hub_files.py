"""Files of the Hub: the commit that a revision means, and a check of the hashes of what was downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from hf_llc.errors import InputError

Kind = Literal["model", "dataset"]

_CHUNK = 2**24
SMALL_FILES = [
    "*config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model",
    "*.tiktoken", "*.jinja",
]  # fmt: skip
"""A model's configuration and tokenizer, as patterns of names."""


def commit_of(name: str, kind: Kind, revision: str | None) -> str:
    """The hash of the commit that a revision of a Hub repository means now.

    It is asked for once and used for every file: all are then of one commit, which the result names. If the Hub cannot
    be reached, it is what the revision meant when this machine last asked.

    Args:
        name: id of the repository.
        kind: "model" or "dataset".
        revision: branch, tag or commit; None: the main branch.

    Raises:
        HfHubHTTPError: the Hub refuses, or knows no such repository or revision.
        RevisionResolutionError: the Hub cannot be reached and the cache does not know it.
    """
    offline = constants.is_offline_mode()
    return HfApi().resolve_revision(name, repo_type=kind, revision=revision, local_files_only=offline).resolved


def fetch_small_files(name: str, commit: str) -> None:
    """Download a model's configuration and tokenizer into the cache: all the files that there are, or an error.

    Raises:
        HfHubHTTPError: the Hub refuses one of them.
        OSError: the Hub cannot be reached, or fails, and they are not in the cache.
    """
    # transformers goes on without a file that the Hub refuses, and would tokenize with other special tokens, say.
    if not constants.is_offline_mode():
        snapshot_download(name, revision=commit, allow_patterns=SMALL_FILES, ignore_patterns=["*/*"])


def ask_again(name: str, commit: str, files: Sequence[str]) -> None:
    """Ask the Hub for files of a model that transformers says are missing: it says so of any refusal.

    Raises:
        HfHubHTTPError: why the Hub does not give them.
        TransportError: (of the client's HTTP package) the Hub cannot be reached.
    """
    for file in files:
        with contextlib.suppress(EntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(name, file, revision=commit), timeout=constants.HF_HUB_ETAG_TIMEOUT)


@contextlib.contextmanager
def verified(name: str, kind: Kind, commit: str) -> Iterator[None]:
    """Check the hashes of the files of a commit that the block downloads; over plain HTTP, the Hub's client does not.

    Damaged files are removed from the cache, so that the next run downloads them again. Files that were in the cache
    before are not hashed again.

    Raises:
        InputError: a file's hash is not the Hub's. This comes before any other error in the block.
    """
    begun = time.time() - 1  # file systems round times
    try:
        yield
    except Exception as error:
        _refuse_damaged(name, kind, commit, begun, error)
        raise
    _refuse_damaged(name, kind, commit, begun, None)


def _refuse_damaged(name: str, kind: Kind, commit: str, since: float, cause: Exception | None) -> None:
    """Remove the damaged files among those written `since`, and refuse them."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind) / "snapshots" / commit
    damaged = [path for path in sorted(folder.rglob("*")) if _is_damaged(path, since)]
    for path in damaged:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    if damaged:
        raise InputError(
            f"a file came damaged from the Hub (its hash is wrong) and was taken out of the cache: {damaged[0].name}",
            value=name,
            remedy="run the same command again to download it again",
        ) from cause


def _is_damaged(path: Path, since: float) -> bool:
    """Whether a file of the cache was written `since` and has another hash than its name says."""
    # The cache names a file by its hash: SHA-256, or git's SHA-1 for small ones. Without links there are no such names.
    blob = path.resolve()
    if not path.is_symlink() or not blob.is_file() or blob.stat().st_mtime < since:
        return False
    digests = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % blob.stat().st_size)}
    digest = digests.get(len(blob.name))
    if digest is None:
        return False
    with blob.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() != blob.name
