"""Diffusion-weighted denoising score entropy (theorem 3.6, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sedd_cli.core.likelihood import T_MIN, draw_loss, paper_bound
from sedd_cli.core.objectives.base import OBJECTIVES, Objective
from sedd_cli.core.score import ScoreModel


@OBJECTIVES.register
@dataclass(frozen=True)
class ScoreEntropy(Objective):
    """The paper's loss.

    `form: time` draws t ~ U(t_min, 1) as the paper does. `form: bound` draws what the graph's rigorous
    bound draws: for the absorbing graph a number of masks instead of a time. Its expectation is the same
    integral over all of [0, 1], its variance lower: no sequence is left without a mask.
    """

    name: ClassVar[str] = "score_entropy"
    form: str = "time"
    t_min: float = T_MIN

    def __post_init__(self) -> None:
        if self.form not in ("time", "bound"):
            raise ValueError(f"form must be 'time' or 'bound', found {self.form!r}")
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), found {self.t_min}")

    def loss(self, model: ScoreModel, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
        if self.form == "time":
            return paper_bound(model, x0, v, u, self.t_min)
        return draw_loss(model, x0, v, u)
