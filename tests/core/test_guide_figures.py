"""Figures in the guide on exactness: closed forms of texts of equal tokens, one of two, under loglinear noise."""

from __future__ import annotations

import math

from sedd_cli.cli.commands.guide import GUIDES
from sedd_cli.core.bounds import T_MIN
from sedd_cli.core.samplers.grids import linear
from sedd_cli.core.schedules import SCHEDULES

NOISE = SCHEDULES["loglinear"]()


def masked(t: float) -> float:
    """The probability λ̄(t) that a token is masked."""
    return -math.expm1(-NOISE.sigma(t))


def shares(steps: int) -> list[float]:
    """The probability that a token is unmasked in each step of a sampler, and last by the step that decodes."""
    left = [masked(float(t)) / masked(1.0) for t in linear(NOISE, steps)]
    return [before - after for before, after in zip(left, [*left[1:], 0.0], strict=True)]


def nats_in_steps(length: int, steps: int) -> float:
    """−log p of a text of equal tokens: those of the first step that unmasks any are drawn independently."""
    left, p = 1.0, 0.0
    for share in shares(steps):
        now = share / left if left else 1.0
        p += left**length * ((1 - now / 2) ** length - (1 - now) ** length)
        left = max(left - share, 0.0)
    return -math.log(p)


def test_the_figures_of_the_guide_on_exactness_are_right():
    guide = " ".join((GUIDES / "exactness.md").read_text(encoding="utf-8").split())
    pairs = sum(share**2 for share in shares(128))
    assert f"1 in {1 / pairs:.0f} pairs of positions" in guide
    assert f"then {pairs / 2:.2%} of the fillings".replace("%", " %") in guide
    independent = (masked(1.0) - masked(T_MIN)) / (1 - T_MIN)
    assert f"they are {independent:.3f}·(−log p)" in guide
    equal = (masked(1.0) ** 64 - masked(T_MIN) ** 64) / (1 - T_MIN)  # a token costs log 2 where all are masked
    assert f"({equal:.2f} of it for 64 equal tokens)" in guide
    assert f"it is {math.log(2):.2f}, while −log p of samples in 16 steps is {nats_in_steps(64, 16):.2f}" in guide
    # what all of this tends to, with many steps
    assert math.isclose(nats_in_steps(64, 8192), math.log(2), rel_tol=1e-2)
