"""`LLCEvaluator.compute` beside evaluate's evaluators: the same arguments, pipelines, plain dictionaries."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import Any

import datasets
import evaluate
import pytest
import tiny
import torch
import transformers
from launch import ROOT

from hf_llc import LLCEvaluator, LLCResult, LoadConfig
from hf_llc.errors import InputError

EVALUATOR = LLCEvaluator(num_chains=2, num_draws=20, num_burnin_steps=0, batch_size=4, step_size=1e-5)
NAMED = {"LABEL_0": 0, "LABEL_1": 1}


def texts(labels: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": tiny.SENTENCES, "label": labels * 4})


@pytest.fixture(scope="module")
def pipe() -> transformers.Pipeline:
    model = tiny.bert("BertForSequenceClassification", num_labels=2)
    return transformers.pipeline("text-classification", model=model, tokenizer=tiny.tokenizer(), device="cpu")


@pytest.fixture(scope="module")
def plain(pipe: transformers.Pipeline) -> LLCResult:
    return EVALUATOR.compute(pipe, data=texts([0, 1]))


def test_arguments_are_those_of_evaluate() -> None:
    """All but what chooses another metric and bootstraps it."""
    taken = {*inspect.signature(LLCEvaluator.compute).parameters, *(item.name for item in fields(LoadConfig))}
    theirs = set(inspect.signature(evaluate.TextClassificationEvaluator.compute).parameters)
    assert theirs - taken == {"metric", "strategy", "confidence_level", "n_resamples", "random_state"}


@pytest.mark.slow
def test_a_pipeline_is_its_model_and_tokenizer(pipe: transformers.Pipeline, plain: LLCResult) -> None:
    apart = EVALUATOR.compute(pipe.model, data=texts([0, 1]), tokenizer=pipe.tokenizer)
    assert apart.llc == plain.llc


@pytest.mark.slow
def test_label_mapping_is_the_models_names_for_the_datas_labels(pipe: transformers.Pipeline, plain: LLCResult) -> None:
    """Numbers of any kind, and words, mean what the mapping says; a swapped mapping is a swapped problem."""
    for first, second in ((-1, 1), (7, 3), ("bad", "good")):
        found = EVALUATOR.compute(
            pipe, data=texts([first, second]), label_mapping={"LABEL_0": first, "LABEL_1": second}
        )
        assert found.llc == plain.llc and found.init_loss == plain.init_loss
        assert found.data["label_mapping"] == {"LABEL_0": first, "LABEL_1": second}
    swapped = EVALUATOR.compute(pipe, data=texts([0, 1]), label_mapping={"LABEL_0": 1, "LABEL_1": 0})
    assert swapped.init_loss == EVALUATOR.compute(pipe, data=texts([1, 0])).init_loss != plain.init_loss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_mapping": {"LABEL_0": 0, "LABEL_1": 0}}, "gives one label two names"),
        ({"label_mapping": {"LABEL_0": 0}}, "a label of the data is not in label_mapping, got 1; allowed: 0"),
        ({"label_mapping": {"LABEL_0": 0, "other": 1}}, "a label that the model does not know, got 'other'"),
        ({"label_mapping": NAMED, "label_column": "none"}, "no such column"),
        ({"tokenizer": "a", "feature_extractor": "b"}, "tokenizer and feature_extractor are both given"),
        ({"device": 0}, "device is for models loaded by id or folder, got 'cuda:0'"),
        ({"metric": "accuracy"}, "unknown setting 'metric'"),
        ({"num_chains": 2}, "unknown setting 'num_chains' in .*it is a setting of LLCEvaluator$"),
    ],
)
def test_refusals(pipe: transformers.Pipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EVALUATOR.compute(pipe, data=texts([0, 1]), **settings)


def test_label_mapping_is_for_classes_of_a_whole_example() -> None:
    with pytest.raises(InputError, match="label_mapping is for text and image classification"):
        EVALUATOR.compute(
            tiny.llama(), data=texts([0, 1]), tokenizer=tiny.tokenizer(), max_length=8, label_mapping=NAMED
        )


@pytest.mark.slow
@pytest.mark.parametrize("device", [-1, torch.device("cpu")])
def test_the_device_that_a_pipeline_is_on_may_be_named(
    pipe: transformers.Pipeline, plain: LLCResult, device: Any
) -> None:
    assert EVALUATOR.compute(pipe, data=texts([0, 1]), device=device).llc == plain.llc


@pytest.mark.slow
def test_images_and_feature_extractor() -> None:
    model, processor = tiny.vit()
    pixels = torch.randint(0, 255, (8, 8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = datasets.Dataset.from_dict(
        {"image": [image.numpy() for image in pixels], "label": [4, 5, 6, 4, 5, 6, 4, 5]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    mapping = {"LABEL_0": 4, "LABEL_1": 5, "LABEL_2": 6}
    one = EVALUATOR.compute(model, data=data, feature_extractor=processor, label_mapping=mapping)
    pipe = transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    assert one.llc == EVALUATOR.compute(pipe, data=data, label_mapping=mapping, as_dict=True)["llc"]


@pytest.mark.slow
def test_as_dict_joins_other_metrics(pipe: transformers.Pipeline, plain: LLCResult) -> None:
    values = EVALUATOR.compute(pipe, data=texts([0, 1]), as_dict=True)
    assert values == plain.metrics() and json.loads(json.dumps(values)) == values
    assert (values["llc"], values["llc_se"], values["verdict"]) == (plain.llc, plain.llc_se, plain.verdict)
    for name in ("nbeta", "localization", "step_size", "num_chains", "num_draws", "num_burnin_steps", "n", "unit"):
        assert values[name] == getattr(plain, name)
    assert values["minimized"] is False
    others = {"accuracy", "total_time_in_seconds", "samples_per_second", "latency_in_seconds"}
    assert not others & set(values)


def test_evaluate_push_to_hub_takes_it(plain: LLCResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """evaluate's own function, but for its calls over the network, makes a model-index of it."""
    kept: dict[str, Any] = {}
    hub = inspect.getmodule(evaluate.push_to_hub)
    monkeypatch.setattr(hub, "dataset_info", lambda name: None)
    monkeypatch.setattr(hub, "model_info", lambda name: None)
    monkeypatch.setattr(hub, "metadata_update", lambda **given: kept.update(given))
    values = plain.metrics()
    evaluate.push_to_hub(
        model_id="me/model",
        task_type="text-classification",
        dataset_type="imdb",
        dataset_name="IMDb",
        dataset_split="test",
        metric_type="llc",
        metric_name="Local learning coefficient",
        metric_value=values.pop("llc"),
        metric_args=values,
    )
    (metric,) = kept["metadata"]["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == plain.llc and metric["args"]["llc_se"] == plain.llc_se
    assert json.loads(json.dumps(kept)) == kept


@pytest.mark.slow
def test_accuracy_and_llc_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """One classifier, both numbers, in one dictionary. Every tenth label is wrong: it cannot be right on them all."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import accuracy_and_llc

    short = LLCEvaluator(num_chains=2, num_draws=40, num_burnin_steps=20, step_size=1e-5)
    monkeypatch.setattr(accuracy_and_llc, "LLCEvaluator", lambda **_: short)
    results = accuracy_and_llc.main()
    assert results["n"] == 400 and 0.85 < results["accuracy"] <= 1
    assert results["llc"] is not None and results["total_time_in_seconds"] > 0


def test_what_the_documents_say_of_evaluates_own_evaluator_is_so(pipe: transformers.Pipeline) -> None:
    """Under transformers 5 it fails on a pipeline, and works on a model with its tokenizer; docs/paper.md says both."""

    class Accuracy(evaluate.Metric):
        def _info(self) -> Any:
            kind = datasets.Value("int32")
            features = datasets.Features({"predictions": kind, "references": kind})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {"accuracy": sum(a == b for a, b in zip(predictions, references, strict=True)) / len(references)}

    data, mapping = texts([0, 1]), pipe.model.config.label2id
    evaluator = evaluate.evaluator("text-classification")
    how = {"metric": Accuracy(), "label_mapping": mapping}
    with pytest.raises(AttributeError, match="TFPreTrainedModel"):
        evaluator.compute(pipe, data, **how)
    found = evaluator.compute(pipe.model, data, tokenizer=pipe.tokenizer, **how)
    predictions = [mapping[x["label"]] for x in pipe(list(data["text"]))]
    assert found["accuracy"] == Accuracy().compute(predictions=predictions, references=list(data["label"]))["accuracy"]
