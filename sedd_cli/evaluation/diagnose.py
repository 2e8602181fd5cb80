"""`doctor --model`: whether a checkpoint is in order, and how well its scores are normalised by noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.random import BASE, NOISE, Stream
from sedd_cli.core.samplers.denoise import denoise_step
from sedd_cli.data.prepared import PrepareOptions, find_prepared
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.evaluation import health_checks as verdicts
from sedd_cli.evaluation.diversity import unigram_entropy
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.events import Event, Finished, Progress, Sampled

#: Shares of moved tokens, λ = 1 − e^{−sigma}, at which scores are looked at, as far as the schedule has them.
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
#: Tokens that are looked at: at least so many, in at least so many blocks.
TOKENS, BLOCKS = 2048, 8
#: Samples whose entropy is measured: of so many tokens together, and at most so many each, in so many steps.
SAMPLED, SAMPLE_LENGTH, SAMPLE_STEPS = 1024, 256, 32


@dataclass(frozen=True)
class CheckupOptions:
    """text: a file to look at; by default the held-out split of the model's own corpus where it is prepared here,
    else samples of the model."""

    text: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Probe:
    """Clean tokens x0 [B, L] to look at, and what they are; `real` where the model did not write them itself."""

    x0: Tensor
    name: str
    real: bool


def checkup(model: LoadedModel, options: CheckupOptions) -> Iterator[Event]:
    """Look at weights, scores at several noise levels, and samples; Finished holds the findings and the levels."""
    findings = [verdicts.weights(model.net)]
    result: dict[str, Any] = {"model": model.source, "fingerprint": model.fingerprint, "findings": findings}
    result |= {"text": None, "levels": [], "samples": None}
    if findings[0]["state"] == "bad":
        return (yield Finished(result))
    if model.exact:  # it has no scores
        samples = yield from _samples(model, options.seed)
        result["samples"] = _varied(samples, _text(model, options.text) if options.text else _held_out(model), model)
        findings.append(verdicts.entropy(result["samples"]))
        return (yield Finished(result))
    probe = _text(model, options.text) if options.text else _held_out(model) or _noise(model, options.seed)
    levels = yield from _levels(model, probe, options.seed)
    result |= {"text": probe.name, "levels": levels}
    if (found := verdicts.scores(levels))["state"] == "bad":
        findings.append(found)
        return (yield Finished(result))
    try:
        samples = yield from _samples(model, options.seed)
    except WorkError as error:  # a law that cannot be drawn from
        findings += [found, verdicts.finding("samples", "bad", str(error), "take an earlier checkpoint")]
        return (yield Finished(result))
    if not probe.real:
        probe = Probe(torch.tensor(samples), "its own samples", real=False)
        levels = yield from _levels(model, probe, options.seed)
        result |= {"text": probe.name, "levels": levels}
    result["samples"] = _varied(samples, probe, model)
    findings += [verdicts.scores(levels), verdicts.normaliser(levels)]
    findings += [verdicts.guesses(levels, probe.x0.tolist(), probe.real), verdicts.entropy(result["samples"])]
    yield Finished(result)


def _levels(model: LoadedModel, probe: Probe, seed: int) -> Generator[Event, None, list[dict[str, Any]]]:
    """`level` at those of LEVELS that the schedule has, or, of a narrow one, at three of its own."""
    ends = model.schedule.sigma(0.0), model.schedule.sigma(1.0)
    lams = [lam for lam in LEVELS if ends[0] < -math.log1p(-lam) <= ends[1]]
    lams = lams or [-math.expm1(-model.schedule.sigma(t)) for t in (0.1, 0.5, 0.9)]
    found = []
    for lam in lams:
        found.append(level(model, probe.x0, lam, seed))
        yield Progress("scoring", len(found), len(lams), "noise levels")
    return found


@torch.no_grad()
def level(model: LoadedModel, x0: Tensor, lam: float, seed: int = 0) -> dict[str, Any]:
    """What the scores of x0 [B, L] under noise that moves the share lam of its tokens come to.

    normaliser: its mean with the standard error over sequences, and quantiles over positions. moved: tokens that noise
    moved; guessed: those of them that are the likeliest destination. log_score: the smallest and the largest; beyond:
    how far the largest exceeds that of any distribution; finite: whether all are.
    """
    graph, x0 = model.graph, x0.to(model.device)
    sigma = torch.full((len(x0),), -math.log1p(-lam), dtype=torch.float64, device=x0.device)
    u, _ = Stream(seed, NOISE, torch.arange(len(x0))).uniforms(0, x0.shape[1])
    x = graph.perturb(x0, sigma, u.to(x0.device))
    values, owners, least, most, guessed, moved = [], [], math.inf, -math.inf, 0, 0
    beyond = -math.inf
    for rows, log_score in model.score.scored_rows(x, sigma):
        if not len(rows.x):
            continue
        was = x0[rows.batch, rows.position]
        values.append(graph.normaliser(log_score, rows.sigma).cpu())
        owners.append(rows.batch.cpu())
        tokens = log_score[:, : graph.vocab_size]
        least, most = min(least, float(tokens.min())), max(most, float(tokens.max()))
        beyond = max(beyond, most - float(graph.largest_score(sigma[0])))
        away = rows.x != was
        likeliest = denoise_step(graph, log_score, rows.x, rows.sigma).weights.argmax(-1)
        guessed += int((likeliest == was)[away].sum())
        moved += int(away.sum())
    found: dict[str, Any] = {
        "lambda": lam,
        "sigma": float(sigma[0]),
        "positions": sum(map(len, values)),
        "moved": moved,
    }
    if not values:
        return {**found, "guessed": 0, "normaliser": None, "log_score": None, "beyond": None, "finite": True}
    value, owner = torch.cat(values), torch.cat(owners)
    # a NaN is lost in a minimum, but not in the normaliser
    finite = bool(value.isfinite().all()) and math.isfinite(least) and math.isfinite(most)
    return {
        **found,
        "guessed": guessed,
        "normaliser": _summary(value, owner) if finite else None,
        "log_score": [least, most] if finite else None,
        "beyond": beyond if finite else None,
        "finite": finite,
    }


def _summary(value: Tensor, owner: Tensor) -> dict[str, float | None]:
    """Mean over positions with its standard error over sequences, a ratio of sums; and quantiles."""
    mean, count = float(value.mean()), len(owner.unique())
    error = None
    if count > 1:
        residual = torch.zeros(int(owner.max()) + 1, dtype=torch.float64).index_add_(0, owner, value - mean)
        error = math.sqrt(float(residual.square().sum()) * count / (count - 1)) / len(value)
    low, high = torch.quantile(value, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return {"mean": mean, "error": error, "p5": low, "p95": high}


def _samples(model: LoadedModel, seed: int) -> Generator[Event, None, list[list[int]]]:
    found, length = [], min(model.length, SAMPLE_LENGTH)
    sampling = Sampling() if model.exact else Sampling(SAMPLE_STEPS, "tweedie")
    for event in generate(model, GenerateOptions(_enough(SAMPLED, length), length, seed=seed, sampling=sampling)):
        if isinstance(event, Sampled):
            found.append(event.tokens)
        elif isinstance(event, Progress):
            yield event
    return found


def _varied(samples: list[list[int]], probe: Probe | None, model: LoadedModel) -> dict[str, Any]:
    """Unigram entropy of the samples, of as long pieces of real text where there are any, and the most there can be."""
    entropy, error = unigram_entropy(samples)
    length, text = len(samples[0]), None
    if probe is not None and probe.real and probe.x0.shape[1] >= length:
        text, _ = unigram_entropy(probe.x0[:, :length].tolist())
    most = math.log(min(length, model.vocab_size))
    facts = {"n": len(samples), "length": length, "steps": None if model.exact else SAMPLE_STEPS}
    return {**facts, "entropy": entropy, "error": error, "text": text, "most": most}


def _noise(model: LoadedModel, seed: int) -> Probe:
    """Tokens drawn evenly: before a model's samples are known, to see whether it can be asked for any."""
    u, _ = Stream(seed, BASE, torch.arange(BLOCKS)).uniforms(0, min(model.length, SAMPLE_LENGTH))
    return Probe((u * model.vocab_size).long(), "random tokens", real=False)


