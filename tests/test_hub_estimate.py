"""`hf-llc estimate` of models and data of the Hub: the result, every fault in turn, and what is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub import Hub
from hub.client import Done
from test_hub_client import put_data, put_model

ESTIMATE = [
    *("estimate", "--model", "org/tiny", "--revision", "step1000", "--data", "org/set", "--subset", "english"),
    *("--split", "train", "--num-chains", "2", "--num-draws", "20", "--num-burnin-steps", "5", "--step-size", "1e-5"),
    *("--max-length", "16", "--output", "out"),
]
UNREACHABLE = (
    r"the (model|data set) is neither a local (folder|path) nor in the cache, and the Hub cannot be reached, .*"
)
ENDED = (0, 3)
"""So short a run is seldom trustworthy; it is an estimate all the same."""


LINES_OF_TEXT = [f"line {i}: the cat sat on the mat" for i in range(60)]


class Setting:
    """A model and a data set on the Hub, and a folder to work in."""

    def __init__(self, hub: Hub, tmp_path: Path) -> None:
        self.hub, self.folder, self.out = hub, tmp_path / "work", tmp_path / "work" / "out"
        self.folder.mkdir()
        self.model = put_model(hub, tmp_path, "org/tiny", revision="step1000")
        self.data = put_data(hub, tmp_path, "org/set")

    def estimate(self, *more: str, drop: tuple[str, ...] = (), **options: Any) -> Done:
        """The command, with flags added, those in `drop` (with their values) left out."""
        argv = [*ESTIMATE, *more]
        for flag in drop:
            del argv[argv.index(flag) : argv.index(flag) + 2]
        return self.hub.fork(*argv, cwd=self.folder, **options)

    def result(self, done: Done) -> dict[str, Any]:
        """What it has written, taken away."""
        assert done.code in ENDED, done
        found = json.loads((self.out / "result.json").read_text())
        shutil.rmtree(self.out)
        return found

    def refused(self, done: Done, line: str) -> None:
        """One line, exit code 2, nothing on disk. A program of its own may say before that its imports are slow."""
        assert (done.code, done.out) == (2, ""), done
        said = done.err.removeprefix("hf_llc: importing torch and transformers\n")
        assert re.fullmatch(f"hf-llc: error: {line}\n", said), done.err
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def setting(hub: Hub, tmp_path: Path) -> Setting:
    return Setting(hub, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _warm(hub_server: Hub) -> None:
    """The first fork pays for the imports."""
    assert hub_server.fork("--version").code == 0


# What goes into the result


@pytest.mark.slow
def test_commits_of_model_and_data(setting: Setting) -> None:
    result = setting.result(setting.estimate())
    assert (result["model"]["id"], result["model"]["revision"]) == ("org/tiny", setting.model)
    data = result["data"]
    assert (data["id"], data["subset"], data["split"], data["revision"]) == (
        "org/set",
        "english",
        "train",
        setting.data,
    )
    files = [seen.path for seen in setting.hub.requests if seen.route == "resolve"]
    commits = {path.split("/resolve/")[1].split("/")[0] for path in files}
    assert commits == {setting.model, setting.data}  # every file by commit, none by branch


@pytest.mark.slow
def test_main_is_the_commit_that_it_means_now(setting: Setting, tmp_path: Path) -> None:
    hub = setting.hub
    put_model(hub, tmp_path, "org/tiny")
    model, data = (
        hub.put(name, {"notes.txt": "new"}, kind=k) for name, k in (("org/tiny", "model"), ("org/set", "dataset"))
    )
    result = setting.result(setting.estimate("--data-revision", "main", drop=("--revision",)))
    assert (result["model"]["revision"], result["data"]["revision"]) == (model, data)
    result = setting.result(setting.estimate("--data-revision", setting.data, "--revision", "main"))
    assert (result["model"]["revision"], result["data"]["revision"]) == (model, setting.data)


@pytest.mark.slow
def test_the_head_moves_while_it_loads(setting: Setting) -> None:
    """All files are of the commit that the revision meant when the run began."""
    hub = setting.hub
    hub.after("resolve", lambda: hub.put("org/tiny", {"config.json": "{}"}, revision="step1000"))
    assert setting.result(setting.estimate())["model"]["revision"] == setting.model
    assert hub.head("org/tiny", revision="step1000") != setting.model


@pytest.mark.slow
def test_streaming(setting: Setting) -> None:
    whole = setting.result(setting.estimate("--max-examples", "6"))
    streamed = setting.result(setting.estimate("--streaming", "--max-examples", "6"))
    assert streamed["data"]["revision"] == setting.data and streamed["data"]["num_examples"] == 6
    assert (streamed["llc"], streamed["init_loss"]) == (whole["llc"], whole["init_loss"])


@pytest.mark.slow
def test_from_the_cache_while_the_hub_is_down(setting: Setting, tmp_path: Path) -> None:
    hub, old = setting.hub, setting.data
    setting.result(setting.estimate())
    shutil.rmtree(tmp_path / "org-set")
    newer = put_data(hub, tmp_path, "org/set", revision="v2", words=("a", "ein"))
    assert setting.result(setting.estimate("--data-revision", "v2"))["data"]["revision"] == newer
    hub.stop()
    try:
        assert setting.result(setting.estimate("--data-revision", "v2"))["data"]["revision"] == newer
        result = setting.result(setting.estimate("--data-revision", old))  # not the one prepared last
        assert (result["model"]["revision"], result["data"]["revision"]) == (setting.model, old)
        setting.refused(setting.estimate("--data-revision", "0" * 40), UNREACHABLE)
        hub.forget_caches()
        setting.refused(setting.estimate(), UNREACHABLE)
    finally:
        hub.start()


@pytest.mark.slow
def test_offline_in_a_program_of_its_own(setting: Setting) -> None:
    online = setting.result(setting.estimate())
    count = len(setting.hub.requests)
    argv = ["-m", "hf_llc", *ESTIMATE]
    offline = setting.result(setting.hub.run(*argv, cwd=setting.folder, user=None, HF_HUB_OFFLINE="1"))
    assert len(setting.hub.requests) == count
    for name in ("model", "data", "llc"):
        assert offline[name] == online[name]
    argv[argv.index("english")] = "german"
    done = setting.hub.run(*argv, cwd=setting.folder, HF_HUB_OFFLINE="1")
    setting.refused(done, "the subset is not in the cache, and the Hub cannot be reached, got 'german'; .*")


@pytest.mark.slow
def test_private_and_gated(setting: Setting) -> None:
    hub = setting.hub
    model, data = hub.repo("org/tiny"), hub.repo("org/set", "dataset")
    model.private = True
    for user in ("other", None):
        line = "no such model, got 'org/tiny'; .* private ones need `hf auth login`"
        setting.refused(setting.estimate(user=user), line)
    model.private, model.gated, data.gated = False, "manual", "auto"
    terms = "log in with `hf auth login`, and accept its terms on its page if it has any"
    for user in ("other", None):
        setting.refused(setting.estimate(user=user), f"no access to the model, got 'org/tiny'; {terms}")
    model.granted.add("other")
    setting.refused(setting.estimate(user="other"), f"no access to the data set, got 'org/set'; {terms}")
    data.granted.add("other")
    assert setting.result(setting.estimate(user="other"))["data"]["revision"] == setting.data
    model.private = data.private = True
    hub.forget_caches()
    assert setting.result(setting.estimate(user="reader"))["model"]["revision"] == setting.model


# Refusals: what is not there


@pytest.mark.slow
def test_names_that_are_not_there(setting: Setting) -> None:
    check = "check the spelling; private ones need `hf auth login`"
    setting.refused(setting.estimate("--model", "org/none"), f"no such model, got 'org/none'; {check}")
    setting.refused(setting.estimate("--data", "org/none"), f"no such data set, got 'org/none'; {check}")
    setting.refused(setting.estimate("--tokenizer", "org/none"), f"no such tokenizer, got 'org/none'; {check}")
    setting.refused(
        setting.estimate("--revision", "step9"), "no such revision of the model, got 'step9'; check the spelling"
    )
    setting.refused(
        setting.estimate("--data-revision", "v9"), "no such revision of the data set, got 'v9'; check the spelling"
    )
    setting.refused(setting.estimate("--subset", "french"), "no such subset, got 'french'; allowed: english, german")
    setting.refused(
        setting.estimate(drop=("--subset",)), "the data set has several subsets; allowed: english, german; give subset"
    )
    setting.refused(setting.estimate("--split", "dev"), "no such split, got 'dev'; allowed: train")


@pytest.mark.slow
def test_a_repository_that_holds_no_model(setting: Setting) -> None:
    hub = setting.hub
    hub.put("org/empty", {"README.md": "# nothing"})
    done = setting.estimate("--model", "org/empty", drop=("--revision",))
    setting.refused(
        done, "config.json is missing or names no model_type, got 'org/empty'; is it a model of transformers."
    )
    hub.put("org/empty", {"config.json": hub.read("org/tiny", "config.json", revision="step1000")})
    done = setting.estimate("--model", "org/empty", drop=("--revision",))
    setting.refused(done, "the model has no safetensors weights, got 'org/empty'; convert it, .*")


@pytest.mark.slow
def test_shards_that_the_hub_lacks(setting: Setting, tmp_path: Path) -> None:
    """They are named before any of the others is asked for."""
    folder = tiny.save_llama(tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    tiny.llama().save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    for lost, named in ((shards[1:2], shards[1]), (shards, rf"{shards[0]}, {shards[1]}, {shards[2]}, …")):
        for name in lost:
            (folder / name).unlink(missing_ok=True)
        setting.hub.put(f"org/shards{len(lost)}", folder)
        count = len(setting.hub.requests)
        done = setting.estimate("--model", f"org/shards{len(lost)}", drop=("--revision",))
        setting.refused(
            done, rf"files of weights are missing \({len(lost)}\): {named}, got 'org/shards{len(lost)}'; download .*"
        )
        assert not any("-of-0" in seen.path for seen in setting.hub.requests[count:])


# Refusals: every fault in turn, and the same command once it is gone

PLACES: dict[str, tuple[str, str]] = {
    "the model's commit": ("info", "models/"),
    "its config": ("resolve", r"/config\.json"),
    "its tokenizer": ("resolve", r"tokenizer\.json"),
    "its tokenizer's settings": ("resolve", r"tokenizer_config\.json"),
    "its weights": ("resolve", r"model\.safetensors"),
    "the data's commit": ("info", "datasets/"),
    "the data's card": ("resolve", r"datasets/.*README\.md"),
    "the data's listing": ("tree", "datasets/"),
    "the data": ("resolve", r"\.parquet"),
}
ASKED = r"asked for the (model org/tiny|data set org/set)\)"
LINES = {
    "bad token": rf"the Hub does not know your access token \({ASKED}; log in again .*unset HF_TOKEN",
    "forbidden": r"no access to the (model|data set), got 'org/\w+'; log in with `hf auth login`, .*",
    "gated": r"no access to the (model|data set), got 'org/\w+'; .* accept its terms on its page .*",
    "no repository": r"no such (model|data set), got 'org/\w+'; check the spelling; .*",
    "rate limited": rf"the Hub asks for fewer requests \(HTTP 429, {ASKED}; run the same command again in 1 s; .*",
    "server error": rf"the Hub has trouble \(HTTP 500, {ASKED}; run the same command again later",
    "cut": r"the download of the (model org/tiny|data set org/set) was cut off; run the same command again",
    "corrupt": r"a file came damaged from the Hub .*: [\w.-]+, got 'org/\w+'; run the same command again .*",
    "slow": UNREACHABLE,
}
ANSWERS = ("bad token", "forbidden", "gated", "no repository", "rate limited", "server error")
QUICK = {
    "the model's commit": ["bad token"],
    "its tokenizer's settings": ["forbidden"],
    "the data's commit": ["no repository"],
    "its weights": ["gated", "rate limited", "server error", "cut"],
    "the data": ["corrupt"],
}


def meet(setting: Setting, place: str, name: str, *more: str) -> None:
    """The fault lasts: one line that names the remedy, and nothing on disk."""
    route, match = PLACES[place]
    method = "GET" if name in ("cut", "corrupt", "slow") else ""
    setting.hub.forget_caches()
    count = len(setting.hub.requests)
    setting.hub.fail(route, name, times=None, match=match, method=method)
    setting.refused(setting.estimate(*more), LINES[name])
    assert any(seen.route == route and re.search(match, seen.path) for seen in setting.hub.requests[count:])
    setting.hub.lift()


def over(setting: Setting, *more: str) -> dict[str, Any]:
    """The fault is gone: the same command works, with whatever the cache now holds."""
    result = setting.result(setting.estimate(*more))
    assert (result["model"]["revision"], result["data"]["revision"]) == (setting.model, setting.data)
    return result


@pytest.mark.slow
def test_a_fault_of_each_kind(setting: Setting) -> None:
    for place, names in QUICK.items():
        for name in names:
            meet(setting, place, name)
    over(setting)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_every_fault_at_every_place(setting: Setting, place: str) -> None:
    names = [*ANSWERS, *(("cut", "corrupt") if PLACES[place][0] == "resolve" else ())]
    if place in ("its weights", "the data"):
        names.append("slow")
    for name in names:
        meet(setting, place, name)
    over(setting)


@pytest.mark.slow
def test_a_fault_and_right_after_it(setting: Setting) -> None:
    for name in ("forbidden", "rate limited", "cut", "corrupt"):
        meet(setting, "its weights", name)
        over(setting)


@pytest.mark.slow
def test_a_fault_in_a_stream(setting: Setting) -> None:
    more = ("--streaming", "--max-examples", "6")
    for name in ("bad token", "forbidden", "server error"):
        meet(setting, "the data", name, *more)
    over(setting, *more)
    setting.hub.put("org/lines", {"train.txt": "\n".join(LINES_OF_TEXT)}, kind="dataset")
    setting.hub.fail("resolve", "forbidden", match=r"train\.txt", times=None)  # text is opened when rows are asked for
    done = setting.estimate("--data", "org/lines", *more, drop=("--subset",))
    setting.refused(done, "no access to the data set, got 'org/lines'; .*")


@pytest.mark.slow
def test_faults_that_pass_are_not_noticed(setting: Setting) -> None:
    """The client asks again of its own accord; there is no second layer of that here."""
    fail = setting.hub.fail
    fail("resolve", "rate limited", match=r"/config\.json")
    fail("resolve", "server error", match=r"tokenizer\.json", times=2)
    fail("resolve", "cut", match=r"safetensors", method="GET", times=2)
    fail("resolve", "slow", match=r"parquet", method="GET")
    done = setting.estimate()
    assert setting.result(done)["data"]["revision"] == setting.data
    assert done.err == ""
    assert {429, 500} < {seen.status for seen in setting.hub.requests}


@pytest.mark.slow
def test_damage_that_no_reader_notices(setting: Setting) -> None:
    """A flipped bit in the weights is another model, in a text another text; the hash tells, and the cache is clean."""
    hub = setting.hub
    commit = hub.put("org/lines", {"train.txt": "\n".join(LINES_OF_TEXT)}, kind="dataset")
    argv = {"drop": ("--subset",)}
    for match, name in ((r"model\.safetensors", "org/tiny"), (r"train\.txt", "org/lines")):
        hub.fail("resolve", "corrupt", match=match, method="GET")
        setting.refused(
            setting.estimate("--data", "org/lines", **argv), rf"a file came damaged .*: {match}, got '{name}'; .*"
        )
    first = setting.result(setting.estimate("--data", "org/lines", **argv))
    hub.forget_caches()
    second = setting.result(setting.estimate("--data", "org/lines", **argv))
    assert first["data"]["revision"] == commit
    assert first["init_loss"] == second["init_loss"]


# What is written


@pytest.mark.slow
def test_nothing_written_names_token_place_or_host(setting: Setting) -> None:
    hub, host = setting.hub, socket.gethostname()
    secrets = [hub.token("me"), str(hub.home), str(setting.folder), str(Path.home()) + "/", os.getcwd()]
    secrets += [hub.endpoint, f"127.0.0.1:{hub.port}"]

    def clean(done: Done) -> None:
        files = {str(path): path.read_bytes() for path in setting.out.rglob("*") if path.is_file()}
        for where, data in {"stdout": done.out.encode(), "stderr": done.err.encode(), **files}.items():
            found = [secret for secret in secrets if secret.encode() in data]
            if not where.endswith((".png", ".safetensors")):  # a short host name is in any heap of bytes
                found += re.findall(rf"\b{re.escape(host)}\b", data.decode())
            assert not found, f"{found} in {where}"

    local = setting.folder / "data.txt"
    local.write_text("\n\n".join(LINES_OF_TEXT))
    for more, drop in ((("--json",), ()), (("--data", str(local)), ("--subset", "--split"))):
        done = setting.estimate(*more, drop=drop)
        assert done.code in ENDED and (setting.out / "run.json").exists()
        clean(done)
        shutil.rmtree(setting.out)
    for route, name in (
        ("info", "bad token"),
        ("resolve", "forbidden"),
        ("resolve", "server error"),
        ("resolve", "cut"),
    ):
        hub.forget_caches()
        hub.fail(route, name, times=None)
        done = setting.estimate()
        assert done.code == 2
        clean(done)
        hub.lift()
