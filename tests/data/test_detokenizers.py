"""Every detokenizer on lines as the corpora spell them, the expected text written out."""

from __future__ import annotations

import pytest

from sedd_cli.data.detokenizers import DETOKENIZERS, find_detokenizer
from sedd_cli.errors import RequestError

WIKITEXT = [
    (" = Robert Boulter = \n", " = Robert Boulter =\n"),
    (" = = Career = = \n", " == Career ==\n"),
    (" = = = 2000 – 2005 = = = \n", " === 2000 – 2005 ===\n"),
    (" = = = = Notes = = = = \n", " ==== Notes ====\n"),
    ("a guest @-@ starring role", "a guest-starring role"),
    ("about 1 @,@ 500 people , or 2 @.@ 5 %", "about 1,500 people, or 2.5 %"),
    ("film , television ; theatre : all . Really ! Why ? So", "film, television; theatre: all. Really! Why? So"),
    # A mark at the end of the line has no space behind it, so the one before stays.
    ("He had a role .", "He had a role ."),
    ("He had a role . \n", "He had a role.\n"),
    ("the ( very ) old [ sic ] set { a }", "the (very) old [sic] set {a}"),
    ('the episode , " In Safe Hands " .', 'the episode, "In Safe Hands" .'),
    ("called ' home ' by some", "called 'home' by some"),
    ("the players ' union", "the players' union"),
    ("Boulter 's first", "Boulter's first"),
    ("from N to N", "from 1 to N"),
    ("at 25 ° C , or 77 ° F", "at 25°C, or 77°F"),
    ("one \n two \n three", "one\ntwo\nthree"),
    ("", ""),
]

PTB = [
    ("the company 's shares do n't trade", "the company's shares don't trade"),
    ("the workers ' pay", "the workers' pay"),
    ("mr. <unk> is N years old", "mr. ? is 1 years old"),
    ("N N N N N and more", "N 1 1 1 1 and more"),
    ("it fell $ N to N cents", "it fell $1 to 1 cents"),
    ("the # N million bid at N \\/ N", "the #1 million bid at 1 / N"),
    ("1\\/2 and\\/or", "1/2 and/or"),
]

LM1B = [
    ("see http : / / example.com today", "see http://example.com today"),
    ("see https : / / example.com today", "see https://example.com today"),
    ("it 's the people who won 't talk .", "it's the people who won't talk."),
    ("He left . She stayed .", "He left. She stayed."),
    ("Why ? Really ! Is it ?", "Why? Really! Is it?"),
    ("Stop !", "Stop!"),
    ("first , second ; third : fourth", "first, second; third: fourth"),
    ("and / or", "and/or"),
    ('he said " not now " twice', 'he said "not now" twice'),
    ("( the last one ) and [ sic ]", "(the last one) and [sic]"),
    ("less than $ 800 or £ 500 a month", "less than $800 or £500 a month"),
]

LAMBADA = [
    ("“Stop,” he said.", '\n"Stop," he said.'),
    ("  spaces around \n", "\nspaces around"),
    ("it’s her’s", "\nit’s her’s"),
    ("", "\n"),
]


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        (name, *case)
        for name, cases in {"wikitext": WIKITEXT, "ptb": PTB, "lm1b": LM1B, "lambada": LAMBADA}.items()
        for case in cases
    ],
)
def test_a_line_is_detokenized_as_by_the_published_rules(name, line, expected):
    assert find_detokenizer(name)(line) == expected


def test_the_detokenizer_none_returns_texts_as_they_are():
    assert find_detokenizer("none")(" a , b \n") == " a , b \n"


def test_each_has_been_tested():
    assert set(DETOKENIZERS) == {"none", "wikitext", "ptb", "lm1b", "lambada"}


def test_an_unknown_detokenizer_is_refused_with_the_known_ones():
    with pytest.raises(RequestError, match=r"'wiki'.*wikitext, ptb"):
        find_detokenizer("wiki")
