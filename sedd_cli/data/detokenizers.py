"""Detokenizers: they remove the spaces that old corpora have around punctuation, for zero-shot perplexity.

Each detokenizer is a list of rules applied in order to one document. None is exactly invertible:

- wikitext: the placeholder " N " becomes " 1 ", and a quote or apostrophe pairs with the next one whatever it
  meant, so spaces inside a pair that were the author's own are lost.
- ptb: `<unk>` becomes "?" and " N " becomes " 1 ", whatever stood there originally.
- lm1b: a quote pairs with the next one, and an abbreviation's point is taken for the end of a sentence.
- lambada: both curly quotes become the straight one, and outer white space gives way to one newline in front.

The rules are those behind the published perplexities; a change to a rule changes numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sedd_cli.errors import RequestError

Rule = tuple[str, str]
Detokenizer = Callable[[str], str]


def _literal(*pairs: Rule) -> list[tuple[re.Pattern, str]]:
    """Rules that replace one string by another."""
    return [(re.compile(re.escape(old)), new.replace("\\", r"\\")) for old, new in pairs]


def _pattern(*pairs: Rule) -> list[tuple[re.Pattern, str]]:
    """Rules that replace what a regular expression matches."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_WIKITEXT = [
    *_literal(("s '", "s'")),
    *_literal((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")),
    *_literal(*((f" {mark} ", f"{mark} ") for mark in ":;.!?,")),
    *_pattern(
        (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
        (r'"\s*([^"]*?)\s*"', r'"\1"'),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
    ),
    *_literal(("= = = =", "===="), ("= = =", "==="), ("= =", "==")),
    *_literal((" ° ", "°")),
    *_literal((" \n", "\n"), ("\n ", "\n")),
    *_literal((" N ", " 1 "), (" 's", "'s")),
]

_PTB = [
    *_literal((" 's", "'s"), ("s ' ", "s' "), (" n't", "n't"), ("\\/", "/")),
    # adjacent N share the space between them: a look-ahead leaves it for the next match
    *_pattern((r" N(?= )", " 1")),
    *_literal(("$ 1", "$1"), ("# 1", "#1"), ("<unk>", "?")),
]

_LM1B = [
    *_literal(("http : / / ", "http://"), ("https : / / ", "https://")),
    *_pattern((r" '(\w+)", r"'\1")),
    *_pattern((r" (\w+) \. ", r" \1. "), (r" (\w+) \.$", r" \1.")),
    *_pattern((r" \? ", "? "), (r" \?$", "?"), (r" ! ", "! "), (r" !$", "!")),
    *_literal((" , ", ", "), (" : ", ": "), (" ; ", "; "), (" / ", "/")),
    *_pattern(
        (r'" ([^"]+) "', r'"\1"'),
        (r"' ([^']+) '", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"),
        (r"\[ ([^\[\]]+) \]", r"[\1]"),
    ),
    *_literal(("$ ", "$"), ("£ ", "£")),
]

_LAMBADA = [
    *_literal(("“", '"'), ("”", '"')),
    *_pattern((r"\s+\Z", ""), (r"\A\s*", "\n")),
]


def _apply(rules: list[tuple[re.Pattern, str]]) -> Detokenizer:
    def detokenize(text: str) -> str:
        for pattern, replacement in rules:
            text = pattern.sub(replacement, text)
        return text

    return detokenize


DETOKENIZERS: dict[str, Detokenizer] = {
    "none": lambda text: text,
    "wikitext": _apply(_WIKITEXT),
    "ptb": _apply(_PTB),
    "lm1b": _apply(_LM1B),
    "lambada": _apply(_LAMBADA),
}


#: Editions of the rules, of detokenizers that changed: a dataset prepared by an older one is prepared anew.
EDITIONS = {"wikitext": 2}


def find_detokenizer(name: str) -> Detokenizer:
    """The detokenizer called `name`; RequestError lists the known ones."""
    if name not in DETOKENIZERS:
        raise RequestError(f"detokenizer {name!r} is not known; there are: {', '.join(DETOKENIZERS)}")
    return DETOKENIZERS[name]
