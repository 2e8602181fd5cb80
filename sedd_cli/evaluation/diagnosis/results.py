"""The result of a diagnosis, and the JSON document it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict


class Finding(TypedDict):
    """One line of a report: what was checked, how it is, what was found, and what to do."""

    check: str
    state: Literal["ok", "odd", "bad", "missing", "optional"]
    found: str
    advice: str


def finding(
    check: str, state: Literal["ok", "odd", "bad", "missing", "optional"], found: str, advice: str = ""
) -> Finding:
    """One line of a report."""
    return {"check": check, "state": state, "found": found, "advice": advice}


@dataclass(frozen=True)
class NormaliserSummary:
    """The normaliser e^m over positions: mean, its standard error over sequences, 5 % and 95 % quantiles."""

    mean: float
    error: float | None
    p5: float
    p95: float


@dataclass(frozen=True)
class NoiseLevel:
    """Scores of tokens of which noise moves the share lam = 1 − e^{−sigma}.

    positions: number of scored ones. moved: tokens that noise moved; guessed: how many of them are the most probable
    denoised token other than the one that stands there; blind: how many are the most frequent token other than that.
    log_score: the smallest and the largest. beyond: the 99 % quantile over positions of their largest log-scores, less
    the largest log-score of any distribution; of few positions that is nearly the maximum. All three summaries are None
    where nothing was scored or some score is not finite.
    """

    lam: float
    sigma: float
    positions: int
    moved: int
    guessed: int
    blind: int
    normaliser: NormaliserSummary | None
    log_score: tuple[float, float] | None
    beyond: float | None
    finite: bool

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        log_score = None if self.log_score is None else list(self.log_score)
        return {"lambda": found.pop("lam"), **found, "log_score": log_score}


@dataclass(frozen=True)
class SampleEntropy:
    """Mean unigram entropy of n samples, in nats per token, and its standard error.

    text: that of as long pieces of real text, None without any; most: the largest possible. steps: None for a
    left-to-right model.
    """

    n: int
    length: int
    steps: int | None
    entropy: float | None
    error: float | None
    text: float | None
    most: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a model. text: the name of the scored text."""

    model: str
    fingerprint: str
    findings: list[Finding]
    text: str | None = None
    levels: tuple[NoiseLevel, ...] = ()
    samples: SampleEntropy | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "findings": self.findings,
            "text": self.text,
            "levels": [level.to_dict() for level in self.levels],
            "samples": None if self.samples is None else asdict(self.samples),
        }
