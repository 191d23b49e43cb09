"""Settings: checked at construction, and the same from Python, flags and YAML."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from hf_llc import LLCEvaluator
from hf_llc.cli.arguments import CONFIGS, add_settings, kinds_of, parse, settings_from
from hf_llc.cli.help_screen import Parser
from hf_llc.config import LoadConfig, SampleConfig, as_dict, from_mapping
from hf_llc.errors import InputError
from hf_llc.presets import PRESETS
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.setting_checks import differences

FIELDS = [(config, item) for config in CONFIGS for item in fields(config)]


def settings(*argv: str, config: Path | None = None) -> tuple[LoadConfig, SampleConfig]:
    """What these flags and this file mean."""
    parser = Parser(prog="test", allow_abbrev=False)
    add_settings(parser)
    args = parse(parser, list(argv))
    args.config = config
    return settings_from(args)


def yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_flags_mean_the_defaults() -> None:
    assert settings() == (LoadConfig(), SampleConfig())


@pytest.mark.parametrize(("config", "item"), FIELDS, ids=[item.name for _, item in FIELDS])
def test_every_setting_has_a_flag(config: type, item: Any) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    flag = "--" + item.name.replace("_", "-")
    assert flag in parser.format_help()
    kinds, words = kinds_of(get_type_hints(config)[item.name])
    others = {
        "streaming": ("--max-examples", "9"),
        "num_steps_between_draws": ("--num-draws", "1"),
        "sampler": ("--batch-size", "full"),
    }
    extra = others.get(item.name, ())
    if kinds == [bool]:
        argv, expected = [flag], True
        assert getattr(_built(config, settings(flag.replace("--", "--no-", 1))), item.name) is False
    elif words:
        argv, expected = [flag, words[-1]], words[-1]
    elif float in kinds:
        argv, expected = [flag, "1.5e-1"], 0.15
    elif int in kinds:
        argv, expected = [flag, "1e3"], 1000
    else:
        argv, expected = [flag, "2024"], "2024"
    value = getattr(_built(config, settings(*argv, *extra)), item.name)
    assert value == expected
    assert type(value) is type(expected)


def _built(config: type, both: tuple[LoadConfig, SampleConfig]) -> Any:
    return both[0] if config is LoadConfig else both[1]


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--step-size", "1e-6"], "step_size", 1e-6),
        (["--step-size=auto"], "step_size", "auto"),
        (["--num-burnin-steps", "0"], "num_burnin_steps", 0),
        (["--num-burnin-steps", "auto"], "num_burnin_steps", "auto"),
        (["--batch-size", "full"], "batch_size", "full"),
        (["--batch-size", "64"], "batch_size", 64),
        (["--localization", "5"], "localization", 5.0),
        (["--nbeta", "none"], "nbeta", None),
        (["--mixed-precision", "no"], "mixed_precision", "no"),
    ],
)
def test_unions(argv: list[str], name: str, value: object) -> None:
    found = getattr(settings(*argv)[1], name)
    assert found == value
    assert type(found) is type(value)


REFUSED = [
    (["--num-chains", "0"], "num_chains is out of range, got 0; allowed: 1 or more"),
    (["--num-chains", "2.5"], "num_chains .* got '2.5'; allowed: a whole number"),
    (["--num-chains", "nan"], "num_chains .* got 'nan'"),
    (["--step-size", "-1e-6"], "step_size is out of range, got -1e-06"),
    (["--step-size", "0"], "step_size is out of range"),
    (["--step-size", "inf"], "step_size .* got 'inf'"),
    (["--step-size", "big"], "step_size .* got 'big'; allowed: 'auto', a number"),
    (["--batch-size", "auto2"], "batch_size .* 'auto', 'full', a whole number"),
    (["--localization", "-1"], "localization is out of range"),
    (["--nbeta", "5", "--beta", "0.1"], "nbeta and beta are both given"),
    (["--task", "poetry"], "task .* got 'poetry'; allowed: 'text-generation'"),
    (["--dtype", "float16"], "dtype .* 'float32', 'float64'"),
    (["--streaming"], "streaming needs a bound; give max_examples"),
    (["--max-examples", "1"], "max_examples is out of range"),
    (["--num-draws", "5000"], "max_steps leaves no room"),
    (["--seed", "-1"], "seed is out of range"),
    (["--sampler", "adam"], "sampler .* got 'adam'; allowed: 'sgld', 'leimkuhler-matthews'"),
    (["--gradient", "exact"], "gradient .* allowed: 'plain', 'control-variate'"),
    (["--friction", "0"], "friction is out of range, got 0.0; allowed: .auto., or a number above 0"),
    (
        ["--sampler", "sgld", "--friction", "0.2"],
        "sgld has no friction, got 0.2; leave it 'auto', or set sampler to baoab",
    ),
    (["--num-leapfrog-steps", "0"], "num_leapfrog_steps is out of range"),
    (["--sampler", "hmc"], "hmc needs all examples in every step; set batch_size to 'full'"),
    (["--sampler", "rmsprop-sgld"], "rmsprop-sgld has no automatic step_size; give step_size"),
    (["--sampler", "psgld", "--num-burnin-steps", "0"], "psgld learns its preconditioner in burn-in"),
    (["--num-chain", "3"], "unknown argument --num-chain; did you mean --num-chains"),
    (["--frobnicate"], "unknown argument --frobnicate"),
    (["--num-chains"], "expected one argument"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_refusals_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings(*argv)
    assert "\n" not in str(caught.value)


def used(**settings: Any) -> ChainSettings:
    """What chains are run with when a user and the data decide everything but the settings given here."""
    decided = {"sampler": "sgld", "step_size": 1e-3, "localization": 1.0, "gradient": "plain"}
    return ChainSettings.of(SampleConfig(**{**decided, "nbeta": 10.0, "batch_size": 8, **settings}))


def test_adaptation_ends_with_the_shortest_burnin() -> None:
    """A number that no later lengthening of an automatic burn-in changes."""
    assert used(num_burnin_steps=50).freeze_after == 50
    assert used(num_draws=100, num_steps_between_draws=3).freeze_after == 300
    assert used(num_draws=3000, max_steps=5000).freeze_after == 2000


def test_chain_settings_hold_no_auto() -> None:
    assert used(sampler="baoab", friction=0.3).friction == 0.3
    assert used().friction is None and used().num_burnin_steps is None
    assert used(num_burnin_steps=7).num_burnin_steps == 7
    for name in ("step_size", "localization", "gradient", "batch_size", "chain_batch_size"):
        with pytest.raises(AssertionError, match=f"still to be decided: {name}"):
            used(**{name: "auto"})
    with pytest.raises(AssertionError, match="friction"):
        used(sampler="baoab")


def test_yaml_and_flags(tmp_path: Path) -> None:
    path = yaml(
        tmp_path,
        "# a run\nmodel: some/model\nrevision: 2024\nsplit: test[:10%]\nstep_size: 1e-6\nmixed_precision: no\n"
        "minimize: yes\ncompile: false\nnbeta: null\nbeta:\nnum_chains: 3\ntask: ~\n",
    )
    load, sample = settings("--num-chains", "8", "--no-minimize", config=path)
    assert load == LoadConfig(model="some/model", revision="2024", split="test[:10%]")
    assert sample == SampleConfig(step_size=1e-6, num_chains=8)
    assert settings(config=path)[1] == SampleConfig(step_size=1e-6, num_chains=3, minimize=True)


def test_empty_yaml(tmp_path: Path) -> None:
    assert settings(config=yaml(tmp_path, "# nothing\n")) == settings()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_chain: 3", "unknown setting 'num_chain' in .*did you mean 'num_chains'"),
        ("num-chains: 3", "unknown setting 'num-chains' .*did you mean 'num_chains'"),
        ("zzz: 3", "unknown setting 'zzz'"),
        ("num_chains: [1, 2]", "num_chains in .* is not a single value"),
        ("num_chains: many", "num_chains .* got 'many'"),
        ("minimize: perhaps", "minimize .* allowed: true or false"),
        ("num_chains:", "num_chains .* got ''"),
        ("model: ''", "model in .* .line 1. is empty, got ''.*is a variable unset"),
        ("seed: 3\ndata:", "data in .* .line 2. is empty"),
        ('tokenizer: " "', "tokenizer in .* is empty"),
        ("- a\n- b", "not a list of settings"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings(config=yaml(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the config file"):
        settings(config=tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_chains": True}, "num_chains has a value of the wrong kind, got True; allowed: int"),
        ({"num_chains": 1.5}, "num_chains has a value of the wrong kind, got 1.5; allowed: int"),
        ({"step_size": math.nan}, "step_size is not a finite number, got nan"),
        ({"step_size": "1e-6"}, "step_size has a value of the wrong kind, got '1e-6'; allowed: 'auto', float"),
        ({"minimize": 1}, "minimize has a value of the wrong kind, got 1; allowed: bool"),
        ({"beta": 0.0}, "beta is out of range, got 0.0; allowed: a number above 0"),
        ({"sampler": None}, "sampler has a value of the wrong kind; allowed: 'sgld'"),
    ],
)
def test_python_values_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SampleConfig(**values)


def test_from_mapping_refuses_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'num_draws'"):
        from_mapping(SampleConfig, {"num_drawz": 3}, source="here")
    assert from_mapping(SampleConfig, as_dict(SampleConfig(seed=5)), source="here") == SampleConfig(seed=5)


def test_differences_are_named() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2 → 3", "c: None → 4"]


@pytest.mark.parametrize(
    "values",
    [
        *({name: value} for name in ("nbeta", "beta", "step_size", "friction", "localization")
          for value in (1e308, 1e300, 1e-320, 1e-300, 10**400, float("inf"), float("nan"), -1.0, -1e-320)),
        *({name: 10**12} for name in ("num_chains", "num_draws", "num_steps_between_draws", "num_burnin_steps",
          "max_steps", "minimize_steps", "num_leapfrog_steps", "observe_every", "micro_batch_size", "batch_size",
          "chain_batch_size", "data_parallel", "parameter_parallel")),
        {"num_chains": 10**7}, {"num_draws": 10**6, "num_burnin_steps": 0, "num_chains": 2000},
        {"seed": -1}, {"seed": 2**70}, {"observe": ""}, {"nbeta": -0.0}, {"step_size": -0.0},
    ],
    ids=str,
)  # fmt: skip
def test_extreme_numbers_are_refused(values: dict[str, Any]) -> None:
    if "friction" in values:
        values = {**values, "sampler": "baoab"}
    with pytest.raises(InputError, match=next(iter(values)).split("_")[0] + "|too many steps|max_steps") as caught:
        SampleConfig(**values)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_minus_zero_is_zero() -> None:
    assert str(SampleConfig(localization=-0.0).localization) == "0.0"


@pytest.mark.parametrize(
    "flag", ["--model", "--data", "--split", "--output", "--config", "--task", "--device", "--seed"]
)
@pytest.mark.parametrize("command", ["estimate", "calibrate", "curve"])
def test_an_unset_shell_variable_is_refused(flag: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--model "$MODEL"` without MODEL is not the embedded model."""
    from hf_llc.cli.entry_point import main

    for words in ([flag, ""], [flag + "="], [flag, " "]):
        assert main([command, *words]) == 2
        assert capsys.readouterr().err.startswith(f"hf-llc: error: {flag} is empty, got '")
    if flag[2:] in ("model", "data", "split", "task", "device"):
        with pytest.raises(InputError, match=r"empty|wrong kind"):
            from_mapping(LoadConfig, {flag[2:]: ""}, source="the test")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_overridden_by_what_is_given(name: str) -> None:
    settings = LLCEvaluator(preset=name, num_chains=2).config
    assert settings.num_chains == 2 and settings.step_size == 1e-3 and settings.sampler == "sgld"
    assert settings.nbeta == PRESETS[name]["nbeta"] and settings.num_burnin_steps == 0
    args = argparse.Namespace(config=None, preset=name, num_chains="2")
    assert settings_from(args)[1] == settings


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="preset is unknown, got 'x'; allowed: timaeus, paper-lm"):
        LLCEvaluator(preset="x")
    with pytest.raises(InputError, match="config and preset"):
        LLCEvaluator(SampleConfig(), preset="timaeus")
