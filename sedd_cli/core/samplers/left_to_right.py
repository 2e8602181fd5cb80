"""Autoregressive sampling with a causal network, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from sedd_cli.core.categorical import inverse_cdf
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.samplers.base import SAMPLERS, Denoised, Sampler
from sedd_cli.core.score import ScoreModel


@SAMPLERS.register
@dataclass(frozen=True)
class LeftToRight(Sampler):
    """x_i ~ p(·|x_1 … x_{i−1}), with cached keys and values. Given tokens may stand in front only."""

    name: ClassVar[str] = "left_to_right"
    causal: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True

    def check_given(self, given: Conditioning) -> None:
        if bool((given.where[:, 1:] & ~given.where[:, :-1]).any()):
            raise ValueError("an autoregressive model goes from left to right: it cannot mind text behind a gap")

    def run(
        self, model: ScoreModel, given: Conditioning, seed: int | torch.Tensor, index: torch.Tensor
    ) -> Iterator[Denoised]:
        self.check(model.graph)
        self.check_given(given)
        net = cast(Any, model.net)  # a causal network with a cache of keys and values
        batch, length = given.where.shape
        mask, noise, cache = model.graph.mask_state, Stream(seed, SAMPLER, index), net.kv_cache()
        x = given(torch.full_like(given.tokens, mask))
        evaluations, sigma = torch.zeros_like(index), torch.zeros(batch, device=index.device)
        first = int(given.where.all(0).cumprod(0).sum())  # as many tokens are given to all
        new = torch.cat([torch.full_like(x[:, :1], mask), x[:, :first]], 1)
        for i in range(first, length):
            hidden = net.hidden(new, sigma, cache)[:, -1]
            weights = net.head(hidden)[:, : model.graph.vocab_size].softmax(-1, dtype=torch.float64)
            drawn = inverse_cdf(self.shape(weights), noise.uniforms(i, 1)[0][:, 0])
            x = x.clone()
            x[:, i] = torch.where(given.where[:, i], x[:, i], drawn)
            new, evaluations = x[:, i : i + 1], evaluations + ~given.where[:, i]
            yield Denoised(i + 1 - first, length - first, x, evaluations)
        if first == length:
            yield Denoised(0, 0, x, evaluations)
