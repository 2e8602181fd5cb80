"""Options of a MAUVE comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.errors import RequestError, not_one_of
from sedd_cli.inference.sampling import Sampling

MODES = ("standard", "infill")


@dataclass(frozen=True)
class MauveOptions:
    """Which texts are compared, and how they are generated.

    references: a .txt file (a reference a line), a .jsonl file ("text" or "tokens" a line), or the name of a prepared
    corpus: the beginnings of the documents of its `split` (default: test, else validation, else train), or with
    `windows` consecutive pieces of its text. The first `count` that are long enough are used.
    mode: which `prompt` tokens of a reference are given: the first ones (standard), or half of them at each end
    (infill). `new` tokens are generated, `generations` times for every reference.
    features: the model whose hidden states are compared: a hub id, a folder, or an autoregressive run of ours.
    seeds: of k-means.
    steps, sampler, normalized, top_p, temperature: as in `Sampling`; top_p of a left-to-right model is by default 0.95.
    batch: texts at once; it changes results only by rounding.
    """

    references: str
    split: str | None = None
    mode: str = "standard"
    count: int = 1000
    generations: int = 5
    prompt: int = 50
    new: int = 50
    features: str = "gpt2-large"
    seeds: int = 5
    steps: int | None = None
    sampler: str | None = None
    normalized: bool = False
    top_p: float | None = None
    temperature: float | None = None
    seed: int = 0
    batch: int = 64
    windows: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RequestError(not_one_of("mode", MODES, self.mode))
        for name in ("count", "generations", "prompt", "new", "seeds", "batch"):
            if getattr(self, name) < 1:
                name_ = "the number of references (-n)" if name == "count" else name
                raise RequestError(f"{name_} must be at least 1, found {getattr(self, name)}")
        Sampling(steps=self.steps, sampler=self.sampler, top_p=self.top_p, temperature=self.temperature)
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if self.mode == "infill" and self.prompt % 2:
            raise RequestError(
                f"infill gives half of the prompt on each side: prompt must be even, found {self.prompt}"
            )

    @property
    def length(self) -> int:
        """Tokens of a reference, and of a generated text."""
        return self.prompt + self.new

    @property
    def total(self) -> int:
        """Number of generated texts."""
        return self.count * self.generations

    @property
    def where(self) -> Tensor:
        """The given positions, bool [length]."""
        position = torch.arange(self.length)
        if self.mode == "standard":
            return position < self.prompt
        return (position < self.prompt // 2) | (position >= self.length - self.prompt // 2)
