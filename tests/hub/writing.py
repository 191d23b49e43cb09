"""Routes that write: repositories, branches, tags, commits with their large files, pull requests.

Read off the source of huggingface_hub 2.4: hf_api.py, _commit_api.py, lfs.py.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from hub.reading import is_under
from hub.store import Blob, Commit, Discussion, Refusal, Repo, comment, event, is_lfs, now
from hub.table import PAGE, REPO, Answer, Request, page, route


@route("create-repo", "POST", r"/api/repos/create")
def create_repo(request: Request) -> Answer:
    values, user = request.json, request.user
    kind, owner = values.get("type") or "model", values.get("organization")
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    owner = owner or user.name
    if user.role != "write" or owner not in (user.name, *user.organizations):
        raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
    name = f"{owner}/{values['name']}"
    address = page(request.endpoint, kind, name)
    if (kind, name) in request.store.repos:
        refused = {"error": f"You already created this {kind} repo", "url": address, "name": name}
        return Answer(refused, 409, {"X-Error-Message": refused["error"]})
    made = Repo(kind, name, owner=owner, private=values.get("visibility") == "private")
    made.sdk = values.get("sdk")
    request.store.repos[kind, name] = made
    return Answer({"url": address, "name": name})


@route("delete-repo", "DELETE", r"/api/repos/delete")
def delete_repo(request: Request) -> Answer:
    values, user = request.json, request.user
    owner = values.get("organization") or (user.name if user else "")
    kind, name = values.get("type") or "model", f"{owner}/{values['name']}"
    request.store.may_write(request.store.repo(kind, name, user), user)
    del request.store.repos[kind, name]
    return Answer({})


@route("settings", "PUT", REPO + r"/settings")
def settings(request: Request) -> Answer:
    repo, values = request.repo, request.json
    request.store.may_write(repo, request.user)
    repo.gated = values.get("gated", repo.gated)
    repo.private = values["visibility"] == "private" if "visibility" in values else repo.private
    return Answer({})


@route("auth-check", "GET", REPO + r"/auth-check")
def auth_check(request: Request) -> Answer:
    request.store.may_read_files(request.repo, request.user)
    return Answer({})


# Branches, tags, commits


@route("branch", "POST DELETE", REPO + r"/branch/(?P<name>[^/]+)")
def branch(request: Request) -> Answer:
    repo, name = request.repo, request.parts["name"]
    request.store.may_write(repo, request.user)
    if request.method == "DELETE":
        if repo.branches.pop(name, None) is None:
            raise Refusal(404, f"Reference {name} doesn't exist", code="RevisionNotFound")
        return Answer({})
    if name in repo.branches:
        raise Refusal(409, f"Reference refs/heads/{name} already exists")
    repo.branches[name] = repo.resolve(request.json.get("startingPoint") or "main").sha
    return Answer({}, 201)


@route("tag", "POST DELETE", REPO + r"/tag/(?P<name>[^/]+)")
def tag(request: Request) -> Answer:
    repo, name = request.repo, request.parts["name"]
    request.store.may_write(repo, request.user)
    if request.method == "DELETE":
        if repo.tags.pop(name, None) is None:
            raise Refusal(404, f"Reference {name} doesn't exist", code="RevisionNotFound")
        return Answer({})
    sha, made = repo.resolve(name).sha, request.json["tag"]
    if made in repo.tags:
        raise Refusal(409, f"Tag reference {made} exists already")
    repo.tags[made] = sha
    return Answer({}, 201)


def _is_proposal(request: Request) -> bool:
    """A new pull request, or more commits for one: anybody may make them."""
    return "create_pr" in request.query or request.revision.startswith("refs/pr/")


@route("preupload", "POST", REPO + r"/preupload/(?P<revision>[^/]+)")
def preupload(request: Request) -> Answer:
    """How each file is to be sent, and what is there now (a file that has not changed is not sent)."""
    repo = request.repo
    request.store.may_write(repo, request.user, create_pr=_is_proposal(request))
    here = repo.resolve(request.revision).files
    answer = []
    for file in request.json["files"]:
        mode = "lfs" if is_lfs(file["path"], file["size"], base64.b64decode(file["sample"])) else "regular"
        answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        if file["path"] in here:
            answer[-1]["oid"] = here[file["path"]].etag
    return Answer({"files": answer})


@route("lfs-batch", "POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Answer:
    """Where to put each object that is not there yet. Only the basic transfer: one PUT, then verify."""
    repo, objects = request.repo, []
    request.store.may_write(repo, request.user, create_pr=True)
    for each in request.json["objects"]:
        entry = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] not in repo.lfs:
            signature = secrets.token_hex(8)
            request.store.uploads[signature] = (repo, each["oid"])
            upload = f"{request.endpoint}/lfs-upload/{signature}"
            entry["actions"] = {"upload": {"href": upload}, "verify": {"href": request.url(".git/info/lfs/verify")}}
        objects.append(entry)
    return Answer({"transfer": "basic", "objects": objects})


@route("lfs-upload", "PUT", r"/lfs-upload/(?P<signature>[0-9a-f]+)")
def lfs_upload(request: Request) -> Answer:
    """The content, which must have the hash announced. The address is the permission, as for the Hub's storage."""
    if request.parts["signature"] not in request.store.uploads:
        raise Refusal(403, "Signature does not match")
    repo, oid = request.store.uploads[request.parts["signature"]]
    if Blob(request.body).sha256 != oid:
        raise Refusal(400, "The content does not match its SHA-256")
    repo.lfs[oid] = request.body
    return Answer({}, headers={"ETag": f'"{oid}"'})


