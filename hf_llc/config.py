"""Settings of a run: frozen dataclasses, the one source for Python arguments, command-line flags and YAML keys.

Two groups: `LoadConfig` says which model on which data (the arguments of `LLCEvaluator.compute`), `SampleConfig` says
how the local posterior is sampled (the arguments of `LLCEvaluator`). Every value is checked at construction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_llc.errors import InputError

Task = Literal[
    "text-generation",
    "fill-mask",
    "text2text-generation",
    "text-classification",
    "token-classification",
    "image-classification",
    "plain",
]

Sampler = Literal["sgld", "leimkuhler-matthews", "psgld", "rmsprop-sgld", "baoab", "sgnht", "mala", "hmc"]


@dataclass(frozen=True, kw_only=True)
class SamplerRules:
    """What a sampler demands of the other settings; `hf_llc.samplers.kernel.Kernel` explains each."""

    has_friction: bool = False
    learns_in_burnin: bool = False
    needs_full_batch: bool = False
    needs_whole_gradients: bool = False
    step_size_hint: str = ""


SAMPLER_RULES: dict[str, SamplerRules] = {
    **dict.fromkeys(get_args(Sampler), SamplerRules()),
    "psgld": SamplerRules(learns_in_burnin=True),
    "rmsprop-sgld": SamplerRules(step_size_hint="a tenth of sgld's or so"),
    "baoab": SamplerRules(has_friction=True),
    "sgnht": SamplerRules(has_friction=True),
    "mala": SamplerRules(needs_whole_gradients=True),
    "hmc": SamplerRules(needs_full_batch=True, needs_whole_gradients=True),
}
"""Every sampler by name. The sampler's class says the same; it stands here too because settings are checked before
torch is imported. `hf_llc.samplers.register` adds rows."""


_ADDED_CHOICES: dict[str, list[str]] = {}


def add_choice(setting: str, value: str) -> None:
    """Let a setting take one value more: registries call this for what users add to them.

    Args:
        setting: name of a field with choices, such as "task".
        value: the new choice.
    """
    _ADDED_CHOICES.setdefault(setting, []).append(value)


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _check_choices(config: LoadConfig | SampleConfig) -> None:
    """Each field annotated with a Literal holds one of its values; each numeric field holds a finite number."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        options = [hint] if get_origin(hint) is Literal else list(get_args(hint))
        choices = [c for option in options if get_origin(option) is Literal for c in get_args(option)]
        choices += _ADDED_CHOICES.get(item.name, [])
        plain = [option for option in options if isinstance(option, type)] or ([hint] if isinstance(hint, type) else [])
        if value is None and type(None) in options:
            continue
        if isinstance(value, str) and value in choices:
            continue
        if isinstance(value, bool):
            ok = bool in plain
        elif isinstance(value, int):
            ok = int in plain or float in plain
        else:
            ok = any(isinstance(value, kind) for kind in plain)
        if not ok:
            kinds = [repr(c) for c in choices] + [k.__name__ for k in plain if k is not type(None)]
            raise InputError(f"{item.name} has a value of the wrong kind", value=value, allowed=", ".join(kinds))
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{item.name} is not a finite number", value=value, allowed="a finite number")


