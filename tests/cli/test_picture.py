"""The picture of a replay is well-formed, loads nothing, ends in the final text, and times each change."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len

from sedd_cli.cli.view.denoising.picture import picture
from sedd_cli.cli.view.denoising.placing import COLUMNS, PLAY, REST, lay_out_pieces
from sedd_cli.cli.view.denoising.replay import Replay, Strand

SVG = "{http://www.w3.org/2000/svg}"
SHARE = 100 * PLAY / (PLAY + REST)


def strand(start: list[str | None], changes: list[tuple[int, int, str | None]], steps: int, text: str) -> Strand:
    given = [i for i, piece in enumerate(start) if piece is not None]
    return Strand("sample 0", start, given, changes, list(range(1, steps + 1)), [0.1] * steps, text)


@pytest.fixture
def replay() -> Replay:
    start = ["The", None, " <b>&", None, "."]
    changes = [(2, 3, " old"), (3, 1, " cat\x00"), (5, 3, None), (10, 3, " new\nline")]
    return Replay("sedd infill", {"model": "a & b"}, [strand(start, changes, 10, "The cat <b>& new\nline.")])


def texts(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The pieces of the final text, the caption left out."""
    found = root.findall(f"{SVG}text")
    return [e for e in found if not {"c", "o"} & set(e.get("class", "").split())]


def test_it_is_xml_that_loads_nothing(replay):
    text = picture(replay)
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert text.count("http") == 1  # the name space
    assert not any(word in text for word in ("<script", "href", "url(", "@import"))
    assert root.find(f"{SVG}desc").text == "The cat <b>& new\nline."


def test_without_animation_it_shows_the_final_text(replay):
    root = ElementTree.fromstring(picture(replay))
    assert [element.text for element in texts(root)] == ["The", "cat", "<b>&", "new", "line", "."]
    style = root.find(f"{SVG}style").text
    assert ".m{fill:#d5dbe3;opacity:0}" in style
    assert ".o{opacity:0}" in style
    assert "prefers-reduced-motion" in style


def test_given_pieces_are_marked_and_do_not_move(replay):
    root = ElementTree.fromstring(picture(replay))
    assert [e.text for e in texts(root) if e.get("class") == "g"] == ["The", "<b>&", "."]


def test_no_wide_character_is_lost_where_a_line_ends():
    for first in ("", "a"):
        slots, lines = lay_out_pieces([first or None, "中" * 40, "…" * 200])
        assert "".join(slot.text for found in slots[1:2] for slot in found) == "中" * 40
        assert "".join(slot.text for slot in slots[2]) == "…" * 200
        assert all(slot.column + cell_len(slot.text) <= COLUMNS for found in slots for slot in found)
        assert lines >= 4


def test_a_piece_appears_at_the_step_of_its_change(replay):
    text = picture(replay)
    (name,) = re.findall(r'style="animation-name:(\S+)">cat<', text)
    assert f"@keyframes {name}{{0%,{0.3 * SHARE:.2f}%{{opacity:0}}" in text
    (name,) = re.findall(r'style="animation-name:(\S+)">old<', text)
    assert f"{0.5 * SHARE:.2f}%{{opacity:1;" in re.search(rf"@keyframes {name}{{.*", text)[0]


def test_a_position_that_stays_masked_is_shown_so():
    root = ElementTree.fromstring(picture(Replay("", {}, [strand(["a", None], [], 3, "a")])))
    (box,) = (e for e in root.findall(f"{SVG}rect") if e.get("class") == "m")
    assert box.get("style") == "opacity:1"


def test_lines_are_broken_between_words_and_a_long_word_where_it_must():
    words = [" seventeen_letters"] * 9 + [" " + "x" * (2 * COLUMNS)]
    root = ElementTree.fromstring(picture(Replay("", {}, [strand(words, [], 1, "".join(words))])))
    rows: dict[str, str] = {}
    for element in texts(root):
        rows[element.get("y")] = rows.get(element.get("y"), "") + " " + element.text
    assert [len(row) <= COLUMNS + 1 for row in rows.values()] == [True] * len(rows)
    assert "".join(rows.values()).replace(" ", "") == "".join(words).replace(" ", "")


def test_several_sequences_stand_one_below_another(replay):
    text = picture(Replay("two", {}, replay.strands * 2))
    assert text.count(">sample 0 · 10 steps · 10 network evaluations</text>") == 2
    assert len({e.get("y") for e in texts(ElementTree.fromstring(text)) if e.text == "The"}) == 2


def test_a_long_sample_makes_a_picture_of_modest_size():
    start, steps = [None] * 1024, 1024
    changes = [(i + 1, i, f" word{i % 7}") for i in range(1024)]
    assert len(picture(Replay("", {}, [strand(start, changes, steps, "")]))) < 600_000


@pytest.mark.parametrize("words", [["sample"], ["infill", "--template", "the [MASK:3] mat"]])
def test_the_commands_write_it(words, sedd, tiny_run, tmp_path):
    out = tmp_path / "picture.svg"
    outcome = sedd(*words, "--model", tiny_run, "--svg", out)
    assert outcome.code == 0, outcome.err
    root = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    assert root.find(f"{SVG}title").text == f"sedd {words[0]}"
    assert f"wrote {out}" in outcome.err


def test_the_picture_in_the_guides_is_one_of_ours():
    from sedd_cli.cli.commands.guide import GUIDES

    text = (GUIDES / "images" / "infill.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    assert len(text) < 60_000
