"""The likelihoods that a run holds, read from its results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.core.protocols import sign
from sedd_cli.errors import DamageError
from sedd_cli.system.documents import read_json

#: Protocols in the order in which a view of one number takes them.
PREFERRED = ("rigorous", "normalized", "discrete", "sedd-paper", "mdlm", "sampler")


@dataclass(frozen=True)
class StoredBound:
    """A likelihood of results/*.json. bits, error: bits per character; baselines: the same of n-gram models."""

    step: int
    corpus: str
    split: str
    protocol: str
    sign: str
    bits: float
    error: float
    between_documents: float | None
    nats_per_token: float
    nats_per_token_error: float
    perplexity: float
    perplexity_error: float
    tokens: int
    characters: int
    blocks: int
    blocks_asked: int | None
    length: int
    replicates: int
    fingerprint: str
    baselines: dict[str, float]
    path: Path
    changed: float = field(repr=False)

    @property
    def bits_of_a_nat(self) -> float:
        """Bits per character of this text that one nat per token makes."""
        return self.bits / self.nats_per_token

    @property
    def text(self) -> tuple[str, str, int | None]:
        """The name of the text: the corpus, the split, and how many of its blocks."""
        return self.corpus, self.split, self.blocks_asked

    def documents(self) -> tuple[list[float], list[int]] | None:
        """Nats and tokens of each document; None where they were not kept."""
        try:
            found = read_json(self.path.parent / "documents" / self.path.name)[self.protocol]
            nats, tokens = found["nats"], found["tokens"]
        except (OSError, KeyError, TypeError, DamageError):
            return None
        return (nats, tokens) if len(nats) == len(tokens) else None


def stored_bounds(run: Path) -> list[StoredBound]:
    """All likelihoods in the results of a run; files of other content are passed over."""
    found = []
    for path in sorted(run.glob("results/*.json")):
        try:
            result = read_json(path)
            for protocol, bound in result["bounds"].items():
                if protocol in PREFERRED:
                    found.append(_bound(result, protocol, bound, path))
        except (OSError, KeyError, TypeError, AttributeError, DamageError):
            continue
    return found


def own_bounds(bounds: list[StoredBound], corpus: str) -> list[StoredBound]:
    """Those of the run's own text, the one that speaks for the run last (`last_bound`)."""
    return by_rank(b for b in bounds if _is_own(b, corpus))


def last_bound(bounds: list[StoredBound], corpus: str) -> StoredBound | None:
    """The likelihood that speaks for a run: the latest step, its own corpus, the test split, the whole of it."""
    own = own_bounds(bounds, corpus)
    return own[-1] if own else None


def by_rank(bounds: Iterable[StoredBound]) -> list[StoredBound]:
    """In order of steps; of one step, the one that is preferred last."""
    return sorted(bounds, key=_rank)


def best_by_text(bounds: list[StoredBound]) -> dict[tuple[str, str, int | None], StoredBound]:
    """For each text the likelihood that speaks for a run, the latest step first."""
    found: dict[tuple[str, str, int | None], StoredBound] = {}
    for bound in by_rank(bounds):
        found[bound.text] = bound
    return found


def baselines_of(bound: StoredBound, bounds: list[StoredBound]) -> dict[str, float]:
    """Bits per character of n-gram models on the text of a bound, from any result about it."""
    return next((b.baselines for b in (bound, *bounds) if b.text == bound.text and b.baselines), {})


def _is_own(bound: StoredBound, corpus: str) -> bool:
    named = Path(corpus)
    is_report = bound.path.name == f"{bound.split}-step-{bound.step}.json"
    return is_report or bound.corpus in (corpus, named.name, named.stem)


def _rank(bound: StoredBound) -> tuple[Any, ...]:
    whole, test = bound.blocks_asked is None, bound.split == "test"
    return bound.step, test, whole, -PREFERRED.index(bound.protocol), -bound.error, bound.changed


def _bound(result: dict[str, Any], protocol: str, bound: dict[str, Any], path: Path) -> StoredBound:
    return StoredBound(
        step=int(result["step"]),
        corpus=result["corpus"],
        split=result["split"],
        protocol=protocol,
        sign=bound.get("sign") or sign(protocol, exact="estimator" not in result),
        bits=bound["bits_per_char"],
        error=bound["bits_per_char_error"] or 0.0,
        between_documents=bound["between_documents_error"],
        nats_per_token=bound["nats_per_token"],
        nats_per_token_error=bound["nats_per_token_error"] or 0.0,
        perplexity=bound["perplexity"],
        perplexity_error=bound["perplexity_error"] or 0.0,
        tokens=bound["tokens"],
        characters=bound["characters"],
        blocks=bound["blocks"],
        blocks_asked=result.get("blocks_asked"),
        length=result["length"],
        replicates=bound["replicates"],
        fingerprint=result["fingerprint"],
        baselines=result.get("baselines") or {},
        path=path,
        changed=path.stat().st_mtime,
    )
