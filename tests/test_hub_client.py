"""The unmodified huggingface_hub, transformers, datasets and evaluate work against the test Hub."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub import Hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 400
FILES = {"README.md": "---\nlicense: mit\n---\n# A model\n", "config.json": "{}", "model.safetensors": WEIGHTS}


def add(path: str, data: bytes | str) -> CommitOperationAdd:
    return CommitOperationAdd(path, data.encode() if isinstance(data, str) else data)


def download(hub: Hub, name: str, path: str, cache: Path, *, user: str = "me", **more: Any) -> Path:
    token = hub.token(user)
    return Path(hf_hub_download(name, path, endpoint=hub.endpoint, token=token, cache_dir=cache, **more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "sub" / "deep" / "notes.txt").write_text("notes")
    return path


def test_whoami(hub: Hub) -> None:
    who = hub.api().whoami()
    assert who["name"] == "me" and who["auth"]["accessToken"]["role"] == "write"
    assert [each["name"] for each in who["orgs"]] == ["org"]
    assert hub.api("reader").whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub.api().whoami(token="hf_nobody")


def test_folder_goes_up_and_comes_down(hub: Hub, folder: Path, tmp_path: Path) -> None:
    api = hub.api()
    assert str(api.create_repo("me/model")) == f"{hub.endpoint}/me/model"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/model")
    api.create_repo("me/model", exist_ok=True)
    commit = api.upload_folder(repo_id="me/model", folder_path=folder, commit_message="first")
    assert [seen.route for seen in hub.requests].count("lfs-upload") == 1
    info = api.model_info("me/model", files_metadata=True)
    assert info.sha == commit.oid == hub.head("me/model") and info.card_data.license == "mit"
    siblings = {each.rfilename: each for each in info.siblings}
    assert set(siblings) == {*FILES, "sub/deep/notes.txt"}
    assert siblings["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert siblings["config.json"].blob_id == hashlib.sha1(b"blob 2\0{}").hexdigest()
    root = Path(snapshot_download("me/model", endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False))
    assert root.name == commit.oid and (root / "sub/deep/notes.txt").read_text() == "notes"
    assert (root / "model.safetensors").read_bytes() == WEIGHTS
    assert (root / "model.safetensors").resolve().name == hashlib.sha256(WEIGHTS).hexdigest()
    again = api.upload_folder(repo_id="me/model", folder_path=folder, commit_message="second")
    assert again.oid == commit.oid  # nothing has changed: no commit
    assert [each.title for each in api.list_repo_commits("me/model")] == ["first", "initial commit"]


def test_tree_paths_and_refs(hub: Hub, folder: Path) -> None:
    api, sha = hub.api(), hub.put("org/data", folder, kind="dataset", tags=["v1"])
    tree = api.list_repo_tree("org/data", repo_type="dataset")
    assert [each.path for each in tree] == ["sub", "README.md", "config.json", "model.safetensors"]
    assert [each.path for each in api.list_repo_tree("org/data", "sub/deep", repo_type="dataset")] == [
        "sub/deep/notes.txt"
    ]
    assert set(api.list_repo_files("org/data", repo_type="dataset")) == {*FILES, "sub/deep/notes.txt"}
    paths = api.get_paths_info("org/data", ["model.safetensors", "sub", "none"], repo_type="dataset")
    assert {each.path for each in paths} == {"model.safetensors", "sub"}
    api.create_branch("org/data", branch="step1", repo_type="dataset")
    api.create_tag("org/data", tag="v2", revision="step1", repo_type="dataset")
    refs = api.list_repo_refs("org/data", repo_type="dataset", include_pull_requests=True)
    assert {x.name: x.target_commit for x in refs.branches + refs.tags} == dict.fromkeys(
        ["main", "step1", "v1", "v2"], sha
    )
    assert refs.pull_requests == []
    for revision in ("v1", sha, sha[:8], "refs/heads/step1"):
        assert api.dataset_info("org/data", revision=revision).sha == sha
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info("org/data", revision="v3")
    api.delete_repo("org/data", repo_type="dataset")
    assert not api.repo_exists("org/data", repo_type="dataset")


def test_a_file_at_a_revision_and_a_part_of_it(hub: Hub, tmp_path: Path) -> None:
    old = hub.put("me/model", {"a.txt": "old"}, revision="step1000")
    hub.put("me/model", {"a.txt": "new"})
    path = download(hub, "me/model", "a.txt", tmp_path, revision="step1000")
    assert path.read_text() == "old" and path.parent.name == old
    assert download(hub, "me/model", "a.txt", tmp_path).read_text() == "new"
    with pytest.raises(EntryNotFoundError):
        download(hub, "me/model", "b.txt", tmp_path)
    import httpx

    answer = httpx.get(f"{hub.endpoint}/me/model/resolve/main/a.txt", headers={"Range": "bytes=1-"})
    assert (answer.status_code, answer.text, answer.headers["Content-Range"]) == (206, "ew", "bytes 1-2/3")
    past = httpx.get(f"{hub.endpoint}/me/model/resolve/main/a.txt", headers={"Range": "bytes=9-"})
    assert past.status_code == 416


def test_deletion_and_copy(hub: Hub, folder: Path) -> None:
    from huggingface_hub import CommitOperationCopy

    hub.put("me/model", folder)
    operations = [CommitOperationDelete("sub/"), CommitOperationCopy("model.safetensors", "copy.safetensors")]
    hub.api().create_commit("me/model", operations, commit_message="tidy")
    assert set(hub.api().list_repo_files("me/model")) == {*FILES, "copy.safetensors"}
    assert hub.read("me/model", "copy.safetensors") == WEIGHTS


def test_pull_request_and_merge(hub: Hub) -> None:
    hub.put("me/model", {"a.txt": "a", "b.txt": "b"})
    other, mine = hub.api("other"), hub.api()
    made = other.create_commit("me/model", [add("a.txt", "better")], commit_message="Better", create_pr=True)
    assert (
        made.pr_num == 1 and made.pr_revision == "refs/pr/1" and made.pr_url == f"{hub.endpoint}/me/model/discussions/1"
    )
    other.create_commit("me/model", [add("c.txt", "c")], commit_message="More", revision="refs/pr/1")
    assert hub.read("me/model", "a.txt") == b"a" and hub.read("me/model", "a.txt", revision="refs/pr/1") == b"better"
    with pytest.raises(HfHubHTTPError, match="403"):
        other.merge_pull_request("me/model", 1)
    mine.create_commit("me/model", [add("b.txt", "meanwhile")], commit_message="Meanwhile")
    details = mine.get_discussion_details("me/model", 1)
    assert (details.status, details.target_branch, details.conflicting_files) == ("open", "refs/heads/main", [])
    mine.comment_discussion("me/model", 1, comment="Thanks")
    mine.merge_pull_request("me/model", 1)
    merged = mine.get_discussion_details("me/model", 1)
    assert merged.status == "merged" and merged.merge_commit_oid == hub.head("me/model")
    files = {name: hub.read("me/model", name) for name in mine.list_repo_files("me/model")}
    assert files == {"a.txt": b"better", "b.txt": b"meanwhile", "c.txt": b"c"}
    assert [(x.num, x.is_pull_request) for x in mine.get_repo_discussions("me/model")] == [(1, True)]


def test_conflicts(hub: Hub) -> None:
    first = hub.put("me/model", {"a.txt": "a"})
    api = hub.api()
    api.create_commit("me/model", [add("a.txt", "pr")], commit_message="PR", create_pr=True)
    api.create_commit("me/model", [add("a.txt", "main")], commit_message="Main", parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("me/model", [add("a.txt", "late")], commit_message="Late", parent_commit=first)
    assert api.get_discussion_details("me/model", 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.merge_pull_request("me/model", 1)
    api.change_discussion_status("me/model", 1, "closed")
    assert api.get_discussion_details("me/model", 1).status == "closed"
    assert hub.read("me/model", "a.txt") == b"main"
    opened = api.create_pull_request("me/model", "From nothing")
    assert (opened.num, opened.status) == (2, "draft")


def test_who_may_do_what(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/private", FILES, private=True)
    hub.put("org/gated", FILES, gated=True)
    hub.put("other/public", FILES)
    assert download(hub, "me/private", "config.json", tmp_path, user="reader").read_text() == "{}"
    for user in ("other", None):
        with pytest.raises(RepositoryNotFoundError):
            hub.api(user).model_info("me/private")
        assert hub.api(user).model_info("org/gated").gated == "auto"
    with pytest.raises(GatedRepoError, match="403"):
        download(hub, "org/gated", "config.json", tmp_path, user="other")
    with pytest.raises(GatedRepoError, match="401"):
        hf_hub_download("org/gated", "config.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    hub.api().grant_access("org/gated", "other")
    assert download(hub, "org/gated", "config.json", tmp_path, user="other").read_text() == "{}"
    for user, name in (("reader", "me/private"), ("me", "other/public")):
        with pytest.raises(HfHubHTTPError, match="403"):
            hub.api(user).create_commit(name, [add("x", "x")], commit_message="x")
    with pytest.raises(HfHubHTTPError, match="403"):
        hub.api("reader").create_repo("me/new")
    hub.api().update_repo_settings("me/private", private=False)
    assert hub.api("other").model_info("me/private").private is False


def test_upload_with_the_wrong_hash_is_refused(hub: Hub) -> None:
    hub.put("me/model", {"a.txt": "a"})
    operation = add("model.safetensors", WEIGHTS)
    operation.upload_info.sha256 = hashlib.sha256(b"other").digest()
    with pytest.raises(RuntimeError, match=r"model\.safetensors") as caught:
        hub.api().create_commit("me/model", [operation], commit_message="x")
    assert "does not match its SHA-256" in str(caught.value.__cause__)
    assert "model.safetensors" not in hub.api().list_repo_files("me/model")


def test_card_metadata(hub: Hub) -> None:
    hub.put("me/model", {"a.txt": "a"})
    card = ModelCard("---\nlicense: mit\nmodel-index:\n- name: m\n  results: []\n---\n# Card\n")
    hub.api().upload_file(repo_id="me/model", path_in_repo="README.md", path_or_fileobj=str(card).encode())
    assert hub.api().model_info("me/model").model_index == [{"name": "m", "results": []}]
    bad = b"---\nmodel-index:\n- results: []\n---\n"
    with pytest.raises(ValueError, match=r"model-index.* is required"):
        hub.api().upload_file(repo_id="me/model", path_in_repo="README.md", path_or_fileobj=bad)


@pytest.mark.slow
def test_faults_are_met_in_turn_and_lifted(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/model", FILES)
    hub.fail("info", "no repository")
    hub.fail("info", "server error", times=None)
    with pytest.raises(RepositoryNotFoundError):
        hub.api().model_info("me/model")
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            hub.api().model_info("me/model")
    hub.lift()
    assert hub.api().model_info("me/model").sha == hub.head("me/model")
    hub.fail("commit", "head moved")
    with pytest.raises(HfHubHTTPError, match="412"):
        hub.api().create_commit("me/model", [add("a", "a")], commit_message="a")
    hub.fail("preupload", "rate limited")
    begun = time.monotonic()
    hub.api().create_commit("me/model", [add("a", "a")], commit_message="a")
    assert time.monotonic() - begun > 1  # the client heeds Retry-After
    hub.fail("resolve", "cut", method="GET", match="safetensors")
    assert download(hub, "me/model", "model.safetensors", tmp_path).read_bytes() == WEIGHTS  # it asks again
    assert [x.status for x in hub.requests if x.route == "resolve" and x.method == "GET"] == [200, 200]
    hub.fail("resolve", "corrupt", method="GET")
    assert download(hub, "me/model", "config.json", tmp_path).read_bytes() != b"{}"  # it does not look


def test_a_hub_that_is_down_comes_back(hub: Hub) -> None:
    import httpx2

    hub.put("me/model", FILES)
    hub.stop()
    with pytest.raises(httpx2.ConnectError):
        hub.api().model_info("me/model")
    hub.start()
    assert hub.api().model_info("me/model").sha == hub.head("me/model")


CODE = """
import json, sys
import datasets, evaluate, transformers
model = transformers.AutoModelForCausalLM.from_pretrained("me/tiny", revision="step1000")
config = transformers.utils.cached_file("me/tiny", "config.json", revision="step1000", local_files_only=True)
tokenizer = transformers.AutoTokenizer.from_pretrained("me/tiny")
builder = datasets.load_dataset_builder("me/data", "english")
parquet = datasets.load_dataset("me/data", "english", split="train")
text = datasets.load_dataset("me/lines", split="train")
stream = datasets.load_dataset("me/data", "german", split="train", streaming=True)
metric = evaluate.load("me/exact")
print(json.dumps({
    "commit": config.split("/")[-2], "vocabulary": len(tokenizer), "english": list(parquet["text"]),
    "lines": list(text["text"]), "german": [row["text"] for row in stream], "data": builder.hash,
    "metric": metric.compute(predictions=[1, 2], references=[1, 3]),
}))
"""

METRIC = """
import datasets
import evaluate

