"""Likelihoods with error bars, beside baselines and the paper's values on the same text."""

from __future__ import annotations

import math
import platform
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sedd_cli import __version__
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.bounds import T_MIN
from sedd_cli.data.shards import Dataset, TokenArray
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.baselines import baselines
from sedd_cli.evaluation.likelihood.cache import ResultCache
from sedd_cli.evaluation.likelihood.estimator import estimate, fill
from sedd_cli.evaluation.likelihood.paper import reported
from sedd_cli.evaluation.likelihood.precision import try_bf16
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.summary import Estimates, summary
from sedd_cli.evaluation.likelihood.texts import Text, check_tokenizer, prepared_for
from sedd_cli.inference.bound import USUAL, Drawing, check_protocol, find_protocol, placed_for, shared
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Evaluated, Event, Finished, Note, Progress, Warn
from sedd_cli.system.software import software

if TYPE_CHECKING:
    from sedd_cli.evaluation.scorers.exact import ExactModel


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, and how precisely.

    split: by default test where there is one, else validation. protocols: by default rigorous and sedd-paper; for an
    autoregressive model, whose likelihood is exact, sedd-paper. blocks: only the first so many of the split. length:
    tokens of a block (default: the model's). try_bf16: use it if it is seen not to matter. keep: remember finished
    draws in $SEDD_HOME and go on from those that are there.
    """

    split: str | None = None
    protocols: tuple[str, ...] = ()
    drawing: Drawing = field(default_factory=Drawing)
    baselines: bool = True
    blocks: int | None = None
    length: int | None = None
    try_bf16: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        for name in self.protocols:
            find_protocol(name)
        if self.blocks is not None and self.blocks < 1:
            raise RequestError(f"blocks must be at least 1, found {self.blocks}")


def evaluate_all(
    model: LoadedModel | ExactModel, texts: Sequence[Text], options: EvaluateOptions, dist: Dist
) -> Iterator[Event]:
    """Evaluate on several corpora; Evaluated after each, Finished with all results and failures at the end.

    A corpus that fails does not keep the others from being evaluated; the only one of a call raises its error.
    """
    if not model.exact:
        options.drawing.placed_for(model.graph)
    results, failed = [], []
    for text in texts:
        try:
            dataset = yield from prepared_for(model, text, dist)
            for event in evaluate(model, dataset, options, dist):
                if isinstance(event, Evaluated):
                    results.append(event.result)
                yield event
        except (RequestError, WorkError) as error:
            if len(texts) == 1:
                raise
            failed.append({"dataset": text.corpus, "error": str(error), "code": 1 + isinstance(error, RequestError)})
            yield Warn(f"{text.corpus}: {error}")
    yield Finished({"results": results, "failed": failed})


def evaluate(
    model: LoadedModel | ExactModel, dataset: Dataset, options: EvaluateOptions, dist: Dist | None = None
) -> Iterator[Event]:
    """Measure a split of a dataset under each protocol; the last event is Evaluated with everything to repeat it."""
    dist = dist or Dist(0, 1, model.device)
    check_tokenizer(model, dataset)
    split = dataset.split(_split_name(dataset, options.split))
    length = model.length if options.length is None else options.length
    if not 1 <= length <= model.length:
        raise RequestError(f"length must lie between 1 and the model's {model.length}, found {length}")
    cut = _cut(model, dataset, split, length, options)
    yield Note(f"scoring the {split.name} split of {dataset.manifest.corpus}: {split.tokens:,} tokens")
    result: dict[str, Any] = {
        "model": model.source,
        **model.facts,
        "kind": model.kind,
        "model_fingerprint": model.fingerprint,
        "corpus": dataset.manifest.corpus,
        "source": dataset.manifest.source,
        "revision": dataset.manifest.revision,
        "fingerprint": dataset.manifest.fingerprint,
        "tokenizer": dataset.manifest.tokenizer,
        "detokenizer": dataset.manifest.detokenizer,
        "split": split.name,
        "tokens": split.tokens,
        "characters": split.characters,
        "unknown": split.info.unknown,
        "length": length,
        "blocks_asked": options.blocks,
        "bounds": {},
    }
    if not model.exact:
        result["t_min"] = T_MIN
        result["estimator"] = options.drawing.placed_for(model.graph)
        result["seed"] = options.drawing.seed
    used = model
    if options.try_bf16 and not model.exact:
        used, result["bf16"] = yield from try_bf16(model, *next(iter(cut.items())), options.drawing, dist)
    result["precision"] = used.precision
    together = shared(result.get("estimator", ""), cut)
    found: dict[str, Any] = {}
    for names in (*([together] if together else []), *((name,) for name in cut if name not in together)):
        part = {name: cut[name] for name in names}
        found |= yield from (_likelihood if model.exact else _bounds)(used, part, result, options, dist)
    result["bounds"] = {name: found[name] for name in cut}
    yield from _remarks(result, split, options)
    if options.baselines and dist.main:
        result["baselines"] = yield from baselines(dataset, cut.get("rigorous") or next(iter(cut.values())))
    if paper := reported(model.kind, model.layers, length, dataset.manifest.tokenizer, dataset.manifest.corpus):
        result["paper"] = vars(paper)
    result["software"] = {**software("torch", *model.libraries), "machine": platform.machine()}
    result["device"], result["processes"] = str(dist.device), dist.world
    yield Evaluated(result)


def _cut(
    model: LoadedModel | ExactModel, dataset: Dataset, split: TokenArray, length: int, options: EvaluateOptions
) -> dict[str, Blocks]:
    """The blocks of each protocol; one that was not asked for by name is left out where the text is too short."""
    cut, refusal = {}, None
    for name in options.protocols or usual_protocols(model):
        check_protocol(name, None if model.exact else model.objective.steps, model.source)
        try:
            cut[name] = Blocks.cut(split, name, length, dataset.tokenizer, options.blocks)
        except RequestError as error:
            refusal = error
            if options.protocols:
                raise
    if not cut:
        raise refusal
    return cut


def usual_protocols(model: LoadedModel | ExactModel) -> tuple[str, ...]:
    """What is measured where nothing is said: of a model in discrete time its own bound."""
    if model.exact:
        return ("sedd-paper",)
    return USUAL if model.objective.steps is None else ("discrete",)


def _likelihood(
    model: ExactModel, cut: dict[str, Blocks], result: dict[str, Any], options: EvaluateOptions, dist: Dist
) -> Generator[Event, None, dict[str, Any]]:
    """A protocol's figures from an exact model.

    A mark at the beginning of a block is given; other blocks are predicted from their first token on.
    """
    ((name, blocks),) = cut.items()
    ledger, wrapped = _ledger(result, options, {"protocol": name}), find_protocol(name).wrapped
    nats = model.nats_given_first if wrapped else model.nats
    shape = (len(blocks),)
    values = dist.from_main(lambda: ledger.read(0, shape) if ledger else np.full(shape, np.nan))
    for done in fill(values, blocks, lambda group: nats(blocks.read(group).to(dist.device)), dist, ledger, 0):
        yield Progress(f"{name} likelihood", done, len(blocks), "blocks")
    yield from _kept(ledger)
    return {name: summary(blocks, Estimates(values[None], 1), given=int(wrapped))}


def _bounds(
    model: LoadedModel, cut: dict[str, Blocks], result: dict[str, Any], options: EvaluateOptions, dist: Dist
) -> Generator[Event, None, dict[str, Any]]:
    """The figures of a protocol, or of those that share their draws."""
    names, blocks = tuple(cut), next(iter(cut.values()))
    ledger = _ledger(result, options, {"protocols": names, "draws": options.drawing.draws(len(blocks))})
    to_bits = 1 / math.log(2) / blocks.size.characters
    found = yield from estimate(model.score, blocks, names, options.drawing, ledger, dist, to_bits)
    yield from _kept(ledger)
    asked = {"rel_error_asked": options.drawing.rel_error, "max_nfe": options.drawing.max_nfe}
    figures = {}
    for (name, own), each in zip(cut.items(), found, strict=True):
        kept = Estimates(each.nats[:, : len(own)], each.draws)  # an incomplete last block does not always count
        others = [other for other in names if other != name]
        figures[name] = summary(own, kept) | {"draws_a_replicate": each.draws, "same_draws_as": others, **asked}
        figures[name]["estimator"] = placed_for(options.drawing, model.graph, name)
    return figures


def _ledger(result: dict[str, Any], options: EvaluateOptions, how: dict[str, Any]) -> ResultCache | None:
    """Where finished parts are kept: under everything that determines them."""
    if not options.keep:
        return None
    named = ("model_fingerprint", "fingerprint", "split", "length", "blocks_asked", "estimator", "seed", "precision")
    return ResultCache.of(how | {"sedd": __version__} | {key: result.get(key) for key in named})


def _kept(ledger: ResultCache | None) -> Iterator[Event]:
    if ledger and ledger.failed:
        yield Warn(f"finished parts could not be kept ({ledger.failed}); --no-resume does not try")


def _remarks(result: dict[str, Any], split: TokenArray, options: EvaluateOptions) -> Iterator[Event]:
    for name, found in result["bounds"].items():
        if found["rel_error"] > options.drawing.rel_error:
            yield Warn(
                f"{name}: the relative error is {found['rel_error']:.4f} after {found['nfe_per_block']} network "
                f"evaluations a block, {options.drawing.rel_error:g} was asked for; raise --max-nfe"
            )
    if unknown := split.info.unknown:
        yield Warn(f"{unknown:,} characters of this split are unknown to the tokenizer: bits per character flatter it")


def _split_name(dataset: Dataset, asked: str | None) -> str:
    name = asked or dataset.default_split
    if name not in dataset.splits:
        raise RequestError(f"{dataset.manifest.corpus} has no split {name!r}, it has {', '.join(dataset.splits)}")
    return name
