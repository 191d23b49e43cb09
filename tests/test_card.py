"""Cards: what others wrote stays byte for byte, ours is there once, and huggingface_hub reads it back."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from readmes import READMES
from test_result import make_result as estimate_result
from test_result import make_trace

from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.numerals import with_error
from hf_llc.publishing.card import merge_card, merge_eval_results
from hf_llc.publishing.card_section import render_section, reproduce_command
from hf_llc.publishing.formatting import code, shell_word
from hf_llc.publishing.front_matter import split_readme
from hf_llc.publishing.markers import BEGIN, END
from hf_llc.records.findings import Reason
from hf_llc.result import LLCResult

RESULT = estimate_result()
BAD = {"verdict": "left the basin", "reasons": [Reason("left the basin", "the mean loss 5 *is* | high", "raise nbeta")]}


def make_result(**changes: Any) -> LLCResult:
    """The result that all tests begin with, changed."""
    return RESULT.replace(**changes)


def without_section(card: str) -> tuple[str, str]:
    """What stands before and after the one section."""
    assert card.count(BEGIN) == 1
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before, after


def index_of(card: str) -> list[dict[str, Any]]:
    """All metrics of the model-index, each with its task and data set, ours taken out."""
    parts = split_readme(card.removeprefix("\ufeff"))
    values = {} if parts is None else yaml.safe_load(parts.block) or {}
    results = [item for model in values.get("model-index") or [] for item in model["results"] or []]
    return [{**item, "metrics": [m]} for item in results for m in item["metrics"] if m["type"] != "llc"]


def own_entries(card: str) -> list[Any]:
    found = ModelCard(card.removeprefix("\ufeff")).data.eval_results or []
    return [entry for entry in found if entry.metric_type == "llc"]


@pytest.mark.parametrize("name", READMES)
def test_all_else_stays_byte_for_byte(name: str) -> None:
    old = READMES[name]
    card = merge_card(old, make_result())
    before, after = without_section(card)
    # `before` is the old text with one insertion (the metric), then at most two line ends; what stands after the
    # section is an open fence or comment, behind one line end.
    tail = after[1 + after.startswith("\r") :].lstrip("\r\n")
    assert old.endswith(tail)
    head = old.removesuffix(tail)
    same = next((i for i, (a, b) in enumerate(zip(head, before, strict=False)) if a != b), min(len(head), len(before)))
    assert any(before.endswith(head[same:] + gap) for gap in ("", "\n", "\n\n", "\r\n", "\r\n\r\n"))
    is_windows = old.count("\r\n") * 2 > old.count("\n")
    assert (BEGIN + "\r\n" in card) == is_windows and card.count("\n") - card.count("\r\n") == (
        old.count("\n") - old.count("\r\n") if is_windows else card.count("\n") - old.count("\r\n")
    )
    assert index_of(card) == index_of(old)
    assert len(own_entries(card)) == 1
    assert ModelCard(card.removeprefix("\ufeff")).data.get("license") == (
        "mit" if "license" in (yaml_of(old) or {}) else None
    )
    values, now = yaml_of(old) or {}, yaml_of(card)
    assert {**values, "model-index": 0} == {**now, "model-index": 0}
    assert merge_card(card, make_result()) == card  # published again: nothing changes


def yaml_of(card: str) -> Any:
    parts = split_readme(card.removeprefix("\ufeff"))
    return None if parts is None else yaml.safe_load(parts.block)


@pytest.mark.parametrize("name", READMES)
def test_again_with_another_number_and_another_setting(name: str) -> None:
    first = merge_card(READMES[name], make_result())
    again = merge_card(first, make_result(llc=9.5, llc_se=0.25, seed=7, num_draws=299))
    assert without_section(again)[1] == without_section(first)[1]
    (entry,) = own_entries(again)
    assert (entry.metric_value, entry.metric_args["standard_error"], entry.metric_args["seed"]) == (9.5, 0.25, 7)
    assert "**λ̂ = 9.50 ± 0.25**" in again and "12.03" not in again
    other = merge_card(again, make_result(nbeta=77.0))
    assert [each.metric_args["nbeta"] for each in own_entries(other)] == [500.0, 77.0]
    assert without_section(other)[1] == without_section(first)[1]
    back = merge_card(other, make_result())
    assert [each.metric_value for each in own_entries(back)] == [make_result().llc, make_result().llc]
    assert index_of(back) == index_of(READMES[name])


def test_entry_is_found_after_huggingface_hub_has_rewritten_the_card() -> None:
    theirs = "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: text-generation, name: Text generation}\n"
    theirs += "    dataset: {type: some/data, name: data, split: validation}\n"
    theirs += "    metrics: [{type: accuracy, value: 0.5}]\n---\n"
    rewritten = ModelCard(merge_card(theirs, make_result())).content
    (item,) = yaml_of(rewritten)["model-index"][0]["results"]  # it joins what has task and data set in common
    assert [metric["type"] for metric in item["metrics"]] == ["accuracy", "llc"]
    (entry,) = own_entries(merge_card(rewritten, make_result(llc=3.0)))
    assert entry.metric_value == 3.0


def test_metric_says_how_it_was_made() -> None:
    (entry,) = own_entries(merge_card("", make_result(), repo_id="me/model"))
    result = make_result()
    assert (entry.task_type, entry.dataset_type, entry.dataset_name) == ("text-generation", "some/data", "data")
    assert (entry.dataset_config, entry.dataset_split, entry.dataset_revision) == (None, "validation", None)
    assert entry.metric_value == result.llc
    known = entry.metric_args
    for name in ("n", "nbeta", "localization", "sampler", "step_size", "num_chains", "num_draws", "batch_size", "seed",
                 "num_burnin_steps", "r_hat", "ess", "accept_prob", "unit", "verdict", "init_loss"):  # fmt: skip
        assert known[name] == getattr(result, name)
    assert known["standard_error"] == result.llc_se and known["model_revision"] == "0" * 40
    data = {"id": "a/b", "subset": "en", "split": "test", "revision": "1" * 40}
    (entry,) = own_entries(merge_card("", make_result(data=data)))
    assert (entry.dataset_config, entry.dataset_split, entry.dataset_revision) == ("en", "test", "1" * 40)


def test_text_around_the_section_may_be_edited_and_the_section_moved() -> None:
    card = merge_card("# A model\n", make_result())
    before, after = without_section(card)
    section = card[len(before) : len(card) - len(after)]
    moved = f"# A model\n\nOf mine.\n{section}\nText right below.\n\n{section}\n{section}"
    edited = moved.replace("## Local learning coefficient", "## Mine\n\n```\nunclosed", 1)
    edited = f"{split_readme(card).start}{split_readme(card).block}---\n{edited}"  # type: ignore[union-attr]
    again = merge_card(edited, make_result(llc=3.0, llc_se=0.1))
    before, after = without_section(again)
    assert before.endswith("# A model\n\nOf mine.\n")
    assert after == "\nText right below.\n\n"
    assert "λ̂ = 3.00 ± 0.10" in again and "## Mine" not in again


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        ("---\nlicense: [mit\n---\n", r"not YAML \(line 3\)"),
        ("---\na: b\n\tc: d\n---\n", r"not YAML \(line 3\)"),
        ("---\nday: 2024-99-99\n---\n", "not YAML"),
        ("---\nmodel-index: yes\n---\n", "does not have the form"),
        ("---\nmodel-index: {name: x}\n---\n", "does not have the form"),
        ("---\nmodel-index:\n- name: x\n  results:\n  - task: t\n---\n", "does not have the form"),
        ("---\nx: &i [{name: x, results: []}]\nmodel-index: *i\n---\n", "without touching other parts"),
        ("---\nlicense: mit\nend: x\n...\n---\n", "without touching|not YAML"),
        (f"# A\n\n{BEGIN}\ntext\n", "without its end marker .line 3"),
        (f"# A\n{BEGIN}\ntext of theirs\n{BEGIN}\nours\n{END}\n", "without its end marker .line 2"),
    ],
)
def test_what_cannot_be_edited_is_refused(readme: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_card(readme, make_result())


def test_metric_twice_is_refused() -> None:
    card = merge_card("", make_result())
    block = split_readme(card).block  # type: ignore[union-attr]
    item = block[block.index("  - task") :]
    with pytest.raises(InputError, match="each llc metric once"):
        merge_card(card.replace(item, item * 2, 1), make_result())


def test_bad_verdict_is_refused_or_said_first() -> None:
    bad = make_result(**BAD)
    with pytest.raises(InputError, match=r"left the basin.*raise nbeta; or .*--allow-untrusted"):
        merge_card("", bad)
    card = merge_card("", bad, allow_untrusted=True)
    section = card.split(BEGIN + "\n")[1]
    assert section.startswith("## Local learning coefficient\n\n> ⚠️ **Do not trust this estimate: left the basin.**")
    assert r"the mean loss 5 \*is\* \| high. Remedy: 1. raise nbeta." in section
    assert own_entries(card)[0].metric_args["verdict"] == "left the basin"


def test_no_number_is_said_in_words() -> None:
    trace = make_trace()
    trace.loss[0, 400:] = math.nan
    card = merge_card("", estimate_result(trace), allow_untrusted=True)
    (entry,) = own_entries(card)
    assert entry.metric_value == "not a number" and entry.metric_args["verdict"] == "diverged"
    assert "standard_error" not in entry.metric_args
    assert "nan" not in card.lower().replace("nancy", "")


def test_the_section_is_short_and_the_rest_is_folded() -> None:
    section = render_section(make_result(), folder="llc/")
    first, *folded = section.split("<details>\n<summary>")
    assert [part.split("</summary>")[0] for part in folded] == ["Diagnostics", "Settings", "Reproduce", "Citation"]
    assert all(part.rstrip().endswith("\n\n</details>") and "</summary>\n\n" in part for part in folded)
    lines = [line for line in first.splitlines() if line]
    assert len(lines) == 5 and "|" not in first and "![" in first
    assert lines[1].startswith("`llc 12.") and "`trustworthy` `nβ 500` `γ 100`" in lines[1]
    assert "`not to be trusted: left the basin`" in render_section(make_result(**BAD))


def test_section_shows_the_curve_and_the_files_beside_it() -> None:
    point = {"step": 500, "llc": 3.21, "llc_se": 0.1, "loss": 2.5, "verdict": "trustworthy"}
    curve = {"points": [point, {**point, "step": 1000, "llc": None, "llc_se": None, "verdict": "diverged"}]}
    section = render_section(make_result(), folder="llc/", curve=curve)
    assert "| 500 | 3.21 ± 0.10 | 2.5 | trustworthy |\n| 1000 | not a number | 2.5 | diverged |" in section
    assert "λ̂: 3.21 → –, while the loss went 2.5 → 2.5." in section
    changes = {"change": -0.75, "change_se": 0.125, "doubled": -1.5, "doubled_se": 0.25}
    curve = {"points": [point, {**point, "step": 1000, **changes}], "settings": {"nbeta": 88.0, "localization": 70.0}}
    section = render_section(make_result(), folder="llc/", curve=curve)
    assert "| 1000 | 3.21 ± 0.10 | −0.75 ± 0.12 | −1.50 ± 0.25 | 2.5 | trustworthy |" in section
    assert "λ̂ at nβ 88, γ 70: 3.21 → 3.21, a change of −0.75 ± 0.12 (paired: " in section and "−47 % at 2γ" in section
    assert "| Step |" not in render_section(make_result(), curve={"points": [point] * 21})
    assert "](llc/trace.png)" in section and "](llc/curve.png)" in section and "](llc/result.json)" in section
    bare = render_section(make_result(trace=None))
    assert "trace" not in bare.replace("trace_", "")


@pytest.mark.parametrize(
    ("changes", "repo_id", "words"),
    [
        ({}, None, ["--model some/model", "--revision 000", "--data some/data", "--split validation", "--minimize"]),
        ({"model": {"id": "folder", "revision": None}}, "me/m", ["--model me/m"]),
        ({"minimize": None, "nbeta": 1e-7}, None, ["--nbeta 1e-07"]),
        ({"sampler": "baoab", "adapt_step_size": True}, None, ["--sampler baoab", "--adapt-step-size"]),
        (
            {"data": {"id": "a b.txt", "max_length": 64, "num_examples": 9}},
            None,
            ["--data 'a b.txt'", "--max-length 64"],
        ),
    ],
)
def test_command_that_makes_it_again(changes: dict[str, Any], repo_id: str | None, words: list[str]) -> None:
    """It is parsed by the command line itself, and gives the settings of the result."""
    import shlex

    from hf_llc.cli.arguments import parse, settings_from
    from hf_llc.cli.entry_point import _parser

    result = make_result(**changes)
    command = reproduce_command(result, repo_id)
    assert command is not None
    for word in words:
        assert word in command
    load, sample = settings_from(parse(_parser(), shlex.split(command.replace("\\\n", ""))[1:]))
    for name in ("nbeta", "localization", "step_size", "num_chains", "num_draws", "num_burnin_steps", "batch_size"):
        assert getattr(sample, name) == getattr(result, name)
    assert sample.minimize == (result.minimize is not None)
    assert sample.adapt_step_size == result.adapt_step_size
    assert load.data == result.data["id"] and load.max_length == result.data.get("max_length")


def test_objects_from_python_are_said_to_be_so() -> None:
    result = make_result(model={"id": None}, data={"id": None, "kind": "tuple"}, task="plain")
    assert reproduce_command(result) is None
    card = merge_card("", result)
    assert 'LLCEvaluator(\n    sampler="sgld",\n    nbeta=500.0,' in card and "`local data`" in card
    assert (own_entries(card)[0].task_type, own_entries(card)[0].dataset_type) == ("other", "local")


def test_benchmark_entry_is_replaced_and_others_kept() -> None:
    theirs = "- dataset: {id: cais/hle, task_id: default}\n  value: 20.9\n  notes: no-tools\n"
    once = merge_eval_results(theirs, make_result(), dataset_id="some/data")
    twice = merge_eval_results(once, make_result(llc=3.0), dataset_id="some/data")
    assert [(x["dataset"]["id"], x["value"]) for x in yaml.safe_load(twice)] == [("cais/hle", 20.9), ("some/data", 3.0)]
    assert "trustworthy; nβ 500, γ 100, sgld" in twice
    for text in ("a: b", "- 1", "[", "- {value: 1}"):
        with pytest.raises(InputError, match="damaged"):
            merge_eval_results(text, make_result(), dataset_id="a/b")
    with pytest.raises(InputError, match="numbers only"):
        merge_eval_results("", make_result(llc=math.nan), dataset_id="a/b")


def test_into_a_folder_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    make_result().save(run)
    model.mkdir()
    assert main(["publish", str(run), "--card", str(model), "--dry-run"]) == 0
    diff = capsys.readouterr().out
    assert "+++ b/README.md" in diff and "**λ̂ = 12.03" in diff and not any(model.iterdir())
    assert main(["publish", str(run), "--card", str(model)]) == 0
    assert sorted(p.name for p in (model / "llc").iterdir()) == ["result.json", "trace.png", "trace.safetensors"]
    assert LLCResult.load(model / "llc") == make_result()
    card = model / "README.md"
    card.write_bytes(card.read_bytes() + "\r\nмоё\n".encode())
    made = card.read_bytes()
    assert main(["publish", str(run), "--card", str(card)]) == 0
    assert card.read_bytes() == made
    assert ModelCard.load(card).data.eval_results[0].metric_value == make_result().llc
    assert (run / "card.md").read_text() == render_section(make_result())


def test_curve_goes_along_with_a_result_of_one_of_its_checkpoints(tmp_path: Path) -> None:
    run, model = tmp_path / "curve" / "step500", tmp_path / "model"
    result = make_result(trace=None)
    result.save(run)
    model.mkdir()
    point = {"step": 500, "llc": result.llc, "llc_se": result.llc_se, "loss": 2.5, "verdict": result.verdict}
    curve = {"schema_version": 1, "points": [point], "calibrated_on": "step500"}
    (run.parent / "curve.json").write_text(json.dumps(curve))
    (run.parent / "curve.csv").write_text("step,name,llc,llc_se\n")
    (run.parent / "curve.png").write_bytes(b"\x89PNG hf_llc")
    assert main(["publish", str(run), "--card", str(model)]) == 0
    assert sorted(p.name for p in (model / "llc").iterdir()) == ["curve.csv", "curve.json", "curve.png", "result.json"]
    card = (model / "README.md").read_bytes()
    assert b"](llc/curve.png)" in card and f"| 500 | {with_error(result.llc, result.llc_se)} ".encode() in card
    assert main(["publish", str(model / "llc"), "--card", str(model)]) == 0
    assert (model / "README.md").read_bytes() == card
    (run.parent / "curve.json").write_text("{}")
    assert main(["publish", str(run), "--card", str(model)]) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], "publish needs one place"),
        (["run", "--repo", "a/b", "--card", "x"], "publish needs one place"),
        (["run", "--card", "x", "--create-pr"], "create_pr is for a repository"),
        (["run", "--card", "x", "--no-private"], "private is for a repository"),
        (["run", "--card", "nowhere/README.md"], "no such card"),
        (["run", "--card", "latin.md"], "not UTF-8"),
        (["run", "--repo", "just-a-name"], "not an id of the Hub"),
        (["run", "--repo", "a/b", "--benchmark-dataset", "x"], "benchmark_dataset is not an id"),
        (["run", "--repo", "a/b", "--create-pr", "--revision", "dev"], "exclude each other"),
        (["bad", "--repo", "a/b"], "the estimate is not to be trusted"),
        (["bad", "--card", "."], "the estimate is not to be trusted"),
        (["none", "--repo", "a/b"], "no result there"),
    ],
)
def test_refusals(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_result(trace=None).save("run")
    make_result(trace=None, **BAD).save("bad")
    Path("latin.md").write_bytes(b"caf\xe9")
    before = sorted(Path().rglob("*"))
    assert main(["publish", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("name", ["causal_lm", "image_classifier", "curve", "bad_verdict"])
def test_stored_examples_are_what_the_template_makes(name: str) -> None:
    """`python scripts/render_model_cards.py` makes them anew."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "render_model_cards.py"))
    card = (script["FOLDER"] / name / "README.md").read_text(encoding="utf-8")
    assert card == script["render"](name)
    links = re.findall(r"\]\((llc/[\w.]+)\)", card)
    assert {"llc/result.json", "llc/trace.png", "llc/trace.safetensors"} <= set(links)
    for link in links:
        file = script["FOLDER"] / name / link
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert image.width == 1008
        elif file.suffix == ".json":
            assert json.loads(file.read_text(encoding="utf-8"))
        else:
            assert file.is_file()
    result = LLCResult.load(script["FOLDER"] / name / "llc")
    assert result.trace is not None and len(result.trace.loss) == result.num_chains
    (entry,) = own_entries(card)
    assert (entry.metric_value, entry.metric_args["standard_error"]) == (result.llc, result.llc_se)


