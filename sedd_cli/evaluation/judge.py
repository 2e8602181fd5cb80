"""Generative perplexity of samples under a left-to-right model, and their diversity."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sedd_cli.data.formats import read_samples
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.diversity import Diversity
from sedd_cli.evaluation.scorers.scorer import Scorer
from sedd_cli.system.events import Event, Progress, Sampled, Warn
from sedd_cli.system.software import software

#: Tokens of one forward pass of the judge.
TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Samples:
    """Texts, token ids of `tokenizer`, or both. nfe: network evaluations of each; draws: precision of the draws."""

    texts: Sequence[str | None]
    tokens: Sequence[list[int] | None]
    tokenizer: Tokenizer | None = None
    nfe: tuple[int, ...] = ()
    draws: str | None = None

    @classmethod
    def of(cls, sampled: Sequence[Sampled], tokenizer: Tokenizer | None) -> Samples:
        """Samples drawn by this package."""
        texts, tokens = [s.text for s in sampled], [s.tokens for s in sampled]
        return cls(texts, tokens, tokenizer, tuple(s.nfe for s in sampled), _one_of(s.draws for s in sampled))

    @classmethod
    def read(cls, path: Path, tokenizer: Tokenizer | None = None, format: str = "auto") -> Samples:
        """Read records as `sedd sample --out` writes them (text, tokens, or both), or a text a line.

        tokenizer: of the file's token ids. format: by default that of the ending.
        RequestError names the line that cannot be read.
        """
        records: list[dict[str, Any]]
        try:
            records = [record for _, record in read_samples(path, format)]
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from None
        if not records:
            raise RequestError(f"{path} holds no samples")
        return cls(
            [r.get("text") for r in records],
            [r.get("tokens") for r in records],
            tokenizer,
            tuple(nfe for r in records if type(nfe := r.get("nfe")) is int and 0 <= nfe < 2**63),
            _one_of(r.get("draws") for r in records),
        )

    def as_texts(self) -> Samples:
        """The same samples without token ids; RequestError where a text can be had from nothing."""
        texts = []
        for text, ids in zip(self.texts, self.tokens, strict=True):
            if text is None:
                if self.tokenizer is None or ids is None:
                    raise RequestError("samples without a text: name the tokenizer of their ids with --tokenizer")
                text = self.tokenizer.decode(ids)
            texts.append(text)
        return Samples(texts, [None] * len(texts), None, self.nfe, self.draws)


def _one_of(values: Iterable[str | None]) -> str | None:
    """The value if all are equal, else None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class GenerativePerplexity:
    """A perplexity and its standard error over samples, None for a single sample."""

    perplexity: float
    error: float | None


@dataclass(frozen=True)
class UnigramEntropy:
    """Mean entropy in nats of a sample's own token frequencies, and its standard error over samples."""

    nats: float | None
    error: float | None


@dataclass(frozen=True)
class JudgeResult:
    """Generative perplexity and diversity of samples, with everything needed to repeat the measurement.

    judged: "ids" if the samples' own ids were scored, "text" if their texts were encoded with the judge's tokenizer.
    diversity_in_tokens_of: whose tokens the diversity is about, the sampler's or the judge's. tokens: predicted ones.
    per_sequence: the mean over samples of exp(nats per token), as in SEDD. pooled: exp of all nats over all tokens, as
    in MDLM. distinct: share of distinct n-grams by n. self_bleu: of samples if with_self_bleu.
    """

    judge: str
    judge_fingerprint: str
    judge_precision: str
    judged: str
    diversity_in_tokens_of: str
    samples: int
    tokens: int
    per_sequence: GenerativePerplexity
    pooled: GenerativePerplexity
    unigram_entropy: UnigramEntropy
    distinct: dict[str, float | None]
    nfe: float | None
    draws: str | None
    software: dict[str, str]
    with_self_bleu: bool = False
    self_bleu: float | None = None

    @property
    def diversity(self) -> Diversity:
        """The measures of diversity alone."""
        return Diversity(self.unigram_entropy.nats, self.unigram_entropy.error, self.distinct, self.self_bleu)

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        if not found.pop("with_self_bleu"):
            del found["self_bleu"]
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JudgeResult:
        """The inverse; KeyError or TypeError for anything else."""
        parts = {
            "per_sequence": GenerativePerplexity(**data["per_sequence"]),
            "pooled": GenerativePerplexity(**data["pooled"]),
            "unigram_entropy": UnigramEntropy(**data["unigram_entropy"]),
        }
        return cls(**(data | parts), with_self_bleu="self_bleu" in data)


