"""Publishing: put a result on a model's page in one commit, or on a local card."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.our_files import refuse_others
from hf_llc.publishing.card import EVAL_RESULTS, check_verdict, merge_card, merge_eval_results
from hf_llc.publishing.headline import estimate_text
from hf_llc.publishing.hub_answers import explain, http_status
from hf_llc.publishing.options import PublishOptions, check_repo_id
from hf_llc.publishing.result_folder import folder_of, published_files, read_curve

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from hf_llc.records.record import Record

FOLDER = "llc/"
"""Where the files of a result lie in the model's repository."""
_MAX_ATTEMPTS = 5
"""How often the head is read in all, if it changes between reading and committing."""
_README = "README.md"
_DEFAULTS = PublishOptions()


class PublishError(RuntimeError):
    """The Hub did not take the result. One line: what happened, what to do, and the command that tries again."""


@dataclass(frozen=True)
class Published:
    """What publishing did.

    Attributes:
        diff: unified diff of the text files, before and after.
        url: page of the commit or of the pull request; None after a dry run.
        commit: hash of the commit.
        pr_num: number of the pull request, if one was made.
        attempts: how often the head was read; above 1 if it changed meanwhile.
    """

    diff: str
    url: str | None = None
    commit: str | None = None
    pr_num: int | None = None
    attempts: int = 1


@dataclass
class _Head:
    """The repository as it was read: its head commit (None: no commit yet, or no repository) and its text files."""

    commit: str | None = None
    texts: dict[str, str] = field(default_factory=dict)


