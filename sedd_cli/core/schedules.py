"""Noise schedules: the total noise σ̄(t) and its rate. A new one is a class here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from sedd_cli.core.monotone import Monotone
from sedd_cli.core.registry import Registry
from sedd_cli.core.tokens import TokenStatistics

SCHEDULES = Registry("noise")

#: Smallest time that networks are trained at (appendix C.2).
T_MIN = 1e-3
#: Knots of `mutual_information` per doubling of noise, and the fewest.
KNOTS_PER_OCTAVE, LEAST_KNOTS = 8, 5
#: Noise of its first knot, and the largest that it may need.
LEAST_NOISE, MOST_NOISE = 2.0**-26, 2.0**40
#: Largest power of `polynomial`: 1e-5 to this power, at the time where sampling ends, is no zero in float64.
MOST_POWER = 64.0


class Process(Protocol):
    """The part of a graph that a schedule may use."""

    @property
    def name(self) -> str: ...

    @property
    def masking(self) -> bool: ...

    def check_information(self, what: str) -> None: ...

    def conditional_entropies(self, p0: Tensor, sigma: float, per_octave: int) -> Iterator[float]: ...


@dataclass(frozen=True)
class Schedule(ABC):
    """σ̄: [0, 1] → total noise. Fields are the recipe's options."""

    name: ClassVar[str]
    #: The option that `measure` takes from the training text where a recipe leaves it empty.
    measured: ClassVar[str | None] = None

    def check(self, graph: Process) -> None:  # noqa: B027  (most schedules go with every graph)
        """ValueError where the schedule has no form for the graph."""

    def measure(self, tokens: TokenStatistics, graph: Process) -> Self:
        """The schedule with what it measures of the training text; ValueError where that is impossible."""
        return self

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, dsigma) = (σ̄(t), σ̄′(t)), both of t's shape and dtype."""

    @abstractmethod
    def t(self, sigma: Tensor) -> Tensor:
        """The inverse: the t at which σ̄(t) = sigma."""

    def sigma(self, t: float) -> float:
        """σ̄(t) of a single t, in float64."""
        return float(self(torch.tensor(t, dtype=torch.float64))[0])


def _check_eps(eps: float) -> None:
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie in (0, 1), found {eps}")
    if 1 - eps == 1:
        raise ValueError(f"eps must be above 5.6e-17, or noise at t = 1 is infinite in float64; found {eps}")


@SCHEDULES.register
@dataclass(frozen=True)
class LogLinear(Schedule):
    """σ̄(t) = −log(1 − (1−ε)t), so λ = 1 − e^{−σ̄} = (1−ε)t.

    The paper prints 1 − (1−εt); its code computes this form, and so do we.
    """

    name: ClassVar[str] = "loglinear"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        keep = 1 - self.eps
        return -torch.log1p(-keep * t), keep / (1 - keep * t)

    def t(self, sigma: Tensor) -> Tensor:
        return -torch.expm1(-sigma) / (1 - self.eps)


@SCHEDULES.register
@dataclass(frozen=True)
class Geometric(Schedule):
    """σ̄(t) = σmin^{1−t}·σmax^t. The paper uses (1e-5, 20), the published configuration (1e-4, 20)."""

    name: ClassVar[str] = "geometric"
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, "
                f"found {self.sigma_min} and {self.sigma_max}"
            )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_min * (self._log_ratio * t).exp()
        return sigma, sigma * self._log_ratio

    def t(self, sigma: Tensor) -> Tensor:
        return (sigma / self.sigma_min).log() / self._log_ratio


@SCHEDULES.register
@dataclass(frozen=True)
class Cosine(Schedule):
    """λ = 1 − e^{−σ̄} = (1−ε)·sin(πt/2): MD4's cosine schedule α = 1 − cos(π/2·(1−t)) (Shi et al. 2024, table 1).

    Most tokens are masked early; near t = 1 the noise hardly grows.
    """

    name: ClassVar[str] = "cosine"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        keep, angle = 1 - self.eps, math.pi / 2 * t
        lam = keep * angle.sin()
        return -torch.log1p(-lam), keep * math.pi / 2 * angle.cos() / (1 - lam)

    def t(self, sigma: Tensor) -> Tensor:
        return (-torch.expm1(-sigma) / (1 - self.eps)).clamp(max=1.0).asin() * (2 / math.pi)


