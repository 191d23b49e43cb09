"""Front matter that is large, deep, doubled or ambiguous: read within bounds, written so that all read the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from test_result import make_result

from hf_llc.errors import InputError
from hf_llc.publishing import yaml_text
from hf_llc.publishing.card import merge_card
from hf_llc.publishing.markers import BEGIN, END

RESULT = make_result()

AMBIGUOUS = [
    "1234567890123e45", "1e10", "1E5", "12e03", "0o17", "017", "0x1f", "0b11", "1_000", "1:30", "190:20:30", ".5", "5.",
    "yes", "No", "on", "OFF", "true", "null", "~", "", "2020-01-02", "2020-01-02 03:04:05", ".inf", "-.INF", ".nan",
    "=", "<<", "123", "-7", "+1", "1.0", "1e-5",
]  # fmt: skip
PLAIN = ["v1.0.2", "abc", "5fa0b2c", "1.2.3", "e10", "no way", "12 apples", "roneneldan/TinyStories"]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_texts_that_a_reader_could_take_for_something_else_are_quoted(text: str) -> None:
    """PyYAML itself would leave 1e10 and 0o17 bare: they are numbers in YAML 1.2, as the Hub reads it."""
    for flow in (False, True):
        written = yaml_text.write({"revision": text}, flow=flow).strip("{}\n").removeprefix("revision: ")
        assert written[0] in "'\"" and yaml.safe_load(written) == text, written


@pytest.mark.parametrize("text", PLAIN)
def test_others_stay_bare(text: str) -> None:
    assert yaml_text.write({"revision": text}) == f"revision: {text}\n"


def test_a_hash_like_revision_stays_a_text_on_the_card() -> None:
    data = {**RESULT.data, "revision": "1234567890123e45"}
    card = merge_card("", RESULT.replace(data=data, model={**RESULT.model, "revision": "0o17"}))
    assert "revision: '1234567890123e45'" in card and "model_revision: '0o17'" in card


def front(values: Any) -> str:
    return f"---\n{yaml.dump(values)}---\n# A model\n"


def index(results: int, metrics: int) -> str:
    one = [{"type": "accuracy", "value": 0.5 + k / 1e4} for k in range(metrics)]
    items = [{"task": {"type": "x"}, "dataset": {"type": f"d{k}", "name": "d"}, "metrics": one} for k in range(results)]
    return front({"model-index": [{"name": "m", "results": items}]}).replace("&id001\n", "\n")


def test_a_large_model_index_is_read_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read once for each of its metrics, and took 14 s; now each text is read once."""
    texts: list[str] = []

    class Counting(yaml_text._LOADER):
        def __init__(self, text: str) -> None:
            texts.append(text)
            super().__init__(text)

    monkeypatch.setattr(yaml_text, "_LOADER", Counting)
    plain = yaml.Dumper.ignore_aliases
    monkeypatch.setattr(yaml.Dumper, "ignore_aliases", lambda self, data: True)
    card = index(30, 10)
    monkeypatch.setattr(yaml.Dumper, "ignore_aliases", plain)
    merged = merge_card(card, RESULT)
    assert len(texts) <= 4 and merged.count("type: llc") == 1
    assert merge_card(merged, RESULT) == merged and len(texts) <= 6


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("yaml_", "message"),
    [
        ("tags:\n" + "- tag\n" * 100_000, "too large: 600,006 characters"),
        ("a: " + "[" * 10_000 + "]" * 10_000 + "\n", "too large: levels"),
        ("a: " + "{b: " * 2_000 + "1" + "}" * 2_000 + "\n", "too large: levels"),
        ("".join(" " * i + f"a{i}:\n" for i in range(300)), "too large: levels"),
        ("- " * 300 + "a\n", "too large: levels"),
        ("a: &a\n- *a\n", "a value inside itself"),
        ("a: &a {b: *a}\n", "a value inside itself"),
        (BOMB, "too large: values, with its aliases written out"),
        ("date: 2020-13-45\n", "is not YAML"),
    ],
    ids=["tags", "flow", "maps", "block", "dashes", "recursive list", "recursive map", "bomb", "no such date"],
)
def test_front_matter_out_of_bounds_is_one_line(yaml_: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        merge_card(f"---\n{yaml_}---\n# A model\n", RESULT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "marker",
    [
        "<!--hf_llc:begin-->",
        "<!-- HF_LLC:BEGIN -->",
        "<!-- hf_llc: begin -->",
        "<!-- hf_llc-begin -->",
        "> <!-- hf_llc:begin -->",
        "- <!-- hf_llc:begin -->",
        "text <!-- hf_llc:begin --> text",
        "<!-- hf_llc:begin (made by hf-llc publish,",
        "<!--- hf_llc:begin --->",
    ],
)
def test_a_begin_marker_in_another_form_is_refused_and_not_doubled(marker: str) -> None:
    section = f"# A model\n\n{marker}\nold\n{END}\n"
    with pytest.raises(InputError, match=r"a begin marker of hf_llc in another form \(line 3\)"):
        merge_card(section, RESULT)


def test_a_marker_that_is_only_spoken_of_is_no_marker() -> None:
    text = "# A model\n\nWrite `<!--hf_llc:begin-->` there.\n\n    <!--hf_llc:begin-->\n"
    assert merge_card(text, RESULT).count(BEGIN) == 1
