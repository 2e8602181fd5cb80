"""Given tokens (algorithm 3): positions set before every step and after the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Given tokens: where `where` [B, L] is True, the sequence keeps `tokens` [B, L]."""

    where: Tensor
    tokens: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.where, self.tokens, x)

    @classmethod
    def nothing(cls, batch: int, length: int, device: torch.device | str = "cpu") -> Conditioning:
        """No position is given."""
        return cls(
            torch.zeros(batch, length, dtype=torch.bool, device=device),
            torch.zeros(batch, length, dtype=torch.int64, device=device),
        )

    @classmethod
    def at(
        cls, positions: list[int], tokens: list[int], batch: int, length: int, device: torch.device | str = "cpu"
    ) -> Conditioning:
        """The same tokens [P] at the same positions [P] of every sequence."""
        given = cls.nothing(batch, length, device)
        given.where[:, positions] = True
        given.tokens[:, positions] = torch.tensor(tokens, dtype=torch.int64, device=device)
        return given