def test_the_card_says_how_classes_became_numbers() -> None:
    said = "by number: the data have a|b, *c*, the model names none"
    row = r"| The data's classes | `by number: the data have a\|b, *c*, the model names none` |"
    assert row in render_section(make_result(data={"id": "d", "classes": said}))
    assert "The data's classes" not in render_section(make_result(data={"id": "d", "classes": None}))


def test_the_card_names_the_tensors_that_are_not_used() -> None:
    row = "| Tensors of the checkpoint that are not used | `v_head.weight` |"
    assert row in render_section(make_result(model={"id": "m", "unused_weights": "v_head.weight"}))
    assert "not used" not in render_section(make_result(model={"id": "m", "unused_weights": None}))
    row = "| Equal weights that config.json does not tie | `a.weight and b.weight` |"
    assert row in render_section(make_result(model={"id": "m", "untied_weights": "a.weight and b.weight"}))


_NASTY = {
    "end marker": "x\n<!-- hf_llc:end -->\ny",
    "begin marker": "x\r\n<!-- hf_llc:begin -->\r\ny",
    "marker after U+2028": "x\u2028<!-- hf_llc:end -->\u2028",
    "marker after a lone return": "x\r<!-- hf_llc:end -->\r",
    "open comment": "\n<!-- never closed",
    "fence": "\n```\n~~~~\n",
    "html": "</code></td></table><script>alert(1)</script>",
    "fold": "</details><details></summary>",
    "table": "a | b || `c` |\n| d |",
    "front matter": "\n---\nlicense: none\n---\n",
    "escapes": "\x1b[31mred\x00\x07\x85",
    "half a character": "caf\udce9",
    "direction": "\u202egnp.exe",
}


