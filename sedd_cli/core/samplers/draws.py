"""How transitions are drawn: exactly, or as in the published code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.graphs import Transition

Shape = Callable[[Tensor], Tensor]


class Draw(Protocol):
    """Draws transitions by uniforms that are drawn before the transition is computed."""

    #: Whether a position whose u_move is not below its move_probability always stays, so that it needs no score.
    moves_first: ClassVar[bool]

    def __call__(self, transition: Transition, x: Tensor, u_move: Tensor, u_token: Tensor, shape: Shape) -> Tensor:
        """What positions x [R] become, int64 [R], by float64 uniforms [R]; `shape` changes the weights of tokens."""
        ...


@dataclass(frozen=True)
class Exact:
    """First whether a position moves, then, only where it does, where to: float64 throughout."""

    moves_first: ClassVar[bool] = True

    def __call__(self, transition: Transition, x: Tensor, u_move: Tensor, u_token: Tensor, shape: Shape) -> Tensor:
        leaves = (u_move < transition.move_probability).nonzero()[:, 0]
        return x.index_put((leaves,), inverse_cdf(shape(transition.weights[leaves]), u_token[leaves]))


@dataclass(frozen=True)
class Float32Gumbel:
    """The race of the published code: argmax of p/(1e-10 − log(u + 1e-10)) over all states, in float32.

    With a resolution of 2⁻²⁴ an entry of mass q wins as if it had 2⁻²⁴/(e^{2⁻²⁴/q} − 1): rare tokens vanish. Here to
    reproduce published figures. The u of a position are torch's own, from a generator that u_token seeds.
    """

    moves_first: ClassVar[bool] = False

    def __call__(self, transition: Transition, x: Tensor, u_move: Tensor, u_token: Tensor, shape: Shape) -> Tensor:
        weights = shape(transition.weights).double()
        moves = (transition.move_probability / weights.sum(-1).clamp(min=1e-300))[:, None] * weights
        p = moves.scatter_add(-1, x[:, None], (1 - transition.move_probability)[:, None]).float()
        return torch.cat([self._race(row, seed) for row, seed in zip(p, u_token.tolist(), strict=True)] or [x])

    def _race(self, p: Tensor, seed: float) -> Tensor:
        generator = torch.Generator().manual_seed(int(seed * 2**52))
        u = torch.rand(len(p), generator=generator, dtype=torch.float32).to(p.device)
        return (p / (1e-10 - (u + 1e-10).log())).argmax(-1, keepdim=True)


DRAWS: dict[str, Draw] = {"float64": Exact(), "float32-gumbel": Float32Gumbel()}
