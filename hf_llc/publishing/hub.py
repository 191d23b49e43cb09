"""Publishing: a result goes onto a model's page in one commit, or into a folder that holds a model."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.publishing.card import EVAL_RESULTS, check_verdict, merge_card, merge_eval_results
from hf_llc.publishing.formatting import with_error

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_llc.records.record import Record

FOLDER = "llc/"
"""Where the files of a result lie in the model's repository."""
FILES = ("result.json", "trace.safetensors", "trace.png")
CURVE_FILES = ("curve.json", "curve.csv", "curve.png")
"""λ̂ over checkpoints: published with a result of one of them, if they lie in its folder or the one above."""

_MAX_ATTEMPTS = 5
"""How often a head that moves between reading and committing is read again."""
_README = "README.md"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class PublishError(RuntimeError):
    """The Hub did not take the result. One line: what happened, what to do, and the command that tries again."""


@dataclass(frozen=True)
class Published:
    """What became of it.

    Attributes:
        diff: unified diff of the text files, from what was there to what is there now.
        url: page of the commit or of the pull request; None after a dry run.
        commit: hash of the commit.
        pr_num: number of the pull request, if one was made.
        attempts: how often the head was read: above 1 where it had moved meanwhile.
    """

    diff: str
    url: str | None = None
    commit: str | None = None
    pr_num: int | None = None
    attempts: int = 1


@dataclass(frozen=True)
class _Request:
    """What was asked for: `command` says it again."""

    folder: Path
    repo_id: str
    create_pr: bool
    revision: str | None
    private: bool | None
    allow_untrusted: bool
    dry_run: bool
    benchmark_dataset: str | None

    @property
    def command(self) -> str:
        words = ["hf-llc", "publish", str(self.folder), "--repo", self.repo_id]
        for name in ("revision", "benchmark_dataset"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name.replace('_', '-')}", value]
        if self.private is not None:
            words.append("--private" if self.private else "--no-private")
        words += [f"--{n.replace('_', '-')}" for n in ("create_pr", "allow_untrusted", "dry_run") if getattr(self, n)]
        return shlex.join(words)


@dataclass
class _Head:
    """The repository as it was read: its head (None: no commit yet, or no repository) and its text files."""

    commit: str | None = None
    texts: dict[str, str] = field(default_factory=dict)


