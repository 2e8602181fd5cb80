"""A replay as an SVG picture: masked positions turn into text, in a loop, by CSS alone.

Without animation (a viewer without it, or a system set to reduced motion) it shows the final text.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from rich.cells import cell_len

from sedd_cli.cli.view.denoising.placing import (
    BAR,
    CAPTION,
    CELL,
    COLUMNS,
    CONTROL,
    FRAME,
    GIVEN,
    INK,
    LINE,
    MARGIN,
    MASKED,
    PAPER,
    PLAY,
    REST,
    SMALL,
    Slot,
    caption,
    heading,
    histories,
    lay_out_pieces,
    shown_in,
)
from sedd_cli.cli.view.denoising.replay import Replay, Strand
from sedd_cli.system.files import write_whole

_STYLE = f"""\
text{{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:{INK}}}
.g{{fill:{GIVEN};font-weight:700}}.c{{fill:{SMALL};font-size:12px}}.m{{fill:{MASKED};opacity:0}}.o{{opacity:0}}
.a{{animation:{PLAY + REST:g}s linear infinite}}
.bar{{fill:{BAR};transform-origin:0 0;animation:bar {PLAY + REST:g}s linear infinite}}
@keyframes bar{{0%{{transform:scaleX(0)}}{100 * PLAY / (PLAY + REST):.2f}%,100%{{transform:scaleX(1)}}}}
@media (prefers-reduced-motion:reduce){{.a,.bar{{animation:none!important}}}}
"""


def write_picture(path: Path, replay: Replay) -> None:
    """Write the picture, whole or not at all. OSError where it cannot be written."""
    write_whole(path, picture(replay))


def picture(replay: Replay) -> str:
    """The replay as SVG, its sequences one below another."""
    keyframes: dict[str, str] = {}
    body: list[str] = []
    y = MARGIN
    several = len(replay.strands) > 1
    for strand in replay.strands:
        if several:
            body.append(f'<text class="c" x="{MARGIN}" y="{y + 12}">{_text(heading(strand))}</text>')
            y += LINE
        lines = _draw(strand, y, body, keyframes)
        y += lines * LINE + LINE // 2
    width = 2 * MARGIN + COLUMNS * CELL
    body.append(f'<rect class="bar" x="0" y="{y}" width="{width:g}" height="3"/>')
    body.append(f'<text class="c" x="{MARGIN}" y="{y + 20}">{_text(caption(replay))}</text>')
    height = y + CAPTION
    style = _STYLE + "\n".join(keyframes.values())
    texts = _text("\n".join(strand.text for strand in replay.strands))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" '
        f'viewBox="0 0 {width:g} {height}" role="img">\n'
        f"<title>{_text(replay.title)}</title>\n<desc>{texts}</desc>\n<style>\n{style}\n</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1}" fill="{PAPER}" stroke="{FRAME}"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _draw(strand: Strand, top: float, body: list[str], keyframes: dict[str, str]) -> int:
    """Add a sequence to the body; returns its number of lines."""
    steps = max(len(strand.evaluations), 1)
    each = histories(strand)
    slots, lines = lay_out_pieces([history[-1][1] for history in each])
    given = set(strand.given)
    for i, history in enumerate(each):
        for part, slot in enumerate(slots[i]):
            for k, (step, piece) in enumerate(history):
                until = history[k + 1][0] if k + 1 < len(history) else None
                if until == step or (part and piece is not None and until is not None):
                    continue  # what is replaced later is shown once, also where the final piece is on two lines
                name = _keyframes(step / steps, None if until is None else until / steps, piece, keyframes)
                body.append(_element(slot, piece, until is None, name, top, i in given and len(history) == 1))
    return lines


def _element(slot: Slot, piece: str | None, last: bool, name: str | None, top: float, given: bool) -> str:
    x, y = MARGIN + slot.column * CELL, top + slot.line * LINE
    size = cell_len(slot.text)
    style = f' style="animation-name:{name}"' if name else ""
    moving = " a" if name else ""
    if piece is None:
        hidden = ' style="opacity:1"' if last else style
        box = f'x="{x + 1:g}" y="{y + 1:g}" width="{size * CELL - 2:g}" height="20" rx="4"'
        return f'<rect class="m{moving}" {box}{hidden}/>'
    before, bare = shown_in(slot, piece, last)
    if not bare:
        return ""
    x += before * CELL
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


def _text(text: str) -> str:
    return escape(CONTROL.sub("", text))
