"""The language of templates: what it accepts, what it means, and that any text can be written in it."""

import random

import pytest

from sedd_cli.errors import RequestError
from sedd_cli.inference.template import Gap, escape, gap_between, parse_template


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[MASK]", (Gap(),)),
        ("[MASK:8]", (Gap(8, 8),)),
        ("[MASK:5-20]", (Gap(5, 20),)),
        ("[MASK:5–20]", (Gap(5, 20),)),
        ("[MASK: 5 - 20 ]", (Gap(5, 20),)),
        ("A [MASK:12] on [MASK:5-20], so [MASK].", ("A ", Gap(12, 12), " on ", Gap(5, 20), ", so ", Gap(), ".")),
        ("[MASK:2][MASK:3]", (Gap(2, 2), Gap(3, 3))),
        (r"a\[1\] [MASK]", ("a[1] ", Gap())),
        (r"C:\dir [MASK]", ("C:\\dir ", Gap())),
        (r"\\[MASK]", ("\\", Gap())),
        (r"\\srv\share [MASK]", (r"\\srv\share ", Gap())),
        (r"1 & 2 \\ [MASK] \\", (r"1 & 2 \\ ", Gap(), r" \\")),
        (r"\\\[0\] [MASK]", (r"\[0] ", Gap())),
        ("line\n[MASK]\n", ("line\n", Gap(), "\n")),
        (r"\[MASK\] is no gap, [MASK:1] is", ("[MASK] is no gap, ", Gap(1, 1), " is")),
    ],
)  # fmt: skip
def test_a_template_is_texts_and_gaps_in_turn(text, parts):
    assert parse_template(text).parts == parts


def test_any_text_can_be_taken_literally():
    draw = random.Random(0)
    for _ in range(5000):
        text = "".join(draw.choice("\\[]MASK:5- \nüé") for _ in range(draw.randint(1, 9)))
        assert parse_template(escape(text) + "[MASK:3]").parts == (text, Gap(3, 3))
        assert parse_template("[MASK]" + escape(text, gap_follows=False)).parts == (Gap(), text)


def test_a_template_is_spelled_as_it_is_read():
    draw = random.Random(1)
    for _ in range(2000):
        parts = [draw.choice([Gap(), Gap(4, 4), Gap(2, 9)]) for _ in range(draw.randint(1, 4))]
        text = "".join(escape(draw.choice(["", " a", "[", "\\", "b] "])) + spelled(gap) for gap in parts)
        template = parse_template(text)
        assert template.gaps == parts
        assert parse_template(str(template)) == template


def spelled(gap: Gap) -> str:
    return "[MASK]" if gap.is_open else f"[MASK:{gap.low}]" if gap.low == gap.high else f"[MASK:{gap.low}-{gap.high}]"


def test_prefix_and_suffix_are_no_templates():
    assert gap_between("a[0]", "\\]").parts == ("a[0]", Gap(), "\\]")
    assert gap_between("", "end").parts == (Gap(), "end")
    assert gap_between("", "").parts == (Gap(),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no gap here", ["no gap to fill", r"\["]),
        ("", ["no gap to fill"]),
        ("a [MASK:5", ["unbalanced '['", "character 3"]),
        ("a] [MASK]", ["unbalanced ']'", "character 2"]),
        ("[MASK", ["unbalanced"]),
        ("[MASK:0]", ["[MASK:0]", "one token or more"]),
        ("[MASK:0-4]", ["one token or more"]),
        ("[MASK:9-4]", ["4-9"]),
        ("[MASK:-4]", ["is no gap"]),
        ("[MASK:x]", ["[MASK:x] is no gap"]),
        ("[mask]", ["[mask] is no gap"]),
        ("a[1] and [MASK]", ["[1] is no gap", r"\["]),
        ("[MASK:[MASK]]", ["is no gap"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, words):
    with pytest.raises(RequestError) as caught:
        parse_template(text)
    assert all(word in str(caught.value) for word in words)