def _enough(tokens: int, length: int) -> int:
    """How many sequences of a length hold so many tokens; at least BLOCKS."""
    return max(BLOCKS, math.ceil(tokens / length))


def _blocks(model: LoadedModel, tokens: int, read: Callable[[int, int], Any]) -> Tensor:
    """Blocks [B, L] of the trained length, spread over a text of so many tokens; or one shorter block."""
    length = min(model.length, tokens)
    count = min(_enough(TOKENS, length), tokens // length)
    starts = [i * (tokens // length) // count * length for i in range(count)]
    return torch.stack([torch.as_tensor(read(at, at + length), dtype=torch.int64) for at in starts])


def _text(model: LoadedModel, path: Path) -> Probe:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: byte {error.start:,} does not decode") from None
    ids = model.text_tokenizer().encode(text)
    if len(ids) < 2:
        raise RequestError(f"{path} holds {len(ids)} tokens, too few to look at")
    return Probe(_blocks(model, len(ids), lambda start, stop: ids[start:stop]), str(path), real=True)


def _held_out(model: LoadedModel) -> Probe | None:
    """The held-out split of the model's own corpus, where it is prepared on this machine."""
    if model.recipe is None or model.tokenizer is None:
        return None
    data = model.recipe.data
    try:
        folder = find_prepared(PrepareOptions(data.corpus, tokenizer=data.tokenizer))
        dataset = open_dataset(folder) if folder else None
    except (RequestError, DamageError):
        return None
    if dataset is None or dataset.tokenizer.fingerprint != model.tokenizer.fingerprint:
        return None
    name = dataset.default_split
    if name == "train":
        return None
    split = dataset.split(name)
    return Probe(_blocks(model, split.tokens, split.read), f"{name} split of {Path(data.corpus).name}", real=True)