@SCHEDULES.register
@dataclass(frozen=True)
class Polynomial(Schedule):
    """λ = 1 − e^{−σ̄} = (1−ε)·t^power: MD4's polynomial schedule α = 1 − t^w (Shi et al. 2024, table 1)."""

    name: ClassVar[str] = "polynomial"
    power: float = 2.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be positive and finite, found {self.power}")
        if self.power > MOST_POWER:
            raise ValueError(
                f"power must be at most {MOST_POWER:g}, or noise at the end of sampling is 0; found {self.power}"
            )
        _check_eps(self.eps)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        lam = (1 - self.eps) * t**self.power
        return -torch.log1p(-lam), (1 - self.eps) * self.power * t ** (self.power - 1) / (1 - lam)

    def t(self, sigma: Tensor) -> Tensor:
        return (-torch.expm1(-sigma) / (1 - self.eps)) ** (1 / self.power)


@SCHEDULES.register
@dataclass(frozen=True)
class MutualInformation(Schedule):
    """The information I(x_t; x_0) of a token about its clean one falls linearly: (1 − (1−ε)t)·H(x_0).

    D3PM's schedule (Austin et al. 2021, section 3.2), whose T steps this is in the limit. On the absorbing graph
    I = (1−λ)·H whatever the frequencies of tokens are, so it is `loglinear`, in discrete time the rates 1/(T−t+1). On
    other graphs it depends on the frequencies in the training text and is interpolated, as there: log sigma is a
    monotone cubic of logit(1 − I/H) between the knots of `curve`, which lie so near each other that I is linear up to
    1e-7 of H.

    Attributes:
        curve: Knots (sigma, 1 − I/H): noise, and the share of information that it takes. They are measured when a
            training begins, and kept with the model. Without them it is the schedule of the absorbing graph.
    """

    name: ClassVar[str] = "mutual_information"
    measured: ClassVar[str | None] = "curve"
    eps: float = 1e-3
    curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", tuple((float(sigma), float(lost)) for sigma, lost in self.curve))
        _check_eps(self.eps)
        if not self.curve:
            return
        if len(self.curve) < LEAST_KNOTS:
            raise ValueError(f"curve has at least {LEAST_KNOTS} knots, found {len(self.curve)}")
        if not all(a < c and b < d for (a, b), (c, d) in zip(self.curve, self.curve[1:], strict=False)):
            raise ValueError("curve must rise in noise and in the share of information that is lost, found a fall")
        if not (min(self.curve[0]) > 0 and 1 - self.eps <= self.curve[-1][1] < 1):
            raise ValueError(
                f"curve must lie above 0 and end between 1 − eps = {1 - self.eps:g} and 1, found {self.curve[0]} to "
                f"{self.curve[-1]}: leave it empty, so that it is measured"
            )

    def check(self, graph: Process) -> None:
        graph.check_information(self.name)

    def measure(self, tokens: TokenStatistics, graph: Process) -> MutualInformation:
        if graph.masking:
            return self
        self.check(graph)
        p0 = tokens.counts().double()
        p0 = p0 / p0.sum()
        entropy = float(-torch.xlogy(p0, p0).sum())
        if not entropy > 0:
            raise ValueError(f"{self.name}: the training text holds one token only, so there is no information")

        knots, sigma = [], LEAST_NOISE
        for given in graph.conditional_entropies(p0, sigma, KNOTS_PER_OCTAVE):
            knots.append((sigma, given / entropy))
            if knots[-1][1] >= 1 - self.eps:
                return replace(self, curve=tuple(knots))
            sigma *= 2 ** (1 / KNOTS_PER_OCTAVE)
            if sigma > MOST_NOISE:
                break
        raise ValueError(f"{self.name}: noise of {MOST_NOISE:g} leaves over {self.eps:g} of the information")

    @cached_property
    def _log_sigma(self) -> Monotone:
        """log sigma as a function of the logit of the share that is lost."""
        sigma, lost = torch.tensor(self.curve, dtype=torch.float64).unbind(-1)
        return Monotone.through(lost.logit(), sigma.log())

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if not self.curve:
            return LogLinear(self.eps)(t)
        some, keep = t > 0, 1 - self.eps
        lost = keep * torch.where(some, t.double(), 0.5)
        log_sigma, slope = self._log_sigma(lost.logit())
        sigma = log_sigma.exp()
        dsigma = sigma * slope * keep / (lost * (1 - lost))
        # at t = 0 the information falls infinitely fast
        sigma, dsigma = (torch.where(some, value, 0.0) for value in (sigma, dsigma))
        return sigma.to(t.dtype), dsigma.to(t.dtype)

    def t(self, sigma: Tensor) -> Tensor:
        if not self.curve:
            return LogLinear(self.eps).t(sigma)
        lost = self._log_sigma.inverse(sigma.double().log()).sigmoid()
        return (lost / (1 - self.eps)).to(sigma.dtype)
