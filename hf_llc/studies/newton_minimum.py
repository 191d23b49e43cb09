"""The minimum of a small model's mean loss, to machine precision, and the Hessian there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_llc.problem import Problem


def move_to_minimum(problem: Problem) -> Tensor:
    """Move the model to the nearest minimum of L_n, in place; returns the Hessian of L_n, `[parameter, parameter]`.

    L-BFGS until it stops, then three steps of Newton's method along the directions that are not flat.
    """
    named = dict(problem.model.named_parameters())

    def loss(w: Tensor) -> Tensor:
        parts = torch.split(w, [p.numel() for p in named.values()])
        values = {name: x.view(p.shape) for (name, p), x in zip(named.items(), parts, strict=True)}

        def forward(*args: Any) -> Any:
            return torch.func.functional_call(problem.model, values, args)

        return problem.losses(forward, problem.examples).mean()

    w = torch.cat([p.detach().flatten() for p in named.values()]).requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    w = w.detach()
    for _ in range(3):
        gradient, hessian = torch.func.grad(loss)(w), torch.func.hessian(loss)(w)
        w = w - torch.linalg.pinv(hessian, rtol=1e-6, hermitian=True) @ gradient  # eigenvalues below rtol are flat
    values = torch.split(w, [p.numel() for p in named.values()])
    for parameter, value in zip(named.values(), values, strict=True):
        parameter.data = value.view(parameter.shape).clone()
    return torch.func.hessian(loss)(w)
