"""LLaDA's Monte-Carlo likelihood of an answer given its prompt, as its own evaluation draws and weights it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.errors import RequestError

#: Draws of LLaDA's evaluation.
DRAWS = 128
#: Draws of a batch, whose numbers of masks are spread evenly, and the batches that an error needs.
BATCH, LEAST_BATCHES = 16, 4


@dataclass(frozen=True)
class AnswerLikelihood:
    """An estimate of log p(answer | prompt) in nats, with its standard error.

    If all numbers of masks were equally likely (see `masks`), its expectation would be a lower bound on
    log p(answer | prompt) of the model that reveals the answer's tokens in a random order, where MASK's row counts as a
    token that is never seen.
    """

    log_p: float
    error: float
    tokens: int
    draws: int


@torch.no_grad()
def answer_likelihoods(
    model: LoadedModel, prompt: Sequence[int], answer: Sequence[int], draws: int = DRAWS, seed: int = 0
) -> tuple[AnswerLikelihood, AnswerLikelihood]:
    """The likelihood of an answer as LLaDA's evaluation estimates it, and from the same draws over the tokens alone.

    Args:
        model: a masked model.
        prompt, answer: tokens of the model's tokenizer.
        draws: a multiple of BATCH, at least LEAST_BATCHES of them.
        seed: of the draws.

    Raises:
        RequestError: the model has no MASK or fills blocks in turn, the answer is empty, or the number of draws is
            another one.
    """
    if not model.graph.masking or model.exact or model.block_size is not None:
        raise RequestError(
            f"the protocol llada is for masked diffusion that fills all positions at once, which {model.source} is not"
        )
    if not answer:
        raise RequestError("the answer has no tokens")
    if draws % BATCH or draws < BATCH * LEAST_BATCHES:
        raise RequestError(f"draws must be a multiple of {BATCH}, at least {BATCH * LEAST_BATCHES}, found {draws}")
    x0 = torch.tensor([[*prompt, *answer]], device=model.device)
    sizes, means = (normalised_over(model), model.graph.vocab_size), []
    for batch in range(draws // BATCH):
        masked, p = masks(len(answer), BATCH, seed, batch)
        masked = F.pad(masked, (len(prompt), 0)).to(model.device)
        means.append(weighted_log_p(model, x0.expand(BATCH, -1), masked, p.to(model.device), sizes).mean(0))
    found = torch.stack(means)
    mean, error = found.mean(0).tolist(), (found.std(0) / math.sqrt(len(found))).tolist()
    theirs, ours = (AnswerLikelihood(mean[i], error[i], len(answer), draws) for i in range(2))
    return theirs, ours


def masks(tokens: int, batch: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Which of the answer's tokens are masked in the batch of this number, [B, tokens], and their share [B].

    The numbers of masks are spread evenly over 1 … tokens from a random one on; which tokens are masked is uniform.
    LLaDA's code rounds halves to even, and so does this: of 8 tokens, three draws in four mask an even number.
    """
    index = torch.arange(batch)
    first = 1 + int(Stream(seed, TIME, index[:1]).uniform(number) * tokens)
    spread = torch.linspace(first, first + (batch - 1) * tokens / batch, batch).round().long()
    count = (spread - 1) % tokens + 1
    u = Stream(seed, NOISE, index).uniforms(number, tokens)[0]
    return u.argsort(dim=1).argsort(dim=1) < count[:, None], count / tokens


def normalised_over(model: LoadedModel) -> int:
    """Over how many states p(x0|x) is normalised by a model's own code: all, or all but MASK, the last one."""
    counts_mask = model.vocabulary is not None and model.vocabulary.counts_mask
    return model.graph.states if counts_mask else model.graph.vocab_size


def weighted_log_p(model: LoadedModel, x0: Tensor, masked: Tensor, p: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Σ log p(x0_i | x) / p over the masked positions i of each sequence, nats [B, len(sizes)] in float64.

    Args:
        model: a masked model.
        x0: clean tokens [B, L], of its tokenizer.
        masked: where x is MASK, [B, L].
        p: the share of tokens that are masked, [B].
        sizes: the numbers of states, the first ones, over which the distribution is normalised.
    """
    x = torch.where(masked, model.graph.mask_state, x0)
    score = model.score
    batch, position, hidden = score.hidden_rows(x, score.sigma_of_share(p), masked)
    total = torch.zeros(len(x0), len(sizes), dtype=torch.float64, device=x0.device)
    block = score.block(x0.device)
    for b, i, h in zip(*(part.split(block) for part in (batch, position, hidden)), strict=True):
        z, clean = score.net.head(h).double(), x0[b, i]
        each = [-F.cross_entropy(z[:, :size], clean, reduction="none") for size in sizes]
        total.index_add_(0, b, torch.stack(each, 1) / p[b, None].double())
    return total