def judge(scorer: Scorer, samples: Samples, with_self_bleu: bool = True) -> Generator[Event, None, JudgeResult]:
    """Generative perplexity in both conventions, and diversity.

    The first token of a sample is given, the others are predicted. Samples whose ids are the judge's own are scored as
    they are (as in the paper); otherwise their texts are encoded with its tokenizer. Samples longer than its context
    are scored in stretches that overlap by one token.
    """
    rows, judged = _ids(scorer, samples)
    predicted = [row for row in rows if len(row) > 1]
    if not predicted:
        raise RequestError("no sample has two tokens or more: there is nothing to predict")
    if left_out := len(rows) - len(predicted):
        yield Warn(f"{left_out} samples have fewer than two tokens and are left out of the perplexities")
    nats = yield from _nats(scorer, predicted)
    counts = np.array([len(row) - 1 for row in predicted])
    if not np.isfinite(nats).all():
        raise RequestError(f"{scorer.source} gives {int((~np.isfinite(nats)).sum())} samples no finite likelihood")
    own = [t for t in samples.tokens if t is not None]
    whose = "sampler" if len(own) == len(rows) else "judge"
    own = own if whose == "sampler" else rows
    diversity = Diversity.of(own, with_self_bleu)
    return JudgeResult(
        judge=scorer.source,
        judge_fingerprint=scorer.fingerprint,
        judge_precision=scorer.precision,
        judged=judged,
        diversity_in_tokens_of=whose,
        samples=len(predicted),
        tokens=int(counts.sum()),
        per_sequence=_per_sequence(nats, counts),
        pooled=_pooled(nats, counts),
        unigram_entropy=UnigramEntropy(diversity.entropy, diversity.entropy_error),
        distinct=diversity.distinct,
        nfe=float(np.mean(samples.nfe)) if samples.nfe else None,
        draws=samples.draws,
        software=software("torch", *scorer.libraries),
        with_self_bleu=with_self_bleu,
        self_bleu=diversity.self_bleu,
    )


def _ids(scorer: Scorer, samples: Samples) -> tuple[list[list[int]], str]:
    """The ids of each sample that are scored, and whether they are the samples' own ("ids") or encoded ("text")."""
    ours, tokens = samples.tokenizer, [t for t in samples.tokens if t is not None]
    if ours is not None and ours.ids == scorer.ids and len(tokens) == len(samples.tokens):
        return [list(t) for t in tokens], "ids"
    return scorer.encode([text or "" for text in samples.as_texts().texts]), "text"


def _nats(scorer: Scorer, rows: list[list[int]]) -> Generator[Event, None, np.ndarray]:
    """Nats of each row given its first token, [n]."""
    stretches = [
        (number, row[start : start + scorer.context])
        for number, row in enumerate(rows)
        for start in range(0, len(row) - 1, scorer.context - 1)
    ]
    stretches.sort(key=lambda stretch: len(stretch[1]))
    nats, done = np.zeros(len(rows)), 0
    while done < len(stretches):
        length = len(stretches[done][1])
        group = [s for s in stretches[done : done + max(1, TOKENS_AT_ONCE // length)] if len(s[1]) == length]
        found = scorer.nats_given_first(torch.tensor([ids for _, ids in group], device=scorer.device))
        np.add.at(nats, [number for number, _ in group], found.cpu().numpy())
        done += len(group)
        yield Progress("judge", done, len(stretches), "stretches")
    return nats


def _per_sequence(nats: np.ndarray, counts: np.ndarray) -> GenerativePerplexity:
    """The mean over samples of exp(nats per token)."""
    n, each = len(nats), np.exp(np.minimum(nats / counts, 700.0))
    return GenerativePerplexity(float(each.mean()), float(each.std(ddof=1) / n**0.5) if n > 1 else None)


def _pooled(nats: np.ndarray, counts: np.ndarray) -> GenerativePerplexity:
    """exp of all nats over all tokens; its error by the delta method for a ratio."""
    n, rate = len(nats), nats.sum() / counts.sum()
    perplexity = math.exp(min(rate, 700.0))
    residuals = nats - rate * counts
    error = float(perplexity * math.sqrt(n / (n - 1) * (residuals**2).sum()) / counts.sum()) if n > 1 else None
    return GenerativePerplexity(perplexity, error)
