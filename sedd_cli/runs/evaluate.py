"""Likelihood bounds with error bars, beside classical yardsticks on the same text."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sedd_cli import __version__
from sedd_cli.core.likelihood import T_MIN, paper_bound, rigorous_bound, stratified
from sedd_cli.core.random import BOUND, TIME, Stream
from sedd_cli.errors import RequestError
from sedd_cli.runs.events import Evaluated, Event, Note, Prepared, Progress, Warn
from sedd_cli.runs.model import Model
from sedd_cli.runs.prepare import PrepareOptions, prepare
from sedd_cli.text.ngram import NGram
from sedd_cli.text.shards import Dataset, TokenArray, open_dataset

#: Protocol name → whether an incomplete last block counts.
PROTOCOLS = {"rigorous": True, "sedd-paper": False}
#: Fitting an n-gram sorts the training tokens in memory; beyond this many it is left out.
YARDSTICK_TOKENS = 20_000_000
TOKENS_AT_ONCE = 16_384
#: Fewer independent replicates give no standard error worth the name.
LEAST_REPLICATES = 4


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, and how precisely.

    split: by default test where there is one, else validation. Replicates of one stratified draw a block are
    added, at least 4, until the Monte-Carlo standard error is below rel_error of the bound or max_replicates
    is reached. blocks: only the first so many blocks of the split.
    """

    split: str | None = None
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    rel_error: float = 0.005
    max_replicates: int = 64
    seed: int = 0
    yardsticks: bool = True
    blocks: int | None = None

    def __post_init__(self) -> None:
        for name in self.protocols:
            check_protocol(name)
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")
        if not self.rel_error > 0:
            raise RequestError(f"rel-error must be positive, found {self.rel_error}")
        if self.max_replicates < LEAST_REPLICATES:
            raise RequestError(
                f"replicates must be at least {LEAST_REPLICATES} to give an error, found {self.max_replicates}"
            )


def evaluate(model: Model, dataset: Dataset, options: EvaluateOptions) -> Iterator[Event]:
    """Bound a split of a dataset under each protocol; the last event is Evaluated with everything to repeat it."""
    check_tokenizer(model, dataset)
    split = dataset.split(_split_name(dataset, options.split))
    result: dict[str, Any] = {
        "model": model.source,
        **model.facts,
        "corpus": dataset.manifest.corpus,
        "fingerprint": dataset.manifest.fingerprint,
        "split": split.name,
        "tokens": split.tokens,
        "characters": split.characters,
        "unknown": split.info.unknown,
        "length": model.length,
        "bounds": {},
    }
    yield Note(f"scoring the {split.name} split of {dataset.manifest.corpus}: {split.tokens:,} tokens")
    for protocol in _possible(options.protocols, split, model.length):
        found = yield from _bound(model, split, protocol, options)
        result["bounds"][protocol] = found
        if found["rel_error"] > options.rel_error:
            yield Warn(
                f"{protocol}: the relative error is {found['rel_error']:.4f} after {found['replicates']} replicates, "
                f"{options.rel_error:g} was asked for; raise --max-replicates"
            )
    if unknown := split.info.unknown:
        yield Warn(f"{unknown:,} characters of this split are unknown to the tokenizer: bits per character flatter it")
    if options.yardsticks and "train" in dataset.splits and split.name != "train":
        if dataset.split("train").tokens <= YARDSTICK_TOKENS:
            yield Note("fitting the n-gram yardsticks on the training split")
            result["yardsticks"] = yardsticks(dataset, split.name)
        else:
            yield Note(f"no n-gram yardsticks: the training split has over {YARDSTICK_TOKENS:,} tokens")
    result["software"] = {"sedd": __version__, "torch": torch.__version__, "machine": platform.machine()}
    result["seed"] = options.seed
    result["precision"] = "bf16" if model.net.autocast else "fp32"
    yield Evaluated(result)


def open_for(model: Model, corpus: str, job: Callable[[Dataset], Iterator[Event]]) -> Iterator[Event]:
    """Run a job on a corpus in the model's tokens, prepared first where it is missing."""
    tokenizer = model.text_tokenizer()
    # a tokenizer that was trained is known by its file: its name alone would train it anew on this corpus
    names = [tokenizer.spec if tokenizer.named else model.tokenizer_source]
    if model.recipe and model.recipe.data.corpus == corpus:
        names.insert(0, model.recipe.data.tokenizer)
    for name in names:
        for event in prepare(PrepareOptions(corpus=corpus, tokenizer=name)):
            if not isinstance(event, Prepared):
                yield event
                continue
            dataset = open_dataset(event.path)
        if dataset.tokenizer.fingerprint == tokenizer.fingerprint:
            break
    yield from job(dataset)


