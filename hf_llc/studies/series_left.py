"""Which checkpoints of a series are still to be measured, which are, and why others are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.studies.checkpoint_series import Checkpoint, look_at, steps_of

_MOST_FAILURES = 3


class Judged(Protocol):
    """What is measured of a checkpoint."""

    @property
    def verdict(self) -> str:
        """On all of it."""
        ...


T = TypeVar("T", bound=Judged)


class SeriesLeft(Generic[T]):
    """The checkpoints that are measured, or can be.

    Args:
        checkpoints: all of them, in order.
        report: called with a line of text for each that is measured or left out; from the first result on.
        steps: of checkpoints whose names do not tell theirs, by name.

    Attributes:
        left: in order, without those left out.
        results: of those that are measured, by name.
        skipped: what is no checkpoint of the series: name → why.
        failed: checkpoints that cannot be measured: name → why.

    Raises:
        InputError: fewer than two are left, two of them have the same name, or `steps` names none of them.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        report: Callable[[str], None],
        *,
        steps: Mapping[str, int] | None = None,
    ) -> None:
        self.report, self._given = report, dict(steps or {})
        self.left = list(checkpoints)
        self.results: dict[str, T] = {}
        self._unsaid: list[str] = []
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._skip({each.name: each.skipped for each in checkpoints if each.skipped})
        known = [each.name for each in self.left]
        for name in self._given:
            if name not in known:
                raise InputError(
                    "steps names something that is not a checkpoint of the curve", value=name, allowed=", ".join(known)
                )

    @property
    def num_open(self) -> int:
        """Checkpoints that are still to be measured."""
        return sum(each.name not in self.results for each in self.left)

    @property
    def may_go_on(self) -> bool:
        """Whether a fault before the first result may be that of one checkpoint, not that of all."""
        return len(self.failed) < _MOST_FAILURES

    def places(self) -> tuple[dict[str, int], str]:
        """Where each checkpoint that is left stands on the axis, by name: "step" if names tell it, else "position"."""
        names = [each.name for each in self.left]
        steps = self._steps(names)
        where = range(len(names)) if steps is None else steps
        return dict(zip(names, where, strict=True)), "position" if steps is None else "step"

    def _steps(self, names: Sequence[str]) -> list[int] | None:
        """Those given, and for the other names what these tell; None if they do not."""
        others = [name for name in names if name not in self._given]
        told = steps_of(others) if others else []
        return None if told is None else [{**dict(zip(others, told, strict=True)), **self._given}[x] for x in names]

    def check(self) -> None:
        """Check that two checkpoints or more are left, each of its own name.

        Raises:
            InputError: they are not.
        """
        if len(self.left) < 2 or len({each.folder for each in self.left}) < len(self.left):
            others = list({**self.failed, **self.skipped}.items())[:3]
            raise InputError(
                "a curve needs two checkpoints or more, with different names",
                value=", ".join(each.name for each in self.left),
                remedy="; ".join(f"{name}: {why}" for name, why in others),
            )

    def named(self, name: str) -> Checkpoint:
        """The checkpoint of that name.

        Raises:
            InputError: it is not left.
        """
        found = [each for each in self.left if each.name == name]
        if not found:
            raise InputError(
                "the checkpoint that the curve was calibrated on is gone",
                value=name,
                remedy="; ".join(filter(None, [self.failed.get(name), "use overwrite to begin anew"])),
            )
        return found[0]

    def meant_by(self, word: str) -> str:
        """The name of the checkpoint that a word means: first, middle, last, a step or a name.

        Raises:
            InputError: it means none.
        """
        names = [each.name for each in self.left]
        places = {"first": 0, "middle": len(names) // 2, "last": -1}
        if word in places:
            return names[places[word]]
        steps = [str(step) for step in self._steps(names) or []]
        found = names.index(word) if word in names else steps.index(word) if word in steps else None
        if found is None:
            allowed = "first, middle, last, " + ", ".join(steps or names)
            raise InputError("calibrate_on is not a checkpoint of the curve", value=word, allowed=allowed)
        return names[found]

    def add(self, name: str, result: T) -> None:
        """Take a result."""
        self.results[name] = result
        self._say()
        self.report(f"{name}: {result.verdict} ({len(self.results)} of {len(self.left)})")

    def fail(self, faults: Mapping[str, str]) -> None:
        """Leave out checkpoints that cannot be measured."""
        self.failed |= faults
        self._leave_out(faults, "not measured")

    def skip_without_steps(self) -> None:
        """Leave out checkpoints whose names have no number, if the names of the others tell their steps.

        Those whose steps are given stay, and all stand in the order of their steps.

        Raises:
            InputError: fewer than two are left; or steps are given, and the others' are not known or the same.
        """
        names = [each.name for each in self.left]
        numbered = [x for x in names if x in self._given or any(char.isdecimal() for char in x)]
        if len(numbered) > 1 and self._steps(numbered) is not None:
            self._skip({name: "no step in its name" for name in names if name not in numbered})
        self.check()
        if self._given:
            places, axis = self.places()
            if axis != "step" or len(set(places.values())) < len(places):
                told = ", ".join(f"{name}={place}" for name, place in places.items())
                raise InputError("steps must tell checkpoints apart", value=told, remedy="give the step of each")
            self.left.sort(key=lambda each: places[each.name])

    def tell(self, line: str) -> None:
        """Report a line, from the first result on."""
        self._unsaid.append(line)
        self._say()

    def _skip(self, reasons: Mapping[str, str]) -> None:
        self.skipped |= reasons
        self._leave_out(reasons, "skipped")
        self.check()

    def _leave_out(self, reasons: Mapping[str, str], how: str) -> None:
        self.left = [each for each in self.left if each.name not in reasons]
        self._unsaid += [f"{name}: {how}: {why}" for name, why in reasons.items()]
        self._say()

    def _say(self) -> None:
        """Report what is left out, from the first result on: before that all may be refused, in one line."""
        while self.results and self._unsaid:
            self.report(self._unsaid.pop(0))


def check_series(checkpoints: Sequence[Checkpoint], *, steps: Mapping[str, int], calibrate_on: str | None) -> None:
    """Refuse what their names alone tell, before any of them is opened.

    Args:
        checkpoints: of a curve.
        steps: of checkpoints whose names do not tell theirs, by name.
        calibrate_on: the checkpoint that decides, as a user names it; None: not said.

    Raises:
        InputError: they make no curve, or `steps` or `calibrate_on` names none of them.
    """
    series: SeriesLeft[Judged] = SeriesLeft(checkpoints, lambda line: None, steps=steps)
    series.skip_without_steps()
    if calibrate_on is not None and calibrate_on not in [each.name for each in checkpoints]:
        series.meant_by(calibrate_on)


def faults_of(checkpoints: Sequence[Checkpoint], load: LoadConfig) -> dict[str, str]:
    """The checkpoints that cannot be loaded: name → why."""
    faults = {}
    for checkpoint in checkpoints:
        try:
            look_at(checkpoint, load)
        except InputError as error:
            faults[checkpoint.name] = str(error)
    return faults
