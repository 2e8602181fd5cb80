"""A replay as an animated GIF, which looks like the picture in SVG (`picture`) and is shown where SVG is not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont
from rich.cells import cell_len

from sedd_cli.cli.view.denoising.placing import (
    BAR,
    CAPTION,
    CELL,
    COLUMNS,
    CONTROL,
    FRAME,
    FRESH,
    GIVEN,
    INK,
    LINE,
    MARGIN,
    MASKED,
    PAPER,
    PLAY,
    REST,
    SMALL,
    History,
    Slot,
    caption,
    heading,
    histories,
    lay_out_pieces,
    shown_in,
)
from sedd_cli.cli.view.denoising.replay import Replay, Strand
from sedd_cli.system.files import write_whole

#: Most frames of the denoising, and most pixels of all frames together.
FRAMES, PIXELS = 60, 100_000_000
#: Seconds for which a new piece has a colour of its own.
NEW = 0.65
#: Shades of each colour, towards that of the paper.
_SHADES = 24


def write_gif(path: Path, replay: Replay) -> None:
    """Write the picture, whole or not at all. OSError where it cannot be written."""
    write_whole(path, gif(replay))


def gif(replay: Replay) -> bytes:
    """The replay as GIF, its sequences one below another, in a loop. It ends with the final texts for a while."""
    placed = [_Placed(strand) for strand in replay.strands]
    several = len(placed) > 1
    bottom = MARGIN + sum(one.lines * LINE + LINE // 2 + several * LINE for one in placed)
    width, height = round(2 * MARGIN + COLUMNS * CELL), bottom + CAPTION
    steps = max((one.steps for one in placed), default=1)
    number = max(1, min(FRAMES, steps, PIXELS // (width * height)))
    palette = _palette()

    def frames() -> Iterator[Image.Image]:
        for k in range(number + 1):
            image = Image.new("RGB", (width, height), PAPER)
            draw = ImageDraw.Draw(image)
            draw.rectangle((0, 0, width - 1, height - 1), outline=FRAME)
            y = MARGIN
            for one in placed:
                if several:
                    draw.text((MARGIN, y + 12), _clean(heading(one.strand)), SMALL, _font(12), anchor="ls")
                    y += LINE
                one.draw(draw, y, k / number)
                y += one.lines * LINE + LINE // 2
            draw.rectangle((0, bottom, round(width * k / number), bottom + 2), fill=BAR)
            draw.text((MARGIN, bottom + 20), _clean(caption(replay)), SMALL, _font(12), anchor="ls")
            yield image.quantize(palette=palette, dither=Image.Dither.NONE)

    each = frames()
    first, buffer = next(each), io.BytesIO()
    durations = [round(1000 * PLAY / number)] * number + [round(1000 * REST)]
    first.save(buffer, "GIF", save_all=True, append_images=each, duration=durations, loop=0)
    return buffer.getvalue()


class _Placed:
    """A sequence with the places of its pieces."""

    def __init__(self, strand: Strand):
        self.strand, self.steps = strand, max(len(strand.evaluations), 1)
        self._histories, self._given = histories(strand), set(strand.given)
        self._slots, self.lines = lay_out_pieces([history[-1][1] for history in self._histories])

    def draw(self, draw: ImageDraw.ImageDraw, top: int, share: float) -> None:
        """Draw the text as it is after this share of its steps."""
        for i, history in enumerate(self._histories):
            k = max(k for k, (step, _) in enumerate(history) if step <= share * self.steps + 1e-9)
            for part, slot in enumerate(self._slots[i]):
                if not part or k == len(history) - 1 or history[k][1] is None:  # what is replaced is shown once
                    self._draw_piece(draw, top, slot, history, k, share, i in self._given)

    def _draw_piece(
        self, draw: ImageDraw.ImageDraw, top: int, slot: Slot, history: History, k: int, share: float, given: bool
    ) -> None:
        step, piece = history[k]
        x, y = MARGIN + slot.column * CELL, top + slot.line * LINE
        if piece is None:
            draw.rounded_rectangle((x + 1, y + 1, x + cell_len(slot.text) * CELL - 1, y + 21), 4, fill=MASKED)
            return
        before, bare = shown_in(slot, piece, k == len(history) - 1)
        new = step and share < 1 and share - step / self.steps < NEW / PLAY
        bold = given and len(history) == 1
        colour = GIVEN if bold else FRESH if new else INK
        at = x + before * CELL
        for character in _clean(bare):  # each in its cell, as in a terminal
            draw.text((at, y + 16), character, colour, _font(15, bold), anchor="ls")
            at += cell_len(character) * CELL


def _clean(text: str) -> str:
    return CONTROL.sub("", text)


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono, which comes with matplotlib; characters that it lacks are boxes."""
    import matplotlib

    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _palette() -> Image.Image:
    """The colours of the picture with their shades towards the paper, for all frames alike."""
    paper, values = ImageColor.getrgb(PAPER), [*ImageColor.getrgb(FRAME), *ImageColor.getrgb(MASKED)]
    for colour in (INK, GIVEN, FRESH, SMALL, BAR):
        ink = ImageColor.getrgb(colour)
        for shade in range(_SHADES):
            values += [round(a + (b - a) * shade / (_SHADES - 1)) for a, b in zip(ink, paper, strict=True)]
    image = Image.new("P", (1, 1))
    image.putpalette(values)
    return image
