"""One page that replays how texts were denoised: it loads nothing, and without scripts still shows what came out."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from sedd_cli.system.files import write_whole


@dataclass(frozen=True)
class Strand:
    """One sequence as it was denoised.

    `start` [L]: the piece of text at each position before the first step, None where it is unresolved (MASK); a piece
    may be empty where its character is shown elsewhere. `given`: positions that were given. `changes`: (step, position,
    piece), in order of steps, which count from 1; a piece of None turns the position back into MASK. `evaluations`
    [steps], `seconds` [steps]: network evaluations and time spent up to and including each step. `text`: the final one.
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
    """What one page shows: its heading, what it was made with (model, sampler, seed, …), and the sequences."""

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
    # in one pass: a text that spells a placeholder stays as it is
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def write_page(path: Path, replay: Replay) -> None:
    """Write the page, whole or not at all. OSError where it cannot be written."""
    write_whole(path, page(replay))


def _document(replay: Replay) -> str:
    """The replay as JSON that can stand in a script element: in ASCII, and with no `<` to end it or open a comment."""
    record = asdict(replay)
    for strand in record["strands"]:
        strand["seconds"] = [round(second, 3) for second in strand["seconds"]]  # finer than the page shows
    return json.dumps(record, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