@route("lfs-verify", "POST", PAGE + r"\.git/info/lfs/verify")
def lfs_verify(request: Request) -> Answer:
    data = request.repo.lfs.get(request.json["oid"])
    if data is None or len(data) != request.json["size"]:
        raise Refusal(404, "LFS object not found")
    return Answer({})


@route("commit", "POST", REPO + r"/commit/(?P<revision>[^/]+)")
def make_commit(request: Request) -> Answer:
    """A commit as lines of JSON: a header, then the files added and deleted."""
    repo = request.repo
    user = request.store.may_write(repo, request.user, create_pr=_is_proposal(request))
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    changes: dict[str, Blob | None] = {}
    for line in lines:
        changes |= _change(repo, repo.resolve(request.revision), line["key"], line["value"])
    made, num = repo.commit(
        request.revision,
        changes,
        title=header["summary"],
        message=header.get("description", ""),
        author=user.name,
        parent=header.get("parentCommit"),
        create_pr="create_pr" in request.query,
    )
    pull = None if num is None else request.url(f"/discussions/{num}")
    address = request.url(f"/commit/{made.sha}")
    return Answer({"success": True, "commitOid": made.sha, "commitUrl": address, "pullRequestUrl": pull})


def _change(repo: Repo, head: Commit, key: str, value: dict[str, Any]) -> dict[str, Blob | None]:
    """One line of a commit: path → new content, or None for a deletion."""
    path = value.get("path", "")
    if key == "file":
        return {path: Blob(base64.b64decode(value["content"]))}
    if key == "lfsFile":
        if value["oid"] not in repo.lfs:
            raise Refusal(422, f"LFS pointer of {path} points to a file that does not exist")
        return {path: Blob(repo.lfs[value["oid"]], is_lfs=True)}
    if key in ("deletedFile", "deletedFolder"):
        gone = [p for p in head.files if p == path or (key == "deletedFolder" and is_under(p, path.strip("/")))]
        if not gone:
            raise Refusal(404, "A file with this name doesn't exist", code="EntryNotFound")
        return dict.fromkeys(gone)
    return {}


# Discussions and pull requests


def _listed(repo: Repo, found: Discussion) -> dict[str, Any]:
    return {
        "num": found.num,
        "title": found.title,
        "author": {"name": found.author},
        "createdAt": found.created_at,
        "status": found.status,
        "repo": {"name": repo.name, "type": repo.kind},
        "isPullRequest": found.is_pull_request,
    }


@route("discussions", "GET", REPO + r"/discussions")
def discussions(request: Request) -> Answer:
    repo, kind = request.repo, request.query.get("type", "all")
    found = [x for x in repo.discussions if kind == "all" or x.is_pull_request == (kind == "pull_request")]
    status = request.query.get("status", "all")
    found = [x for x in found if status == "all" or (x.status in ("open", "draft")) == (status == "open")]
    found = [x for x in found if request.query.get("author") in (None, x.author)]
    return Answer({"count": len(found), "start": 0, "discussions": [_listed(repo, x) for x in found]})


@route("discuss", "POST", REPO + r"/discussions")
def discuss(request: Request) -> Answer:
    repo, values = request.repo, request.json
    user = request.store.may_write(repo, request.user, create_pr=True)
    made = repo.discuss(
        values["title"], author=user.name, text=values["description"], is_pull_request=values["pullRequest"]
    )
    if made.is_pull_request:
        made.status = "draft"  # it has no change yet
    return Answer({"num": made.num, "url": request.url(f"/discussions/{made.num}")}, 201)


@route("discussion", "GET", REPO + r"/discussions/(?P<num>\d+)")
def discussion(request: Request) -> Answer:
    repo = request.repo
    found = repo.discussion(int(request.parts["num"]))
    answer = {**_listed(repo, found), "events": found.events}
    if found.is_pull_request:
        base = found.base if found.base.startswith("refs/") else f"refs/heads/{found.base}"
        answer["changes"] = {"base": base}
        if found.merge_commit is not None:
            answer["changes"]["mergeCommitId"] = found.merge_commit
        answer["filesWithConflicts"] = repo.conflicts(found) if found.status in ("open", "draft") else []
    return Answer(answer)


@route("comment", "POST", REPO + r"/discussions/(?P<num>\d+)/comment")
def add_comment(request: Request) -> Answer:
    found = request.repo.discussion(int(request.parts["num"]))
    user = request.store.may_write(request.repo, request.user, create_pr=True)
    found.events.append(comment(user.name, request.json["comment"]))
    return Answer({"newMessage": found.events[-1]})


@route("status", "POST", REPO + r"/discussions/(?P<num>\d+)/status")
def change_status(request: Request) -> Answer:
    found = request.repo.discussion(int(request.parts["num"]))
    user = request.store.may_write(request.repo, request.user)
    found.status = request.json["status"]
    found.events.append(event("status-change", user.name, status=found.status))
    return Answer({"newStatus": found.events[-1]})


@route("merge", "POST", REPO + r"/discussions/(?P<num>\d+)/merge")
def merge(request: Request) -> Answer:
    repo = request.repo
    user = request.store.may_write(repo, request.user)
    made = repo.merge(repo.discussion(int(request.parts["num"])), author=user.name)
    return Answer({"mergeCommitId": made.sha, "date": now()})


@route("access", "POST", REPO + r"/user-access-request/grant")
def grant_access(request: Request) -> Answer:
    request.store.may_write(request.repo, request.user)
    request.repo.granted.add(request.json["user"])
    return Answer({})
