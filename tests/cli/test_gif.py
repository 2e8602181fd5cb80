"""The picture as GIF: the frames of a denoising, which look like the picture in SVG and end in its text."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageColor
from PIL.GifImagePlugin import GifImageFile

from sedd_cli.cli.view.denoising import placing
from sedd_cli.cli.view.denoising.gif import FRAMES, gif
from sedd_cli.cli.view.denoising.replay import Replay, Strand


def strand(start: list[str | None], changes: list[tuple[int, int, str | None]], steps: int, text: str) -> Strand:
    given = [i for i, piece in enumerate(start) if piece is not None]
    return Strand("sample 0", start, given, changes, list(range(1, steps + 1)), [0.1] * steps, text)


CHANGES = [(2, 3, " old"), (3, 1, " cat\x00"), (10, 3, " new")]
CAT = strand(["The", None, " <b>&", None, "."], CHANGES, 10, "The cat <b>& new.")


def read(replay: Replay) -> GifImageFile:
    image = Image.open(io.BytesIO(gif(replay)))
    assert isinstance(image, GifImageFile)
    return image


def colours(image: GifImageFile, frame: int, box: tuple[int, int, int, int] | None = None) -> set[tuple[int, ...]]:
    """The colours of a frame, or of a part of it."""
    image.seek(frame)
    found = image.convert("RGB").crop(box) if box else image.convert("RGB")
    return {found.getpixel((x, y)) for x in range(found.width) for y in range(found.height)}


def of(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


def test_a_position_is_grey_until_its_step_then_new_then_text():
    image = read(Replay("sedd infill", {}, [CAT]))
    assert image.n_frames == 11
    assert image.info["loop"] == 0
    # the cells of " cat" behind "The", and of the given text
    x = placing.MARGIN + 3 * placing.CELL
    box = (int(x), placing.MARGIN, int(x + 4 * placing.CELL), placing.MARGIN + 21)
    given = (placing.MARGIN, placing.MARGIN, int(x), placing.MARGIN + 21)
    grey, new, ink = (of(colour) for colour in (placing.MASKED, placing.FRESH, placing.INK))
    for frame in range(11):
        there = colours(image, frame, box)
        assert (grey in there) == (frame < 3)
        assert (new in there) == (frame == 3)
        assert (ink in there) == (frame > 3)
        assert of(placing.GIVEN) in colours(image, frame, given)


def test_the_bar_fills_and_the_last_frame_stays():
    image = read(Replay("sedd infill", {}, [CAT]))
    row = image.height - placing.CAPTION + 1
    widths, durations = [], []
    for frame in range(image.n_frames):
        image.seek(frame)
        rgb = image.convert("RGB")
        widths.append(sum(rgb.getpixel((x, row)) == of(placing.BAR) for x in range(1, rgb.width)))
        durations.append(image.info["duration"])
    assert widths == sorted(widths)
    assert widths[-1] == image.width - 1
    assert durations == [900] * 10 + [4000]


def test_long_and_many_texts_have_few_frames():
    steps = 1000
    long = strand([None] * 64, [(i * 15 + 1, i, f" word{i}") for i in range(64)], steps, "")
    assert read(Replay("", {}, [long])).n_frames == FRAMES + 1
    several = read(Replay("", {}, [CAT] * 3))
    assert several.height > 2 * read(Replay("", {}, [CAT])).height
    assert several.n_frames == 11


@pytest.mark.parametrize("words", [["sample", "-n", 2], ["infill", "the [MASK:3] mat"]])
def test_the_commands_write_it(words, sedd, tiny_run, tmp_path):
    done = sedd(*words, "--model", tiny_run, "--gif", tmp_path / "a.gif", "--svg", tmp_path / "a.svg")
    assert done.code == 0, done.err
    image, svg = Image.open(tmp_path / "a.gif"), (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert f'width="{image.width}" height="{image.height}"' in svg
    assert image.n_frames > 1
    assert f"wrote {tmp_path / 'a.gif'}" in done.err
