"""What graphs and schedules may measure of the text that a model is trained on."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TokenStatistics(Protocol):
    """Statistics of the training text, read only when they are asked for."""

    def counts(self) -> Tensor:
        """How often each token occurs, int64 [N]."""
        ...

    def pairs(self) -> Tensor:
        """How often token a stands right before token b, float64 [N, N]."""
        ...

    def embedding(self, file: str) -> Tensor:
        """The vectors of tokens that a file holds, float64 [rows, D]."""
        ...
