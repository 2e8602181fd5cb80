"""Diagnose a model: weights, scores and their normaliser by noise level, and samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.own_text import text_of
from sedd_cli.core.random import BASE, NOISE, Stream
from sedd_cli.core.samplers.denoise import denoise_step
from sedd_cli.data.formats import ReadOptions, read_documents
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.diagnosis import health_checks
from sedd_cli.evaluation.diagnosis.results import Diagnosis, NoiseLevel, NormaliserSummary, SampleEntropy
from sedd_cli.evaluation.diversity import unigram_entropy
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.sampling import Sampling, check_draws
from sedd_cli.system.events import Event, Progress, Sampled

#: Shares of moved tokens, λ = 1 − e^{−sigma}, at which scores are checked, as far as the schedule reaches them.
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
#: Scored text: at least so many tokens, in at least so many blocks.
TOKENS, BLOCKS = 2048, 8
#: Documents of a file of text that are read, at most.
MOST_DOCUMENTS = 64
#: The quantile over positions of their largest scores that is compared with a distribution's: a few may be far off.
QUANTILE = 0.99
#: Samples whose entropy is measured: tokens of all together, most tokens of one, sampling steps.
SAMPLED, SAMPLE_LENGTH, SAMPLE_STEPS = 1024, 256, 32


@dataclass(frozen=True)
class DiagnoseOptions:
    """What is scored.

    text: a file to score; by default the held-out split of the model's own corpus if it is prepared on this machine,
    else samples of the model.
    """

    text: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_draws(1, self.seed)


@dataclass(frozen=True)
class Probe:
    """Clean tokens x0 [B, L] to score. real: not written by the model itself."""

    x0: Tensor
    name: str
    real: bool


def diagnose(model: LoadedModel, options: DiagnoseOptions) -> Generator[Event, None, Diagnosis]:
    """Check weights, scores at several noise levels, and samples."""
    known, weights = (model.source, model.fingerprint), health_checks.weights(model.net)
    if weights["state"] == "bad":
        return Diagnosis(*known, [weights])
    if model.exact:  # it has no scores
        rows = yield from _samples(model, options.seed)
        samples = _entropy(rows, _text(model, options.text) if options.text else _held_out(model), model)
        return Diagnosis(*known, [weights, health_checks.entropy(samples)], samples=samples)
    probe = _text(model, options.text) if options.text else _held_out(model) or _random_tokens(model, options.seed)
    levels = yield from _levels(model, probe, options.seed)
    scores = health_checks.scores(levels)
    if scores["state"] == "bad":
        return Diagnosis(*known, [weights, scores], probe.name, levels)
    try:
        rows = yield from _samples(model, options.seed)
    except WorkError as error:  # the model's distribution cannot be sampled
        failure = health_checks.finding("samples", "bad", str(error), "take an earlier checkpoint")
        return Diagnosis(*known, [weights, scores, failure], probe.name, levels)
    if not probe.real:
        probe = Probe(torch.tensor(rows), "its own samples", real=False)
        levels = yield from _levels(model, probe, options.seed)
    samples = _entropy(rows, probe, model)
    findings = [
        weights,
        health_checks.scores(levels),
        health_checks.normaliser(levels),
        health_checks.guesses(levels, probe.real),
        health_checks.entropy(samples),
    ]
    return Diagnosis(*known, findings, probe.name, levels, samples)


def _levels(model: LoadedModel, probe: Probe, seed: int) -> Generator[Event, None, tuple[NoiseLevel, ...]]:
    """The scores at those of LEVELS that the schedule reaches, else at three of its own."""
    ends = model.schedule.sigma(0.0), model.schedule.sigma(1.0)
    lams = [lam for lam in LEVELS if ends[0] < -math.log1p(-lam) <= ends[1]]
    lams = lams or [-math.expm1(-model.schedule.sigma(t)) for t in (0.1, 0.5, 0.9)]
    found: list[NoiseLevel] = []
    for lam in lams:
        found.append(score_level(model, probe.x0, lam, seed))
        yield Progress("scoring", len(found), len(lams), "noise levels")
    return tuple(found)


@torch.no_grad()
def score_level(model: LoadedModel, x0: Tensor, lam: float, seed: int = 0) -> NoiseLevel:
    """The scores of x0 [B, L] under noise that moves the share lam of its tokens."""
    graph, x0 = model.graph, x0.to(model.device)
    sigma = torch.full((len(x0),), -math.log1p(-lam), dtype=torch.float64, device=x0.device)
    u, _ = Stream(seed, NOISE, torch.arange(len(x0))).uniforms(0, x0.shape[1])
    x = graph.perturb(x0, sigma, u.to(x0.device))
    values, owners, largest, least, guessed, blind, moved = [], [], [], math.inf, 0, 0, 0
    first, second = x0.flatten().bincount(minlength=graph.vocab_size).topk(2).indices  # the most frequent tokens
    for rows, log_score in model.score.given_clean(x0).scored_rows(x, sigma):
        if not len(rows.x):
            continue
        clean = x0[rows.batch, rows.position]
        values.append(graph.normaliser(log_score, rows.sigma).cpu())
        owners.append(rows.batch.cpu())
        tokens = log_score[:, : graph.vocab_size]
        least = min(least, float(tokens.min()))
        largest.append(tokens.amax(-1).double().cpu())
        away = rows.x != clean
        likeliest = denoise_step(graph, log_score, rows.x, rows.sigma).weights.argmax(-1)
        guessed += int((likeliest == clean)[away].sum())
        blind += int((torch.where(rows.x == first, second, first) == clean)[away].sum())
        moved += int(away.sum())
    level, positions = float(sigma[0]), sum(map(len, values))
    if not values:
        return NoiseLevel(lam, level, positions, moved, 0, 0, None, None, None, True)
    value, owner, top = torch.cat(values), torch.cat(owners), torch.cat(largest)
    most = float(top.max())
    # a minimum can miss a NaN, the normaliser cannot
    if not (bool(value.isfinite().all()) and math.isfinite(least) and math.isfinite(most)):
        return NoiseLevel(lam, level, positions, moved, guessed, blind, None, None, None, False)
    beyond = float(top.quantile(QUANTILE)) - float(graph.largest_score(sigma[0]))
    summary = _summary(value, owner)
    return NoiseLevel(lam, level, positions, moved, guessed, blind, summary, (least, most), beyond, True)


def _summary(value: Tensor, owner: Tensor) -> NormaliserSummary:
    """Mean over positions with its standard error over sequences, as a ratio of sums, and quantiles."""
    mean, count = float(value.mean()), len(owner.unique())
    error = None
    if count > 1:
        residual = torch.zeros(int(owner.max()) + 1, dtype=torch.float64).index_add_(0, owner, value - mean)
        error = math.sqrt(float(residual.square().sum()) * count / (count - 1)) / len(value)
    low, high = torch.quantile(value, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return NormaliserSummary(mean, error, low, high)


def _samples(model: LoadedModel, seed: int) -> Generator[Event, None, list[list[int]]]:
    found: list[list[int]] = []
    length = min(model.length, SAMPLE_LENGTH)
    sampling = Sampling() if model.exact else Sampling(SAMPLE_STEPS, "tweedie")
    if model.net.first_given:
        u = Stream(seed, BASE, torch.arange(_enough(SAMPLED, length))).uniform(0)
        firsts = (u * model.vocab_size).long().tolist()
        begun = [SequenceRequest((first, *[None] * (length - 1)), seed, i) for i, first in enumerate(firsts)]
        for event in denoise(model, sampling.resolve(model), begun):
            if isinstance(event, DenoisedRow):
                found.append(event.tokens)
            else:
                yield event
        return found
    for event in generate(model, GenerateOptions(_enough(SAMPLED, length), length, seed=seed, sampling=sampling)):
        if isinstance(event, Sampled):
            found.append(event.tokens)
        elif isinstance(event, Progress):
            yield event
    return found


def _entropy(samples: list[list[int]], probe: Probe | None, model: LoadedModel) -> SampleEntropy:
    """Unigram entropy of the samples, compared with that of as long pieces of real text if there is any."""
    entropy, error = unigram_entropy(samples)
    length, text = len(samples[0]), None
    if probe is not None and probe.real and probe.x0.shape[1] >= length:
        text, _ = unigram_entropy(probe.x0[:, :length].tolist())
    most = math.log(min(length, model.vocab_size))
    return SampleEntropy(len(samples), length, None if model.exact else SAMPLE_STEPS, entropy, error, text, most)


def _random_tokens(model: LoadedModel, seed: int) -> Probe:
    """Uniform tokens, to check the scores before sampling."""
    u, _ = Stream(seed, BASE, torch.arange(BLOCKS)).uniforms(0, min(model.length, SAMPLE_LENGTH))
    return Probe((u * model.vocab_size).long(), "random tokens", real=False)


def _enough(tokens: int, length: int) -> int:
    """The number of sequences of a length that hold so many tokens, at least BLOCKS."""
    return max(BLOCKS, math.ceil(tokens / length))


def _blocks(model: LoadedModel, tokens: int, read: Callable[[int, int], Any]) -> Tensor:
    """Blocks [B, L] of the trained length, spread evenly over a text of `tokens` tokens; or one shorter block."""
    length = min(model.length, tokens)
    count = min(_enough(TOKENS, length), tokens // length)
    starts = [i * (tokens // length) // count * length for i in range(count)]
    return torch.stack([torch.as_tensor(read(at, at + length), dtype=torch.int64) for at in starts])


def _text(model: LoadedModel, path: Path) -> Probe:
    """Blocks of a text file; RequestError if it cannot be read or is too short."""
    try:
        documents = itertools.islice(read_documents(path, ReadOptions(documents="file")), MOST_DOCUMENTS)
        text = model.text_tokenizer().separator.join(documents)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    ids = model.text_tokenizer().encode(text)
    if len(ids) < 2:
        raise RequestError(f"{path} holds {len(ids)} tokens, too few to score")
    return Probe(_blocks(model, len(ids), lambda start, stop: ids[start:stop]), str(path), real=True)


def _held_out(model: LoadedModel) -> Probe | None:
    """The held-out split of the model's own corpus, if it is prepared on this machine."""
    if model.recipe is None or model.tokenizer is None:
        return None
    dataset = text_of(model)
    if dataset is None or dataset.tokenizer.fingerprint != model.tokenizer.fingerprint:
        return None
    name = dataset.default_split
    if name == "train":
        return None
    split = dataset.split(name)
    corpus = Path(model.recipe.data.corpus).name
    return Probe(_blocks(model, split.tokens, split.read), f"{name} split of {corpus}", real=True)
