"""Likelihoods with error bars, beside baselines and the paper's values on the same text."""

from __future__ import annotations

import math
import platform
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sedd_cli import __version__
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.shards import Dataset
from sedd_cli.errors import RequestError, WorkError, did_you_mean
from sedd_cli.evaluation.baselines.baselines import baselines
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.estimator import estimate, fill
from sedd_cli.evaluation.likelihood.paper import paper_value
from sedd_cli.evaluation.likelihood.precision import try_bf16
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import (
    BoundResult,
    EvaluatedSplit,
    EvaluationResults,
    FailedEvaluation,
    LikelihoodResult,
    ModelIdentity,
    MonteCarlo,
)
from sedd_cli.evaluation.likelihood.stepwise import Followed
from sedd_cli.evaluation.likelihood.summary import Estimates, summary, training_loss
from sedd_cli.evaluation.likelihood.texts import Text, check_corpus, check_tokenizer, prepared_for
from sedd_cli.evaluation.likelihood.windows import Windows
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.bound import (
    DEFAULT_PROTOCOLS,
    DRAWS_VERSION,
    MonteCarloOptions,
    find_protocol,
    shared,
)
from sedd_cli.inference.fitting import check_protocol
from sedd_cli.inference.memory import check_fits
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Evaluated, Event, Note, Progress, Warn
from sedd_cli.system.software import software


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, and how precisely.

    split: by default test if the dataset has it, else validation. protocols: see `default_protocols`. blocks: only
    the first so many of the split. length: tokens of a block (default: the model's). try_bf16: compute in bf16 if it is
    measured not to matter. keep: cache finished draws in $SEDD_HOME and resume from cached ones. sampling: of the
    protocol `sampler`.
    """

    split: str | None = None
    protocols: tuple[str, ...] = ()
    monte_carlo: MonteCarloOptions = field(default_factory=MonteCarloOptions)
    baselines: bool = True
    blocks: int | None = None
    length: int | None = None
    try_bf16: bool = False
    keep: bool = False
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name in self.protocols:
            find_protocol(name)
        if self.sampling != Sampling() and "sampler" not in self.protocols:
            raise RequestError("options of the sampler mean something with --protocol sampler alone")
        for key in ("blocks", "length"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")


def evaluate_all(
    model: LoadedModel | CausalModel, texts: Sequence[Text], options: EvaluateOptions, dist: Dist
) -> Generator[Event, None, EvaluationResults]:
    """Evaluate on several corpora; yields Evaluated after each.

    A corpus that fails does not stop the others; if there is only one, its error is raised.
    """
    if isinstance(model, LoadedModel) and not model.exact:
        options.monte_carlo.estimator_for(model.graph)
    for name in options.protocols:
        _check_measure(name, model, options)  # before a text is prepared
    results: list[LikelihoodResult] = []
    failed: list[FailedEvaluation] = []
    for text in texts:
        try:
            dataset = yield from prepared_for(model, text, dist)
            results.append((yield from evaluate(model, dataset, options, dist)))
        except (RequestError, WorkError) as error:
            if len(texts) == 1:
                raise
            failed.append(FailedEvaluation(text.corpus, str(error), 1 + isinstance(error, RequestError)))
            yield Warn(f"{text.corpus}: {error}")
    return EvaluationResults(tuple(results), tuple(failed))


def evaluate(
    model: LoadedModel | CausalModel, dataset: Dataset, options: EvaluateOptions, dist: Dist | None = None
) -> Generator[Event, None, LikelihoodResult]:
    """Measure a split of a dataset under each protocol; yields Evaluated at the end, for display."""
    dist = dist or Dist(0, 1, model.device)
    check_tokenizer(model, dataset)
    text = EvaluatedSplit.of(dataset, dataset.split(_split_name(dataset, options.split)))
    length = model.length if options.length is None else options.length
    if not 1 <= length <= model.length:
        raise RequestError(f"length must lie between 1 and the model's {model.length}, found {length}")
    if isinstance(model, LoadedModel):
        check_fits(model, length)
    blocks = _blocks(model, dataset, text.split, length, options)
    yield Note(f"scoring the {text.split} split of {text.corpus}: {text.tokens:,} tokens")
    diffusion = model if isinstance(model, LoadedModel) and not model.exact else None
    identity, used, bf16 = ModelIdentity.of(model), model, None
    if options.try_bf16 and diffusion:
        used, bf16 = yield from try_bf16(diffusion, *next(iter(blocks.items())), options.monte_carlo, dist)
    estimator = options.monte_carlo.estimator_for(diffusion.graph) if diffusion else None
    seed = options.monte_carlo.seed if diffusion else None
    known = {
        "model_fingerprint": identity.fingerprint,
        "fingerprint": text.fingerprint,
        "split": text.split,
        "length": length,
        "blocks_asked": options.blocks,
        "estimator": estimator,
        "seed": seed,
        "precision": used.precision,
    }
    bounds = yield from _all_bounds(used, blocks, known, options, dist)
    yield from _warnings(bounds, text.unknown, options)
    compared = None
    # n-grams are counted along a text in one piece, which windows of documents are not
    pieces = [own for name, own in blocks.items() if not find_protocol(name).windows]
    if options.baselines and dist.main and pieces:
        compared = yield from baselines(dataset, blocks.get("rigorous") or pieces[0])
    result = LikelihoodResult(
        model=identity,
        text=text,
        length=length,
        blocks_asked=options.blocks,
        bounds=bounds,
        estimator=estimator,
        seed=seed,
        tried_bf16=options.try_bf16 and diffusion is not None,
        bf16=bf16,
        precision=used.precision,
        baselines=compared,
        paper=paper_value(model.kind, model.layers, length, text.tokenizer, text.corpus),
        software={**software("torch", *model.libraries), "machine": platform.machine()},
        device=str(dist.device),
        processes=dist.world,
    )
    yield Evaluated(result.to_dict(), result.documents())
    return result


def default_protocols(model: LoadedModel | CausalModel) -> tuple[str, ...]:
    """The default protocols: both bounds in continuous time, a discrete-time model's own bound, or the likelihood."""
    if isinstance(model, CausalModel) or model.exact:
        return ("sedd-paper",)
    return DEFAULT_PROTOCOLS if model.objective.steps is None else ("discrete",)


def _check_measure(name: str, model: LoadedModel | CausalModel, options: EvaluateOptions) -> None:
    """RequestError where a protocol does not fit the model, or its sampler."""
    check_protocol(name, model)
    if isinstance(model, LoadedModel) and find_protocol(name).stepwise:
        Followed.of(model, options.sampling)


def _blocks(
    model: LoadedModel | CausalModel, dataset: Dataset, split: str, length: int, options: EvaluateOptions
) -> dict[str, Blocks]:
    """The blocks of each protocol; a default protocol is left out where the text is too short for it."""
    found: dict[str, Blocks] = {}
    refusal = RequestError("no protocol")
    for name in options.protocols or default_protocols(model):
        _check_measure(name, model, options)
        check_corpus(name, dataset)
        try:
            own, tokenizer = dataset.split(split), dataset.tokenizer
            if find_protocol(name).windows and isinstance(model, LoadedModel):
                seed = options.monte_carlo.seed
                found[name] = Windows.of_documents(own, length, tokenizer, model.padding, options.blocks, seed)
            else:
                found[name] = Blocks.cut(own, name, length, tokenizer, options.blocks)
        except RequestError as error:
            refusal = error
            if options.protocols:
                raise
    if not found:
        raise refusal
    return found


def _all_bounds(
    model: LoadedModel | CausalModel,
    blocks: dict[str, Blocks],
    known: dict[str, Any],
    options: EvaluateOptions,
    dist: Dist,
) -> Generator[Event, None, dict[str, BoundResult]]:
    """The result of each protocol. known: what determines cached draws, besides the protocol."""
    found: dict[str, BoundResult] = {}
    if isinstance(model, CausalModel) or model.exact:
        for name, own in blocks.items():
            found[name] = yield from _likelihood(model, name, own, known, options, dist)
        return found
    together = shared(known["estimator"], blocks)
    for names in (*([together] if together else []), *((name,) for name in blocks if name not in together)):
        if find_protocol(names[0]).stepwise:
            followed = Followed.of(model, options.sampling)
            cache = _cache(known, options, {"protocols": names, "sampler": followed.key})
            found[names[0]] = yield from followed.bound(blocks[names[0]], options.monte_carlo, cache, dist)
            yield from _cache_warning(cache)
        else:
            found |= yield from _bounds(model, {name: blocks[name] for name in names}, known, options, dist)
    return {name: found[name] for name in blocks}


def _likelihood(
    model: LoadedModel | CausalModel,
    name: str,
    blocks: Blocks,
    known: dict[str, Any],
    options: EvaluateOptions,
    dist: Dist,
) -> Generator[Event, None, BoundResult]:
    """The exact likelihood under a protocol.

    A mark at the beginning of a block is given; without marks the first token is predicted too.
    """
    cache, wrapped = _cache(known, options, {"protocol": name}), find_protocol(name).wrapped
    nats = model.nats_given_first if wrapped else model.nats
    shape = (len(blocks),)
    values = dist.from_main(lambda: cache.read(0, shape) if cache else np.full(shape, np.nan))
    for done in fill(values, blocks, lambda group: nats(blocks.read(group).to(dist.device)), dist, cache, 0):
        yield Progress(f"{name} likelihood", done, len(blocks), "blocks")
    yield from _cache_warning(cache)
    return summary(blocks, Estimates(values[None], 1), name, given=int(wrapped))


def _bounds(
    model: LoadedModel, blocks: dict[str, Blocks], known: dict[str, Any], options: EvaluateOptions, dist: Dist
) -> Generator[Event, None, dict[str, BoundResult]]:
    """The bound of one protocol, or the bounds of those that share their draws."""
    names, first, monte_carlo = tuple(blocks), next(iter(blocks.values())), options.monte_carlo
    how = {"protocols": names, "draws": monte_carlo.draws(len(first))}
    how |= {"padding": model.padding} if find_protocol(names[0]).windows else {}
    cache = _cache(known, options, how)
    to_bits = 1 / math.log(2) / first.size.characters
    estimates = yield from estimate(model.score, first, names, monte_carlo, cache, dist, to_bits)
    yield from _cache_warning(cache)
    found = {}
    for (name, own), each in zip(blocks.items(), estimates, strict=False):  # that of a training loss may follow
        kept = Estimates(each.nats[:, : len(own)], each.draws)  # some protocols drop an incomplete last block
        others = [other for other in names if other != name]
        estimator = monte_carlo.estimator_for(model.graph, name)
        draws = MonteCarlo(each.draws, others, monte_carlo.rel_error, monte_carlo.max_nfe, estimator)
        found[name] = summary(own, kept, name, monte_carlo=draws)
    if len(estimates) > len(names):
        loss = training_loss(estimates[-1], first, find_protocol(names[0]).training)
        found[names[0]] = replace(found[names[0]], training_loss=loss)
        yield Note(f"{loss.name}: {loss.nats_per_token:.4f} ± {loss.error:.4f} nats per token, which is no likelihood")
    return found


def _cache(known: dict[str, Any], options: EvaluateOptions, how: dict[str, Any]) -> ResultCache | None:
    return ResultCache.of(how | {"sedd": __version__, "draws_version": DRAWS_VERSION} | known) if options.keep else None


def _cache_warning(cache: ResultCache | None) -> Generator[Event, None, None]:
    if cache and cache.failed:
        yield Warn(f"finished parts could not be cached ({cache.failed}); --no-resume does not try to")


def _warnings(bounds: dict[str, BoundResult], unknown: int, options: EvaluateOptions) -> Generator[Event, None, None]:
    for name, found in bounds.items():
        if found.rel_error > options.monte_carlo.rel_error:
            yield Warn(
                f"{name}: the relative error is {found.rel_error:.4f} after {found.nfe_per_block} network evaluations "
                f"a block, {options.monte_carlo.rel_error:g} was requested; raise --max-nfe"
            )
    if unknown:
        yield Warn(
            f"{unknown:,} tokens of this split are unknown, for text that the tokenizer lacks: "
            "bits per character are too low"
        )


def _split_name(dataset: Dataset, named: str | None) -> str:
    name = named or dataset.default_split
    if name not in dataset.splits:
        raise RequestError(
            f"{dataset.manifest.corpus} has no split {name!r}, it has {', '.join(dataset.splits)}"
            f"{did_you_mean(name, dataset.splits)}"
        )
    return name
