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

#: Draws of a batch, whose numbers of masks are spread evenly, and the batches that an error needs.
BATCH, LEAST_BATCHES = 16, 4


@dataclass(frozen=True)
class AnswerLikelihood:
    """An estimate of log p(answer | prompt) in nats, with its standard error.

    Its expectation is a lower bound on log p(answer | prompt) of the model that reveals the answer's tokens in a
    random order, if MASK's row counts as a token that is never seen.
    """

    log_p: float
    error: float
    tokens: int
    draws: int


@torch.no_grad()
def answer_likelihood(
    model: LoadedModel, prompt: Sequence[int], answer: Sequence[int], draws: int = 128, seed: int = 0
) -> AnswerLikelihood:
    """The likelihood of an answer as LLaDA's evaluation estimates it.

    Args:
        model: a masked model.
        prompt, answer: tokens of the model's tokenizer.
        draws: a multiple of BATCH, at least LEAST_BATCHES of them.
        seed: of the draws.

    Raises:
        RequestError: the model has no MASK, the answer is empty, or the number of draws is another one.
    """
    if not model.graph.masking or model.exact:
        raise RequestError(f"this likelihood is one of masked diffusion, which {model.source} is not")
    if not answer:
        raise RequestError("the answer has no tokens")
    if draws % BATCH or draws < BATCH * LEAST_BATCHES:
        raise RequestError(f"draws must be a multiple of {BATCH}, at least {BATCH * LEAST_BATCHES}, found {draws}")
    x0 = torch.tensor([[*prompt, *answer]], device=model.device)
    means = []
    for batch in range(draws // BATCH):
        masked, p = masks(len(answer), BATCH, seed, batch)
        masked = F.pad(masked, (len(prompt), 0)).to(model.device)
        means.append(weighted_log_p(model, x0.expand(BATCH, -1), masked, p.to(model.device)).mean())
    found = torch.stack(means)
    return AnswerLikelihood(float(found.mean()), float(found.std()) / math.sqrt(len(found)), len(answer), draws)


def masks(tokens: int, batch: int, seed: int, number: int = 0) -> tuple[Tensor, Tensor]:
    """Which of the answer's tokens are masked, [B, tokens], and their share [B].

    The numbers of masks are spread evenly over 1 … tokens from a random one on; which tokens are masked is uniform.
    """
    index = torch.arange(batch)
    first = 1 + int(Stream(seed, TIME, index[:1]).uniform(number) * tokens)
    spread = torch.linspace(first, first + (batch - 1) * tokens / batch, batch).round().long()
    count = (spread - 1) % tokens + 1
    u = Stream(seed, NOISE, index).uniforms(number, tokens)[0]
    return u.argsort(dim=1).argsort(dim=1) < count[:, None], count / tokens


def weighted_log_p(model: LoadedModel, x0: Tensor, masked: Tensor, p: Tensor) -> Tensor:
    """Σ log p(x0_i | x) / p over the masked positions i of each sequence, nats [B] in float64.

    Args:
        model: a masked model. Its distribution is normalised as by its own code.
        x0: clean tokens [B, L], of its tokenizer.
        masked: where x is MASK, [B, L].
        p: the share of tokens that are masked, [B].
    """
    x = torch.where(masked, model.graph.mask_state, x0)
    sigma = -torch.log1p(-p.double().clamp(max=-math.expm1(-model.schedule.sigma(1.0)))).float()
    counts_mask = model.vocabulary is not None and model.vocabulary.counts_mask
    tokens = model.graph.states if counts_mask else model.graph.vocab_size

    def log_p(z: Tensor, batch: Tensor, at: Tensor, clean: Tensor) -> Tensor:
        return -F.cross_entropy(z[:, :tokens].double(), clean, reduction="none") / p[batch].double()

    return model.score.row_losses(x, sigma, x0, log_p, masked).double()
