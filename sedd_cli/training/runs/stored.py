"""The likelihoods that a run holds, read from its results."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.core.protocols import protocol_name, sign
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.documents import read_json, read_yaml
from sedd_cli.system.json_lines import is_number

#: Protocols in the order in which a view of one number takes them.
PREFERRED = ("rigorous", "normalized", "discrete", "sedd-paper", "mdlm", "sampler")

#: The corpus, the split, how many of its first blocks (None: all), tokens of a block (None: as many as the model's).
TextName = tuple[str, str, int | None, int | None]


@dataclass(frozen=True)
class StoredBound:
    """A likelihood of results/*.json.

    bits, error: bits per character; baselines: the same of n-gram models. length: tokens of a block. model_length: the
    length of the run's model; None where it is not known.
    """

    step: int
    corpus: str
    split: str
    protocol: str
    process: str
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
    model_length: int | None
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
    def other_length(self) -> int | None:
        """Tokens of a block, where they are not as many as the model's."""
        return None if self.model_length in (None, self.length) else self.length

    @property
    def text(self) -> TextName:
        """The name of the text: the corpus, the split, how many of its blocks, and their length if not the model's."""
        return self.corpus, self.split, self.blocks_asked, self.other_length

    @property
    def way(self) -> str:
        """The protocol, and the sampler where it is of one."""
        return protocol_name(self.protocol, self.process)

    @property
    def part(self) -> str:
        """Which blocks of the split, where they are not all of them, or not of the model's length; else ""."""
        return blocks_name(None if self.blocks_asked is None else self.blocks, self.other_length)

    def documents(self) -> tuple[list[float], list[int]] | None:
        """Nats and tokens of each document; None where they were not kept."""
        try:
            found = read_json(self.path.parent / "documents" / self.path.name)[self.protocol]
            nats, tokens = list(map(_number, found["nats"])), list(map(_number, found["tokens"]))
        except (OSError, KeyError, TypeError, DamageError):
            return None
        return (nats, tokens) if len(nats) == len(tokens) else None


def stored_bounds(run: Path) -> list[StoredBound]:
    """All likelihoods in the results of a run.

    Files of other content are passed over, and likelihoods that are not finite, which JSON holds as null.
    """
    found, model_length = [], None
    with suppress(RequestError, OSError, KeyError, TypeError, ValueError, OverflowError):
        model_length = int(read_yaml(run / "recipe.yaml")["model"]["length"])
    for path in sorted(run.glob("results/*.json")):
        try:
            result = read_json(path)
            for protocol, bound in result["bounds"].items():
                if protocol in PREFERRED:
                    found.append(_bound(result, protocol, bound, path, model_length))
        except (OSError, KeyError, TypeError, AttributeError, DamageError):
            continue
    return found


def _number(value: Any) -> Any:
    if not is_number(value):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def blocks_name(blocks: int | None, length: int | None) -> str:
    """The first `blocks` blocks of `length` tokens, in words; None: all of them, and of the model's length."""
    first = "blocks" if blocks is None else f"first {blocks:,} blocks"
    return f"{first} of {length:,} tokens" if length is not None else "" if blocks is None else first


def own_bounds(bounds: list[StoredBound], corpus: str, data: str | None = None) -> list[StoredBound]:
    """Those of the run's own text. The last is the run's result: latest step, own length, whole test split.

    data: the fingerprint of the text that the run was trained on, where it is known; by it other texts of the same name
    are left out.
    """
    return by_rank(b for b in bounds if _is_own(b, corpus) and data in (None, b.fingerprint))


def by_rank(bounds: Iterable[StoredBound]) -> list[StoredBound]:
    """In order of steps; of one step, the one that is preferred last."""
    return sorted(bounds, key=_rank)


def best_by_text(bounds: list[StoredBound]) -> dict[TextName, StoredBound]:
    """For each text the likelihood that a run is listed with, the latest step first."""
    found: dict[TextName, StoredBound] = {}
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
    own, whole, test = bound.other_length is None, bound.blocks_asked is None, bound.split == "test"
    return bound.step, own, test, whole, -PREFERRED.index(bound.protocol), -bound.error, bound.changed


def _bound(
    result: dict[str, Any], protocol: str, bound: dict[str, Any], path: Path, model_length: int | None
) -> StoredBound:
    asked, between = result.get("blocks_asked"), bound["between_documents_error"]
    if not _number(bound["nats_per_token"]):
        raise TypeError
    return StoredBound(
        step=int(_number(result["step"])),
        corpus=_text(result["corpus"]),
        split=_text(result["split"]),
        protocol=protocol,
        process=_text(bound.get("process") or ""),
        sign=_text(bound.get("sign") or sign(protocol, exact="estimator" not in result)),
        bits=_number(bound["bits_per_char"]),
        error=_number(bound["bits_per_char_error"] or 0.0),
        between_documents=None if between is None else _number(between),
        nats_per_token=_number(bound["nats_per_token"]),
        nats_per_token_error=_number(bound["nats_per_token_error"] or 0.0),
        perplexity=_number(bound["perplexity"]),
        perplexity_error=_number(bound["perplexity_error"] or 0.0),
        tokens=_number(bound["tokens"]),
        characters=_number(bound["characters"]),
        blocks=_number(bound["blocks"]),
        blocks_asked=None if asked is None else _number(asked),
        length=_number(result["length"]),
        model_length=model_length,
        replicates=_number(bound["replicates"]),
        fingerprint=_text(result["fingerprint"]),
        baselines={name: bits for name, bits in (result.get("baselines") or {}).items() if is_number(bits)},
        path=path,
        changed=path.stat().st_mtime,
    )
