"""Settings of a run: frozen dataclasses, the one source for Python arguments, command-line flags and YAML keys.

Two groups: `LoadConfig` says which model on which data (the arguments of `LLCEvaluator.compute`), `SampleConfig` says
how the local posterior is sampled (the arguments of `LLCEvaluator`). Every value is checked at construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from hf_llc.errors import InputError
from hf_llc.observe_setting import checked_observe, observe_name
from hf_llc.sampler_rules import SAMPLER_RULES, Sampler, SamplerRules
from hf_llc.setting_checks import MOST, check_kinds, check_ranges, setting, unknown_setting
from hf_llc.weights_setting import spelled, weights_name

TextTask = Literal[
    "text-generation", "fill-mask", "text2text-generation", "text-classification", "token-classification"
]
Task = Literal[TextTask, "image-classification", "plain"]


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Which model, which data, and how the loss of the model on the data is computed."""

    model: str | None = setting(None, "Hub id or local folder of the model; none: the embedded tiny model")
    revision: str | None = setting(None, "branch, tag or commit of the model")
    data: str | None = setting(None, "Hub id, local folder or file of the data; none: the embedded text")
    subset: str | None = setting(None, "configuration of the data set, by its name")
    split: str | None = setting(None, "split of the data set, e.g. validation or test[:10%]")
    data_revision: str | None = setting(None, "branch, tag or commit of the data set")
    task: Task | None = setting(None, "task; none: from the model's config and the data's columns")
    input_column: str | None = setting(None, "column of the inputs; none: the usual name for the task")
    second_input_column: str | None = setting(None, "column of the second text of a pair (text-classification)")
    label_column: str | None = setting(None, "column of the labels; none: the usual name for the task")
    tokenizer: str | None = setting(None, "Hub id or folder of the tokenizer; none: the model's own")
    max_examples: int | None = setting(None, "use at most this many examples (of packed text: windows)")
    max_length: int | None = setting(
        None, "at most this many tokens in an example; none: the model's context, up to 1024"
    )
    packing: Literal["packed", "document"] = setting(
        "packed", "text-generation: an example is a window of the joined documents, or one padded document"
    )
    loss_normalization: Literal["token", "sequence"] = setting(
        "token",
        "language models: nats per predicted token (n counts tokens), or per sequence (n counts sequences)",
    )
    streaming: bool = setting(False, "stream the data set (needs max_examples)")
    dtype: Literal["float32", "float64"] | None = setting(None, "type of the weights; none: float32")
    device: str | None = setting(None, "cpu, cuda, cuda:1 …; none: the device of each process")
    attn_implementation: str | None = setting(None, "attention in transformers: eager, sdpa, flash_attention_2 …")
    trust_remote_code: bool = setting(False, "run Python code that comes with the model or data set")
    allow_pickle: bool = setting(False, "read pickled weights (*.bin, *.pt), which can run code")

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self)
        if self.streaming and self.max_examples is None:
            raise InputError("streaming needs a bound", remedy="give max_examples")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How to sample the tempered local posterior exp(−nβ L_n(w) − γ/2 ‖w − w*‖²) (arXiv 2308.12108, eq. 10).

    This is what was asked for: a setting may be "auto". What chains then run with is
    `hf_llc.records.chain_settings.ChainSettings`.
    """

    weights: str | dict[str, Any] = setting(
        "all",
        "sample these weights alone: a component (embed, unembed, norms, l3, 'l3 attn', 'l3 mlp', l3h5, l3g1, l3e7), a "
        "parameter's name, a glob of these, a sum a+b, or all but ~a; in Python also names with masks or slices",
    )
    sampler: Sampler | Literal["auto"] = setting(
        "auto",
        "auto: baoab with calibrated settings, or sgld if step_size is given and friction is not; sgld: stochastic "
        "gradient Langevin dynamics, the paper's Algorithm 1; leimkuhler-matthews: sgld without its step-size bias; "
        "psgld: sgld with a diagonal preconditioner learnt in burn-in; rmsprop-sgld: psgld that never stops learning, "
        "for comparison; baoab: Langevin dynamics with momentum; sgnht: momentum and a thermostat; mala, hmc: with a "
        "Metropolis test",
    )
    num_chains: int = setting(4, "independent chains, shared by the processes")
    num_draws: int = setting(200, "draws kept of each chain")
    num_steps_between_draws: int = setting(1, "steps averaged into each draw; 1: every step is a draw")
    num_burnin_steps: int | Literal["auto"] = setting(
        "auto", "steps dropped at the start of each chain; auto: as many as are kept, until the draws do not drift"
    )
    target_se: float = setting(
        0.05, "with automatic burn-in: sample until the standard error is at most this share of λ̂"
    )
    max_steps: int = setting(2000, "with automatic burn-in: at most this many steps of each chain, with burn-in")
    max_seconds: float | None = setting(
        None,
        "seconds for the whole command: each stage has a share, and the draws so far are judged; none: no limit",
    )
    batch_size: int | Literal["auto", "full"] = setting(
        "auto", "examples in each minibatch; auto: 32, or for sequences about 2,048 tokens (4 to 32); full: all"
    )
    batch_order: Literal["random", "in-turn"] = setting(
        "random",
        "random: a minibatch is a segment of the chain's shuffled examples, drawn anew for each step (the "
        "paper's Algorithm 1, line 5); in-turn: one segment after the other (its section 4.4), which biases λ̂",
    )
    draw_loss: Literal["batch", "full"] = setting(
        "batch",
        "batch: the loss of the step's minibatch minus that of the same examples at w* (the paper's eq. 12, paired); "
        "full: L_n of all examples, once for each draw, with minibatch gradients (its eq. 13)",
    )
    micro_batch_size: int | None = setting(
        None, "at most this many examples in one forward pass; gradients are accumulated; none: by their length"
    )
    step_size: float | Literal["auto"] = setting(
        "auto",
        "ε: a step drifts by ε/2 times the gradient, with noise of variance ε; auto: a quarter of 1/κ, κ the largest "
        "curvature (baoab, sgnht), or where Metropolis would accept 0.9 to 0.95 of the steps (others)",
    )
    gradient: Literal["plain", "control-variate", "auto"] = setting(
        "auto",
        "control-variate: subtract the noise that a minibatch's gradient has at w*, at the cost of a second gradient "
        "in each step (for small models of sequences, once for each example); auto: if that gains more than it costs",
    )
    adapt_step_size: bool = setting(
        False, "baoab: a chain lowers its ε to 1/κ if its largest curvature κ grows that far; on if step_size is auto"
    )
    friction: float | Literal["auto"] = setting(
        "auto",
        "baoab, sgnht: decay rate of the momentum times √ε, without unit; auto: the least at which gradient noise adds "
        "little to λ̂, or 0.2 if step_size is given",
    )
    check_localization: bool = setting(
        True, "measure how λ̂ changes when γ is halved and doubled, by short runs if the draws cannot tell"
    )
    extrapolate: bool = setting(False, "estimate at ε/2 too, and extrapolate to ε = 0")
    num_leapfrog_steps: int = setting(10, "hmc: gradients in each step")
    localization: float | Literal["auto"] = setting(
        "auto", "γ: strength of the pull to w*; auto: the least whose flat directions relax in a twentieth of max_steps"
    )
    nbeta: float | None = setting(None, "nβ: inverse temperature times n; none: n / ln n")
    beta: float | None = setting(None, "β: inverse temperature, in place of nbeta = n·β; none: 1 / ln n")
    minimize: bool = setting(False, "first move w* to the nearest minimum of the loss on this data")
    minimize_steps: int = setting(2000, "at most this many gradient steps of minimize")
    seed: int = setting(0, "seed of noise and minibatches")
    save_seconds: float = setting(20.0, "seconds between two saves of unfinished chains (with an output folder)")
    chain_batch_size: int | Literal["auto"] = setting(
        1,
        "chains stepped together under vmap; 1: one by one, the same numbers on any number of processes; auto: all "
        "chains of a process, if a short measurement finds that faster",
    )
    observe: str | dict[str, Any] | None = setting(
        None,
        "record these along the chains: NAME=DATA:SPLIT, losses on examples of that data (@data: of the data that are "
        "sampled on), or a registered NAME, separated by commas; in Python also names with data or callables",
    )
    observe_examples: int = setting(64, "number of examples of each data set in observe, from its first on")
    observe_loss: Literal["example", "token"] = setting("example", "observe losses summed over an example, or by token")
    observe_every: int = setting(20, "steps from one record of the observables to the next")
    data_parallel: int = setting(
        1, "processes in a group that steps the same chains, each with its share of every minibatch"
    )
    parameter_parallel: int = setting(
        1, "the same, each with its share of the weights too (FSDP2): for models too large for one device"
    )
    compile: bool | Literal["auto"] = setting(
        False,
        "torch.compile the forward and backward pass of a step; auto: that of the chains, if they take minutes and a "
        "measurement finds it faster, so that the bits depend on it",
    )
    mixed_precision: Literal["no", "bf16"] = setting("no", "bf16: autocast forward and backward, weights as loaded")
    step_in_backward: bool | Literal["auto"] = setting(
        "auto",
        "take a chain's step inside the backward pass, so that its gradients never exist at once: the same draws in "
        "less memory, without acceptance and heat, which need two gradients; auto: if memory is short "
        "(hf-llc doctor --model)",
    )
    gradient_checkpointing: bool = setting(
        False, "compute activations twice instead of keeping them: less memory, a third more time"
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self)
        if isinstance(self.weights, str):  # one spelling, for one run
            object.__setattr__(self, "weights", spelled(self.weights))
        object.__setattr__(self, "observe", checked_observe(self.observe))
        if self.localization == 0 and isinstance(self.localization, float):
            object.__setattr__(self, "localization", 0.0)  # −0.0 is the same setting
        if self.sampler != "auto":
            self._check_sampler(SAMPLER_RULES[self.sampler])
        self._check_modes()
        if self.nbeta is not None and self.beta is not None:
            raise InputError("nbeta and beta are both given", remedy="give one: nbeta = n·beta")
        kept = self.num_draws * self.num_steps_between_draws
        if self.num_burnin_steps == "auto" and kept >= self.max_steps:
            raise InputError(
                "max_steps leaves no room for burn-in",
                value=self.max_steps,
                allowed=f"more than the {kept} steps kept",
                remedy="raise max_steps or lower num_draws",
            )
        steps = self.num_chains * (kept if self.num_burnin_steps == "auto" else self.steps_allowed)
        if steps > MOST:
            raise InputError(
                "there are too many steps",
                value=f"{steps:,} over all chains",
                allowed="10^9",
                remedy="lower num_chains, num_draws, num_steps_between_draws or num_burnin_steps",
            )

    def _check_sampler(self, rules: SamplerRules) -> None:
        """Refuse settings that this sampler does not take."""
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
        """Refuse modes that do not work together.

        Modes that save memory need one eager chain at a time; sharded weights also exclude groups and minimization.
        """
        batched = {"chain_batch_size": self.chain_batch_size != 1, "compile": self.compile}
        sharded = {"parameter_parallel": self.parameter_parallel > 1}
        groups = {"data_parallel": self.data_parallel > 1}
        one_process = {"minimize": self.minimize, "observe": self.observe is not None}
        needs_whole = self.sampler != "auto" and SAMPLER_RULES[self.sampler].needs_whole_gradients
        two_gradients = {"gradient": self.gradient == "control-variate", "sampler": needs_whole}
        clashes = {
            "parameter_parallel": groups | batched | one_process if self.parameter_parallel > 1 else {},
            "gradient_checkpointing": batched | sharded if self.gradient_checkpointing else {},
            "step_in_backward": batched | sharded | groups | two_gradients if self.step_in_backward is True else {},
        }
        for name, excluded in clashes.items():
            for other in (key for key, is_set in excluded.items() if is_set):
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


_YOUNG: dict[str, Any] = {
    "weights": "all",
    "batch_order": "random",
    "draw_loss": "batch",
    "observe_examples": 64,
    "observe_loss": "example",
}
"""Settings that older files do not have, with their defaults."""

_OWNERS = {"LLCEvaluator": SampleConfig, "LLCEvaluator.compute": LoadConfig}


def from_mapping(cls: type, values: Mapping[str, Any], *, source: str) -> Any:
    """Build a config from `values`. The refusal of an unknown key says where it belongs, or names the nearest key.

    Args:
        cls: `LoadConfig` or `SampleConfig`.
        values: settings by name.
        source: where they stand, for the refusal.

    Raises:
        InputError: an unknown key, or a value that the config does not take.
    """
    known = [item.name for item in fields(cls)]
    for key in values:
        if key not in known:
            owners = [name for name, other in _OWNERS.items() if key in {item.name for item in fields(other)}]
            raise unknown_setting(key, known, source=source, owner=owners[0] if owners else None)
    return cls(**values)


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as a plain dictionary in field order.

    Masks of `weights` become a name (`weights_name`). Settings that are younger than the files which hold such
    dictionaries are left out at their defaults.
    """
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    values = {name: value for name, value in values.items() if name not in _YOUNG or value != _YOUNG[name]}
    named = {"weights": weights_name, "observe": observe_name}
    return {name: named[name](value) if name in named else value for name, value in values.items()}