@pytest.mark.parametrize("text", _NASTY.values(), ids=_NASTY.keys())
@pytest.mark.parametrize("place", ["model", "data", "split", "subset", "column", "task", "unit", "verdict", "run"])
def test_no_name_breaks_the_section(place: str, text: str) -> None:
    """Published twice, the card is as after the first time, and all that others wrote stands around one section."""
    data = {"id": "some/data", "split": "validation"}
    changes: dict[str, Any] = {
        "model": {"model": {"id": text}},
        "data": {"data": {**data, "id": text}},
        "split": {"data": {**data, "split": text}},
        "subset": {"data": {**data, "subset": text}},
        "column": {"data": {**data, "input_column": text, "label_column": text}},
        "verdict": {"verdict": text, "reasons": [Reason(text, text, text)]},
        "run": {"device": text, "sampler": text, "dtype": text, "mode": text, "versions": {"torch": text}},
    }.get(place, {place: text})
    old = "# Title\n\nfirst\n\n<!-- hf_llc:begin -->\nold\n<!-- hf_llc:end -->\n\nlast\n"
    once = merge_card(old, make_result(**changes), repo_id="me/model", allow_untrusted=True)
    assert merge_card(once, make_result(**changes), repo_id="me/model", allow_untrusted=True) == once
    before, after = once[: once.index(BEGIN)], once[once.rindex(END) + len(END) :]
    assert before.endswith("# Title\n\nfirst\n\n") and after == "\n\nlast\n"
    once.encode()
    section = once[once.index(BEGIN) : once.rindex(END)]
    text_alone = re.sub(r"```[\s\S]*?\n```|`[^`\n]*`", "", section)
    assert not re.search(r"(?<!\\)<script", text_alone)
    assert not re.search(r"(?<!\\)</details>.", text_alone)
    assert [section.splitlines().count(tag) for tag in ("<details>", "</details>")] == [4, 4]
    assert not set(section) & set("\x00\x07\x1b\x85\u2028\u202e\r")


