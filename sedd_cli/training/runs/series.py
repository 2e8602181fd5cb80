"""The likelihoods of a run over its steps, a series for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sedd_cli.errors import printable
from sedd_cli.training.runs.stored import StoredBound, blocks_name, by_rank

#: What a likelihood may be: an upper bound, an estimate, exact.
SIGNS = ("≤", "≈", "=")


@dataclass(frozen=True)
class SeriesPoint:
    """A likelihood at a step; bits and error in bits per character."""

    step: int
    sign: str
    bits: float
    error: float
    nats_per_token: float


def part_name(split: str, blocks: str) -> str:
    """The name of a part of a text. blocks: which of its blocks, "" for all."""
    return f"{split} ({blocks})" if blocks else split


def validated_part(record: dict[str, Any]) -> str:
    """The name of the part that a record of validation is about."""
    return part_name(printable(str(record.get("split") or "validation")), blocks_name(int(record["blocks"]), None))


def series_of(validation: Sequence[dict[str, Any]], bounds: Sequence[StoredBound]) -> dict[str, list[SeriesPoint]]:
    """Likelihoods of one part of a run's text, in order of steps, by the name of the part.

    Args:
        validation: Records of metrics.jsonl.
        bounds: Likelihoods in the results, of the run's own text. Of several at one step the best one is taken.
    """
    found: dict[str, dict[int, SeriesPoint]] = {}
    for v in validation:
        sign = next((sign for sign in SIGNS if sign == v.get("sign")), "≤")
        mark = SeriesPoint(v["step"], sign, v["bits_per_char"], v["bits_per_char_error"], v["nats_per_token"])
        found.setdefault(validated_part(v), {})[mark.step] = mark
    for b in by_rank(bounds):
        name = part_name(b.split, b.part)
        found.setdefault(name, {})[b.step] = SeriesPoint(b.step, b.sign, b.bits, b.error, b.nats_per_token)
    return {name: [marks[step] for step in sorted(marks)] for name, marks in found.items()}