def _split_name(dataset: Dataset, asked: str | None) -> str:
    name = asked or next((s for s in ("test", "validation", "train") if s in dataset.splits), "train")
    if name not in dataset.splits:
        raise RequestError(f"{dataset.manifest.corpus} has no split {name!r}, it has {', '.join(dataset.splits)}")
    return name


def _possible(protocols: tuple[str, ...], split: TokenArray, length: int) -> list[str]:
    """The protocols under which the split has something to evaluate; RequestError if there is none."""
    possible = [p for p in protocols if PROTOCOLS[p] or split.tokens >= length]
    if not possible:
        raise RequestError(
            f"the {split.name} split has {split.tokens} tokens, fewer than one block of {length}: "
            f"protocol {protocols[0]!r} has nothing to evaluate"
        )
    return possible


def check_tokenizer(model: Model, dataset: Dataset) -> None:
    """RequestError unless the dataset's ids mean what the model's do."""
    ours, theirs = model.tokenizer, dataset.tokenizer
    if ours is None and theirs.vocab_size == model.graph.tokens:
        return
    if ours is None or ours.fingerprint != theirs.fingerprint:
        name = ours.spec if ours else f"none ({model.graph.tokens} tokens)"
        raise RequestError(
            f"the dataset {dataset.folder} has another tokenizer ({theirs.spec}) than the model ({name}): "
            f"prepare the corpus with the model's tokenizer"
        )


def _bound(model: Model, split: TokenArray, protocol: str, options: EvaluateOptions) -> Iterator[Event]:
    length, keep_rest = model.length, PROTOCOLS[protocol]
    blocks = [(i, min(i + length, split.tokens)) for i in range(0, split.tokens, length)]
    if not keep_rest:
        blocks = [b for b in blocks if b[1] - b[0] == length]
    blocks = blocks[: options.blocks]
    used = sum(stop - start for start, stop in blocks)
    to_bits = split.tokens / split.characters / math.log(2) / used
    estimates: list[np.ndarray] = []
    needed, figures = LEAST_REPLICATES, {}
    while len(estimates) < needed:
        replicate = np.zeros(len(blocks))
        for done, nats in _replicate(model, split, blocks, protocol, options.seed, len(estimates)):
            replicate[list(nats)] = list(nats.values())
            done += len(estimates) * len(blocks)
            if done < needed * len(blocks):
                yield Progress(f"{protocol} bound", done, needed * len(blocks), "draws", figures)
        estimates.append(replicate)
        if len(estimates) > 1:
            mean, error = _mean_and_error(np.array([e.sum() for e in estimates]))
            figures = {"bits/char": f"{mean * to_bits:.3f} ± {error * to_bits:.3f}"}
            # the error falls as one over the root of the replicates
            wanted = math.ceil(len(estimates) * (error / (options.rel_error * mean)) ** 2)
            needed = min(max(wanted, LEAST_REPLICATES), options.max_replicates)
    yield Progress(f"{protocol} bound", needed * len(blocks), needed * len(blocks), "draws", figures)
    return _summary(split, np.array(estimates), [b[1] - b[0] for b in blocks], options)


def _summary(split: TokenArray, nats: np.ndarray, lengths: list[int], options: EvaluateOptions) -> dict[str, Any]:
    """Figures from estimates nats [replicates, blocks]."""
    used = sum(lengths)
    mean, error = _mean_and_error(nats.sum(1))
    rate, rate_error = mean / used, error / used
    to_bits = split.tokens / split.characters / math.log(2)
    between = between_blocks(nats, np.array(lengths))
    return {
        "bits_per_char": rate * to_bits,
        "bits_per_char_error": rate_error * to_bits,
        "between_blocks_error": None if between is None else between * to_bits,
        "nats_per_token": rate,
        "nats_per_token_error": rate_error,
        "perplexity": math.exp(min(rate, 700.0)),
        "perplexity_error": math.exp(min(rate, 700.0)) * rate_error,
        "tokens": used,
        "blocks": len(lengths),
        "replicates": len(nats),
        "estimator": "one stratified draw a block and replicate",
        "t_min": T_MIN,
        "rel_error_asked": options.rel_error,
        "rel_error": error / mean,
    }


