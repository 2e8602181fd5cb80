"""Noise schedules: the total noise σ̄(t) and its rate. A new one is a class here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from sedd_cli.core.registry import Registry
from sedd_cli.core.tokens import TokenStatistics

SCHEDULES = Registry("noise")

#: Smallest time that networks are trained at (appendix C.2).
T_MIN = 1e-3
#: Most frequencies of `mutual_information`, which stand in the recipe of every checkpoint.
MOST_FREQUENCIES = 8192
#: The interval in which it looks for a total noise, and the number of halvings.
MOST_NOISE, BISECTIONS = 64.0, 60


class Process(Protocol):
    """What a schedule may know of the graph that it is used with."""

    @property
    def name(self) -> str: ...

    @property
    def masking(self) -> bool: ...


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


@SCHEDULES.register
@dataclass(frozen=True)
class LogLinear(Schedule):
    """σ̄(t) = −log(1 − (1−ε)t), so λ = 1 − e^{−σ̄} = (1−ε)t.

    The paper prints 1 − (1−εt); its code computes this form, and so do we.
    """

    name: ClassVar[str] = "loglinear"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), found {self.eps}")

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
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), found {self.eps}")

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
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), found {self.eps}")

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
    I = (1−λ)·H whatever the frequencies, so it is `loglinear`, in discrete time the rates 1/(T−t+1), and takes no
    frequencies. On the uniform graph it depends on those of the training text, and is solved for exactly.

    Attributes:
        frequencies: Of the N tokens. They are measured when a training on the uniform graph begins, and kept with
            the model. Without them it is the schedule of the absorbing graph.
    """

    name: ClassVar[str] = "mutual_information"
    measured: ClassVar[str | None] = "frequencies"
    eps: float = 1e-3
    frequencies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", tuple(self.frequencies))
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), found {self.eps}")
        if self.frequencies and not (min(self.frequencies) >= 0 and abs(sum(self.frequencies) - 1) < 1e-6):
            raise ValueError(f"frequencies must be at least 0 and sum to 1, found a sum of {sum(self.frequencies):.6g}")
        if self.frequencies and not self._entropy > 0:
            raise ValueError("frequencies of at least two tokens must be positive: else there is no information")

    def check(self, graph: Process) -> None:
        if not graph.masking and graph.name != "uniform":
            raise ValueError(f"{self.name} has a form for the graphs absorbing and uniform, {graph.name} is neither")

    def measure(self, tokens: TokenStatistics, graph: Process) -> MutualInformation:
        if graph.masking:
            return self
        counts = tokens.counts().double()
        if len(counts) > MOST_FREQUENCIES:
            raise ValueError(f"{self.name}: {len(counts):,} frequencies are too many, at most {MOST_FREQUENCIES:,}")
        return replace(self, frequencies=tuple((counts / counts.sum()).tolist()))

    @cached_property
    def _p(self) -> Tensor:
        p = torch.tensor(self.frequencies, dtype=torch.float64)
        return p / p.sum()

    @cached_property
    def _entropy(self) -> float:
        return float(-torch.xlogy(self._p, self._p).sum())

    def _information(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """I(x_t; x_0) and its derivative in sigma, under the uniform graph with noise sigma [...] float64."""
        p, N = self._p.to(sigma.device), len(self.frequencies)
        alpha, moved = torch.exp(-sigma), -torch.expm1(-sigma) / N
        seen = alpha[..., None] * p + moved[..., None]  # p(x_t)
        kept = alpha + moved  # p(x_t = x_0|x_0)
        given = torch.xlogy(kept, kept) + (N - 1) * torch.xlogy(moved, moved)
        information = given - torch.xlogy(seen, seen).sum(-1)
        # dα/dσ = −α; the constants of d(x log x) cancel, because probabilities sum to 1
        slope = alpha * ((N - 1) / N * (moved / kept).log() + torch.xlogy(p - 1 / N, seen).sum(-1))
        return information, slope

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if not self.frequencies:
            return LogLinear(self.eps)(t)
        left = (1 - (1 - self.eps) * t.double()) * self._entropy
        with torch.no_grad():
            low, high = torch.zeros_like(left), torch.full_like(left, MOST_NOISE)
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                much = self._information(middle)[0] > left
                low, high = torch.where(much, middle, low), torch.where(much, high, middle)
            information, slope = self._information(high)
        sigma = high - (information - left) / slope  # Newton's step, which also carries the gradient
        dsigma = torch.full_like(left, -(1 - self.eps) * self._entropy) / slope
        # at t = 0 the information falls infinitely fast
        sigma, dsigma = (torch.where(t > 0, value, 0.0) for value in (sigma, dsigma))
        return sigma.to(t.dtype), dsigma.to(t.dtype)

    def t(self, sigma: Tensor) -> Tensor:
        if not self.frequencies:
            return LogLinear(self.eps).t(sigma)
        lost = 1 - self._information(sigma.double())[0] / self._entropy
        return (lost / (1 - self.eps)).to(sigma.dtype)
