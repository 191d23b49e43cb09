"""The `evaluate` metric: loaded without network, equal to the evaluator to the last bit, at home in evaluate."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import datasets
import evaluate
import huggingface_hub
import numpy as np
import pytest
from test_evaluator import compute
from tiny import SENTENCES, bert

import hf_llc
from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.metrics import estimate_from_losses

FOLDER = Path(hf_llc.metric_path())
NAMES = ("llc", "llc_se", "r_hat", "ess", "verdict")


@pytest.fixture(scope="module")
def metric() -> evaluate.Metric:
    return evaluate.load(hf_llc.metric_path())


@pytest.fixture(scope="module")
def result() -> LLCResult:
    return compute()


def losses(chains: int = 4, draws: int = 200, seed: int = 0) -> np.ndarray:
    """Gamma(λ = 3) at nβ = 100, above 0.5: the exact law of the excess loss of a regular model of 6 parameters."""
    return 0.5 + np.random.default_rng(seed).gamma(3.0, 0.01, size=(chains, draws))


def test_known_answer(metric: evaluate.Metric) -> None:
    """Independent draws of a Gamma law: λ = 3, standard error √3/√(number of draws), four of them at most away."""
    found = metric.compute(predictions=losses(draws=2000), references=[0.5] * 4, nbeta=100.0)
    assert found["llc_se"] == pytest.approx(math.sqrt(3 / 8000), rel=0.1)
    assert abs(found["llc"] - 3) < 4 * found["llc_se"]
    assert found["verdict"] == "trustworthy"
    assert found["r_hat"] == pytest.approx(1, abs=0.005) and found["ess"] == pytest.approx(8000, rel=0.1)
    assert tuple(found) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("thinning", [1, 3])
def test_equals_the_evaluator_to_the_last_bit(metric: evaluate.Metric, thinning: int) -> None:
    result = compute(num_steps_between_draws=thinning)
    assert result.trace is not None
    found = metric.compute(
        predictions=result.trace.loss,
        references=result.trace.init_loss,
        nbeta=result.nbeta,
        burnin=result.num_burnin_steps,
        num_steps_between_draws=thinning,
        trivial_loss=result.trivial_loss,
    )
    assert found == {name: getattr(result, name) for name in NAMES}


def test_one_reference_a_chain_is_the_plain_estimate(metric: evaluate.Metric, result: LLCResult) -> None:
    assert result.trace is not None
    found = metric.compute(
        predictions=result.trace.loss,
        references=[result.init_loss] * result.num_chains,
        nbeta=result.nbeta,
        burnin=result.num_burnin_steps,
    )
    assert (found["llc"], found["llc_se"]) == (result.llc_plain, result.llc_plain_se)


def test_chain_by_chain(metric: evaluate.Metric) -> None:
    whole = metric.compute(predictions=losses(), references=[0.5] * 4, nbeta=100.0)
    for chain in losses():
        metric.add_batch(predictions=[chain], references=[0.5])
    assert metric.compute(nbeta=100.0) == whole
    for chain in losses().tolist():
        metric.add(prediction=chain, reference=0.5)
    assert metric.compute(nbeta=100.0) == whole


def test_verdicts(metric: evaluate.Metric) -> None:
    def verdict(values: np.ndarray, **more: Any) -> str:
        return metric.compute(predictions=values, references=[0.5] * 4, nbeta=100.0, **more)["verdict"]

    assert verdict(1 - losses()) == "not a minimum"
    assert verdict(losses(), trivial_loss=0.51) == "left the basin"
    broken = losses()
    broken[2, 7:] = np.nan
    assert verdict(broken) == "diverged"
    apart = losses() + np.arange(4)[:, None]
    assert verdict(apart) == "chains disagree"
    assert verdict(losses(draws=5)) == "too few draws"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nbeta is missing"),
        ({"nbeta": -1.0}, "nbeta is missing or out of range, got -1.0"),
        ({"nbeta": 1.0, "burnin": 200}, "burnin is out of range, got 200; allowed: 0 … 199"),
        ({"nbeta": 1.0, "num_steps_between_draws": 0}, "num_steps_between_draws"),
        ({"nbeta": 1.0, "predictions": [[0.1, 0.2], [0.1]], "references": [0.0, 0.0]}, "chains differ in length"),
        ({"nbeta": 1.0, "references": [[0.5, 0.5]] * 4}, "paired references differ"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    metric = evaluate.load(hf_llc.metric_path(), keep_in_memory=True)
    with pytest.raises(InputError, match=message):
        metric.compute(**{"predictions": losses(), "references": [0.5] * 4, **arguments})


@pytest.mark.slow
def test_combined_with_other_metrics(tmp_path: Path) -> None:
    """`combine` hands the same arguments to all, so settings are given at loading; names that clash get prefixes."""
    other = tmp_path / "spread"
    other.mkdir()
    (other / "spread.py").write_text(
        "import datasets\nimport evaluate\nimport numpy\n\n\n"
        "class Spread(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        losses = datasets.Sequence(datasets.Value('float64'))\n"
        "        features = datasets.Features({'predictions': losses, 'references': datasets.Value('float64')})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'spread': float(numpy.std(predictions))}\n"
    )
    path = hf_llc.metric_path()
    both = evaluate.combine([evaluate.load(path, nbeta=100.0), str(other)])
    found = both.compute(predictions=losses(), references=[0.5] * 4)
    assert set(found) == {*NAMES, "spread"}
    temperatures = evaluate.combine({"hot": evaluate.load(path, nbeta=50.0), "cold": evaluate.load(path, nbeta=100.0)})
    temperatures.add_batch(predictions=losses(), references=[0.5] * 4)
    found = temperatures.compute()
    assert found["cold_llc"] == 2 * found["hot_llc"] and found["cold_verdict"] == "trustworthy"


def test_saved_with_its_settings(tmp_path: Path, metric: evaluate.Metric, result: LLCResult) -> None:
    found = metric.compute(predictions=losses(), references=[0.5] * 4, nbeta=100.0)
    evaluate.save(tmp_path / "metric.json", **found)
    assert json.loads((tmp_path / "metric.json").read_text())["llc"] == found["llc"]
    evaluate.save(tmp_path / "result.json", **result.to_dict())
    saved = json.loads((tmp_path / "result.json").read_text())
    again = LLCResult.from_dict({name: value for name, value in saved.items() if not name.startswith("_")})
    assert again.to_dict() == result.to_dict()


@pytest.mark.slow
def test_in_an_evaluation_suite(tmp_path: Path) -> None:
    """The card's suite, with local data and a metric of its own: one model, both tasks.

    The model goes in by itself: evaluate 0.4.6 does not take a `Pipeline` object beside transformers 5.
    """
    script = tmp_path / "suite.py"
    script.write_text(
        "import datasets\nimport evaluate\nfrom evaluate.evaluation_suite import SubTask\n"
        "from hf_llc import LLCEvaluator\nfrom tiny import tokenizer\n"
        "\n\nclass Accuracy(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        number = datasets.Value('int64')\n"
        "        features = datasets.Features({'predictions': number, 'references': number})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'accuracy': sum(a == b for a, b in zip(predictions, references)) / len(references)}\n"
        "\n\nclass Suite(evaluate.EvaluationSuite):\n"
        "    def __init__(self, name):\n"
        "        super().__init__(name)\n"
        f"        rows = {{'text': {SENTENCES!r}, 'label': [0, 1] * 4}}\n"
        "        self.data = datasets.Dataset.from_dict(rows)\n"
        "        self.common = {'tokenizer': tokenizer(), 'label_mapping': {'LABEL_0': 0, 'LABEL_1': 1}}\n"
        "        more = {'metric': Accuracy(), **self.common}\n"
        "        self.suite = [SubTask('text-classification', data=self.data, args_for_task=more)]\n\n"
        "    def run(self, model_or_pipeline):\n"
        "        evaluator = LLCEvaluator(num_chains=2, num_draws=20, num_burnin_steps=0, step_size=1e-5)\n"
        "        llc = evaluator.compute(model_or_pipeline, data=self.data, as_dict=True, **self.common)\n"
        "        return [*super().run(model_or_pipeline), llc]\n"
    )
    model = bert("BertForSequenceClassification", num_labels=2)
    accuracy, llc = evaluate.EvaluationSuite.load(str(script)).run(model)
    assert 0 <= accuracy["accuracy"] <= 1
    assert llc["n"] == len(SENTENCES) and isinstance(llc["llc"], float) and llc["num_draws"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llc.py", "README.md"])
def test_examples_of_the_card_and_of_the_docstring_run(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    if name == "llc.py":
        text = sys.modules[type(evaluate.load(hf_llc.metric_path())).__module__]._KWARGS_DESCRIPTION
    examples = doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, name, name, 0)
    assert len(examples.examples) >= 6
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_page_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """app.py's function scores pasted losses, and its page is built from arguments that gradio is given."""
    spec = importlib.util.spec_from_file_location("llc_app", FOLDER / "app.py")
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert app.score(json.dumps(losses().tolist()), 0.5, 100.0, 20)["verdict"] == "trustworthy"
    built: dict[str, Any] = {}
    interface = types.SimpleNamespace(launch=lambda: None)
    gradio: Any = types.ModuleType("gradio")
    gradio.Textbox = gradio.Number = gradio.JSON = lambda **options: options
    gradio.Interface = lambda **options: built.update(options) or interface
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    app.main()
    assert len(built["inputs"]) == 4
    assert built["article"].strip().startswith("# Metric card")


