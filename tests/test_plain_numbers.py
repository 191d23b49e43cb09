"""Numbers of numpy and torch, paths and members of enumerations as settings: plain from then on."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_result import make_result
from worker import examples, network, squared_error

from hf_llc import LLCEvaluator, LoadConfig, SampleConfig
from hf_llc.config import as_dict
from hf_llc.errors import InputError
from hf_llc.publishing.card import merge_card


class Kind(enum.Enum):
    """Settings of a user's own program."""

    SAMPLER = "sgld"
    CHAINS = 3


class Word(enum.StrEnum):
    """The same, as texts."""

    DTYPE = "float64"


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("nbeta", np.float64(50.5), 50.5),
        ("nbeta", np.float32(0.5), 0.5),
        ("nbeta", torch.tensor(50.5), 50.5),
        ("nbeta", torch.tensor(2.0, requires_grad=True), 2.0),
        ("nbeta", np.array(3.0), 3.0),
        ("num_chains", np.int64(3), 3),
        ("num_chains", torch.tensor(3), 3),
        ("num_chains", Kind.CHAINS, 3),
        ("seed", np.uint8(7), 7),
        ("minimize", np.bool_(True), True),
        ("minimize", torch.tensor(True), True),
        ("sampler", Kind.SAMPLER, "sgld"),
        ("sampler", np.str_("sgld"), "sgld"),
        ("step_size", np.float64(1e-5), 1e-5),
    ],
)
def test_settings_become_plain(name: str, value: Any, plain: Any) -> None:
    config = SampleConfig(**{name: value})
    found = getattr(config, name)
    assert found == plain and type(found) is type(plain)
    json.dumps(as_dict(config))
    assert as_dict(LLCEvaluator(**{name: value}).config) == as_dict(config)


def test_paths_and_words_of_loading_become_plain() -> None:
    given: dict[str, Any] = {"model": Path("m"), "dtype": Word.DTYPE, "max_examples": np.int32(9)}
    config = LoadConfig(**given)
    assert (config.model, config.dtype, config.max_examples) == ("m", "float64", 9)
    assert {type(value) for value in (config.model, config.dtype)} == {str}


@pytest.mark.parametrize(
    "value", [torch.ones(2), np.ones(1), torch.empty((), device="meta"), np.float64("nan"), 1j, np.complex128(1)]
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="nbeta"):
        SampleConfig(nbeta=value)


def test_nbeta_of_numpy_gives_the_same_and_stands_on_a_card() -> None:
    """`nbeta=n / np.log(n)` made push_to_hub fail."""
    model = network()
    common: dict[str, Any] = {"num_chains": 2, "num_draws": 30, "num_burnin_steps": 5, "step_size": 1e-3}

    def run(nbeta: Any) -> Any:
        evaluator = LLCEvaluator(nbeta=nbeta, **common)
        return evaluator.compute(model, data=examples(model), loss_fn=squared_error)

    result, plain = run(203 / np.log(203)), run(float(203 / np.log(203)))
    assert type(result.nbeta) is float and (result.llc, result.settings) == (plain.llc, plain.settings)
    numpys = make_result(nbeta=np.float64(50.5), llc=np.float64(3.5), n=np.int64(50))
    plains = make_result(nbeta=50.5, llc=3.5, n=50)
    assert merge_card("", numpys) == merge_card("", plains)