def _require(ok: bool, name: str, value: object, allowed: str, remedy: str = "") -> None:
    if not ok:
        raise InputError(f"{name} is out of range", value=value, allowed=allowed, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Which model, which data, and how one becomes a loss on the other."""

    model: str | None = _setting(None, "Hub id or local folder of the model; none: the embedded tiny model")
    revision: str | None = _setting(None, "branch, tag or commit of the model")
    data: str | None = _setting(None, "Hub id, local folder or file of the data; none: the embedded text")
    subset: str | None = _setting(None, "configuration name of the data set")
    split: str | None = _setting(None, "split of the data set, e.g. validation or test[:10%]")
    data_revision: str | None = _setting(None, "branch, tag or commit of the data set")
    task: Task | None = _setting(None, "task; none: from the model's config and the data's columns")
    input_column: str | None = _setting(None, "column of the inputs; none: the usual name for the task")
    second_input_column: str | None = _setting(None, "column of the second text of a pair (text-classification)")
    label_column: str | None = _setting(None, "column of the labels; none: the usual name for the task")
    tokenizer: str | None = _setting(None, "Hub id or folder of the tokenizer; none: the model's own")
    max_examples: int | None = _setting(None, "use at most this many examples (windows, for packed text)")
    max_length: int | None = _setting(None, "tokens an example at most; none: the model's context, at most 1024")
    packing: Literal["packed", "document"] = _setting(
        "packed", "text-generation: windows cut from the joined documents, or one document an example (padded)"
    )
    loss_normalization: Literal["token", "sequence"] = _setting(
        "token", "language models: L in nats a predicted token (n counts tokens) or a sequence (n counts sequences)"
    )
    streaming: bool = _setting(False, "stream the data set (needs max_examples)")
    dtype: Literal["float32", "float64"] | None = _setting(None, "weights in this type; none: float32")
    device: str | None = _setting(None, "cpu, cuda, cuda:1 …; none: the process's own device")
    attn_implementation: str | None = _setting(None, "attention code of transformers: eager, sdpa, flash_attention_2 …")
    trust_remote_code: bool = _setting(False, "run Python code that comes with the model or data set")
    allow_pickle: bool = _setting(False, "read pickled weights (*.bin, *.pt), which can run code")

    def __post_init__(self) -> None:
        _check_choices(self)
        _require(self.max_examples is None or self.max_examples >= 2, "max_examples", self.max_examples, "2 or more")
        _require(self.max_length is None or self.max_length >= 2, "max_length", self.max_length, "2 or more")
        if self.streaming and self.max_examples is None:
            raise InputError("streaming needs a bound", remedy="give max_examples")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the tempered local posterior exp(−nβ L_n(w) − γ/2 ‖w − w*‖²) is sampled (arXiv 2308.12108, eq. 10)."""

    sampler: Sampler | Literal["auto"] = _setting(
        "auto",
        "auto: baoab with everything calibrated, or sgld where step_size is given and friction is not; sgld: the "
        "paper's Algorithm 1; leimkuhler-matthews: the same without its step-size excess; psgld: diagonal "
        "preconditioner learnt in burn-in; rmsprop-sgld: never frozen, for comparison; baoab: underdamped; sgnht: "
        "underdamped with a thermostat; mala, hmc: with Metropolis",
    )
    num_chains: int = _setting(4, "independent chains, shared out over processes")
    num_draws: int = _setting(200, "draws kept a chain")
    num_steps_between_draws: int = _setting(1, "steps a draw (1 keeps every step)")
    num_burnin_steps: int | Literal["auto"] = _setting(
        "auto", "steps dropped at the start; auto: until the trace is flat"
    )
    target_se: float = _setting(
        0.05, "relative standard error that is enough, when the burn-in is auto: draws get longer until it is reached"
    )
    max_steps: int = _setting(2000, "steps a chain at most, burn-in included, when the burn-in is auto")
    max_seconds: float | None = _setting(
        None, "no longer draws where they would take more time than that; none: no limit"
    )
    batch_size: int | Literal["auto", "full"] = _setting(
        "auto", "examples a step; auto: 32, of sequences about 2,048 tokens (4 … 32); full: all"
    )
    micro_batch_size: int | None = _setting(None, "examples a forward pass at most (gradients are accumulated)")
    step_size: float | Literal["auto"] = _setting(
        "auto",
        "ε: drift ε/2, noise variance ε; auto: a quarter of 1/κ, κ the largest curvature (baoab, sgnht), or acceptance "
        "0.9–0.95",
    )
    gradient: Literal["plain", "control-variate", "auto"] = _setting(
        "auto",
        "control-variate: minibatch gradients without their noise at w*, for one more gradient a step (small models of "
        "sequences: for one more gradient an example); auto: where that gains more than it costs",
    )
    adapt_step_size: bool = _setting(
        False,
        "baoab: each chain lowers its ε to 1/κ where its curvature κ has grown so far; on if ε is auto",
    )
    friction: float | Literal["auto"] = _setting(
        "auto",
        "baoab, sgnht: decay rate of momentum times √ε; auto: the least that cools gradient noise (0.2 at a given "
        "step_size)",
    )
    check_localization: bool = _setting(
        True, "say how much λ̂ moves when γ is halved and doubled, by short runs if need be"
    )
    extrapolate: bool = _setting(False, "estimate at ε/2 too, and extrapolate to ε = 0")
    num_leapfrog_steps: int = _setting(10, "hmc: gradients a step")
    localization: float | Literal["auto"] = _setting(
        "auto", "γ: strength of the pull to w*; auto: the least whose flat directions relax in a twentieth of max_steps"
    )
    nbeta: float | None = _setting(None, "inverse temperature times n; none: n / ln n")
    beta: float | None = _setting(None, "inverse temperature β (nβ = n·β); none: 1 / ln n")
    minimize: bool = _setting(False, "first take w* to the nearest minimum of L_n on this data")
    minimize_steps: int = _setting(2000, "gradient steps of minimize at most")
    seed: int = _setting(0, "seed of noise and batch order")
    save_seconds: float = _setting(20.0, "unfinished chains go to disk this often (with an output folder)")
    chain_batch_size: int | Literal["auto"] = _setting(
        1,
        "chains stepped together (vmap); 1: one by one, the same numbers on any number of processes; auto: all that a "
        "process has, where a short measurement finds that faster",
    )
    observe: str | None = _setting(
        None, "record these observables along the chains: names, separated by commas (docs/extending.md)"
    )
    observe_every: int = _setting(20, "steps from one record of the observables to the next")
    data_parallel: int = _setting(
        1, "processes in a group that steps the same chains, each with its share of every minibatch"
    )
    parameter_parallel: int = _setting(
        1, "the same with each holding its share of the weights too (FSDP2), for models that fit on no single device"
    )
    compile: bool = _setting(False, "torch.compile the forward and backward pass of a step")
    mixed_precision: Literal["no", "bf16"] = _setting("no", "bf16: autocast forward and backward, weights as loaded")
    step_in_backward: bool | Literal["auto"] = _setting(
        "auto",
        "take a chain's step inside the backward pass, so that its gradients never exist at once: the same draws in "
        "less memory, without acceptance and heat, which need two gradients; auto: where memory is short "
        "(hf-llc doctor --model)",
    )
    gradient_checkpointing: bool = _setting(
        False, "compute the activations of layers twice instead of keeping them: less memory, a third more time"
    )

    def __post_init__(self) -> None:
        _check_choices(self)
        counts = ("num_chains", "num_draws", "num_steps_between_draws", "minimize_steps")
        for name in (*counts, "num_leapfrog_steps", "observe_every", "data_parallel", "parameter_parallel"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        together = self.chain_batch_size
        _require(together == "auto" or together >= 1, "chain_batch_size", together, "'auto', or 1 or more")
        burnin = self.num_burnin_steps
        _require(burnin == "auto" or burnin >= 0, "num_burnin_steps", burnin, "'auto', or 0 or more")
        _require(isinstance(self.batch_size, str) or self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        micro = self.micro_batch_size
        _require(micro is None or micro >= 1, "micro_batch_size", micro, "1 or more")
        step = self.step_size
        _require(step == "auto" or step > 0, "step_size", step, "'auto', or a number above 0", "try 1e-6")
        _require(self.friction == "auto" or self.friction > 0, "friction", self.friction, "'auto', or a number above 0")
        if self.sampler != "auto":
            self._check_sampler(SAMPLER_RULES[self.sampler])
        pull = self.localization
        _require(pull == "auto" or pull >= 0, "localization", pull, "'auto', or 0 or more")
        _require(self.target_se > 0, "target_se", self.target_se, "a number above 0", "0.05 is 5 % of λ̂")
        seconds = self.max_seconds
        _require(seconds is None or seconds > 0, "max_seconds", seconds, "a number above 0")
        _require(self.save_seconds >= 0, "save_seconds", self.save_seconds, "0 or more")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 … 2^63 − 1")
        self._check_modes()
        if self.nbeta is not None and self.beta is not None:
            raise InputError("nbeta and beta are both given", remedy="give one: nbeta = n·beta")
        _require(self.nbeta is None or self.nbeta > 0, "nbeta", self.nbeta, "a number above 0")
        _require(self.beta is None or self.beta > 0, "beta", self.beta, "a number above 0")
        kept = self.num_draws * self.num_steps_between_draws
        if self.num_burnin_steps == "auto" and kept >= self.max_steps:
            raise InputError(
                "max_steps leaves no room for burn-in",
                value=self.max_steps,
                allowed=f"more than the {kept} steps kept",
                remedy="raise max_steps or lower num_draws",
            )

    def _check_sampler(self, rules: SamplerRules) -> None:
        """The settings are those that this sampler takes."""
        name = self.sampler
        if self.friction != "auto" and not rules.has_friction:
            remedy = "leave it 'auto', or set sampler to baoab"
            raise InputError(f"{name} has no friction", value=self.friction, remedy=remedy)
        if rules.learns_in_burnin and self.num_burnin_steps == 0:
            raise InputError(f"{name} learns its preconditioner in burn-in", remedy="give num_burnin_steps 1 or more")
        if rules.step_size_hint and self.step_size == "auto":
            raise InputError(f"{name} has no automatic step_size", remedy=f"give step_size: {rules.step_size_hint}")
        if rules.needs_full_batch and self.batch_size == "auto":
            raise InputError(f"{name} needs all examples in every step", remedy="set batch_size to 'full'")

    def _check_modes(self) -> None:
        """Modes that save memory go with one eager chain at a time; weights that are split, with little else."""
        others = {"chain_batch_size": self.chain_batch_size != 1, "compile": self.compile}
        split = {"parameter_parallel": self.parameter_parallel > 1}
        groups = {"data_parallel": self.data_parallel > 1}
        alone = {"minimize": self.minimize, "observe": self.observe is not None}
        needs_whole = self.sampler != "auto" and SAMPLER_RULES[self.sampler].needs_whole_gradients
        whole = {"gradient": self.gradient == "control-variate", "sampler": needs_whole}
        clashes = {
            "parameter_parallel": groups | others | alone if self.parameter_parallel > 1 else {},
            "gradient_checkpointing": others | split if self.gradient_checkpointing else {},
            "step_in_backward": others | split | groups | whole if self.step_in_backward is True else {},
        }
        for name, found in clashes.items():
            for other in (key for key, is_set in found.items() if is_set):
                raise InputError(
                    f"{name} does not go with this {other}",
                    value=getattr(self, other),
                    remedy=f"leave out one of {name} and {other}",
                )

    @property
    def steps_allowed(self) -> int:
        """Steps that a chain may take, burn-in included."""
        if self.num_burnin_steps == "auto":
            return self.max_steps
        return self.num_burnin_steps + self.num_draws * self.num_steps_between_draws


_OWNERS = {"LLCEvaluator": SampleConfig, "LLCEvaluator.compute": LoadConfig}


def from_mapping(cls: type, values: Mapping[str, Any], *, source: str) -> Any:
    """Build a config from `values`; an unknown key is refused with where it belongs, or the nearest known one.

    Raises:
        InputError: unknown key, or a value the config does not take.
    """
    import difflib

    known = [item.name for item in fields(cls)]
    for key in values:
        if key not in known:
            owner = next(
                (name for name, other in _OWNERS.items() if key in {item.name for item in fields(other)}), None
            )
            if owner is not None:
                raise InputError(f"unknown setting {key!r} in {source}", remedy=f"it is a setting of {owner}")
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"unknown setting {key!r} in {source}",
                allowed=", ".join(known) if not near else "",
                remedy=f"did you mean {near[0]!r}?" if near else "",
            )
    return cls(**values)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names and values of the settings that differ, as `name: old → new`."""
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{k}: {old.get(k)!r} → {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as a plain dictionary in field order."""
    return dataclasses.asdict(config)