@pytest.mark.parametrize("text", ["a\nb", "it's\t\\x", "caf\udce9", "\x1b[31m", "\u2028"])
def test_the_command_on_the_card_names_what_was_named(text: str) -> None:
    import os
    import subprocess

    word = shell_word(text)
    assert "\n" not in word
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert os.fsdecode(said) == text


def test_a_backtick_does_not_end_a_code_span() -> None:
    assert code("a`<!-- b`\nc") == "`a<!-- b c`"


def test_how_a_model_was_loaded_and_hmc_s_trajectories_are_repeated() -> None:
    """They were not among a result's settings, so that the command of the card ran something else."""
    given = {"sampler": "hmc", "batch_size": 100, "num_leapfrog_steps": 7}
    model = {"id": "me/model", "revision": "a" * 40, "attn_implementation": "eager", "trust_remote_code": True}
    command = reproduce_command(make_result(model=model, data={"id": "me/data"}, **given))
    assert command is not None
    words = command.replace("\\\n", " ").split()
    assert words[words.index("--num-leapfrog-steps") + 1] == "7"
    assert words[words.index("--attn-implementation") + 1] == "eager"
    assert "--trust-remote-code" in words and "--allow-pickle" not in words
    usual = reproduce_command(make_result(model={"id": "me/model"}, data={"id": "me/data"}))
    assert usual is not None and "leapfrog" not in usual and "attn" not in usual and "trust" not in usual
