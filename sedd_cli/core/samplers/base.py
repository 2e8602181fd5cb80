"""The base class of samplers: from p_base to a sample."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.core.categorical import nucleus, temper
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import Graph
from sedd_cli.core.registry import Registry
from sedd_cli.core.score import ScoreModel

SAMPLERS = Registry("sampler", __package__)


@dataclass(frozen=True)
class Denoised:
    """A batch after `step` of `steps` steps: x [B, L], and the network evaluations of each sequence so far [B].

    fallbacks: steps in which every active position of some sequence was scored, because an earlier score in it had come
    near the bound that thinning assumes (`core.fast.thinning`).
    """

    step: int
    steps: int
    x: Tensor
    evaluations: Tensor
    fallbacks: int = 0


def distribution_option(default: Any) -> Any:
    """A field that changes the distribution of samples. It is named with the samples where it is not the default."""
    return dataclasses.field(default=default, metadata={"distribution": True})


def largest_count(chosen: Tensor) -> int:
    """The largest number of chosen positions [B, L] of a sequence; 0 of an empty batch."""
    return max(chosen.sum(1).tolist(), default=0)


@dataclass(frozen=True)
class Sampler(ABC):
    """Fields are the recipe's options.

    temperature, top_p: applied to the distribution of the token that a position moves to, not to whether it moves.
    """

    name: ClassVar[str]
    #: Whether there has to be a MASK.
    needs_mask: ClassVar[bool] = False
    #: Whether it is for causal networks, and for no others.
    causal: ClassVar[bool] = False
    #: Whether temperature 0 is accepted: the likeliest token.
    greedy: ClassVar[bool] = False
    temperature: float = distribution_option(1.0)
    top_p: float = distribution_option(1.0)

    def __post_init__(self) -> None:
        if not (0 < self.temperature < float("inf") or (self.greedy and self.temperature == 0)):
            raise ValueError(f"temperature must be positive and finite, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}")

    @abstractmethod
    def run(self, model: ScoreModel, given: Conditioning, seed: int | Tensor, index: Tensor) -> Iterator[Denoised]:
        """Denoise a batch, yielding after every step.

        `index` [B] int64 numbers the sequences and `seed` is one for all or one for each [B] int64: a sequence depends
        on its seed and its number alone, not on its batch. The last x is the sample; it holds no MASK and every given
        token.
        """

    def check(self, graph: Graph) -> None:
        """ValueError where the sampler has no use for the graph."""
        if self.needs_mask:
            graph.check_masking(self.name)

    def check_given(self, given: Conditioning) -> None:  # noqa: B027  (most samplers accept tokens anywhere)
        """ValueError where tokens are given at positions that the sampler cannot take into account."""

    def evaluations_for(self, free: int) -> int:
        """The network evaluations of a sequence with so many free positions, at most."""
        return free

    def shape(self, weights: Tensor) -> Tensor:
        """The distribution of the next token, weights [R, S], with temperature and top_p applied."""
        return nucleus(temper(weights, self.temperature), self.top_p)

    def distribution_options(self) -> dict[str, Any]:
        """The options in use that change the distribution of samples."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("distribution") and getattr(self, f.name) != f.default
        }
