"""Publishing to a Hub: one commit, pull requests, a head that moves, and every fault with its retry."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub import Hub
from huggingface_hub import ModelCard
from test_result import make_result

from hf_llc.cli.entry_point import main
from hf_llc.embedded import model_path, text_path
from hf_llc.errors import InputError
from hf_llc.publishing import hub as publishing
from hf_llc.publishing.hub import PublishError, publish
from hf_llc.publishing.markers import BEGIN, END
from hf_llc.publishing.options import PublishOptions
from hf_llc.result import LLCResult

THEIRS = "---\nlicense: mit  # theirs\n---\n# A model\r\n\nof theirs 🐢\n"
FILES = ["llc/result.json", "llc/trace.png", "llc/trace.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result on disk, drawn once."""
    return make_result().save(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, `run` in the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(saved, "run"))


def change(run: Path, **values: Any) -> None:
    """Other numbers in the saved result."""
    path = run / "result.json"
    written = json.loads(path.read_text())
    del written["seal"]  # as a file of an older version
    path.write_text(json.dumps({**written, **values}))


@pytest.fixture
def here(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The Hub, for this process's own client as the user `me`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    return hub


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def titles(hub: Hub, name: str = "me/model", **more: Any) -> list[str]:
    return [each.title for each in hub.api().list_repo_commits(name, **more)]


def card_of(hub: Hub, revision: str = "main") -> str:
    return hub.read("me/model", "README.md", revision=revision).decode()


def assert_one(card: str, value: float) -> None:
    """One section, one entry, all of theirs."""
    assert (card.count(BEGIN), card.count(END)) == (1, 1)
    assert (
        card.startswith("---\nlicense: mit  # theirs\nmodel-index:") and "\n---\n# A model\r\n\nof theirs 🐢\n" in card
    )
    assert [each.metric_value for each in ModelCard(card).data.eval_results] == [value]


@pytest.mark.slow
def test_new_repository(hub: Hub, run: Path) -> None:
    done = hub.fork("publish", "run", "--repo", "me/model", "--private")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"published  {hub.endpoint}/me/model/commit/{hub.head('me/model')}\n"
    assert hub.repo("me/model").private
    assert titles(hub) == ["Local learning coefficient: λ̂ = 12.03 ± 0.14", "initial commit"]
    info = hub.api().model_info("me/model")
    assert sorted({each.rfilename for each in info.siblings} - {".gitattributes"}) == ["README.md", *FILES]
    (metric,) = info.model_index[0]["results"][0]["metrics"]
    assert info.model_index[0]["name"] == "model"
    assert metric["value"] == make_result().llc and metric["args"]["standard_error"] == make_result().llc_se
    for name in FILES:
        assert hub.read("me/model", name) == (run / Path(name).name).read_bytes()


@pytest.mark.slow
def test_pull_request_merge_and_again(hub: Hub, run: Path) -> None:
    hub.put("me/model", {"README.md": THEIRS, "config.json": "{}"})
    done = hub.fork("publish", "run", "--repo", "me/model", "--create-pr")
    assert (done.code, done.out) == (0, f"published  {hub.endpoint}/me/model/discussions/1\n")
    assert card_of(hub) == THEIRS
    hub.api().merge_pull_request("me/model", 1)
    assert_one(card_of(hub), make_result().llc)
    first = card_of(hub)
    assert hub.fork("publish", "run", "--repo", "me/model").code == 0
    assert card_of(hub) == first and len(titles(hub)) == 3  # put, pull request, merge: nothing new
    change(run, llc=7.0)
    assert hub.fork("publish", "run", "--repo", "me/model").code == 0
    assert_one(card_of(hub), 7.0)
    assert json.loads(hub.read("me/model", "llc/result.json"))["llc"] == 7.0
    assert hub.read("me/model", "config.json") == b"{}"


@pytest.mark.slow
def test_pull_request_to_the_model_of_another(hub: Hub, run: Path) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    refused = hub.fork("publish", "run", "--repo", "me/model", user="other")
    assert refused.code == 1 and "forbids it (403)" in refused.err
    assert hub.fork("publish", "run", "--repo", "me/model", "--create-pr", user="other").code == 0
    assert card_of(hub) == THEIRS
    assert_one(card_of(hub, "refs/pr/1"), make_result().llc)
    change(run, llc=7.0)
    done = hub.fork("publish", "run", "--repo", "me/model", "--revision", "refs/pr/1", user="other")
    assert done.code == 0, done.err
    assert_one(card_of(hub, "refs/pr/1"), 7.0)


@pytest.mark.slow
def test_revision_and_benchmark(hub: Hub, run: Path) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    missing = hub.fork("publish", "run", "--repo", "me/model", "--revision", "dev")
    assert missing.code == 1 and "no such revision (404)" in missing.err and "--revision dev" in missing.err
    hub.api().create_branch("me/model", branch="dev")
    argv = ["publish", "run", "--repo", "me/model", "--revision", "dev", "--benchmark-dataset", "some/data"]
    for _ in range(2):
        assert hub.fork(*argv).code == 0
    assert card_of(hub) == THEIRS
    assert_one(card_of(hub, "dev"), make_result().llc)
    (entry,) = yaml.safe_load(hub.read("me/model", ".eval_results/llc.yaml", revision="dev"))
    assert (entry["dataset"], entry["value"]) == ({"id": "some/data", "task_id": "llc"}, make_result().llc)


@pytest.mark.slow
def test_dry_run_changes_nothing(hub: Hub, run: Path) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    head = hub.head("me/model")
    done = hub.fork("publish", "run", "--repo", "me/model", "--dry-run")
    assert done.code == 0 and done.out.startswith("--- a/README.md\n+++ b/README.md\n@@")
    assert "**λ̂ = 12.03 ± 0.14**" in done.out and "\n-" not in done.out.removeprefix("---")
    assert hub.fork("publish", "run", "--repo", "me/none", "--dry-run").out.startswith("--- /dev/null\n")
    assert hub.head("me/model") == head and {each.status for each in hub.requests if each.method != "GET"} <= {200}
    assert ("model", "me/none") not in hub.store.repos
    assert {each.method for each in hub.requests} <= {"GET", "HEAD"}


def test_head_that_moves_meanwhile(here: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("me/model", {"README.md": "old"})
    merge, moved = publishing.merge_card, iter(["newer", THEIRS])

    def merge_slowly(readme: str, *args: Any, **more: Any) -> str:
        merged = merge(readme, *args, **more)
        for text in moved:  # somebody commits between the reading and the commit: twice
            here.put("me/model", {"README.md": text})
            break
        return merged

    monkeypatch.setattr(publishing, "merge_card", merge_slowly)
    done = publish(LLCResult.load(run), "me/model")
    assert done.attempts == 3 and done.commit == here.head("me/model")
    assert_one(card_of(here), make_result().llc)
    assert len(titles(here)) == 5  # initial, three of theirs, one of ours


@pytest.mark.slow
def test_result_that_was_never_saved_is_saved_first(here: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here.fail("commit", "forbidden", times=None)
    with pytest.raises(PublishError, match="the result is whole in runs/model-") as refused:
        make_result().push_to_hub("me/model", private=False)
    assert "\n" not in str(refused.value)
    (folder,) = Path("runs").iterdir()
    assert LLCResult.load(folder) == make_result()
    here.lift()
    command = str(refused.value).split("to try again: ")[1]
    assert command == f"hf-llc publish {folder} --repo me/model --no-private"
    assert here.fork(*shlex.split(command)[1:]).code == 0
    assert make_result().push_to_hub("me/model").commit == here.head("me/model")
    assert list(Path("runs").iterdir()) == [folder]


def test_what_cannot_be_merged_leaves_no_repository(here: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card and the files are looked at before the repository is made: there was an empty one left behind."""
    result = LLCResult.load(run)

    def refuse(*_: Any, **__: Any) -> str:
        raise InputError("planted")

    monkeypatch.setattr("hf_llc.publishing.hub.merge_card", refuse)
    with pytest.raises(InputError, match="planted"):
        result.push_to_hub("me/new")
    monkeypatch.undo()
    assert {seen.method for seen in here.requests} <= {"GET", "HEAD"}


@pytest.mark.slow
def test_bad_verdict_is_refused_before_anything_is_written(here: Hub, run: Path) -> None:
    with pytest.raises(InputError, match="not to be trusted"):
        publish(make_result(verdict="stuck"), "me/model")
    assert here.requests == [] and not Path("runs").exists()
    done = make_result(verdict="stuck").push_to_hub("me/model", allow_untrusted=True)
    assert done.commit == here.head("me/model") and titles(here)[0].startswith("Local learning coefficient")
    assert "Do not trust this estimate: stuck" in card_of(here)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"create_pr": True, "private": False, "dry_run": True},
        {"revision": "refs/pr/1", "private": True, "benchmark_dataset": "a/b", "allow_untrusted": True},
    ],
)
def test_the_command_line_has_every_option(
    options: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`command` says the options again: parsed by the command line, they are the same."""
    calls: list[tuple[str, PublishOptions]] = []

    def fake(_: Any, repo_id: str, asked: PublishOptions) -> publishing.Published:
        calls.append((repo_id, asked))
        return publishing.Published(diff="")

    monkeypatch.setattr(publishing, "publish", fake)
    asked = PublishOptions(**options)
    command = asked.command(run, "me/model")
    assert asked.given() == options and main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert calls == [("me/model", asked)]
    with pytest.raises(TypeError, match="create_prr"):
        make_result().push_to_hub("me/model", create_prr=True)


FAULTS = [
    ("info", "bad token", "log in with `hf auth login`"),
    ("commit", "no repository", "404"),
    ("commit", "conflict", "kept changing meanwhile"),
    ("preupload", "rate limited", "(429)"),
    ("commit", "server error", "(500)"),
    ("resolve", "cut", "check the network"),
    ("commit", "cut", "check the network"),
]
MORE_FAULTS = [
    ("commit", "bad token", "log in with `hf auth login`"),
    ("info", "forbidden", "403"),
    ("resolve", "gated", "403"),
    ("preupload", "forbidden", "403"),
    ("commit", "head moved", "kept changing meanwhile"),
    ("info", "rate limited", "takes no more requests for now (429)"),
    ("commit", "rate limited", "(429)"),
    ("info", "server error", "has a fault of its own (500)"),
    ("resolve", "server error", "(500)"),
    ("lfs-batch", "server error", "(500)"),
    ("lfs-upload", "server error", "(500)"),
    ("validate-yaml", "server error", "(500)"),
    ("info", "cut", "check the network"),
    ("lfs-batch", "cut", "check the network"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "fault", "said"), [*FAULTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_FAULTS)]
)
def test_fault_leaves_the_result_whole_and_the_retry_works(
    route: str, fault: str, said: str, hub: Hub, run: Path
) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    before = content(run)
    hub.fail(route, fault, times=None)
    done = hub.fork("publish", "run", "--repo", "me/model", "--no-private")
    assert done.code == 1 and done.out == ""
    line = done.err.splitlines()[-1]
    assert line.startswith("hf-llc: error: not published to me/model: ") and said in line
    assert "Traceback" not in done.err and hub.token("me") not in done.err
    assert content(run) == before
    hub.lift()
    command = line.split("the result is whole in run; to try again: ")[1]
    assert hub.fork(*shlex.split(command)[1:]).code == 0
    assert_one(card_of(hub), make_result().llc)
    assert content(run) == before


@pytest.mark.slow
def test_no_network_and_no_login(hub: Hub, run: Path) -> None:
    before = content(run)
    hub.stop()
    done = hub.fork("publish", "run", "--repo", "me/model")
    hub.start()
    assert done.code == 1 and "no connection to the Hub" in done.err.splitlines()[-1]
    for user, said in ((None, "log in with `hf auth login`"), ("reader", "403")):
        done = hub.fork("publish", "run", "--repo", "me/model", user=user)
        assert done.code == 1 and said in done.err.splitlines()[-1]
    assert content(run) == before and ("model", "me/model") not in hub.store.repos


def test_offline_mode(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests' own setting, without a Hub that lifts it."""
    assert main(["publish", "run", "--repo", "me/model"]) == 1
    assert capsys.readouterr().err == (
        "hf-llc: error: not published to me/model: offline mode is on; unset HF_HUB_OFFLINE; the result is whole in "
        "run; to try again: hf-llc publish run --repo me/model\n"
    )


@pytest.mark.slow
def test_faults_that_pass_are_not_noticed(hub: Hub, run: Path) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    for route, fault in (("commit", "head moved"), ("lfs-batch", "rate limited"), ("lfs-upload", "server error")):
        hub.fail(route, fault)
    assert hub.fork("publish", "run", "--repo", "me/model").code == 0
    assert_one(card_of(hub), make_result().llc)


def test_no_secret_in_what_is_written(hub: Hub, run: Path) -> None:
    """Every file in the repository and in the run's folder, text and binary."""
    hub.put("me/model", {"README.md": THEIRS})
    assert hub.fork("publish", "run", "--repo", "me/model", "--benchmark-dataset", "a/b").code == 0
    names = hub.api().list_repo_files("me/model")
    written = {**content(run), **{name: hub.read("me/model", name) for name in names}}
    assert {*FILES, "README.md", ".eval_results/llc.yaml", "run/card.md"} <= set(written)
    secrets = [hub.token("me"), str(Path.home()), str(Path.cwd()), str(hub.home), "127.0.0.1"]
    secrets += [name for name in (socket.gethostname(),) if len(name) > 3]
    for name, data in written.items():
        for secret in secrets:
            assert secret.encode() not in data, (name, secret)


PUSH = """
from huggingface_hub import HfApi
api, model, text = HfApi(), {model!r}, {text!r}
api.create_repo("me/tiny")
api.upload_folder(repo_id="me/tiny", folder_path=model)
api.create_repo("me/stories", repo_type="dataset")
api.upload_file(path_or_fileobj=text, path_in_repo="validation.txt", repo_id="me/stories", repo_type="dataset")
"""
READ = """
import json
from huggingface_hub import ModelCard, model_info
(entry,) = ModelCard.load("me/tiny").data.eval_results
index = model_info("me/tiny").model_index[0]["results"][0]
print(json.dumps([vars(entry), index["metrics"][0]["value"]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded", "stories260K"])
def test_from_a_model_and_data_on_the_hub_to_its_card(
    name: str, hub: Hub, tmp_path: Path, data_folder: Callable[[str], Path]
) -> None:
    """Push both, estimate by id, publish as a pull request, merge it, read λ̂ back; and publish again."""
    model, text = model_path(), text_path()
    if name == "stories260K":
        model, text = data_folder(name), data_folder("tinystories_val") / "tinystories_val.txt"
    pushed = hub.fork("-c", PUSH.format(model=str(model), text=str(text)))
    assert pushed.code == 0, pushed.err
    commit, revision = hub.head("me/tiny"), hub.head("me/stories", kind="dataset")
    small = "--max-length 32 --max-examples 60 --num-chains 2 --num-draws 60 --num-burnin-steps 60 --batch-size 16"
    settings = f"{small} --step-size 1e-6 --localization 1000 --output run --quiet".split()
    made = hub.fork("estimate", "--model", "me/tiny", "--data", "me/stories", *settings, cwd=tmp_path)
    assert made.code in (0, 3), made.err  # so few draws need not be enough
    result = LLCResult.load(tmp_path / "run")
    assert (result.model["id"], result.model["revision"]) == ("me/tiny", commit)
    assert (result.data["id"], result.data["revision"]) == ("me/stories", revision)
    publish = ["publish", "run", "--repo", "me/tiny", "--allow-untrusted"]
    assert hub.fork(*publish, "--create-pr", cwd=tmp_path).code == 0
    hub.api().merge_pull_request("me/tiny", 1)
    card = hub.read("me/tiny", "README.md").decode()
    for _ in range(2):
        read = hub.fork("-c", READ)
        assert read.code == 0, read.err
        entry, value = json.loads(read.out)
        assert entry["metric_value"] == value == result.llc
        assert (entry["dataset_type"], entry["dataset_revision"]) == ("me/stories", revision)
        assert entry["metric_args"]["model_revision"] == commit
        assert hub.fork(*publish, cwd=tmp_path).code == 0
    assert hub.read("me/tiny", "README.md").decode() == card and card.count(BEGIN) == 1


EVALUATE = """
import evaluate
from hf_llc import LLCEvaluator
quick = LLCEvaluator(num_chains=2, num_draws=8, num_burnin_steps=2, step_size=1e-6, batch_size=4)
found = quick.compute(max_examples=8, max_length=16, as_dict=True)
evaluate.push_to_hub(model_id="me/model", task_type="text-generation", dataset_type="me/set", dataset_name="a set",
                     metric_type="llc", metric_name="local learning coefficient", metric_value=found["llc"],
                     metric_args={"nbeta": found["nbeta"]})
print(found["llc"])
"""


@pytest.mark.slow
def test_evaluates_own_push_to_hub_takes_the_dictionary(hub: Hub) -> None:
    hub.put("me/model", {"README.md": THEIRS})
    hub.put("me/set", {"train.txt": "a"}, kind="dataset")
    done = hub.fork("-c", EVALUATE)
    assert done.code == 0, done.err
    (entry,) = ModelCard(hub.read("me/model", "README.md").decode()).data.eval_results
    assert (entry.metric_type, entry.metric_value) == ("llc", float(done.out))
