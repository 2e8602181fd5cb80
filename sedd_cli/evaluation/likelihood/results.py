"""Results of a likelihood evaluation, and the JSON documents they become."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.bounds import T_MIN
from sedd_cli.data.shards import Dataset, TokenArray
from sedd_cli.errors import plus_minus
from sedd_cli.evaluation.likelihood.paper import PaperValue
from sedd_cli.evaluation.scorers.causal import CausalModel


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a result is about. facts: as its loader reports them (training step, EMA or raw weights, …)."""

    source: str
    facts: dict[str, Any]
    kind: str
    fingerprint: str

    @classmethod
    def of(cls, model: LoadedModel | CausalModel) -> ModelIdentity:
        return cls(model.source, model.facts, model.kind, model.fingerprint)

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.source, **self.facts, "kind": self.kind, "model_fingerprint": self.fingerprint}


@dataclass(frozen=True)
class EvaluatedSplit:
    """The split that a result is about.

    tokens, characters: of the whole split; unknown: characters that the tokenizer cannot express.
    """

    corpus: str
    source: str
    revision: str | None
    fingerprint: str
    tokenizer: str
    detokenizer: str
    split: str
    tokens: int
    characters: int
    unknown: int

    @classmethod
    def of(cls, dataset: Dataset, split: TokenArray) -> EvaluatedSplit:
        found = dataset.manifest
        return cls(
            found.corpus, found.source, found.revision, found.fingerprint, found.tokenizer, found.detokenizer,
            split.name, split.tokens, split.characters, split.info.unknown,
        )  # fmt: skip


@dataclass(frozen=True)
class MonteCarlo:
    """How the draws of a bound were made. same_draws_as: protocols measured by the same network evaluations."""

    draws_a_replicate: int
    same_draws_as: list[str]
    rel_error_asked: float
    max_nfe: int
    estimator: str


@dataclass(frozen=True)
class Documents:
    """What a bound is made of: nats and tokens of each cluster of blocks (a document, or a block of a long one)."""

    nats: list[float]
    tokens: list[int]


@dataclass(frozen=True)
class TrainingLoss:
    """A project's training loss, averaged over all positions, with its standard error. It is no likelihood."""

    name: str
    nats_per_token: float
    error: float


@dataclass(frozen=True)
class BoundResult:
    """A likelihood, or a bound on it, under one protocol. `monte_carlo` is None where the likelihood is exact.

    `…_error` is the Monte-Carlo standard error, `…between_documents…` the standard error from the choice of text (None
    where it cannot be estimated). perplexity_interval covers with probability interval_level. sign: "≤" for an upper
    bound on −log p of `process`, "≈" for an estimate that is none, "=" where it is exact. documents: for paired
    comparisons, kept in runs beside the JSON document. training_loss: of a protocol whose project has one.
    """

    bits_per_char: float
    bits_per_char_error: float
    bits_per_byte: float
    bits_per_byte_error: float
    between_documents_error: float | None
    nats_per_token: float
    nats_per_token_error: float
    nats_per_token_between_documents: float | None
    perplexity: float
    perplexity_error: float
    perplexity_between_documents: float | None
    perplexity_interval: list[float]
    interval_level: float
    tokens: int
    characters: int
    bytes: int
    blocks: int
    replicates: int
    nfe_per_block: int
    rel_error: float
    monte_carlo: MonteCarlo | None = None
    sign: str = "≈"
    process: str = ""
    documents: Documents | None = field(default=None, repr=False)
    training_loss: TrainingLoss | None = None

    def to_dict(self) -> dict[str, Any]:
        left_out = ("documents", *([] if self.training_loss else ["training_loss"]))
        found = {key: value for key, value in asdict(self).items() if key not in left_out}
        return found | (found.pop("monte_carlo") or {}) | {"upper_bound": self.sign == "≤"}


@dataclass(frozen=True)
class Bf16Trial:
    """By how many nats per token bf16 moves the bound on `blocks` blocks, its standard error, and what is allowed."""

    moves_nats_per_token: float
    error: float
    allowed: float
    blocks: int


@dataclass(frozen=True, repr=False)
class LikelihoodResult:
    """Likelihoods of a model on a split, by protocol, with everything needed to repeat the measurement.

    estimator, seed: None for exact likelihoods; the estimators of all bounds, where they differ. tried_bf16: whether
    bf16 was to be compared with float32; `bf16` is the comparison where one was possible. baselines: bits per character
    by name. paper: the paper's value, if it has one. made_by: of a result made in Python (a command adds its own).
    """

    model: ModelIdentity
    text: EvaluatedSplit
    length: int
    blocks_asked: int | None
    bounds: dict[str, BoundResult]
    estimator: str | None
    seed: int | None
    tried_bf16: bool
    bf16: Bf16Trial | None
    precision: str
    baselines: dict[str, float] | None
    paper: PaperValue | None
    software: dict[str, str]
    device: str
    processes: int
    made_by: dict[str, Any] | None = None

    def __repr__(self) -> str:
        found = ((name, b.sign, b.bits_per_char, b.bits_per_char_error) for name, b in self.bounds.items())
        bounds = ", ".join(f"{name} {sign} {plus_minus(bits, error, 3)} bits/char" for name, sign, bits, error in found)
        low = "" if self.precision == "fp32" else f", in {self.precision}"
        return f"LikelihoodResult({self.text.corpus} {self.text.split}: {bounds}{low})"

    def to_dict(self) -> dict[str, Any]:
        """The document that `results/*.json` and `sedd eval --json` hold; keys that mean nothing are left out."""
        found: dict[str, Any] = {
            **self.model.to_dict(),
            **asdict(self.text),
            "length": self.length,
            "blocks_asked": self.blocks_asked,
            "bounds": {protocol: bound.to_dict() for protocol, bound in self.bounds.items()},
        }
        if self.estimator is not None:
            found |= {"t_min": T_MIN, "estimator": self.estimator, "seed": self.seed}
        if self.tried_bf16:
            found["bf16"] = None if self.bf16 is None else asdict(self.bf16)
        found["precision"] = self.precision
        if self.baselines is not None:
            found["baselines"] = self.baselines
        if self.paper is not None:
            found["paper"] = asdict(self.paper)
        found |= {"software": self.software, "device": self.device, "processes": self.processes}
        return found | ({} if self.made_by is None else {"made_by": self.made_by})

    def documents(self) -> dict[str, Any]:
        """Nats and tokens of each document, by protocol."""
        return {name: asdict(bound.documents) for name, bound in self.bounds.items() if bound.documents}


@dataclass(frozen=True)
class FailedEvaluation:
    """A corpus that could not be evaluated. code: the exit code that its error stands for."""

    dataset: str
    error: str
    code: int


@dataclass(frozen=True)
class EvaluationResults:
    """Results on several corpora, and the corpora that failed."""

    results: tuple[LikelihoodResult, ...]
    failed: tuple[FailedEvaluation, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "results": [result.to_dict() for result in self.results],
            "failed": [asdict(failure) for failure in self.failed],
        }
