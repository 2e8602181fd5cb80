"""Continuations of prompts by a causal language model of `transformers`, drawn exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.categorical import inverse_cdf, nucleus
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel


@torch.no_grad()
def continue_prompts(
    model: CausalModel, prompts: Tensor, new: int, top_p: float, temperature: float, seed: int, numbers: Tensor,
    ends: bool = False,
) -> Tensor:  # fmt: skip
    """`new` tokens after each of prompts [B, P], left to right, int64 [B, new].

    Every token is drawn exactly (float64) from the nucleus top_p (Holtzman et al. 2020) of softmax(logits /
    temperature). Apart from rounding of the logits, a continuation depends only on the seed, its number in
    `numbers` [B], and its prompt.

    Args:
        prompts: an empty prompt (P = 0) starts from `model.start`.
        ends: whether end-of-text is drawn like any other token, and the text continues after it. By default it is
            never drawn; its probability is removed before the nucleus is taken.
    """
    if not 0 < top_p <= 1:
        raise RequestError(f"top-p must lie in (0, 1], found {top_p}")
    if not temperature > 0:
        raise RequestError(f"temperature must be positive, found {temperature}")
    x = model.check_tokens(prompts)
    if x.shape[1] == 0:
        x = torch.full((len(x), 1), model.start, device=model.device)
    if x.shape[1] + new - 1 > model.context:
        raise RequestError(
            f"{x.shape[1]} given and {new} new tokens are more than {model.source}'s context of {model.context}"
        )
    stream, cache, drawn = Stream(seed, SAMPLER, numbers.to(model.device)), None, []
    for k in range(new):
        logits, cache = model.network.next_logits(x, cache)
        logits = logits.double() / temperature
        if not ends:
            logits[:, model.ends] = -torch.inf
        x = inverse_cdf(nucleus(logits.softmax(-1), top_p), stream.uniform(k))[:, None]
        drawn.append(x)
    return torch.cat(drawn, 1) if drawn else x.new_empty(len(x), 0)