def test_folder_has_what_a_space_needs() -> None:
    assert {path.name for path in FOLDER.iterdir()} >= {"llc.py", "app.py", "README.md", "requirements.txt"}
    front = huggingface_hub.RepoCard.load(FOLDER / "README.md").data.to_dict()
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and "metric" in front["tags"]


STABLE = {
    "hf_llc.errors.InputError", "hf_llc.metric_path",
    "hf_llc.metrics.checked_losses", "hf_llc.metrics.estimate_from_losses",
}  # fmt: skip
"""What a published copy of the metric may take from the hf_llc that is installed beside it."""


def names_taken(source: str) -> set[str]:
    """Full names of what a module imports from hf_llc, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "hf_llc"}


def test_the_space_imports_stable_names_only() -> None:
    taken = {path.name: names_taken(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")}
    assert taken["llc.py"] == STABLE - {"hf_llc.metric_path"}
    assert set().union(*taken.values()) <= STABLE
    planted = "def f():\n    from hf_llc.judging.estimator import estimate\n    import hf_llc.records.trace\n"
    assert names_taken(planted) == {"hf_llc.judging.estimator.estimate", "hf_llc.records.trace"}


def test_the_stable_function_keeps_its_arguments_and_answers() -> None:
    """Published copies call it with these; an argument may be added only with a default."""
    parameters = inspect.signature(estimate_from_losses).parameters
    assert list(parameters)[:6] == [
        "losses", "init_losses", "nbeta", "burnin", "num_steps_between_draws", "trivial_loss"
    ]  # fmt: skip
    assert all(parameter.default is not parameter.empty for parameter in list(parameters.values())[3:])
    found = estimate_from_losses(losses(), [0.5] * 4, nbeta=100.0)
    assert {name: type(getattr(found, name)) for name in NAMES} == dict.fromkeys(NAMES[:-1], float) | {"verdict": str}


class FakeApi:
    """Stands where `HfApi` stands and keeps what it was asked."""

    asked: dict[str, dict[str, Any]]

    def create_repo(self, repo_id: str, **options: Any) -> str:
        FakeApi.asked = {"create": {"repo_id": repo_id, **options}}
        return f"https://example.org/spaces/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        FakeApi.asked["upload"] = options


def test_publish_metric(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert main(["publish-metric", "--repo", "me/llc", "--private"]) == 0
    assert capsys.readouterr().out == "https://example.org/spaces/me/llc\n"
    create, upload = FakeApi.asked["create"], FakeApi.asked["upload"]
    assert (create["repo_type"], create["space_sdk"], create["private"]) == ("space", "gradio", True)
    assert Path(upload["folder_path"]) == FOLDER and upload["repo_type"] == "space"
    assert set(upload["allow_patterns"]) == {"llc.py", "app.py", "README.md", "requirements.txt"}


@pytest.mark.parametrize("repo", ["me/other", "llc", "a/b/llc"])
def test_publish_metric_refuses_names_that_evaluate_would_not_find(
    repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish-metric", "--repo", repo]) == 2
    assert "NAME/llc" in capsys.readouterr().err


def test_publish_metric_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the real client, offline: no traceback."""
    assert main(["publish-metric", "--repo", "me/llc"]) == 2
    err = capsys.readouterr().err
    assert "the metric was not published, got 'me/llc'; offline mode is on; unset HF_HUB_OFFLINE" in err
    assert err.count("\n") == 1


def test_a_dictionary_for_other_tools(result: LLCResult) -> None:
    assert LLCEvaluator().config.num_chains == 4
    values = result.metrics()
    assert json.loads(json.dumps(values)) == values
    assert (values["llc"], values["llc_se"], values["verdict"]) == (result.llc, result.llc_se, result.verdict)
    assert not {"accuracy", "total_time_in_seconds", "samples_per_second", "latency_in_seconds"} & set(values)
    assert datasets.Dataset.from_list([values]).num_rows == 1
