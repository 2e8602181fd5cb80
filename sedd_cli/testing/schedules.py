"""What holds for every noise schedule: value, rate, inverse and shape."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sedd_cli.core.schedules import Schedule
from sedd_cli.testing.problems import close, expect, part_for

T = torch.cat([torch.tensor([0.0, 1e-5, 1e-3]), torch.linspace(0.05, 1, 20)]).double()


def check_schedule(part: Schedule | Callable[[], Schedule]) -> None:
    """Check a noise schedule, an object or a class whose options have defaults.

    Raises:
        RequestError: It is no schedule.
        AssertionError: Says which property fails: σ̄ finite, not negative and growing; σ̄′ its derivative; `t` the
            inverse; shapes and dtypes those of t.
    """
    noise = part_for("check_schedule", Schedule, part)
    name = type(noise).__name__
    t = T.clone().requires_grad_()
    sigma, dsigma = noise(t)
    expect(bool(sigma.isfinite().all()) and float(sigma.detach().min()) >= 0, f"{name}: σ̄(t) is negative or not finite")
    expect(bool((sigma.detach().diff() > 0).all()), f"{name}: σ̄(t) does not grow with t")
    (derivative,) = torch.autograd.grad(sigma.sum(), t)
    close(dsigma.detach(), derivative, f"{name}: the second value is not the derivative of the first", rtol=1e-12)
    inverse = noise.t(sigma.detach())
    close(inverse, T, f"{name}: t(sigma) is not the inverse of σ̄(t)", rtol=1e-12, atol=1e-14)
    for dtype in (torch.float32, torch.float64):
        for value in noise(torch.rand(2, 3, dtype=dtype)):
            found = (tuple(value.shape), value.dtype)
            expect(found == ((2, 3), dtype), f"{name}: for t of shape (2, 3) and {dtype} it returns {found}")
