"""A replay as an SVG picture: masked positions turn into text, in a loop, by CSS alone.

Without animation (a viewer without it, or a system set to reduced motion) it shows the final text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.cells import cell_len, set_cell_size

from sedd_cli.cli.view.replay import Replay, Strand
from sedd_cli.system.files import write_whole

#: Cells of a line of text, and the size of a cell in pixels.
COLUMNS, CELL, LINE = 72, 9.0, 26
#: Seconds of denoising, and of the finished text before it begins again.
PLAY, REST = 9.0, 4.0
_MARGIN, _CAPTION = 20, 30
#: What XML cannot hold.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

_STYLE = """\
text{{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2328}}
.g{{fill:#0550ae;font-weight:700}}.c{{fill:#59636e;font-size:12px}}.m{{fill:#d5dbe3;opacity:0}}.o{{opacity:0}}
.a{{animation:{length:g}s linear infinite}}
.bar{{fill:#8250df;transform-origin:0 0;animation:bar {length:g}s linear infinite}}
@keyframes bar{{0%{{transform:scaleX(0)}}{play:.2f}%,100%{{transform:scaleX(1)}}}}
@media (prefers-reduced-motion:reduce){{.a,.bar{{animation:none!important}}}}
"""


def write_picture(path: Path, replay: Replay) -> None:
    """Write the picture, whole or not at all. OSError where it cannot be written."""
    write_whole(path, picture(replay))


def picture(replay: Replay) -> str:
    """The replay as SVG, its sequences one below another."""
    keyframes: dict[str, str] = {}
    body: list[str] = []
    y = _MARGIN
    several = len(replay.strands) > 1
    for strand in replay.strands:
        if several:
            heading = f"{strand.label} · {_cost(strand)}"
            body.append(f'<text class="c" x="{_MARGIN}" y="{y + 12}">{_text(heading)}</text>')
            y += LINE
        lines = _draw(strand, y, body, keyframes)
        y += lines * LINE + LINE // 2
    facts = [value for name, value in replay.facts.items() if name in ("model", "sampler")]
    facts += [] if several else map(_cost, replay.strands)
    width = 2 * _MARGIN + COLUMNS * CELL
    body.append(f'<rect class="bar" x="0" y="{y}" width="{width:g}" height="3"/>')
    body.append(f'<text class="c" x="{_MARGIN}" y="{y + 20}">{_text(" · ".join([replay.title, *facts]))}</text>')
    height = y + _CAPTION
    style = _STYLE.format(length=PLAY + REST, play=100 * PLAY / (PLAY + REST)) + "\n".join(keyframes.values())
    texts = _text("\n".join(strand.text for strand in replay.strands))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" '
        f'viewBox="0 0 {width:g} {height}" role="img">\n'
        f"<title>{_text(replay.title)}</title>\n<desc>{texts}</desc>\n<style>\n{style}\n</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1}" fill="#fbfcfe" stroke="#d0d7de"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


@dataclass(frozen=True)
class _Slot:
    """Where a piece, or its part on one line, stands: line, column and final text."""

    line: int
    column: int
    text: str


def _draw(strand: Strand, top: float, body: list[str], keyframes: dict[str, str]) -> int:
    """Add a sequence to the body; returns its number of lines."""
    steps = max(len(strand.evaluations), 1)
    histories: list[list[tuple[int, str | None]]] = [[(0, piece)] for piece in strand.start]
    for step, i, piece in strand.changes:
        histories[i].append((step, piece))
    slots, lines = _layout([history[-1][1] for history in histories])
    given = set(strand.given)
    for i, history in enumerate(histories):
        for part, slot in enumerate(slots[i]):
            for k, (step, piece) in enumerate(history):
                until = history[k + 1][0] if k + 1 < len(history) else None
                if until == step or (part and piece is not None and until is not None):
                    continue  # what is replaced later is shown once, also where the final piece is on two lines
                name = _keyframes(step / steps, None if until is None else until / steps, piece, keyframes)
                body.append(_element(slot, piece, until is None, name, top, i in given and len(history) == 1))
    return lines


def _element(slot: _Slot, piece: str | None, last: bool, name: str | None, top: float, given: bool) -> str:
    x, y = _MARGIN + slot.column * CELL, top + slot.line * LINE
    size = cell_len(slot.text)
    style = f' style="animation-name:{name}"' if name else ""
    moving = " a" if name else ""
    if piece is None:
        hidden = ' style="opacity:1"' if last else style
        box = f'x="{x + 1:g}" y="{y + 1:g}" width="{size * CELL - 2:g}" height="20" rx="4"'
        return f'<rect class="m{moving}" {box}{hidden}/>'
    shown = slot.text if last else set_cell_size(" ".join(piece.split("\n")), size)
    bare = shown.strip()
    if not bare:
        return ""
    x += cell_len(shown[: shown.index(bare)]) * CELL
    classes = f"{'g' if given else '' if last else 'o'}{moving}".strip()
    kind = f' class="{classes}"' if classes else ""
    # the length is set, so that the text fills its cells in every font
    return f'<text{kind} x="{x:g}" y="{y + 16:g}" textLength="{cell_len(bare) * CELL:g}"{style}>{_text(bare)}</text>'


def _keyframes(start: float, stop: float | None, piece: str | None, keyframes: dict[str, str]) -> str | None:
    """The name of the rule that shows something from `start` to `stop`, shares of the denoising; None: always."""
    if start == 0 and stop is None:
        return None
    share = 100 * PLAY / (PLAY + REST)
    begin, fresh = start * share, min(start * share + 5, 100.0)
    name = f"k{round(start * 1e4)}" + ("" if stop is None else f"-{round(stop * 1e4)}")
    rule = "" if start == 0 else f"0%,{begin:.2f}%{{opacity:0}}"
    colour = "fill:#bf3989" if piece is not None and start else ""
    if piece is not None and start:
        name += "t"
    rule += f"{begin + (0.01 if start else 0):.2f}%{{opacity:1;{colour}}}"
    if stop is None:
        rule += f"{fresh:.2f}%,100%{{opacity:1}}"
    else:
        rule += f"{stop * share:.2f}%{{opacity:1;{colour}}}{stop * share + 0.01:.2f}%,100%{{opacity:0}}"
    keyframes[name] = f"@keyframes {name}{{{rule}}}"
    return name


def _layout(pieces: list[str | None]) -> tuple[list[list[_Slot]], int]:
    """The slots of each piece, lines broken between words, and the number of lines."""
    texts = [_CONTROL.sub("", ("    " if piece is None else piece).expandtabs(4)) for piece in pieces]
    slots: list[list[_Slot]] = []
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
                head = set_cell_size(part, max(COLUMNS - column, 0)).rstrip("…")
                found.append(_Slot(line, column, head))
                line, column, part = line + 1, 0, part[len(head) :] if head else part
            if part:
                found.append(_Slot(line, column, part))
                column += cell_len(part)
        slots.append(found)
    return slots, line + 1


def _rest_of_word(texts: list[str]) -> int:
    """Cells up to the next piece that begins with a space."""
    size = 0
    for text in texts:
        head = re.match(r"\S*", text)
        size += cell_len(head[0]) if head else 0
        if not head or len(head[0]) < len(text) or size > COLUMNS:
            break
    return size


def _cost(strand: Strand) -> str:
    evaluations = strand.evaluations[-1] if strand.evaluations else 0
    return f"{len(strand.evaluations)} steps · {evaluations} network evaluations"


def _text(text: str) -> str:
    return escape(_CONTROL.sub("", text))