def publish(result: Record, repo_id: str, options: PublishOptions = _DEFAULTS) -> Published:
    """Put λ̂ on a model's card and the result's files into `llc/`, in one commit upon the head that was read.

    If somebody else commits meanwhile, the card is read and merged again, up to five times in all. A result that is in
    no folder yet is first saved to `runs/<model>-<hash>`, so that a failed attempt can be repeated from there.

    Args:
        result: what to publish.
        repo_id: the model's repository, `owner/name`; it is made if there is none.
        options: how.

    Raises:
        InputError: the verdict is bad, the id is not one, or the README cannot be edited.
        PublishError: the Hub refused, failed or could not be reached; nothing was committed, the result is on disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    check_verdict(result, allow_untrusted=options.allow_untrusted)
    check_repo_id("repo_id", repo_id)
    folder = folder_of(result)
    try:
        return _Publication(HfApi(library_name="hf_llc"), result, folder, repo_id, options).run()
    except InputError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # ValueError: the Hub's own check of the card
        or_propose = ", or create_pr (--create-pr)" if http_status(error) == 403 and not options.create_pr else ""
        raise PublishError(
            f"not published to {repo_id}: {explain(error)}{or_propose}; the result is whole in {folder}; "
            f"to try again: {options.command(folder, repo_id)}"
        ) from error


def publish_to_folder(result: Record, path: str | Path, options: PublishOptions = _DEFAULTS) -> Published:
    """Put λ̂ on a local card (a README, or the README.md of a folder) and the result's files into `llc/` beside it.

    Raises:
        InputError: the verdict is bad, an option is for repositories only, the folder does not exist, or the README
            cannot be edited or is not UTF-8.
    """
    for name in options.given():
        if name not in ("allow_untrusted", "dry_run"):
            raise InputError(f"{name} is for a repository, not for a local card", remedy="leave it out")
    check_verdict(result, allow_untrusted=options.allow_untrusted)
    path = Path(path).resolve()
    readme = path / _README if path.is_dir() else path
    if not readme.parent.is_dir() or readme.suffix.lower() != ".md":
        raise InputError("no such card", value=str(path), allowed="a folder, or a Markdown file in one")
    folder = folder_of(result)
    old = _decoded(readme.read_bytes(), str(readme)) if readme.exists() else ""
    new = merge_card(old, result, allow_untrusted=options.allow_untrusted, folder=FOLDER, curve=read_curve(folder))
    if not options.dry_run:
        target, files = check_writable(readme.parent / FOLDER), published_files(folder)
        refuse_others(target, [file.name for file in files])
        for file in files:
            data = file.read_bytes()
            write_atomically(target / file.name, lambda temporary, data=data: temporary.write_bytes(data))
        write_atomically(readme, lambda temporary: temporary.write_bytes(new.encode()))
    return Published(diff=_diff({readme.name: old}, {readme.name: new}))


@dataclass(frozen=True)
class _Publication:
    """One call of `publish`: read the head, merge, commit; again if the head has changed."""

    api: HfApi
    result: Record
    folder: Path
    repo_id: str
    options: PublishOptions

    def run(self) -> Published:
        head = self._read_head()
        if head is None:
            texts = self._merged(_Head())  # a card that cannot be made leaves no empty repository behind
            published_files(self.folder)
            if self.options.dry_run:
                return Published(diff=_diff({}, texts))
            self.api.create_repo(self.repo_id, private=self.options.private)
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            head = head or self._read_head() or _Head()
            texts = self._merged(head)
            diff = _diff(head.texts, texts)
            if self.options.dry_run:
                return Published(diff=diff, attempts=attempt)
            commit = self._commit(texts, head, is_last=attempt == _MAX_ATTEMPTS)
            if commit is not None:
                return Published(diff, commit.pr_url or commit.commit_url, commit.oid, commit.pr_num, attempt)
            head = None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _read_head(self) -> _Head | None:
        """Read the head and the text files at it; None if there is no such repository, as far as this token sees."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info = self.api.model_info(self.repo_id, revision=self.options.revision)
        except GatedRepoError:  # a subclass of RepositoryNotFoundError
            raise
        except RepositoryNotFoundError:
            return None
        names = {file.rfilename for file in info.siblings or []}
        return _Head(info.sha, {n: self._text_at(info.sha, n) for n in (_README, EVAL_RESULTS) if n in names})

    def _text_at(self, commit: str | None, name: str) -> str:
        return _decoded(Path(self.api.hf_hub_download(self.repo_id, name, revision=commit)).read_bytes(), name)

    def _merged(self, head: _Head) -> dict[str, str]:
        """The text files with the estimate in them."""
        options = self.options
        texts = {
            _README: merge_card(
                head.texts.get(_README, ""),
                self.result,
                repo_id=self.repo_id,
                allow_untrusted=options.allow_untrusted,
                folder=FOLDER,
                curve=read_curve(self.folder),
            )
        }
        if options.benchmark_dataset is not None:
            entries = head.texts.get(EVAL_RESULTS, "")
            texts[EVAL_RESULTS] = merge_eval_results(entries, self.result, dataset_id=options.benchmark_dataset)
        return texts

    def _commit(self, texts: dict[str, str], head: _Head, *, is_last: bool) -> CommitInfo | None:
        """Commit upon `head`. Return None if the head has changed, unless this is the last attempt: then raise."""
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        added = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        added += [CommitOperationAdd(FOLDER + path.name, path) for path in published_files(self.folder)]
        try:
            return self.api.create_commit(
                self.repo_id,
                added,
                commit_message=f"Local learning coefficient: {estimate_text(self.result)}",
                commit_description=f"Verdict: {self.result.verdict}. The card says how it was estimated.",
                revision=self.options.revision,
                create_pr=self.options.create_pr,
                parent_commit=head.commit,
            )
        except HfHubHTTPError as error:
            if is_last or http_status(error) not in (409, 412):
                raise
            return None


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8", remedy="convert it, then publish") from error


def _diff(old: dict[str, str], new: dict[str, str]) -> str:
    """Return the unified diff of all files, without a line feed at its end."""
    lines: list[str] = []
    for name, text in new.items():
        before, after = old.get(name, "").splitlines(), text.splitlines()
        source = f"a/{name}" if name in old else "/dev/null"
        lines += difflib.unified_diff(before, after, source, f"b/{name}", lineterm="")
    return "\n".join(lines)
