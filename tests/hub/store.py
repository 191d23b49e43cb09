"""What the Hub keeps: users, and repositories with commits, branches, tags and pull requests."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

LFS_SUFFIXES = {".safetensors", ".bin", ".parquet", ".arrow", ".gz", ".zip", ".png", ".jpg", ".h5", ".npz"}
REGULAR_BYTES = 10 * 2**20
"""Larger files are LFS files whatever their name."""


class Refusal(Exception):
    """An answer other than success: HTTP status, the Hub's error code, its message, more headers."""

    def __init__(self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})


@dataclass(frozen=True)
class User:
    """One access token and whose it is: role "read" or "write", the organizations that the user may write to."""

    name: str
    token: str
    role: str = "write"
    organizations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blob:
    """The content of a file. `oid`: git's own SHA-1 (of the pointer file, for LFS); `etag` names it in caches."""

    data: bytes
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """The small text that git keeps in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        data = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of all files."""

    sha: str
    parents: tuple[str, ...]
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, Blob]


@dataclass
class Discussion:
    """A discussion or, with `is_pull_request`, a pull request whose commits are at refs/pr/num."""

    num: int
    title: str
    author: str
    created_at: str
    is_pull_request: bool
    status: str = "open"
    base: str = "main"
    merge_commit: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Would the Hub keep this file in LFS: by its name, its size, or because it is binary."""
    return size > 0 and (PurePosixPath(path).suffix in LFS_SUFFIXES or size > REGULAR_BYTES or b"\0" in sample)


class Repo:
    """One repository. `main` begins with an empty first commit, as on the Hub."""

    def __init__(self, kind: str, name: str, *, owner: str, private: bool = False, gated: str | bool = False) -> None:
        self.kind, self.name, self.owner, self.private, self.gated = kind, name, owner, private, gated
        self.created_at = now()
        self.sdk: str | None = None
        self.granted: set[str] = set()
        """Users who may read the files although the repository is gated."""
        self.lfs: dict[str, bytes] = {}
        """Uploaded LFS objects by SHA-256."""
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pulls: dict[int, str] = {}
        self.discussions: list[Discussion] = []
        self.branches["main"] = self._record({}, parents=(), title="initial commit", author=owner).sha

    def _record(
        self, files: Mapping[str, Blob], *, parents: tuple[str, ...], title: str, author: str, message: str = ""
    ) -> Commit:
        tree = sorted((path, blob.oid) for path, blob in files.items())
        text = json.dumps([self.name, parents, tree, title, author, len(self.commits)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(sha, parents, title, message, author, now(), dict(files))
        return self.commits[sha]

    def _ref(self, revision: str) -> tuple[dict[Any, str], Any] | None:
        """The table and key of a branch or pull request."""
        found = re.fullmatch(r"refs/pr/(\d+)", revision)
        if found:
            return (self.pulls, int(found[1])) if int(found[1]) in self.pulls else None
        name = revision.removeprefix("refs/heads/")
        return (self.branches, name) if name in self.branches else None

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or (shortened) hash means.

        Raises:
            Refusal: 404, none.
        """
        ref = self._ref(revision)
        if ref is not None:
            return self.commits[ref[0][ref[1]]]
        tag = self.tags.get(revision.removeprefix("refs/tags/"))
        if tag is not None:
            return self.commits[tag]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            for sha, commit in self.commits.items():
                if sha.startswith(revision):
                    return commit
        raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def blob(self, revision: str, path: str) -> tuple[Commit, Blob]:
        """A file of a revision.

        Raises:
            Refusal: 404, no such revision or file; the latter names the commit, which clients cache.
        """
        commit = self.resolve(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": commit.sha})
        return commit, commit.files[path]

    def commit(
        self,
        revision: str,
        changes: Mapping[str, Blob | None],
        *,
        title: str,
        author: str,
        message: str = "",
        parent: str | None = None,
        create_pr: bool = False,
    ) -> tuple[Commit, int | None]:
        """Change files on a branch (None deletes), or open a pull request with the change; → commit, its number.

        Raises:
            Refusal: 404, the revision is no branch; 412, the head is not `parent` any more.
        """
        ref = self._ref(revision)
        if ref is None:
            raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        head = self.commits[ref[0][ref[1]]]
        if parent is not None and not head.sha.startswith(parent):
            if not create_pr:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            head = self.resolve(parent)
        files = {**head.files, **changes}
        kept = {path: blob for path, blob in files.items() if blob is not None}
        made = self._record(kept, parents=(head.sha,), title=title, author=author, message=message)
        if not create_pr:
            ref[0][ref[1]] = made.sha
            return made, None
        pull = self.discuss(title, author=author, text=message, is_pull_request=True, base=revision)
        self.pulls[pull.num] = made.sha
        pull.events.append(event("commit", author, subject=title, oid=made.sha))
        return made, pull.num

    def discuss(self, title: str, *, author: str, text: str, is_pull_request: bool, base: str = "main") -> Discussion:
        """Open a discussion, or a pull request at the head of its base."""
        found = Discussion(len(self.discussions) + 1, title, author, now(), is_pull_request, base=base)
        found.events.append(comment(author, text))
        self.discussions.append(found)
        if is_pull_request:
            self.pulls[found.num] = self.resolve(base).sha
        return found

    def discussion(self, num: int) -> Discussion:
        """Discussion or pull request `num`.

        Raises:
            Refusal: 404, none.
        """
        if not 1 <= num <= len(self.discussions):
            raise Refusal(404, "Discussion not found")
        return self.discussions[num - 1]

    def conflicts(self, pull: Discussion) -> list[str]:
        """Files that both the pull request and its base have changed since they parted."""
        base, head, target = self._three(pull)
        return sorted(
            path
            for path in {*head.files, *target.files, *base.files}
            if len({self._oid(x, path) for x in (base, head, target)}) == 3
        )

    @staticmethod
    def _oid(commit: Commit, path: str) -> str | None:
        blob = commit.files.get(path)
        return None if blob is None else blob.oid

    def _three(self, pull: Discussion) -> tuple[Commit, Commit, Commit]:
        head, target = self.commits[self.pulls[pull.num]], self.resolve(pull.base)
        behind = self._ancestors(target.sha)
        base = next(sha for sha in self._ancestors(head.sha) if sha in set(behind))
        return self.commits[base], head, target

    def _ancestors(self, sha: str) -> list[str]:
        """A commit and all before it, nearest first."""
        found, queue = [], [sha]
        while queue:
            each = queue.pop(0)
            if each not in found:
                found.append(each)
                queue += self.commits[each].parents
        return found

    def merge(self, pull: Discussion, *, author: str) -> Commit:
        """Merge a pull request into its base.

        Raises:
            Refusal: 409, both changed one file, or it is not open.
        """
        if not pull.is_pull_request or pull.status != "open":
            raise Refusal(409, f"This pull request cannot be merged: it is {pull.status}")
        if self.conflicts(pull):
            raise Refusal(409, f"Merge conflict in {', '.join(self.conflicts(pull))}")
        base, head, target = self._three(pull)
        files = dict(target.files)
        for path in {*base.files, *head.files}:
            if self._oid(base, path) != self._oid(head, path):
                files.pop(path, None)
                if path in head.files:
                    files[path] = head.files[path]
        title = f"{pull.title} (#{pull.num})"
        made = self._record(files, parents=(target.sha, head.sha), title=title, author=author)
        self.branches[pull.base.removeprefix("refs/heads/")] = made.sha
        pull.status, pull.merge_commit = "merged", made.sha
        pull.events.append(event("status-change", author, status="merged"))
        return made

    def history(self, revision: str) -> list[Commit]:
        """Commits of a revision, newest first, along first parents."""
        found = [self.resolve(revision)]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found


_ids = itertools.count(1)


def event(kind: str, author: str, **data: Any) -> dict[str, Any]:
    """An event of a discussion as the Hub's API gives it."""
    return {"id": f"{next(_ids):024x}", "type": kind, "createdAt": now(), "author": {"name": author}, "data": data}


def comment(author: str, text: str) -> dict[str, Any]:
    """A comment in a discussion."""
    return event("comment", author, edited=False, hidden=False, latest={"raw": text})


class Store:
    """All users and repositories, and who may do what."""

    def __init__(self, users: Iterable[User] = ()) -> None:
        self.users = {user.token: user for user in users}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploads: dict[str, tuple[Repo, str]] = {}
        """Addresses handed out for uploads: the repository and the SHA-256 to come."""

    def add_user(self, name: str, *, role: str = "write", organizations: tuple[str, ...] = ()) -> User:
        """A new user with a random token that looks like the Hub's."""
        user = User(name, "hf_" + secrets.token_hex(17), role, organizations)
        self.users[user.token] = user
        return user

    def user(self, token: str | None) -> User | None:
        """Whose token it is.

        Raises:
            Refusal: 401, nobody's.
        """
        if token is not None and token not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return None if token is None else self.users[token]

    def repo(self, kind: str, name: str, user: User | None) -> Repo:
        """A repository that the user may know of.

        The Hub answers 401 to the anonymous, for a missing one and a private one alike. Its clients take a 401 from an
        https address for "repository not found"; on plain http they need the code that says so.

        Raises:
            Refusal: 401 or 404, none such.
        """
        found = self.repos.get((kind, name))
        if found is not None and (not found.private or self._belongs(found, user)):
            return found
        if user is None:
            raise Refusal(401, "Invalid username or password.", code="RepoNotFound")
        raise Refusal(404, "Repository not found", code="RepoNotFound")

    @staticmethod
    def _belongs(repo: Repo, user: User | None) -> bool:
        return user is not None and repo.owner in (user.name, *user.organizations)

    def may_read_files(self, repo: Repo, user: User | None) -> None:
        """Gated repositories show their file names to all, their files to few.

        Raises:
            Refusal: 401 or 403, gated.
        """
        if not repo.gated or self._belongs(repo, user) or (user is not None and user.name in repo.granted):
            return
        what = f"Access to {repo.kind} {repo.name} is restricted"
        if user is None:
            why = "You must have access to it and be authenticated to access it. Please log in."
            raise Refusal(401, f"{what}. {why}", code="GatedRepo")
        raise Refusal(403, f"{what} and you are not in the authorized list.", code="GatedRepo")

    def may_write(self, repo: Repo, user: User | None, *, create_pr: bool = False) -> User:
        """Anybody with a write token may propose a change, the owner may make it.

        Raises:
            Refusal: 401, nobody; 403, a read token or somebody else's repository.
        """
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository")
        if not create_pr and not self._belongs(repo, user):
            raise Refusal(403, "Forbidden: you have no write access here; pass create_pr=1 to open a pull request")
        return user
