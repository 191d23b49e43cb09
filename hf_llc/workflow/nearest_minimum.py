"""The nearest minimum of L_n, and whether the way there serves these data alone: what `minimize` asks of a run."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_llc.calibration.held_out import held_out
from hf_llc.calibration.minimize import minimize
from hf_llc.config import SampleConfig
from hf_llc.judging.moved import is_moved
from hf_llc.numerals import number
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import StageFolder
from hf_llc.progress import watch
from hf_llc.workflow.findings import Findings
from hf_llc.workflow.run_folder import RunFolder


def nearest_minimum(
    posterior: Posterior,
    sample: SampleConfig,
    folder: RunFolder,
    processes: Processes,
    *,
    findings: Findings,
) -> tuple[Tensor, dict[str, Any]]:
    """ŵ, `[1, parameter]`, the same bits on every process, and the report of `minimize` with that of `held_out`.

    Args:
        posterior: around w*.
        sample: settings.
        folder: of the run, for the optimizer's states.
        processes: all of them call this together; the main process's group works.
        findings: keep ℓ_i at the end of an attempt, and what `held_out` says.
    """
    assert isinstance(sample.batch_size, int)
    common = {"batch_size": sample.batch_size, "seal": folder.seal, "save_seconds": sample.save_seconds}

    def work() -> tuple[Tensor, dict[str, Any]]:
        with watch().stage("minimize"):
            w, done = minimize(
                posterior,
                steps=sample.minimize_steps,
                state=folder.state / "minimize.safetensors",
                kept=findings.losses,
                report=lambda step, loss: watch().say(lambda: f"loss {number(loss)}"),
                **common,
            )
        return w.cpu(), done

    def look(_: StageFolder) -> dict[str, Any] | None:
        with watch().stage("minimize"):
            return held_out(
                posterior,
                rate=done["learning_rate"],
                steps=sample.minimize_steps,
                state=folder.state / "held-out.safetensors",
                **common,
            )

    w, done = processes.main_group_does(work)
    if is_moved(done):
        found = findings.once("held-out", look) or {"num_gradients": 0}
        done = {**done, **found, "num_gradients": done["num_gradients"] + found["num_gradients"]}
    return w, done
