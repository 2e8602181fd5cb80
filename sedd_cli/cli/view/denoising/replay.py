"""A self-contained page that replays the denoising of texts; without scripts it shows the final texts."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from sedd_cli.system.files import write_whole


@dataclass(frozen=True)
class Strand:
    """The denoising of one sequence.

    `start` [L]: the piece of text at each position before the first step, None where it is unresolved (MASK); a piece
    may be empty if its character is shown elsewhere. `given`: the given positions. `changes`: (step, position, piece)
    ordered by step, counted from 1; a piece of None masks the position again. `evaluations` [steps], `seconds` [steps]:
    network evaluations and time up to and including each step. `text`: the final text.
    """

    label: str
    start: list[str | None]
    given: list[int]
    changes: list[tuple[int, int, str | None]]
    evaluations: list[int]
    seconds: list[float]
    text: str


@dataclass(frozen=True)
class Replay:
    """The content of a page: heading, facts (model, sampler, seed, …), sequences."""

    title: str
    facts: dict[str, str]
    strands: list[Strand]


def page(replay: Replay) -> str:
    """The page as HTML."""
    parts = {
        "title": escape(replay.title),
        "facts": "\n".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in replay.facts.items()
        ),
        "strands": "\n".join(
            f'<article class="strand"><h2>{escape(strand.label)}</h2><p class="counters"></p>'
            f'<p class="text" dir="auto">{escape(strand.text)}</p></article>'
            for strand in replay.strands
        ),
        "data": _document(replay),
    }
    template = Path(__file__).with_name("replay.html").read_text(encoding="utf-8")
    # in one pass, so that a text that contains a placeholder stays as it is
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def write_page(path: Path, replay: Replay) -> None:
    """Write the page atomically. Raises OSError if it cannot be written."""
    write_whole(path, page(replay))


def _document(replay: Replay) -> str:
    """The replay as JSON for a script element: ASCII, without `<`, which could end the element."""
    record = asdict(replay)
    for strand in record["strands"]:
        strand["seconds"] = [round(second, 3) for second in strand["seconds"]]  # finer than the page shows
    return json.dumps(record, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
