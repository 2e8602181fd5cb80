"""Likelihoods with error bars, beside baselines and the paper's values on the same text."""

from __future__ import annotations

import platform
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.shards import Dataset
from sedd_cli.errors import RequestError, WorkError, did_you_mean
from sedd_cli.evaluation.baselines.baselines import baselines
from sedd_cli.evaluation.likelihood.measurement import BlockMeasurement
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
)
from sedd_cli.evaluation.likelihood.stepwise import Followed
from sedd_cli.evaluation.likelihood.texts import Text, check_corpus, check_tokenizer, prepared_for
from sedd_cli.evaluation.likelihood.windows import Windows
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.bound import DEFAULT_PROTOCOLS, MonteCarloOptions, find_protocol
from sedd_cli.inference.fitting import check_protocol
from sedd_cli.inference.memory import check_fits
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Evaluated, Event, Note, Warn
from sedd_cli.system.software import software

#: Options of draws, which an exact likelihood does without.
OF_DRAWS = ("estimator", "rel_error", "max_nfe", "seed")


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
    check_measures(model, options)  # before a text is prepared
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


def check_measures(model: LoadedModel | CausalModel, options: EvaluateOptions) -> None:
    """RequestError where the estimator or a protocol does not fit the model, or the estimator has no effect."""
    if isinstance(model, LoadedModel) and not model.exact:
        options.monte_carlo.estimator_for(model.graph)
    elif options.monte_carlo.estimator is not None:
        raise RequestError(f"the estimator has no effect with {exactly(model.source)}")
    for name in options.protocols or default_protocols(model):
        _check_measure(name, model, options)


def exactly(source: str) -> str:
    """A model without draws, in words."""
    return f"{source}, whose likelihood is exact"


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
        **({"start": model.start} if isinstance(model, CausalModel) else {}),
    }
    measurement = BlockMeasurement(known, options.monte_carlo, options.sampling, options.keep, dist)
    bounds = yield from measurement.of(used, blocks)
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
        estimator=_named({b.monte_carlo.estimator for b in bounds.values() if b.monte_carlo}),
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
    """RequestError where a protocol does not fit the model, its sampler or the estimator that is asked for."""
    check_protocol(name, model)
    if not isinstance(model, LoadedModel) or model.exact:
        return
    if find_protocol(name).stepwise:
        Followed.of(model, options.sampling)
    asked, used = options.monte_carlo.estimator, options.monte_carlo.estimator_for(model.graph, name)
    if asked not in (None, used):
        raise RequestError(f"the estimator {asked} has no effect with protocol {name!r}, whose estimator is {used}")


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


def _named(estimators: set[str]) -> str | None:
    """The estimators of all bounds; None where they are exact."""
    return " and ".join(sorted(estimators)) or None


def _split_name(dataset: Dataset, named: str | None) -> str:
    name = named or dataset.default_split
    if name not in dataset.splits:
        raise RequestError(
            f"{dataset.manifest.corpus} has no split {name!r}, it has {', '.join(dataset.splits)}"
            f"{did_you_mean(name, dataset.splits)}"
        )
    return name
