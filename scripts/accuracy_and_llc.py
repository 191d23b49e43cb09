"""Accuracy and λ̂ of one text classifier, side by side, on one data set: evaluate's evaluator and `LLCEvaluator`.

    python scripts/accuracy_and_llc.py

A tiny BERT is trained in seconds on synthetic sentences (is the animal the first word or the last?). Then both
evaluators compute with the same arguments. No network is needed. For a classifier and data of the Hub only the four
names change. Expected: accuracy 0.9 or so, since a tenth of the labels are wrong.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import evaluate
import torch
import transformers
from datasets import Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers

from hf_llc import LLCEvaluator

ANIMALS = ["cat", "dog", "fox", "owl", "hen"]
WORDS = ["red", "old", "sad", "big", "shy", "wet", "odd", "raw"]
LABELS = ["last", "first"]


class Accuracy(evaluate.Metric):
    """The share of right labels. evaluate's own metric of this name is fetched from the Hub."""

    def _info(self) -> evaluate.MetricInfo:
        label = Value("int64")
        return evaluate.MetricInfo(
            description="accuracy", citation="", features=Features({"predictions": label, "references": label})
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **_: Any) -> dict[str, float]:
        return {"accuracy": sum(a == b for a, b in zip(predictions, references, strict=True)) / len(references)}


def sentences(count: int, *, seed: int) -> Dataset:
    """Five words with an animal first (label 1) or last (label 0); a tenth of the labels are wrong."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label, words = draw.randint(0, 1), [draw.choice(WORDS) for _ in range(4)]
        words.insert(0 if label else 4, draw.choice(ANIMALS))
        rows.append({"text": " ".join(words), "label": label if draw.random() > 0.1 else 1 - label})
    return Dataset.from_list(rows)


def classifier(data: Dataset, *, steps: int = 300) -> transformers.Pipeline:
    """A BERT of a few thousand parameters, trained on the data, as a pipeline."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *ANIMALS, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model = transformers.BertForSequenceClassification(config)
    batch = tokenizer(data["text"][:], return_tensors="pt")
    labels = torch.tensor(data["label"][:])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    return transformers.pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, device="cpu")


def main() -> dict[str, Any]:
    """Both evaluators, the same arguments, one dictionary."""
    data = sentences(400, seed=0)
    pipe = classifier(data)
    common: dict[str, Any] = {
        "data": data,
        "input_column": "text",
        "label_column": "label",
        "label_mapping": {name: i for i, name in enumerate(LABELS)},
    }
    # evaluate 0.4.6 does not take a Pipeline beside transformers 5, but makes the same one of its parts.
    accuracy = evaluate.evaluator("text-classification").compute(
        pipe.model, tokenizer=pipe.tokenizer, metric=Accuracy(), **common
    )
    llc = LLCEvaluator(minimize=True, minimize_steps=300, localization=1000.0).compute(pipe, as_dict=True, **common)
    return {**accuracy, **llc}


if __name__ == "__main__":
    results = main()
    json.dump(results, sys.stdout, indent=2)
    print(
        f"\naccuracy {results['accuracy']:.3f}   λ̂ {results['llc']:.2f} ± {results['llc_se']:.2f}, {results['verdict']}"
    )
