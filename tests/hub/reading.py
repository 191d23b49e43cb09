"""Routes that read: who am I, what is there, the files themselves.

Read off the source of huggingface_hub 2.4: hf_api.py, file_download.py, hf_file_system.py. What the client does not
look at is left out of the answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

import yaml

from hub.store import Blob, Commit, Refusal
from hub.table import PAGE, REPO, Answer, Request, route


@route("whoami", "GET", r"/api/whoami-v2")
def whoami(request: Request) -> Answer:
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    user = request.user
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    organizations = [{"type": "org", "name": name, "fullname": name} for name in user.organizations]
    return Answer({"type": "user", "name": user.name, "fullname": user.name, "orgs": organizations, "auth": token})


@route("validate-yaml", "POST", r"/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    """The front matter is a mapping, and model-index has the shape that the Hub insists on."""
    problems = []
    try:
        data = front_matter(request.json["content"].encode())
    except yaml.YAMLError as error:
        data, problems = {}, [f"YAML: {' '.join(str(error).split())}"]
    for model in data.get("model-index") or []:
        if not isinstance(model, dict) or not model.get("name"):
            problems.append('"model-index[0].name" is required')
        for result in (model.get("results") or []) if isinstance(model, dict) else []:
            problems += [f'"model-index[0].results.{x}" is required' for x in ("task", "dataset") if x not in result]
            problems += [
                '"metrics" needs type and value' for m in result.get("metrics", []) if not {"type", "value"} <= set(m)
            ]
    answer = {"errors": [{"message": text} for text in problems], "warnings": []}
    return Answer(answer, 400 if problems else 200)


def front_matter(readme: bytes) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes.

    Raises:
        yaml.YAMLError: it is not a mapping.
    """
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", readme.decode(), flags=re.DOTALL)
    data = (yaml.safe_load(found[1]) if found else None) or {}
    if not isinstance(data, dict):
        raise yaml.YAMLError("the front matter is not a mapping")
    return data


@route("info", "GET", REPO + r"(?:/revision/(?P<revision>[^/]+))?")
def info(request: Request) -> Answer:
    repo = request.repo
    commit = repo.resolve(request.revision)
    readme = commit.files.get("README.md")
    card = {} if readme is None else front_matter(readme.data)
    found = {
        "_id": f"{id(repo):024x}",
        "id": repo.name,
        "author": repo.owner,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created_at,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.get("tags") or [],
        "sdk": repo.sdk,
        "cardData": card,
        "siblings": [_sibling(path, commit.files[path], "blobs" in request.query) for path in sorted(commit.files)],
    }
    for name in ("model-index", "pipeline_tag", "library_name"):
        if name in card:
            found[name] = card[name]
    results = [path for path in commit.files if re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path)]
    if results:
        found["evalResults"] = [
            {"filename": path, "data": entry} for path in results for entry in yaml.safe_load(commit.files[path].data)
        ]
    return Answer(found)


def _sibling(path: str, blob: Blob, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return {"rfilename": path, "size": len(blob.data), "blobId": blob.oid, **({"lfs": lfs} if blob.is_lfs else {})}


@route("refs", "GET", REPO + r"/refs")
def refs(request: Request) -> Answer:
    repo = request.repo

    def listed(prefix: str, table: dict[Any, str]) -> list[dict[str, str]]:
        return [{"name": str(k), "ref": f"{prefix}{k}", "targetCommit": sha} for k, sha in table.items()]

    answer = {"branches": listed("refs/heads/", repo.branches), "tags": listed("refs/tags/", repo.tags), "converts": []}
    if "include_prs" in request.query:
        answer["pullRequests"] = listed("refs/pr/", repo.pulls)
    return Answer(answer)


@route("commits", "GET", REPO + r"/commits/(?P<revision>[^/]+)")
def commits(request: Request) -> Answer:
    return Answer(
        [
            {"id": c.sha, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
            for c in request.repo.history(request.revision)
        ]
    )


@route("tree", "GET", REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
def tree(request: Request) -> Answer:
    commit = request.repo.resolve(request.revision)
    folder = (request.parts.get("path") or "").strip("/")
    recursive = request.query.get("recursive", "").lower() == "true"
    found = [
        entry
        for entry in _entries(commit)
        if is_under(entry["path"], folder)
        and (recursive or str(PurePosixPath(entry["path"]).parent) == (folder or "."))
    ]
    if folder and not found:
        raise Refusal(404, f"{folder} does not exist on {request.revision}", code="EntryNotFound")
    return Answer(found)


def is_under(path: str, folder: str) -> bool:
    return not folder or path.startswith(folder + "/")


def _entries(commit: Commit) -> Iterator[dict[str, Any]]:
    """Every folder and file of a commit as tree and paths-info list them."""
    folders = {str(p) for path in commit.files for p in PurePosixPath(path).parents} - {"."}
    for folder in sorted(folders):
        inside = sorted((p, b.oid) for p, b in commit.files.items() if is_under(p, folder))
        yield {"type": "directory", "oid": Blob(json.dumps(inside).encode()).oid, "size": 0, "path": folder}
    for path, blob in sorted(commit.files.items()):
        entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
        yield entry


@route("paths-info", "POST", REPO + r"/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Request) -> Answer:
    asked = {path.strip("/") for path in parse_qs(request.body.decode()).get("paths", [])}
    return Answer([entry for entry in _entries(request.repo.resolve(request.revision)) if entry["path"] in asked])


@route("resolve", "GET HEAD", PAGE + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Request) -> Answer:
    """A file, or the part of it that a Range header asks for."""
    repo = request.repo
    commit = repo.resolve(request.revision)
    request.store.may_read_files(repo, request.user)
    commit, blob = repo.blob(commit.sha, request.parts["path"])
    size = len(blob.data)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    if blob.is_lfs:
        headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{blob.etag}"'}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not asked:
        return Answer(headers=headers, body=blob.data)
    start, stop = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
    if start >= size:
        raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(status=206, headers=headers, body=blob.data[start:stop])


@route("xet", "GET", REPO + r"/xet-(?:read|write)-token/.+")
def no_xet(request: Request) -> Answer:
    raise Refusal(404, "Xet storage is not enabled for this repository; set HF_HUB_DISABLE_XET=1")