def between_blocks(nats: np.ndarray, lengths: np.ndarray) -> float | None:
    """Standard error of the nats per token that comes from the choice of text alone; None for a single block.

    nats [replicates, blocks] are estimates for blocks of `lengths` tokens. Residuals of a ratio estimator, less
    the share of their square that the draws put there.
    """
    replicates, blocks = nats.shape
    if blocks < 2:
        return None
    mean = nats.mean(0)
    residuals = mean - mean.sum() / lengths.sum() * lengths
    from_draws = nats.var(0, ddof=1).sum() / replicates
    square = max(blocks / (blocks - 1) * (residuals**2).sum() - from_draws, 0.0)
    return math.sqrt(square) / float(lengths.sum())


def _replicate(
    model: Model, split: TokenArray, blocks: list[tuple[int, int]], protocol: str, seed: int, number: int
) -> Iterator[tuple[int, dict[int, float]]]:
    """One estimate for every block, noise levels stratified over the blocks: (blocks done, {block: nats})."""
    everything = torch.arange(len(blocks))
    u_order, u_level = Stream(seed, TIME, everything).uniforms(number, 1)
    level = torch.empty(len(blocks), dtype=torch.float64)
    level[u_order[:, 0].argsort()] = stratified(len(blocks), u_level[:, 0])
    size, done = max(1, TOKENS_AT_ONCE // model.length), 0
    full = sum(stop - start == model.length for start, stop in blocks)
    groups = list(everything[:full].split(size)) + list(everything[full:].split(1))
    for group in groups:
        if not len(group):
            continue
        start, stop = blocks[int(group[0])][0], blocks[int(group[-1])][1]
        x0 = torch.from_numpy(split.read(start, stop)).view(len(group), -1).to(model.device)
        nats = estimate(model, protocol, x0, level[group], Stream(seed, BOUND, group), number)
        done += len(group)
        yield done, dict(zip(group.tolist(), nats.tolist(), strict=True))


@torch.no_grad()
def estimate(model: Model, protocol: str, x0: Tensor, v: Tensor, stream: Stream, step: int) -> Tensor:
    """One unbiased estimate of the protocol's bound per sequence of x0 [B, L], nats [B] float64."""
    u, u_end = (w.to(x0.device) for w in stream.uniforms(step, x0.shape[1]))
    v = v.to(x0.device)
    if protocol == "rigorous":
        return rigorous_bound(model.score, x0, v, u, u_end).double()
    return paper_bound(model.score, x0, v, u).double()


def check_protocol(protocol: str) -> None:
    """RequestError naming the protocols there are."""
    if protocol not in PROTOCOLS:
        raise RequestError(f"protocol must be one of {', '.join(PROTOCOLS)}, found {protocol!r}")


def bound_of(model: Model, x0: Tensor, draws: int, seed: int, protocol: str) -> tuple[Tensor, Tensor]:
    """Bound and Monte-Carlo standard error of each sequence [B], from four independent stratified sets of draws."""
    check_protocol(protocol)
    if x0.shape[1] > model.length:
        raise RequestError(f"sequences of {x0.shape[1]} tokens are longer than the model's {model.length}")
    replicates, strata = LEAST_REPLICATES, max(1, draws // LEAST_REPLICATES)
    index = torch.arange(len(x0))
    means = []
    for r in range(replicates):
        total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for k in range(strata):
            step = r * strata + k
            v = (k + Stream(seed, TIME, index).uniform(step)) / strata
            total += estimate(model, protocol, x0, v, Stream(seed, BOUND, index), step)
        means.append(total / strata)
    stacked = torch.stack(means)
    return stacked.mean(0), stacked.std(0) / math.sqrt(replicates)


def yardsticks(dataset: Dataset, split: str) -> dict[str, float]:
    """Bits per character of n-gram models of the same tokens, fitted on the training split."""
    train, held_out = dataset.split("train"), dataset.split(split)
    fitted, scored = train.read(0, train.tokens), held_out.read(0, held_out.tokens)
    to_bits = 1 / held_out.characters / math.log(2)
    size = dataset.tokenizer.vocab_size
    return {
        f"{order}-gram" if order > 1 else "unigram": float(NGram(fitted, size, order).nats(scored).sum() * to_bits)
        for order in (1, 5)
    }


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else float("inf")
    return float(values.mean()), float(error)
