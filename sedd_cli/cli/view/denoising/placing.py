"""Where the pieces of a text stand in a picture: lines and columns, and the lines beside the texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from sedd_cli.cli.view.denoising.replay import Replay, Strand

#: Cells of a line of text, and the size of a cell in pixels.
COLUMNS, CELL, LINE = 72, 9.0, 26
#: Seconds of denoising, and of the finished text before it begins again.
PLAY, REST = 9.0, 4.0
#: Pixels around the texts, and of the line below them.
MARGIN, CAPTION = 20, 30
#: Colours.
PAPER, FRAME, INK, GIVEN, FRESH = "#fbfcfe", "#d0d7de", "#1f2328", "#0550ae", "#bf3989"
MASKED, SMALL, BAR = "#d5dbe3", "#59636e", "#8250df"
#: What XML cannot hold.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Slot:
    """Where a piece, or its part on one line, stands: line, column and final text."""

    line: int
    column: int
    text: str


#: (step, piece) of a position: what it shows from that step on, None while it is masked.
History = list[tuple[int, str | None]]


def histories(strand: Strand) -> list[History]:
    """What each position shows, from step 0 on."""
    found: list[History] = [[(0, piece)] for piece in strand.start]
    for step, i, piece in strand.changes:
        found[i].append((step, piece))
    return found


def lay_out_pieces(pieces: list[str | None]) -> tuple[list[list[Slot]], int]:
    """The slots of each piece, lines broken between words, and the number of lines."""
    texts = [CONTROL.sub("", ("    " if piece is None else piece).expandtabs(4)) for piece in pieces]
    slots: list[list[Slot]] = []
    line = column = 0
    for i, text in enumerate(texts):
        found = []
        for k, part in enumerate(text.split("\n")):
            if k:
                line, column = line + 1, 0
            word = cell_len(part) + (0 if "\n" in text else _rest_of_word(texts[i + 1 :]))
            if column and (i == 0 or part[:1].isspace()) and column + word > COLUMNS:
                line, column, part = line + 1, 0, part.lstrip(" ")
            while column + cell_len(part) > COLUMNS:  # a word longer than a line
                head = _fitting(part, COLUMNS - column)
                found.append(Slot(line, column, head))
                line, column, part = line + 1, 0, part[len(head) :]
            if part:
                found.append(Slot(line, column, part))
                column += cell_len(part)
        slots.append(found)
    return slots, line + 1


def _fitting(text: str, cells: int) -> str:
    """The beginning of a text that fits into so many cells."""
    size = 0
    for place, character in enumerate(text):
        size += cell_len(character)
        if size > cells:
            return text[:place]
    return text


def _rest_of_word(texts: list[str]) -> int:
    """Cells up to the next piece that begins with a space."""
    size = 0
    for text in texts:
        head = re.match(r"\S*", text)
        size += cell_len(head[0]) if head else 0
        if not head or len(head[0]) < len(text) or size > COLUMNS:
            break
    return size


def shown_in(slot: Slot, piece: str, last: bool) -> tuple[int, str]:
    """The text that a piece shows in its slot without spaces around it, and the cells before it; last: it stays."""
    text = slot.text if last else set_cell_size(" ".join(piece.split("\n")), cell_len(slot.text))
    bare = text.strip()
    return (cell_len(text[: text.index(bare)]) if bare else 0), bare


def heading(strand: Strand) -> str:
    """The line above a text that is one of several."""
    return f"{strand.label} · {_cost(strand)}"


def caption(replay: Replay) -> str:
    """The line below the texts."""
    facts = [value for name, value in replay.facts.items() if name in ("model", "sampler")]
    facts += [] if len(replay.strands) > 1 else map(_cost, replay.strands)
    return " · ".join([replay.title, *facts])


def _cost(strand: Strand) -> str:
    evaluations = strand.evaluations[-1] if strand.evaluations else 0
    return f"{len(strand.evaluations)} steps · {evaluations} network evaluations"