def publish(
    result: Record,
    repo_id: str,
    *,
    create_pr: bool = False,
    revision: str | None = None,
    private: bool | None = None,
    allow_untrusted: bool = False,
    dry_run: bool = False,
    benchmark_dataset: str | None = None,
) -> Published:
    """Put λ̂ on a model's card and the result's files into `llc/`, in one commit upon the head that was read.

    If the head moves meanwhile, the card is read and merged again, five times at most. A result that is in no folder
    yet is first saved to `runs/<name>-<hash>`, so that whatever happens then can be retried from there.

    Args:
        result: what to publish.
        repo_id: the model's repository, `owner/name`; it is made if there is none.
        create_pr: open a pull request rather than commit.
        revision: branch to commit to (or `refs/pr/N`); None: the main one.
        private: of a repository that has to be made.
        allow_untrusted: publish an estimate with a bad verdict, as such.
        dry_run: change nothing, return the diff.
        benchmark_dataset: id of a benchmark data set: λ̂ is entered in `.eval_results/llc.yaml` for it, too.

    Raises:
        InputError: bad verdict, bad id, or a README that cannot be edited.
        PublishError: the Hub refused, failed or could not be reached; nothing was committed, the result is on disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    check_verdict(result, allow_untrusted=allow_untrusted)
    for name, value in (("repo_id", repo_id), ("benchmark_dataset", benchmark_dataset)):
        if value is not None and not _REPO_ID.fullmatch(value):
            raise InputError(f"{name} is not an id of the Hub", value=value, allowed="owner/name")
    if create_pr and revision not in (None, "main"):
        raise InputError("create_pr and revision exclude each other", value=revision, remedy="give one")
    folder = _saved(result)
    asked = _Request(folder, repo_id, create_pr, revision, private, allow_untrusted, dry_run, benchmark_dataset)
    try:
        return _publish(HfApi(library_name="hf_llc"), result, asked)
    except InputError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # ValueError: the Hub's own check of the card
        raise PublishError(
            f"not published to {repo_id}: {_said(error)}; the result is whole in {folder}; "
            f"to try again: {asked.command}"
        ) from error


def publish_to_folder(
    result: Record, path: str | Path, *, allow_untrusted: bool = False, dry_run: bool = False
) -> Published:
    """The same into a local README or the README.md of a local folder, with the result's files in `llc/` beside it.

    Raises:
        InputError: bad verdict, a README that cannot be edited or is not UTF-8, or a folder that is not there.
    """
    check_verdict(result, allow_untrusted=allow_untrusted)
    path = Path(path).resolve()
    readme = path / _README if path.is_dir() else path
    if not readme.parent.is_dir() or readme.suffix.lower() != ".md":
        raise InputError("no such card", value=str(path), allowed="a folder, or a Markdown file in one")
    folder = _saved(result)
    old = _text(readme.read_bytes(), str(readme)) if readme.exists() else ""
    new = merge_card(old, result, allow_untrusted=allow_untrusted, folder=FOLDER, curve=read_curve(folder))
    if not dry_run:
        beside = check_writable(readme.parent / FOLDER)
        for path in _files(folder):
            data = path.read_bytes()
            write_atomically(beside / path.name, lambda temporary, data=data: temporary.write_bytes(data))
        write_atomically(readme, lambda temporary: temporary.write_bytes(new.encode()))
    return Published(diff=_diff({readme.name: old}, {readme.name: new}))


def _saved(result: Record) -> Path:
    """The folder of the result on disk; it is saved if it is in none."""
    if result.folder is not None and (result.folder / "result.json").exists():
        return result.folder
    name = re.sub(r"[^\w.]+", "_", str(result.model.get("id") or "model").rsplit("/", 1)[-1])
    digest = hashlib.sha256(json.dumps(result.to_dict()).encode()).hexdigest()[:8]
    return result.save(check_writable(Path("runs") / f"{name}-{digest}"))


def _files(folder: Path) -> list[Path]:
    """What is published beside the card."""
    paths = [folder / name for name in FILES]
    if read_curve(folder) is not None:
        paths += [_curve_folder(folder) / name for name in CURVE_FILES]
    return [path for path in paths if path.exists()]


def _curve_folder(folder: Path) -> Path:
    return folder if (folder / "curve.json").exists() else folder.resolve().parent


def read_curve(folder: Path) -> dict[str, Any] | None:
    """The curve that the result is a point of, as in its curve.json; None if there is none."""
    path = _curve_folder(folder) / "curve.json"
    if not path.exists():
        return None
    try:
        curve = json.loads(path.read_text(encoding="utf-8"))
        _ = [
            (point["step"], point["llc"], point["llc_se"], point["loss"], point["verdict"]) for point in curve["points"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the curve's file is damaged", value=str(path), remedy="make the curve again") from error
    return curve


def _publish(api: HfApi, result: Record, asked: _Request) -> Published:
    """Read, merge, commit; again if the head has moved."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, _MAX_ATTEMPTS + 1):
        head = _read(api, asked)
        texts = _merged(result, asked, head)
        diff = _diff(head.texts, texts)
        if asked.dry_run:
            return Published(diff=diff, attempts=attempt)
        added = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        added += [CommitOperationAdd(FOLDER + path.name, path) for path in _files(asked.folder)]
        try:
            done = api.create_commit(
                asked.repo_id,
                added,
                commit_message=f"Local learning coefficient: λ̂ = {with_error(result.llc, result.llc_se)}",
                commit_description=f"Verdict: {result.verdict}. The card says how it was estimated.",
                revision=asked.revision,
                create_pr=asked.create_pr,
                parent_commit=head.commit,
            )
        except HfHubHTTPError as error:
            if _status(error) not in (409, 412) or attempt == _MAX_ATTEMPTS:
                raise
            continue
        return Published(diff, done.pr_url or done.commit_url, done.oid, done.pr_num, attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _read(api: HfApi, asked: _Request) -> _Head:
    """The head and the text files at it; a repository that is not there is made (not in a dry run)."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(asked.repo_id, revision=asked.revision)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if asked.dry_run:
            return _Head()
        api.create_repo(asked.repo_id, private=asked.private)
        info = api.model_info(asked.repo_id, revision=asked.revision)
    head = _Head(info.sha)
    there = {each.rfilename for each in info.siblings or []}
    for name in (_README, EVAL_RESULTS):
        if name in there:
            path = api.hf_hub_download(asked.repo_id, name, revision=info.sha)
            head.texts[name] = _text(Path(path).read_bytes(), name)
    return head


def _merged(result: Record, asked: _Request, head: _Head) -> dict[str, str]:
    """The text files as they are to be."""
    card = merge_card(
        head.texts.get(_README, ""),
        result,
        repo_id=asked.repo_id,
        allow_untrusted=asked.allow_untrusted,
        folder=FOLDER,
        curve=read_curve(asked.folder),
    )
    texts = {_README: card}
    if asked.benchmark_dataset is not None:
        entries = head.texts.get(EVAL_RESULTS, "")
        texts[EVAL_RESULTS] = merge_eval_results(entries, result, dataset_id=asked.benchmark_dataset)
    return texts


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8", remedy="convert it, then publish") from error


def _diff(old: dict[str, str], new: dict[str, str]) -> str:
    """Unified diff of each file, without a line feed at its end."""
    lines: list[str] = []
    for name, text in new.items():
        before, after = old.get(name, "").splitlines(), text.splitlines()
        source = f"a/{name}" if name in old else "/dev/null"
        lines += difflib.unified_diff(before, after, source, f"b/{name}", lineterm="")
    return "\n".join(lines)


def _status(error: BaseException) -> int | None:
    """HTTP status of the answer that an error, or what led to it, tells of."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            return response.status_code
        seen = seen.__cause__ or seen.__context__
    return None


def _said(error: Exception) -> str:
    """What happened and what to do, in a few words."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, OfflineModeIsEnabled, RevisionNotFoundError

    status = _status(error)
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision (404); make the branch first"
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            "the Hub forbids it (403); use a token that may write there (`hf auth login`), or create_pr (--create-pr)"
        )
    if status == 401:
        return "the Hub does not know who you are (401); log in with `hf auth login`"
    if status == 404 and not isinstance(error, EntryNotFoundError):
        return "the Hub finds no such repository (404); check its name and your access"
    if status in (409, 412):
        return f"the repository kept changing meanwhile, or exists unseen by this token ({status})"
    if status == 429:
        return "the Hub takes no more requests for now (429); wait some minutes"
    if status is not None and status >= 500:
        return f"the Hub has a fault of its own ({status}); wait"
    if status is not None:
        return f"the Hub refused ({status}){': ' + said if said else ''}"
    if isinstance(error, ValueError):
        return "the Hub does not take the card: " + " ".join(str(error).split())[:200]
    return f"no connection to the Hub, or it was cut ({type(error).__name__}); check the network"