class Exact(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="d", citation="c", inputs_description="i", features=features)

    def _compute(self, predictions, references):
        return {"exact": sum(p == r for p, r in zip(predictions, references)) / len(predictions)}
"""


def put_data(
    hub: Hub, tmp_path: Path, name: str = "me/data", *, words: tuple[str, str] = ("the", "der"), **more: Any
) -> str:
    """A data set of two subsets in parquet, as its README says."""
    from datasets import Dataset

    root = tmp_path / name.replace("/", "-")
    for language, word in zip(("english", "german"), words, strict=True):
        (root / language).mkdir(parents=True)
        rows = [f"{word} {sentence}" for sentence in tiny.SENTENCES]
        Dataset.from_dict({"text": rows}).to_parquet(root / language / "train-00000-of-00001.parquet")
    configs = [{"config_name": x, "data_files": f"{x}/train-*"} for x in ("english", "german")]
    (root / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return hub.put(name, root, kind="dataset", **more)


def put_model(hub: Hub, tmp_path: Path, name: str = "me/tiny", *, seed: int = 1, **more: Any) -> str:
    """A tiny language model with its tokenizer."""
    root = tmp_path / name.replace("/", "-")
    tiny.save_llama(root, seed=seed)
    return hub.put(name, root, **more)


@pytest.mark.slow
def test_transformers_datasets_and_evaluate(hub: Hub, tmp_path: Path) -> None:
    step = put_model(hub, tmp_path, revision="step1000")
    put_model(hub, tmp_path)
    data = put_data(hub, tmp_path)
    hub.put("me/lines", {"train.txt": "one\ntwo\n"}, kind="dataset")
    hub.put("me/exact", {"exact.py": METRIC}, kind="space")
    done = hub.fork("-c", CODE)
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert found["commit"] == step and found["vocabulary"] == len(tiny.tokenizer())
    assert found["english"] == [f"the {text}" for text in tiny.SENTENCES]
    assert found["german"] == [f"der {text}" for text in tiny.SENTENCES]
    assert found["lines"] == ["one", "two"] and found["metric"] == {"exact": 0.5}
    assert found["data"] == data
